"""Sums over pairs of an element and a window: over the elements of each window (`sum_at_windows`:
values and tangents) and over the windows of each element (`sum_at_elements`: cotangents).

What is summed is said once, as a function of an element and its window, which are arrays by name:
what elements hold, and what windows do. Large windows take several passes, each of few taps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from math import isqrt, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpool import _bins
from jaxpool._linear import apart, by_platform, is_split, linear_pair
from jaxpool._plan import BLOCK, Group, groups_of, is_dense, is_disjoint, is_long, reads
from jaxpool._regions import ONE_REGION, cut_all, over_inputs, over_outputs, spread_apart
from jaxpool._slices import along_rows, cut, join, pad_all, real, replace_axis, rows, unrows
from jaxpool._window import Bins, Window

Arrays = dict[str, jax.Array]

# Windows at the borders are computed by themselves while the regions have at most BORDERS taps
# together; else the map is padded. Loops take long to compile where each tap is an `exponential` of
# its own: those over windows have at most EXPONENTIALS then, and beside MANY for every element a
# copy costs little. Beside more, so does a copy of all that is around elements, if it adds at most
# 1/THIN along each axis. In later passes of a window there are at most LATER.
# A factor of a window's size up to FACTOR is one pass. Over fewer channels than NARROW, LLVM
# vectorises no loop over several axes with borders.
BORDERS, EXPONENTIALS, LATER, MANY, THIN, FACTOR, NARROW = 49, 25, 9, 4, 6, 64, 4


def floor(dtype: Any) -> float:
    """What stands for -inf among the elements, so that they never meet as inf - inf."""
    return float(jnp.finfo(dtype).min)


def present(arrays: dict[str, Any]) -> Arrays:
    """What there is of arrays by name, some of which are None."""
    return {k: a for k, a in arrays.items() if a is not None}


def of_seen(x: jax.Array, axes: _bins.Geometry, groups: Sequence[Any]) -> jax.Array:
    """x, to be folded over these groups, whose elements in no window have gradient 0 and are in
    that of no other element, whatever they are.

    On the way back they are in windows that do not exist, and of several passes all but the last
    have windows that are in no window of the last. Their cotangents are 0, but not 0 times the
    slope at a NaN.
    """
    gaps = tuple(w for w in axes if not isinstance(w, Bins) and not w.seen().all())
    if not gaps or (len(groups) == 1 and is_disjoint(groups[0])):  # rows, which end at gaps
        return x
    if len(groups) > 1 and not all(w.seen()[slice(*_reached(w))].all() for w in gaps):
        return real(x, reduce(jnp.logical_and, [_seen_along(x, w) for w in gaps]))
    return _same({"x": x}, (), ("x",), windows=gaps)["x"]


def _reached(window: Window) -> tuple[int, int]:
    """Of all elements in any window the first, and the end behind the last."""
    seen = np.flatnonzero(window.seen())
    return (int(seen[0]), int(seen[-1]) + 1) if seen.size else (0, window.length)


def _seen_along(x: jax.Array, window: Window) -> jax.Array:
    return jnp.asarray(window.seen().reshape(replace_axis((1,) * x.ndim, window.axis, -1)))


def _same_back(g: Arrays, _: Any, outs: Any, windows: Group) -> Arrays:
    dx = g["x"]
    for window in windows:
        axis, (start, stop) = window.axis, _reached(window)
        if window.seen()[start:stop].all() and not is_split(dx, [axis]):  # in place
            for at, n in ((0, start), (stop, window.length - stop)):
                zeros = lax.full_like(cut(dx, axis, at, n), 0)
                dx = lax.dynamic_update_slice_in_dim(dx, zeros, at, dx.ndim + axis)
        else:
            dx = real(dx, _seen_along(dx, window))
    return {"x": dx}


_same, _ = linear_pair(
    "same",
    lambda t, _, outs, windows: t,
    _same_back,
    lambda t, _, windows: t.shape,
    lambda g, _, windows: g.shape,
)


def folds(x: jax.Array, axes: _bins.Geometry, scalar: bool = False) -> Iterator[list[Any]]:
    """The passes over axes that are folded together, one list after the other; the last axes last
    where `groups_of` has them last."""
    last_first = 1 if is_long(x, axes) else -1
    for run in list(_bins.steps(axes))[::last_first]:
        if isinstance(run[0], Bins):
            yield from ([(bins,)] for bins in run[::-last_first])
        else:
            yield from (list(few_taps(few)) for few in groups_of(x, run, scalar))


def few_taps(axes: Group, most: int = BLOCK) -> Iterator[Group]:
    """A large window as passes of few taps, or whole where it neither overlaps nor divides. The
    first pass, which reads the map, has up to `most`; the others as few as possible together."""
    if len(axes) > 1 or axes[0].size <= BLOCK:
        yield axes
    elif parts := axes[0].split(most):
        first, rest = parts
        yield (first,)
        yield from few_taps((rest,), min(isqrt(rest.size - 1) + 1, BLOCK))
    else:
        yield from ((window,) for window in axes[0].digits(FACTOR, BLOCK))


def _fill(name: str, a: jax.Array) -> float:
    """What padding holds: an element, or a window, without weight."""
    sign = {"top": 1, "shift": -1}.get(name, 0)
    return sign * floor(a.dtype) if sign else 0


def fills(arrays: Arrays) -> dict[str, float]:
    return {k: _fill(k, a) for k, a in arrays.items()}


def in_rows(group: Group) -> bool:
    """Whether windows are summed over as an axis of their own, not tap by tap."""
    return group[0].size > BLOCK and (isinstance(group[0], Bins) or group[0].disjoint)


def is_laid(group: Group) -> bool:
    """Whether there is an axis of their own for taps, or a gather for each, and no slices."""
    return isinstance(group[0], Bins) or in_rows(group)


def reach(cells: Arrays, group: Group, exponentials: bool = False) -> tuple[Arrays, Group]:
    """All that the windows reach, for `sum_at_windows`: with padding around cells along the first
    axes."""
    if is_laid(group):
        return cells, group
    n = padded_axes(next(iter(cells.values())), group, exponentials)
    edges = tuple(w.edges() for w in group[:n])
    return {k: _padded(a, edges, _fill(k, a)) for k, a in cells.items()}, _within(group, n)


def padded_axes(x: jax.Array, group: Group, exponentials: bool = False) -> int:
    """Along how many axes x is padded, first ones first: until there are at most so many taps, or
    all of them where windows of few channels are dense."""
    few = not is_long(x, group, NARROW)
    most = 0 if few and len(group) > 1 and is_dense(group) else BORDERS
    if exponentials:
        most = EXPONENTIALS if reads(group) < MANY else 0
    return next((n for n in range(len(group)) if taps_of(_within(group, n)) <= most), len(group))


def _within(group: Group, n: int) -> Group:
    """The same windows over a map to which all that they reach along the first n axes is added."""
    return tuple(w.within() for w in group[:n]) + group[n:]


def taps_of(group: Group) -> int:
    """How many taps the regions of all axes have."""
    return prod(sum(len(region.taps) for region in w.regions()) for w in group)


def sum_at_windows(
    terms: Callable,
    of_sums: Callable,
    cells: Arrays,
    around: Arrays,
    rate: jax.Array,
    group: Group,
    one_region: bool = False,
) -> jax.Array:
    """`of_sums(around[i], ...)` of the sums of each of terms(cells[p], around[i]) over the elements
    p of window i."""
    if isinstance(bins := group[0], Bins):
        sums = _bins.sum_over(lambda cell, here: terms(cell, *here), cells, (around, rate), bins)
        return of_sums(around, *sums)
    if in_rows(group):
        cells = {k: rows(a, group, _fill(k, a)) for k, a in cells.items()}
        beside = {k: along_rows(a, group) for k, a in around.items()}
        each = terms(cells, beside, along_rows(rate, group))
        return of_sums(around, *(term.sum(term.ndim + group[0].axis) for term in each))

    terms = jax.jit(terms)  # traced once, not for every tap

    def of_region(taps: list, full: Callable, at: tuple) -> jax.Array:
        here = {k: cut_all(a, at) for k, a in around.items()}
        if not taps:
            nothing = full(0, rate.dtype)
            return of_sums(here, nothing, nothing)
        each = [terms(slab, here, rate) for _, slab in taps]
        return of_sums(here, *(reduce(lax.add, terms) for terms in zip(*each, strict=True)))

    return over_outputs(of_region, cells, group, fills(cells) if one_region else None)


def alone(_: Arrays, total: jax.Array, *__: jax.Array) -> jax.Array:
    return total


def completed(
    cells: Arrays, around: Arrays, group: Group, exponentials: bool
) -> tuple[Arrays, Arrays, Group]:
    """Every phase of the strides complete, and where borders are not computed by themselves, all
    windows that one could look for."""
    if isinstance(group[0], Bins) or is_disjoint(group):
        return cells, around, group
    spare = tuple(w.spare() for w in group)
    cells = {k: _padded(a, spare, _fill(k, a)) for k, a in cells.items()}
    most = BORDERS
    if exponentials and "log" in cells:
        most = LATER
    elif exponentials and reads(group) > MANY:
        thin = all(w.dilation == 1 and THIN * (w.size - 1) <= w.out for w in group)
        most = 0 if thin else BORDERS
    sources = [[region for p in range(w.stride) for region in w.sources(p)] for w in group]
    taps = prod(sum(len(region.taps) for region in regions) for regions in sources)
    if taps <= most:
        phases = tuple(replace(w, length=w.phase_length * w.stride) for w in group)
        return cells, around, phases
    if any(low or high for w in group for _, low, high in w.beyond()):
        around = spread_apart(around, group, fills(around))
    return cells, around, tuple(w.complete() for w in group)


def at_elements(
    function: Callable,
    cells: Arrays,
    around: Arrays,
    rate: Any,
    group: Group,
    exponentials: bool = False,
    **how: Any,
) -> jax.Array:
    """`function`, made of `sum_at_elements`, in a loop of its own.

    Where strides do not divide the map, what is left over has another loop on CPU: to complete the
    phases of the strides takes a copy of all that elements hold.
    """
    run = partial(_at_elements, function, exponentials=exponentials, **how)
    x = next(iter(cells.values()))
    odd = next((i for i, w in enumerate(group) if _is_odd(w) and not is_split(x, [w.axis])), None)
    if odd is None or is_disjoint(group):
        return run(cells, around, rate, group)

    def here(cells: Arrays, around: Arrays, rate: Any) -> jax.Array:
        window, axis = group[odd], group[odd].axis
        whole = window.length - window.length % window.stride
        most = (*group[:odd], replace(window, length=whole), *group[odd + 1 :])
        rest, first = window.behind(whole)
        left = (*group[:odd], rest, *group[odd + 1 :])
        beside = {k: cut(a, axis, whole, rest.length) for k, a in cells.items()}
        seeing = {k: cut(a, axis, first, rest.out) for k, a in around.items()}
        each = [
            at_elements(function, cells, around, rate, most, exponentials, **how),
            run(beside, seeing, rate, left),
        ]
        return join(each, axis)

    return by_platform(cells, around, rate, cpu=here, other=partial(run, group=group))


def _is_odd(window: Window | Bins) -> bool:
    """Whether strides do not divide the map."""
    return type(window) is Window and window.length % window.stride not in (0, window.length)


def _at_elements(
    function: Callable,
    cells: Arrays,
    around: Arrays,
    rate: Any,
    group: Group,
    exponentials: bool,
    **how: Any,
) -> jax.Array:
    cells, around, complete = completed(cells, around, group, exponentials)
    dot = apart(function, cells, around, rate, elsewhere=ONE_REGION, group=complete, **how)
    for w in group:
        dot = cut(dot, w.axis, 0, w.length)
    return dot


def sum_at_elements(
    term: Callable,
    cells: Arrays,
    around: Arrays,
    rate: jax.Array,
    group: Group,
    one_region: bool = False,
) -> jax.Array:
    """out[p] = the sum of term(cells[p], around[i]) over the windows i that see p, 0 where p is not
    real."""
    if isinstance(group[0], Bins):

        def terms(around, beside):
            cells, rate = beside
            return [real(term(cells, around, rate), cells.get("mask"))]

        return _bins.sum_over(terms, around, (cells, rate), group[0].transposed())[0]
    if is_disjoint(group):
        cells = {k: rows(a, group, _fill(k, a)) for k, a in cells.items()}
        around = {k: along_rows(a, group) for k, a in around.items()}
        each = term(cells, around, along_rows(rate, group))
        return unrows(real(each, cells.get("mask")), group)

    term = jax.jit(term)  # traced once, not for every tap

    def of_region(taps: list, full: Callable, at: tuple) -> jax.Array:
        here = {k: cut_all(a, at) for k, a in cells.items()}
        each = [term(here, slab, rate) for _, slab in taps]
        total = reduce(lax.add, each) if each else full(0, rate.dtype)
        return real(total, here.get("mask"))

    return over_inputs(of_region, around, group, fills(around), one_region, asked=one_region)


def _padded(x: jax.Array, edges: tuple[tuple[int, int, int], ...], fill: float) -> jax.Array:
    """x with `fill` around it, (axis, low, high); apart, since a pad in a loop slows it down."""
    edges = tuple(edge for edge in edges if any(edge[1:]))
    return apart(pad_all, x, edges=edges, fill=fill) if edges else x
