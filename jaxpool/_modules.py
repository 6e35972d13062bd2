"""What the Linen and the NNX modules share. Imports no Flax.

A pooling module is a function of `jaxpool` plus its stored arguments. Two things are worth writing
once: arguments that compare and hash (`plain`), and the numbers that can be learned (`Scalar`).

A learned number is stored as a parameter that an optimizer may move anywhere, and read through a
function onto its legal range. The parameter is clipped first: beyond, one careless step could round
a temperature to 0 or to infinity, and every output would be NaN.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxpool import _prepare
from jaxpool._geometry import integer
from jaxpool._prepare import is_key

Learn = Literal["layer", "channel"] | None

LIMIT = 20.0


class Scalar(NamedTuple):
    """A number that modules can learn: the argument of that name is fixed, or where it starts."""

    name: str
    parameter: str
    read: Callable[[jax.Array], jax.Array]  # the number, from the parameter
    write: Callable[[jax.Array], jax.Array]  # the parameter, from the number
    low: float  # where learning may start, ends excluded
    high: float
    limits: tuple[float, float] = (-LIMIT, LIMIT)  # the parameter's


# From 2e-9 (in practice a maximum) to 5e8 (a mean).
TEMPERATURE = Scalar(
    "temperature", "log_temperature", jnp.exp, jnp.log, float(np.exp(-LIMIT)), float(np.exp(LIMIT))
)
# p = 1 + softplus(raw_p), where softplus is log(1 + exp), nearly linear above 1.
POWER = Scalar(
    "p",
    "raw_p",
    lambda raw: 1 + jax.nn.softplus(raw),
    lambda p: p - 1 + jnp.log(-jnp.expm1(1 - p)),
    low=1.0,
    high=1000.0,
    limits=(-LIMIT, 999.0),
)
# alpha = sigmoid(logit_alpha)
ALPHA = Scalar(
    "alpha",
    "logit_alpha",
    jax.nn.sigmoid,
    lambda alpha: jnp.log(alpha) - jnp.log1p(-alpha),
    low=float(np.exp(-LIMIT)),
    high=1.0,
)
SCALARS = (TEMPERATURE, POWER, ALPHA)

# Fields of a module that are not passed on to its function as they are.
_OWN = {"parent", "name", "learn", "features", "channel_axis", "param_dtype", "rngs"}
_OWN |= {"deterministic", "rng_collection", "kernel_init"}
_OWN |= {scalar.name for scalar in SCALARS}


def plain(value: Any, arrays: tuple[type, ...] = (np.ndarray, np.generic)) -> Any:
    """Return lists, tuples, ranges and arrays as nested tuples of numbers, anything else as it is.

    >>> plain([2, 2]), plain(np.array([[0, 1], [1, 0]])), plain("SAME")
    ((2, 2), ((0, 1), (1, 0)), 'SAME')
    """
    if isinstance(value, arrays) and not (isinstance(value, jax.core.Tracer) or is_key(value)):
        value = np.asarray(value).tolist()
    if isinstance(value, list | tuple | range):
        return tuple(plain(v, arrays) for v in value)
    return value


def arguments(module: Any) -> dict[str, Any]:
    """Return the stored arguments of a module's function, what it may learn apart."""
    names = (field.name for field in fields(module))
    return {name: getattr(module, name) for name in names if name not in _OWN}


def check_learn(module: Any, scalar: Scalar) -> None:
    """Refuse an unknown `learn`, and a number from which learning cannot start."""
    name, of, learn = type(module).__name__, scalar.name, module.learn
    start = getattr(module, of)
    if learn is None:
        return
    if learn not in ("layer", "channel"):
        raise ValueError(
            f"{name}: learn={learn!r} is not known. Write learn='layer' for one {of}, "
            "learn='channel' for one per channel, or learn=None to keep it fixed."
        )
    _check_dtype(module)
    numbers = _prepare.array(name, start, of)
    if not jnp.issubdtype(numbers.dtype, jnp.number) or jnp.iscomplexobj(numbers):
        raise TypeError(f"{name}: {of}={start!r} is not a real number. Write a number.")
    shape = numbers.shape
    if learn == "layer" and shape != ():
        raise ValueError(
            f"{name}: learn='layer' learns one number, but {of} has shape {shape}. "
            f"Write one number for {of}, or learn='channel'."
        )
    if learn == "channel" and len(shape) > 1:
        raise ValueError(
            f"{name}: learn='channel' starts from one number, or from one per channel, but "
            f"{of} has shape {shape}. Write one number, or one per channel."
        )
    if isinstance(start, jax.core.Tracer):
        return
    rounded = np.asarray(start, np.float32)  # as `initial` does
    if not np.all((scalar.low < rounded) & (rounded < scalar.high)):
        raise ValueError(
            f"{name}: {of}={start!r} cannot be learned from: a learned {of} starts strictly "
            f"between {scalar.low:.1g} and {scalar.high:.1g}. Write a number in between."
        )


def _check_dtype(module: Any) -> None:
    """Refuse parameters that cannot be trained."""
    name, dtype = type(module).__name__, module.param_dtype
    if not jnp.issubdtype(_prepare.dtype(name, "param_dtype", dtype), jnp.floating):
        raise TypeError(
            f"{name}: param_dtype={jnp.dtype(dtype).name} holds no"
            " fractions, which what is learned needs. Write param_dtype=jnp.float32."
        )


def initial(module: Any, scalar: Scalar, channels: int | None) -> jax.Array:
    """Return where the parameter starts, of shape () for a layer or (channels,)."""
    start = jnp.asarray(getattr(module, scalar.name), jnp.float32)
    if channels is not None:
        if start.ndim == 1 and start.shape != (channels,):
            raise ValueError(
                f"{type(module).__name__}: {scalar.name} has {start.shape[0]} values, but there "
                f"are {channels} channels. Write one number, or {channels}."
            )
        start = jnp.broadcast_to(start, (channels,))
    return scalar.write(start).astype(module.param_dtype)


def learned(scalar: Scalar, parameter: jax.Array) -> jax.Array:
    """Return the number, in its range (in float32 up to its ends) wherever the parameter is.

    >>> learned(TEMPERATURE, jnp.array([0.0, -1e6, 1e6])) > 0
    Array([ True,  True,  True], dtype=bool)
    """
    wide = parameter.astype(_prepare.wide(parameter.dtype))
    return scalar.read(jnp.clip(wide, *scalar.limits))


def check_alpha(module: Any) -> None:
    """Refuse a word for alpha that is not known, and one that is to be learned."""
    name, alpha = type(module).__name__, module.alpha
    if isinstance(alpha, str) and alpha != "random":
        raise ValueError(
            f"{name}: alpha={alpha!r} is not known. Write a number from 0 to 1, or alpha='random'."
        )
    if isinstance(alpha, str) and module.learn is not None:
        raise ValueError(
            f"{name}: alpha='random' is drawn, so learn={module.learn!r} has nothing to learn. "
            "Write alpha=0.5, where learning starts, or learn=None."
        )


def random_alpha(key: jax.Array | None) -> ArrayLike:
    """Return 0 or 1, at even odds; their mean where there is no key."""
    return 0.5 if key is None else jax.random.bernoulli(key).astype(jnp.float32)


def check_gate(module: Any) -> None:
    """Refuse an unknown `learn` of a gate."""
    if module.learn not in ("layer", "channel"):
        raise ValueError(
            f"{type(module).__name__}: learn={module.learn!r} is not known. "
            "Write learn='layer' for one gate, or learn='channel' for one per channel."
        )
    if not callable(module.kernel_init):
        raise TypeError(
            f"{type(module).__name__}: kernel_init of type {type(module.kernel_init).__name__} is"
            " no function. Write kernel_init=jax.nn.initializers.zeros."
        )
    _check_dtype(module)


def size(module: Any, argument: str) -> int:
    """Return a number of channels that the module was given."""
    value = getattr(module, argument)
    return integer(type(module).__name__, argument, value, value, least=1)


def kernel_shape(module: Any, channels: int | None) -> tuple[int, ...]:
    """Return the shape of a gate's weights: that of the window, and a last axis of channels."""
    window = module.window_shape
    each = window if isinstance(window, tuple) else (window,) * np.size(module.axis)
    name = type(module).__name__
    sides = tuple(integer(name, "window_shape", window, side, least=1) for side in each)
    return sides if channels is None else (*sides, channels)


def channel_axis(module: Any, x: ArrayLike) -> int:
    """Return the axis of x that holds the channels: the last one not pooled, unless told."""
    name, told = type(module).__name__, module.channel_axis
    shape = _prepare.array(name, x).shape
    ndim, pooled = len(shape), pooled_axes(module, len(shape))
    if not ndim:
        raise ValueError(f"{name}: x of shape () has no channels. Write an x that has axes.")
    if told is not None:
        told = integer(name, "channel_axis", told, told)
        if not -ndim <= told < ndim:
            raise ValueError(
                f"{name}: channel_axis={told} is not an axis of x, whose shape is "
                f"{shape}. Leave it out to take the last axis that is not pooled."
            )
        if pooled.get(told % ndim) is not None and module.learn == "channel":
            raise ValueError(
                f"{name}: channel_axis={told} is one of the pooled axes {tuple(sorted(pooled))}. "
                "Write channel_axis=... for another axis, or learn='layer'."
            )
        return told % ndim
    if len(pooled) == ndim and module.learn == "channel":
        raise ValueError(
            f"{name}: axis={module.axis} are all axes of x of shape {shape}, and none holds "
            "channels. Write learn='layer' to learn one number."
        )
    return max(set(range(ndim)) - pooled.keys(), default=0)


def pooled_axes(module: Any, ndim: int) -> dict[int, Any]:
    """Return the axes that a module pools, as far as its arguments make sense, and the size that
    each is given: None for one that keeps its own."""
    sizes = getattr(module, "window_shape", getattr(module, "output_shape", 1))
    axes = module.axis if isinstance(module.axis, tuple) else (module.axis,)
    if module.axis is None:
        n = len(sizes) if isinstance(sizes, tuple) else ndim - 2  # of a global pooling
        axes = range(max(ndim - 1 - n, 0), ndim - 1)
    sizes = sizes if isinstance(sizes, tuple) else (sizes,) * len(axes)
    each = zip(axes, sizes, strict=False)
    return {a % ndim: n for a, n in each if isinstance(a, int) and ndim}


def along(module: Any, scalar: Scalar, number: Any, x: ArrayLike, axis: int) -> Any:
    """Return the number such that one value per channel lies along that axis of x."""
    if np.isscalar(number):
        return number
    number = _prepare.array(type(module).__name__, number, scalar.name)
    if number.ndim != 1:
        return number
    return number.reshape(-1, *(1,) * (np.ndim(x) - 1 - axis))
