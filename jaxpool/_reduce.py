"""How windows are reduced to their extreme or their sum, and the derivatives: the one place.

A window of few taps is one loop over all its axes, a larger one is one pass per axis, and a large
side is several passes of few taps (`Window.passes`). Few taps are slices of the input; the few
windows at the borders are computed by themselves, because padding inside a fused loop keeps XLA
from vectorising it. Windows that do not overlap are rows of a reshaped array where they are large.

Max and min. Elementwise, over slices (`best_of`), because XLA's CPU backend drops NaN from
`reduce_window` and `reduce` where windows do not overlap. Their derivative is linear in the tangent
once the *winner* of every window is known, the first tap that holds the value (or the first NaN):
one byte per window, whatever the window's size up to 256, since which pass it came from can be read
from it. `pick` takes each window's tangent from its winner; its transpose `spread` gives each
cotangent back there, summing over the windows that see an element: no scatter, so the same result
every time.

Sums are linear, and the transpose of a sum over windows is sums over windows.

GPUs and TPUs. There it is borders by themselves that are slow: XLA does not fuse loops across parts
that are put together, and reads x anew for every part. So winners, their gradients and the sums of
`_smooth` are one loop over padded arrays (`one_region`), and what needs no winner is XLA's own
`reduce_window`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpool._geometry import Pass, Window, Woven, shape_of
from jaxpool._linear import apart, by_platform, full_like, is_split, linear_pair, primitive
from jaxpool._slices import (
    along_rows,
    as_merged,
    cut,
    interleave,
    join,
    pad,
    pad_all,
    rank,
    replace_axis,
    rows,
    span,
    through_bits,
    unrank,
    unrows,
    widen,
)

# How many taps one loop reads, all measured on CPU. Overlapping windows of more than DIRECT taps
# along an axis are folded in several passes of up to TAPS; of several axes with more than JOINT
# taps together, axis by axis. Values alone and sums of up to MOST taps are one loop, too, if it
# reads at most so many times as many taps.
DIRECT, TAPS, JOINT, MOST = 7, 4, 9, 27
OF_VALUES, OF_SUMS = 1.5, 3
# Windows that do not overlap read every element once, whatever their size: BLOCK bounds the length
# of the program, and ROWS that of values alone, where a longer one takes fewer instructions.
BLOCK, ROWS = 16, 32
# An axis that is pooled whole is read as so many equal parts at a time. They may be a power of two
# apart, and then a cache has room for few of them.
LINES = 12
# One loop finds value and winner together, as one complex number, where windows are so far apart
# (all their strides, multiplied) that there are few of these numbers.
FAR = 9
# So many times sums are doubled in one loop.
TWICE = 4
# A loop can be vectorised if there are LONG elements side by side. Sums that overlap run over fewer
# than WIDE in other ways, since XLA's own are slow there, and so are loops that it unrolls.
LONG, WIDE = 16, 64
# GPUs and TPUs get one `reduce_window` over all axes of up to SMALL taps, else one `reduce` of axes
# that are pooled whole, else, for extremes, a `reduce_window` for every CALL taps along one axis.
SMALL, CALL = 64, 16
ONE_REGION = {"one_region": True}

Group = tuple[Window, ...]


def together(windows: Sequence[Window], fits: Callable[[Group], bool]) -> list[Group]:
    """The axes to fold at once, last axes first: as many as `fits` is true of."""
    groups: list[Group] = []
    for window in (window.plain() for window in reversed(windows)):
        joint = (window, *(groups[-1] if groups else ()))
        if groups and fits(joint):
            groups[-1] = joint
        else:
            groups.append((window,))
    return groups


def active(windows: Sequence[Window]) -> Group:
    """The axes along which there is anything to do, or one."""
    return tuple(window for window in windows if not window.idle) or tuple(windows[:1])


def is_few(group: Group) -> bool:
    """Small windows are one loop over all their axes."""
    if isinstance(group[0], Woven):
        return True
    return size_of(group) <= (BLOCK if is_disjoint(group) else JOINT)


def is_worth(group: Group, times: float) -> bool:
    """Whether one loop over all axes reads at most so many times the taps that a pass for each axis
    would: the last axis first, so at all positions of the axes before it."""
    strides = [window.stride for window in group]
    read = sum(window.size * prod(strides[:i]) for i, window in enumerate(group))
    return size_of(group) <= min(MOST, times * read)


def is_one_call(windows: Group) -> bool:
    """Whether GPUs and TPUs take all axes at once."""
    if any(isinstance(window, Woven) for window in windows):
        return False
    return size_of(windows) <= SMALL or is_whole(windows)


def is_whole(group: Group) -> bool:
    return all(window.whole for window in group)


def is_long(x: jax.Array, axes: Sequence[Any], least: int = LONG) -> bool:
    """Whether there are enough elements side by side behind the pooled axes."""
    return is_many(prod(x.shape[x.ndim + axes[-1].axis + 1 :]), least)


def is_many(n: Any, least: int = LONG) -> bool:
    """Whether a loop over n elements side by side can be vectorised (or who knows, where n is
    symbolic)."""
    return not isinstance(n, int) or n >= least


def is_disjoint(group: Group) -> bool:
    return all(window.disjoint for window in group)


# ---- max and min: values and winners ----


def lowest(dtype: Any, largest: bool) -> Any:
    """What a window without elements holds: the identity of max (or of min) in that dtype."""
    if dtype == jnp.bool_:
        return not largest
    if jnp.issubdtype(dtype, jnp.inexact):
        most = float(np.asarray(np.inf, dtype))  # NaN in a dtype that has no infinity
        most = float(jnp.finfo(dtype).max) if np.isnan(most) else most
        return -most if largest else most
    return jnp.iinfo(dtype).min if largest else jnp.iinfo(dtype).max


def masked(x: jax.Array, mask: jax.Array | None, largest: bool) -> jax.Array:
    """x, with what never wins in place of all that is not real."""
    if mask is None:
        return x
    return jnp.where(mask, x, jnp.asarray(lowest(x.dtype, largest), x.dtype))


def extremum(
    x: jax.Array, windows: Sequence[Window], largest: bool, mask: jax.Array | None = None
) -> jax.Array:
    """The largest (or smallest) element of every window; `mask` says which elements are real."""
    x = masked(x, mask, largest)
    of = _extremum if jnp.issubdtype(x.dtype, jnp.floating) else _value

    def run(x: jax.Array, windows: Group, mask: Any) -> jax.Array:
        return of(x, mask, windows, largest)

    return as_merged(run, x, active(windows), mask)


def _value(x: jax.Array, mask: Any, windows: Group, largest: bool) -> jax.Array:
    def passes(x: jax.Array) -> jax.Array:
        for group in groups_of(x, windows, times=OF_VALUES):
            for p in passes_of(group):
                x, _ = apart(_fold, x, None, p=p, largest=largest, size=None)
        return x

    def calls(x: jax.Array) -> jax.Array:
        op, init = lax.max if largest else lax.min, lowest(x.dtype, largest)
        groups = [windows] if is_one_call(windows) else [(w,) for w in windows[::-1]]
        for group in groups:
            for p in passes_of(group, CALL, CALL):
                x = _reduce_window(x, p.windows, op, init, SMALL)
        return x

    if any(isinstance(window, Woven) for window in windows):
        return passes(x)
    return by_platform(x, cpu=passes, other=calls)


def winners(
    x: jax.Array, windows: Sequence[Window], largest: bool, mask: jax.Array | None = None
) -> tuple[jax.Array, list[tuple[Group, jax.Array]]]:
    """The value of every window, and the axes of each step with the winners among them.

    What was folded axis by axis but does not overlap is one step with one winner all the same, if
    the loop over it can be vectorised.
    """
    long, groups = is_long(x, windows), groups_of(x, windows)
    steps: list[tuple[Group, jax.Array]] = []
    if not long:
        if mask is None and is_disjoint(tuple(windows)) and not any(w.padded for w in windows):
            return _winners_by_rank(x, groups, largest)
        groups = groups[::-1]
    for group in groups:
        first = ()
        if mask is not None:
            mask, *first = value_and_winner(mask, group=group, largest=True)
        x, winner = value_and_winner(x, *first, group=group, largest=largest)
        if long and steps and is_disjoint(group + steps[-1][0]):
            inner, theirs = steps.pop()
            group, winner = group + inner, _joint_winner(theirs, winner, group, inner)
        steps.append((group, winner))
    return x, steps


def _winners_by_rank(
    x: jax.Array, groups: Sequence[Group], largest: bool
) -> tuple[jax.Array, list[tuple[Group, jax.Array]]]:
    """As `winners`, first axes first. The first tap of equal ones is no longer the one met first:
    the `rank` of each winner so far, its number among the taps of all axes folded, decides."""
    steps, rank, size = [], [], 1
    for group in groups:
        size *= size_of(group)
        x, winner, *rank = value_and_rank(x, *rank, group=group, largest=largest, size=size)
        steps.append((group, winner))
    return x, steps


def _joint_winner(inner: jax.Array, outer: jax.Array, group: Group, within: Group) -> jax.Array:
    """The number of a tap of all axes, from that of the axes within and that of the others."""
    dtype = index(size_of(group + within))
    at = pick({"t": inner.astype(dtype)}, outer, ("t",), group=group)["t"]
    return outer.astype(dtype) * jnp.asarray(size_of(within), dtype) + at


def groups_of(
    x: jax.Array, windows: Sequence[Window], scalar: bool = False, times: float = 0
) -> list[Group]:
    """The axes to fold at once, in the order that is fastest: the last ones last where loops along
    them cannot be vectorised, since little is left of x by then. `scalar`: even in such loops
    several axes are folded at once where windows overlap; `times`: in others, those that `is_worth`
    takes to be worth it."""
    long = is_long(x, windows)

    def fits(group: Group) -> bool:
        if long and is_worth(group, times):
            return True
        return is_few(group) and (long or scalar or is_disjoint(group))

    groups = together(windows, fits)
    return groups if long else groups[::-1]


_extremum = jax.custom_jvp(_value, nondiff_argnums=(2, 3))


@_extremum.defjvp
def _(windows, largest, primals, tangents):
    value, steps = winners(primals[0], windows, largest, primals[1])
    tangent = tangents[0]
    for group, winner in steps:
        tangent = pick({"t": tangent}, winner, ("t",), group=group)["t"]
    return value, tangent


def _value_and_winner(x: jax.Array, *first: jax.Array, group: Group, largest: bool) -> list:
    """The value of each window and the first tap that holds it; its size where there is no tap.

    `first` is each window's first real tap under a mask: an element that is not real holds the
    identity, and must not win from a real element that holds it too.
    """
    value, winner = x, None
    for p in passes_of(group):
        how = {"largest": largest, "size": _most(group)}
        value, winner = _in_lines(_fold, value, winner, p, **how)
    if first:
        winner = instead(winner, first[0], value, largest)
    return [value, winner]


def _value_and_rank(x: jax.Array, *rank: jax.Array, group: Group, largest: bool, size: int) -> list:
    """The value and the winner of each window, none of which overlap, and the winner's rank."""
    dtype, taps = index(size), size_of(group)
    before = rank[0].astype(dtype) * jnp.asarray(taps, dtype) if rank else None
    how = {"largest": largest, "size": size, "ordered": not rank}
    value, now = _in_lines(_fold, x, before, Pass(group, 1, 1), **how)
    return [value, (now % taps).astype(index(taps - 1)), now]


def _in_lines(
    function: Callable, x: jax.Array, winner: jax.Array | None, p: Pass, **how: Any
) -> Any:
    """A pass of winners apart, along lines that are as long as can be."""
    return apart(_of_lines, x, winner, of=function, p=p, elsewhere=ONE_REGION, **how)


def _of_lines(
    x: jax.Array,
    winner: jax.Array | None,
    of: Callable,
    p: Pass,
    one_region: bool = False,
    **how: Any,
) -> Any:
    """`of` with all axes behind its windows as one, where it is a loop for each region."""
    behind = -p.windows[-1].axis - 1
    sizes = x.shape[x.ndim - behind :]
    if one_region or behind < 2 or is_split(x, range(-behind, 0)):
        return of(x, winner, p=p, one_region=one_region, **how)

    def as_one(a: jax.Array) -> jax.Array:
        return a.reshape(*a.shape[: a.ndim - behind], prod(sizes))

    windows = tuple(replace(w, axis=w.axis + behind - 1) for w in p.windows)
    lines = jax.tree.map(as_one, (x, winner))
    results = of(*lines, p=p._replace(windows=windows), **how)
    return jax.tree.map(lambda a: a.reshape(*a.shape[:-1], *sizes), results)


def passes_of(group: Group, direct: int = DIRECT, taps: int = TAPS) -> list[Pass]:
    """Small windows of several axes at once, or one axis: in several passes if it is large."""
    return group[0].passes(direct, taps) if len(group) == 1 else [Pass(group, 1, 1)]


def size_of(group: Group) -> int:
    return prod(window.size for window in group)


def _most(group: Group) -> int:
    """The largest number of a winner: the last tap, or the number of taps for none at all."""
    return size_of(group) - all(all(w.count(padding=False)) for w in group)


def index(size: int) -> Any:
    """The narrowest dtype that holds numbers up to `size`."""
    for dtype in (jnp.uint8, jnp.uint16, jnp.int32):
        if size <= jnp.iinfo(dtype).max:
            return jnp.dtype(dtype)
    raise ValueError(
        f"The winner of a window of more than {jnp.iinfo(jnp.int32).max} elements has no number in"
        " int32, which its gradient needs. Write fewer axes to pool at once."
    )


def instead(winner: Any, first: Any, value: jax.Array, largest: bool) -> jax.Array:
    """`first` where no element is above the identity, for then all real ones tie."""
    nothing = value == jnp.asarray(lowest(value.dtype, largest), value.dtype)
    return jnp.where(nothing, first, winner)


def _fold(
    value: jax.Array,
    winner: jax.Array | None,
    p: Pass,
    largest: bool,
    size: int | None,
    ordered: bool = True,
    one_region: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """One pass of values and winners (of values alone where `size`, of the whole, is None).

    `ordered`: no winner of a tap comes before one of the tap before it.
    """
    window = p.windows[0]
    if one_region and winner is not None:
        # XLA would compute the pass before anew for each element that this one reads.
        value, winner = lax.optimization_barrier((value, winner))
    most = at_once(window, size is None)
    if len(p.windows) == 1 and window.disjoint and window.size > most:
        return _fold_rows(value, winner, window, most, largest, size, ordered)
    value, winner = _fold_few(value, winner, p, largest, size, ordered, one_region)
    return _unpaired(value, winner, size)


def _fold_few(value, winner, p, largest, size, ordered=True, one_region=False):
    """As `_fold`, in one loop for each result or, as complex numbers, for both together."""
    pair = not one_region and _is_pair(value, winner, size)
    if pair and prod(w.stride for w in p.windows) >= FAR:
        how = {"largest": largest, "size": size, "pair": True}
        return apart(_fold_taps, value, None, p=p, **how), None
    value, winner = _unpaired(value, winner, size)
    return _fold_taps(value, winner, p, largest, size, ordered, one_region=one_region)


def _is_pair(value: jax.Array, winner: jax.Array | None, size: int | None) -> bool:
    """Whether value and winner of a first pass fit into one complex number."""
    return size is not None and size < 2**24 and winner is None and value.dtype == jnp.float32


def _unpaired(value: jax.Array, winner: jax.Array | None, size: Any) -> tuple:
    """Value and winner, each by itself."""
    if value.dtype != jnp.complex64:
        return value, winner
    return lax.real(value), lax.imag(value).astype(index(size))


def _fold_taps(value, winner, p, largest, size, ordered=True, pair=False, one_region=False):
    """As `_fold`; `pair`: as complex numbers, since XLA makes two loops of two results."""
    dtype = value.dtype
    number = dtype if pair else None if size is None else index(size)
    # In one region padding has numbers above those of all taps: any tap takes the window from it.
    padded = one_region and any(w.padded for w in p.windows)
    fill = (lowest(dtype, largest), size) if padded else None
    if padded and size is not None:
        number = jnp.int32
        winner = lax.full_like(value, 0, number) if winner is None else winner.astype(number)

    def of_region(taps: list, full: Callable, _) -> Any:
        if not taps:
            nothing = full(lowest(dtype, largest), dtype)
            return result(nothing, None if size is None else full(size, number))
        values = [rank(v, largest) for _, (v, _) in taps]
        if size is None:
            return value_of(values), None
        numbers = [numbered(tap, w, full) for tap, (_, w) in taps]
        (best, at), *others = zip(values, numbers, strict=True)
        for v, w in others:
            better = _beats(v, best, largest)
            if not ordered:
                better |= (w < at) & ~_beats(best, v, largest)
            elif padded:
                better |= (w < size) & (at >= size)
            best, at = lax.select(better, v, best), lax.select(better, w, at)
        if padded:
            at = lax.min(at, full(size, number)).astype(index(size))
        return result(unrank(best, dtype) if pair or one_region else value_of(values), at)

    def value_of(ranked: list) -> jax.Array:
        return unrank(best_of(ranked, largest), dtype)

    def numbered(tap: int, winner: jax.Array | None, full: Callable) -> jax.Array:
        first = jnp.asarray(tap * p.apart, number)
        return full(first, number) if winner is None else winner + first

    def result(top: jax.Array, at: Any) -> Any:
        return lax.complex(top, at) if pair else (top, at)

    return over_outputs(of_region, (value, winner), p.windows, fill)


def best_of(taps: Sequence[jax.Array], largest: bool) -> jax.Array:
    """The largest (or smallest) of each, the first of equal ones; NaN where any is.

    Elementwise `lax.max` looks for NaN at every step, which takes three times the instructions;
    whether one of two is NaN is a single one.
    """
    if not jnp.issubdtype(taps[0].dtype, jnp.floating):
        return reduce(lax.max if largest else lax.min, taps)
    beats = lax.gt if largest else lax.lt
    best = reduce(lambda a, b: lax.select(beats(b, a), b, a), taps)
    nan = reduce(lax.bitwise_or, [tap != tap for tap in taps])
    return lax.select(nan, lax.full_like(best, jnp.nan), best)


def _beats(a: jax.Array, b: jax.Array, largest: bool) -> jax.Array:
    """True where a, coming after b, takes the window from it; NaN beats every number, ties stay."""
    worse = lax.le if largest else lax.ge
    if jnp.issubdtype(a.dtype, jnp.floating):
        return ~worse(a, b) & (b == b)
    return ~worse(a, b)


def _fold_rows(value, winner, window, most, largest, size, ordered):
    """Large windows side by side: an axis of their own to fold, some taps at a time."""
    at, k, apart_now = window.axis, window.size, 1
    single = _is_single(window)  # XLA copies x for an axis of one more

    def lay(a: jax.Array, fill: Any) -> jax.Array:
        return cut(a, at, -window.low, k) if single else rows(a, (window,), fill)

    value = lay(value, lowest(value.dtype, largest))
    winner = None if winner is None else lay(winner, 0)
    # Lines: taps are equal parts of the axis, so that loops run along it. Order costs winners time.
    lines = single and (size is None or not is_long(value, (window,)))
    while k > 1:
        n = -(-k // most)
        taps = -(-k // n)
        if lines:
            p = Pass((equal_parts(at, k, n),), n, 1)
        else:
            p = Pass((Window(at, k, taps, taps, 1, 0, 0, n),), apart_now, apart_now)
        how = {"largest": largest, "size": size, "ordered": ordered and not lines}
        value, winner = apart(_fold_few, value, winner, p=p, **how)
        k, apart_now = n, apart_now * taps
    value, winner = _unpaired(value, winner, size)
    if not single:
        squeeze = partial(lax.squeeze, dimensions=[value.ndim + at])
        value, winner = jax.tree.map(squeeze, (value, winner))
    if size is None:
        return value, None
    if window.padded:
        starts = np.arange(window.out) * window.stride - window.low
        first = np.where(starts < window.length, np.clip(-starts, 0, size), size)
        first = first.reshape(replace_axis((1,) * value.ndim, at, window.out))
        winner = instead(winner, jnp.asarray(first, index(size)), value, largest)
    return value, winner


def at_once(window: Window, values: bool) -> int:
    """How many taps of a large window one loop reads, for values alone or winners, too."""
    if _is_single(window) and window.axis < -1:
        return LINES
    return ROWS if values else BLOCK


def _is_single(window: Window) -> bool:
    return window.out == 1 and not window.padded


def equal_parts(axis: int, k: int, n: int) -> Window:
    """An axis of k as parts of n elements: windows of one tap from each."""
    return Window(axis, k, -(-k // n), 1, n, 0, 0, n)


def over_outputs(of_region: Callable, state: Any, windows: Group, fill: Any = None) -> Any:
    """`of_region` of every region of the outputs, each reading the elements of its windows.

    `fill`: what each array holds beyond the map, for one region of all outputs.
    """
    if fill is not None:
        state = _filled(state, [w.edges() for w in windows], fill)
        windows = tuple(w.within() for w in windows)
    regions = [(w, w.regions(), w.stride, 0, 1) for w in windows]
    return through_bits(partial(_over_regions, axes=regions), of_region, state)


def over_inputs(
    of_region: Callable, state: Any, windows: Group, fill: Any = None, asked: bool = False
) -> Any:
    """`of_region` of every region of the inputs, each reading the windows that see it.

    `fill`: what each array holds for windows that do not exist, for one region of each phase of the
    strides; `asked`: as for `interleave`.
    """
    if fill is None:
        return through_bits(partial(_over_phases, windows=windows), of_region, state)
    state = _filled(state, [(w.axis, *w.beyond()) for w in windows], fill)
    over = partial(_over_phases, windows=tuple(w.complete() for w in windows), asked=asked)
    whole = through_bits(over, of_region, state)
    at = tuple((w.axis, 0, w.length, 1) for w in windows)
    return jax.tree.map(lambda a: cut_all(a, at), whole)


def _filled(state: Any, edges: Sequence[tuple[int, int, int]], fill: Any) -> Any:
    """Every array with its `fill` around it."""
    return jax.tree.map(lambda a, fill: pad_all(a, edges, fill), state, fill)


def _over_phases(
    of_region: Callable, state: Any, windows: Group, phases: tuple = (), asked: bool = False
) -> Any:
    if len(phases) == len(windows):
        axes = zip(windows, phases, strict=True)
        regions = [(w, w.sources(phase), 1, phase, w.stride) for w, phase in axes]
        return _over_regions(of_region, state, regions)
    window = windows[len(phases)]
    parts = [
        _over_phases(of_region, state, windows, (*phases, p), asked) for p in range(window.stride)
    ]
    return jax.tree.map(lambda *each: interleave(each, window, asked), *parts)


def _over_regions(of_region: Callable, state: Any, axes: list) -> Any:
    """`of_region(taps, full, at)` of each region of each axis, put together.

    axes: of each the window, its regions, the stride to read with, and where the region is: from
    which position on, every how many. taps: (tap, what it reads) of every tap that falls on the
    map, in row-major order. full: `full(value, dtype)` is one value everywhere in the region. at:
    the region, for `cut_all`.
    """

    def go(todo: list, taps: list, shape: tuple, at: tuple) -> Any:
        if not todo:
            read = [(tap, jax.tree.map(partial(cut_all, at=here), state)) for tap, here in taps]
            return of_region(read, partial(full_like, leaves, shape), at)
        (window, regions, stride, offset, every), *later = todo
        pieces = []
        for start, stop, reads in regions:
            n = stop - start
            further = [
                (tap * window.size + j, (*here, (window.axis, first, n, stride)))
                for tap, here in taps
                for j, first in reads
            ]
            now = replace_axis(shape, window.axis, n)
            here = (window.axis, offset + start * every, n, every)
            pieces.append(go(later, further, now, (*at, here)))
        return jax.tree.map(lambda *each: join(each, window.axis), *pieces)

    leaves = jax.tree.leaves(state)  # of which some may have one value for all
    return go(axes, [(0, ())], lax.broadcast_shapes(*(a.shape for a in leaves)), ())


def cut_all(a: jax.Array, at: tuple) -> jax.Array:
    """A region's part of an array, which may have one value for all along an axis: one slice, for
    XLA may write out what others are cut from."""
    start, stop, strides = [0] * a.ndim, list(a.shape), [1] * a.ndim
    for axis, first, n, every in at:
        if a.shape[axis] != 1:
            start[axis] = first
            stop[axis], strides[axis] = span(first, n, every)
    return lax.slice(a, start, stop, strides)


def _winner_shapes(x: Any, *_: Any, group: Group, largest: bool) -> list[tuple]:
    shape = shape_of(group, x.shape)
    return [(shape, None), (shape, index(_most(group)))]


# ---- max and min: the linear map of tangents, and its transpose ----


def _pick(t: dict, winner: jax.Array, _: Any, group: Group) -> dict:
    """out[i] = t[the element that won window i], 0 where none did.

    Windows that do not overlap may have one winner for all along an axis.
    """
    passes = passes_of(group)
    inner = [winner]  # the winners of every pass, from those of the last
    for p in passes[:0:-1]:
        zero = jnp.zeros_like(inner[0], jnp.float32)
        inner.insert(0, apart(_spread_pass, zero, inner[0], p=p, inner=True, dtype=zero.dtype)[1])
    picked = t["t"]
    for p, w in zip(passes, inner, strict=True):
        picked = apart(_pick_pass, picked, w, p=p)
    return {"t": picked}


def _pick_pass(t: jax.Array, winner: jax.Array, p: Pass) -> jax.Array:
    if _in_rows(p) and size_of(p.windows) > BLOCK:
        won = along_rows(winner, p.windows) == _tap_numbers(winner, p.windows)
        each = jnp.where(won, rows(t, p.windows), 0)
        axes = [w.axis - i for i, w in enumerate(reversed(p.windows))]
        return each.sum([each.ndim + axis for axis in axes], dtype=t.dtype)

    def of_region(taps: list, full: Callable, at: tuple) -> jax.Array:
        here, value = cut_all(winner, at), full(0, t.dtype)
        for tap, slab in taps:
            value = jnp.where(_won(here, p, tap), slab, value)
        return value

    return over_outputs(of_region, t, p.windows)


def _in_rows(p: Pass) -> bool:
    """Whether every element has one window, whose winner it is or is not."""
    return p.covered == 1 and is_disjoint(p.windows)


def _won(winner: jax.Array, p: Pass, tap: int) -> jax.Array:
    """Whether a pass took its winner from this tap."""
    first, stop = p.first(tap), p.first(tap + 1)
    if stop == first + 1:
        return winner == jnp.asarray(first, winner.dtype)
    after = winner >= jnp.asarray(first, winner.dtype)
    if jnp.issubdtype(winner.dtype, jnp.integer) and stop > jnp.iinfo(winner.dtype).max:
        return after
    return after & (winner < jnp.asarray(stop, winner.dtype))


def _tap_numbers(winner: jax.Array, group: Group) -> jax.Array:
    """The number of every tap beside `rows` of a group."""
    numbers = np.arange(size_of(group)).reshape([window.size for window in group])
    shape = [1] * (winner.ndim + len(group))
    for i, window in enumerate(group):
        shape[window.axis - (len(group) - 1 - i)] = window.size
    return jnp.asarray(numbers.reshape(shape), winner.dtype)


def _spread(g: dict, winner: jax.Array, _: Any, group: Group) -> dict:
    """The transpose of `_pick`: dx[p] = the sum of g[i] over the windows i that p won."""
    spread, passes = g["t"], passes_of(group)
    dtype = last = spread.dtype
    narrow = _wide(dtype) != dtype
    if narrow and any(w.stride > 1 and not _in_rows(p) for p in passes for w in p.windows):
        # XLA's CPU backend interleaves 16-bit floats one by one, and rounds to bfloat16 so too.
        spread = apart(widen, spread)
        last = _wide(dtype) if dtype == jnp.bfloat16 else dtype
    for i in reversed(range(len(passes))):
        to = spread.dtype if i else last
        spread, winner = _in_lines(_spread_pass, spread, winner, passes[i], inner=i > 0, dtype=to)
    if last != dtype:
        spread = apart(lax.convert_element_type, spread, new_dtype=dtype)
    return {"t": spread}


def _spread_pass(
    g: jax.Array, winner: jax.Array, p: Pass, inner: bool, dtype: Any, one_region: bool = False
) -> tuple[jax.Array, jax.Array | None]:
    """One pass back: the sums, and if asked for, what won the windows of the pass before."""
    if _in_rows(p):
        won = along_rows(winner, p.windows) == _tap_numbers(winner, p.windows)
        dx = jnp.where(won, along_rows(g, p.windows), jnp.zeros((), g.dtype))
        return unrows(dx, p.windows).astype(dtype), None
    wide = _wide(g.dtype)
    # Loops over bytes alone compile for a second each and run slower than those over floats.
    winners = winner.dtype
    number = jnp.float32 if winners.itemsize <= 2 else winners
    fill = None
    if one_region:
        winner, number, fill = winner.astype(jnp.int32), jnp.int32, (0, -1)

    def of_region(taps: list, full: Callable, _) -> tuple[jax.Array, jax.Array | None]:
        dx, before = full(0, wide), full(0, number)
        for tap, (here, at) in taps:
            dx += jnp.where(_won(at, p, tap), widen(here), jnp.zeros((), wide))
            if inner:
                at = at.astype(number)
                rest = at - jnp.asarray(tap * p.apart, number)
                before = lax.select(_won(at, p, tap), rest, before)
        return dx.astype(g.dtype), before.astype(winners) if inner else None

    dx, before = over_inputs(of_region, (g, winner), p.windows, fill)
    if one_region and inner:
        dx, before = lax.optimization_barrier((dx, before))
    return dx.astype(dtype), before


def shape_back(shape: tuple, group: Group) -> tuple:
    for window in group:
        shape = replace_axis(shape, window.axis, window.length)
    return shape


# Of what a linear pair over one group of windows returns, there and back.
group_shapes = (
    lambda t, _, group: shape_of(group, t.shape),
    lambda g, _, group: shape_back(g.shape, group),
)


def _of_winner(outs: list, t: jax.Array, *, group: Group, **_: Any) -> jax.Array:
    """The tangent of each window's value."""
    return pick({"t": t}, outs[1], ("t",), group=group)["t"]


pick, spread = linear_pair("pick", _pick, _spread, *group_shapes)
value_and_winner = primitive("extremum", _value_and_winner, _winner_shapes, jvp=_of_winner)
value_and_rank = primitive(
    "ranked",
    _value_and_rank,
    lambda x, *_, group, largest, size: [
        (shape_of(group, x.shape), dtype)
        for dtype in (None, index(size_of(group) - 1), index(size))
    ],
    jvp=_of_winner,
)


# ---- sums ----


def total(x: jax.Array, windows: Sequence[Window], divisor: jax.Array | None = None) -> jax.Array:
    """The sum of every window, over the divisor if there is one: a number or one per window."""
    if x.dtype == jnp.bool_:
        return extremum(x, windows, largest=True)

    def run(x: jax.Array, windows: Group, divisor: Any) -> jax.Array:
        return _add({"x": x}, (divisor, None), ("x",), windows=windows)["x"]

    return as_merged(run, x, active(windows), divisor)


def _wide(dtype: Any) -> Any:
    """The dtype to add up in."""
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    return jnp.dtype(jnp.float32) if narrow else dtype


def _over(y: jax.Array, divisor: jax.Array | None, dtype: Any) -> jax.Array:
    return (y if divisor is None else y / divisor).astype(dtype)


def _add_of(x: dict, rest: tuple, _: Any, windows: Group) -> dict:
    dtype, (divisor, _) = x["x"].dtype, rest

    def passes(x: jax.Array, divisor: Any) -> jax.Array:
        *first, last = groups_of(x, windows, times=OF_SUMS)
        for group in first:
            x = _add_pass(x, None, group, _wide(dtype))
        return _add_pass(x, divisor, last, dtype)

    def one_call(x: jax.Array, divisor: Any) -> jax.Array:
        return _over(_reduce_window(x.astype(_wide(dtype)), windows, least=SMALL), divisor, dtype)

    if not is_one_call(windows):
        return {"x": passes(x["x"], divisor)}
    return {"x": by_platform(x["x"], divisor, cpu=passes, other=one_call)}


def _add_pass(x: jax.Array, divisor: Any, group: Group, dtype: Any) -> jax.Array:
    if _is_one_loop(x, group):
        return apart(add_slices, x, divisor, group=group, dtype=dtype)
    if _in_place(x, group[0]):
        return apart(_add_rows, x, divisor, window=group[0], dtype=dtype)
    if group[0].whole:
        return _add_lines(x, divisor, group[0], dtype)
    if parts := _parts(group[0]):
        x = _add_pass(x, None, (parts[0],), _wide(dtype))
        return _add_pass(x, divisor, (parts[1],), dtype)
    wide = x.astype(_wide(x.dtype))
    if is_disjoint(group):
        return _over(_reduce_window(wide, group), divisor, dtype)
    return _slide(wide, divisor, group[0], dtype)


def _is_one_loop(x: jax.Array, group: Group) -> bool:
    """Whether sums are one loop over slices."""
    if len(group) > 1 or is_few(group):
        return True
    return size_of(group) <= BLOCK and not is_long(x, group, WIDE)


def _in_place(x: jax.Array, window: Window) -> bool:
    """Whether XLA's own sum of an axis is the fastest: over neighbours in memory, or bfloat16."""
    if window.axis == -1:
        return window.disjoint
    return x.dtype == jnp.bfloat16 and window.whole and is_long(x, (window,))


def _add_rows(x: jax.Array, divisor: Any, window: Window, dtype: Any) -> jax.Array:
    taps = rows(x.astype(_wide(x.dtype)), (window,))
    at = taps.ndim + window.axis
    return _over(lax.reduce(taps, np.zeros((), taps.dtype), lax.add, [at]), divisor, dtype)


def _add_lines(x: jax.Array, divisor: Any, window: Window, dtype: Any) -> jax.Array:
    """All of an axis: its equal parts first, then what they add up to."""
    n = -(-window.size // LINES)
    parts = equal_parts(window.axis, window.size, n)
    x = apart(add_slices, x, None, group=(parts,), dtype=_wide(dtype))
    return _add_pass(x, divisor, (equal_parts(window.axis, n, 1).plain(),), dtype)


def _parts(window: Window) -> tuple[Window, Window] | None:
    """A large window as one of parts that do not overlap, and one over them."""
    if window.size <= BLOCK:
        return None
    return window.split(BLOCK if window.disjoint else None)


def add_slices(x: jax.Array, divisor: Any, group: Group, dtype: Any) -> jax.Array:
    def of_region(taps: list, full: Callable, at: tuple) -> jax.Array:
        part = None if divisor is None else cut_all(divisor, at)
        return _over(_sum_of(taps, full, x.dtype), part, dtype)

    return over_outputs(of_region, x, group)


def _sum_of(taps: list, full: Callable, dtype: Any) -> jax.Array:
    slabs = [widen(slab) for _, slab in taps]
    return reduce(lax.add, slabs) if slabs else full(0, _wide(dtype))


def _add_back(cotangent: dict, rest: tuple, _: Any, windows: Group) -> dict:
    """The transpose: dx[p] = the sum of g[i] over the windows i that see p."""
    g, (divisor, after) = cotangent["x"], rest
    dtype, wide = g.dtype, _wide(g.dtype)
    if divisor is not None and divisor.shape != (1,) * divisor.ndim:
        g, divisor = g.astype(wide) / divisor, None  # ... else in the loop of the last pass
    dense = all(window.stride == 1 for window in windows)  # else the way back is several loops
    last, *others = groups_of(g, windows, times=OF_SUMS if dense else 0)
    for group in reversed(others):
        g = _add_pass_back(g, None, group, wide, after)
    return {"x": _add_pass_back(g, divisor, last, dtype, after)}


def _after_sum(rest: tuple, out: jax.Array, windows: Group) -> tuple:
    """Passes over large windows need arrays of the size of x: the backward pass waits for those of
    the forward one to be free again. One element of the result is enough to wait for, if every
    device has it."""
    large = any(w.size > BLOCK and not w.disjoint for w in windows)
    if not large or is_split(out, range(out.ndim)):
        return rest
    return rest[0], lax.stop_gradient(out[(slice(1),) * out.ndim])


def _add_pass_back(g: jax.Array, divisor: Any, group: Group, dtype: Any, after: Any) -> jax.Array:
    if is_disjoint(group):
        return apart(_repeat, g, divisor, group=group, dtype=dtype)
    if _is_one_loop(g, group):
        return apart(add_slices_back, g, divisor, group=group, dtype=dtype)
    (window,) = group
    if parts := _parts(window):
        g = _add_pass_back(g, None, (parts[1],), _wide(dtype), after)
        return _add_pass_back(g, divisor, (parts[0],), dtype, after)
    g = g.astype(_wide(g.dtype))
    phases = []
    for phase in range(window.stride):
        ahead = sorted(window.ahead(phase).values())
        n = window.phase_length
        if not ahead:
            phases.append(full_like(g, replace_axis(g.shape, window.axis, n), 0, g.dtype))
        else:
            step = ahead[1] - ahead[0] if len(ahead) > 1 else 1
            of = Window(window.axis, window.out, len(ahead), 1, step, -ahead[0], 0, n)
            phases.append(_slide(g, None, of, g.dtype, after))
    return _over(interleave(phases, window), divisor, dtype)


def add_slices_back(g: jax.Array, divisor: Any, group: Group, dtype: Any) -> jax.Array:
    def of_region(taps: list, full: Callable, _) -> jax.Array:
        return _over(_sum_of(taps, full, g.dtype), divisor, dtype)

    return over_inputs(of_region, g, group)


def _repeat(g: jax.Array, divisor: Any, group: Group, dtype: Any) -> jax.Array:
    """Disjoint windows: every window's value at each of its elements."""
    g = along_rows(_over(g.astype(_wide(g.dtype)), divisor, dtype), group)
    shape = g.shape
    for i, window in enumerate(reversed(group)):
        shape = replace_axis(shape, window.axis - i, window.size)
    return unrows(jnp.broadcast_to(g, shape), group)


def _slide(
    x: jax.Array, divisor: Any, window: Window, dtype: Any, after: jax.Array | None = None
) -> jax.Array:
    """The sum of every window along one axis, in log2(k) passes for k of many taps, which start
    once `after` is known."""
    if window.size <= BLOCK:
        return _over(_reduce_window(x, (window,)), divisor, dtype)
    axis, size, d, sums = window.axis, window.size, window.dilation, x
    if window.low or window.overhang or after is not None:
        sums = apart(_pad_after, x, after, axis=axis, low=window.low, high=window.overhang)
    length, covered = sums.shape[axis], 1
    little = 3 * length <= 4 * window.length  # is added by padding
    short = axis < -1 and not is_long(x, (window,), WIDE) and not is_split(x, range(axis, 0))
    if little and window.stride == 1 and short:
        behind = x.shape[x.ndim + axis + 1 :]
        along = replace(window, length=length, low=0, high=0).along(prod(behind))
        over = None if divisor is None else _line(divisor, window.out, behind)
        y = _slide(_line(sums, length, behind), over, along, dtype)
        return y.reshape(*y.shape[:-1], window.out, *behind)
    # `sums` are of windows of as many taps as the first binary digits of k say.
    # To add one tap is fastest from padded x, but then three arrays of its size are alive.
    single, low = (sums, 0) if little else (x, window.low)
    steps = []
    for odd in map(int, f"{size:b}"[1:]):
        distance, covered = covered * d, 2 * covered + odd
        last = covered == size
        n = window.out if last else length - (covered - 1) * d
        steps.append((odd, distance, n, window.stride if last else 1))
    while steps:
        even = next((i for i, (odd, *_) in enumerate(steps) if odd), len(steps))
        few = -(-even // -(-even // TWICE)) if even else 1
        now, steps = tuple(steps[:few]), steps[few:]
        if even and not steps:
            return apart(_steps, sums, None, divisor, axis=axis, steps=now, low=low, dtype=dtype)
        more = None if even else single
        sums = apart(_steps, sums, more, None, axis=axis, steps=now, low=low, dtype=x.dtype)
    return _over(sums, divisor, dtype)


def _line(a: jax.Array, n: int, behind: tuple) -> jax.Array:
    """An axis of n and the few elements `behind` each of its positions as one axis: XLA unrolls
    loops over few elements, and vectorises nothing then. (What is one for all stays so.)"""
    at = a.ndim - len(behind) - 1
    if all(k == 1 for k in a.shape[at:]):
        return a.reshape(*a.shape[:at], 1)
    return jnp.broadcast_to(a, (*a.shape[:at], n, *behind)).reshape(*a.shape[:at], n * prod(behind))


def _pad_after(x: jax.Array, _: Any, axis: int, low: int, high: int) -> jax.Array:
    return pad(x, axis, low, high)


def _steps(sums, x, divisor, axis: int, steps: tuple, low: int, dtype: Any) -> jax.Array:
    for odd, distance, n, stride in steps:
        sums = _twice(sums, x if odd else None, axis, distance, n, stride, low)
    return _over(sums, divisor, dtype)


def _twice(
    sums: jax.Array, x: jax.Array | None, axis: int, distance: int, n: int, stride: int, low: int
) -> jax.Array:
    """Windows of twice the taps, and where there is x, of one more, which its padding, `low` before
    it, does not hold."""
    at = partial(cut, sums, axis, n=n, stride=stride)
    both = at(start=0) + at(start=distance)
    if x is None:
        return both
    first = 2 * distance - low  # where the one more of the first window is
    start = min(n, max(0, -(first // stride)))
    stop = min(n, max(start, -((first - x.shape[axis]) // stride)))
    if start == stop:
        return both
    part = partial(cut, both, axis)
    more = cut(x, axis, first + start * stride, stop - start, stride)
    pieces = [part(0, start)] if start else []
    pieces.append(part(start, stop - start) + more)
    return join(pieces + ([part(stop, n - stop)] if stop < n else []), axis)


def _reduce_window(
    x: jax.Array, group: Group, op: Callable = lax.add, init: Any = 0, least: int = 0
) -> jax.Array:
    """One call of XLA: of more than `least` taps a `reduce` where these are whole axes."""
    start = np.asarray(init, x.dtype)
    if is_whole(group) and size_of(group) > least:
        axes = [x.ndim + w.axis for w in group]
        return lax.expand_dims(lax.reduce(x, start, op, axes), axes)
    size, stride, dilation = [1] * x.ndim, [1] * x.ndim, [1] * x.ndim
    padding = [(0, 0)] * x.ndim
    for w in group:
        x = pad(x, w.axis, min(w.low, 0), min(w.overhang, 0))
        size[w.axis], stride[w.axis], dilation[w.axis] = w.size, w.stride, w.dilation
        padding[w.axis] = max(w.low, 0), max(w.overhang, 0)
    return lax.reduce_window(x, start, op, size, stride, padding, window_dilation=dilation)


_add, _ = linear_pair(
    "add",
    _add_of,
    _add_back,
    lambda x, _, windows: shape_of(windows, x.shape),
    lambda g, _, windows: shape_back(g.shape, windows),
    _after_sum,
)


def count(
    mask: jax.Array | None,
    windows: Sequence[Window],
    ndim: int,
    padding: bool,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """How many real elements each window holds; `padding` counts what may be counted."""

    def positions(padding: bool) -> np.ndarray:
        along = [np.asarray(window.count(padding), dtype) for window in windows]
        axes = [replace_axis((1,) * ndim, w.axis, w.out) for w in windows]
        n = reduce(np.multiply, [a.reshape(s) for a, s in zip(along, axes, strict=True)])
        return n[(slice(1),) * ndim] if np.all(n == n.flat[0]) else n

    if mask is None:
        return jnp.asarray(positions(padding))
    real = total(mask.astype(dtype), windows)
    return real + jnp.asarray(positions(True) - positions(False)) if padding else real
