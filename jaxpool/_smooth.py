"""Log-sum-exp and softmax-weighted means of windows, and their derivatives.

Few axes with few taps are folded together, the others one after the other, large windows in several
passes. A pass is sums over pairs of an element and its window (`_pairs`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxpool import _bins
from jaxpool._exponential import exp, expm1, log, log1p
from jaxpool._linear import apart, curved, linear_pair
from jaxpool._pairs import (
    Arrays,
    alone,
    at_elements,
    fills,
    floor,
    folds,
    in_rows,
    present,
    reach,
    sum_at_elements,
    sum_at_windows,
)
from jaxpool._plan import Group
from jaxpool._regions import ONE_REGION
from jaxpool._slices import as_number, real, replace_axis
from jaxpool._turns import beside, inside, next_of, over, piecewise
from jaxpool._window import Window


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
    state = Smooth(x, count=None if mask is None else as_number(mask, x.dtype))
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
        pieces = over(window, even=True)
        if pieces.idle:
            state = _in_turns(fold, state, window, *at_last)
        else:
            state = fold(_in_turns(fold, state, window), (pieces,), *at_last)
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
        return present(done._replace(count=count)._asdict())

    arrays = present(state._asdict())
    return Smooth(**piecewise(of_pieces, arrays, window, fills(arrays)))


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
    cells = present({**state._asdict(), "count": count, "mask": mask})
    cells, reached = reach(cells, group, exponentials=True)
    # A level that only makes weights need not be exact near 0. One that is, of few elements, none
    # of them padding, needs one sum only, that of exp(z) - 1.
    exact = "gap" not in outs
    few = exact and state.level is None and reached == group and not in_rows(group)
    around = {"shift": shift, "n": n, "share": 1 / jnp.maximum(n, 1)}
    args, how = (cells, around, temperature), {"few": few, "exact": exact}
    found = _one_by_one(_means_of, *args, outs=outs, group=reached, **how)
    if few and "level" in found:  # two loops are quicker than one of both
        found["level"] = apart(log1p, found["level"])
    return found


def _one_by_one(function: Callable, *args: Any, outs: Sequence[str], **how: Any) -> Arrays:
    """Each result in a loop of its own: one loop has one result, and exponentials that two of them
    share would be stored, for every tap."""
    return {out: apart(function, *args, elsewhere=ONE_REGION, out=out, **how) for out in outs}


def _means_of(cells, around, temperature, out, group, few, exact, one_region=False):
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
        if out == "inverse" or (out == "level" and not exact):
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
        mean = jnp.where(first == 0, 1, first) * share
        if not exact:
            return log(mean)
        # log(mean), near 1 with the part of mean = 1 + excess that is rounded away: all there is
        # at large temperatures. (Elements of -inf are missing from excess; they are no rounding.)
        excess = second[0] * share
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
    rest = Sides(present(cells), present(around), temperature)
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
