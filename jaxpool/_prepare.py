"""From a call to what the reductions take: arrays checked, border filled, windows laid out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpool import _geometry
from jaxpool._border import surround
from jaxpool._geometry import fail, show
from jaxpool._linear import split, split_like
from jaxpool._window import Bins, Fraction, Window


class Call(NamedTuple):
    """A pooling call, checked: the array, its mask (shape broadcastable to x) and its windows."""

    x: jax.Array
    where: jax.Array | None
    windows: tuple[Window, ...]


class Binned(NamedTuple):
    """The same, of a pooling whose output size is given: bins, or windows where they are alike."""

    x: jax.Array
    where: jax.Array | None
    windows: tuple[Window | Bins, ...] | tuple[Fraction, ...]


def windowed(
    name: str,
    x: Any,
    window_shape: Any,
    strides: Any,
    padding: Any,
    window_dilation: Any,
    ceil_mode: bool,
    axis: Any,
    where: Any,
) -> Call:
    """A call whose windows slide; the border words put real elements around x (and its mask)."""
    x = array(name, x)
    windows, border = _geometry.windows(
        name, x.shape, window_shape, strides, padding, window_dilation, ceil_mode, axis
    )
    return surrounded(name, x, windows, border, where)


def surrounded(
    name: str, x: jax.Array, windows: tuple[Window, ...], border: str | None, where: Any
) -> Call:
    """A call of these windows, with that border around x (and its mask) if there is one."""
    on_one_device(name, x, windows)
    real = mask(name, x, where, windows)
    if border is None:
        return Call(x, real, windows)
    filled = tuple(window.filled() for window in windows)
    real = None if real is None else surround(real, windows, border)
    return Call(surround(x, windows, border), real, filled)


def whole(name: str, x: Any, axis: Any, where: Any) -> Call:
    """A call whose one window covers the pooled axes."""
    x = array(name, x)
    windows = _geometry.whole(name, x.shape, axis)
    on_one_device(name, x, windows)
    return Call(x, mask(name, x, where, windows), windows)


def adaptive(
    name: str, x: Any, output_shape: Any, axis: Any, where: Any, keep: bool = False
) -> Binned:
    """A call whose windows follow from the output size; `keep`: along axes that keep theirs too."""
    x = array(name, x)
    bins = _geometry.adaptive(name, x.shape, output_shape, axis, keep)
    on_one_device(name, x, bins)
    return Binned(x, mask(name, x, where, bins), bins)


def array(
    name: str, x: Any, argument: str = "x", remedy: str = "a JAX or NumPy array"
) -> jax.Array:
    """x as a JAX array; lists and NumPy arrays are welcome."""
    try:
        found = jnp.asarray(x)
        if is_key(found):
            raise TypeError
        return found
    except (TypeError, ValueError, OverflowError) as error:
        what = argument if argument == "x" else f"{argument}={show(x)}"
        if isinstance(error, OverflowError):
            raise ValueError(
                f"{name}: {what} holds a whole number that JAX's integers have no room for."
                " Write smaller ones, or floats."
            ) from error
        kind = f"type {type(x).__name__}"
        if isinstance(getattr(x, "dtype", None), np.dtype):
            kind += f" and dtype {x.dtype}"
        raise TypeError(
            f"{name}: {what} of {kind} is not an array of numbers. Write {remedy}."
        ) from error


def is_key(x: Any) -> bool:
    """Whether an array is of random keys, which are no numbers."""
    return jnp.issubdtype(x.dtype, jax.dtypes.extended)


def dtype(name: str, argument: str, value: Any) -> Any:
    """A dtype of numbers or truth values."""
    try:
        found = None if value is None else jnp.dtype(value)  # NumPy takes None for float64
    except Exception:
        found = None
    if found is None or not (jnp.issubdtype(found, jnp.number) or found == jnp.bool_):
        kind = "not a dtype" if found is None else "no dtype of numbers"
        fail(name, f"{argument}={show(value)} is {kind}", f'{argument}="float32"', TypeError)
    return found


def on_one_device(name: str, x: jax.Array, axes: Sequence[Window | Bins | Fraction]) -> None:
    """Where types say how arrays are split, none may reach from one device to another."""
    for axis in axes:
        apart = isinstance(axis, Window) and axis.disjoint and axis.out * axis.stride == axis.length
        if not apart or axis.out % split(x, axis.axis):
            not_split(name, x, axis.axis)


def not_split(name: str, x: jax.Array, *axes: int, argument: str = "x") -> None:
    """How results are split whose elements come from several devices is for the user to say."""
    for axis in axes:
        if split(x, axis) > 1:
            fail(
                name,
                f"axis {axis % x.ndim} of {argument}, of type {jax.typeof(x)}, is split over"
                f" {split(x, axis)} devices, and results need elements of several",
                f"jax.sharding.auto_axes(lambda x: {name}(...), out_sharding=...)(x), which says"
                " how the result is split, or split another axis",
            )


def key(name: str, value: Any) -> jax.Array:
    """One random key, new or old."""
    dtype, ndim = getattr(value, "dtype", None), getattr(value, "ndim", 0)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if new and ndim == 0:
        return value
    if dtype == jnp.uint32 and ndim == 1:
        try:
            return jax.random.wrap_key_data(value)
        except TypeError:  # of the wrong length
            pass
    what = f"keys of shape {value.shape} are" if new else f"key={show(value)} is"
    fail(
        name,
        f"{what} not one random key",
        "jax.random.key(0) as the first argument, and jax.vmap for a key per example",
        ValueError if new else TypeError,
    )


def real_numbers(name: str, call: Call | Binned) -> None:
    """Order needs real numbers."""
    if jnp.issubdtype(call.x.dtype, jnp.complexfloating):
        fail(name, f"x of dtype {call.x.dtype} has no order", "its real part, or abs(x)", TypeError)


def floats(name: str, call: Call | Binned) -> None:
    """Exponentials and powers need floating-point numbers."""
    real_numbers(name, call)
    if not jnp.issubdtype(call.x.dtype, jnp.floating):
        fail(
            name,
            f"x of dtype {call.x.dtype} holds no floating-point numbers, which exponentials and"
            " powers need",
            "x.astype(jnp.float32)",
            TypeError,
        )


def wide(dtype: Any) -> Any:
    """The dtype to accumulate in: float32 at least."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return dtype
    return dtype if dtype == jnp.float64 else jnp.dtype(jnp.float32)


def temperature(name: str, value: Any, call: Call | Binned) -> jax.Array:
    """The temperature: above 0, and such that it and its inverse are normal float32s."""
    least = float(np.float32(1e-37))  # which is a little less: a float32 of 1e-37 may be given, too
    return number(
        name,
        "temperature",
        value,
        call,
        lambda given: (given >= least) & (given <= 1e37),
        ("between 1e-37 and 1e37", "a number above 0, such as 1.0"),
    )


def share(name: str, value: Any, call: Call | Binned) -> jax.Array:
    """The share alpha of one of two parts."""
    return number(
        name,
        "alpha",
        value,
        call,
        lambda given: (given >= 0) & (given <= 1),
        ("between 0 and 1", "a number from 0 to 1, such as 0.5"),
    )


def power(name: str, value: Any, call: Call | Binned) -> jax.Array:
    """The power p of a power mean."""
    return number(
        name,
        "p",
        value,
        call,
        lambda given: given >= 1,
        ("at least 1", "a number from 1 to jnp.inf, such as 2.0"),
    )


def number(
    name: str,
    argument: str,
    value: Any,
    call: Call | Binned,
    legal: Callable[[np.ndarray], np.ndarray],
    words: tuple[str, str],
) -> jax.Array:
    """A number as an array that broadcasts against x, one value or one per channel.

    words: what is `legal`, and what to write.
    """
    x, (rule, remedy) = call.x, words
    given = array(name, value, argument, remedy)
    if not jnp.issubdtype(given.dtype, jnp.number) or jnp.issubdtype(
        given.dtype, jnp.complexfloating
    ):
        fail(name, f"{argument}={show(value)} is not a real number", remedy, TypeError)
    known: Any = given
    if not isinstance(given, jax.core.Tracer):
        known = np.asarray(given)  # what follows takes NumPy less time
        if not np.all(legal(known.astype(np.float64))):
            fail(name, f"{argument}={show(value)} is not {rule}", remedy)
    shape = (1,) * (x.ndim - given.ndim) + given.shape
    pooled = {window.axis + x.ndim for window in call.windows}
    fits = len(shape) == x.ndim and all(
        n == 1 or (n == m and a not in pooled)
        for a, (n, m) in enumerate(zip(shape, x.shape, strict=True))
    )
    if not fits:
        at = next((a for a in reversed(range(x.ndim)) if a not in pooled), x.ndim)
        channels = tuple(x.shape[a] if a == at else 1 for a in range(at, x.ndim))
        fail(
            name,
            f"{argument} of shape {given.shape} does not broadcast against x of shape {x.shape}"
            f" outside the pooled axes {tuple(sorted(pooled))}",
            "one number" + (f", or one per channel with shape {channels}" if channels else ""),
        )
    return known.astype(wide(x.dtype)).reshape(shape)


def squeeze(y: jax.Array, windows: tuple[Window, ...], keepdims: bool) -> jax.Array:
    """Drop the pooled axes of a global pooling, as jnp.mean does."""
    return y if keepdims else lax.squeeze(y, [window.axis + y.ndim for window in windows])


def mask(
    name: str, x: jax.Array, where: Any, windows: Sequence[Window | Bins | Fraction]
) -> jax.Array | None:
    """`where` with as many axes as x, whole along the pooled ones."""
    if where is None:
        return None
    given = array(name, where, "where")
    if given.dtype != jnp.bool_:
        fail(
            name,
            f"where of dtype {given.dtype} is not a boolean mask",
            "where=mask != 0, True for real elements",
            TypeError,
        )
    shape = (1,) * (x.ndim - given.ndim) + given.shape
    if len(shape) != x.ndim or any(n not in (1, m) for n, m in zip(shape, x.shape, strict=True)):
        fail(
            name,
            f"where of shape {given.shape} does not broadcast to x of shape {x.shape}",
            f"a mask of shape {x.shape}, with 1 for each axis along which it does not change",
        )
    whole = list(shape)
    for window in windows:
        whole[window.axis] = x.shape[window.axis]
    return split_like(jnp.broadcast_to(given.reshape(shape), whole), x)
