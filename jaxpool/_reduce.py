"""How windows are reduced to their extreme or their sum, and the derivatives: the one place.

A window over several axes is one pass per axis, last axis first, and a large window is several
passes of few taps (`Window.passes`). Few taps are slices of the input; the few windows at the
borders are computed by themselves, because padding inside a fused loop keeps XLA from vectorising
it. Windows that do not overlap are rows of a reshaped array where they are large; where they are
small, all axes are one pass.

Max and min. Elementwise `lax.max` over slices, because XLA's CPU backend drops NaN from
`reduce_window` and `reduce` where windows do not overlap. Their derivative is linear in the tangent
once the *winner* of every window is known, the first tap that holds the value (or the first NaN):
one byte per window, whatever the window's size up to 255, since which pass it came from can be
read from it. `pick` takes each window's tangent from its winner; its transpose `spread` gives each
cotangent back there, summing over the windows that see an element: no scatter, so the same result
every time.

Sums are linear, and the transpose of a sum over windows is sums over windows.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpool._geometry import Pass, Window
from jaxpool._linear import apart, linear_pair, primitive
from jaxpool._slices import along_rows, cut, interleave, join, pad, replace_axis, rows, unrows

# More taps than DIRECT in one window cost less as several passes over fewer taps. Windows that do
# not overlap read every element once whatever their size; BLOCK only bounds the length of the
# program.
DIRECT = 7
BLOCK = 16

Group = tuple[Window, ...]


def together(windows: Sequence[Window], join: Callable[[Group], bool]) -> list[Group]:
    """The axes to fold at once, last axes first: few taps in all, and `join` is true of them."""
    groups: list[Group] = []
    for window in (window.plain() for window in reversed(windows)):
        joint = (window, *(groups[-1] if groups else ()))
        few = prod(w.size for w in joint) <= BLOCK
        if groups and few and join(joint):
            groups[-1] = joint
        else:
            groups.append((window,))
    return groups


def _disjoint(group: Group) -> bool:
    return all(window.disjoint for window in group)


# ---- max and min: values and winners ----


def lowest(dtype: Any, largest: bool) -> Any:
    """What a window without elements holds: the identity of max (or of min) in that dtype."""
    if dtype == jnp.bool_:
        return not largest
    if jnp.issubdtype(dtype, jnp.inexact):
        return -jnp.inf if largest else jnp.inf
    return jnp.iinfo(dtype).min if largest else jnp.iinfo(dtype).max


def extremum(
    x: jax.Array, windows: Sequence[Window], largest: bool, mask: jax.Array | None = None
) -> jax.Array:
    """The largest (or smallest) element of every window; `mask` says which elements are real."""
    run = _extremum if jnp.issubdtype(x.dtype, jnp.floating) else _value
    if mask is not None:
        x = jnp.where(mask, x, jnp.asarray(lowest(x.dtype, largest), x.dtype))
    # Small windows side by side are one loop over all axes, if its inner loop is long enough.
    long = prod(x.shape[x.ndim + windows[-1].axis + 1 :]) >= BLOCK
    for group in together(windows, lambda group: long and _disjoint(group)):
        first = None
        if mask is not None:
            mask, first = value_and_winner(mask, group=group, largest=True)
        x = run(x, first, group, largest)
    return x


def _value(x: jax.Array, first: Any, group: Group, largest: bool) -> jax.Array:
    for p in _passes(group):
        x, _ = apart(_fold, x, None, p=p, largest=largest, size=None)
    return x


_extremum = jax.custom_jvp(_value, nondiff_argnums=(2, 3))


@_extremum.defjvp
def _(group, largest, primals, tangents):
    x, first = primals
    rest = () if first is None else (first,)
    value, winner = value_and_winner(x, *rest, group=group, largest=largest)
    return value, pick({"t": tangents[0]}, winner, ("t",), group=group)["t"]


def _value_and_winner(x: jax.Array, *first: jax.Array, group: Group, largest: bool) -> list:
    """The value of each window and the first tap that holds it; its size where there is no tap.

    `first` is each window's first real tap under a mask: an element that is not real holds the
    identity, and must not win from a real element that holds it too.
    """
    value, winner = x, None
    for p in _passes(group):
        value, winner = apart(_fold, value, winner, p=p, largest=largest, size=_size(group))
    if first:
        winner = _instead(winner, first[0], value, largest)
    return [value, winner]


def _passes(group: Group) -> list[Pass]:
    """Small windows of several axes at once, or one axis: in several passes if it is large."""
    return group[0].passes(DIRECT, overlap=True) if len(group) == 1 else [Pass(group, 1, 1)]


def _size(group: Group) -> int:
    return prod(window.size for window in group)


def _index(size: int) -> Any:
    """The narrowest dtype that holds every tap, and `size` for none."""
    return jnp.dtype(
        next(t for t in (jnp.uint8, jnp.uint16, jnp.int32) if size <= jnp.iinfo(t).max)
    )


def _instead(winner: Any, first: Any, value: jax.Array, largest: bool) -> jax.Array:
    """`first` where no element is above the identity, for then all real ones tie."""
    nothing = value == jnp.asarray(lowest(value.dtype, largest), value.dtype)
    return jnp.where(nothing, jnp.broadcast_to(first, winner.shape), winner)


def _fold(
    value: jax.Array, winner: jax.Array | None, p: Pass, largest: bool, size: int | None
) -> tuple[jax.Array, jax.Array | None]:
    """One pass of values and winners (of values alone where `size`, of the whole, is None)."""
    window = p.windows[0]
    if len(p.windows) == 1 and window.disjoint and window.size > BLOCK:
        return _fold_rows(value, winner, window, largest, size)

    def of_region(taps: list, shape: tuple, _) -> tuple[jax.Array, jax.Array | None]:
        if not taps:
            none = None if size is None else lax.full(shape, size, _index(size))
            return lax.full(shape, lowest(value.dtype, largest), value.dtype), none
        if size is None:
            return reduce(lax.max if largest else lax.min, [v for _, (v, _) in taps]), None

        def numbered(tap: int, v: jax.Array, w: jax.Array | None) -> tuple[jax.Array, jax.Array]:
            number = jnp.asarray(tap * p.apart, _index(size))
            return v, lax.full(v.shape, number) if w is None else w + number

        (best, at), *others = (numbered(tap, *part) for tap, part in taps)
        for v, w in others:
            better = _beats(v, best, largest)
            best, at = lax.select(better, v, best), lax.select(better, w, at)
        return best, at

    return _over_regions(of_region, (value, winner), p.windows)


def _beats(a: jax.Array, b: jax.Array, largest: bool) -> jax.Array:
    """True where a, coming after b, takes the window from it; NaN beats every number, ties stay."""
    worse = lax.le if largest else lax.ge
    if jnp.issubdtype(a.dtype, jnp.floating):
        return ~worse(a, b) & (b == b)
    return ~worse(a, b)


def _fold_rows(value, winner, window, largest, size):
    """Large windows side by side: an axis of their own to fold, BLOCK taps at a time."""
    at, k, apart_now = window.axis, window.size, 1
    value = rows(value, (window,), lowest(value.dtype, largest))
    while k > 1:
        taps = min(k, BLOCK)
        n = -(-k // taps)
        p = Pass((Window(at, k, taps, taps, 1, 0, 0, n),), apart_now, apart_now)
        value, winner = apart(_fold, value, winner, p=p, largest=largest, size=size)
        k, apart_now = n, apart_now * taps
    value = lax.squeeze(value, [value.ndim + at])
    if size is None:
        return value, None
    winner = lax.squeeze(winner, [winner.ndim + at])
    if window.padded:
        starts = np.arange(window.out) * window.stride - window.low
        first = np.where(starts < window.length, np.clip(-starts, 0, size), size)
        first = first.reshape(replace_axis((1,) * value.ndim, at, window.out))
        winner = _instead(winner, jnp.asarray(first, winner.dtype), value, largest)
    return value, winner


def _over_regions(of_region: Callable, state: Any, windows: Group) -> Any:
    """`of_region(taps, shape, at)` of each region of each axis, put together.

    taps: (tap, the elements it reads) of every tap that falls on the map, in row-major order.
    """
    leaf = jax.tree.leaves(state)[0]

    def go(todo: Group, taps: list, shape: tuple, at: tuple) -> Any:
        if not todo:
            return of_region(taps, shape, at)
        window, *later = todo
        pieces = []
        for start, stop, reads in window.regions():
            n = stop - start
            read = partial(cut, axis=window.axis, n=n, stride=window.stride)
            further = [
                (tap * window.size + j, jax.tree.map(partial(read, start=first), part))
                for tap, part in taps
                for j, first in reads
            ]
            now = replace_axis(shape, window.axis, n)
            pieces.append(go(tuple(later), further, now, (*at, (window.axis, start, n))))
        return jax.tree.map(lambda *each: join(each, window.axis), *pieces)

    return go(windows, [(0, state)], leaf.shape, ())


def _winner_shapes(x: Any, *_: Any, group: Group, largest: bool) -> list[tuple]:
    shape = x.shape
    for window in group:
        shape = replace_axis(shape, window.axis, window.out)
    return [(shape, None), (shape, _index(_size(group)))]


# ---- max and min: the linear map of tangents, and its transpose ----


def _pick(t: dict, winner: jax.Array, _: Any, group: Group) -> dict:
    """out[i] = t[the element that won window i], 0 where none did."""
    passes = _passes(group)
    inner = [winner]  # the winners of every pass, from those of the last
    for p in passes[:0:-1]:
        zero = jnp.zeros(inner[0].shape, jnp.float32)
        inner.insert(0, apart(_spread_pass, zero, inner[0], p=p, inner=True)[1])
    picked = t["t"]
    for p, w in zip(passes, inner, strict=True):
        picked = apart(_pick_pass, picked, w, p=p)
    return {"t": picked}


def _pick_pass(t: jax.Array, winner: jax.Array, p: Pass) -> jax.Array:
    if _in_rows(p):
        won = along_rows(winner, p.windows) == _tap_numbers(winner, p.windows)
        each = jnp.where(won, rows(t, p.windows), 0)
        axes = [w.axis - i for i, w in enumerate(reversed(p.windows))]
        return each.sum([each.ndim + axis for axis in axes], dtype=t.dtype)

    def of_region(taps: list, shape: tuple, at: tuple) -> jax.Array:
        here, value = winner, lax.full(shape, 0, t.dtype)
        for axis, start, n in at:
            here = cut(here, axis, start, n)
        for tap, slab in taps:
            value = lax.select(_won(here, p, tap), slab, value)
        return value

    return _over_regions(of_region, t, p.windows)


def _in_rows(p: Pass) -> bool:
    """Whether every element has one window, whose winner it is or is not."""
    return p.covered == 1 and _disjoint(p.windows)


def _won(winner: jax.Array, p: Pass, tap: int) -> jax.Array:
    """Whether a pass took its winner from this tap."""
    first, stop = (jnp.asarray(p.first(j), winner.dtype) for j in (tap, tap + 1))
    if p.first(tap + 1) == p.first(tap) + 1:
        return winner == first
    return (winner >= first) & (winner < stop)


def _tap_numbers(winner: jax.Array, group: Group) -> jax.Array:
    """The number of every tap beside `rows` of a group."""
    numbers = np.arange(_size(group)).reshape([window.size for window in group])
    shape = [1] * (winner.ndim + len(group))
    for i, window in enumerate(group):
        shape[window.axis - (len(group) - 1 - i)] = window.size
    return jnp.asarray(numbers.reshape(shape), winner.dtype)


def _spread(g: dict, winner: jax.Array, _: Any, group: Group) -> dict:
    """The transpose of `_pick`: dx[p] = the sum of g[i] over the windows i that p won."""
    spread, passes = g["t"], _passes(group)
    for i in reversed(range(len(passes))):
        spread, winner = apart(_spread_pass, spread, winner, p=passes[i], inner=i > 0)
    return {"t": spread}


def _spread_pass(
    g: jax.Array, winner: jax.Array, p: Pass, inner: bool
) -> tuple[jax.Array, jax.Array | None]:
    """One pass back: the sums, and if asked for, what won the windows of the pass before."""
    if _in_rows(p):
        won = along_rows(winner, p.windows) == _tap_numbers(winner, p.windows)
        dx = jnp.where(won, along_rows(g, p.windows), jnp.zeros((), g.dtype))
        return unrows(dx, p.windows), None
    (window,) = p.windows
    wide = g.dtype if g.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
    phases = []
    for phase in range(window.stride):
        pieces = []
        for start, stop, taps in window.sources(phase):
            n = stop - start
            shape = replace_axis(g.shape, window.axis, n)
            dx, before = lax.full(shape, 0, wide), lax.full(shape, 0, winner.dtype)
            for tap, first in taps:
                number = cut(winner, window.axis, first, n)
                won = _won(number, p, tap)
                here = cut(g, window.axis, first, n).astype(wide)
                dx += lax.select(won, here, jnp.zeros_like(here))
                if inner:
                    number -= jnp.asarray(tap * p.apart, winner.dtype)
                    before = lax.select(won, number, before)
            pieces.append((dx.astype(g.dtype), before if inner else None))
        phases.append(jax.tree.map(lambda *each: join(each, window.axis), *pieces))
    return jax.tree.map(lambda *each: interleave(each, window), *phases)


def _shape_back(shape: tuple, group: Group) -> tuple:
    for window in group:
        shape = replace_axis(shape, window.axis, window.length)
    return shape


pick, _ = linear_pair(
    "pick",
    _pick,
    _spread,
    lambda t, winner, group: winner.shape,
    lambda g, winner, group: _shape_back(winner.shape, group),
)
value_and_winner = primitive(
    "extremum",
    _value_and_winner,
    _winner_shapes,
    jvp=lambda outs, t, *, group, largest: pick({"t": t}, outs[1], ("t",), group=group)["t"],
)


# ---- sums ----


def total(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """The sum of every window."""
    if x.dtype == jnp.bool_:
        return extremum(x, windows, largest=True)
    for group in together(windows, _disjoint):
        x = _add({"x": x}, (), ("x",), group=group)["x"]
    return x


def _add_of(x: dict, _: Any, __: Any, group: Group) -> dict:
    return {"x": _reduce_window(x["x"], group) if _disjoint(group) else _slide(x["x"], *group)}


def _add_back(cotangent: dict, _: Any, __: Any, group: Group) -> dict:
    """The transpose: dx[p] = the sum of g[i] over the windows i that see p."""
    g = cotangent["x"]
    if _disjoint(group):
        return {"x": apart(_repeat, g, group=group)}
    (window,) = group
    phases = []
    for phase in range(window.stride):
        ahead = sorted(window.ahead(phase).values())
        n = window.phase_length
        if not ahead:
            phases.append(jnp.zeros(replace_axis(g.shape, window.axis, n), g.dtype))
        else:
            step = ahead[1] - ahead[0] if len(ahead) > 1 else 1
            of = Window(window.axis, window.out, len(ahead), 1, step, -ahead[0], 0, n)
            phases.append(_slide(g, of))
    return {"x": interleave(phases, window)}


def _repeat(g: jax.Array, group: Group) -> jax.Array:
    """Disjoint windows: every window's value at each of its elements."""
    g = along_rows(g, group)
    shape = g.shape
    for i, window in enumerate(reversed(group)):
        shape = replace_axis(shape, window.axis - i, window.size)
    return unrows(jnp.broadcast_to(g, shape), group)


def _slide(x: jax.Array, window: Window) -> jax.Array:
    """The sum of every window along one axis, in log(k) passes for k of many taps."""
    if window.size <= BLOCK:
        return _reduce_window(x, (window,))
    if parts := window.split():
        return _slide(_reduce_window(x, (parts[0],)), parts[1])
    axis, d = window.axis, window.dilation
    x = apart(pad, x, axis=axis, low=window.low, high=window.overhang)
    at = partial(cut, axis=axis, n=window.out, stride=window.stride)
    parts, done, power = [], 0, 1  # x sums windows of `power` taps; `done` taps are in parts
    while True:
        if window.size & power:
            parts.append(at(x, start=done * d))
            done += power
        if done == window.size:
            return reduce(lax.add, parts)
        x = apart(_twice, x, axis=axis, distance=power * d)
        power *= 2


def _twice(x: jax.Array, axis: int, distance: int) -> jax.Array:
    n = x.shape[axis] - distance
    return cut(x, axis, 0, n) + cut(x, axis, distance, n)


def _reduce_window(x: jax.Array, group: Group) -> jax.Array:
    size, stride, dilation = [1] * x.ndim, [1] * x.ndim, [1] * x.ndim
    padding = [(0, 0)] * x.ndim
    for w in group:
        x = pad(x, w.axis, min(w.low, 0), min(w.overhang, 0))
        size[w.axis], stride[w.axis], dilation[w.axis] = w.size, w.stride, w.dilation
        padding[w.axis] = max(w.low, 0), max(w.overhang, 0)
    zero = np.zeros((), x.dtype)
    return lax.reduce_window(x, zero, lax.add, size, stride, padding, window_dilation=dilation)


_add, _ = linear_pair(
    "add",
    _add_of,
    _add_back,
    lambda x, _, group: _winner_shapes(x, group=group, largest=True)[0][0],
    lambda g, _, group: _shape_back(g.shape, group),
)


def count(mask: jax.Array | None, windows: Sequence[Window], ndim: int, padding: bool) -> jax.Array:
    """How many real elements each window holds, float32; `padding` counts what may be counted."""

    def positions(padding: bool) -> np.ndarray:
        along = [np.asarray(window.count(padding), np.float32) for window in windows]
        axes = [replace_axis((1,) * ndim, w.axis, w.out) for w in windows]
        n = reduce(np.multiply, [a.reshape(s) for a, s in zip(along, axes, strict=True)])
        return n[(slice(1),) * ndim] if np.all(n == n.flat[0]) else n

    if mask is None:
        return jnp.asarray(positions(padding))
    real = total(mask.astype(jnp.float32), windows)
    return real + jnp.asarray(positions(True) - positions(False)) if padding else real
