"""exp, expm1 and log1p of float32, for loops that take many of them.

A loop of nine exponentials takes XLA's CPU backend twice as long with its own exp, and longer with
its expm1, which is two of them; its log1p is slow where it is fused with what its argument is made
of. Other dtypes take XLA's.
"""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_jvp
def exp(z: jax.Array) -> jax.Array:
    """exp(z) for z from -87 to 88, within 1.2 units of the last place; 0 from -88 on."""
    if z.dtype != jnp.float32:
        return jnp.exp(z)
    power, rest = _power_and_rest(z)
    return power * (1 + rest)


@jax.custom_jvp
def expm1(z: jax.Array) -> jax.Array:
    """exp(z) - 1 for z up to 88, exact near 0 too."""
    if z.dtype != jnp.float32:
        return jnp.expm1(z)
    power, rest = _power_and_rest(z)
    return power * rest + (power - 1)


exp.defjvps(lambda t, y, z: t * y)
expm1.defjvps(lambda t, y, z: t * exp(z))

# (exp(r) - 1)/r for |r| up to log(2)/2, within 2**-26: a minimax polynomial with 1 at 0.
SERIES = (1.0, 0.49999997, 0.16666543, 0.0416672, 0.008366513, 0.0013882515)


def _power_and_rest(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(z) = 2^k exp(r), with z = k log(2) + r: 2^k, and exp(r) - 1."""
    z = lax.max(z, jnp.full_like(z, -88.0))  # whose power is 0
    bits = lax.bitcast_convert_type(z * 1.44269504 + 12582912.0, jnp.int32)  # 1.5 * 2^23 rounds
    whole = bits - 0x4B400000
    k = whole.astype(jnp.float32)
    r = z - k * 0.693145752 - k * 1.42860677e-6  # log(2), in two parts
    series = jnp.full_like(r, SERIES[-1])
    for coefficient in SERIES[-2::-1]:
        series = coefficient + r * series
    return lax.bitcast_convert_type((whole + 127) << 23, jnp.float32), r * series


def log1p(u: jax.Array) -> jax.Array:
    """log(1 + u) for u from -1 to 1, within 1.3e-6 of it; near 0 it is a short series."""
    if u.dtype != jnp.float32:
        return jnp.log1p(u)
    series = jnp.zeros_like(u)
    for n in range(7, 0, -1):
        series = 1 / n - u * series
    return jnp.where(jnp.abs(u) < 0.05, u * series, jnp.log(1 + u))
