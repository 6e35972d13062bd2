"""Log-sum-exp and softmax-weighted means of windows, and their derivatives.

Few axes with few taps are folded together, the others one after the other, large windows in several
passes. A pass is two kinds of sums: over the elements of each window (`sum_at_windows`: values and
tangents) and over the windows of each element (`sum_at_elements`: cotangents). What is summed is
said once, as a function of an element and its window.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxpool import _bins
from jaxpool._exponential import exp, expm1, log, log1p
from jaxpool._linear import apart, curved, is_split, linear_pair
from jaxpool._plan import BLOCK, Group, groups_of, is_disjoint, is_long, reads
from jaxpool._regions import ONE_REGION, cut_all, over_inputs, over_outputs
from jaxpool._slices import along_rows, cut, pad_all, real, replace_axis, rows, unrows
from jaxpool._turns import beside, inside, next_of, over, piecewise
from jaxpool._window import Bins, Window

Arrays = dict[str, jax.Array]


class Smooth(NamedTuple):
    """What LSE and softmax pooling are made of, for every element or window:

        T*log(mean exp(x/T)) = top + T*level,    sum softmax(x/T)*x = top + gap.

    top is the largest element, and level = log(mean exp((x - top)/T)) lies in [-log n, 0], so no
    exponent is above 0 and every weight is exact to rounding, whatever the size of x/T: the sums
    have already lost what weights and derivatives need. Where nothing is real, or all is -inf, top
    is `floor`, which has no weight beside any other.

    An element itself has level 0, count 1 and gap 0, all three written None; count 0 if it is not
    real, and then any top. Later, count None says that all windows hold equally many elements.
    """

    top: jax.Array
    level: Any = None
    count: Any = None
    gap: Any = None

    def mask(self) -> jax.Array | None:
        """Which elements are real; None where all are, or where these are windows."""
        return None if self.count is None or self.level is not None else self.count > 0


class Sides(NamedTuple):
    """What the weight of an element in a window depends on: arrays at elements, at windows, T."""

    cells: Arrays
    around: Arrays
    temperature: jax.Array


# What has no exponential, in float64 either, whatever counts and levels are added.
WEIGHTLESS = -800.0


def floor(dtype: Any) -> float:
    """What stands for -inf among the elements, so that they never meet as inf - inf."""
    return float(jnp.finfo(dtype).min)


def _finite(top: jax.Array) -> jax.Array:
    """No less than `floor`; apart, or XLA writes the sums that read it over it, in loops that are
    twice as slow for few channels, and makes it again for what follows."""
    return lax.max(top, lax.full_like(top, floor(top.dtype)))


def smooth(
    x: jax.Array,
    axes: _bins.Geometry,
    temperature: jax.Array,
    mask: jax.Array | None,
    gap: bool,
    known: Callable | None = None,
) -> Smooth:
    """Fold every window or bin of x into one `Smooth`; its gap only where asked for.

    `known(top)` is the last level, or the last gap, where only its derivative is asked for.
    """
    state = Smooth(x, count=None if mask is None else mask.astype(x.dtype))
    outs, last = (("level", "gap"), ("gap",)) if gap else (("level",), ("level",))

    def fold(state: Smooth, axes: Any, at_last: Any = outs, known: Any = None) -> Smooth:
        steps = list(folds(state.top, axes))
        t = beside(temperature, state.top, axes)
        for passes in steps:
            state = state if passes is steps[0] else across(state)
            for group in passes:
                end = group is steps[-1][-1]
                how = (at_last, known) if end else (outs, None)
                state = _fold(state, group, t, *how)
        return state

    def across(state: Smooth) -> Smooth:
        """Counts differ along an axis, never across, but for a mask."""
        return state._replace(count=None) if mask is None else state

    while found := next_of(x, axes, rows=True):
        axes, window, behind = found
        if behind:
            state = across(fold(state, behind))
        at_last = () if axes else (last, known)
        if over(window).idle:
            state = _in_turns(fold, state, window, *at_last)
        else:
            state = fold(_in_turns(fold, state, window), (over(window),), *at_last)
        if not axes:
            return state
        state = across(state)
    return fold(state, axes, last, known)


def _in_turns(
    fold: Callable, state: Smooth, window: Window, outs: Any = None, known: Any = None
) -> Smooth:
    """The pieces of an axis, each folded: with `outs` and `known` if these folds are the last."""
    axis, dtype = window.axis, state.top.dtype
    if state.count is None and window.padded:
        state = state._replace(count=inside(state.top, [window]).astype(dtype))

    def known_of_pieces(top: jax.Array) -> jax.Array:
        return jnp.expand_dims(known(top.squeeze(axis)), axis)

    how = (outs, known and known_of_pieces) if outs else ()

    def of_pieces(arrays: Arrays, windows: Group) -> Arrays:
        done = fold(Smooth(**arrays), windows, *how)
        count = done.count
        if count is None:  # pieces of one kind are alike
            count = jnp.full((1,) * done.top.ndim, windows[0].size, dtype)
        count = _stretched(count, axis - 1, done.top.shape[axis - 1])
        return _present(done._replace(count=count)._asdict())

    arrays = _present(state._asdict())
    return Smooth(**piecewise(of_pieces, arrays, window, _fills(arrays)))


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


def few_taps(axes: Group) -> Iterator[Group]:
    """A large window as passes of few taps, or whole where it neither overlaps nor divides."""
    if len(axes) > 1 or axes[0].size <= BLOCK:
        yield axes
    elif parts := axes[0].split(BLOCK):
        for part in parts:
            yield from few_taps((part,))
    else:
        yield from ((window,) for window in axes[0].digits(FACTOR, BLOCK))


def _fold(
    state: Smooth,
    group: Group,
    temperature: jax.Array,
    outs: tuple[str, ...],
    known: Callable | None,
) -> Smooth:
    # The shift cancels out of every result, so it needs no derivative.
    top = lax.stop_gradient(state.top)
    shift = _bins.extremum(top, group, largest=True, mask=state.mask())
    shift = apart(_finite, shift)
    if state.count is None:
        n = _bins.count(None, group, shift.ndim, shift.dtype)
    else:
        n = _bins.total(state.count, group)
    if known is None:
        found = _means(temperature, state, shift, n, group, outs)
    else:
        found = _known_means(temperature, state, shift, n, {outs[0]: known(shift)}, group, outs)
    # Equal counts cancel out of all that follows; a mask's are never taken to be equal.
    uniform = state.count is None and n.size == 1
    return Smooth(shift, found.get("level"), None if uniform else n, found.get("gap"))


@curved(statics=2)
def _means(temperature, state, shift, n, group, outs) -> Arrays:
    """The level and the gap of every window, given its top (`shift`) and count."""
    mask = state.mask()
    count = state.count if mask is None else None  # else 1 where the mask is
    cells = _present({**state._asdict(), "count": count, "mask": mask})
    cells, reached = reach(cells, group, exponentials=True)
    # Few elements, none of them padding, need one sum only, that of exp(z) - 1.
    few = state.level is None and reached == group and not _in_rows(group)
    around = {"shift": shift, "n": n, "share": 1 / jnp.maximum(n, 1)}
    args = cells, around, temperature
    found = _one_by_one(_means_of, *args, outs=outs, group=reached, few=few)
    if few and "level" in found:  # two loops are quicker than one of both
        found["level"] = apart(log1p, found["level"])
    return found


def _one_by_one(function: Callable, *args: Any, outs: Sequence[str], **how: Any) -> Arrays:
    """Each result in a loop of its own: one loop has one result, and exponentials that two of them
    share would be stored, for every tap."""
    return {out: apart(function, *args, elsewhere=ONE_REGION, out=out, **how) for out in outs}


def _means_of(cells, around, temperature, out, group, few, one_region=False):
    if one_region and few:  # padding has a term there too, but no count
        cells = {"count": jnp.ones_like(cells["top"]), **cells}
    if one_region and "level" in cells:  # as in `_winners`, the pass before is computed once
        cells = lax.optimization_barrier(cells)

    def terms(cell, around, rate):
        top = _top(cell)
        down = top - around["shift"]
        z = down * rate + cell.get("level", 0)
        if few and out == "level":
            return (counted(cell, expm1(z)),)
        e = exp(z)
        if out == "inverse":
            return (counted(cell, e),)
        if out == "gap":
            return counted(cell, e), counted(cell, e * (_no_less(down, rate) + cell.get("gap", 0)))
        # what is not real has no exponential that rounding could hit
        some = top > floor(e.dtype)
        return counted(cell, e), counted(cell, jnp.where(some, expm1(z), 0))

    def counted(cell, term):
        return real(cell.get("count", 1) * term, cell.get("mask"))

    def of_sums(around, first, *second):
        if out in ("gap", "inverse"):  # no element, no weight
            return (second[0] if second else 1) / jnp.where(first == 0, 1, first)
        # No quotient is used twice: XLA would make two loops, with all exponentials in both.
        n, share = around["n"], around["share"]
        if few:  # -1 of every element: all are -inf, and weigh nothing at any level
            return jnp.where(first <= -n, 0, first) * share
        # log(mean), near 1 with the part of mean = 1 + excess that is rounded away: all there is
        # at large temperatures. (Elements of -inf are missing from excess; they are no rounding.)
        mean, excess = jnp.where(first == 0, 1, first) * share, second[0] * share
        # (Far from 1, what is lost is rounding of the excess itself: nothing to add.)
        lost = excess - (mean - 1)
        rounding = (jnp.abs(lost) * n < 0.5) & (mean > 0.5)
        if one_region:  # where XLA may compute the mean twice, and not round it alike
            return jnp.where(rounding, log1p(excess), log(mean))
        return log(mean) + jnp.where(rounding, lost / mean, 0)

    return sum_at_windows(terms, of_sums, cells, around, 1 / temperature, group, one_region)


@curved(statics=2)
def _known_means(temperature, state, shift, n, found, group, outs) -> Arrays:
    """`_means`, which are `found`."""
    return found


def _means_jvp(group, outs, primals, tangents):
    found = _means(*primals, group, outs)
    return found, _means_dots(primals, tangents, found, group, outs)


def _known_means_jvp(group, outs, primals, tangents):
    *primals, found = primals
    return found, _means_dots(primals, tangents, found, group, outs)


def _means_dots(primals, tangents, found, group, outs) -> Arrays:
    """With <.> = the softmax-weighted sum of (.) over a window, mean = top + gap, shift fixed:

    level' = <q> - T'/T^2 <down>,                       q = top'/T + level',  down = top - shift
    gap' = <mean'> + <F q> - T'/T^2 <F down>,           F = mean - <mean>

    Where no level is asked for, weights need no logarithm of their sum, but its inverse.
    """
    temperature, state, shift, n = primals
    d_temperature, d_state, *_ = tangents
    cells = {"top": state.top, "mask": state.mask(), "gap": state.gap if "gap" in outs else None}
    if state.level is not None:
        cells["log"] = state.level if state.count is None else state.level + _log(state.count)
    around = {"shift": shift, "gap": found.get("gap")}
    if "level" in outs:
        around |= {"level": found["level"], "log": _log(n)}
        for w in group:  # windows are looked up along these axes
            around["log"] = _stretched(around["log"], w.axis, w.out)
    else:
        around |= found if "inverse" in outs else _means(*primals, group, ("inverse",))
    rest = Sides(_present(cells), _present(around), temperature)
    of_inverse = outs == ("inverse",)
    outs = ("level",) if of_inverse else outs
    dots = dict.fromkeys(outs, jnp.zeros_like(shift))

    moved = {"top": d_state.top, "level": d_state.level, "gap": d_state.gap}
    moved = {k: t for k, t in moved.items() if not (t is None or isinstance(t, SymbolicZero))}
    if moved:
        dots = weigh(moved, rest, outs, group=group)
    if not isinstance(d_temperature, SymbolicZero):
        cells, reached = reach(rest.cells, group, exponentials=True)
        args = cells, rest.around, temperature
        slopes = {"level": d_temperature / temperature, "gap": d_temperature}
        for out, moment in _one_by_one(_moment_of, *args, outs=outs, group=reached).items():
            dots[out] -= slopes[out] * moment
    return {"inverse": -found["inverse"] * dots["level"]} if of_inverse else dots


_means.defjvp(_means_jvp)
_known_means.defjvp(_known_means_jvp)


def _present(arrays: dict[str, Any]) -> Arrays:
    return {k: a for k, a in arrays.items() if a is not None}


def _stretched(a: jax.Array, axis: int, n: int) -> jax.Array:
    return jnp.broadcast_to(a, replace_axis(a.shape, axis, n))


def _log(n: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(n, 1))


def _top(cell: Arrays) -> jax.Array:
    """An element, or what has no weight beside any other."""
    top = cell["top"]
    return jnp.where(cell["mask"], top, floor(top.dtype)) if "mask" in cell else top


def _no_less(down: jax.Array, rate: jax.Array) -> jax.Array:
    """So far below 0 that there is no weight, but not so far that a product with that weight, or
    with the derivative of the rate, is infinite."""
    least = jnp.maximum(WEIGHTLESS / lax.stop_gradient(rate), 0.75 * floor(down.dtype))
    return lax.max(down, jnp.broadcast_to(least, down.shape))


def _weight(cell: Arrays, around: Arrays, rate: jax.Array) -> tuple[jax.Array, ...]:
    """The softmax weight of an element in a window; down = top - shift; F = mean - <mean>."""
    down = _no_less(_top(cell) - around["shift"], rate)
    z = down * rate + cell.get("log", 0) - around.get("level", 0) - around.get("log", 0)
    weight = exp(z) * around.get("inverse", 1)
    live = weight > 0  # no factor may be infinite where there is no weight
    further = down + (cell.get("gap", 0) - around.get("gap", 0))
    return weight, jnp.where(live, down, 0), jnp.where(live, further, 0)


def _moment_of(cells, around, temperature, out, group, one_region=False):
    """<down>/T and <F down>/T^2: numbers without a unit, which do not overflow at any T."""

    def terms(cell, around, rate):
        weight, down, further = _weight(cell, around, rate)
        moment = down * rate
        return (weight * (moment if out == "level" else further * rate * moment),)

    return sum_at_windows(terms, alone, cells, around, 1 / temperature, group, one_region)


def _weigh(tangents: Arrays, rest: Sides, outs: Sequence[str], group: Group) -> Arrays:
    cells = {**rest.cells, **{f"{k}'": t for k, t in tangents.items()}}
    cells, group = reach(cells, group, exponentials=True)
    return _one_by_one(_weigh_of, cells, rest.around, rest.temperature, outs=outs, group=group)


def _weigh_of(cells, around, temperature, out, group, one_region=False):
    """level' = <top'/T + level'> and gap' = <top' + gap' + F (top'/T + level')>."""

    def terms(cell, around, rate):
        weight, _, further = _weight(cell, around, rate)
        q = cell.get("top'", 0) * rate + cell.get("level'", 0)
        if out == "gap":
            q = cell.get("top'", 0) + cell.get("gap'", 0) + further * q
        return (real(weight * q, cell.get("mask")),)

    return sum_at_windows(terms, alone, cells, around, 1 / temperature, group, one_region)


def _weigh_back(cotangents: Arrays, rest: Sides, outs: Sequence[str], group: Group) -> Arrays:
    around = {**rest.around, **{f"{k}'": g for k, g in cotangents.items()}}
    args = rest.cells, around, rest.temperature, group
    return {out: at_elements(_weigh_back_of, *args, exponentials=True, out=out) for out in outs}


def _weigh_back_of(cells, around, temperature, out, group, one_region=False):
    """The transpose of `_weigh_of`: every element's sum over its windows."""

    def term(cell, around, rate):
        weight, _, further = _weight(cell, around, rate)
        mean = around.get("gap'", 0)
        if out == "gap":
            return weight * mean
        level = around.get("level'", 0) + further * mean
        return weight * (level if out == "level" else level * rate + mean)

    dot = sum_at_elements(term, cells, around, 1 / temperature, group, one_region)
    if one_region and "log" in cells:  # the pass before, on the way back, would compute it anew
        dot = lax.optimization_barrier(dot)
    return dot


weigh, _ = linear_pair(
    "weigh",
    _weigh,
    _weigh_back,
    lambda _, rest, group: rest.around["shift"].shape,
    lambda _, rest, group: rest.cells["top"].shape,
)


# ---- sums over a window, and over the windows of an element ----

# Windows at the borders are computed by themselves while the regions have at most BORDERS taps
# together; else the map is padded. Loops take long to compile where each tap is an `exponential` of
# its own: those over windows have at most EXPONENTIALS then, and beside MANY for every element a
# copy costs little. Beside more, so does a copy of all that is around elements, if it adds at most
# 1/THIN along each axis; but not in later passes of a window, when much is kept for others.
# A factor of a window's size up to FACTOR is one pass.
BORDERS, EXPONENTIALS, MANY, THIN, FACTOR = 49, 25, 4, 6, 64


def _fill(name: str, a: jax.Array) -> float:
    """What padding holds: an element, or a window, without weight."""
    sign = {"top": 1, "shift": -1}.get(name, 0)
    return sign * floor(a.dtype) if sign else 0


def _fills(arrays: Arrays) -> dict[str, float]:
    return {k: _fill(k, a) for k, a in arrays.items()}


def _in_rows(group: Group) -> bool:
    """Whether windows are summed over as an axis of their own, not tap by tap."""
    return group[0].size > BLOCK and (isinstance(group[0], Bins) or group[0].disjoint)


def is_laid(group: Group) -> bool:
    """Whether there is an axis of their own for taps, or a gather for each, and no slices."""
    return isinstance(group[0], Bins) or _in_rows(group)


def reach(cells: Arrays, group: Group, exponentials: bool = False) -> tuple[Arrays, Group]:
    """All that the windows reach, for `sum_at_windows`; axes are padded, first ones first, until
    there are at most so many taps."""
    if is_laid(group):
        return cells, group
    most = BORDERS
    if exponentials:
        most = EXPONENTIALS if reads(group) < MANY else 0
    n = next((n for n in range(len(group)) if taps_of(_within(group, n)) <= most), len(group))
    edges = tuple(w.edges() for w in group[:n])
    return {k: _padded(a, edges, _fill(k, a)) for k, a in cells.items()}, _within(group, n)


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
    if _in_rows(group):
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

    return over_outputs(of_region, cells, group, _fills(cells) if one_region else None)


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
    if exponentials and reads(group) > MANY:
        thin = all(w.dilation == 1 and THIN * (w.size - 1) <= w.out for w in group)
        most = 0 if thin else BORDERS
    sources = [[region for p in range(w.stride) for region in w.sources(p)] for w in group]
    taps = prod(sum(len(region.taps) for region in regions) for regions in sources)
    if taps <= most:
        phases = tuple(replace(w, length=w.phase_length * w.stride) for w in group)
        return cells, around, phases
    edges = tuple((w.axis, *w.beyond()) for w in group)
    around = {k: _padded(a, edges, _fill(k, a)) for k, a in around.items()}
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
    """`function`, made of `sum_at_elements`, in a loop of its own."""
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

    fill = _fills(around) if one_region else None
    return over_inputs(of_region, around, group, fill, asked=one_region)


def _padded(x: jax.Array, edges: tuple[tuple[int, int, int], ...], fill: float) -> jax.Array:
    """x with `fill` around it, (axis, low, high); apart, since a pad in a loop slows it down."""
    edges = tuple(edge for edge in edges if any(edge[1:]))
    return apart(pad_all, x, edges=edges, fill=fill) if edges else x
