"""Loops over windows: few taps are slices of the input, and every result is an expression of these.

The few windows at the borders are computed by themselves, because padding inside a fused loop
keeps XLA's CPU backend from vectorising it. On GPUs and TPUs it is borders by themselves that are
slow: XLA does not fuse loops across parts that are put together, and reads x anew for every part.
So there arrays are padded (`fill`), and all is one region (`ONE_REGION`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import jax
import numpy as np
from jax import lax

from jaxpool._linear import apart, by_platform, full_like, may_be_split
from jaxpool._plan import Group, is_ragged, is_whole, kinds_of_bits, size_of
from jaxpool._slices import (
    as_line,
    interleave,
    join,
    moving,
    pad,
    pad_all,
    replace_axis,
    rows,
    span,
    spread,
    through_bits,
)
from jaxpool._window import shape_back, shape_of

ONE_REGION = {"one_region": True}
_spread_bits = moving(spread)


def over_outputs(of_region: Callable, state: Any, windows: Group, fill: Any = None) -> Any:
    """`of_region` of every region of the outputs, each reading the elements of its windows.

    `fill`: what each array holds beyond the map, for one region of all outputs.
    """
    if fill is not None:
        edges = [w.edges() for w in windows]
        state = jax.tree.map(lambda a, fill: pad_all(a, edges, fill), state, fill)
        windows = tuple(w.within() for w in windows)
    regions = [(w, w.regions(), w.stride, 0, 1) for w in windows]
    reads = prod(_reads(w.regions()) for w in windows)
    over = partial(_over_regions, axes=regions)
    return through_bits(over, of_region, state, kinds_of_bits(reads))


def _reads(regions: Sequence[tuple]) -> int:
    return sum(len(reads) for *_, reads in regions)


def over_inputs(
    of_region: Callable,
    state: Any,
    windows: Group,
    fill: Any,
    one_region: bool = False,
    asked: bool = False,
) -> Any:
    """`of_region` of every region of the inputs, each reading the windows that see it.

    `fill`: what each array holds for windows that do not exist, where these are laid around it: for
    one region of each phase of the strides, or on CPUs where borders are ragged (`is_ragged`);
    `asked`: as for `interleave`.
    """
    if one_region:
        state = jax.tree.map(lambda a, fill: spread(a, windows, fill), state, fill)
    elif is_ragged(jax.tree.leaves(state)[0], windows):
        state = spread_apart(state, windows, fill)
    else:
        return _through_phases(of_region, state, windows)
    whole = _through_phases(of_region, state, tuple(w.complete() for w in windows), asked)
    at = tuple((w.axis, 0, w.length, 1) for w in windows)
    return jax.tree.map(lambda a: cut_all(a, at), whole)


def spread_apart(state: Any, windows: Group, fill: Any) -> Any:
    """`spread` of each array, in a loop of its own: padding inside a loop slows it down."""
    lay = partial(apart, _spread_bits, windows=windows)
    return jax.tree.map(lambda a, fill: lay(a, fill=fill), state, fill)


def _through_phases(of_region: Callable, state: Any, windows: Group, asked: bool = False) -> Any:
    over = partial(_over_phases, windows=windows, asked=asked)
    reads = prod(sum(_reads(w.sources(p)) for p in range(w.stride)) for w in windows)
    return through_bits(over, of_region, state, kinds_of_bits(reads))


def _over_phases(
    of_region: Callable, turns: Iterator, windows: Group, phases: tuple = (), asked: bool = False
) -> Any:
    if len(phases) == len(windows):
        axes = zip(windows, phases, strict=True)
        regions = [(w, w.sources(phase), 1, phase, w.stride) for w, phase in axes]
        return _over_regions(of_region, turns, regions)
    window = windows[len(phases)]
    parts = [
        _over_phases(of_region, turns, windows, (*phases, p), asked) for p in range(window.stride)
    ]
    return jax.tree.map(lambda *each: interleave(each, window, asked), *parts)


def _over_regions(of_region: Callable, turns: Iterator, axes: list) -> Any:
    """`of_region(taps, full, at)` of each region of each axis, put together.

    turns: what to read from, one read after the other (`through_bits`).
    axes: of each the window, its regions, the stride to read with, and where the region is: from
    which position on, every how many. taps: (tap, what it reads) of every tap that falls on the
    map, in row-major order. full: `full(value, dtype)` is one value everywhere in the region. at:
    the region, for `cut_all`.
    """

    def go(todo: list, taps: list, shape: tuple, at: tuple) -> Any:
        if not todo:
            read = [
                (tap, jax.tree.map(partial(cut_all, at=here), next(turns))) for tap, here in taps
            ]
            return of_region(read, partial(full_like, leaves, shape), at)
        (window, regions, stride, offset, every), *later = todo
        pieces = []
        for start, stop, reads in regions:
            n = stop - start
            further = [
                (tap * window.size + j, (*here, (window.axis, first, n, stride)))
                for tap, here in taps
                for j, first in reads
            ]
            now = replace_axis(shape, window.axis, n)
            here = (window.axis, offset + start * every, n, every)
            pieces.append(go(later, further, now, (*at, here)))
        return jax.tree.map(lambda *each: join(each, window.axis), *pieces)

    leaves = jax.tree.leaves(next(turns))  # of which some may have one value for all
    return go(axes, [(0, ())], lax.broadcast_shapes(*(a.shape for a in leaves)), ())


def pairwise(function: Callable, items: Sequence[Any]) -> Any:
    """`function` of neighbours, of what that gives, and so on: of all, in their order, without the
    long chain in which each waits for the one before it."""
    while len(items) > 1:
        pairs = [items[i : i + 2] for i in range(0, len(items), 2)]
        items = [function(*pair) if len(pair) > 1 else pair[0] for pair in pairs]
    return items[0]


def on_line(run: Callable, elsewhere: Callable, arrays: tuple, windows: Group) -> Any:
    """`run(arrays, windows)` with the axis of the last window, of stride 1, and all behind it as
    one, for loops that XLA's CPU backend would unroll; on other platforms, and where one of these
    axes may be split over devices, `elsewhere(arrays, windows)`. Arrays may be 1 along all of them,
    or along all behind."""
    *others, last = windows
    x = arrays[0]
    behind = x.shape[x.ndim + last.axis + 1 :]
    if may_be_split(x, range(last.axis, 0)):
        return elsewhere(arrays, windows)

    def line(a: jax.Array) -> jax.Array:
        return as_line(a, (a.shape[last.axis], *behind))

    def back(a: jax.Array) -> jax.Array:
        return a.reshape(*a.shape[:-1], a.shape[-1] // prod(behind), *behind)

    def here(*arrays: Any) -> Any:
        above = [replace(w, axis=w.axis + len(behind)) for w in others]
        along = *above, last.along(prod(behind))
        return jax.tree.map(back, run(jax.tree.map(line, arrays), along))

    return by_platform(*arrays, cpu=here, other=lambda *arrays: elsewhere(arrays, windows))


def cut_all(a: jax.Array, at: tuple) -> jax.Array:
    """A region's part of an array, which may have one value for all along an axis: one slice, for
    XLA may write out what others are cut from."""
    start, stop, strides = [0] * a.ndim, list(a.shape), [1] * a.ndim
    for axis, first, n, every in at:
        if a.shape[axis] != 1:
            start[axis] = first
            stop[axis], strides[axis] = span(first, n, every)
    return lax.slice(a, start, stop, strides)


# Of what a linear pair over one group of windows returns, there and back.
group_shapes = (
    lambda t, _, group: shape_of(group, t.shape),
    lambda g, _, group: shape_back(group, g.shape),
)


def reduce_window(
    x: jax.Array, group: Group, op: Callable = lax.add, init: Any = 0, least: int = 0
) -> jax.Array:
    """One call of XLA: of more than `least` taps a `reduce` where these are whole axes, or those of
    windows that overlap no other."""
    start = np.asarray(init, x.dtype)
    if is_whole(group) and size_of(group) > least:
        axes = [x.ndim + w.axis for w in group]
        return lax.expand_dims(lax.reduce(x, start, op, axes), axes)
    if least and len(group) == 1 and group[0].disjoint and group[0].size > least:
        each = rows(x, group, init)
        return lax.reduce(each, start, op, [each.ndim + group[0].axis])
    size, stride, dilation = [1] * x.ndim, [1] * x.ndim, [1] * x.ndim
    padding = [(0, 0)] * x.ndim
    for w in group:
        x = pad(x, w.axis, min(w.low, 0), max(min(w.overhang, 0), -w.length))
        size[w.axis], stride[w.axis], dilation[w.axis] = w.size, w.stride, w.dilation
        all_seen = w.low + w.length + w.overhang  # which may end before the map begins
        padding[w.axis] = min(max(w.low, 0), all_seen), max(w.overhang, 0)
    return lax.reduce_window(x, start, op, size, stride, padding, window_dilation=dilation)
