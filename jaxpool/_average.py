"""Sum and average pooling."""

from functools import partial
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxpool import _prepare, _sums
from jaxpool._geometry import Axes, Padding, PerAxis, fail, flag, show
from jaxpool._linear import of_alike
from jaxpool._prepare import Call
from jaxpool._window import Window


def sum_pool(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Add up the elements of every window.

        out[i] = sum over j < k of x[i*s + j*d - lo]

    Args:
      x: array [*batch, *space, channels], any dtype, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window.

    Returns:
      The pooled array, with the dtype of x: 16-bit floats are added up in float32, integers wrap,
      and the sum of bools is their "or". A window with a NaN is NaN, one without elements is 0.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    A linear map: it differentiates in both modes and to every order.

    >>> import jax.numpy as jnp
    >>> from jaxpool import sum_pool
    >>> sum_pool(jnp.arange(9.0).reshape(3, 3, 1), (2, 2), strides=1)[..., 0]
    Array([[ 8., 12.],
           [20., 24.]], dtype=float32)
    """
    call = _prepare.windowed(
        "sum_pool", x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    return _sum("sum_pool", call)


def avg_pool(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> jax.Array:
    """Average the elements of every window.

        out[i] = (1/n) * sum over j < k of x[i*s + j*d - lo]

    Args:
      x: array [*batch, *space, channels], any dtype, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window. Elements that `where` rules out never
        count.
      count_include_pad: whether n counts padding, "SAME" and explicit alike. Default True, as in
        PyTorch and Flax (Keras and TensorFlow: False). What `ceil_mode` adds is never counted, and
        the elements that "CIRCULAR", "REFLECT" and "EDGE" add always are.
      divisor_override: use this number for n (PyTorch's name).

    Returns:
      The pooled array, with the dtype of x, float32 for integers and bools. 16-bit floats are
      added up in float32. A window with a NaN is NaN, one with nothing to count is 0.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    A linear map: it differentiates in both modes and to every order.

    >>> import jax.numpy as jnp
    >>> from jaxpool import avg_pool
    >>> avg_pool(jnp.arange(9.0).reshape(3, 3, 1), (2, 2), strides=1)[..., 0]
    Array([[2., 3.],
           [5., 6.]], dtype=float32)
    >>> x = jnp.arange(1.0, 7).reshape(6, 1)
    >>> avg_pool(x, (3,), strides=2, padding=1, count_include_pad=False)[:, 0]
    Array([1.5, 3. , 5. ], dtype=float32)
    """
    call = _prepare.windowed(
        "avg_pool", x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    if divisor_override is not None:
        divisor_override = _divisor("avg_pool", divisor_override, call.x.dtype)
    return _mean("avg_pool", call, count_include_pad, divisor_override)


def global_sum_pool(
    x: ArrayLike,
    *,
    axis: Axes | None = None,
    keepdims: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Add up the elements of whole axes.

    Args:
      x: array [batch, *space, channels], any dtype, or any layout with `axis`.
      axis, keepdims, where: as for `jaxpool.global_max_pool`.

    Returns:
      The pooled array; dtype, NaN and derivatives as for `jaxpool.sum_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import global_sum_pool
    >>> global_sum_pool(jnp.arange(12.0).reshape(1, 2, 3, 2))
    Array([[30., 36.]], dtype=float32)
    """
    return _sum("global_sum_pool", _prepare.whole("global_sum_pool", x, axis, where), keepdims)


def global_avg_pool(
    x: ArrayLike,
    *,
    axis: Axes | None = None,
    keepdims: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Average the elements of whole axes.

    Args:
      x: array [batch, *space, channels], any dtype, or any layout with `axis`.
      axis, keepdims, where: as for `jaxpool.global_max_pool`; with a mask, the mean of what it
        keeps, 0 where it keeps nothing.

    Returns:
      The pooled array; dtype, NaN and derivatives as for `jaxpool.avg_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Lin, Chen, Yan: Network In Network, 2014.

    >>> import jax.numpy as jnp
    >>> from jaxpool import global_avg_pool
    >>> global_avg_pool(jnp.arange(12.0).reshape(1, 2, 3, 2))
    Array([[5., 6.]], dtype=float32)
    """
    call = _prepare.whole("global_avg_pool", x, axis, where)
    return _mean("global_avg_pool", call, keepdims=keepdims)


def _sum(name: str, call: Call, keepdims: bool = True) -> jax.Array:
    keepdims = flag(name, "keepdims", keepdims)
    with jax.named_scope(name):
        return _jitted_sum(*call, keepdims=keepdims)


def _mean(
    name: str,
    call: Call,
    count_include_pad: bool = False,
    divisor: float | None = None,
    keepdims: bool = True,
) -> jax.Array:
    padding = flag(name, "count_include_pad", count_include_pad)
    keepdims = flag(name, "keepdims", keepdims)
    with jax.named_scope(name):
        return _jitted_mean(*call, padding=padding, divisor=divisor, keepdims=keepdims)


@partial(jax.jit, static_argnames=("windows", "keepdims"))
@of_alike
def _jitted_sum(x, where, windows, *, keepdims):
    return _prepare.squeeze(_sums.total(x, windows, mask=where), windows, keepdims)


@partial(jax.jit, static_argnames=("windows", "padding", "divisor", "keepdims"))
@of_alike
def _jitted_mean(x, where, windows, *, padding, divisor, keepdims):
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    return _prepare.squeeze(mean(x, where, windows, padding, divisor), windows, keepdims)


def mean(
    x: jax.Array,
    where: jax.Array | None,
    windows: tuple[Window, ...],
    padding: bool,
    divisor: float | None = None,
) -> jax.Array:
    """The mean of every window; `padding` counts what may be counted."""
    wide = _prepare.wide(x.dtype)
    if divisor is None:
        n = _sums.count(where, windows, x.ndim, padding, jnp.finfo(wide).dtype)
        n = jnp.maximum(n, 1).astype(wide)
    else:
        n = jnp.full((1,) * x.ndim, divisor, wide)
    return _sums.total(x, windows, n, where)


def _divisor(name: str, value: Any, dtype: Any) -> float:
    try:
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = inf
    except Exception as error:
        raise TypeError(
            f"{name}: divisor_override={show(value)} is not a number known before tracing."
            " Write a number, or divide sum_pool's result."
        ) from error
    limits = jnp.finfo(_prepare.wide(dtype))
    if not float(limits.tiny) <= abs(number) <= float(limits.max):
        rule = f"cannot divide numbers of dtype {limits.dtype}"
        fail(name, f"divisor_override={show(value)} {rule}", "a number other than 0, such as 4")
    return number
