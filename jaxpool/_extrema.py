"""Max and min pooling."""

from functools import partial

import jax
from jax.typing import ArrayLike

from jaxpool import _prepare, _winners
from jaxpool._geometry import Axes, Padding, PerAxis, flag
from jaxpool._linear import of_alike
from jaxpool._prepare import Call


def max_pool(
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
    """Take the largest element of every window.

        out[i] = max over j < k of x[i*s + j*d - lo]

    along each pooled axis: window k, stride s, dilation d, low padding lo.

    Args:
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`. There may be
        any number of batch axes, none included.
      window_shape: elements per window, one entry per pooled axis; one int needs `axis`.
      strides: distance between windows, an int or one per axis. Default: the window itself, as in
        PyTorch and Keras (Flax defaults to 1).
      padding: "VALID" (none; the default, as in Flax), "SAME" (ceil(L/s) outputs, the odd element
        at the end), "SAME_LOWER" (at the start), an int, an int per axis or a (low, high) pair per
        axis: positions that never win. "CIRCULAR", "REFLECT", "EDGE" give SAME's shape, filled with
        elements of the map, which win as any other. Words may be in any case.
      window_dilation: distance between the elements of a window (lax's name), an int or
        one per axis.
      ceil_mode: round the output shape up instead of down (PyTorch's name and rule).
      axis: the axes to pool, an int or several; entries of the other arguments follow its order.
        Default: the `len(window_shape)` axes before the last one (channels last).
      where: boolean mask that broadcasts to x; elements where it is False do not exist.

    Returns:
      The pooled array, with the dtype of x and the shape that `jaxpool.output_shape` gives. A
      window with a NaN is NaN. A window without elements is -inf, or an integer dtype's lowest
      value. (0.0 and -0.0 are equal; in 16 bits either comes out as 0.0.)

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Differentiates in both modes and to every order. The whole gradient of a window goes to its
    first winner in row-major order (lax's and PyTorch's rule), in a NaN window to the first NaN,
    and never to padding or to elements that `where` rules out.

    >>> import jax.numpy as jnp
    >>> from jaxpool import max_pool
    >>> x = jnp.arange(16.0).reshape(4, 4, 1)
    >>> max_pool(x, (2, 2))[..., 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    >>> max_pool(x, (3, 3), strides=2, padding=1)[..., 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    call = _prepare.windowed(
        "max_pool", x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    return _extremum("max_pool", call, largest=True)


def min_pool(
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
    """Take the smallest element of every window: -max_pool(-x).

        out[i] = min over j < k of x[i*s + j*d - lo]

    Args:
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window.

    Returns:
      The pooled array, with the dtype of x. A window with a NaN is NaN. A window without elements
      is +inf, or an integer dtype's highest value.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Ties, NaN and padding under differentiation: as for `jaxpool.max_pool`.

    >>> import jax.numpy as jnp
    >>> from jaxpool import min_pool
    >>> min_pool(jnp.arange(9.0).reshape(3, 3, 1), (2, 2), strides=1)[..., 0]
    Array([[0., 1.],
           [3., 4.]], dtype=float32)
    """
    call = _prepare.windowed(
        "min_pool", x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    return _extremum("min_pool", call, largest=False)


def global_max_pool(
    x: ArrayLike,
    *,
    axis: Axes | None = None,
    keepdims: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Take the largest element over whole axes.

    Unlike `jnp.max`, it keeps every NaN on every backend, and its gradient goes to one winner.

    Args:
      x: array [batch, *space, channels], any real dtype, or any layout with `axis`.
      axis: the axes to pool. Default: all but the first and the last.
      keepdims: keep the pooled axes with size 1. Default: drop them, as `jnp.max` does.
      where: boolean mask that broadcasts to x; elements where it is False do not exist.

    Returns:
      The pooled array, with the dtype of x; -inf (an integer dtype's lowest value) where there are
      no elements.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Derivatives: as for `jaxpool.max_pool`.

    >>> import jax.numpy as jnp
    >>> from jaxpool import global_max_pool
    >>> global_max_pool(jnp.arange(12.0).reshape(1, 2, 3, 2))
    Array([[10., 11.]], dtype=float32)
    """
    call = _prepare.whole("global_max_pool", x, axis, where)
    return _extremum("global_max_pool", call, largest=True, keepdims=keepdims)


def global_min_pool(
    x: ArrayLike,
    *,
    axis: Axes | None = None,
    keepdims: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Take the smallest element over whole axes.

    Args:
      x: array [batch, *space, channels], any real dtype, or any layout with `axis`.
      axis, keepdims, where: as for `jaxpool.global_max_pool`.

    Returns:
      The pooled array, with the dtype of x; +inf (an integer dtype's highest value) where there are
      no elements.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Derivatives: as for `jaxpool.max_pool`.

    >>> import jax.numpy as jnp
    >>> from jaxpool import global_min_pool
    >>> global_min_pool(jnp.arange(12.0).reshape(1, 2, 3, 2))
    Array([[0., 1.]], dtype=float32)
    """
    call = _prepare.whole("global_min_pool", x, axis, where)
    return _extremum("global_min_pool", call, largest=False, keepdims=keepdims)


def _extremum(name: str, call: Call, largest: bool, keepdims: bool = True) -> jax.Array:
    _prepare.real_numbers(name, call)
    keepdims = flag(name, "keepdims", keepdims)
    with jax.named_scope(name):
        return _jitted(*call, largest=largest, keepdims=keepdims)


@partial(jax.jit, static_argnames=("windows", "largest", "keepdims"))
@of_alike
def _jitted(x, where, windows, *, largest, keepdims):
    return _prepare.squeeze(_winners.extremum(x, windows, largest, where), windows, keepdims)
