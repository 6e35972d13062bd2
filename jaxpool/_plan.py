"""How a reduction runs, decided by shapes alone while it is traced: the one place.

A window of few taps is one loop over all its axes, a larger one is one pass per axis, and a large
side is several passes of few taps (`Window.passes`). Windows that do not overlap are rows of a
reshaped array where they are large; those that overlap, of a size that shares no factor with their
stride, are made of pieces of the map that do not overlap (`_turns`).

On GPUs and TPUs what needs no winner is XLA's own `reduce_window`, and all else is one loop over
padded arrays (`_regions`).
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jaxpool._window import Pass, Window, Woven

Group = tuple[Window, ...]

# How many taps one loop reads, all measured on CPU. Overlapping windows of more than DIRECT taps
# along an axis are folded in several passes of up to TAPS; of several axes with more than JOINT
# taps together, axis by axis. Values alone and sums of up to MOST taps are one loop, too, if it
# reads at most so many times as many taps.
DIRECT, TAPS, JOINT, MOST = 7, 4, 9, 27
OF_VALUES, OF_SUMS = 1.5, 3
# Windows that do not overlap read every element once, whatever their size: BLOCK bounds the length
# of the program, and ROWS that of values alone, where a longer one takes fewer instructions. Larger
# ones are rows of a table.
BLOCK, ROWS = 16, 32
# An axis that is pooled whole, or a row of a table, is read as so many equal parts at a time. They
# may be a power of two apart, and then a cache has room for few of them.
LINES = 12
# One loop finds value and winner together, as one complex number, where windows are so far apart
# (all their strides, multiplied) that there are few of these numbers. Windows that overlap need be
# half as far apart where x has more than LARGE elements, which no cache keeps for a second loop.
FAR, LARGE = 9, 2**22
# So many times sums are doubled in one loop, over few elements more often: XLA unrolls their loops.
TWICE, OF_FEW = 3, 4
# A loop can be vectorised if there are LONG elements side by side. Sums that overlap run over fewer
# than WIDE in other ways, since XLA's own are slow there, and so are loops that it unrolls.
LONG, WIDE = 16, 64
# Such are loops over more than half of LONG and fewer than FEW elements: fewer than OF_WINNERS for
# extremes, and than LONG for several axes at once. On maps of LINE elements and more, one line of
# them and the axis before is faster.
FEW, OF_WINNERS, LINE = 32, 24, 1024
# LLVM unrolls short loops over few elements. There it vectorises no truth values of A_FEW, if their
# taps are UNROLLED together, and no choice by the number of the winner. To compute with numbers
# instead makes these loops too long to be unrolled: for fewer elements, with COPIES of the number.
A_FEW, UNROLLED = range(12, 21), range(60, 70)
COPIES = {4: range(16, 22), 1: range(22, 30), 0: range(30, 38)}
# What one loop reads more than READS times, XLA writes out first: the bits of bfloat16, too. They
# are read as up to KINDS dtypes by turns, so that this is not needed.
READS, KINDS = 15, 2
# In one example of SHARED elements, with fewer than LONG channels, threads share out the very axis
# along which borders are joined: in a loop over few channels XLA then vectorises nothing, and in
# one over none it reads, in lanes that it masks, so far beyond the array that a processor may take
# a hundred times as long. So extremes leave the joining to a loop of its own.
SHARED = 2**13
# Large windows that do not divide into smaller ones are pieces that take turns (`_turns`), if their
# strides are at least CLOSE, or APART for what folds each piece in several loops.
CLOSE, APART = 4, 16
# Pieces of two lengths, of which one is more than BLOCK, are made of one, which is one program, if
# they differ by no more than 1/EVEN of the shorter.
EVEN = 4
# GPUs and TPUs get one `reduce_window` over all axes of up to SMALL taps, else one `reduce` of axes
# that are pooled whole, else, for extremes, a `reduce_window` for every CALL taps along one axis.
SMALL, CALL = 64, 16


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


def takes_turns(window: Any, rows: bool) -> bool:
    """Whether a large window is pieces that take turns; `rows`, for what folds each in several
    loops: farther apart, and even where no window overlaps another."""
    if type(window) is not Window or window.dilation > 1 or window.out == 1:
        return False
    if window.stride < (APART if rows else CLOSE) or (window.disjoint and not rows):
        return False
    while window.size > BLOCK:
        if not (parts := window.split(BLOCK)):
            return True
        window = parts[1]
    return False


def is_even(a: int, b: int) -> bool:
    """Whether pieces of a and b elements are made of one length."""
    return max(a, b) > BLOCK and EVEN * abs(a - b) <= min(a, b)


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


def times_of_values(windows: Group) -> float:
    """How many times `is_worth` allows for values alone: none where the last two axes are padded
    behind the map alone and one more is, as SAME pads even sizes. LLVM does not vectorise that."""
    behind = all(window.low <= 0 < window.overhang for window in windows[-2:])
    return 0 if behind and len(windows) > 2 and windows[-3].padded else OF_VALUES


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


def is_slow(x: jax.Array, group: Group, few: int = FEW) -> bool:
    """Whether XLA's CPU backend unrolls loops over the few elements behind windows of stride 1, and
    one line of them and the last axis is faster."""
    last = group[-1]
    if isinstance(last, Woven) or last.stride > 1 or last.size == 1:
        return False
    n = prod(x.shape[x.ndim + last.axis + 1 :])
    if not isinstance(n, int) or n * prod(w.length for w in group) < LINE:
        return False
    return LONG // 2 < n < (few if len(group) == 1 else LONG)


def is_shared(x: jax.Array, group: Group) -> bool:
    """Whether threads share out the axis of an extreme of stride 1, and slow it down by that."""
    window = group[0]
    if len(group) > 1 or isinstance(window, Woven) or window.stride > 1 or window.size == 1:
        return False
    at = x.ndim + window.axis
    before, behind = prod(x.shape[:at]), prod(x.shape[at + 1 :])
    one = isinstance(before, int) and before == 1
    return one and not is_many(behind) and window.length * behind >= SHARED


def is_ragged(x: jax.Array, group: Group) -> bool:
    """Whether borders of the way back are laid around what is read: with borders at both ends of
    two axes of three taps (of three axes, where all strides are 1), elements there are seen like
    those between, and LLVM joins the branches for both into loops that it does not vectorise (but
    for few channels). Not where windows see copies of elements (`Bordered`), which would be lost:
    nothing is laid where these are."""
    three = [w for w in group if type(w) is Window and w.size == 3]
    borders = [sum(len(w.sources(p)) - 1 for p in range(w.stride)) for w in three]
    least = 3 if is_dense(group) else 2
    return is_long(x, group) and sum(n > 2 for n in borders) >= least


def kinds_of_bits(reads: int) -> int:
    """In how many dtypes a loop reads bits of bfloat16: in one where KINDS are too few."""
    needed = -(-reads // READS)
    return needed if 1 <= needed <= KINDS else 1


def is_far(x: jax.Array, group: Group) -> bool:
    """Whether one loop finds value and winner together."""
    apart = prod(window.stride for window in group)
    large = isinstance(x.size, int) and x.size > LARGE
    return apart >= (FAR // 2 if large and not is_disjoint(group) else FAR)


def is_by_pairs(x: jax.Array, taps: int) -> bool:
    """Whether winners are those of pairs, of pairs of these, and so on: to compare floats takes
    long, and in a chain each comparison waits for the one before it."""
    return jnp.issubdtype(x.dtype, jnp.floating) and (taps > TAPS or is_many(x.shape[-1]))


def is_unrolled(taps: int, n: Any) -> bool:
    """Whether a loop of so many taps over n elements that looks for NaN is faster without truth
    values."""
    return isinstance(n, int) and n in A_FEW and n * taps in UNROLLED


def copies_of(n: Any) -> int | None:
    """How many copies of the number of a winner a loop over n elements computes with; None where it
    is as fast with truth values."""
    return next((copies for copies, few in COPIES.items() if isinstance(n, int) and n in few), None)


def is_dense(windows: Sequence[Window]) -> bool:
    """Whether a window starts at every position."""
    return all(window.stride == 1 for window in windows)


def is_disjoint(group: Group) -> bool:
    return all(window.disjoint for window in group)


def none_empty(windows: Sequence[Window]) -> bool:
    """Whether every window sees some element of the map."""
    return all(window.count(padding=False).all() for window in windows)


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


def passes_of(group: Group, direct: int = DIRECT, taps: int = TAPS) -> list[Pass]:
    """Small windows of several axes at once, or one axis: in several passes if it is large."""
    return group[0].passes(direct, taps) if len(group) == 1 else [Pass(group, 1, 1)]


def size_of(group: Group) -> int:
    return prod(window.size for window in group)


def reads(windows: Sequence[Window]) -> float:
    """How often an element is read: in how many windows it is, away from the borders."""
    return prod(window.size / window.stride for window in windows)


def at_once(window: Window, values: bool) -> int:
    """How many taps of a large window one loop reads, for values alone or winners, too."""
    if is_single(window) and window.axis < -1:
        return LINES
    return ROWS if values else BLOCK


def is_single(window: Window) -> bool:
    return window.out == 1 and not window.padded


def equal_parts(axis: int, k: int, n: int) -> Window:
    """An axis of k as parts of n elements: windows of one tap from each."""
    return Window(axis, k, -(-k // n), 1, n, 0, 0, n)


def is_table(group: Group) -> bool:
    """Whether windows of which values alone are asked are rows of a table: large ones that overlap
    no other."""
    window = group[0]
    return len(group) == 1 and window.disjoint and window.size > ROWS and not window.whole


def lines_of(window: Window) -> list[Window]:
    """A row of the elements of a window as lines of equal length, to be folded into one, and as
    what is left over. (LLVM unrolls loops over lines of LONG/2 to LONG elements.)"""
    axis, size = window.axis, window.size
    good = [k for k in range(LINES, LINES // 2 - 1, -1) if not LONG // 2 < size // k < LONG]
    taps = next((k for k in good if size % k == 0), min(size, good[0]))
    n, left = divmod(size, taps)
    lines = Window(axis, size, taps, 1, n, 0, 0, n)
    return [lines, Window(axis, size, left, left, 1, left - size, 0, 1)] if left else [lines]


def is_one_loop(x: jax.Array, group: Group) -> bool:
    """Whether sums are one loop over slices."""
    if len(group) > 1 or is_few(group):
        return True
    return size_of(group) <= BLOCK and not is_long(x, group, WIDE)


def is_in_place(x: jax.Array, window: Window) -> bool:
    """Whether XLA's own sum of an axis is the fastest: over neighbours in memory, or bfloat16."""
    if window.axis == -1:
        return window.disjoint and window.out * window.size == window.length and not window.padded
    return x.dtype == jnp.bfloat16 and window.whole and is_long(x, (window,))


def parts_of(window: Window) -> tuple[Window, Window] | None:
    """A large window as one of parts that do not overlap, and one over them."""
    if window.size <= BLOCK:
        return None
    return window.split(BLOCK if window.disjoint else None)
