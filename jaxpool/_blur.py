"""Blur pooling: low-pass filters before the stride, against aliasing.

A blur is a sum over windows whose taps have weights, the same for every window: slices of the map
again, borders apart. Its transpose reads the cotangents with the same weights.
"""

from collections.abc import Callable
from functools import partial, reduce
from math import comb, floor, log2
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxpool import _border, _geometry, _plan, _prepare, _regions, _window, _winners
from jaxpool._geometry import Axes, Padding, PerAxis
from jaxpool._linear import apart, by_platform, linear_pair, of_alike
from jaxpool._plan import Group
from jaxpool._prepare import wide
from jaxpool._slices import replace_axis, rounded, widen
from jaxpool._window import Bordered, Window, shape_of


def blur_pool(
    x: ArrayLike,
    strides: PerAxis = 2,
    *,
    filter_size: PerAxis = 3,
    padding: Padding = "REFLECT",
    axis: Axes | None = None,
) -> jax.Array:
    """Blur the map and keep every s-th element of it.

        out[i] = sum over j < f of h[j] * x[i*s + j - lo],    h[j] = binomial(f - 1, j) / 2**(f - 1)

    along each axis: [1], [1, 1]/2, [1, 2, 1]/4, [1, 3, 3, 1]/8 and so on. Frequencies that the
    stride would fold onto lower ones are weakened first: the filter passes |cos(w/2)|**(f - 1) of
    frequency w, all of 0 and nothing of the highest.

    Args:
      x: array [batch, *space, channels], any dtype, or any layout with `axis`.
      strides: keep every s-th element, an int or one per axis. Default 2; 1 only blurs.
      filter_size: f, from 1 (nothing is blurred) to 7, an int or one per axis. Default 3.
      padding: what lies outside the map, in any case of letters. Every word but "VALID" gives
        ceil(L/s) elements, the s-th ones of what stride 1 gives, as the paper and Flax's `Conv`
        have it (for "SAME" too, where a strided convolution would start elsewhere): lo is
        (f - 1)//2, and an even filter, which has no middle, reaches one further ahead.
        "REFLECT" (default, as in the paper): the map mirrored at its last element.
        "CIRCULAR": the map repeated. "EDGE": its last element repeated.
        "NORMALIZED": nothing; the weights that lie on the map are rescaled to sum to 1.
        "SAME": zeros, which darken the border; "SAME_LOWER": an even filter reaches back instead.
        "VALID": no padding. An int, one per axis, or a (low, high) pair per axis: so many zeros.
      axis: the axes to blur, an int or several; the other arguments follow its order. Default: all
        but the first and the last where strides is one int, else the `len(strides)` axes before
        the last one.

    Returns:
      The blurred array, with the dtype of x, float32 for integers and bools. 16-bit floats are
      added up in float32. A constant stays as it is, but for zeros outside. An element that is NaN
      is so in every window that sees it. `jaxpool.output_shape(x.shape, (3, 3), strides, padding)`,
      with the filter size for each axis, has its shape ("SAME" for "NORMALIZED").

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    A linear map: it differentiates in both modes and to every order.

    Zhang: Making Convolutional Networks Shift-Invariant Again, 2019.

    >>> import jax.numpy as jnp
    >>> from jaxpool import blur_pool
    >>> x = jnp.array([0.0, 0, 8, 0, 0, 4])[None, :, None]
    >>> blur_pool(x)[0, :, 0]
    Array([0., 4., 1.], dtype=float32)
    >>> blur_pool(x, 1)[0, :, 0]
    Array([0., 2., 4., 2., 1., 2.], dtype=float32)
    """
    x = _prepare.array("blur_pool", x)
    axes = _geometry.sampled_axes("blur_pool", x.shape, strides, axis)
    windows, word = _geometry.blurs("blur_pool", x.shape, strides, filter_size, padding, axes)
    _prepare.on_one_device("blur_pool", x, windows)
    with jax.named_scope("blur_pool"):
        return _jitted_blur(x, windows, word == "NORMALIZED")


def max_blur_pool(
    x: ArrayLike,
    window_shape: PerAxis,
    strides: PerAxis = 2,
    *,
    filter_size: PerAxis = 3,
    padding: Padding = "REFLECT",
    axis: Axes | None = None,
) -> jax.Array:
    """Take the largest element of every window, then blur and keep every s-th: a max without alias.

        blur_pool(max_pool(x, window_shape, strides=1, padding="SAME"), strides)

    Args:
      x: array [*batch, *space, channels], any real dtype, or any layout with `axis`.
      window_shape: the window of the max, one entry per axis. One int needs `axis`.
      strides, filter_size: as for `jaxpool.blur_pool`, an int or one per axis.
      padding: as for `jaxpool.blur_pool`, of the blur. The max, at stride 1, has as many windows as
        the map elements: at the border they are cut off (which for "EDGE" is the same as filling
        it), or with "CIRCULAR" wrap around, and with "SAME_LOWER" even ones reach back, as the
        filters do. Only "VALID" drops these, for the max and for the blur. (The authors' code
        leaves them out of the max alone: that is `blur_pool` after `max_pool` with strides=1.)
      axis: the axes to pool, an int or several; the other arguments follow its order. Default:
        the `len(window_shape)` axes before the last one (channels last).

    Returns:
      The pooled array, with the dtype of x, float32 for integers and bools. NaN in a window of the
      max is NaN in every blur that sees it.

    Raises:
      ValueError, TypeError: for arguments that do not fit together, before anything is traced.

    With "CIRCULAR" and strides that divide the map, it shifts with its input exactly. Derivatives:
    those of `jaxpool.max_pool`, then of a linear map.

    Zhang: Making Convolutional Networks Shift-Invariant Again, 2019.

    >>> import jax.numpy as jnp
    >>> from jaxpool import max_blur_pool
    >>> max_blur_pool(jnp.array([0.0, 0, 8, 0, 0, 0])[:, None], (2,))[:, 0]
    Array([4., 6., 0.], dtype=float32)
    """
    name = "max_blur_pool"
    inner = padding.upper() if isinstance(padding, str) else "SAME"
    inner = inner if inner in ("VALID", "SAME_LOWER", "CIRCULAR") else "SAME"
    call = _prepare.windowed(name, x, window_shape, 1, inner, 1, False, axis, None)
    _prepare.real_numbers(name, call)
    shape = shape_of(call.windows, call.x.shape)
    axes = _geometry.window_axes(name, shape, window_shape, axis)
    windows, word = _geometry.blurs(name, shape, strides, filter_size, padding, axes)
    _prepare.on_one_device(name, call.x, windows)
    with jax.named_scope(name):
        return _jitted_max_blur(call.x, call.windows, windows, word == "NORMALIZED")


@partial(jax.jit, static_argnames=("windows", "normalized"))
@of_alike
def _jitted_blur(x, windows, normalized):
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    return _blur({"x": x}, None, ("x",), windows=windows, normalized=normalized)["x"]


@partial(jax.jit, static_argnames=("within", "windows", "normalized"))
@of_alike
def _jitted_max_blur(x, within, windows, normalized):
    return _jitted_blur(_winners.extremum(x, within, largest=True), windows, normalized)


def binomial(size: int) -> np.ndarray:
    """The filter: a box of two taps, size - 1 times convolved with itself. Exact in any float."""
    return np.array([comb(size - 1, j) for j in range(size)]) / 2.0 ** (size - 1)


def _weights(group: Group) -> list[float]:
    """Of every tap of a group, in row-major order."""
    return reduce(np.multiply.outer, [binomial(w.size) for w in group]).ravel().tolist()


def _groups(windows: Group) -> list[Group]:
    """Few taps at once, more of them one axis after the other, last axis first."""
    if _plan.size_of(windows) <= _plan.JOINT:
        return [windows]
    return [(window,) for window in reversed(windows)]


def _blur_of(tangent: dict, _: Any, __: Any, windows: Group, normalized: bool) -> dict:
    x = tangent["x"]
    dtype = x.dtype
    *first, last = _groups(windows)
    for group in first:
        x = apart(_blur_group, x, group=group, normalized=normalized, dtype=wide(dtype))
    return {"x": apart(_blur_group, x, group=last, normalized=normalized, dtype=dtype)}


def _blur_group(x: jax.Array, group: Group, normalized: bool, dtype: Any) -> jax.Array:
    weights = _weights(group)

    def of_region(taps: list, full: Callable, _: Any) -> jax.Array:
        total = sum(weights[tap] for tap, _ in taps) if normalized else 1.0
        y = _weighted(taps, weights, full, x.dtype)
        return rounded(y if total == 1.0 else y / total, dtype)

    return _regions.over_outputs(of_region, x, group)


def _weighted(taps: list, weights: list[float], full: Callable, dtype: Any) -> jax.Array:
    """The sum of what taps read times their weights.

    A weight is applied as a sum of powers of two, whose products are exact. Other products would be
    rounded in one loop and in another fused with a sum, and no shift would be exact any more.
    """
    terms = [widen(slab) * power for tap, slab in taps for power in _powers(weights[tap])]
    return reduce(lax.add, terms) if terms else full(0, wide(dtype))


def _powers(weight: float) -> list[float]:
    """The powers of two of which it is the sum."""
    found = []
    while weight:
        found.append(2.0 ** floor(log2(weight)))
        weight -= found[-1]
    return found


def _blur_back(cotangent: dict, _: Any, __: Any, windows: Group, normalized: bool) -> dict:
    """The transpose: dx[p] = the sum of h[j] * g[i] over the windows i of which p is tap j."""
    g = cotangent["x"]
    dtype = g.dtype
    if normalized:
        g = g.astype(wide(dtype)) / _totals(windows, g.ndim).astype(wide(dtype))
    last, *others = _groups(windows)
    for group in reversed(others):
        g = _pass_back(g, group, wide(dtype))
    return {"x": _pass_back(g, last, dtype)}


def _pass_back(g: jax.Array, group: Group, dtype: Any) -> jax.Array:
    """The transpose of `_blur_group`, with what came of copies added up in a loop of its own if
    there are some at both ends of several axes: in one loop they keep LLVM from vectorising it."""
    here = partial(apart, _blur_group_back, group=group, dtype=dtype)
    ends = [w for w in group if isinstance(w, Bordered) and w.low > 0 < w.overhang]
    if len(ends) < 2 or _plan.is_dense(group) or not _plan.is_long(g, group):
        return here(g)

    def in_two(g: jax.Array) -> jax.Array:
        filled = tuple(window.filled() for window in group)
        around = apart(_blur_group_back, g, group=filled, dtype=wide(dtype))
        return rounded(_border.gathered(around, group, ends[0].border), dtype)

    return by_platform(g, cpu=in_two, other=here)


def _blur_group_back(g: jax.Array, group: Group, dtype: Any) -> jax.Array:
    weights = _weights(group)

    def of_region(taps: list, full: Callable, _: Any) -> jax.Array:
        return rounded(_weighted(taps, weights, full, g.dtype), dtype)

    return _regions.over_inputs(of_region, g, group, 0)


def _totals(windows: Group, ndim: int) -> np.ndarray:
    """How much of the filter lies on the map, for every window."""

    def along(window: Window) -> np.ndarray:
        weights = binomial(window.size)
        total = [
            weights[[tap for tap, _ in region.taps]].sum()
            for region in window.regions()
            for _ in range(region.start, region.stop)
        ]
        return np.array(total).reshape(replace_axis((1,) * ndim, window.axis, window.out))

    return reduce(np.multiply, map(along, windows))


_blur, _ = linear_pair(
    "blur",
    _blur_of,
    _blur_back,
    lambda x, _, windows, normalized: shape_of(windows, x.shape),
    lambda g, _, windows, normalized: _window.shape_back(windows, g.shape),
)
