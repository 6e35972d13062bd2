"""The norms of windows, (sum |x|^p)^(1/p), and their derivatives.

Every window is measured in units of its own largest element, so that no power is too large or too
small for the dtype:

    y = (L/n)^(1/p) / s,    L = sum r^p,    r = s*|x|,    s = 1 / max|x|

L lies between 1 and the number of elements, or 2^p times that where p is whole: small windows take
the power of two below max|x| instead. n is 1, or for power means how many elements a window has
room for, so that no norm on the way is larger than an element. s cancels out of every derivative,
and is no variable:

    y' = y*s/L * sum sign(x) r^(p-1) x' + y * (sum r^p log(r) / (p*L) - log(L/n) / p^2) * p'

The norm of norms is the norm of all, so axes are folded one after the other, and large windows in
several passes. Padding is 0, which adds nothing, and so is what a mask leaves out. Elements may be
raised to a least size first. Loops over small windows do both as they read, where they read no
padding, and little again.

A few whole p are multiplications alone. There derivatives take s = 1/y, so that L = n is known
without another loop. (Beside a large p the rounding of y is no longer small.)
"""

from collections.abc import Callable
from functools import partial, reduce
from math import inf, prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxpool import _bins
from jaxpool._exponential import cbrt, exp, log
from jaxpool._linear import apart, curved, linear_pair
from jaxpool._pairs import (
    MANY,
    alone,
    at_elements,
    folds,
    is_laid,
    of_seen,
    padded_axes,
    present,
    reach,
    sum_at_elements,
    sum_at_windows,
)
from jaxpool._plan import BLOCK, Group, none_empty, reads
from jaxpool._regions import over_outputs, pairwise
from jaxpool._slices import as_merged, chosen, real
from jaxpool._turns import beside, in_turns, next_of
from jaxpool._window import Window

WHOLE = (1, 2, 3, 4)  # the powers that are multiplications
# A larger p that is not known to be inf counts as this, so that the rounding of |x| changes |x|^p
# only a little.
MOST = 1e6


def norm(
    x: jax.Array,
    axes: _bins.Geometry,
    p: jax.Array,
    known: Any,
    mask: jax.Array | None = None,
    least: float | None = None,
    normalize: bool = False,
) -> jax.Array:
    """The norm of every window or bin, or the power mean in which padding, what a bin is shorter
    than the longest, and what is not real by `mask` count as zeros. `known` is p where p is one of
    WHOLE, or infinite; elements are raised to `least`."""
    if mask is not None:
        # A constant one that leaves nothing tells XLA s, which makes 0*inf of (0*s)*(0*s) then.
        mask = lax.optimization_barrier(mask)
    at_first = known == inf or (mask is not None and known is None)
    if at_first:
        x, mask, least = _copied(x, mask, least)
    if known == inf:
        x = jnp.where(x == 0, 0, jnp.where(x < 0, -x, x))  # |x|, of slope 0 at 0 and 1 at NaN
        x = _bins.extremum(x, axes, largest=True)
        return jnp.where(x < 0, 0, x)  # padding alone
    n = room(axes) if normalize else 1  # of these axes: those merged into one have room for less
    run = partial(_norms, known=known, least=least, n=n)
    return as_merged(run, x, axes, p, mask)


def raised(x: jax.Array, least: float | None) -> jax.Array:
    """x, with `least` in place of what is below; NaN stays."""
    return x if least is None else jnp.where(x < least, jnp.asarray(least, x.dtype), x)


def _copied(x: jax.Array, mask: jax.Array | None, least: float | None) -> tuple:
    """A copy of x for loops that neither mask nor raise, and with it what they are told instead."""
    return real(raised(x, least), mask), None, None


def _norms(
    x: jax.Array,
    axes: _bins.Geometry,
    p: jax.Array,
    mask: jax.Array | None,
    known: Any,
    least: float | None,
    n: int,
) -> jax.Array:
    if next_of(x, axes, rows=True):
        x, mask, least = _copied(x, mask, least)
        if len(axes) > 1:  # pieces of one end at gaps
            x = of_seen(x, axes, axes)

        def fold(x: jax.Array, axes: Any, _: None) -> jax.Array:
            return _passes(x, axes, beside(p, x, axes), None, known, None, 1)

        x, axes, _ = in_turns(fold, x, axes, rows=True)
    return _passes(x, axes, p, mask, known, least, n)


def _passes(
    x: jax.Array,
    axes: _bins.Geometry,
    p: jax.Array,
    mask: jax.Array | None,
    known: Any,
    least: float | None,
    n: float,
) -> jax.Array:
    """The norms over the root of n: in each pass that of as many elements as are folded in it."""
    steps = folds(x, axes, scalar=known is not None)  # multiplications need no long loops
    groups = [group for passes in steps for group in passes]
    if mask is not None and (is_laid(groups[0]) or reads(groups[0]) > MANY):
        x, mask, least = _copied(x, mask, least)
    if least is not None and not _finds_all(x, axes, groups[0]):
        x, mask, least = _copied(x, mask, least)
    x = of_seen(x, axes, groups)
    for group in groups:
        now = n if group is groups[-1] else room(group) if n > 1 else 1
        x, mask, least, n = _norm(x, p, mask, group, known, least, now), None, None, n / now
        # Else GPUs compute the pass before anew for every read, and on the way back the next one.
        x = x if group is groups[-1] else lax.optimization_barrier(x)
    return x


def room(axes: _bins.Geometry) -> int:
    """How many elements a window has room for, or the longest bin."""
    return prod(axis.size for axis in axes)


def _finds_all(x: jax.Array, axes: _bins.Geometry, first: Group) -> bool:
    """Whether the loops of the first pass can raise elements themselves, since none of what they
    read is padding, and no window is empty."""
    windows = [axis for axis in axes if isinstance(axis, Window)]
    large = any(w.padded and w.size > BLOCK for w in windows)
    padded = () if is_laid(first) else first[: padded_axes(x, first)]
    return not large and not any(w.padded for w in padded) and none_empty(windows)


def root(level: Any, p: jax.Array, whole: int | None) -> jax.Array:
    """level^(1/p), for level > 0."""
    if whole == 1:
        return level
    if whole == 2:
        return lax.sqrt(level)
    if whole == 3:
        return cbrt(level)
    if whole == 4:
        return lax.sqrt(lax.sqrt(level))
    return exp(log(level) / p)


def _power(r: jax.Array, p: jax.Array, whole: int | None) -> jax.Array:
    """r^p, for r >= 0; at r = 0, where p might be 0 or less, 0 without derivatives."""
    if whole is not None:
        return lax.integer_pow(r, whole)
    zero = r == 0
    return jnp.where(zero, 0, exp(p * log(jnp.where(zero, 1, r))))


def _slope(x: jax.Array, scale: jax.Array, p: jax.Array, whole: int | None) -> jax.Array:
    """sign(r) |r|^(p-1), p times smaller than the derivative of |r|^p, for r = x*scale."""
    r = x * scale
    match whole:
        case 1:
            return lax.sign(x)  # r may be too small
        case 2:
            return r
        case 3:
            return r * jnp.abs(r)
        case 4:
            return r * r * r
    return lax.sign(r) * _power(jnp.abs(r), p - 1, None)


@curved(statics=4)
def _norm(x, p, mask, group, whole, least, n):
    if is_laid(group):
        scale = _scale(x, group, least)
        level = _sums(_power, x, p, scale, group, whole, least)
        return _from_level(level, p, scale, whole, n, level == 0)
    cells, reached = reach(present({"x": x, "mask": mask}), group)
    return apart(_norm_of, cells, p, group=reached, whole=whole, least=least, n=n)


def _norm_of(cells, p, group, whole, least, n):
    """Scale, level and norm of small windows in one loop."""

    def of_region(taps: list, full: Callable, _) -> jax.Array:
        if not taps:
            return full(0, p.dtype)
        sizes = [chosen(jnp.abs(raised(slab["x"], least)), slab.get("mask")) for _, slab in taps]
        # (A NaN may be missed here: the level has it.)
        size = pairwise(lambda a, b: lax.select(b > a, b, a), sizes)
        scale = _inverse(size) if whole is None else _inverse_power(size)
        level = pairwise(lax.add, [_power(size * scale, p, whole) for size in sizes])
        return _from_level(level, p, scale, whole, n, level == 0)

    return over_outputs(of_region, cells, group)


def _norm_jvp(group, whole, least, n, primals, tangents):
    (x, p, mask), (d_x, d_p, _) = primals, tangents
    how = {"group": group, "whole": whole, "least": least}
    if whole is None:
        scale = lax.stop_gradient(_scale(x, group, least))
        level = _level(x, p, mask, scale, None, group, whole, least)
        if is_laid(group):  # GPUs would compute all powers anew for every element
            level = lax.optimization_barrier(level)
        y = unit = _from_level(level, p, scale, whole, n, _of_zeros(scale))
    else:  # in units of the norm, which may overflow, the sum is known
        y = _norm(x, p, mask, group, whole, least, n)
        unit = jnp.minimum(y, float(jnp.finfo(y.dtype).max))
        size = lax.stop_gradient(unit)
        scale = _inverse(size)
        known = jnp.where(size == 0, 1, n * _power(size * scale, p, whole))
        level = _level(x, p, mask, scale, known, group, whole, least)
    dots = []
    if not isinstance(d_x, SymbolicZero):
        moved = lean({"x": d_x}, (x, mask, scale, p), ("x",), **how)["x"]
        dots.append(unit * scale / level * moved)
    if not isinstance(d_p, SymbolicZero):
        moment = _moment(x, p, scale, **how)
        dots.append(y * (moment / (p * level) - jnp.log(level / n) / (p * p)) * d_p)
    return y, reduce(lax.add, dots)


_norm.defjvp(_norm_jvp)


def _scale(x: jax.Array, group: Group, least: float | None) -> jax.Array:
    """1 / max|x| of every window."""
    size = raised(_bins.extremum(x, group, largest=True), least)
    if least is None:
        size = jnp.maximum(size, -_bins.extremum(x, group, largest=False))
    return _inverse(size)


def _inverse(size: jax.Array) -> jax.Array:
    """1 / size, as far as both are normal numbers."""
    tiny = float(jnp.finfo(size.dtype).tiny)
    return 1 / jnp.clip(size, tiny, 1 / tiny)


def _inverse_power(size: jax.Array) -> jax.Array:
    """`_inverse` of the power of two next below, by its bits: to multiply with it rounds nothing,
    and XLA makes two loops where a quotient is used twice."""
    if size.dtype != jnp.float32:
        return _inverse(size)
    tiny = float(jnp.finfo(size.dtype).tiny)
    bits = lax.bitcast_convert_type(jnp.clip(size, tiny, 1 / tiny), jnp.int32)
    return lax.bitcast_convert_type((254 << 23) - (bits & (255 << 23)), jnp.float32)


def _from_level(level, p, scale, whole, n, zero):
    return jnp.where(zero, 0, root(level / n, p, whole) / scale)


def _of_zeros(scale):
    """Whether it is the scale of a window of zeros."""
    return scale == 1 / float(jnp.finfo(scale.dtype).tiny)


@curved(statics=3)
def _level(x, p, mask, scale, known, group, whole, least):
    """L, and 1 for windows of zeros; or what is known of it."""
    if known is not None:
        return known
    return _sums(_power, x, p, scale, group, whole, least, zero=1)


def _level_jvp(group, whole, least, primals, tangents):
    (x, p, mask, scale, _), (d_x, d_p, *_) = primals, tangents
    how = {"group": group, "whole": whole, "least": least}
    dots = [jnp.zeros_like(scale)]
    if not isinstance(d_x, SymbolicZero):
        slope = p * jnp.where(_of_zeros(scale), 0, scale)  # which may be too large for p times it
        dots.append(slope * lean({"x": d_x}, (x, mask, scale, p), ("x",), **how)["x"])
    if not isinstance(d_p, SymbolicZero):
        dots.append(_moment(x, p, scale, **how) * d_p)
    return _level(*primals, group, whole, least), reduce(lax.add, dots)


_level.defjvp(_level_jvp)


def _moment(x, p, scale, group, whole, least):
    def term(r, p, whole):
        return _power(r, p, whole) * log(jnp.where(r == 0, 1, r))

    return _sums(term, x, p, scale, group, whole, least)


# ---- sums over a window, and over the windows of an element ----


def _sums(term, x, p, scale, group, whole, least, zero=0):
    """The sum of term(r, p, whole) over every window, `zero` where it is 0."""
    cells, reached = reach({"x": x}, group)
    how = {"term": term, "group": reached, "whole": whole, "least": least, "zero": zero}
    return apart(_sums_of, cells, {"scale": scale}, p, **how)


def _sums_of(cells, around, p, term, group, whole, least, zero):
    def terms(cell, around, p):
        return (term(jnp.abs(raised(cell["x"], least)) * around["scale"], p, whole),)

    def of_sums(_, total, *__):
        return jnp.where(total == 0, zero, total) if zero else total

    return sum_at_windows(terms, of_sums, cells, around, p, group)


def _lean(tangent, rest, _, group, **how):
    x, mask, scale, p = rest
    cells, reached = reach(present({"x": x, "x'": tangent["x"], "mask": mask}), group)
    return {"x": apart(_lean_of, cells, {"scale": scale}, p, group=reached, **how)}


def _lean_of(cells, around, p, group, whole, least):
    def terms(cell, around, p):
        t, x = (real(cell[k], cell.get("mask")) for k in ("x'", "x"))
        return (_pull(t, x, around["scale"], p, whole, least),)

    return sum_at_windows(terms, alone, cells, around, p, group)


def _lean_back(cotangent, rest, _, group, **how):
    x, mask, scale, p = rest
    cells, around = present({"x": x, "mask": mask}), {"scale": scale, "y'": cotangent["x"]}
    return {"x": at_elements(_lean_back_of, cells, around, p, group, **how)}


def _lean_back_of(cells, around, p, group, whole, least, one_region=False):
    def term(cell, around, p):
        x = real(cell["x"], cell.get("mask"))
        return _pull(around["y'"], x, around["scale"], p, whole, least)

    return sum_at_elements(term, cells, around, p, group, one_region)


def _pull(t, x, scale, p, whole, least):
    """t times the slope at x, which is 0 below `least`, whatever t is."""
    t = _slope(raised(x, least), scale, p, whole) * t
    return t if least is None else jnp.where(x < least, 0, t)


lean, _ = linear_pair(
    "lean",
    _lean,
    _lean_back,
    lambda _, rest, **__: rest[2].shape,
    lambda _, rest, **__: rest[0].shape,
)
