"""Large windows whose size and stride share no factor, as pieces of the map that do not overlap.

Of k = m*s + r elements, s apart, each window is m rows of s elements and the first r of another. So
the map is cut into rows, and rows into r elements and the s - r behind them. These pieces, each of
which is read once, are reduced first, and then windows of 2m + 1 of them, two apart: over a map of
two elements for every stride. (Where r is s, rows are not cut: windows are m + 1 of them. Of those
that do not overlap, m is 0.)

Sums, and extremes alone, read pieces where they lie (`in_place`); for others, winners among them,
which read pieces in several loops, they are arrays of their own (`pieces`). If these are almost of
one length, they are made so and are one program: the few elements that the longer ones have more
are another piece of each row.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxpool._linear import apart, full_like, is_split, linear_pair
from jaxpool._plan import Group, is_even, takes_turns
from jaxpool._slices import cut, join, moving, pad, replace_axis
from jaxpool._window import Window, all_of


def is_taken(x: jax.Array, window: Any, rows: bool = False) -> bool:
    """Whether an axis of x is reduced by turns: not if devices share it."""
    return takes_turns(window, rows) and not is_split(x, [window.axis])


def next_of(
    x: jax.Array, windows: Sequence[Any], rows: bool = False
) -> tuple[Group, Window, Group] | None:
    """The last axis to be reduced by turns, between those before it and those behind it; `rows` as
    for `takes_turns`."""
    for i in reversed(range(len(windows))):
        if is_taken(x, windows[i], rows):
            return tuple(windows[:i]), windows[i], tuple(windows[i + 1 :])
    return None


def in_turns(
    fold: Callable,
    x: jax.Array,
    windows: Sequence[Any],
    mask: Any = None,
    some: Callable | None = None,
    rows: bool = False,
) -> tuple[jax.Array, Any, Any]:
    """x, windows and mask after all by `fold(x, windows, mask)` that is left to do then.

    `some(mask, windows)` says which windows hold anything real; None where those that hold nothing
    are 0, as padding is.
    """

    def both(state: tuple, windows: Group) -> tuple:
        x, mask = state
        return fold(x, windows, mask), some(mask, windows) if some and mask is not None else None

    while found := next_of(x, windows, rows):
        before, window, behind = found
        if behind:
            x, mask = both((x, mask), behind)
        if some and mask is None and window.padded:
            mask = inside(x, (*before, window))
        x, mask = piecewise(both, (x, mask), window)
        windows = (*before, over(window, even=True))
    return x, windows, mask


def piecewise(fold: Callable, state: Any, window: Window, fill: Any = None) -> Any:
    """`fold(state, windows)` of each kind of pieces of a tree of arrays, by turns along one axis;
    `fill`, alike, is what padding holds, 0 if not said."""
    arrays, tree = jax.tree.flatten(state)
    fills = jax.tree.leaves(fill) or [0] * len(arrays)
    kinds = zip(*(pieces(a, window, f) for a, f in zip(arrays, fills, strict=True)), strict=True)
    axis, results = window.axis, []
    for kind in kinds:
        windows = (all_of(axis, kind[0].shape[axis]),)
        results.append(fold(jax.tree.unflatten(tree, kind), windows))
    return jax.tree.map(lambda *a: woven([b.squeeze(axis) for b in a], window, even=True), *results)


class Kind(NamedTuple):
    """The `n` pieces of one length: so many `beside` each other in every row, from the element
    `start` on. (The last row is as long as a window's last part.)"""

    start: int
    size: int
    beside: int
    n: int


def _rows(window: Window) -> tuple[int, int]:
    """How many rows there are, and how many elements of the last one: m + the windows, and r."""
    m, rest = divmod(window.size - 1, window.stride)
    return window.out + m, rest + 1


def _kinds(window: Window, even: bool) -> list[Kind]:
    """Which pieces there are in a row; `even`: of one length, if they almost are."""
    (rows, rest), s = _rows(window), window.stride
    if rows == window.out or rest == s:
        return [Kind(0, rest, 1, rows)]
    others = s - rest
    if not (even and is_even(rest, others)):
        return [Kind(0, rest, 1, rows), Kind(rest, others, 1, rows - 1)]
    size, more = min(rest, others), abs(rest - others)
    both = Kind(0, size, 2, 2 * rows - 1)
    if rest > others:
        return [Kind(0, more, 1, rows), both._replace(start=more)]
    return [both, Kind(2 * size, more, 1, rows - 1)] if more else [both]


def over(window: Window, even: bool = False) -> Window:
    """The window over the pieces."""
    kinds = _kinds(window, even)
    a_row, length = sum(kind.beside for kind in kinds), sum(kind.n for kind in kinds)
    size = length - (window.out - 1) * a_row
    return Window(window.axis, length, size, a_row, 1, 0, 0, window.out)


def in_place(window: Window) -> list[Window]:
    """The pieces, not made even, as windows over the map itself."""
    return [
        replace(window, size=kind.size, low=window.low - kind.start, out=kind.n)
        for kind in _kinds(window, even=False)
    ]


def inside(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """Which elements of the map are real: all. What `pieces` adds is not."""
    axes = [x.ndim + window.axis for window in windows]
    return jnp.ones([n if i in axes else 1 for i, n in enumerate(x.shape)], bool)


def pieces(a: jax.Array, window: Window, fill: Any = 0) -> list[jax.Array]:
    """The pieces of each kind: every pooled axis as two, the pieces and then their elements, and
    padding as `fill`."""
    a = jnp.broadcast_to(a, replace_axis(a.shape, window.axis, window.length))
    kinds = _named(window)
    found = _cut({"x": a}, (), tuple(kinds), window=window, fill=fill)
    return [_table(found[k], window.axis, kind.n) for k, kind in kinds.items()]


def _named(window: Window) -> dict[str, Kind]:
    """The pieces that are arrays of their own, by name."""
    return {str(kind.start): kind for kind in _kinds(window, even=True)}


def _table(a: jax.Array, axis: int, rows: int) -> jax.Array:
    """An axis as two, rows and their elements."""
    at = a.ndim + axis
    return a.reshape(*a.shape[:at], rows, a.shape[at] // rows, *a.shape[at + 1 :])


def _flat(a: jax.Array, axis: int) -> jax.Array:
    """`_table` undone."""
    at = a.ndim + axis
    return a.reshape(*a.shape[: at - 1], a.shape[at - 1] * a.shape[at], *a.shape[at + 1 :])


def _cut_of(x: dict, _: Any, outs: Sequence[str], window: Window, fill: Any) -> dict:
    kinds = _named(window)
    return {k: apart(_pieces_of, x["x"], kind=kinds[k], window=window, fill=fill) for k in outs}


@moving
def _pieces_of(x: jax.Array, kind: Kind, window: Window, fill: Any) -> jax.Array:
    axis, s, low, (rows, _) = window.axis, window.stride, window.low, _rows(window)
    a_row, last = _in_a_row(kind, rows)
    # To pad x would copy it, if only for the last row to be whole.
    by_itself = last and not window.padded and window.length + low < rows * s
    whole = rows if last and not by_itself else rows - 1
    laid = _table(pad(x, axis, low, whole * s - low - window.length, fill), axis, whole)
    found = _flat(cut(laid, axis, kind.start, a_row), axis)
    if by_itself:
        return join([found, cut(x, axis, whole * s + kind.start - low, last)], axis)
    return pad(found, axis, 0, kind.n * kind.size - whole * a_row)


def _in_a_row(kind: Kind, rows: int) -> tuple[int, int]:
    """How many elements of each row there are, and of the last one."""
    a_row = kind.beside * kind.size
    return a_row, kind.n * kind.size - (rows - 1) * a_row


def _cut_back(g: dict, _: Any, __: Any, window: Window, fill: Any) -> dict:
    return {"x": apart(_put, g, window=window)}


@moving
def _put(g: dict, window: Window) -> jax.Array:
    """Every element back at its place, and 0 at those that are in no window."""
    axis, s, (rows, rest) = window.axis, window.stride, _rows(window)
    (like, *_) = g.values()
    tables, lasts = [], []
    for k, kind in _named(window).items():
        a_row, last = _in_a_row(kind, rows)
        shape = replace_axis(like.shape, axis, kind.n * kind.size)
        a = g[k] if k in g else full_like(like, shape, 0, like.dtype)
        tables.append(_table(cut(a, axis, 0, (rows - 1) * a_row), axis, rows - 1))
        if last:
            lasts.append(cut(a, axis, (rows - 1) * a_row, last))
    head = join(tables, axis)
    head = pad(head, axis, 0, s - head.shape[axis])
    dx = join([_flat(head, axis), *lasts], axis)
    return pad(dx, axis, -window.low, window.length + window.low - (rows - 1) * s - rest)


_cut, _ = linear_pair(
    "cut",
    _cut_of,
    _cut_back,
    lambda x, _, window, fill: {
        k: replace_axis(x.shape, window.axis, kind.n * kind.size)
        for k, kind in _named(window).items()
    },
    lambda g, _, window, fill: replace_axis(g.shape, window.axis, window.length),
)


def beside(a: jax.Array, x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """What has as many axes as the map, beside x: the map, or pieces of it, which have one more."""
    return a if a.ndim == x.ndim else jnp.expand_dims(a, a.ndim + windows[0].axis)


def woven(results: list[jax.Array], window: Window, even: bool = False) -> jax.Array:
    """What there is of each kind of pieces, row by row."""
    axis, (rows, _), tables = window.axis, _rows(window), []
    for a, kind in zip(results, _kinds(window, even), strict=True):
        tables.append(_table(pad(a, axis, 0, rows * kind.beside - kind.n), axis, rows))
    return cut(_flat(join(tables, axis), axis), axis, 0, over(window, even).length)


def unwoven(g: jax.Array, window: Window) -> list[jax.Array]:
    """`woven`, undone."""
    rows, kinds = _rows(window)[0], len(_kinds(window, even=False))
    return [cut(g, window.axis, i, rows - i, kinds) for i in range(kinds)]


def spread(g: list[jax.Array], window: Window) -> jax.Array:
    """What every piece of windows that overlap has, at each of its elements; 0 at those that are in
    no window."""
    axis, s, (rows, rest) = window.axis, window.stride, _rows(window)
    first, *others = [jnp.expand_dims(a, a.ndim + axis + 1) for a in g]
    each = jnp.broadcast_to(first, replace_axis(first.shape, axis, s))
    for other in others:
        at = lax.broadcasted_iota(jnp.int32, each.shape, each.ndim + axis)
        each = jnp.where(at < rest, each, pad(other, axis - 1, 0, 1))
    dx = _flat(each, axis)
    return pad(dx, axis, -window.low, window.length + window.low - rows * s)
