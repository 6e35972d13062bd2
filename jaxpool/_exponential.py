"""exp, expm1, log, log1p and cube roots of float32, for loops that take many of them.

A loop of nine exponentials takes XLA's CPU backend twice as long with its own exp, and longer with
its expm1, which is two of them. Where a result of its log, its cube root or a division is used
twice, it makes two loops, and in both all that comes before. Other dtypes take XLA's.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxpool._linear import Curved, curved


@curved()
def exp(z: jax.Array) -> jax.Array:
    """exp(z) for z from -87 to 88, within 1.2 units of the last place; 0 below -88."""
    if z.dtype != jnp.float32:
        return jnp.exp(z)
    power, rest = _power_and_rest(z)
    return power * (1 + rest)


@curved()
def expm1(z: jax.Array) -> jax.Array:
    """exp(z) - 1 for z up to 88, exact near 0 too."""
    if z.dtype != jnp.float32:
        return jnp.expm1(z)
    power, rest = _power_and_rest(z)
    return power * rest + (power - 1)


def _tangent(function: Curved, along: Callable) -> None:
    """Its tangent is `along(t, y, z)`, at y = function(z)."""

    def rule(primals: Sequence, tangents: Sequence) -> tuple:
        y = function(*primals)
        return y, along(*tangents, y, *primals)

    function.defjvp(rule)


_tangent(exp, lambda t, y, z: t * y)
_tangent(expm1, lambda t, y, z: t * exp(z))

# (exp(r) - 1)/r for |r| up to log(2)/2, within 2**-26: a minimax polynomial with 1 at 0.
SERIES = (1.0, 0.49999997, 0.16666543, 0.0416672, 0.008366513, 0.0013882515)


def _power_and_rest(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(z) = 2^k exp(r), with z = k log(2) + r: 2^k, and exp(r) - 1."""
    z = lax.max(z, jnp.full_like(z, -88.0))  # whose power is 0
    bits = lax.bitcast_convert_type(z * 1.44269504 + 12582912.0, jnp.int32)  # 1.5 * 2^23 rounds
    whole = bits - 0x4B400000
    k = whole.astype(jnp.float32)
    r = z - k * 0.693145752 - k * 1.42860677e-6  # log(2), in two parts
    return lax.bitcast_convert_type((whole + 127) << 23, jnp.float32), r * _polynomial(SERIES, r)


def _polynomial(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    """c[0] + x*(c[1] + x*(...)): of XLA's operations, since there are many, and those of jax.numpy
    take twice as long to trace."""
    *others, total = (lax.full_like(x, coefficient) for coefficient in coefficients)
    for coefficient in reversed(others):
        total = lax.add(coefficient, lax.mul(x, total))
    return total


@curved()
def log(z: jax.Array) -> jax.Array:
    """log(z) for normal z > 0, within 0.7 units of the last place; inf and NaN stay."""
    if z.dtype != jnp.float32:
        return jnp.log(z)
    return jnp.where(z < jnp.inf, _log(z), z)


@curved()
def log1p(u: jax.Array) -> jax.Array:
    """log(1 + u) for u from -1 to 1, -88 at -1; exact near 0 too."""
    if u.dtype != jnp.float32:
        return jnp.log1p(u)
    return jnp.where(u == u, _log(1 + u, u), u)


_tangent(log, lambda t, y, z: t / z)
_tangent(log1p, lambda t, y, u: t / (1 + u))

# (log(1 + f) - f)/f^2 for 1 + f from sqrt(1/2) to sqrt(2), times f^2/log(1 + f) within 2**-27: a
# minimax polynomial with -1/2 at 0.
LOG_SERIES = (
    -0.5, 0.33333332, -0.25000821, 0.20001227, -0.16623357, 0.14201757, -0.13160183, 0.12761584,
    -0.07634503,
)  # fmt: skip


def _log(z: jax.Array, above: jax.Array | None = None) -> jax.Array:
    """log(z) = k log(2) + log(1 + f), with z = 2^k (1 + f) and 1 + f from sqrt(1/2) to sqrt(2). In
    it f is `above`, which is z - 1 before rounding, where k = 0."""
    bits = lax.bitcast_convert_type(z, jnp.int32)
    k = (bits - 0x3F3504F3) >> 23  # the bits of sqrt(1/2)
    f = lax.bitcast_convert_type(bits - (k << 23), jnp.float32) - 1
    if above is not None:
        f = jnp.where(k == 0, above, f)
    return k.astype(jnp.float32) * 0.69314718 + (f + f * f * _polynomial(LOG_SERIES, f))


@curved()
def cbrt(z: jax.Array) -> jax.Array:
    """The cube root of z from 1e-30 on, within 0.7 units of the last place; 0, inf, NaN stay."""
    if z.dtype != jnp.float32:
        return jnp.cbrt(z)
    bits = lax.bitcast_convert_type(z, jnp.int32).astype(jnp.float32)
    inverse = lax.bitcast_convert_type((1.4199e9 - bits * (1 / 3)).astype(jnp.int32), jnp.float32)
    for _ in range(2):  # Newton's method for z^(-1/3), which needs no division
        inverse *= 4 / 3 - z * inverse * inverse * inverse * (1 / 3)
    root = z * inverse * inverse
    root += (z - root * root * root) * inverse * inverse * (1 / 3)
    return jnp.where(z < jnp.inf, root, z)


_tangent(cbrt, lambda t, y, z: t * y / (3 * z))
