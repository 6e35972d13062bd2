"""Max and min of windows, who wins them, and the derivatives.

Elementwise, over slices (`best_of`), because XLA's CPU backend drops NaN from `reduce_window` and
`reduce` where windows do not overlap. The derivative is linear in the tangent once the *winner* of
every window is known, the first tap that holds the value (or the first NaN): one byte per window,
whatever the window's size up to 256, since which pass it came from can be read from it. `pick`
takes each window's tangent from its winner; its transpose `spread` gives each cotangent back there,
summing over the windows that see an element: no scatter, so the same result every time.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpool._linear import (
    Curved,
    apart,
    by_platform,
    full_like,
    linear_pair,
    may_be_split,
    primitive,
)
from jaxpool._plan import (
    BLOCK,
    CALL,
    OF_WINNERS,
    SMALL,
    Group,
    active,
    at_once,
    copies_of,
    equal_parts,
    groups_of,
    is_by_pairs,
    is_disjoint,
    is_far,
    is_long,
    is_many,
    is_one_call,
    is_shared,
    is_single,
    is_slow,
    is_table,
    is_unrolled,
    lines_of,
    none_empty,
    passes_of,
    size_of,
    times_of_values,
)
from jaxpool._regions import (
    ONE_REGION,
    cut_all,
    group_shapes,
    on_line,
    over_inputs,
    over_outputs,
    pairwise,
    reduce_window,
)
from jaxpool._slices import (
    along_rows,
    as_line,
    as_merged,
    chosen,
    cut,
    join,
    moving,
    narrowed,
    narrowest,
    nearest,
    rank,
    replace_axis,
    rounded,
    rows,
    table,
    unrank,
    unrows,
    widen,
    wider,
)
from jaxpool._turns import in_place, in_turns, is_taken, next_of, over, woven
from jaxpool._window import Pass, Window, Woven, all_of, shape_of


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
    of = _extremum if _is_float(x) else _value

    def run(x: jax.Array, windows: Group, mask: Any) -> jax.Array:
        return of(x, mask, windows, largest)

    return as_merged(run, x, active(windows), mask)


def _value(x: jax.Array, mask: Any, windows: Group, largest: bool) -> jax.Array:
    def passes(x: jax.Array, mask: Any) -> jax.Array:
        for group in groups_of(x, windows, times=times_of_values(windows)):
            x, mask = _value_pass(x, mask, group, largest), None
        return x

    def calls(x: jax.Array, mask: Any) -> jax.Array:
        x = masked(x, mask, largest)
        groups = [windows] if is_one_call(windows) else [(w,) for w in windows[::-1]]
        for group in groups:
            x = _in_calls(x, group, largest)
        return x

    if any(isinstance(window, Woven) for window in windows):
        return passes(x, mask)
    return by_platform(x, mask, cpu=passes, other=calls)


def _value_pass(x: jax.Array, mask: Any, group: Group, largest: bool) -> jax.Array:
    window = group[0]
    if is_taken(x, window):
        each = [_value_pass(x, mask, (w,), largest) for w in in_place(window)]
        return _value_pass(apart(woven, each, window=window), None, (over(window),), largest)
    for p in passes_of(group):
        if is_table(p.windows):
            (window,) = p.windows
            parts = [_value_of_table(x, mask, part, largest) for part in window.tables()]
            x = join(parts, window.axis)
        else:
            fold = partial(apart, _fold, largest=largest, size=None)
            x, _ = _in_pieces(fold, (x, None, mask), p)
        mask = None
    return x


def _in_calls(x: jax.Array, group: Group, largest: bool) -> jax.Array:
    window = group[0]
    if is_taken(x, window):
        each = [_in_calls(x, (w,), largest) for w in in_place(window)]
        return _in_calls(woven(each, window), (over(window),), largest)
    op, init = lax.max if largest else lax.min, lowest(x.dtype, largest)
    for p in passes_of(group, CALL, CALL):
        x = reduce_window(x, p.windows, op, init, SMALL)
    return x


def _value_of_table(x: jax.Array, mask: Any, window: Window, largest: bool) -> jax.Array:
    """As `_sums._add_table`."""
    if window.empty:
        shape = replace_axis(x.shape, window.axis, window.out)
        return full_like(x, shape, lowest(x.dtype, largest), x.dtype)
    best: Any = None
    for line in lines_of(window):
        best = apart(_best_of_rows, x, mask, best, window=window, line=line, largest=largest)
        if line.out > 1:
            best = _value_pass(best, None, (all_of(line.axis, line.out),), largest)
    return best.squeeze(window.axis)


def _best_of_rows(x, mask, best, window: Window, line: Window, largest: bool) -> jax.Array:
    x, mask = table(x, mask, window)
    more, _ = _fold_taps(x, None, mask, Pass((line,), 1, 1), largest, None)
    return more if best is None else best_of([best, more], largest)


def winners(
    x: jax.Array, windows: Sequence[Window], largest: bool, mask: jax.Array | None = None
) -> tuple[jax.Array, list[tuple[Group, jax.Array]]]:
    """The value of every window, and the axes of each step with the winners among them.

    What was folded axis by axis but does not overlap is one step with one winner all the same, if
    the loop over it can be vectorised. A window in which nothing is real has no winner.
    """
    long, groups = is_long(x, windows), groups_of(x, windows)
    steps: list[tuple[Group, jax.Array]] = []
    if not long:
        if mask is None and is_disjoint(tuple(windows)) and not any(w.padded for w in windows):
            return _winners_by_rank(x, groups, largest)
        groups = groups[::-1]
    for group in groups:
        rest = ()
        if mask is not None:
            some, first = value_and_winner(mask, group=group, largest=True)
            none, dtype = size_of(group), index(size_of(group))
            first = jnp.where(some, first.astype(dtype), jnp.asarray(none, dtype))
            rest, mask = (mask, first), some
        x, winner = value_and_winner(x, *rest, group=group, largest=largest)
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


_extremum = Curved(_value, statics=2)


@_extremum.defjvp
def _(windows, largest, primals, tangents):
    x, mask = primals
    if next_of(x, windows):  # pieces are cut out, since winners are found in several loops

        def fold(x: jax.Array, windows: Group, mask: Any) -> jax.Array:
            return _extremum(x, mask, windows, largest)

        def run(x: jax.Array) -> jax.Array:
            return fold(*in_turns(fold, x, windows, mask, partial(extremum, largest=True)))

        return jax.jvp(run, primals[:1], tangents[:1])
    value, steps = winners(x, windows, largest, mask)
    tangent = tangents[0]
    for group, winner in steps:
        tangent = pick({"t": tangent}, winner, ("t",), group=group)["t"]
    return value, tangent


def _value_and_winner(x: jax.Array, *rest: jax.Array, group: Group, largest: bool) -> list:
    """The value of each window and the first tap that holds it; its size where there is no tap.

    `rest`: which elements are real, and each window's first real tap, its size for none. An element
    that is not real holds the identity, and must not win from a real element that holds it too.
    """
    value, winner, (mask, first) = x, None, rest or (None, None)
    most, passes = _most(group, bool(rest)), passes_of(group)
    narrow = all(none_empty(p.windows) for p in passes[:-1])
    for p in passes:  # numbers are as narrow as they can be, but for that of none at all
        size = p.taps() - 1 if narrow and p is not passes[-1] else most
        value, winner = _in_lines(_fold, (value, winner, mask), p, largest=largest, size=size)
        mask = None
    if rest:
        winner = instead(winner, first, value, largest)
    return [value, winner]


def _value_and_rank(x: jax.Array, *rank: jax.Array, group: Group, largest: bool, size: int) -> list:
    """The value and the winner of each window, none of which overlap, and the winner's rank."""
    dtype, taps = index(size), size_of(group)
    before = rank[0].astype(dtype) * jnp.asarray(taps, dtype) if rank else None
    how = {"largest": largest, "size": size, "ordered": not rank}
    value, now = _in_lines(_fold, (x, before), Pass(group, 1, 1), **how)
    return [value, (now % taps).astype(index(taps - 1)), now]


def _in_lines(function: Callable, arrays: tuple, p: Pass, **how: Any) -> Any:
    """A pass of winners apart, along lines that are as long as can be."""
    run = partial(apart, _of_lines, of=function, elsewhere=ONE_REGION, **how)
    return _in_pieces(run, arrays, p, back=function is _spread_pass)


def _in_pieces(run: Callable, arrays: tuple, p: Pass, back: bool = False) -> Any:
    """`run(*arrays, p=p)`, on one line where that is faster, and with its borders by themselves
    where threads share it out."""

    def whole(arrays: tuple, windows: Group) -> Any:
        return run(*arrays, p=p._replace(windows=windows))

    def in_turn(arrays: tuple, windows: Group) -> Any:
        (line,) = windows
        pieces = line.pieces_back() if back else line.pieces()
        each = [whole(arrays, (piece,)) for piece in pieces]
        return jax.tree.map(lambda *a: join(a, -1), *each)

    x, windows = arrays[0], p.windows
    if is_shared(x, windows):
        return on_line(in_turn, whole, arrays, windows)
    if is_slow(x, windows, OF_WINNERS):
        return on_line(whole, whole, arrays, windows)
    return whole(arrays, windows)


def _of_lines(*arrays: Any, of: Callable, p: Pass, one_region: bool = False, **how: Any) -> Any:
    """`of` with all axes behind its windows as one, where it is a loop for each region."""
    x, behind = arrays[0], -p.windows[-1].axis - 1
    sizes = x.shape[x.ndim - behind :]
    if one_region or behind < 2 or may_be_split(x, range(-behind, 0)):
        return of(*arrays, p=p, one_region=one_region, **how)

    windows = tuple(replace(w, axis=w.axis + behind - 1) for w in p.windows)
    lines = jax.tree.map(partial(as_line, sizes=sizes), arrays)
    results = of(*lines, p=p._replace(windows=windows), **how)
    return jax.tree.map(lambda a: a.reshape(*a.shape[:-1], *sizes), results)


def _most(group: Group, masked: bool) -> int:
    """The largest number of a winner: the last tap, or the number of taps for none at all."""
    return size_of(group) - (not masked and none_empty(group))


def index(size: int) -> Any:
    """The narrowest dtype that holds numbers up to `size`."""
    if (dtype := narrowest(size)) is not None:
        return dtype
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
    mask: jax.Array | None = None,
    *,
    p: Pass,
    largest: bool,
    size: int | None,
    ordered: bool = True,
    one_region: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """One pass of values and winners (of values alone where `size`, of the whole, is None); `mask`
    says which elements are real.

    `ordered`: no winner of a tap comes before one of the tap before it.
    """
    window = p.windows[0]
    if one_region and winner is not None:
        # XLA would compute the pass before anew for each element that this one reads.
        value, winner = lax.optimization_barrier((value, winner))
    most = at_once(window, size is None)
    if len(p.windows) == 1 and window.disjoint and window.size > most:
        return _fold_rows(value, winner, mask, window, most, largest, size, ordered)
    how = {"largest": largest, "size": size, "ordered": ordered, "one_region": one_region}
    value, winner = _fold_few(value, winner, mask, p=p, **how)
    return _unpaired(value, winner, size)


def _fold_few(value, winner, mask, p, largest, size, ordered=True, one_region=False):
    """As `_fold`, in one loop for each result or, as complex numbers, for both together."""
    if not one_region and _is_pair(value, winner, size) and is_far(value, p.windows):
        how = {"largest": largest, "size": size, "pair": True}
        return apart(_fold_taps, value, None, mask, p=p, **how), None
    value, winner = _unpaired(value, winner, size)
    return _fold_taps(value, winner, mask, p, largest, size, ordered, one_region=one_region)


def _is_pair(value: jax.Array, winner: jax.Array | None, size: int | None) -> bool:
    """Whether value and winner of a first pass fit into one complex number."""
    return size is not None and size < 2**24 and winner is None and value.dtype == jnp.float32


def _unpaired(value: jax.Array, winner: jax.Array | None, size: Any) -> tuple:
    """Value and winner, each by itself."""
    if value.dtype != jnp.complex64:
        return value, winner
    return lax.real(value), lax.imag(value).astype(index(size))


def _fold_taps(value, winner, mask, p, largest, size, ordered=True, pair=False, one_region=False):
    """As `_fold`; `pair`: as complex numbers, since XLA makes two loops of two results."""
    dtype = value.dtype
    number = dtype if pair else None if size is None else index(size)
    # In one region padding has numbers above those of all taps: any tap takes the window from it.
    padded = one_region and any(w.padded for w in p.windows)
    least = lowest(dtype, largest)
    fill = (least, size, None if mask is None else False) if padded else None
    if padded and size is not None:
        number = jnp.int32
        winner = lax.full_like(value, 0, number) if winner is None else winner.astype(number)

    def of_region(taps: list, full: Callable, _) -> Any:
        if not taps:
            nothing = full(least, dtype)
            return result(nothing, None if size is None else full(size, number))
        values = [ranked(v, real) for _, (v, _, real) in taps]
        if size is None:
            return value_of(values), None
        numbers = [numbered(tap, w, full) for tap, (_, w, _) in taps]
        if dtype == jnp.bfloat16 and not one_region and not is_many(value.shape[-1]):
            # LLVM does not vectorise few choices by integers, nor the widening of float16.
            seen = [chosen(widen(v), real, least) for _, (v, _, real) in taps]
        else:
            seen = values
        best, at = _folded(first_of, [*zip(seen, numbers, strict=True)])
        if padded:
            at = lax.min(at, full(size, number)).astype(index(size))
        return result(unrank(best, dtype) if pair or one_region else value_of(values), at)

    def first_of(one: tuple, other: tuple) -> tuple:
        (best, at), (v, w) = one, other
        better = _beats(v, best, largest)
        if not ordered:
            better |= (w < at) & ~_beats(best, v, largest)
        elif padded:
            better |= (w < size) & (at >= size)
        return lax.select(better, v, best), lax.select(better, w, at)

    def ranked(value: jax.Array, real: jax.Array | None) -> jax.Array:
        ranks = rank(value, largest)
        none = least if _is_float(ranks) else rank(jnp.asarray(least, dtype), largest)
        return chosen(ranks, real, none)

    def value_of(ranked: list) -> jax.Array:
        return unrank(best_of(ranked, largest), dtype)

    def numbered(tap: int, winner: jax.Array | None, full: Callable) -> jax.Array:
        first = jnp.asarray(tap * p.apart, number)
        return full(first, number) if winner is None else winner.astype(number) + first

    def result(top: jax.Array, at: Any) -> Any:
        return lax.complex(top, at) if pair else (top, at)

    return over_outputs(of_region, (value, winner, mask), p.windows, fill)


def best_of(taps: Sequence[jax.Array], largest: bool) -> jax.Array:
    """The largest (or smallest) of each, the first of equal ones; NaN where any is.

    Elementwise `lax.max` looks for NaN at every step, which takes three times the instructions;
    whether one of two is NaN is a single one.
    """
    if not _is_float(taps[0]):
        return reduce(lax.max if largest else lax.min, taps)
    beats = lax.gt if largest else lax.lt
    best = _folded(lambda a, b: lax.select(beats(b, a), b, a), taps)
    if is_unrolled(len(taps), best.shape[-1]):
        some = pairwise(lambda a, b: lax.select(a != a, a, b), taps)
        nan = some != some
    else:
        nan = pairwise(lax.bitwise_or, [tap != tap for tap in taps])
    return lax.select(nan, lax.full_like(best, jnp.nan), best)


def _folded(function: Callable, taps: Sequence[Any]) -> Any:
    """`function` of all taps, of arrays or tuples of them, the first of which is compared."""
    like = jax.tree.leaves(taps[0])[0]
    return (pairwise if is_by_pairs(like, len(taps)) else reduce)(function, taps)


def _is_float(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _beats(a: jax.Array, b: jax.Array, largest: bool) -> jax.Array:
    """True where a, coming after b, takes the window from it; NaN beats every number, ties stay."""
    worse = lax.le if largest else lax.ge
    if _is_float(a):
        return ~worse(a, b) & (b == b)
    return ~worse(a, b)


def _fold_rows(value, winner, mask, window, most, largest, size, ordered):
    """Large windows side by side: an axis of their own to fold, some taps at a time."""
    at, k, apart_now = window.axis, window.size, 1
    single = is_single(window)  # XLA copies x for an axis of one more

    def lay(a: jax.Array, fill: Any) -> jax.Array:
        if single:
            return cut(a, at, -window.low, k)
        return moving(rows)(a, windows=(window,), fill=fill)

    value = lay(value, lowest(value.dtype, largest))
    winner = None if winner is None else lay(winner, 0)
    mask = None if mask is None else lay(mask, False)
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
        value, winner = apart(_fold_few, value, winner, mask, p=p, **how)
        k, apart_now, mask = n, apart_now * taps, None
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


# ---- the linear map of tangents, and its transpose ----


def _pick(t: dict, winner: jax.Array, _: Any, group: Group) -> dict:
    """out[i] = t[the element that won window i], 0 where none did.

    Windows that do not overlap may have one winner for all along an axis.
    """
    passes = passes_of(group)
    inner = [winner]  # the winners of every pass, from those of the last
    for p in passes[:0:-1]:
        zero = jnp.zeros_like(inner[0], jnp.float32)
        how = {"inner": True, "laid": zero.dtype, "dtype": zero.dtype}
        inner.insert(0, apart(_spread_pass, zero, inner[0], p=p, **how)[1])
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
    dtype = last = laid = spread.dtype
    if any(w.stride > 1 and not _in_rows(p) for p in passes for w in p.windows):
        # XLA's CPU backend interleaves 16-bit floats one by one. Loops over few channels, which it
        # unrolls, are faster without what widens and rounds; its own rounding is no slower there.
        laid = wider(dtype)
        if laid != dtype and not is_long(spread, group, OF_WINNERS):
            spread, last = apart(widen, spread), laid
    early = is_many(g["t"].shape[-1])
    for i in reversed(range(len(passes))):
        how = {"inner": i > 0, "laid": laid, "dtype": laid if i else last, "early": early}
        spread, winner = _in_lines(_spread_pass, (spread, winner), passes[i], **how)
    if last != dtype:
        spread = apart(lax.convert_element_type, spread, new_dtype=dtype)
    return {"t": spread}


def _spread_pass(
    g: jax.Array,
    winner: jax.Array,
    p: Pass,
    inner: bool,
    laid: Any,
    dtype: Any,
    early: bool = False,
    one_region: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """One pass back: the sums, and if asked for, what won the windows of the pass before. Regions
    are `laid` side by side in that dtype: rounded `early`, so that all is one loop, or in a second
    one, which is faster over few channels."""
    if _in_rows(p):
        return _put(g, winner, p.windows).astype(dtype), None
    wide = wider(g.dtype)
    # Loops over bytes alone compile for a second each and run slower than those over floats.
    number = jnp.float32 if winner.dtype.itemsize <= 2 else winner.dtype
    if one_region:
        winner, number = winner.astype(jnp.int32), jnp.int32
    none = jnp.iinfo(winner.dtype).max  # no tap, or of 8 bits one with a cotangent of 0

    def of_region(taps: list, full: Callable, _) -> tuple[jax.Array, jax.Array | None]:
        dx, before = full(0, wide), full(0, number)
        for tap, (here, at) in taps:
            dx += jnp.where(_won(at, p, tap), widen(here), jnp.zeros((), wide))
            if inner:
                at = at.astype(number)
                rest = at - jnp.asarray(tap * p.apart, number)
                before = lax.select(_won(at, p, tap), rest, before)
        dx = rounded(nearest(dx, dtype) if early else dx, laid)
        return dx, before.astype(index(p.covered - 1)) if inner else None

    dx, before = over_inputs(of_region, (g, winner), p.windows, (0, none), one_region)
    if one_region and inner:
        dx, before = lax.optimization_barrier((dx, before))
    return (narrowed if early else rounded)(dx, dtype), before


def _put(g: jax.Array, winner: jax.Array, group: Group) -> jax.Array:
    """Every number where the winner of its window is, 0 elsewhere: chosen by arithmetic where LLVM
    does not vectorise choices, which are among 16-bit integers, and in loops that it unrolls."""
    numbers, copies = _tap_numbers(winner, group), None
    if winner.dtype.itemsize == 1 and g.dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        copies = copies_of(g.shape[-1])
    if g.dtype == jnp.bfloat16:
        copies = copies or 0
    winner, each = along_rows(winner, group), along_rows(g, group)
    if copies is None:
        return unrows(jnp.where(winner == numbers, each, 0), group)
    other = winner.astype(jnp.int32) ^ numbers.astype(jnp.int32)
    if jnp.issubdtype(winner.dtype, jnp.signedinteger):  # a phase may be none, below 0
        other = lax.shift_right_logical(other | -other, jnp.int32(31))
    here = _of_zero(other, copies)
    bits = jnp.int32 if g.dtype == jnp.float32 else jnp.int16
    kept = lax.bitcast_convert_type(each, bits).astype(jnp.int32) & here
    return lax.bitcast_convert_type(unrows(kept.astype(bits), group), g.dtype)


def _of_zero(number: jax.Array, copies: int) -> jax.Array:
    """-1, all bits, where a number is 0, and 0 where it is above. With `copies`, one of a byte or
    four side by side, step by step: what bits there are meet in the last one."""
    if not copies:
        return number - 1 >> 31
    if copies == 4:
        number = number * 0x01010101
    shift = 4 * copies
    while shift:
        number |= number >> shift
        shift //= 2
    return (number & 1) - 1


def _winner_shapes(x: Any, *rest: Any, group: Group, largest: bool) -> list[tuple]:
    shape = shape_of(group, x.shape)
    return [(shape, None), (shape, index(_most(group, bool(rest))))]


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
