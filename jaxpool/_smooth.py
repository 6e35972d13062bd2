"""Log-sum-exp and softmax-weighted means of windows, and their derivatives.

Few axes with few taps are folded together, the others one after the other, large windows in several
passes. A pass is two kinds of sums: over the elements of each window (`sum_at_windows`: values and
tangents) and over the windows of each element (`sum_at_elements`: cotangents). What is summed is
said once, as a function of an element and its window.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxpool import _reduce
from jaxpool._geometry import Window
from jaxpool._linear import apart, linear_pair
from jaxpool._reduce import BLOCK, DIRECT, Group, size_of, together
from jaxpool._slices import along_rows, cut, interleave, pad, rows, unrows

Arrays = dict[str, jax.Array]


class Smooth(NamedTuple):
    """What LSE and softmax pooling are made of, for every element or window:

        T*log(mean exp(x/T)) = top + T*level,    sum softmax(x/T)*x = top + gap.

    top is the largest element, and level = log(mean exp((x - top)/T)) lies in [-log n, 0], so no
    exponent is above 0 and every weight is exact to rounding, whatever the size of x/T: the sums
    have already lost what weights and derivatives need. Where an element is not real, or is -inf,
    top is `floor`, which has no weight beside any other.

    An element itself has level 0, count 1 and gap 0, all three written None; later, count None says
    that all windows hold equally many elements.
    """

    top: jax.Array
    level: Any = None
    count: Any = None
    gap: Any = None


class Sides(NamedTuple):
    """What the weight of an element in a window depends on: arrays at elements, at windows, T."""

    cells: Arrays
    around: Arrays
    temperature: jax.Array


def floor(dtype: Any) -> float:
    """What stands for -inf among the elements, so that they never meet as inf - inf."""
    return float(jnp.finfo(dtype).min)


def smooth(
    x: jax.Array,
    windows: Sequence[Window],
    temperature: jax.Array,
    mask: jax.Array | None,
    gap: bool,
) -> Smooth:
    """Fold every window of x into one `Smooth`; its gap only where asked for."""
    state = Smooth(x)
    if mask is not None:
        state = Smooth(jnp.where(mask, x, -jnp.inf), count=mask.astype(x.dtype))
    steps = [
        list(_few_taps(axes)) for axes in together(windows, lambda group: size_of(group) <= BLOCK)
    ]
    for passes in steps:
        if mask is None:  # counts differ along an axis, never across
            state = state._replace(count=None)
        for group in passes:
            last = group is steps[-1][-1]
            outs = ("gap",) if gap and last else ("level", "gap") if gap else ("level",)
            state = _fold(state, group, temperature, outs)
    return state


def _few_taps(axes: Group) -> Iterator[Group]:
    """A large window that overlaps its neighbours as passes of few taps."""
    if len(axes) > 1 or axes[0].size <= BLOCK:
        yield axes
    else:
        yield from (p.windows for p in axes[0].passes(DIRECT, overlap=False))


def _fold(state: Smooth, group: Group, temperature: jax.Array, outs: tuple[str, ...]) -> Smooth:
    # The shift cancels out of every result, so it needs no derivative.
    shift = _reduce.extremum(lax.stop_gradient(state.top), group, largest=True)
    shift = lax.max(shift, jnp.full_like(shift, floor(shift.dtype)))
    if state.count is None:
        n = _reduce.count(None, group, shift.ndim, padding=False).astype(shift.dtype)
    else:
        n = _reduce.total(state.count, group)
    found = _means(temperature, state, shift, n, group, outs)
    # Equal counts cancel out of all that follows; a mask's are never taken to be equal.
    uniform = state.count is None and n.size == 1
    return Smooth(shift, found.get("level"), None if uniform else n, found.get("gap"))


@partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def _means(temperature, state, shift, n, group, outs) -> Arrays:
    """The level and the gap of every window, given its top (`shift`) and count."""
    cells, around = reach(_present(state._asdict()), group), {"shift": shift}
    return _one_by_one(_means_of, cells, around, temperature, n, group=group, outs=outs)


def _one_by_one(function: Callable, *args: Any, outs: Sequence[str], group: Group) -> Arrays:
    """Each result in a loop of its own: one loop has one result, and exponentials that two of them
    share would be stored, for every tap."""
    return {out: apart(function, *args, outs=(out,), group=group)[out] for out in outs}


def _means_of(cells, around, temperature, n, group, outs):
    def terms(cell, around, temperature):
        down = _below(cell["top"], around["shift"])
        z = down / temperature + cell.get("level", 0)
        e = jnp.exp(z)
        count = cell.get("count", 1)
        yield count * e
        if "level" in outs:
            yield count * jnp.where(cell["top"] > floor(e.dtype), _expm1(z, e), 0)
        if "gap" in outs:
            yield count * e * (down + cell.get("gap", 0))

    weight, *sums = sum_at_windows(terms, cells, around, temperature, group)
    weight = jnp.where(weight == 0, 1, weight)  # no element, no weight
    found = {}
    if "level" in outs:
        n = jnp.maximum(n, 1)
        mean, excess = weight / n, sums[0] / n
        # log(mean), near 1 with the part of mean = 1 + excess that is rounded away: all there is
        # at large temperatures. (Elements of -inf are missing from excess; they are no rounding.)
        lost = excess - (mean - 1)
        found["level"] = jnp.log(mean) + jnp.where(jnp.abs(lost) * n < 0.5, lost / mean, 0)
    if "gap" in outs:
        found["gap"] = sums[-1] / weight
    return found


def _expm1(z: jax.Array, exp: jax.Array) -> jax.Array:
    """exp(z) - 1 for z <= 0, given exp(z): near 0 its series, which loses no digits there."""
    near = -0.001 if z.dtype == jnp.float64 else -0.05
    return jnp.where(z > near, z * (1 + z * (1 / 2 + z * (1 / 6 + z / 24))), exp - 1)


def _means_jvp(group, outs, primals, tangents):
    """With <.> = the softmax-weighted sum of (.) over a window, mean = top + gap, shift fixed:

    level' = <q> - T'/T^2 <down>,                       q = top'/T + level',  down = top - shift
    gap' = <mean'> + <F q> - T'/T^2 <F down>,           F = mean - <mean>
    """
    temperature, state, shift, n = primals
    d_temperature, d_state, *_ = tangents
    found = _means(*primals, group, outs)
    level = found["level"] if "level" in outs else _means(*primals, group, ("level",))["level"]
    cells = {"top": state.top, "gap": state.gap if "gap" in outs else None}
    if state.level is not None:
        cells["log"] = state.level if state.count is None else state.level + _log(state.count)
    elif state.count is not None:
        cells["log"] = _log(state.count)
    around = {"shift": shift, "norm": level + _log(n), "gap": found.get("gap")}
    rest = Sides(_present(cells), _present(around), temperature)
    dots = dict.fromkeys(outs, jnp.zeros_like(shift))

    moved = {"top": d_state.top, "level": d_state.level, "gap": d_state.gap}
    moved = {k: t for k, t in moved.items() if not (t is None or isinstance(t, SymbolicZero))}
    if moved:
        dots = weigh(moved, rest, outs, group=group)
    if not isinstance(d_temperature, SymbolicZero):

        def terms(cell, around, temperature):
            weight, down, further = _weight(cell, around, temperature)
            yield from [weight * {"level": down, "gap": further * down}[out] for out in outs]

        rate = d_temperature / (temperature * temperature)
        moments = sum_at_windows(terms, *rest._replace(cells=reach(rest.cells, group)), group)
        for out, moment in zip(outs, moments, strict=True):
            dots[out] -= rate * moment
    return found, dots


_means.defjvp(_means_jvp, symbolic_zeros=True)


def _present(arrays: dict[str, Any]) -> Arrays:
    return {k: a for k, a in arrays.items() if a is not None}


def _log(n: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(n, 1))


def _below(a: jax.Array, b: jax.Array) -> jax.Array:
    """a - b, but no further below 0 than its derivatives can stand: no weight all the same."""
    difference = a - b
    return lax.max(difference, jnp.full_like(difference, -1e30))


def _weight(cell: Arrays, around: Arrays, temperature: jax.Array) -> tuple[jax.Array, ...]:
    """The softmax weight of an element in a window; down = top - shift; F = mean - <mean>."""
    down = _below(cell["top"], around["shift"])
    weight = jnp.exp(down / temperature + cell.get("log", 0) - around["norm"])
    live = weight > 0  # no factor may be infinite where there is no weight
    further = down + (cell.get("gap", 0) - around.get("gap", 0))
    return weight, jnp.where(live, down, 0), jnp.where(live, further, 0)


def _weigh(tangents: Arrays, rest: Sides, outs: Sequence[str], group: Group) -> Arrays:
    cells = reach({**rest.cells, **{f"{k}'": t for k, t in tangents.items()}}, group)
    args = cells, rest.around, rest.temperature
    return _one_by_one(_weigh_of, *args, outs=outs, group=group)


def _weigh_of(cells, around, temperature, outs, group):
    """level' = <top'/T + level'> and gap' = <top' + gap' + F (top'/T + level')>."""

    def terms(cell, around, temperature):
        weight, _, further = _weight(cell, around, temperature)
        q = cell.get("top'", 0) / temperature + cell.get("level'", 0)
        if "level" in outs:
            yield weight * q
        if "gap" in outs:
            yield weight * (cell.get("top'", 0) + cell.get("gap'", 0) + further * q)

    return dict(zip(outs, sum_at_windows(terms, cells, around, temperature, group), strict=True))


def _weigh_back(cotangents: Arrays, rest: Sides, outs: Sequence[str], group: Group) -> Arrays:
    around = {**rest.around, **{f"{k}'": g for k, g in cotangents.items()}}
    cells, around = surround(rest.cells, around, group)
    args = cells, around, rest.temperature
    return _one_by_one(_weigh_back_of, *args, outs=outs, group=group)


def _weigh_back_of(cells, around, temperature, outs, group):
    """The transpose of `_weigh_of`: every element's sum over its windows."""

    def terms(cell, around, temperature):
        weight, _, further = _weight(cell, around, temperature)
        mean = around.get("gap'", 0)
        level = around.get("level'", 0) + further * mean
        for out in outs:
            yield weight * {"top": level / temperature + mean, "level": level, "gap": mean}[out]

    sums = sum_at_elements(terms, len(outs), cells, around, temperature, group)
    return dict(zip(outs, sums, strict=True))


weigh, _ = linear_pair(
    "weigh",
    _weigh,
    _weigh_back,
    lambda _, rest, group: rest.around["shift"].shape,
    lambda _, rest, group: rest.cells["top"].shape,
)


# ---- sums over a window, and over the windows of an element ----

Terms = Callable[[Arrays, Arrays, jax.Array], Iterator[jax.Array]]


def _fill(name: str, a: jax.Array) -> float:
    """What padding holds: an element, or a window, without weight."""
    return {"top": floor(a.dtype), "shift": -floor(a.dtype)}.get(name, 0)


def _in_rows(group: Group) -> bool:
    """Whether windows are summed over as an axis of their own, not tap by tap."""
    return group[0].disjoint and group[0].size > BLOCK


def reach(cells: Arrays, group: Group) -> Arrays:
    """All that the windows reach, for `sum_at_windows`."""
    edges = () if _in_rows(group) else tuple((w.axis, w.low, max(w.overhang, 0)) for w in group)
    return {k: _padded(a, edges, _fill(k, a)) for k, a in cells.items()}


def sum_at_windows(
    terms: Terms, cells: Arrays, around: Arrays, temperature: jax.Array, group: Group
) -> list[jax.Array]:
    """out[i] = the sum of each of terms(cells[p], around[i]) over the elements p of window i."""
    if _in_rows(group):
        cells = {k: rows(a, group, _fill(k, a)) for k, a in cells.items()}
        around = {k: along_rows(a, group) for k, a in around.items()}
        each = terms(cells, around, along_rows(temperature, group))
        return [term.sum(term.ndim + group[0].axis) for term in each]
    sums: list[jax.Array] = []
    for tap in product(*(range(window.size) for window in group)):
        here = cells
        for j, w in zip(tap, group, strict=True):
            here = {k: cut(a, w.axis, j * w.dilation, w.out, w.stride) for k, a in here.items()}
        more = terms(here, around, temperature)
        sums = _add(sums, more) if sums else list(more)
    return sums


def surround(cells: Arrays, around: Arrays, group: Group) -> tuple[Arrays, Arrays]:
    """Every phase of the strides complete, and all windows that one could look for."""
    if all(window.disjoint for window in group):
        return cells, around
    spare = tuple((w.axis, 0, w.phase_length * w.stride - w.length) for w in group)
    edges = tuple((w.axis, *w.beyond()) for w in group)
    return (
        {k: _padded(a, spare, _fill(k, a)) for k, a in cells.items()},
        {k: _padded(a, edges, _fill(k, a)) for k, a in around.items()},
    )


def sum_at_elements(
    terms: Terms,
    n: int,
    cells: Arrays,
    around: Arrays,
    temperature: jax.Array,
    group: Group,
) -> list[jax.Array]:
    """out[p] = the sum of each of n terms(cells[p], around[i]) over the windows i that see p."""
    if all(window.disjoint for window in group):
        cells = {k: rows(a, group, _fill(k, a)) for k, a in cells.items()}
        around = {k: along_rows(a, group) for k, a in around.items()}
        each = terms(cells, around, along_rows(temperature, group))
        return [unrows(term, group) for term in each]

    def of_phases(*phases: int) -> list[jax.Array]:
        """The elements phase, phase + stride, ... along the first axes of the group."""
        if len(phases) < len(group):
            window = group[len(phases)]
            parts = [of_phases(*phases, phase) for phase in range(window.stride)]
            return [interleave(each, window) for each in zip(*parts, strict=True)]
        slabs = cells
        for phase, w in zip(phases, group, strict=True):
            slabs = {k: cut(a, w.axis, phase, w.phase_length, w.stride) for k, a in slabs.items()}
        sums = [jnp.zeros_like(slabs["top"])] * n
        for ahead in product(*(w.ahead(p).values() for p, w in zip(phases, group, strict=True))):
            here = around
            for i, w in zip(ahead, group, strict=True):
                low, _ = w.beyond()
                here = {k: cut(a, w.axis, low + i, w.phase_length) for k, a in here.items()}
            sums = _add(sums, terms(slabs, here, temperature))
        return sums

    return of_phases()


def _padded(x: jax.Array, edges: tuple[tuple[int, int, int], ...], fill: float) -> jax.Array:
    """x with `fill` around it, (axis, low, high); apart, since a pad in a loop slows it down."""
    edges = tuple(edge for edge in edges if any(edge[1:]))
    return apart(_pad, x, edges=edges, fill=fill) if edges else x


def _pad(x: jax.Array, edges: tuple[tuple[int, int, int], ...], fill: float) -> jax.Array:
    for edge in edges:
        x = pad(x, *edge, fill)
    return x


def _add(sums: list[jax.Array], terms: Iterator[jax.Array]) -> list[jax.Array]:
    return [a + b for a, b in zip(sums, terms, strict=True)]
