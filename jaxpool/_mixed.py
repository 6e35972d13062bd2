"""Mixed pooling: a blend of the maximum and the average, at fixed, learned or gated odds."""

from collections.abc import Callable
from functools import partial, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxpool import _average, _prepare, _regions, _sums, _winners
from jaxpool._geometry import Axes, Padding, PerAxis, fail, flag
from jaxpool._linear import is_split, of_alike
from jaxpool._pairs import reach
from jaxpool._plan import size_of
from jaxpool._prepare import Call
from jaxpool._slices import real
from jaxpool._window import Window

# A gate of more taps is a convolution: no program grows with the window.
MOST = 64


def mixed_pool(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis | None = None,
    padding: Padding = "VALID",
    *,
    window_dilation: PerAxis = 1,
    ceil_mode: bool = False,
    axis: Axes | None = None,
    where: ArrayLike | None = None,
    count_include_pad: bool = False,
    alpha: ArrayLike = 0.5,
) -> jax.Array:
    """Blend the maximum and the average of every window.

        out = alpha*max + (1 - alpha)*avg

    Args:
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`.
      window_shape, strides, padding, window_dilation, ceil_mode, axis, where: as for
        `jaxpool.max_pool`; strides default to the window.
      count_include_pad: whether the average counts padding, as for `jaxpool.avg_pool`. Default
        False, unlike there: padding never wins the maximum, and so avg <= out <= max holds at the
        border too (up to rounding, and while the sum of a window does not overflow).
      alpha: the share of the maximum, from 0 to 1: one number, traced or not, or one per channel
        (shape [channels]; for other layouts any shape that broadcasts against x outside the pooled
        axes). Default 0.5.

    Returns:
      The pooled array, with the dtype of x, float32 for integers and bools (16-bit floats are
      computed in float32). A window with a NaN is NaN, one without elements is 0. For floats, and
      windows with elements, alpha=1 is `jaxpool.max_pool` and alpha=0 is `jaxpool.avg_pool` with
      the same `count_include_pad`, exactly.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    Differentiates in both modes and to every order, in x and in alpha. The maximum's share of the
    gradient goes to the first winner; that of a window without elements is 0.

    Lee, Gallagher, Tu: Generalizing Pooling Functions in Convolutional Neural Networks: Mixed,
    Gated, and Tree, 2016. Yu, Wang, Chen, Wei: Mixed Pooling for Convolutional Neural Networks,
    2014, who draw alpha from 0 and 1; so do the modules.

    >>> import jax.numpy as jnp
    >>> from jaxpool import mixed_pool
    >>> mixed_pool(jnp.array([0.0, 4.0, 6.0, 6.0]), 2, axis=0)
    Array([3., 6.], dtype=float32)
    >>> mixed_pool(jnp.array([0.0, 4.0, 6.0, 6.0]), 2, axis=0, alpha=0.25)
    Array([2.5, 6. ], dtype=float32)
    """
    name = "mixed_pool"
    call = _prepare.windowed(
        name, x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    _prepare.real_numbers(name, call)
    alpha = _prepare.share(name, alpha, call)
    counted = flag(name, "count_include_pad", count_include_pad)
    with jax.named_scope(name):
        return _jitted(*call, alpha, counted)


def gated_pool(
    x: ArrayLike,
    kernel: jax.Array,
    window_shape: PerAxis,
    strides: PerAxis | None,
    padding: Padding,
    *,
    window_dilation: PerAxis,
    ceil_mode: bool,
    axis: Axes | None,
    where: ArrayLike | None,
    count_include_pad: bool,
    channel_axis: int,
) -> jax.Array:
    """`mixed_pool` at odds that each window sets: alpha = sigmoid(sum of kernel*x over the window).

    kernel: of the shape of the window, and where it has one for each channel, (*window, channels).
    """
    name = "GatedPool"  # there is no function of that name
    call = _prepare.windowed(
        name, x, window_shape, strides, padding, window_dilation, ceil_mode, axis, where
    )
    _prepare.real_numbers(name, call)
    if kernel.ndim > len(call.windows) and kernel.shape[-1] != call.x.shape[channel_axis]:
        n = call.x.shape[channel_axis]
        fail(
            name,
            f"the gate has weights for {kernel.shape[-1]} channels, and axis {channel_axis} of x of"
            f" shape {call.x.shape} has {n}",
            f'features={n}, or learn="layer"',
        )
    counted = flag(name, "count_include_pad", count_include_pad)
    with jax.named_scope(name):
        kernel = _beside(kernel, call, axis, channel_axis)
        return _jitted(*call, kernel, counted, gated=True)


def _beside(kernel: jax.Array, call: Call, axis: Any, channel_axis: int) -> jax.Array:
    """[taps, ...]: the weights of each tap, beside x."""
    x, n = call.x, len(call.windows)
    if axis is not None:  # from the order in which axes are named to that of the array
        order = np.argsort([a % x.ndim for a in np.atleast_1d(np.asarray(axis))])
        kernel = kernel.transpose([*order.tolist(), *range(n, kernel.ndim)])
    shape = [1] * x.ndim
    if kernel.ndim > n:
        shape[channel_axis] = kernel.shape[-1]
    return kernel.astype(_prepare.wide(x.dtype)).reshape(prod(kernel.shape[:n]), *shape)


@partial(jax.jit, static_argnames=("windows", "counted", "gated"))
@of_alike
def _jitted(x, where, windows, alpha, counted, gated=False):
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.dtype(jnp.float32)
    x = x.astype(_prepare.wide(dtype))
    if gated:
        alpha = jax.nn.sigmoid(_gate(_finite(real(x, where)), alpha, windows))
    some = _sums.count(where, windows, x.ndim, padding=False) > 0
    top = jnp.where(some, _winners.extremum(x, windows, largest=True, mask=where), 0)
    mean = _average.mean(x, where, windows, counted)
    return (_part(alpha, top) + _part(1 - alpha, mean)).astype(dtype)


def _part(share: jax.Array, y: jax.Array) -> jax.Array:
    """share*y; infinity, too, has no part where its share is 0."""
    return share * jnp.where((share == 0) & ~jnp.isfinite(y), 0, y)


def _finite(x: jax.Array) -> jax.Array:
    """The largest numbers in place of infinities, of which a weight of 0 would make NaN."""
    numbers = jnp.finfo(x.dtype)
    return jnp.clip(x, numbers.min, numbers.max)


def _gate(x: jax.Array, kernel: jax.Array, windows: tuple[Window, ...]) -> jax.Array:
    """The sum of every window, each element times the weight of its tap."""
    if size_of(windows) > MOST and kernel.size and not is_split(x, range(x.ndim)):
        return _convolved(x, kernel, windows)

    def of_region(taps: list, full: Callable, _: Any) -> jax.Array:
        each = [slab["x"] * kernel[tap] for tap, slab in taps]
        return reduce(jnp.add, each) if each else full(0, x.dtype)

    return _regions.over_outputs(of_region, *reach({"x": x}, windows))


def _convolved(x: jax.Array, kernel: jax.Array, windows: tuple[Window, ...]) -> jax.Array:
    """`_gate` of many taps, as one operation."""
    pooled = [w.axis for w in windows]
    others = [axis for axis in range(-x.ndim, 0) if axis not in pooled]
    channels = [axis for axis in others if kernel.shape[axis] > 1]  # one, or none
    order = [*(axis for axis in others if axis not in channels), *channels]
    last = range(-x.ndim, 0)
    laid = jnp.moveaxis(x, [*order, *pooled], last)
    c, shape = prod(kernel.shape[1:]), laid.shape[: len(order)]
    y = lax.conv_general_dilated(
        laid.reshape(prod(shape) // c, c, *(w.length for w in windows)),
        kernel.reshape(-1, c).T.reshape(c, 1, *(w.size for w in windows)),
        [w.stride for w in windows],
        [(w.low, w.overhang) for w in windows],
        rhs_dilation=[w.dilation for w in windows],
        feature_group_count=c,
        precision=lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(y.reshape(*shape, *(w.out for w in windows)), last, [*order, *pooled])
