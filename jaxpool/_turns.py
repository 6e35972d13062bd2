"""Large windows whose size and stride share no factor, as pieces of the map that do not overlap.

Of k = m*s + r elements, s apart, each window is m rows of s elements and the first r of another. So
the map is cut into rows, and rows into r elements and the s - r behind them. These pieces, each of
which is read once, are reduced first, and then windows of 2m + 1 of them, two apart: over a map of
two elements for every stride. (Where r is s, rows are not cut: windows are m + 1 of them. Of those
that do not overlap, m is 0.)

Sums, and extremes alone, read pieces where they lie (`in_place`); for others, winners among them,
which read pieces in several loops, they are arrays of their own (`pieces`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxpool._linear import apart, full_like, is_split, linear_pair
from jaxpool._plan import Group, takes_turns
from jaxpool._slices import cut, interleave, join, pad, replace_axis
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
        windows = (*before, over(window))
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
    return jax.tree.map(lambda *a: woven([b.squeeze(axis) for b in a], window), *results)


def _rows(window: Window) -> tuple[int, int]:
    """How many rows there are, and how many elements of the last one: m + the windows, and r."""
    m, rest = divmod(window.size - 1, window.stride)
    return window.out + m, rest + 1


def over(window: Window) -> Window:
    """The window over the pieces."""
    rows, _ = _rows(window)
    m, kinds = rows - window.out, len(_kinds(window))
    length = rows if kinds == 1 else 2 * rows - 1
    return Window(window.axis, length, kinds * m + 1, kinds, 1, 0, 0, window.out)


def _kinds(window: Window) -> tuple[str, ...]:
    """Which pieces there are in a window."""
    rows, rest = _rows(window)
    cut = rows > window.out and rest < window.stride
    return ("first", "others") if cut else ("first",)


def in_place(window: Window) -> list[Window]:
    """The same pieces as windows over the map itself."""
    rows, rest = _rows(window)
    first = replace(window, size=rest, out=rows)
    others = replace(window, size=window.stride - rest, low=window.low - rest, out=rows - 1)
    return [first, others][: len(_kinds(window))]


def inside(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """Which elements of the map are real: all. What `pieces` adds is not."""
    axes = [x.ndim + window.axis for window in windows]
    return jnp.ones([n if i in axes else 1 for i, n in enumerate(x.shape)], bool)


def pieces(a: jax.Array, window: Window, fill: Any = 0) -> list[jax.Array]:
    """The first elements of each row, and those behind them, if any are in a window: every pooled
    axis as two, the rows and then their elements, and padding as `fill`."""
    a = jnp.broadcast_to(a, replace_axis(a.shape, window.axis, window.length))
    outs = _kinds(window)
    found = _cut({"x": a}, (), outs, window=window, fill=fill)
    sizes = _sizes(window)
    return [_table(found[k], window.axis, sizes[k][0]) for k in outs]


def _sizes(window: Window) -> dict[str, tuple[int, int]]:
    """How many pieces of each kind there are, and of how many elements."""
    rows, rest = _rows(window)
    return {"first": (rows, rest), "others": (rows - 1, window.stride - rest)}


def _table(a: jax.Array, axis: int, rows: int) -> jax.Array:
    """An axis as two, rows and their elements."""
    at = a.ndim + axis
    return a.reshape(*a.shape[:at], rows, a.shape[at] // rows, *a.shape[at + 1 :])


def _flat(a: jax.Array, axis: int) -> jax.Array:
    """`_table` undone."""
    at = a.ndim + axis
    return a.reshape(*a.shape[: at - 1], a.shape[at - 1] * a.shape[at], *a.shape[at + 1 :])


def _cut_of(x: dict, _: Any, outs: Sequence[str], window: Window, fill: Any) -> dict:
    kinds = {"first": _first, "others": _others}
    return {k: apart(kinds[k], x["x"], window=window, fill=fill) for k in outs}


def _first(x: jax.Array, window: Window, fill: Any) -> jax.Array:
    axis, s, (rows, rest) = window.axis, window.stride, _rows(window)
    if window.padded or window.length + window.low >= rows * s:
        x = pad(x, axis, window.low, rows * s - window.low - window.length, fill)
        return _flat(cut(_table(x, axis, rows), axis, 0, rest), axis)
    # The last row is not whole, and to pad x would copy it.
    x = pad(x, axis, window.low, 0)
    last = cut(x, axis, (rows - 1) * s, rest)
    head = cut(_table(cut(x, axis, 0, (rows - 1) * s), axis, rows - 1), axis, 0, rest)
    return join([_flat(head, axis), last], axis)


def _others(x: jax.Array, window: Window, fill: Any) -> jax.Array:
    axis, s, (rows, rest) = window.axis, window.stride, _rows(window)
    x = pad(x, axis, window.low, (rows - 1) * s - window.low - window.length, fill)
    return _flat(cut(_table(x, axis, rows - 1), axis, rest, s - rest), axis)


def _cut_back(g: dict, _: Any, __: Any, window: Window, fill: Any) -> dict:
    return {"x": apart(_put, g, window=window)}


def _put(g: dict, window: Window) -> jax.Array:
    """Every element back at its place, and 0 at those that are in no window."""
    axis, s, (rows, rest) = window.axis, window.stride, _rows(window)
    (like, *_) = g.values()
    sizes = _sizes(window)
    first, others = (
        _table(g[k] if k in g else full_like(like, shape, 0, like.dtype), axis, sizes[k][0])
        for k, shape in _shapes(like, window).items()
    )
    head = _flat(join([cut(first, axis - 1, 0, rows - 1), others], axis), axis)
    last = cut(first, axis - 1, rows - 1, 1).squeeze(axis - 1)
    dx = join([head, last], axis)
    return pad(dx, axis, -window.low, window.length + window.low - (rows - 1) * s - rest)


def _shapes(x: Any, window: Window) -> dict[str, tuple]:
    sizes = _sizes(window)
    return {k: replace_axis(x.shape, window.axis, n * size) for k, (n, size) in sizes.items()}


_cut, _ = linear_pair(
    "cut",
    _cut_of,
    _cut_back,
    lambda x, _, window, fill: _shapes(x, window),
    lambda g, _, window, fill: replace_axis(g.shape, window.axis, window.length),
)


def beside(a: jax.Array, x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """What has as many axes as the map, beside x: the map, or pieces of it, which have one more."""
    return a if a.ndim == x.ndim else jnp.expand_dims(a, a.ndim + windows[0].axis)


def woven(results: list[jax.Array], window: Window) -> jax.Array:
    """One of the first, one of the others, and so on."""
    first, *others = results
    return interleave([first, *(pad(a, window.axis, 0, 1) for a in others)], over(window))


def unwoven(g: jax.Array, window: Window) -> list[jax.Array]:
    """`woven`, undone."""
    rows, kinds = _rows(window)[0], len(_kinds(window))
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
