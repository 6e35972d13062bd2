"""Log-sum-exp and softmax pooling of windows: two ways to the same numbers, and which one is taken.

`_far` is exact for any x/T: one exponential per element *and window* (`_smooth`). Where |x/T| is
not large, `_near` needs one exponential per element; the rest are sums over windows, whose time
does not grow with them. It pays where an element is in many windows. Which of the two is exact can
only be seen from the values, so on CPU both are compiled and a glance at x chooses; elsewhere
exponentials are cheap and choices are not.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxpool import _bins, _reduce, _smooth
from jaxpool._exponential import exp, expm1, log1p
from jaxpool._geometry import Bins, Window, shape_of
from jaxpool._linear import apart, by_platform, linear_pair
from jaxpool._prepare import real
from jaxpool._reduce import Group
from jaxpool._slices import as_merged

# In how many windows an element is, at least, for one exponential of it to be worth an array.
OFTEN = 4
# So large may |x/T| be: sums of exponentials keep their digits, and the fourth powers of their
# inverses, which are in derivatives, do not overflow.
NEAR = 20.0
# Arrays of so many elements are pooled in parts where windows are large.
LARGE = 2**18


def pool(
    x: jax.Array,
    temperature: jax.Array,
    mask: jax.Array | None,
    axes: tuple[Window | Bins, ...],
    kind: str,
) -> jax.Array:
    """Pool every window or bin. kind: "mean" or "sum" in the logarithm, or "softmax"."""
    windows = [a for a in axes if isinstance(a, Window)]
    often = prod(w.size / w.stride for w in windows) > OFTEN and x.size > 0
    way = _either if often else _far

    def run(x: jax.Array, axes: Any, temperature: jax.Array, mask: Any) -> jax.Array:
        return way(x, temperature, mask, axes, kind)

    return as_merged(run, x, axes, temperature, mask)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _either(x, temperature, mask, windows, kind):
    return apart(_choose, x, temperature, mask, windows=windows, kind=kind)


def _either_jvp(windows, kind, primals, tangents):
    x, temperature, mask = primals
    d_x, d_temperature, _ = tangents
    y = _either(x, temperature, mask, windows, kind)
    dot = jnp.zeros_like(y)
    if not isinstance(d_x, SymbolicZero):
        dot += _move({"x": d_x}, (x, temperature, mask), ("x",), windows=windows, kind=kind)["x"]
    if not isinstance(d_temperature, SymbolicZero):
        of_temperature = partial(_choose, x, mask=mask, windows=windows, kind=kind)
        ones = jnp.ones_like(temperature)
        dot += jax.jvp(of_temperature, (temperature,), (ones,))[1] * d_temperature
    return y, dot


_either.defjvp(_either_jvp, symbolic_zeros=True)


def _choose(x, temperature, mask, windows, kind, do=lambda f, x: f(x), then=()):
    """`do(f, x, *then)` with f the pooling as a function of x, by the way that fits the values."""

    def run(way, x, temperature, mask, then):
        return do(lambda x: way(x, temperature, mask, windows, kind), x, *then)

    far = partial(run, _far)
    # In how many parts, one after the other, since their passes need several arrays of the size of
    # x: those of far keep three each for the backward pass, those of near none.
    of_near = 4 if any(w.size > _reduce.BLOCK for w in windows) else 1
    of_far = 1 if _is_one_loop(x, windows) else 8

    def near_or_far(x, temperature, mask, then):
        span = _span(x, temperature, mask)
        near = partial(run, partial(_near, span=span))
        ways = partial(_in_parts, near, windows, of_near), partial(_in_parts, far, windows, of_far)
        return lax.cond(span < NEAR, *ways, x, temperature, mask, then)

    return by_platform(x, temperature, mask, then, cpu=near_or_far, other=far)


def _is_one_loop(x: jax.Array, windows: Group) -> bool:
    return _reduce.is_few(windows) and len(_reduce.groups_of(x, windows)) == 1


def _in_parts(f: Callable, windows: Group, parts: int, x: jax.Array, *others: Any) -> jax.Array:
    """`f(x, *others)`, part after part, if x is large."""
    if not isinstance(x.size, int) or x.size < LARGE:  # it may be symbolic
        return f(x, *others)
    return _divided(f, windows, parts, x, *others)


def _divided(f: Callable, windows: Group, parts: int, x: jax.Array, *others: Any) -> jax.Array:
    """`f(x, *others)` in as many parts, or fewer if need be, along axes that are not pooled."""
    pooled = {w.axis for w in windows}
    free = [a for a in range(-x.ndim, 0) if a not in pooled]
    if not free:
        return f(x, *others)

    def possible(a: int) -> int:
        n = x.shape[a]
        most = parts if a < max(pooled) or n < _reduce.LONG else n // _reduce.LONG  # stays long
        return max(d for d in range(1, most + 1) if parts % d == 0 and n % d == 0)

    axis = max(free, key=possible)
    now = possible(axis)
    if now == 1:
        return f(x, *others)
    size, f = x.shape[axis] // now, partial(_divided, f, windows, parts // now)

    def part(i: Any) -> tuple:
        def cut(a: jax.Array) -> jax.Array:
            one = a.shape[axis] == 1
            return a if one else lax.dynamic_slice_in_dim(a, i * size, size, a.ndim + axis)

        return jax.tree.map(cut, (x, *others))

    def add(i: Any, y: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(y, f(*part(i)), i * size, y.ndim + axis)

    one = jax.eval_shape(lambda: f(*part(0)))
    shape = _reduce.replace_axis(one.shape, axis, x.shape[axis])
    return lax.fori_loop(0, now, add, jnp.zeros(shape, one.dtype))


def _move_of(t, rest, _, windows, kind):
    def forward(f, x, t):
        return jax.jvp(f, (x,), (t,))[1]

    x, temperature, mask = rest
    return {"x": _choose(x, temperature, mask, windows, kind, forward, (t["x"],))}


def _move_back(g, rest, _, windows, kind):
    def back(f, x, g):
        return jax.vjp(f, x)[1](g)[0]

    x, temperature, mask = rest
    return {"x": _choose(x, temperature, mask, windows, kind, back, (g["x"],))}


_move, _ = linear_pair(
    "move",
    _move_of,
    _move_back,
    lambda t, rest, windows, kind: shape_of(windows, t.shape),
    lambda g, rest, windows, kind: rest[0].shape,
)


def _span(x, temperature, mask):
    """The largest |x/T|."""
    x = real(lax.stop_gradient(x), mask)
    return jnp.max(jnp.abs(x) / lax.stop_gradient(temperature))


def _near(x, temperature, mask, windows, kind, span):
    x = real(x, mask)
    z = x / temperature
    n = _reduce.count(mask, windows, x.ndim, padding=False).astype(x.dtype)
    e = exp(z)
    if kind == "softmax":
        each = [real(e, mask), real(e * x, mask)]
        if _is_one_loop(x, windows):  # over both together, which is faster
            weight, moment = _reduce.total(jnp.stack(each), windows)
        else:
            weight, moment = (_reduce.total(a, windows) for a in each)
        return moment / jnp.where(n > 0, weight, 1)
    # log(mean exp) by the mean of exp - 1 where all exponents are small: exact at any temperature.
    small = span < 0.5
    each = real(jnp.where(small, expm1(z), e), mask)
    level = _reduce.total(each, windows, divisor=jnp.maximum(n, 1))
    little, much = jnp.where(small, level, 0), jnp.where(small | (n == 0), 1, level)
    level = log1p(little) + jnp.log(much)
    if kind == "sum":
        level += jnp.log(jnp.maximum(n, 1))
    return jnp.where(n > 0, temperature * level, -jnp.inf)


def _far(x, temperature, mask, axes, kind):
    top, level, _, gap = _smooth.smooth(x, axes, temperature, mask, kind == "softmax")
    count = _bins.count(mask, axes, x.ndim).astype(x.dtype)
    if kind == "sum":
        level += jnp.log(jnp.maximum(count, 1))
    y = top + (temperature * level if gap is None else gap)
    nothing = jnp.where(count > 0, -jnp.inf, 0.0 if kind == "softmax" else -jnp.inf)
    y = jnp.where(top > _smooth.floor(x.dtype), y, nothing.astype(x.dtype))
    return jnp.where(jnp.isnan(top) | (top == jnp.inf), top, y)
