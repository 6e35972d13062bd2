"""A pooling in parts, one after the other, so that little memory is needed on its way.

Parts are cut along what is not pooled, and where that is not enough along the map: into windows
side by side, whose elements overlap.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxpool._linear import alike, may_be_split
from jaxpool._plan import LONG, Group, is_long
from jaxpool._slices import VECTOR, pad
from jaxpool._window import Window

# Arrays of so many elements are pooled in parts.
LARGE = 2**14

# Of every axis that is cut, where a part begins and how long it is.
Place = dict[int, tuple[Any, int]]


def in_parts(
    f: Callable, parts: int, back: bool, elements: tuple, around: tuple, windows: Group
) -> Any:
    """`f(elements, around, windows=windows)`, part after part, if x is large and on one device.

    elements: x, T, the mask or None, and what else has one value per element, or one for all along
    an axis. around: what has one per window. So has the result, or, if it goes `back`, it has one
    per element and is linear in the last of `around`.
    """
    x = elements[0]
    small = not isinstance(x.size, int) or x.size < LARGE  # it may be symbolic
    along, strip = ({}, None) if small else _cuts(x.shape, windows, parts)
    counts = along | ({strip.axis: strip.parts} if strip else {})
    if prod(counts.values()) == 1 or may_be_split(x, range(x.ndim)):
        return f(elements, around, windows=windows)

    def numbers(i: Any) -> dict[int, Any]:
        found = {}
        for axis, n in counts.items():
            found[axis], i = i % n, i // n
        return found

    def place(i: Any, of_elements: bool) -> Place:
        at = numbers(i)
        found = {a: (at[a] * (x.shape[a] // n), x.shape[a] // n) for a, n in along.items()}
        if strip:
            found[strip.axis] = strip.place(at[strip.axis], of_elements)
        return found

    def part(i: Any) -> tuple:
        cells = jax.tree.map(partial(_cut, at=place(i, True)), elements)
        beside = jax.tree.map(partial(_cut, at=place(i, False)), around)
        if strip:
            j = numbers(i)[strip.axis]
            cells = strip.reached(j, cells)
            if back:
                beside = *beside[:-1], strip.unseen(j, beside[-1])
        return cells, beside

    def add(i: Any, ys: Any) -> Any:
        at = place(i, back)

        def put(y: jax.Array, one: jax.Array) -> jax.Array:
            if strip and back:
                one = strip.returned(numbers(i)[strip.axis], one) + _cut(y, at)
            starts = [at[axis][0] if axis in at else 0 for axis in range(-y.ndim, 0)]
            return lax.dynamic_update_slice(y, one, starts)

        return jax.tree.map(put, ys, run(*part(i)))

    def whole(one: jax.ShapeDtypeStruct) -> jax.Array:
        sizes = {axis: x.shape[axis] for axis in along}
        if strip:
            sizes[strip.axis] = strip.window.length if back else strip.window.out
        shape = [sizes.get(a, n) for a, n in zip(range(-len(one.shape), 0), one.shape, strict=True)]
        return jnp.zeros(shape, one.dtype)

    within = tuple(strip.part if strip and w is strip.window else w for w in windows)
    run = partial(f, windows=within)
    if is_long(x, windows, VECTOR) and not is_long(jax.eval_shape(part, 0)[0][0], windows, VECTOR):
        run = partial(_lines, f, windows=within)
    ys = jax.tree.map(whole, jax.eval_shape(lambda: run(*part(0))))
    ys, *_ = alike((ys, elements, around))
    return lax.fori_loop(0, prod(counts.values()), add, ys)


def _cut(a: jax.Array, at: Place) -> jax.Array:
    for axis, (start, n) in at.items():
        if a.shape[axis] > 1:
            a = lax.dynamic_slice_in_dim(a, start, n, a.ndim + axis)
    return a


def _cuts(
    shape: tuple[int, ...], windows: Group, parts: int
) -> tuple[dict[int, int], "Strip | None"]:
    """How to cut x into so many parts, or into fewer if need be: in how many along each axis that
    is not pooled, and the map along one that is.

    What lies behind windows is cut last: to what loops along it need, if parts of the map would
    share elements; then to a vector. Few channels, which fill none, are cut into single ones. (XLA
    takes up to five times as long for a few of eight channels than for all of them.)
    """
    pooled = {w.axis for w in windows}
    free = [axis for axis in range(-len(shape), 0) if axis not in pooled]
    along, strip = dict.fromkeys(free, 1), None
    # The least that is left behind windows, of how few channels each is a part, and how many times
    # as many elements of its own as a window a part of the map has.
    steps = (LONG, VECTOR // 2, 16), (VECTOR, VECTOR // 2, 4), (VECTOR, VECTOR, 1), (1, 1, 1)
    for least, few, own in steps:
        left = max(round(parts / (prod(along.values()) * (strip.parts if strip else 1))), 1)
        for axis in sorted(free, key=lambda a: (a > max(pooled), -shape[a])):
            n, behind = shape[axis] // along[axis], axis > max(pooled)
            sizes = [size for size in range(n, 0, -1) if n % size == 0]
            if behind and n < few:
                sizes = [n, 1]
            elif behind:
                sizes = [size for size in sizes if size == n or size >= least]
            size = next((size for size in sizes if n >= left * size), sizes[-1])
            along[axis] *= n // size
            left = -(-left * size // n)
        strip = _strip(windows, -(-parts // prod(along.values())), own)
    return along, strip


def _lines(f: Callable, elements: tuple, around: tuple, windows: Group) -> Any:
    """`f` with all that is behind the windows, which is little, before all else."""
    behind = -1 - max(w.axis for w in windows)
    last, first = range(-behind, 0), range(behind)
    there = jax.tree.map(lambda a: jnp.moveaxis(a, last, first), (elements, around))
    ys = f(*there, windows=tuple(replace(w, axis=w.axis + behind) for w in windows))
    return jax.tree.map(lambda y: jnp.moveaxis(y, first, last), ys)


class Strip(NamedTuple):
    """Parts of the map along an axis: `window.out` windows as `parts` times `part.out`, the last of
    which may begin with some of the part before it."""

    window: Window
    part: Window
    parts: int

    @property
    def axis(self) -> int:
        return self.window.axis

    def first(self, i: Any) -> Any:
        """The first window of part i."""
        return jnp.minimum(i * self.part.out, self.window.out - self.part.out)

    def place(self, i: Any, of_elements: bool) -> tuple[Any, int]:
        """From where on part i is read, and how much: windows, or elements on the map."""
        if not of_elements:
            return self.first(i), self.part.out
        return jnp.clip(self.begin(i), 0, self.window.length - self.part.length), self.part.length

    def begin(self, i: Any) -> Any:
        """The first element that part i reaches, on the map or beyond."""
        return self.first(i) * self.window.stride - self.window.low

    def shift(self, i: Any) -> Any:
        """How much later than it is read part i begins."""
        return self.begin(i) - self.place(i, True)[0]

    def beyond(self) -> tuple[int, int]:
        """How far windows reach beyond the map, before and after."""
        return max(self.window.low, 0), max(self.window.overhang, 0)

    def reached(self, i: Any, elements: tuple) -> tuple:
        """All elements that part i reaches, of those that are read for it; the mask says which."""
        if not self.window.padded:
            return elements
        shifted = partial(_shifted, axis=self.axis, by=self.shift(i), beyond=self.beyond())
        x, temperature, mask, *more = jax.tree.map(shifted, elements)
        at = self.begin(i) + jnp.arange(self.part.length)
        on_map = self._along((at >= 0) & (at < self.window.length), x.ndim)
        mask = jnp.broadcast_to(on_map, x.shape) if mask is None else mask & on_map
        return x, temperature, mask, *more

    def returned(self, i: Any, dx: jax.Array) -> jax.Array:
        """`reached`, transposed."""
        return _shifted(dx, self.axis, -self.shift(i), self.beyond()[::-1])

    def unseen(self, i: Any, g: jax.Array) -> jax.Array:
        """g of part i, but 0 for windows of the part before it."""
        new = self.first(i) + jnp.arange(self.part.out) >= i * self.part.out
        return jnp.where(self._along(new, g.ndim), g, 0)

    def _along(self, flags: jax.Array, ndim: int) -> jax.Array:
        return flags.reshape([-1 if a == self.axis else 1 for a in range(-ndim, 0)])


def _strip(windows: Group, parts: int, own: int) -> Strip | None:
    """So many parts of the map, or as many as have `own` times the elements for themselves that a
    window has."""
    window = max(windows, key=lambda w: w.out * w.stride / w.extent)
    parts = min(parts, window.out * window.stride // (own * window.extent))
    if parts < 2 or type(window) is not Window:
        return None
    n = -(-window.out // parts)
    length = (n - 1) * window.stride + window.extent
    if length > window.length:
        return None
    part = replace(window, length=length, low=0, high=0, out=n)
    return Strip(window, part, -(-window.out // n))


def _shifted(a: jax.Array, axis: int, by: Any, beyond: tuple[int, int]) -> jax.Array:
    """a[i + by], 0 beyond its ends; -beyond[0] <= by <= beyond[1]. What is one for all stays."""
    if a.shape[axis] == 1 or not any(beyond):
        return a
    return _cut(pad(a, axis, *beyond), {axis: (beyond[0] + by, a.shape[axis])})
