"""What the Linen and the NNX modules share. Imports no Flax.

A pooling module is a function of `jaxpool` plus its stored arguments. Two things are worth writing
once: arguments that compare and hash (`plain`), and the temperature that can be learned.

A learned temperature T is stored as its logarithm: an optimizer may move the parameter anywhere,
and T stays positive. The logarithm is read through a clip to [-20, 20], so T lies between 2e-9 (a
maximum, for any use) and 5e8 (a mean). Beyond these, one careless step could round T to 0 or to
infinity, and every output would be NaN.
"""

from dataclasses import fields
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Learn = Literal["layer", "channel"] | None

LOG_LIMIT = 20.0

# Fields of a module that are not passed on to its function as they are.
_OWN = {"parent", "name", "temperature", "learn", "features", "channel_axis", "rngs"}


def plain(value: Any, arrays: tuple[type, ...] = (np.ndarray, np.generic)) -> Any:
    """Return lists, tuples and arrays as nested tuples of Python numbers; anything else as it is.

    >>> plain([2, 2]), plain(np.array([[0, 1], [1, 0]])), plain("SAME")
    ((2, 2), ((0, 1), (1, 0)), 'SAME')
    """
    if isinstance(value, arrays) and not isinstance(value, jax.core.Tracer):
        value = np.asarray(value).tolist()
    return tuple(plain(v, arrays) for v in value) if isinstance(value, list | tuple) else value


def arguments(module: Any) -> dict[str, Any]:
    """Return the stored arguments of a module's function, the temperature apart."""
    names = (field.name for field in fields(module))
    return {name: getattr(module, name) for name in names if name not in _OWN}


def check_learn(module: Any) -> None:
    """Refuse an unknown `learn`, and a temperature from which learning cannot start."""
    name, temperature, learn = type(module).__name__, module.temperature, module.learn
    if learn is None:
        return
    if learn not in ("layer", "channel"):
        raise ValueError(
            f"{name}: learn={learn!r} is not known. Write learn='layer' for one temperature, "
            "learn='channel' for one per channel, or learn=None to keep it fixed."
        )
    shape = np.shape(temperature)
    if learn == "layer" and shape != ():
        raise ValueError(
            f"{name}: learn='layer' learns one number, but temperature has shape {shape}. "
            "Write temperature=1.0, or learn='channel'."
        )
    if learn == "channel" and len(shape) > 1:
        raise ValueError(
            f"{name}: learn='channel' starts from one number, or from one per channel, but "
            f"temperature has shape {shape}."
        )
    low, high = np.exp(-LOG_LIMIT), np.exp(LOG_LIMIT)
    if isinstance(temperature, jax.core.Tracer):
        return
    if not np.all((low <= np.asarray(temperature)) & (np.asarray(temperature) <= high)):
        raise ValueError(
            f"{name}: temperature={temperature!r} cannot be learned from: a learned temperature "
            f"starts, and stays, between {low:.0e} and {high:.0e}."
        )


def initial_log(module: Any, channels: int | None) -> jax.Array:
    """Return where the parameter starts: log T, of shape () for a layer or (channels,)."""
    log = jnp.log(jnp.asarray(module.temperature, jnp.float32))
    if channels is None:
        return log
    if log.ndim == 1 and log.shape != (channels,):
        raise ValueError(
            f"{type(module).__name__}: temperature has {log.shape[0]} values, but there are "
            f"{channels} channels."
        )
    return jnp.broadcast_to(log, (channels,))


def from_log(log_temperature: jax.Array) -> jax.Array:
    """Return T = exp(log T), kept between 2e-9 and 5e8.

    >>> from_log(jnp.array([0.0, -1e6, 1e6])) > 0
    Array([ True,  True,  True], dtype=bool)
    """
    return jnp.exp(jnp.clip(log_temperature, -LOG_LIMIT, LOG_LIMIT))


def channel_axis(module: Any, x: ArrayLike) -> int:
    """Return the axis of x that holds the channels: the last one not pooled, unless told."""
    ndim, told, pooled = np.ndim(x), module.channel_axis, module.axis
    if told is not None:
        if not -ndim <= told < ndim:
            raise ValueError(
                f"{type(module).__name__}: channel_axis={told} is not an axis of x, whose shape is "
                f"{np.shape(x)}. Leave it out to take the last axis that is not pooled."
            )
        return told % ndim
    pooled = pooled if isinstance(pooled, tuple) else (pooled,)
    pooled = {a % max(ndim, 1) for a in pooled if isinstance(a, int)}
    return max(set(range(ndim)) - pooled, default=0)


def along(temperature: Any, x: ArrayLike, axis: int) -> Any:
    """Return the temperature such that one value per channel lies along that axis of x."""
    if np.ndim(temperature) != 1:
        return temperature
    return jnp.reshape(jnp.asarray(temperature), (-1, *(1,) * (np.ndim(x) - 1 - axis)))
