"""exp, expm1, log, log1p and cube roots of float32 as loops take them: against NumPy in double
precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpool._exponential import cbrt, exp, expm1, log, log1p

ULP = 2.0**-23
NEAR_ZERO = np.concatenate([s * 10.0 ** np.linspace(-12, 0, 20_001) for s in (1, -1)])
FAR = np.linspace(-87, 88, 200_001)
OF_ANY_SIZE = np.exp(FAR)


def error(f, exact, z) -> float:
    z = np.asarray(z, np.float32)
    expected = exact(z.astype(np.float64))
    return float(np.max(np.abs(np.asarray(jax.jit(f)(z), np.float64) / expected - 1)))


def test_exp_is_exact_to_rounding():
    assert error(exp, np.exp, NEAR_ZERO) < ULP
    assert error(exp, np.exp, FAR) < ULP


def test_expm1_is_exact_to_rounding_near_zero_too():
    assert error(expm1, np.expm1, NEAR_ZERO) < 1.5 * ULP
    assert error(expm1, np.expm1, FAR[FAR != 0]) < 1.5 * ULP


def test_log_is_exact_to_rounding():
    assert error(log, np.log, OF_ANY_SIZE) < ULP
    assert error(log, np.log, np.linspace(0.5, 2, 200_000)) < ULP


def test_log1p_is_exact_to_rounding_near_zero_too():
    assert error(log1p, np.log1p, NEAR_ZERO[np.abs(NEAR_ZERO) < 0.04]) < 1.5 * ULP
    # Elsewhere 1 + u is rounded, which counts where little is left of it.
    assert error(log1p, np.log1p, NEAR_ZERO[NEAR_ZERO > -0.9]) < 2 * ULP


def test_cube_roots_are_exact_to_rounding():
    assert error(cbrt, np.cbrt, OF_ANY_SIZE[OF_ANY_SIZE > 1e-30]) < ULP


@pytest.mark.parametrize(("f", "ends"), [(log, [jnp.inf]), (cbrt, [0, jnp.inf])])
def test_ends_stay(f, ends):
    assert jnp.array_equal(f(jnp.array(ends)), jnp.array(ends))


@pytest.mark.parametrize("f", [exp, expm1])
def test_far_below_zero_nothing_is_left(f):
    z = jnp.array([-88.0, -100.0, -1e30, -jnp.inf])
    assert jnp.array_equal(f(z), jnp.full(4, f(-jnp.inf)))
    assert exp(-jnp.inf) == 0 and expm1(-jnp.inf) == -1


@pytest.mark.parametrize("f", [exp, expm1, log, log1p, cbrt])
def test_zero_is_exact_and_nan_stays(f):
    assert f(jnp.float32(f is log)) == (1 if f is exp else 0)
    assert jnp.isnan(f(jnp.float32(jnp.nan)))


@pytest.mark.parametrize("f", [exp, expm1])
def test_derivatives_are_exponentials_in_either_mode_and_any_order(f):
    z = jnp.linspace(-20, 3, 101)
    first = jax.vmap(jax.grad(f))(z)
    second = jax.vmap(jax.jacfwd(jax.grad(f)))(z)
    assert jnp.array_equal(first, exp(z)) and jnp.array_equal(second, exp(z))


@pytest.mark.parametrize(
    ("f", "first"),
    [(log, lambda z: 1 / z), (log1p, lambda z: 1 / (1 + z)), (cbrt, lambda z: z ** (-2 / 3) / 3)],
)
def test_derivatives_of_their_inverses(f, first):
    z = jnp.linspace(0.1, 1, 101)
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(z), first(z), rtol=1e-6)
    second = jax.vmap(jax.grad(first))(z)
    np.testing.assert_allclose(jax.vmap(jax.jacfwd(jax.grad(f)))(z), second, rtol=1e-5)


@pytest.mark.parametrize("f", [exp, expm1, log, log1p, cbrt])
def test_other_dtypes_take_xlas(f):
    z = jnp.linspace(0.1, 0.9, 7, dtype=jnp.bfloat16)
    assert f(z).dtype == jnp.bfloat16
    assert jnp.array_equal(f(z), getattr(jnp, f.__name__)(z))
