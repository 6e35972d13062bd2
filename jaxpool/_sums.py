"""Sums of windows: linear, and the transpose of a sum over windows is sums over windows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxpool._linear import apart, by_platform, full_like, linear_pair, may_be_split
from jaxpool._plan import (
    BLOCK,
    FEW,
    LINES,
    OF_FEW,
    OF_SUMS,
    SMALL,
    TAPS,
    TWICE,
    WIDE,
    Group,
    active,
    equal_parts,
    groups_of,
    is_dense,
    is_disjoint,
    is_in_place,
    is_long,
    is_many,
    is_one_call,
    is_one_loop,
    is_slow,
    lines_of,
    parts_of,
    size_of,
)
from jaxpool._regions import cut_all, on_line, over_inputs, over_outputs, reduce_window
from jaxpool._slices import (
    along_rows,
    as_argument,
    as_line,
    as_merged,
    as_number,
    chosen,
    cut,
    interleave,
    join,
    narrowest,
    pad,
    pad_all,
    real,
    replace_axis,
    rounded,
    rows,
    table,
    unrows,
    widen,
    wider,
)
from jaxpool._turns import in_place, is_taken, over, spread, unwoven, woven
from jaxpool._window import Window, all_of, shape_back, shape_of
from jaxpool._winners import extremum


def total(
    x: jax.Array,
    windows: Sequence[Window],
    divisor: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
    """The sum of every window, over the divisor if there is one: a number or one per window; `mask`
    says which elements are real."""
    if x.dtype == jnp.bool_:
        return extremum(x, windows, largest=True, mask=mask)

    def run(x: jax.Array, windows: Group, divisor: Any, mask: Any) -> jax.Array:
        return _add({"x": x}, (divisor, mask, None), ("x",), windows=windows)["x"]

    return as_merged(run, x, active(windows), divisor, mask)


def divided(y: jax.Array, divisor: jax.Array | None, dtype: Any) -> jax.Array:
    """A sum over its divisor, if there is one, in that dtype."""
    return rounded(y if divisor is None else y / divisor, dtype)


def _add_of(x: dict, rest: tuple, _: Any, windows: Group) -> dict:
    dtype, (divisor, mask, _) = x["x"].dtype, rest

    def passes(x: jax.Array, divisor: Any, mask: Any) -> jax.Array:
        *first, last = groups_of(x, windows, times=OF_SUMS)
        for group in first:
            x, mask = _add_pass(x, None, mask, group, wider(dtype)), None
        return _add_pass(x, divisor, mask, last, dtype)

    def one_call(x: jax.Array, divisor: Any, mask: Any) -> jax.Array:
        wide = real(x.astype(wider(dtype)), mask)
        return divided(reduce_window(wide, windows, least=SMALL), divisor, dtype)

    if not is_one_call(windows):
        return {"x": passes(x["x"], divisor, mask)}
    return {"x": by_platform(x["x"], divisor, mask, cpu=passes, other=one_call)}


def _add_pass(x: jax.Array, divisor: Any, mask: Any, group: Group, dtype: Any) -> jax.Array:
    if is_one_loop(x, group):
        return _in_one_loop(add_slices, x, divisor, mask, group, dtype)
    (window,) = group
    if is_in_place(x, window):
        return apart(_add_rows, x, divisor, mask, window=window, dtype=dtype)
    if window.whole:
        return _add_lines(x, divisor, mask, window, dtype)
    if is_taken(x, window):
        each = [_add_pass(x, None, mask, (w,), wider(dtype)) for w in in_place(window)]
        each = apart(woven, each, window=window)
        return _add_pass(each, divisor, None, (over(window),), dtype)
    parts = parts_of(window)
    if window.disjoint and (not parts or window.axis == -1):
        return _add_tables(x, divisor, mask, window, dtype)
    if parts:
        x = _add_pass(x, None, mask, (parts[0],), wider(dtype))
        return _add_pass(x, divisor, None, (parts[1],), dtype)
    return _slide(real(x.astype(wider(x.dtype)), mask), divisor, window, dtype)


def _in_one_loop(
    function: Callable, x: jax.Array, divisor: Any, mask: Any, group: Group, dtype: Any
) -> jax.Array:
    """`function` apart, on one line where that is faster."""

    def run(arrays: tuple, group: Group) -> jax.Array:
        return apart(function, *arrays, group=group, dtype=dtype)

    arrays = x, divisor, mask
    return on_line(run, run, arrays, group) if is_slow(x, group) else run(arrays, group)


def _add_rows(x: jax.Array, divisor: Any, mask: Any, window: Window, dtype: Any) -> jax.Array:
    taps = rows(real(x.astype(wider(x.dtype)), mask), (window,))
    at = taps.ndim + window.axis
    return divided(lax.reduce(taps, np.zeros((), taps.dtype), lax.add, [at]), divisor, dtype)


def _add_tables(x: jax.Array, divisor: Any, mask: Any, window: Window, dtype: Any) -> jax.Array:
    """Large windows that overlap no other and do not divide, as rows of a table."""

    def here(x: jax.Array, divisor: Any, mask: Any) -> jax.Array:
        sums = [_add_table(x, mask, part, wider(dtype)) for part in window.tables()]
        return divided(join(sums, window.axis), divisor, dtype)

    other = partial(_add_rows, window=window, dtype=dtype)
    return by_platform(x, divisor, mask, cpu=here, other=other)


def _add_table(x: jax.Array, mask: Any, window: Window, dtype: Any) -> jax.Array:
    if window.empty:
        return full_like(x, replace_axis(x.shape, window.axis, window.out), 0, dtype)
    sums: Any = None
    for line in lines_of(window):
        sums = apart(_add_of_rows, x, mask, sums, window=window, group=(line,), dtype=dtype)
        if line.out > 1:
            sums = _add_pass(sums, None, None, (all_of(line.axis, line.out),), dtype)
    return sums.squeeze(window.axis)


def _add_of_rows(x, mask, sums, window: Window, group: Group, dtype: Any) -> jax.Array:
    x, mask = table(x, mask, window)
    more = add_slices(x, None, mask, group=group, dtype=dtype)
    return more if sums is None else sums + more


def _add_lines(x: jax.Array, divisor: Any, mask: Any, window: Window, dtype: Any) -> jax.Array:
    """All of an axis: its equal parts first, then what they add up to."""
    n = -(-window.size // LINES)
    parts = equal_parts(window.axis, window.size, n)
    x = apart(add_slices, x, None, mask, group=(parts,), dtype=wider(dtype))
    return _add_pass(x, divisor, None, (all_of(parts.axis, n),), dtype)


def add_slices(
    x: jax.Array, divisor: Any, mask: Any = None, *, group: Group, dtype: Any
) -> jax.Array:
    if mask is not None and is_disjoint(group) and size_of(group) > TAPS:
        mask = jnp.broadcast_to(mask, x.shape)  # as in a `table`

    def of_region(taps: list, full: Callable, at: tuple) -> jax.Array:
        part = None if divisor is None else cut_all(divisor, at)
        return divided(_sum_of(taps, full, x.dtype), part, dtype)

    return over_outputs(of_region, (x, mask), group)


def _sum_of(taps: list, full: Callable, dtype: Any) -> jax.Array:
    slabs = [chosen(widen(slab), mask) for _, (slab, mask) in taps]
    return reduce(lax.add, slabs) if slabs else full(0, wider(dtype))


def _add_back(cotangent: dict, rest: tuple, _: Any, windows: Group) -> dict:
    """The transpose: dx[p] = the sum of g[i] over the windows i that see p."""
    g, (divisor, mask, after) = cotangent["x"], rest
    dtype, wide = g.dtype, wider(g.dtype)
    if divisor is not None and divisor.shape != (1,) * divisor.ndim:
        g, divisor = g.astype(wide) / divisor, None  # ... else in the loop of the last pass
    # Of other windows the way back is several loops.
    last, *others = groups_of(g, windows, times=OF_SUMS if is_dense(windows) else 0)
    for group in reversed(others):
        g = _add_pass_back(g, None, None, group, wide, after)
    return {"x": _add_pass_back(g, divisor, mask, last, dtype, after)}


def _after_sum(rest: tuple, out: jax.Array, windows: Group) -> tuple:
    """Passes over large windows need arrays of the size of x: the backward pass waits for those of
    the forward one to be free again. One element of the result is enough to wait for, if every
    device has it."""
    large = any(w.size > BLOCK and not w.disjoint for w in windows)
    if not large or may_be_split(out, range(out.ndim)):
        return rest
    return *rest[:2], lax.stop_gradient(out[(slice(1),) * out.ndim])


def _add_pass_back(
    g: jax.Array, divisor: Any, mask: Any, group: Group, dtype: Any, after: Any
) -> jax.Array:
    if is_disjoint(group):
        return apart(_repeat, g, divisor, mask, group=group, dtype=dtype)
    if is_one_loop(g, group):
        if mask is not None:
            mask = pad_all(mask, [w.spare() for w in group if mask.shape[w.axis] > 1], False)
        return _in_one_loop(add_slices_back, g, divisor, mask, group, dtype)
    (window,) = group
    if is_taken(g, window):
        g = _add_pass_back(g, None, None, (over(window),), wider(dtype), after)
        each = unwoven(g, window)
        return apart(_put_pieces, each, divisor, mask, window=window, dtype=dtype)
    if parts := parts_of(window):
        g = _add_pass_back(g, None, None, (parts[1],), wider(dtype), after)
        return _add_pass_back(g, divisor, mask, (parts[0],), dtype, after)
    g = g.astype(wider(g.dtype))
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
    return real(divided(interleave(phases, window), divisor, dtype), mask)


def add_slices_back(
    g: jax.Array, divisor: Any, mask: Any = None, *, group: Group, dtype: Any
) -> jax.Array:
    def of_region(taps: list, full: Callable, at: tuple) -> jax.Array:
        part = None if mask is None else cut_all(mask, at)
        return chosen(divided(_sum_of(taps, full, g.dtype), divisor, dtype), part)

    return over_inputs(of_region, (g, None), group, (0, None))


def _repeat(g: jax.Array, divisor: Any, mask: Any, group: Group, dtype: Any) -> jax.Array:
    """Disjoint windows: every window's value at each of its elements."""
    g = along_rows(divided(g.astype(wider(g.dtype)), divisor, dtype), group)
    shape = g.shape
    for i, window in enumerate(reversed(group)):
        shape = replace_axis(shape, window.axis - i, window.size)
    return real(unrows(jnp.broadcast_to(g, shape), group), mask)


def _put_pieces(g, divisor, mask, window: Window, dtype: Any) -> jax.Array:
    """The value of every piece at each of its elements."""
    return real(divided(spread(g, window), divisor, dtype), mask)


def _slide(
    x: jax.Array, divisor: Any, window: Window, dtype: Any, after: jax.Array | None = None
) -> jax.Array:
    """The sum of every window along one axis, in log2(k) passes for k of many taps, which start
    once `after` is known."""
    if window.size <= BLOCK:
        x = lax.optimization_barrier(x)  # XLA adds up what is constant as it compiles: for seconds
        return divided(reduce_window(x, (window,)), divisor, dtype)
    axis, size, d, sums = window.axis, window.size, window.dilation, x
    if window.low or window.overhang or after is not None:
        sums = apart(_pad_after, x, after, axis=axis, low=window.low, high=window.overhang)
    length, covered = sums.shape[axis], 1
    little = 3 * length <= 4 * window.length  # is added by padding
    short = axis < -1 and not is_long(x, (window,), WIDE) and not may_be_split(x, range(axis, 0))
    if little and window.stride == 1 and short:
        behind = x.shape[x.ndim + axis + 1 :]
        along = replace(window, length=length, low=0, high=0).along(prod(behind))
        each = None if divisor is None else as_line(divisor, (window.out, *behind))
        y = _slide(as_line(sums, (length, *behind)), each, along, dtype)
        return y.reshape(*y.shape[:-1], window.out, *behind)
    # `sums` are of windows of as many taps as the first binary digits of k say.
    # To add one tap is fastest from padded x, but then three arrays of its size are alive.
    single, low = (sums, 0) if little else (x, window.low)
    steps, most = [], TWICE if is_many(x.shape[-1], FEW if little else WIDE) else OF_FEW
    for odd in map(int, f"{size:b}"[1:]):
        distance, covered = covered * d, 2 * covered + odd
        last = covered == size
        n = window.out if last else length - (covered - 1) * d
        steps.append((odd, distance, n, window.stride if last else 1))
    while steps:
        even = next((i for i, (odd, *_) in enumerate(steps) if odd), len(steps))
        few = -(-even // -(-even // most)) if even else 1
        now, steps = tuple(steps[:few]), steps[few:]
        if even and not steps:
            return apart(_steps, sums, None, divisor, axis=axis, steps=now, low=low, dtype=dtype)
        more = None if even else single
        sums = apart(_steps, sums, more, None, axis=axis, steps=now, low=low, dtype=x.dtype)
    return divided(sums, divisor, dtype)


def _pad_after(x: jax.Array, _: Any, axis: int, low: int, high: int) -> jax.Array:
    return pad(x, axis, low, high)


def _steps(sums, x, divisor, axis: int, steps: tuple, low: int, dtype: Any) -> jax.Array:
    for odd, distance, n, stride in steps:
        sums = _twice(sums, x if odd else None, axis, distance, n, stride, low)
    return divided(sums, divisor, dtype)


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


_add, _ = linear_pair(
    "add",
    _add_of,
    _add_back,
    lambda x, _, windows: shape_of(windows, x.shape),
    lambda g, _, windows: shape_back(windows, g.shape),
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
        along = [window.count(padding).astype(dtype) for window in windows]
        axes = [replace_axis((1,) * ndim, w.axis, w.out) for w in windows]
        n = reduce(np.multiply, [a.reshape(s) for a, s in zip(along, axes, strict=True)])
        return n[(slice(1),) * ndim] if np.all(n == n.flat[0]) else n

    if mask is None:
        return jnp.asarray(positions(padding))
    # Of narrow integers less is read, which counts where there are fewer windows than elements.
    narrow = narrowest(size_of(tuple(windows)))
    if narrow is not None and any(window.stride > 1 for window in windows):
        real = total(as_argument(mask).astype(narrow), windows).astype(dtype)
    else:
        real = total(as_number(mask, dtype), windows)
    return real + jnp.asarray(positions(True) - positions(False)) if padding else real
