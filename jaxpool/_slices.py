"""Arrays as windows see them: slices, rows, borders. Axes count from the end throughout."""

from collections.abc import Callable, Sequence
from functools import partial, wraps
from itertools import cycle
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpool._linear import by_platform, linear_pair, may_be_split, on_cpu
from jaxpool._window import Window, merged, shape_of

VECTOR = 8  # channels: as many numbers as XLA's CPU backend computes with at once


def cut(x: jax.Array, axis: int, start: int, n: int, stride: int = 1) -> jax.Array:
    """x[start], x[start + stride], ...: n of them."""
    stop, stride = span(start, n, stride)
    return lax.slice_in_dim(x, start, stop, stride, axis % x.ndim)


def span(start: int, n: int, stride: int) -> tuple[int, int]:
    """Where a slice of n elements stops, and its stride. One element has none: XLA reads the wrong
    one if the axis is split over devices and less than a stride is left of it."""
    return start + (n - 1) * stride + 1, stride if n > 1 else 1


def join(pieces: Sequence[jax.Array], axis: int) -> jax.Array:
    """One after the other along an axis."""
    return pieces[0] if len(pieces) == 1 else lax.concatenate(pieces, axis % pieces[0].ndim)


def pad(x: jax.Array, axis: int, low: int, high: int, fill: Any = 0) -> jax.Array:
    """`fill` before and after; negative numbers cut off."""
    if not low and not high:
        return x
    widths = replace_axis([(0, 0, 0)] * x.ndim, axis, (low, high, 0))
    return lax.pad(x, jnp.full((), fill, x.dtype), widths)


def pad_all(x: jax.Array, edges: Sequence[tuple[int, int, int]], fill: Any) -> jax.Array:
    """`fill` around x: (axis, low, high)."""
    for edge in edges:
        x = pad(x, *edge, fill)
    return x


def spread(x: jax.Array, windows: Sequence[Window], fill: Any) -> jax.Array:
    """`fill` for the windows that do not exist, before and after each part of those that do."""
    for w in windows:
        parts, at = [], 0
        for n, low, high in w.beyond():
            part = cut(x, w.axis, at, n) if n < w.out else x
            parts.append(pad(part, w.axis, low, high, fill))
            at += n
        x = join(parts, w.axis)
    return x


def replace_axis(shape: Sequence[Any], axis: int, n: Any) -> tuple[Any, ...]:
    """`shape` with another entry at one axis."""
    new = list(shape)
    new[axis] = n
    return tuple(new)


def as_line(a: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """The last axes, of these sizes or 1, as one; one value for all stays so."""
    before = a.shape[: a.ndim - len(sizes)]
    if all(n == 1 for n in a.shape[len(before) :]):
        return a.reshape(*before, 1)
    return jnp.broadcast_to(a, (*before, *sizes)).reshape(*before, prod(sizes))


def as_merged(run: Callable, x: jax.Array, axes: Sequence[Any], *others: Any) -> jax.Array:
    """`run(x, axes, *others)`, axes that are pooled whole as one, and on CPU those behind all that
    are pooled. The others are None, or arrays of as many axes as x, of its size along all or of 1.

    Loops over few channels are slow there, but for those over one vector. (For a last axis of 1,
    XLA copies the result.)
    """
    first = x.ndim + max((axis.axis for axis in axes), default=-1) + 1
    behind = x.shape[first:]
    alike = all(a.shape[first:] in (behind, (1,) * len(behind)) for a in jax.tree.leaves(others))
    some = len(behind) > 1 and behind[-1] not in (1, VECTOR)
    long = some and alike and on_cpu() and not may_be_split(x, range(-len(behind), 0))
    fewer, groups = merged(axes, x.ndim, range(first, x.ndim) if long else ())
    if len(groups) == x.ndim:
        return run(x, axes, *others)

    def reshape(a: jax.Array) -> jax.Array:
        return a.reshape([prod(a.shape[i] for i in group) for group in groups])

    y = run(reshape(x), fewer, *jax.tree.map(reshape, others))
    return y.reshape(shape_of(axes, x.shape))


def interleave(phases: Sequence[jax.Array], window: Window, asked: bool = False) -> jax.Array:
    """Every phase of the stride in its place along the map. `asked`: by asking of every element
    which phase it is of, so that there is nothing to put together."""
    if window.stride == 1:
        return phases[0]
    at = phases[0].ndim + window.axis
    shape, n = phases[0].shape, phases[0].shape[at] * window.stride
    if asked:
        each = [jnp.repeat(a, window.stride, at) for a in phases]
        split = jax.typeof(each[0]).sharding
        place = lax.broadcasted_iota(jnp.int32, each[0].shape, at, out_sharding=split)
        whole = lax.select_n(place % window.stride, *each)
    else:
        whole = jnp.stack(phases, at + 1).reshape(replace_axis(shape, at, n))
    return cut(whole, window.axis, 0, window.length)


def rows(x: jax.Array, windows: Sequence[Window], fill: Any = 0) -> jax.Array:
    """Disjoint windows: every pooled axis as two, the windows and then their taps."""
    for window in windows:
        at, n = x.ndim + window.axis, window.out * window.stride
        x = pad(x, window.axis, window.low, n - window.low - window.length, fill)
        x = x.reshape(*x.shape[:at], window.out, window.stride, *x.shape[at + 1 :])
        x = cut(x, window.axis, 0, window.size)
    return x


def table(x: jax.Array, mask: jax.Array | None, window: Window) -> tuple:
    """`rows` of x and of its mask, one of every element: loops along rows choose by it in whole
    vectors, and need no bits (`chosen`)."""
    if mask is not None:
        mask = rows(jnp.broadcast_to(mask, x.shape), (window,))
    return rows(x, (window,)), mask


def along_rows(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """What has one value per window (or one for all) beside `rows`."""
    for window in windows:
        x = lax.expand_dims(x, [x.ndim + window.axis + 1])
    return x


def unrows(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """`rows` undone, with 0 for elements that no window sees."""
    for window in reversed(windows):
        at, s, low = x.ndim + window.axis - 1, window.stride, window.low
        x = pad(x, window.axis, 0, s - window.size)
        x = x.reshape(*x.shape[:at], window.out * s, *x.shape[at + 2 :])
        x = pad(x, window.axis, -low, window.length + low - window.out * s)
    return x


def real(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """x with 0 for what is not real: linear in x."""
    if mask is None:
        return x
    if _has_bits(x, mask) and _is_few(x.shape[-1]):
        return _real({"x": x}, mask, ("x",))["x"]
    return jnp.where(mask, x, jnp.zeros((), x.dtype))


def only(at: Any, x: jax.Array, axis: int) -> jax.Array:
    """x where `at` is True, whose last axis is that axis of x, and 0 elsewhere: linear in x."""
    if isinstance(at, np.ndarray) and at.all():
        return x
    behind = -1 - axis
    at = at.reshape((1,) * (x.ndim - at.ndim - behind) + at.shape + (1,) * behind)
    return jnp.where(at, x, jnp.zeros((), x.dtype))


def chosen(x: jax.Array, mask: jax.Array | None, other: Any = 0) -> jax.Array:
    """x with `other` for what is not real, without derivatives: by bits, where all channels have
    one mask. XLA's CPU backend takes twice as long to choose for few channels; for many taps of
    many channels it has few registers to choose by.
    """
    if mask is None:
        return x
    if not _has_bits(x, mask) or (other and not _is_few(x.shape[-1])):
        return jnp.where(mask, x, jnp.asarray(other, x.dtype))
    every = -mask.astype(jnp.int32)  # bit, or none
    bits = lax.bitcast_convert_type(x, jnp.int32) & every
    if other:
        bits |= int(np.float32(other).view(np.int32)) & ~every
    return lax.bitcast_convert_type(bits, jnp.float32)


def narrowest(most: int) -> Any:
    """The integers of fewest bits that hold numbers up to `most`; None if 32 bits do not."""
    dtypes = (jnp.uint8, jnp.uint16, jnp.int32)
    return next((jnp.dtype(d) for d in dtypes if most <= jnp.iinfo(d).max), None)


def as_number(mask: jax.Array, dtype: Any) -> jax.Array:
    """1 for what is real, 0 for what is not: chosen, since XLA's CPU backend converts truth values
    one by one where the last axis is 1."""
    return jnp.where(as_argument(mask), jnp.ones((), dtype), jnp.zeros((), dtype))


def as_argument(mask: jax.Array) -> jax.Array:
    """The mask, no constant elsewhere: XLA adds those up in its `reduce_window`, for seconds."""
    return by_platform(mask, cpu=lambda mask: mask, other=lax.optimization_barrier)


def _has_bits(x: jax.Array, mask: jax.Array) -> bool:
    shared = x.ndim == mask.ndim > 0 and mask.shape[-1] == 1 and x.shape[-1] != 1
    return shared and x.dtype == jnp.float32


def _is_few(channels: Any) -> bool:  # which may be symbolic
    return isinstance(channels, int) and channels <= VECTOR


def _real_of(t: dict, mask: jax.Array, _: Any) -> dict:
    return {"x": chosen(t["x"], mask)}


_real, _ = linear_pair("real", _real_of, _real_of, *[lambda t, mask: t.shape] * 2)


# ---- 16 bits ----
#
# XLA's CPU backend cuts and joins no bfloat16: it turns whole arrays into float32 first. So they
# are cut and joined as integers of their bits, which are the upper half of a float32. Arithmetic of
# 16-bit floats is slow, so what has been cut is widened to be added, and ranked to be compared.

BITS = jnp.uint16, jnp.int16


def through_bits(over: Callable, of_region: Callable, state: Any, kinds: int) -> Any:
    """`over(of_region, turns)` with all bfloat16 as bits, but for what `of_region` sees. `turns` is
    the state for one read after the other, as bits of so many `kinds`."""
    dtypes = jax.tree.map(lambda a: a.dtype, state)
    turns = cycle(jax.tree.map(partial(_to_bits, bits=bits), state) for bits in BITS[:kinds])
    results = []

    def of_bits(taps: list, full: Callable, at: tuple) -> Any:
        taps = [(tap, jax.tree.map(_from_bits, part, dtypes)) for tap, part in taps]
        result = of_region(taps, full, at)
        results.append(jax.tree.map(lambda a: a.dtype, result))
        return jax.tree.map(_to_bits, result)

    return jax.tree.map(_from_bits, over(of_bits, turns), results[0])


def moving(function: Callable) -> Callable:
    """Decorate a function of arrays of one dtype that moves elements, and lays `fill` beside them
    if it has one, to see bfloat16 as bits: without derivatives."""

    @wraps(function)
    def run(arrays: Any, **how: Any) -> jax.Array:
        dtype = jax.tree.leaves(arrays)[0].dtype
        if dtype == jnp.bfloat16 and "fill" in how:
            how["fill"] = int(np.asarray(how["fill"], dtype).view(np.uint16))
        return _from_bits(function(jax.tree.map(_to_bits, arrays), **how), dtype)

    return run


def _to_bits(x: jax.Array, bits: Any = BITS[0]) -> jax.Array:
    return lax.bitcast_convert_type(x, bits) if x.dtype == jnp.bfloat16 else x


def _from_bits(x: jax.Array, dtype: Any) -> jax.Array:
    return lax.bitcast_convert_type(x, dtype) if dtype == jnp.bfloat16 else x


def wider(dtype: Any) -> Any:
    """The dtype to add up in."""
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    return jnp.dtype(jnp.float32) if narrow else dtype


def widen(x: jax.Array) -> jax.Array:
    """Floats of fewer than 32 bits as float32, anything else as it is."""
    if x.dtype == jnp.bfloat16:
        return lax.bitcast_convert_type(_to_bits(x).astype(jnp.uint32) << 16, jnp.float32)
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return x.astype(jnp.float32) if narrow else x


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """x in that dtype. To bfloat16 by its bits, to the nearest, ties to even: XLA's CPU backend
    takes twice as long to round."""
    return narrowed(nearest(x, dtype), dtype)


def nearest(x: jax.Array, dtype: Any) -> jax.Array:
    """x as it is, but float32 that become bfloat16 without their lower bits, which say how to
    round."""
    if dtype != jnp.bfloat16 or x.dtype != jnp.float32:
        return x
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return lax.bitcast_convert_type(jnp.where(x == x, bits, 0x7FC00000), x.dtype)  # a NaN stays one


def narrowed(x: jax.Array, dtype: Any) -> jax.Array:
    """What is `nearest` in that dtype. It reads x once: what is read more often is no part of the
    loop that makes it."""
    if dtype != jnp.bfloat16 or x.dtype != jnp.float32:
        return x.astype(dtype)
    upper = (lax.bitcast_convert_type(x, jnp.uint32) >> 16).astype(jnp.uint16)
    return lax.bitcast_convert_type(upper, dtype)


def rank(x: jax.Array, largest: bool) -> jax.Array:
    """16-bit floats as integers in the same order, NaN beyond all (below, for a minimum), and 0 of
    either sign as 0; anything else as it is."""
    if x.dtype not in (jnp.bfloat16, jnp.float16):
        return x
    bits = lax.bitcast_convert_type(x, jnp.int16)
    size = bits & _INT16_MAX
    infinity = np.asarray(np.inf, x.dtype).view(np.int16)
    nan = _INT16_MAX if largest else -_INT16_MAX
    return jnp.where(size > infinity, nan, jnp.where(bits < 0, -size, size))


def unrank(x: jax.Array, dtype: Any) -> jax.Array:
    """Undo `rank`."""
    if dtype not in (jnp.bfloat16, jnp.float16):
        return x
    bits = jnp.where(x < 0, ~_INT16_MAX - x, x)
    return lax.bitcast_convert_type(bits, dtype)


_INT16_MAX = np.int16(2**15 - 1)
