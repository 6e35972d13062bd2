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

Log-sum-exp and softmax. Each pass averages with softmax weights, which `weigh` applies to a tangent
and its transpose to a cotangent; the weights are computed anew from what the forward pass returned.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxpool._geometry import Region, Window
from jaxpool._linear import linear_pair, primitive

# More taps than DIRECT in one window cost less as several passes over fewer taps. Windows that do
# not overlap read every element once whatever their size; BLOCK only bounds the length of the
# program.
DIRECT = 7
BLOCK = 16


# ---- walking the windows of one axis ----


def _slice(x: jax.Array, axis: int, start: int, n: int, stride: int = 1) -> jax.Array:
    return lax.slice_in_dim(x, start, start + (n - 1) * stride + 1, stride, axis % x.ndim)


def _join(pieces: Sequence[jax.Array], axis: int) -> jax.Array:
    return pieces[0] if len(pieces) == 1 else lax.concatenate(pieces, axis % pieces[0].ndim)


def _taps(x: jax.Array, window: Window, region: Region) -> list[tuple[int, jax.Array]]:
    """Each tap of a region's windows with the elements it reads, as one slice of x."""
    n = region.stop - region.start
    return [(tap, _slice(x, window.axis, first, n, window.stride)) for tap, first in region.taps]


def _pad(x: jax.Array, axis: int, low: int, high: int, fill: Any = 0) -> jax.Array:
    """`fill` before and after; negative numbers cut off."""
    if not low and not high:
        return x
    widths = _replace_axis([(0, 0, 0)] * x.ndim, axis, (low, high, 0))
    return lax.pad(x, jnp.full((), fill, x.dtype), widths)


def _replace_axis(shape: Sequence[Any], axis: int, n: Any) -> tuple[Any, ...]:
    new = list(shape)
    new[axis] = n
    return tuple(new)


def passes(step: Callable, state: Any, window: Window, overlap: bool) -> Any:
    """Fold one axis of every array in `state` by `step(state, small_window)`, often enough."""
    if window.size <= (BLOCK if window.disjoint else DIRECT):
        return step(state, window)
    if window.out == 1 and window.dilation == 1:
        first, stop = max(-window.low, 0), min(window.size - window.low, window.length)
        if stop <= first:
            return step(state, window)
        state = jax.tree.map(lambda a: _slice(a, window.axis, first, stop - first), state)
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

    def rows(a: jax.Array) -> jax.Array:
        a = _slice(
            a,
            axis,
            begin * s - window.low,
            min((end - begin) * s, a.shape[axis] + window.low - begin * s),
        )
        at = a.ndim + axis
        a = _pad(a, at, 0, (end - begin) * s - a.shape[at])
        a = a.reshape(*a.shape[:at], end - begin, s, *a.shape[at + 1 :])
        return _slice(a, axis, 0, k)

    parts = [one(i) for i in range(begin)]
    if end > begin:
        inner = passes(step, jax.tree.map(rows, state), Window(axis, k, k, k, 1, 0, 0, 1), overlap)
        parts.append(jax.tree.map(lambda a: lax.squeeze(a, [a.ndim + axis]), inner))
    parts += [one(i) for i in range(end, window.out)]
    return jax.tree.map(lambda *leaves: _join(leaves, axis), *parts)


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


def _value(x: jax.Array, window: Window, largest: bool) -> jax.Array:
    join = lax.max if largest else lax.min
    pieces = []
    for region in window.regions():
        taps = [slab for _, slab in _taps(x, window, region)]
        if taps:
            value = taps[0]
            for slab in taps[1:]:
                value = join(value, slab)
        else:
            value = _empty(x, window, region, lowest(x.dtype, largest))
        pieces.append(value)
    return _join(pieces, window.axis)


def _empty(
    x: jax.Array, window: Window, region: Region, value: Any, dtype: Any = None
) -> jax.Array:
    shape = _replace_axis(x.shape, window.axis, region.stop - region.start)
    return lax.full(shape, value, dtype or x.dtype)


def _value_and_winner(
    x: jax.Array, *first: jax.Array, window: Window, largest: bool
) -> list[jax.Array]:
    """The value of each window and the first tap that holds it; `size` where there is no tap.

    `first` is each window's first real tap under a mask: an element that is not real holds the
    identity, and must not win from a real element that holds it too.
    """
    values, winners = [], []
    for region in window.regions():
        taps = _taps(x, window, region)
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
    value, winner = _join(values, window.axis), _join(winners, window.axis)
    if first:
        nothing = value == jnp.asarray(lowest(x.dtype, largest), x.dtype)
        winner = lax.select(nothing, jnp.broadcast_to(first[0], winner.shape), winner)
    # Without the barrier XLA computes the winner again inside the backward pass.
    return lax.optimization_barrier([value, winner])


def _pick(t: jax.Array, winner: jax.Array, *, window: Window) -> jax.Array:
    """out[i] = t[the element that won window i], 0 where none did."""
    pieces = []
    for region in window.regions():
        won = _slice(winner, window.axis, region.start, region.stop - region.start)
        value = lax.full(won.shape, 0, t.dtype)
        for tap, slab in _taps(t, window, region):
            value = lax.select(won == jnp.uint8(tap), slab, value)
        pieces.append(value)
    return _join(pieces, window.axis)


def _spread(g: jax.Array, winner: jax.Array, *, window: Window) -> jax.Array:
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
                won = _slice(winner, window.axis, first, n) == jnp.uint8(tap)
                dx += lax.select(won, _slice(g, window.axis, first, n), jnp.zeros_like(dx))
            pieces.append(dx)
        phases.append(_join(pieces, window.axis))
    return _interleave(phases, window)


def _interleave(phases: Sequence[jax.Array], window: Window) -> jax.Array:
    """Every phase of the stride in its place along the map."""
    if window.stride == 1:
        return phases[0]
    at = phases[0].ndim + window.axis
    shape, n = phases[0].shape, phases[0].shape[at] * window.stride
    return _slice(
        jnp.stack(phases, at + 1).reshape(_replace_axis(shape, at, n)), at, 0, window.length
    )


def _spread_disjoint(g: jax.Array, winner: jax.Array, window: Window) -> jax.Array:
    """No two windows share an element: compare each winner with the taps of its own window."""
    at, k, s = g.ndim + window.axis, window.size, window.stride
    tap = lax.broadcasted_iota(jnp.uint8, (*g.shape[: at + 1], k, *g.shape[at + 1 :]), at + 1)
    won = lax.expand_dims(winner, [at + 1]) == tap
    dx = jnp.where(won, lax.expand_dims(g, [at + 1]), jnp.zeros((), g.dtype))
    dx = _pad(dx, at + 1, 0, s - k).reshape(_replace_axis(g.shape, at, window.out * s))
    return _pad(dx, at, -window.low, window.length + window.low - window.out * s)


def _linear_shape(shape: Sequence[Any], *, window: Window, forward: bool, **_: Any) -> tuple:
    return _replace_axis(shape, window.axis, window.out if forward else window.length)


def _winner_shapes(shape: Sequence[Any], *, window: Window, largest: bool) -> list[tuple]:
    out = _replace_axis(shape, window.axis, window.out)
    return [(out, None), (out, jnp.dtype(jnp.uint8))]


pick, spread = linear_pair("pick", _pick, _spread, _linear_shape)
value_and_winner = primitive(
    "extremum",
    _value_and_winner,
    _winner_shapes,
    jvp=lambda outs, t, *, window, largest: pick(t, outs[1], window=window),
)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _extremum_pass(x: jax.Array, first: tuple, window: Window, largest: bool) -> jax.Array:
    return _value(x, window, largest)


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
    return _value(x, window, largest)


# ---- sums ----


def total(x: jax.Array, windows: Sequence[Window]) -> jax.Array:
    """The sum of every window, one axis at a time; a linear map, so JAX's own derivatives serve."""
    if x.dtype == jnp.bool_:
        return extremum(x, windows, largest=True)
    for window in reversed(windows):
        at, high = x.ndim + window.axis, window.overhang
        x = _pad(x, at, 0, min(high, 0))
        x = lax.reduce_window(
            x,
            np.zeros((), x.dtype),
            lax.add,
            _replace_axis((1,) * x.ndim, at, window.size),
            _replace_axis((1,) * x.ndim, at, window.stride),
            _replace_axis(((0, 0),) * x.ndim, at, (window.low, max(high, 0))),
            window_dilation=_replace_axis((1,) * x.ndim, at, window.dilation),
        )
    return x


def count(mask: jax.Array | None, windows: Sequence[Window], ndim: int, padding: bool) -> jax.Array:
    """How many real elements each window holds, float32; `padding` counts what may be counted."""

    def positions(padding: bool) -> np.ndarray:
        along = [np.asarray(window.count(padding), np.float32) for window in windows]
        axes = [_replace_axis((1,) * ndim, w.axis, w.out) for w in windows]
        n = reduce(np.multiply, [a.reshape(s) for a, s in zip(along, axes, strict=True)])
        return n[(slice(1),) * ndim] if np.all(n == n.flat[0]) else n

    if mask is None:
        return jnp.asarray(positions(padding))
    real = total(mask.astype(jnp.float32), windows)
    return real + jnp.asarray(positions(True) - positions(False)) if padding else real


# ---- log-sum-exp and softmax-weighted means ----


class Smooth(NamedTuple):
    """What LSE and softmax pooling are made of, for every element or window:

        T*log(mean exp(x/T)) = top + T*level,    sum softmax(x/T)*x = top + gap.

    top is the largest element, and level = log(mean exp((x - top)/T)) lies in [-log n, 0], so no
    exponent is above 0 and every weight is exact to rounding, whatever the size of x/T: the sums
    have already lost what weights and derivatives need. An element is (x, 0, 1, 0); one that is not
    real, or is -inf, stands at `floor`, where it has no weight beside any other.

    count says how many real elements a window holds; None: as many as its neighbours.
    """

    top: jax.Array
    level: jax.Array
    count: jax.Array | None
    gap: jax.Array | None


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
    if mask is not None:
        x = jnp.where(mask, x, floor(x.dtype))
    x = lax.max(x, jnp.full_like(x, floor(x.dtype)))
    pooled = {window.axis + x.ndim for window in windows}
    level = jnp.zeros([n if a in pooled else 1 for a, n in enumerate(x.shape)], x.dtype)
    count = None if mask is None else mask.astype(x.dtype)
    state = Smooth(x, level, count, level if gap else None)
    for window in reversed(windows):
        if mask is None:  # along one axis counts can differ at the borders; across axes they agree
            ones = _replace_axis((1,) * x.ndim, window.axis, window.length)
            uneven = window.padded or window.size > DIRECT
            state = state._replace(count=jnp.ones(ones, x.dtype) if uneven else None)
        state = passes(partial(_smooth_pass, temperature), state, window, overlap=False)
    return state


def _smooth_pass(temperature: jax.Array, state: Smooth, window: Window) -> Smooth:
    if temperature.ndim < state.top.ndim:  # a row for every window: see `_disjoint`
        temperature = lax.expand_dims(temperature, [temperature.ndim + window.axis])
    # The shift cancels out of every result, so it needs no derivative.
    shift = lax.stop_gradient(_value(state.top, window, largest=True))
    low = np.asarray(floor(shift.dtype), shift.dtype)
    shift = lax.clamp(low, shift, -low)
    shift = lax.optimization_barrier(shift)  # or XLA computes it again for every tap and transpose
    count, shares = _shares(state.count, window)
    level, gap = _smooth_window(temperature, *state, shift, count, shares, window)
    return Smooth(shift, level, count, gap)


def _shares(counts: jax.Array | None, window: Window) -> tuple[jax.Array | None, list | None]:
    """The real elements of every window, and each tap's share of them."""
    if counts is None:
        return None, None
    taps = _padded_taps(counts, window, 0)
    count = sum(taps[1:], taps[0])
    return count, lax.optimization_barrier([tap / jnp.maximum(count, 1) for tap in taps])


@partial(jax.custom_jvp, nondiff_argnums=(8,))
def _smooth_window(temperature, top, level, counts, gap, shift, count, shares, window):
    weight = excess = offset = jnp.zeros((), top.dtype)
    low = floor(top.dtype)
    tops, levels = _padded_taps(top, window, low), _padded_taps(level, window, 0)
    gaps = levels if gap is None else _padded_taps(gap, window, 0)
    shares = shares or [np.asarray(1 / window.size, top.dtype)] * window.size
    for t, r, share, m in zip(tops, levels, shares, gaps, strict=True):
        down = _below(t, shift)
        z = down / temperature + r
        e = jnp.exp(z)
        weight += share * e
        excess += share * _expm1(z, e)
        offset += share * e * (down + m)
    weight = jnp.where(weight == 0, 1, weight)
    # log(weight); near 1 with the part of `excess` that weight = 1 + excess has rounded away, which
    # is all there is at large temperatures.
    lost = jnp.where(jnp.abs(excess) < 0.5, (excess - (weight - 1)) / weight, 0)
    level, gap = jnp.log(weight) + lost, None if gap is None else offset / weight
    return lax.optimization_barrier((level, gap))


def _expm1(z: jax.Array, exp: jax.Array) -> jax.Array:
    """exp(z) - 1 for z <= 0, given exp(z): its series near 0, to the last bit of float32."""
    if z.dtype == jnp.float64:
        return jnp.expm1(z)
    series = jnp.ones_like(z)
    for n in range(7, 1, -1):
        series = 1 + series * z / n
    return jnp.where(z > -0.35, z * series, exp - 1)


def _smooth_window_jvp(window, primals, tangents):
    """With <.> = the softmax-weighted sum of (.) over a window, mean = top + gap, shift fixed:

    level' = <q> - T'/T^2 <top - shift>,    q = top'/T + level'
    gap' = <mean'> + <(mean - <mean>) q> - T'/T^2 <(mean - <mean>) (top - shift)>
    """
    temperature, top, level, counts, gap, shift, count, _ = primals
    d_temperature, d_top, d_level, _, d_gap, *_ = tangents
    level_out, gap_out = _smooth_window(*primals, window)
    inner = level if counts is None else level + jnp.log(counts)
    size = np.asarray(window.size, top.dtype) if count is None else jnp.maximum(count, 1)
    rest = (top, inner, shift, level_out + jnp.log(size), temperature)

    def average(t: jax.Array, factors: str = "") -> jax.Array:
        gaps = (gap, gap_out) if "F" in factors else ()
        return weigh(jnp.broadcast_to(t, top.shape), *rest, *gaps, window=window, factors=factors)

    level_dot = gap_dot = jnp.zeros_like(level_out)
    q = [] if _no(d_top) else [d_top / temperature]
    q += [] if _no(d_level) else [d_level]
    if q:
        level_dot += average(sum(q[1:], q[0]))
        gap_dot += 0 if gap is None else average(sum(q[1:], q[0]), "F")
    if gap is not None:
        for mean_dot in (d_top, d_gap):
            gap_dot += 0 if _no(mean_dot) else average(mean_dot)
    if not _no(d_temperature):
        rate, one = d_temperature / (temperature * temperature), jnp.ones((), top.dtype)
        level_dot -= rate * average(one, "D")
        gap_dot -= 0 if gap is None else rate * average(one, "DF")
    return (level_out, gap_out), (level_dot, None if gap is None else gap_dot)


_smooth_window.defjvp(_smooth_window_jvp, symbolic_zeros=True)


def _no(tangent: Any) -> bool:
    return tangent is None or isinstance(tangent, SymbolicZero)


def _below(a: jax.Array, b: jax.Array) -> jax.Array:
    """a - b, but no further below 0 than its derivatives can stand: no weight all the same."""
    difference = a - b
    return lax.max(difference, jnp.full_like(difference, -1e30))


def _weight(top, level, shift, norm, temperature, *gaps, factors):
    """The softmax weight of an element, times D = top - shift, times F = mean - <mean>."""
    down = _below(top, shift)
    weight = jnp.exp(down / temperature + level - norm)
    live = weight > 0  # no factor may be infinite where there is no weight
    if "D" in factors:
        weight *= jnp.where(live, down, 0)
    if "F" in factors:
        gap, gap_out = gaps
        weight *= jnp.where(live, down + (gap - gap_out), 0)
    return weight


def _weigh(t: jax.Array, *rest: jax.Array, window: Window, factors: str) -> jax.Array:
    """out[i] = the sum over the elements p of window i of weight(i, p) * t[p]."""
    inner, outer, temperature = _sides(rest)
    fills = (0, *_fills(inner))
    columns = [_padded_taps(a, window, fill) for a, fill in zip((t, *inner), fills, strict=True)]
    out = jnp.zeros((), t.dtype)
    for t_tap, *slabs in zip(*columns, strict=True):
        out += t_tap * _weight(*_weave(slabs, outer, temperature), factors=factors)
    return out


def _weigh_back(g: jax.Array, *rest: jax.Array, window: Window, factors: str) -> jax.Array:
    """The transpose of `_weigh`: dt[p] = the sum of weight(i, p) * g[i] over windows of p."""
    inner, outer, temperature = _sides(rest)
    outer = [g, *outer]
    fills = [0, -floor(g.dtype), *[0] * len(outer[2:])]  # what is no window gives no weight
    if window.disjoint:
        g, *outer = [_repeat(a, window, fill) for a, fill in zip(outer, fills, strict=True)]
        return g * _weight(*_weave(inner, outer, temperature), factors=factors)

    s, axis, n = window.stride, window.axis, -(-window.length // window.stride)
    inner = [
        _pad(a, axis, 0, n * s - window.length, fill)
        for a, fill in zip(inner, _fills(inner), strict=True)
    ]
    beyond = window.extent // s + 1
    outer = [_pad(a, axis, beyond, n + beyond, fill) for a, fill in zip(outer, fills, strict=True)]
    phases = []
    for phase in range(s):
        slabs = [_slice(a, axis, phase, n, s) for a in inner]
        dt = jnp.zeros_like(slabs[0])
        for tap in range(window.size):
            ahead, aside = divmod(phase + window.low - tap * window.dilation, s)
            if not aside:
                g, *here = [_slice(a, axis, ahead + beyond, n) for a in outer]
                dt += g * _weight(*_weave(slabs, here, temperature), factors=factors)
        phases.append(dt)
    return _interleave(phases, window)


def _repeat(a: jax.Array, window: Window, fill: float) -> jax.Array:
    """Disjoint windows only: every element's window's value, `fill` where there is none."""
    at, k, s = a.ndim + window.axis, window.size, window.stride
    rows = jnp.broadcast_to(
        lax.expand_dims(a, [at + 1]), (*a.shape[: at + 1], k, *a.shape[at + 1 :])
    )
    rows = _pad(rows, at + 1, 0, s - k, fill).reshape(_replace_axis(a.shape, at, window.out * s))
    return _pad(rows, at, -window.low, window.length + window.low - window.out * s, fill)


def _fills(inner: Sequence[jax.Array]) -> list[float]:
    """What (top, level, gap) hold on padding: nothing that could make a weight infinite."""
    return [floor(inner[0].dtype), 0, 0][: len(inner)]


def _sides(rest: Sequence[jax.Array]) -> tuple[list, list, jax.Array]:
    """The arrays at the elements, those at the windows, and the temperature."""
    top, level, shift, norm, temperature, *gaps = rest
    return [top, level, *gaps[:1]], [shift, norm, *gaps[1:]], temperature


def _weave(inner: Sequence[Any], outer: Sequence[Any], temperature: Any) -> list:
    """`_sides` undone."""
    return [*inner[:2], *outer[:2], temperature, *inner[2:], *outer[2:]]


def _padded_taps(x: jax.Array, window: Window, fill: float) -> list[jax.Array]:
    """Every tap of all windows, padding included: exponentials outweigh what padding costs."""
    x = _pad(x, window.axis, window.low, max(window.overhang, 0), fill)
    return [
        _slice(x, window.axis, tap * window.dilation, window.out, window.stride)
        for tap in range(window.size)
    ]


weigh, _ = linear_pair("weigh", _weigh, _weigh_back, _linear_shape)
