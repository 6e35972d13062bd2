"""Reductions of bins, which need not be alike, as `_winners` and `_sums` have them for windows.

The first elements of all bins are one gather, the second ones another, and XLA fuses them with what
is made of them: bins are read where they lie. Bins of many elements are parts of few, and windows
over these. Since the bins that see an element follow one another, they are bins of a map of bins:
sums over these (`Bins.transposed`) are the transposes. No scatter, so the same result every time.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpool import _plan, _sums, _winners
from jaxpool._lay import lay
from jaxpool._linear import Curved, apart, linear_pair, primitive
from jaxpool._plan import BLOCK, Group
from jaxpool._slices import as_number, only, rank, real, replace_axis, rounded, unrank, widen, wider
from jaxpool._window import Bins, Window, shape_of

Geometry = Sequence[Window | Bins]


def steps(axes: Geometry) -> Iterator[tuple[Any, ...]]:
    """Windows of axes next to each other, or bins of axes next to each other, last axes first."""
    for _, run in groupby(reversed(axes), type):
        yield tuple(reversed(list(run)))


def laid(axes: Geometry) -> Iterator[tuple[Bins | None, Group]]:
    """What to lay out and then which windows to reduce, last axes first."""
    for group in steps(axes):
        if isinstance(group[0], Window):
            yield None, group
        else:
            yield from ((bins, (bins.window,)) for bins in reversed(group))


def extremum(
    x: jax.Array, axes: Geometry, largest: bool, mask: jax.Array | None = None
) -> jax.Array:
    """As `_winners.extremum`."""
    of_bins = _extremum if jnp.issubdtype(x.dtype, jnp.floating) else _value
    groups = list(steps(_not_kept(axes)))
    if not groups:
        return _winners.masked(x, mask, largest)
    for group in groups:
        if isinstance(group[0], Window):
            x = _winners.extremum(x, group, largest, mask)
        else:
            x = of_bins(_winners.masked(x, mask, largest), mask, group, largest)
        mask = None if mask is None else extremum(mask, group, largest=True)
    return x


def total(
    x: jax.Array,
    axes: Geometry,
    divisor: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
    """As `_sums.total`."""
    dtype, groups = x.dtype, list(steps(_not_kept(axes)))
    if len(groups) > 1 and jnp.issubdtype(dtype, jnp.inexact):
        x = x.astype(wider(dtype))
    for group in groups:
        over = divisor if group is groups[-1] else None
        if isinstance(group[0], Window):
            x = _sums.total(x, group, over, mask)
        elif dtype == jnp.bool_:
            x = extremum(x, group, largest=True, mask=mask)
        else:
            x = _add({"x": real(x, mask)}, over, ("x",), group=group)["x"]
        mask = None
    return real(x, mask).astype(dtype)


def _not_kept(axes: Geometry) -> Geometry:
    """The axes that do not keep every element as it is."""
    return [a for a in axes if isinstance(a, Bins) or not a.idle]


def count(mask: jax.Array | None, axes: Geometry, ndim: int, dtype: Any) -> jax.Array:
    """How many real elements each window or bin holds; one number where all are alike."""
    if mask is None:
        counted: Any = axes
        return _sums.count(None, counted, ndim, padding=False, dtype=dtype)
    return total(as_number(mask, dtype), axes)


def sum_over(terms: Callable, seen: Any, beside: Any, bins: Bins) -> list[jax.Array]:
    """The sums of each of terms(seen[p], beside[i]) over the elements p of bin i."""
    at = bins.axis
    if parts := bins.split(BLOCK):
        few, window = parts
        beside = jax.tree.map(lambda a: _for_each_part(a, window), beside)
        sums = sum_over(terms, seen, beside, few)
        return [_sums.total(a, (window,)) for a in sums]
    terms = jax.jit(terms)  # traced once, not for every tap
    sums: list[jax.Array] = []
    for tap, own in bins.taps():
        each = terms(jax.tree.map(lambda a, tap=tap: lay(a, at, tap), seen), beside)
        each = [only(np.array(own), term, at) for term in each]
        sums = [a + b for a, b in zip(sums, each, strict=True)] if sums else each
    return sums


def _for_each_part(a: jax.Array, window: Window) -> jax.Array:
    """What has one value per window (or one for all along its axis), beside what it sees."""
    return a if a.shape[window.axis] == 1 else jnp.repeat(a, window.size, window.axis)


def _together(x: jax.Array, group: tuple[Bins, ...]) -> list[tuple[Bins, ...]]:
    """All axes at once where bins are small, else one after the other, as `_plan.groups_of`."""
    if prod(bins.size for bins in group) <= BLOCK:
        return [group]
    each: list[tuple[Bins, ...]] = [(bins,) for bins in group]
    return each[::-1] if _plan.is_long(x, group) else each


# ---- max and min ----


def _value(x: jax.Array, _: jax.Array | None, group: tuple[Bins, ...], largest: bool) -> jax.Array:
    for together in _together(x, group):
        if parts := together[0].split(BLOCK):
            few, window = parts
            x = _winners.extremum(_value(x, None, (few,), largest), (window,), largest)
        else:
            x = apart(_best, x, group=together, largest=largest)
    return x


def _best(x: jax.Array, group: tuple[Bins, ...], largest: bool) -> jax.Array:
    best = rank(x, largest)
    for bins in reversed(group):
        each = [lay(best, bins.axis, tap) for tap, _ in bins.taps()]
        best = _winners.best_of(each, largest)
    return unrank(best, x.dtype)


_extremum = Curved(_value, statics=2)


@_extremum.defjvp
def _(group, largest, primals, tangents):
    (x, mask), tangent = primals, tangents[0]
    for bins in reversed(group):
        first = ()
        if mask is not None:
            mask, *first = _value_and_winner(mask, bins=bins, largest=True)
        x, winner = _value_and_winner(x, *first, bins=bins, largest=largest)
        tangent = _pick({"t": tangent}, winner, ("t",), bins=bins)["t"]
    return x, tangent


def _value_and_winner(
    x: jax.Array, *first: jax.Array, bins: Bins, largest: bool
) -> list[jax.Array]:
    """As `_winners.value_and_winner`; each in a loop of its own, or the gathers would be stored."""
    if parts := bins.split(BLOCK):
        few, window = parts
        value, winner = _value_and_winner(x, bins=few, largest=largest)
        at = {"t": _positions(winner, few)[1]}
        value, part = _winners.value_and_winner(value, group=(window,), largest=largest)
        won = _winners.pick(at, part, ("t",), group=(window,))["t"]
        winner = (won - _along(bins.starts, bins, won.ndim)).astype(_winners.index(bins.size - 1))
    else:
        value = apart(_best, x, group=(bins,), largest=largest)
        winner = apart(_first, x, value, bins=bins)
    return [value, _winners.instead(winner, first[0], value, largest) if first else winner]


def _first(x: jax.Array, value: jax.Array, bins: Bins) -> jax.Array:
    """The first element of each bin that is the value, or NaN."""
    taps = [widen(lay(x, bins.axis, tap)) for tap, _ in bins.taps()]
    value, winner = widen(value), jnp.full(value.shape, len(taps) - 1, jnp.uint8)
    for number, tap in reversed(list(enumerate(taps[:-1]))):
        winner = jnp.where((tap == value) | (tap != tap), jnp.uint8(number), winner)
    return winner


def _pick_of(t: dict, winner: jax.Array, _: Any, bins: Bins) -> dict:
    """out[i] = t[the element that won bin i]."""
    return {"t": apart(_pick_won, t["t"], winner, bins=bins)}


def _spread_of(g: dict, winner: jax.Array, _: Any, bins: Bins) -> dict:
    """The transpose: dx[p] = the sum of g[i] over the bins i that p won."""
    return {"t": apart(_spread_won, g["t"], winner, bins=bins)}


def _pick_won(t: jax.Array, winner: jax.Array, bins: Bins) -> jax.Array:
    position, won = _positions(winner, bins)
    return sum_over(_where_equal, (t, position), won, bins)[0].astype(t.dtype)


def _spread_won(g: jax.Array, winner: jax.Array, bins: Bins) -> jax.Array:
    position, won = _positions(winner, bins)
    return rounded(sum_over(_where_equal, (g, won), position, bins.transposed())[0], g.dtype)


def _where_equal(seen: tuple[jax.Array, jax.Array], other: jax.Array) -> list[jax.Array]:
    value, number = widen(seen[0]), seen[1]
    return [jnp.where(number == other, value, jnp.zeros((), value.dtype))]


def _positions(winner: jax.Array, bins: Bins) -> tuple[jax.Array, jax.Array]:
    """The number of each element along the axis, and of the one that won each bin."""
    position, start = (_along(n, bins, winner.ndim) for n in (range(bins.length), bins.starts))
    return jnp.asarray(position), winner.astype(jnp.int32) + start


def _along(numbers: Sequence[int], bins: Bins, ndim: int) -> np.ndarray:
    return np.reshape(np.asarray(numbers, np.int32), replace_axis((1,) * ndim, bins.axis, -1))


_pick, _ = linear_pair(
    "pick_bins",
    _pick_of,
    _spread_of,
    lambda t, winner, bins: winner.shape,
    lambda g, winner, bins: replace_axis(winner.shape, bins.axis, bins.length),
)
_value_and_winner = primitive(
    "extremum_bins",
    _value_and_winner,
    lambda x, *_, bins, largest: [
        (shape_of([bins], x.shape), None),
        (shape_of([bins], x.shape), _winners.index(bins.size - 1)),
    ],
    jvp=lambda outs, t, *, bins, largest: _pick({"t": t}, outs[1], ("t",), bins=bins)["t"],
)


# ---- sums ----


def _sum(x: dict, divisor: Any, _: Any, group: tuple[Bins, ...]) -> dict:
    return {"x": _sums.divided(_sum_bins(x["x"], group), divisor, x["x"].dtype)}


def _sum_back(g: dict, divisor: Any, _: Any, group: tuple[Bins, ...]) -> dict:
    dtype = g["x"].dtype
    y = widen(g["x"])
    y = y if divisor is None else y / divisor
    return {"x": rounded(_sum_bins(y, tuple(bins.transposed() for bins in group)), dtype)}


def _sum_bins(x: jax.Array, group: tuple[Bins, ...]) -> jax.Array:
    for together in _together(x, group):
        x = apart(_sum_together, x, group=together)
    return x


def _sum_together(x: jax.Array, group: tuple[Bins, ...]) -> jax.Array:
    x = widen(x)
    for bins in reversed(group):
        (x,) = sum_over(lambda x, _: [x], x, None, bins)
    return x


_add, _ = linear_pair(
    "add_bins",
    _sum,
    _sum_back,
    lambda x, _, group: shape_of(group, x.shape),
    lambda g, _, group: shape_of([bins.transposed() for bins in group], g.shape),
)
