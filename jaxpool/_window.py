"""Windows along an axis, as integers: which elements each sees, who sees each element, and a large
window as a chain of small ones. No JAX, and nothing that a user writes."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np


class Region(NamedTuple):
    """Positions that the same taps reach; `taps` pairs each tap with where it reads first."""

    start: int
    stop: int
    taps: tuple[tuple[int, int], ...]


class Pass(NamedTuple):
    """One of the small windows that make up a large one.

    Its tap j stands for the taps [j*apart, j*apart + covered) of the large window, of which those
    before `first(j)` are tap j - 1's already. (Several windows, one per axis: for few taps.)
    """

    windows: tuple["Window", ...]
    apart: int
    covered: int

    def first(self, tap: int) -> int:
        return self.covered + (tap - 1) * self.apart if tap else 0

    def taps(self) -> int:
        """How many taps of the large window there are after this pass."""
        return self.first(prod(window.size for window in self.windows))


@dataclass(frozen=True)
class Window:
    """A window sliding along one axis: out[i] sees x[i*stride + j*dilation - low] for j < size.

    `axis` counts from the end, so that new leading axes change nothing. Positions outside
    [0, length) are padding; `high` is how much of it behind the map an average may count (what
    ceil mode adds beyond is never counted). A negative `low` skips the first elements.
    """

    axis: int
    length: int
    size: int
    stride: int
    dilation: int
    low: int
    high: int
    out: int

    @property
    def extent(self) -> int:
        return self.dilation * (self.size - 1) + 1

    @property
    def disjoint(self) -> bool:
        """No element is seen twice, and none lies in a gap of a dilated window."""
        return self.stride >= self.size and self.dilation == 1

    @property
    def overhang(self) -> int:
        """How far the last window reaches beyond the map; negative where elements are left over."""
        return (self.out - 1) * self.stride + self.extent - self.low - self.length

    @property
    def padded(self) -> bool:
        """Some window reaches beyond the map, so that not all see equally many elements."""
        return self.low > 0 or self.overhang > 0

    def plain(self) -> "Window":
        """The same window; a single one without its padding and with its size as stride, since it
        overlaps no other."""
        first, stop = max(-self.low, 0), min(self.size - self.low, self.length)
        if self.out > 1 or self.dilation > 1 or stop <= first:
            return self
        return replace(self, size=stop - first, stride=stop - first, low=-first, high=0)

    @property
    def whole(self) -> bool:
        """One window takes all of the axis."""
        one = self.plain()
        return one.out == 1 and one.dilation == 1 and one.low == 0 and one.size == one.length

    @property
    def idle(self) -> bool:
        """Every window is one element of its own, so that nothing is to be done."""
        return self == Window(
            self.axis, self.length, 1, 1, self.dilation, 0, self.high, self.length
        )

    def filled(self) -> "Window":
        """The same window over a map to which its padding has been added as real elements."""
        return replace(self, length=self.low + self.length + self.high, low=0, high=0)

    def tables(self) -> "list[Window]":
        """Windows that overlap no other, in turn: those whose strides are rows of a table that the
        map holds; before and behind them one that is single, and those that see nothing."""
        empty = -((self.size - 1 - self.low) // self.stride)
        first, stop = -(-self.low // self.stride), (self.length + self.low) // self.stride
        ends = sorted(
            {min(max(i, 0), self.out) for i in (0, empty, first, stop, stop + 1, self.out)}
        )
        parts = [
            replace(self, low=self.low - a * self.stride, out=b - a) for a, b in pairwise(ends)
        ]
        return [part.plain() for part in parts]

    def edges(self) -> tuple[int, int, int]:
        """What `within` adds to the map: (axis, before, after)."""
        return self.axis, self.low, max(self.overhang, 0)

    def within(self) -> "Window":
        """The same window over a map to which all that it reaches has been added."""
        _, before, after = self.edges()
        return replace(self, length=before + self.length + after, low=0, high=0)

    def reach(self) -> list[tuple[int, int, int, int]]:
        """(tap, first, i, j): window n reads first + n*stride, on the map where i <= n <= j."""
        firsts = [tap * self.dilation - self.low for tap in range(self.size)]
        s, last = self.stride, self.length - 1
        return [(tap, at, -(at // s), (last - at) // s) for tap, at in enumerate(firsts)]

    def regions(self) -> list[Region]:
        """The outputs, cut where the set of taps that fall on the map changes."""
        return [
            Region(a, b, tuple((tap, first + a * self.stride) for tap, first in taps))
            for a, b, taps in _cut(self.reach(), self.out)
        ]

    @property
    def phase_length(self) -> int:
        """How many inputs phase, phase + stride, ... there are, at most."""
        return -(-self.length // self.stride)

    def ahead(self, phase: int) -> dict[int, int]:
        """Which windows see the inputs phase, phase + stride, ...: {tap: i} says that input number
        q of the phase is tap `tap` of window q + i."""
        found = {}
        for tap in range(self.size):
            i, aside = divmod(phase + self.low - tap * self.dilation, self.stride)
            if not aside:
                found[tap] = i
        return found

    def sources(self, phase: int) -> list[Region]:
        """Transposed `regions`: for inputs phase, phase + stride, ..., who sees them."""
        reach = [(tap, i, -i, self.out - 1 - i) for tap, i in self.ahead(phase).items()]
        return [
            Region(a, b, tuple((tap, i + a) for tap, i in taps))
            for a, b, taps in _cut(reach, self.phase_length)
        ]

    def behind(self, start: int) -> tuple["Window", int]:
        """The windows that see elements from `start` on, over these alone; which the first is."""
        unseen = -(-(start + self.low - self.extent + 1) // self.stride)
        first = min(max(unseen, 0), self.out)
        low = self.low + start - first * self.stride
        return replace(self, length=self.length - start, low=low, out=self.out - first), first

    def beyond(self) -> list[tuple[int, int, int]]:
        """How many windows that do not exist `ahead` names: (windows, before them, after them), of
        each part of the windows."""
        ahead = [i for phase in range(self.stride) for i in self.ahead(phase).values()]
        after = self.phase_length + max(ahead) - self.out
        return [(self.out, max(-min(ahead), 0), max(after, 0))]

    def spare(self) -> tuple[int, int, int]:
        """What is added to the map for every phase to be complete: (axis, before, after)."""
        return self.axis, 0, self.phase_length * self.stride - self.length

    def complete(self) -> "Window":
        """The same window with every phase complete, among all windows that `ahead` names."""
        [(n, low, high)] = self.beyond()
        return replace(
            self,
            length=self.phase_length * self.stride,
            low=self.low + low * self.stride,
            out=low + n + high,
        )

    def pieces(self) -> list["Window"]:
        """The same windows as up to three in turn: those before, of and after the widest region."""
        return [
            replace(self, low=self.low - a * self.stride, out=b - a)
            for a, b in _around(self.regions(), self.out)
        ]

    def pieces_back(self) -> list["Window"]:
        """Transposed `pieces`, for stride 1: the inputs in turn, each with all windows."""
        return [
            replace(self, low=self.low + a, length=b - a)
            for a, b in _around(self.sources(0), self.length)
        ]

    def along(self, n: int) -> "Window":
        """The same windows of stride 1 where n elements lie behind each position, and all of them
        are one axis, the last: n windows side by side that take turns."""
        length, low, high, out = (n * k for k in (self.length, self.low, self.high, self.out))
        return Window(-1, length, self.size, 1, n * self.dilation, low, high, out)

    def count(self, padding: bool) -> np.ndarray:
        """How many positions each window averages over: the map alone, or with its padding."""
        first, last = (-self.low, self.length + self.high) if padding else (0, self.length)
        at, d = np.arange(self.out) * self.stride - self.low, self.dilation
        begin, end = -((at - first) // d), -((at - last) // d)  # taps j: first <= at + j*d < last
        return np.maximum(np.minimum(end, self.size) - np.maximum(begin, 0), 0)

    @property
    def empty(self) -> bool:
        """No window sees anything."""
        return not self.count(padding=False).any()

    def seen(self) -> np.ndarray:
        """Which elements of the map are in any window."""
        seen = np.zeros(self.length, bool)
        if self.dilation == 1 and self.stride <= self.size:  # no gaps
            seen[max(-self.low, 0) : max(self.length + self.overhang, 0)] = True
            return seen
        for _, first, i, j in self.reach():
            start, stop = max(i, 0) * self.stride, min(j, self.out - 1) * self.stride
            if start <= stop:
                seen[first + start : first + stop + 1 : self.stride] = True
        return seen

    def split(self, most: int | None = None) -> "tuple[Window, Window] | None":
        """The same window, k = a*b and s = a*c, as one of a taps, no more than `most`, and one of b
        over its output. (The last part of a single one that ends with the map may be shorter: no
        more than half, since it is a loop of its own.)"""
        shared = gcd(self.size, self.stride)
        n = next(n for n in range(min(shared, most or shared), 0, -1) if not shared % n)
        if most and 2 * n < most < self.size and self.out == 1 and self.overhang == 0:
            n = next(n for n in range(most, 0, -1) if 2 * (self.size % n) <= n)
        if n in (1, self.size) or self.dilation > 1:
            return None
        skip = self.low % n
        out = -(-(self.length + skip) // n)
        blocks = replace(self, size=n, stride=n, low=skip, high=0, out=out)
        size, stride, low = -(-self.size // n), -(-self.stride // n), self.low // n
        return blocks, Window(self.axis, out, size, stride, 1, low, 0, self.out)

    def passes(self, direct: int, most: int) -> list[Pass]:
        """The same window as a chain of windows of few taps, each over the output of the last, in
        which an element may be folded in twice (max and min): log(k) passes of up to `most`.

        Where the stride shares a factor with k, the first of them need not overlap at all. Windows
        that do not overlap stay whole, whatever their size, and so do those that see nothing.
        Padding is dealt out so that no intermediate window lies before the map or behind it.
        """
        if self.size <= direct or self.disjoint or self.empty:
            return [Pass((self,), 1, 1)]
        if parts := self.split():
            blocks, rest = parts
            n = blocks.size
            later = [(p.windows, p.apart * n, p.covered * n) for p in rest.passes(direct, most)]
            return [Pass((blocks,), 1, 1), *(Pass(*p) for p in later)]
        chain, covered = [], 1  # windows of `covered` taps are known at the starts in [first, last]
        first, last = 0, self.length - 1
        for taps, apart in _folds(self.size, most):
            covered_next = covered + (taps - 1) * apart
            done = covered_next == self.size
            start = -self.low if done else max(-self.low, -(covered_next - 1) * self.dilation)
            end = (
                (self.out - 1) * self.stride - self.low + (self.size - covered_next) * self.dilation
            )
            end = min(end, self.length - 1)
            window = Window(
                self.axis,
                last - first + 1,
                taps,
                self.stride if done else 1,
                apart * self.dilation,
                first - start,
                0,
                self.out if done else end - start + 1,
            )
            chain.append(Pass((window,), apart, covered))
            covered, first, last = covered_next, start, end
        return chain

    def digits(self, most: int, direct: int) -> "list[Window]":
        """The same window as a chain of windows of few taps, each over the output of the last, in
        which every element is folded in once (sums): log(k) passes.

        A window of k = a*b taps is one of a taps and then one of b taps, a apart: the factors of
        k, where none is above `most`. Else k = a*b + d with a and b up to `direct`: the d taps left
        over are a window of their own beside the others, which later passes carry along and add to,
        so that a, d, ... are the digits of k in a mixed radix. All that windows reach is added to
        the map then, by windows of one tap.
        """
        if factors := _factors(self.size, most):
            return self._chain([(n, 0) for n in factors[:-1]], factors[-1])
        if self.padded:
            inside = self.within()
            border = replace(self, size=1, stride=1, dilation=1, high=0, out=inside.length)
            return [border, *inside.digits(most, direct)]
        return self._chain(*_radix(self.size, direct))

    def _chain(self, digits: list[tuple[int, int]], size: int) -> "list[Window]":
        """Passes of (a, d), the lowest digits first, and of the last `size` taps."""
        axis, d, starts = self.axis, self.dilation, (self.out - 1) * self.stride + 1
        # Known are windows of `taps`, n of them from `first` on, and behind them, if any, those of
        # `left` taps at all places where a window may start.
        taps, first, n, left = 1, 0, self.length, 0
        chain = []
        for base, digit in [*digits, (0, size)]:
            stride, out = (1, starts) if base else (self.stride, self.out)
            length, apart = n + (starts if left else 0), taps * d
            more = []
            if digit:
                low = first + self.low - left * d
                more.append((Window(axis, n, digit, stride, apart, low, 0, out), 0))
            if left:
                more.append((Window(axis, starts, 1, stride, 1, 0, 0, out), n))
            sections = [more] if more else []
            left += digit * taps
            if base:
                taps *= base
                start = max(left * d - self.low, (1 - taps) * d)
                stop = min(starts - self.low + (self.size - taps) * d, self.length)
                start = min(start, self.length - 1)
                out = max(stop - start, 1)
                blocks = Window(axis, n, base, 1, apart, first - start, 0, out)
                sections.insert(0, [(blocks, 0)])
                first, n = start, out
            chain.append(_beside(length, sections))
        return chain


def _beside(length: int, sections: list[list[tuple[Window, int]]]) -> Window:
    """Windows one after the other along the output, each made of several over parts of the input,
    (window, where its part begins); `length`, of the whole input."""
    [(window, _), *more], *others = sections
    if not more and not others:
        return window
    reach, at = [], 0
    for section in sections:
        tap = 0
        for window, offset in section:
            for j, first, begin, end in window.reach():
                first += offset - at * window.stride
                reach.append((tap + j, first, max(begin, 0) + at, min(end, window.out - 1) + at))
            tap += window.size
        at += section[0][0].out
    size = max(sum(window.size for window, _ in section) for section in sections)
    found = tuple(r for r in reach if r[2] <= r[3])
    ins = {(offset, offset + window.length) for section in sections for window, offset in section}
    outs = tuple(section[0][0].out for section in sections)
    return Woven(
        window.axis, length, size, window.stride, 1, 0, 0, at, found, tuple(sorted(ins)), outs
    )


@dataclass(frozen=True)
class Woven(Window):
    """Windows along one axis that need not be alike nor adjacent, as a table of taps. Each tap is
    of one part of the map and of one part of the windows."""

    taps: tuple[tuple[int, int, int, int], ...]  # as `reach` gives them
    ins: tuple[tuple[int, int], ...]  # where the parts of the map begin and end
    outs: tuple[int, ...]  # how many windows there are in each of their parts

    disjoint = padded = whole = False
    overhang = 0

    def plain(self) -> "Window":
        return self

    def within(self) -> "Window":
        return self

    def passes(self, direct: int, most: int) -> list[Pass]:
        return [Pass((self,), 1, 1)]

    def reach(self) -> list[tuple[int, int, int, int]]:
        return list(self.taps)

    def sources(self, phase: int) -> list[Region]:
        found = []
        for tap, first, begin, end in self.taps:
            i, aside = divmod(phase - first, self.stride)
            if not aside:
                found.append((tap, i, begin - i, end - i))
        return [
            Region(a, b, tuple((tap, i + a) for tap, i in taps))
            for a, b, taps in _cut(found, self.phase_length)
        ]

    def _ahead(self) -> list[tuple[int, tuple[int, int, int, int]]]:
        """`taps` for all elements of their part of the map, whatever windows that names; and of
        which part of the windows each tap is."""
        starts, s = list(accumulate(self.outs, initial=0)), self.stride
        found = []
        for tap, first, i, _ in self.taps:
            [(a, b)] = ((a, b) for a, b in self.ins if a <= first + i * s < b)
            reach = (tap, first, -((first - a) // s), (b - 1 - first) // s)
            found.append((bisect_right(starts, i) - 1, reach))
        return found

    def beyond(self) -> list[tuple[int, int, int]]:
        ahead, found, start = self._ahead(), [], 0
        for part, n in enumerate(self.outs):
            before = max([0, *(start - i for of, (*_, i, _) in ahead if of == part)])
            after = max([0, *(j + 1 - start - n for of, (*_, j) in ahead if of == part)])
            found.append((n, before, after))
            start += n
        return found

    def complete(self) -> "Window":
        parts = self.beyond()
        added = accumulate(before + after for _, before, after in parts)
        moved = [total - after for total, (_, _, after) in zip(added, parts, strict=True)]
        taps = tuple(
            (tap, first - moved[part] * self.stride, i + moved[part], j + moved[part])
            for part, (tap, first, i, j) in self._ahead()
        )
        outs = tuple(map(sum, parts))
        length = self.phase_length * self.stride
        return replace(self, length=length, taps=taps, outs=outs, out=sum(outs))

    def count(self, padding: bool) -> np.ndarray:
        found = np.zeros(self.out, int)
        for _, _, a, b in self.taps:
            found[max(a, 0) : b + 1] += 1
        return found


@dataclass(frozen=True)
class Bordered(Window):
    """A window that beyond the map reads copies of its elements, as numpy.pad's `border` would lay
    them there: what `filled` windows see of a padded map, without the padded map."""

    border: str

    def filled(self) -> Window:
        return Window(*astuple(self)[:-1]).filled()

    def source(self, position: int) -> int:
        """The element that lies, or is copied, at a position."""
        last = self.length - 1
        match self.border:
            case "wrap":
                return position % self.length
            case "edge":
                return min(max(position, 0), last)
        period = max(2 * last, 1)
        return min(position % period, -position % period)

    def places(self, i: int) -> list[tuple[int, int]]:
        """Where window i reads: (tap, position)."""
        first = i * self.stride - self.low
        return [(tap, first + tap * self.dilation) for tap in range(self.size)]

    def regions(self) -> list[Region]:
        """The windows inside the map, and each of the others by itself."""
        found = []
        for region in super().regions():
            if len(region.taps) == self.size:
                found.append(region)
                continue
            for i in range(region.start, region.stop):
                taps = tuple((tap, self.source(position)) for tap, position in self.places(i))
                found.append(Region(i, i + 1, taps))
        return found

    def sources(self, phase: int) -> list[Region]:
        """Elements that have been copied, each by itself, and the others."""
        copied = self._copied()
        found = []
        for start, stop, taps in super().sources(phase):
            alone = [q for q in range(start, stop) if phase + q * self.stride in copied]
            edges = {start, stop, *alone, *(q + 1 for q in alone)}
            for a, b in pairwise(sorted(edges)):
                copies = copied.get(phase + a * self.stride, [])
                own = [(tap, i + a - start) for tap, i in taps]
                found.append(Region(a, b, (*own, *copies)))
        return found

    def _copied(self) -> dict[int, list[tuple[int, int]]]:
        """Which windows see copies of an element: {element: [(tap, window)]}."""
        found: dict[int, list[tuple[int, int]]] = {}
        for i, stop, _ in self.regions():
            if stop > i + 1:  # inside the map
                continue
            for tap, position in self.places(i):
                if not 0 <= position < self.length:
                    found.setdefault(self.source(position), []).append((tap, i))
        return found


@dataclass(frozen=True)
class Bins:
    """Windows along one axis that need not be alike: out[i] sees x[starts[i]:stops[i]].

    No bin is empty, and neither bound falls from one bin to the next: the bins that see an element
    follow one another. `axis` counts from the end. Laid side by side, all bins are as long as the
    longest, and an ordinary window takes one after the other.
    """

    axis: int
    length: int
    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def out(self) -> int:
        return len(self.starts)

    def count(self, padding: bool = False) -> np.ndarray:
        """How many elements each bin sees; there is no padding."""
        return np.subtract(self.stops, self.starts)

    @property
    def size(self) -> int:
        return int(self.count().max())

    @property
    def window(self) -> Window:
        """The bins, laid side by side."""
        n, k = self.out, self.size
        return Window(self.axis, n * k, k, k, 1, 0, 0, n)

    def places(self) -> list[tuple[int, bool]]:
        """Which element lies at each place, and whether it belongs to the bin: the last element of
        a short bin is repeated."""
        bins = zip(self.starts, self.stops, strict=True)
        return [(min(a + j, b - 1), a + j < b) for a, b in bins for j in range(self.size)]

    def taps(self) -> "Iterator[tuple[Bins, list[bool]]]":
        """The first elements of all bins, then the second ones, ..., as bins of one element; and to
        which bins they belong: the last element of a short bin is repeated."""
        for tap in range(self.size):
            at = [min(a + tap, b - 1) for a, b in zip(self.starts, self.stops, strict=True)]
            real = [a + tap < b for a, b in zip(self.starts, self.stops, strict=True)]
            yield replace(self, starts=tuple(at), stops=tuple(a + 1 for a in at)), real

    def split(self, most: int) -> "tuple[Bins, Window] | None":
        """Bins of more elements than `most` in parts, each a bin, and a window over the parts of
        each. All bins have as many parts, and no part is empty."""
        counts = self.count().tolist()
        n = min(-(-self.size // most), min(counts))
        if n == 1:
            return None
        bins = zip(self.starts, counts, strict=True)
        cuts = [[start + count * i // n for i in range(n + 1)] for start, count in bins]
        starts = tuple(a for cut in cuts for a in cut[:-1])
        stops = tuple(b for cut in cuts for b in cut[1:])
        window = Window(self.axis, n * self.out, n, n, 1, 0, 0, self.out)
        return replace(self, starts=starts, stops=stops), window

    def transposed(self) -> "Bins":
        """The bins that see each element (if all elements are seen), which are bins too."""
        starts = (bisect_right(self.stops, p) for p in range(self.length))
        stops = (bisect_right(self.starts, p) for p in range(self.length))
        return Bins(self.axis, self.out, tuple(starts), tuple(stops))

    def readers(self) -> list[list[int]]:
        """At which places each element lies (repeats left out)."""
        found: list[list[int]] = [[] for _ in range(self.length)]
        for place, (element, real) in enumerate(self.places()):
            if real:
                found[element].append(place)
        return found


@dataclass(frozen=True)
class Fraction:
    """Windows of one size along an axis, at distances drawn when they are used."""

    axis: int
    length: int
    size: int
    out: int

    @property
    def reach(self) -> int:
        """Where the last window starts."""
        return self.length - self.size

    @property
    def steps(self) -> int:
        return self.out - 1

    @property
    def most(self) -> int:
        """How many windows see one element, at most: the shortest step is floor(reach / steps)."""
        return -(-self.size // (self.reach // self.steps)) if self.steps else 1

    @property
    def bits(self) -> int:
        """How fine a sample is, such that (steps + reach) * 2**bits fits 32 bits."""
        return 32 - max(self.steps + self.reach, 1).bit_length()

    @property
    def window(self) -> Window:
        """The windows, laid side by side."""
        n, k = self.out, self.size
        return Window(self.axis, n * k, k, k, 1, 0, 0, n)


def _around(regions: list[Region], n: int) -> list[tuple[int, int]]:
    """[0, n) cut at both ends of the widest region."""
    widest = max(regions, key=lambda region: region.stop - region.start)
    return list(pairwise(sorted({0, widest.start, widest.stop, n})))


def _cut(reach: list[tuple[int, int, int, int]], stop: int) -> list[tuple[int, int, list]]:
    """Cut [0, stop) where a tap's range (tap, first, from, to inclusive) begins or ends."""
    edges = {edge for *_, begin, end in reach for edge in (begin, end + 1) if 0 < edge < stop}
    return [
        (a, b, [(tap, first) for tap, first, begin, end in reach if begin <= a and b - 1 <= end])
        for a, b in pairwise(sorted({0, stop, *edges}))
    ]


def _factors(size: int, most: int) -> list[int] | None:
    """4 and primes whose product is `size`, if they are up to `most`."""
    found = []
    while size > 1:
        found.append(next(n for n in (4, *range(2, size + 1)) if size % n == 0))
        size //= found[-1]
    return found if max(found) <= most else None


@lru_cache(maxsize=4096)
def _folds(size: int, most: int) -> tuple[tuple[int, int], ...]:
    """The fewest passes of up to `most` taps, and among these of the fewest, that make up a window
    of `size`: (taps, how far they are apart), no further than the passes before reach."""
    if size <= most:
        return ((size, 1),)
    steps = [(taps, size // taps) for taps in range(2, most + 1)]
    chains = [(*_folds(size - (taps - 1) * by, most), (taps, by)) for taps, by in steps]
    return min(chains, key=lambda chain: (len(chain), sum(taps for taps, _ in chain)))


def _radix(size: int, direct: int) -> tuple[list[tuple[int, int]], int]:
    """size = d + a*(d' + a'*(...)): (a, d), ..., and what is left."""
    found = []
    while size > direct:
        base = min(range(2, direct + 1), key=lambda n: n + size % n + size // n)
        found.append((base, size % base))
        size //= base
    return found, size


def shape_of(windows: Iterable[Window | Bins | Fraction], shape: Sequence[Any]) -> tuple[Any, ...]:
    """`shape` with every pooled axis at its pooled length."""
    result = list(shape)
    for window in windows:
        result[window.axis] = window.out
    return tuple(result)


def shape_back(windows: Iterable[Window], shape: Sequence[Any]) -> tuple[Any, ...]:
    """`shape` with every pooled axis at the length it was pooled from."""
    result = list(shape)
    for window in windows:
        result[window.axis] = window.length
    return tuple(result)


def all_of(axis: int, n: int) -> Window:
    """All n elements of an axis as one window."""
    return Window(axis, n, n, n, 1, 0, 0, 1)


def merged(
    axes: Sequence[Any], ndim: int, behind: Iterable[int] = ()
) -> tuple[tuple[Any, ...], list[list[int]]]:
    """Axes side by side that are pooled whole as one, which is fewer passes, and so those `behind`
    all that are pooled, which is longer loops; and which of all axes each of those that are left
    stands for. Elements keep their order."""
    of = {axis.axis + ndim: axis for axis in axes}
    whole = {i for i, axis in of.items() if type(axis) is Window and axis.whole}
    after = set(behind)
    groups: list[list[int]] = []
    for i in range(ndim):
        if {i, i - 1} <= whole or {i, i - 1} <= after:
            groups[-1].append(i)
        else:
            groups.append([i])
    found = []
    for at, group in enumerate(groups, -len(groups)):
        if group[0] not in of:
            continue
        one = replace(of[group[0]], axis=at)
        found.append(one if len(group) == 1 else all_of(at, prod(of[i].length for i in group)))
    return tuple(found), groups
