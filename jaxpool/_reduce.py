"""How a windowed reduction runs, and its derivatives: the one place that knows.

A window over several axes is one pass per axis, last axis first, and a large window is several
passes of few taps (`Window.passes`). Each pass reads slices of its input; the few windows at the
borders are computed apart, because padding inside a fused loop keeps XLA from vectorising it.

Max and min. Elementwise `lax.max` over slices, because XLA's CPU backend drops NaN from
`reduce_window` and `reduce` where windows do not overlap. Their derivative is linear in the tangent
once the *winner* of every window is known: one byte, the first tap that holds the value (or the
first NaN). `pick` takes each window's tangent from its winner; its transpose `spread` gives each
cotangent back there, summing over the windows that see an element: no scatter, so the same result
every time.

Sums are linear: `lax.reduce_window` along each axis.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpool._geometry import Region, Window
from jaxpool._linear import apart, linear_pair, primitive
from jaxpool._slices import cut, interleave, join, pad, reads, replace_axis

# More taps than DIRECT in one window cost less as several passes over fewer taps. Windows that do
# not overlap read every element once whatever their size; BLOCK only bounds the length of the
# program.
DIRECT = 7
BLOCK = 16


def passes(step: Callable, state: Any, window: Window, overlap: bool) -> Any:
    """Fold one axis of every array in `state` by `step(state, small_window)`, often enough."""
    if window.size <= (BLOCK if window.disjoint else DIRECT):
        return step(state, window)
    if window.out == 1 and window.dilation == 1:
        first, stop = max(-window.low, 0), min(window.size - window.low, window.length)
        if stop <= first:
            return step(state, window)
        state = jax.tree.map(lambda a: cut(a, window.axis, first, stop - first), state)
        n = stop - first
        while n > 1:
            taps = min(n, BLOCK)
            n, length = -(-n // taps), n
            step_window = Window(window.axis, length, taps, taps, 1, 0, 0, n)
            state = step(state, step_window)
        return state
    if window.disjoint:
        return _disjoint(step, state, window, overlap)
    for small in window.passes(DIRECT, overlap):
        state = passes(step, state, small, overlap) if small.disjoint else step(state, small)
    return state


def _disjoint(step: Callable, state: Any, window: Window, overlap: bool) -> Any:
    """Large windows side by side: a new axis across them, and one window over each of its rows.

    Only the first and the last window can reach past the map; they are folded by themselves.
    """
    axis, s, k = window.axis, window.stride, window.size
    begin = -(-max(window.low, 0) // s)  # the first and last windows that lie wholly on the map
    end = max(min((window.length + window.low - k) // s + 1, window.out), begin)

    def one(i: int) -> Any:
        return passes(step, state, replace(window, low=window.low - i * s, out=1), overlap)

    def in_rows(a: jax.Array) -> jax.Array:
        a = cut(
            a,
            axis,
            begin * s - window.low,
            min((end - begin) * s, a.shape[axis] + window.low - begin * s),
        )
        at = a.ndim + axis
        a = pad(a, at, 0, (end - begin) * s - a.shape[at])
        a = a.reshape(*a.shape[:at], end - begin, s, *a.shape[at + 1 :])
        return cut(a, axis, 0, k)

    parts = [one(i) for i in range(begin)]
    if end > begin:
        inner = passes(
            step, jax.tree.map(in_rows, state), Window(axis, k, k, k, 1, 0, 0, 1), overlap
        )
        parts.append(jax.tree.map(lambda a: lax.squeeze(a, [a.ndim + axis]), inner))
    parts += [one(i) for i in range(end, window.out)]
    return jax.tree.map(lambda *leaves: join(leaves, axis), *parts)


# ---- max and min ----


def lowest(dtype: Any, largest: bool) -> Any:
    """What a window without elements holds: the identity of max (or of min) in that dtype."""
    if dtype == jnp.bool_:
        return not largest
    if jnp.issubdtype(dtype, jnp.inexact):
        return -jnp.inf if largest else jnp.inf
    return jnp.iinfo(dtype).min if largest else jnp.iinfo(dtype).max


def _beats(a: jax.Array, b: jax.Array, largest: bool) -> jax.Array:
    """True where a, coming after b, takes the window from it; NaN beats every number, ties stay."""
    worse = lax.le if largest else lax.ge
    if jnp.issubdtype(a.dtype, jnp.floating):
        return ~worse(a, b) & (b == b)
    return ~worse(a, b)


def extremum_value(x: jax.Array, window: Window, largest: bool) -> jax.Array:
    pieces = []
    for region in window.regions():
        slabs = [slab for _, slab in reads(x, window, region)]
        if slabs:
            value = reduce(lax.max if largest else lax.min, slabs)
        else:
            value = _empty(x, window, region, lowest(x.dtype, largest))
        pieces.append(value)
    return join(pieces, window.axis)


def _empty(
    x: jax.Array, window: Window, region: Region, value: Any, dtype: Any = None
) -> jax.Array:
    shape = replace_axis(x.shape, window.axis, region.stop - region.start)
    return lax.full(shape, value, dtype or x.dtype)


def _value_and_winner(x: jax.Array, *first: jax.Array, **how: Any) -> list[jax.Array]:
    return apart(_value_and_winner_of, x, *first, **how)


def _value_and_winner_of(
    x: jax.Array, *first: jax.Array, window: Window, largest: bool
) -> list[jax.Array]:
    """The value of each window and the first tap that holds it; `size` where there is no tap.

    `first` is each window's first real tap under a mask: an element that is not real holds the
    identity, and must not win from a real element that holds it too.
    """
    values, winners = [], []
    for region in window.regions():
        taps = reads(x, window, region)
        if taps:
            tap, value = taps[0]
            winner = lax.full(value.shape, tap, jnp.uint8)
            for tap, slab in taps[1:]:
                better = _beats(slab, value, largest)
                value = lax.select(better, slab, value)
                winner = lax.select(better, lax.full_like(winner, tap), winner)
        else:
            value = _empty(x, window, region, lowest(x.dtype, largest))
            winner = _empty(x, window, region, window.size, jnp.uint8)
        values.append(value)
        winners.append(winner)
    value, winner = join(values, window.axis), join(winners, window.axis)
    if first:
        nothing = value == jnp.asarray(lowest(x.dtype, largest), x.dtype)
        winner = lax.select(nothing, jnp.broadcast_to(first[0], winner.shape), winner)
    return [value, winner]


def _pick(t: jax.Array, winner: jax.Array, window: Window) -> jax.Array:
    """out[i] = t[the element that won window i], 0 where none did."""
    pieces = []
    for region in window.regions():
        won = cut(winner, window.axis, region.start, region.stop - region.start)
        value = lax.full(won.shape, 0, t.dtype)
        for tap, slab in reads(t, window, region):
            value = lax.select(won == jnp.uint8(tap), slab, value)
        pieces.append(value)
    return join(pieces, window.axis)


def _spread(g: jax.Array, winner: jax.Array, window: Window) -> jax.Array:
    """The transpose of `_pick`: dx[p] = the sum of g[i] over the windows i that p won."""
    if window.disjoint:
        return _spread_disjoint(g, winner, window)
    phases = []
    for phase in range(window.stride):
        pieces = []
        for region in window.sources(phase):
            dx = _empty(g, window, region, 0)
            for tap, first in region.taps:
                n = region.stop - region.start
                won = cut(winner, window.axis, first, n) == jnp.uint8(tap)
                dx += lax.select(won, cut(g, window.axis, first, n), jnp.zeros_like(dx))
            pieces.append(dx)
        phases.append(join(pieces, window.axis))
    return interleave(phases, window)


def _spread_disjoint(g: jax.Array, winner: jax.Array, window: Window) -> jax.Array:
    """No two windows share an element: compare each winner with the taps of its own window."""
    at, k, s = g.ndim + window.axis, window.size, window.stride
    tap = lax.broadcasted_iota(jnp.uint8, (*g.shape[: at + 1], k, *g.shape[at + 1 :]), at + 1)
    won = lax.expand_dims(winner, [at + 1]) == tap
    dx = jnp.where(won, lax.expand_dims(g, [at + 1]), jnp.zeros((), g.dtype))
    dx = pad(dx, at + 1, 0, s - k).reshape(replace_axis(g.shape, at, window.out * s))
    return pad(dx, at, -window.low, window.length + window.low - window.out * s)


def _winner_shapes(x: Any, *_: Any, window: Window, largest: bool) -> list[tuple]:
    out = replace_axis(x.shape, window.axis, window.out)
    return [(out, None), (out, jnp.dtype(jnp.uint8))]


_pick_of, _ = linear_pair(
    "pick",
    lambda t, winner, _, window: {"t": apart(_pick, t["t"], winner, window=window)},
    lambda g, winner, _, window: {"t": apart(_spread, g["t"], winner, window=window)},
    lambda winner, window: winner.shape,
    lambda winner, window: replace_axis(winner.shape, window.axis, window.length),
)


def pick(t: jax.Array, winner: jax.Array, window: Window) -> jax.Array:
    """Take each window's tangent from its winner."""
    return _pick_of({"t": t}, winner, ("t",), window=window)["t"]


value_and_winner = primitive(
    "extremum",
    _value_and_winner,
    _winner_shapes,
    jvp=lambda outs, t, *, window, largest: pick(t, outs[1], window=window),
)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _extremum_pass(x: jax.Array, first: tuple, window: Window, largest: bool) -> jax.Array:
    if window.disjoint:
        return extremum_value(x, window, largest)
    return apart(extremum_value, x, window=window, largest=largest)


@_extremum_pass.defjvp
def _(window, largest, primals, tangents):
    x, first = primals
    value, winner = value_and_winner(x, *first, window=window, largest=largest)
    return value, pick(tangents[0], winner, window=window)


def extremum(
    x: jax.Array, windows: Sequence[Window], largest: bool, mask: jax.Array | None = None
) -> jax.Array:
    """The largest (or smallest) element of every window; `mask` says which elements are real."""

    def step(state: tuple, window: Window) -> tuple:
        x, *mask = state
        run = _extremum_pass if jnp.issubdtype(x.dtype, jnp.floating) else _value_of_integers
        if not mask:
            return (run(x, (), window, largest),)
        real, first = value_and_winner(mask[0], window=window, largest=True)
        return run(x, (first,), window, largest), real

    state = (x,)
    if mask is not None:
        state = (jnp.where(mask, x, jnp.asarray(lowest(x.dtype, largest), x.dtype)), mask)
    for window in reversed(windows):
        state = passes(step, state, window, overlap=True)
    return state[0]


def _value_of_integers(x, first, window, largest):
    return extremum_value(x, window, largest)


# ---- sums ----


def total(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """The sum of every window, one axis at a time; a linear map, so JAX's own derivatives serve."""
    if x.dtype == jnp.bool_:
        return extremum(x, windows, largest=True)
    for window in reversed(windows):
        at, high = x.ndim + window.axis, window.overhang
        x = pad(x, at, 0, min(high, 0))
        x = lax.reduce_window(
            x,
            np.zeros((), x.dtype),
            lax.add,
            replace_axis((1,) * x.ndim, at, window.size),
            replace_axis((1,) * x.ndim, at, window.stride),
            replace_axis(((0, 0),) * x.ndim, at, (window.low, max(high, 0))),
            window_dilation=replace_axis((1,) * x.ndim, at, window.dilation),
        )
    return x


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
