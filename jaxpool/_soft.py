"""Log-sum-exp and softmax pooling of windows: two ways to the same numbers, and which one is taken.

`_far` is exact for any x/T: one exponential per element *and window* (`_smooth`). Where |x/T| is
not large, `_near` needs one exponential per element; the rest are sums over windows, whose time
does not grow with them. It pays where an element is in many windows. Which of the two is exact can
only be seen from the values, so both are compiled and a glance at x chooses.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxpool import _bins, _pairs, _plan, _smooth, _sums
from jaxpool._exponential import exp, expm1, log, log1p
from jaxpool._linear import apart, by_platform, curved, linear_pair, may_be_split
from jaxpool._parts import in_parts
from jaxpool._plan import Group
from jaxpool._slices import as_merged, real
from jaxpool._turns import next_of
from jaxpool._window import Bins, Window, Woven, shape_of

# In how many windows an element is, at least, for one exponential of it to be worth an array: fewer
# where windows slide by 1, so that the exponentials of the other way are kept at every element.
OFTEN, SLIDING = 4, 3
# So large may |x/T| be: sums of exponentials keep their digits, and the fourth powers of their
# inverses, which are in derivatives, do not overflow.
NEAR = 20.0
# Sums of large windows are in parts of so many elements, about what a cache has room for, but not
# in more than so many parts.
PART, PARTS = 2**21, 8
# Below this, exp(x/T) is rather 1 + little.
LITTLE = 0.5


def pool(
    x: jax.Array,
    temperature: jax.Array,
    mask: jax.Array | None,
    axes: tuple[Window | Bins, ...],
    kind: str,
) -> jax.Array:
    """Pool every window or bin. kind: "mean" or "sum" in the logarithm, or "softmax"."""
    windows = [a for a in axes if isinstance(a, Window)]
    least = SLIDING if _plan.is_dense(windows) else OFTEN
    often = _plan.reads(windows) >= least and x.size > 0

    def run(x: jax.Array, axes: Any, temperature: jax.Array, mask: Any) -> jax.Array:
        if len(axes) > 1 or not next_of(x, axes, rows=True):  # pieces of one axis end at gaps
            groups = [group for passes in _pairs.folds(x, axes) for group in passes]
            x = _pairs.of_seen(x, axes, groups)
        of = x, temperature, mask, axes, kind
        return _either(*of) if often else _far(x, temperature, mask, None, axes, kind)[0]

    return as_merged(run, x, axes, temperature, mask)


@curved(statics=2)
def _either(x, temperature, mask, windows, kind):
    return apart(_value, x, temperature, mask, windows=windows, kind=kind)[0]


def _either_jvp(windows, kind, primals, tangents):
    x, temperature, mask = primals
    d_x, d_temperature, _ = tangents
    how = {"windows": windows, "kind": kind}
    y, means, span = apart(_value, *primals, **how)
    dots = []
    if not isinstance(d_x, SymbolicZero):
        rest = (*primals, span), (y, means)
        dots.append(_move({"x": d_x}, rest, ("x",), **how)["x"])
    if not isinstance(d_temperature, SymbolicZero):
        of_temperature = partial(_value, x, mask=mask, **how)
        ones = jnp.ones_like(temperature)
        dots.append(jax.jvp(of_temperature, (temperature,), (ones,))[1][0] * d_temperature)
    return y, reduce(lax.add, dots)


_either.defjvp(_either_jvp)


def _value(x, temperature, mask, windows, kind):
    """The value, and what else its derivatives take from it: what `_near` or `_far` makes it of,
    and for every example the span that says which of the two, since examples that come from several
    calls may be differentiated in one."""
    behind = -min(w.axis for w in windows)
    examples = *x.shape[: x.ndim - behind], *[1] * behind
    axes = tuple(w.axis for w in windows) if may_be_split(x, range(x.ndim)) else None
    span = jnp.full(examples, _span(x, temperature, mask, axes))
    elements = x, temperature, mask, span
    y, means = _choose(_near, _far, elements, (), windows=windows, kind=kind)
    return y, means, span


def _choose(near, far, elements, around, windows, kind, back=False):
    """`near(*elements, *around)` or `far(*elements, *around)`, the way that fits the values; sides
    and `back` as for `in_parts`. (The way back is near only if every example was.)"""
    of_near = _parts_of_near(elements[0].size, windows, kind)
    of_far = _parts_of_far(elements[0], windows, kind)

    def way(f: Callable, elements: tuple, around: tuple, windows: Group) -> Any:
        return f(*elements, *around, windows=windows, kind=kind)

    def near_or_far(elements, around, of_near, of_far):
        _, _, _, span, *_ = elements
        ways = [
            partial(in_parts, partial(way, f), parts, back, windows=windows)
            for f, parts in ((near, of_near), (far, of_far))
        ]
        return lax.cond(jnp.max(span) < NEAR, *ways, elements, around)

    here = partial(near_or_far, of_near=of_near, of_far=of_far)
    # Elsewhere examples may be on several devices, which parts of them would all have to visit.
    return by_platform(elements, around, cpu=here, other=partial(near_or_far, of_near=1, of_far=1))


def _parts_of_near(n: Any, windows: Group, kind: str) -> int:
    """In how many parts large windows over n elements (which may be symbolic) are pooled, one after
    the other, since passes need several arrays of the size of x. Few parts take least time while
    these are small; softmax needs more of them, and so do more axes, and sums that do not only
    double."""
    large = [w.size for w in windows if w.size > _plan.BLOCK]
    if not large:
        return 1
    softmax, doubles = kind == "softmax", len(large) == 1 and large[0].bit_count() == 1
    many = len(large) * (4 if softmax else 1) * n // PART if isinstance(n, int) else 0
    return max(min(many, PARTS), (2 if softmax else 1) * (1 if doubles else 2))


def _parts_of_far(x: jax.Array, windows: Group, kind: str) -> int:
    """The same of `_far`, whose passes keep three arrays each for the backward pass."""
    if _is_one_loop(x, windows):
        return 4
    whole = [w for w in windows if not _plan.takes_turns(w, rows=True)]  # pieces hand on little
    passes = [(p, w) for w in whole for (p,) in _pairs.few_taps((w,))]
    if kind == "softmax" and any(isinstance(p, Woven) for p, _ in passes):  # laid on the way back
        return 32
    handed_on = sum(p.out / max(w.length, 1) for p, w in passes)  # in sizes of x
    return 8 if handed_on < 5.5 else 16


def _is_one_loop(x: jax.Array, windows: Group) -> bool:
    return _plan.is_few(windows) and len(_plan.groups_of(x, windows)) == 1


def _move_of(t, rest, _, **how):
    elements, around = rest
    return {"x": _choose(_near_move, _far_move, (*elements, t["x"]), around, **how)}


def _move_back(g, rest, _, **how):
    elements, around = rest
    return {"x": _choose(_near_back, _far_back, elements, (*around, g["x"]), **how, back=True)}


_move, _ = linear_pair(
    "move",
    _move_of,
    _move_back,
    lambda t, rest, windows, kind: shape_of(windows, t.shape),
    lambda g, rest, windows, kind: rest[0][0].shape,
)


def _span(x, temperature, mask, axes):
    """A bound of |x/T|: the largest |x| over the smallest T; infinite where any x or T is NaN.

    Three reductions of x itself: XLA's CPU backend runs one of |x| a number at a time, and its
    maximum forgets a NaN, which the sum keeps. Along these axes first, if not all: what is split
    over devices along others is one number that they exchange then, not three.
    """
    x, temperature = lax.stop_gradient((real(x, mask), temperature))
    largest, smallest, total = (reduction(x, axes) for reduction in (jnp.max, jnp.min, jnp.sum))
    unknown = jnp.isnan(total) | jnp.isnan(jnp.sum(temperature))
    spans = jnp.where(unknown, jnp.inf, lax.max(largest, -smallest) / jnp.min(temperature))
    return jnp.max(spans)


def _near(x, temperature, mask, span, windows, kind):
    """The value, and the sum of exp(x/T) over every window, for softmax; for LSE their mean, or the
    mean of exp(x/T) - 1."""
    x = real(x, mask)  # derivatives would multiply 0 with exponentials of what is not real
    n = _sums.count(mask, windows, x.ndim, False, x.dtype)
    if kind == "softmax":
        e = apart(_exponentials, x, temperature, mask)
        means = _sums.total(e, windows)
        if mask is not None or not _plan.none_empty(windows):
            means += _none(n)
        return _sums.total(e * x, windows, means), means
    # log(mean exp) by the mean of exp - 1 where all exponents are small: exact at any temperature.
    e, less = _exponentials(x, temperature, mask), expm1(x / temperature)
    means = _sums.total(jnp.where(span < LITTLE, less, e), windows, jnp.maximum(n, 1))
    level = _level(means, n, span)
    if kind == "sum":
        level += jnp.log(jnp.maximum(n, 1))
    return temperature * level + jnp.where(n > 0, 0, -jnp.inf), means


def _exponentials(x, temperature, mask):
    return real(exp(x / temperature), mask)


def _none(n):
    """1 where there is no element, to be added: XLA's CPU backend takes longer to choose."""
    return (n == 0).astype(n.dtype)


def _level(means, n, span):
    small = span < LITTLE
    little, much = jnp.where(small, means, 0), jnp.where(small, 1, means + _none(n))
    return log1p(little) + log(much)


def _near_move(x, temperature, mask, span, t, y, means, windows, kind):
    """y' = <x'> for LSE and <x' (1 + (x - y)/T)> for softmax, <.> the weighted mean of a window."""
    z = real(x, mask) / temperature
    part, total = real(exp(z) * t, mask), partial(_sums.total, windows=windows)
    moved = total(part)
    if kind == "softmax":
        moved = total(part * (1 + z)) - moved * (y / temperature)
    return moved / _weights(means, mask, span, windows, kind)


def _near_back(x, temperature, mask, span, y, means, g, windows, kind):
    """The transpose; for small windows in one loop."""
    how = {"windows": windows, "kind": kind}
    if not _is_one_loop(x, windows):

        def move(t):
            return _near_move(x, temperature, mask, span, t, y, means, **how)

        return jax.linear_transpose(move, x)(g)[0]
    (group,) = _plan.groups_of(x, windows)
    around = {"g": g / _weights(means, mask, span, **how)}
    if kind == "softmax":
        around["y"] = y
    cells = _pairs.present({"x": x, "mask": mask})
    return _pairs.at_elements(_near_back_of, cells, around, temperature, group)


def _near_back_of(cells, around, temperature, group, one_region=False):
    def term(cell, around, rate):
        x = real(cell["x"], cell.get("mask"))  # as in `_near`
        slope = 1 + (x - around["y"]) * rate if "y" in around else 1
        return exp(x * rate) * around["g"] * slope

    return _pairs.sum_at_elements(term, cells, around, 1 / temperature, group, one_region)


def _weights(means, mask, span, windows, kind):
    """The sum of exp(x/T) over every window, 1 where there is no element."""
    if kind == "softmax":
        return means
    n = _sums.count(mask, windows, means.ndim, False, means.dtype)
    return n * jnp.where(span < LITTLE, 1 + means, means) + _none(n)


def _far(x, temperature, mask, span, windows, kind, known=None):
    """The value, and the gap of every window for softmax, its level for LSE (`Smooth`)."""
    softmax = kind == "softmax"
    top, level, count, gap = _smooth.smooth(x, windows, temperature, mask, softmax, known)
    found = gap if softmax else level
    if mask is None:
        count = _bins.count(None, windows, x.ndim, x.dtype)
    if kind == "sum":
        level += jnp.log(jnp.maximum(count, 1))
    y = top + (temperature * level if gap is None else gap)
    nothing = jnp.where(count > 0, -jnp.inf, 0.0 if softmax else -jnp.inf)
    y = jnp.where(top > _pairs.floor(x.dtype), y, nothing.astype(x.dtype))
    return jnp.where(jnp.isnan(top) | (top == jnp.inf), top, y), found


def _far_again(x, temperature, mask, span, y, means, windows, kind):
    """`_far` as a function of x, whose value is known; of examples that were near, from theirs."""

    def known(top):
        if kind == "softmax":
            of_near = y - top
        else:
            n = _sums.count(mask, windows, x.ndim, False, x.dtype)
            of_near = _level(jnp.where(span < NEAR, means, 1), n, span) - top / temperature
        return jnp.where(span < NEAR, jnp.where(top > _pairs.floor(x.dtype), of_near, 0), means)

    return lambda x: _far(x, temperature, mask, span, windows, kind, known)[0]


def _far_move(x, temperature, mask, span, t, y, means, **how):
    again = _far_again(x, temperature, mask, span, y, means, **how)
    return jax.jvp(again, (x,), (t,))[1]


def _far_back(x, temperature, mask, span, y, means, g, **how):
    again = _far_again(x, temperature, mask, span, y, means, **how)
    return jax.vjp(again, x)[1](g)[0]
