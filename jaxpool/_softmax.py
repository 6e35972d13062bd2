"""Log-sum-exp and softmax pooling: between average and max, by temperature."""

from functools import partial
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxpool import _prepare, _soft
from jaxpool._geometry import Axes, Padding, PerAxis, flag
from jaxpool._linear import of_alike
from jaxpool._prepare import Binned, Call
from jaxpool._winners import lowest


def lse_pool(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    normalize: bool = True,
) -> jax.Array:
    """Take the log-sum-exp of every window, a smooth maximum.

        out = T*log(mean exp(x/T)),    with normalize=False: T*log(sum exp(x/T))

    Normalised, it runs from the average (T -> inf) to the maximum (T -> 0) and never leaves their
    interval.

    Args:
      x: array [*batch, *space, channels] of floats, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window. Padding has no weight and is not counted.
      temperature: T > 0, in the units of x: one number, traced or not, or one per channel (shape
        [channels]; for other layouts any shape that broadcasts against x outside the pooled axes),
        from 1e-37 to 1e37. Default 1. A traced one cannot be checked: it must be in this range.
      normalize: mean (the default) or sum inside the logarithm.

    Returns:
      The pooled array, with the dtype of x (16-bit floats are computed in float32). A window with a
      NaN is NaN, one without elements is -inf. Elements of -inf have no weight. Neither has the
      least number of the dtype computed in (float32, or float64 for float64), with which some code
      masks. A window of these alone is -inf. Where windows overlap, values round as the largest |x|
      of the whole array does; elements below 1e-37 T count as 0.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, integer x among them, before
        anything is traced.

    Differentiates in both modes and to every order, in x and in the temperature (which, where
    windows overlap, rounds as the largest |x|/T of the whole array does); the gradient in x is
    the softmax of x/T, exact for any size of x/T, and 0 for windows without elements.

    Pinheiro, Collobert: From Image-level to Pixel-level Labeling with Convolutional Networks, 2015.

    >>> import jax.numpy as jnp
    >>> from jaxpool import lse_pool
    >>> x = jnp.array([0.0, 0.0, jnp.log(3.0), jnp.log(5.0)])[:, None]
    >>> jnp.exp(lse_pool(x, (2,)))[:, 0].round(4)
    Array([1., 4.], dtype=float32)
    """
    call = _prepare.windowed(
        "lse_pool", x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    return pool("lse_pool", call, temperature, kind=kind_of("lse_pool", normalize))


def softmax_pool(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
) -> jax.Array:
    """Average every window with the softmax of its own elements as weights ("SoftPool").

        out = sum of w*x,    w = exp(x/T) / sum exp(x/T)

    It runs from the average (T -> inf) to the maximum (T -> 0).

    Args:
      x: array [*batch, *space, channels] of floats, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window. Padding has no weight.
      temperature: as for `jaxpool.lse_pool`. Default 1.

    Returns:
      The pooled array, with the dtype of x (16-bit floats are computed in float32). A window with a
      NaN is NaN, one without elements is 0. What has no weight in `jaxpool.lse_pool` has none here,
      and a window of such elements alone is -inf.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, integer x among them, before
        anything is traced.

    Differentiates as `jaxpool.lse_pool` does; the gradient of a window without elements is 0.

    Stergiou, Poppe, Kalliatakis: Refining activation downsampling with SoftPool, 2021.

    >>> import jax.numpy as jnp
    >>> from jaxpool import softmax_pool
    >>> x = jnp.array([4.0, 4.0, 0.0, jnp.log(3.0)])[:, None]
    >>> softmax_pool(x, (2,))[:, 0].round(4)  # 4, and 3/4 of log(3)
    Array([4.   , 0.824], dtype=float32)
    """
    call = _prepare.windowed(
        "softmax_pool", x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    return pool("softmax_pool", call, temperature, kind="softmax")


def global_lse_pool(
    x: ArrayLike,
    *,
    axis: Axes | None = None,
    keepdims: bool = False,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    normalize: bool = True,
) -> jax.Array:
    """Take the log-sum-exp over whole axes.

    Args:
      x: array [batch, *space, channels] of floats, or any layout with `axis`.
      axis, keepdims, where: as for `jaxpool.global_max_pool`.
      temperature, normalize: as for `jaxpool.lse_pool`.

    Returns:
      The pooled array; dtype, NaN, empty windows and derivatives as for `jaxpool.lse_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import global_lse_pool
    >>> global_lse_pool(jnp.zeros((1, 2, 4, 3)), normalize=False).round(4)  # log(8)
    Array([[2.0794, 2.0794, 2.0794]], dtype=float32)
    """
    call = _prepare.whole("global_lse_pool", x, axis, where)
    return pool(
        "global_lse_pool",
        call,
        temperature,
        kind=kind_of("global_lse_pool", normalize),
        keepdims=keepdims,
    )


def global_softmax_pool(
    x: ArrayLike,
    *,
    axis: Axes | None = None,
    keepdims: bool = False,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
) -> jax.Array:
    """Average whole axes with the softmax of their own elements as weights.

    Args:
      x: array [batch, *space, channels] of floats, or any layout with `axis`.
      axis, keepdims, where: as for `jaxpool.global_max_pool`.
      temperature: as for `jaxpool.lse_pool`.

    Returns:
      The pooled array; dtype, NaN, empty windows and derivatives as for `jaxpool.softmax_pool`.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    >>> import jax.numpy as jnp
    >>> from jaxpool import global_softmax_pool
    >>> global_softmax_pool(jnp.ones((1, 2, 4, 3)))
    Array([[1., 1., 1.]], dtype=float32)
    """
    call = _prepare.whole("global_softmax_pool", x, axis, where)
    return pool("global_softmax_pool", call, temperature, kind="softmax", keepdims=keepdims)


def kind_of(name: str, normalize: bool) -> str:
    return "mean" if flag(name, "normalize", normalize) else "sum"


def pool(
    name: str, call: Call | Binned, temperature: Any, kind: str, keepdims: bool = True
) -> jax.Array:
    _prepare.floats(name, call)
    temperature = _prepare.temperature(name, temperature, call)
    keepdims = flag(name, "keepdims", keepdims)
    with jax.named_scope(name):
        return _jitted(*call, temperature, kind=kind, keepdims=keepdims)


@partial(jax.jit, static_argnames=("axes", "kind", "keepdims"))
@of_alike
def _jitted(x, where, axes, temperature, *, kind, keepdims):
    wide = x.astype(_prepare.wide(x.dtype))
    y = _soft.pool(wide, temperature, where, axes, kind)
    least = lowest(x.dtype, largest=True)
    if least > -inf:  # a dtype without infinity
        y = jnp.where(y < least, least, y)
    return _prepare.squeeze(y.astype(x.dtype), axes, keepdims)
