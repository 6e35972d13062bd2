"""Power means: their ends and order, scale, zeros, and the power as data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as r
from test_contract import FLOAT, TOLERANCE, assert_equal, check_derivatives, distinct, random

import jaxpool
from jaxpool import lp_pool

GEOMETRY = {"window_shape": (3, 3), "strides": 2, "padding": "SAME"}
POWERS = [1, 2, 3, 4, 2.5, 10.0]


def values_and_slopes(pool, *args):
    """The value, and the gradients of its sum by every argument."""

    @jax.jit
    def run(*args):
        y, back = jax.vjp(pool, *args)
        return y, *back(jnp.ones_like(y))

    return run(*args)


# Ends and order


def test_the_textbook():
    x = jnp.asarray([3.0, -4.0], FLOAT)[:, None]
    ends = {1: 7, 2: 5, 3: 91 ** (1 / 3), 4: 337 ** (1 / 4), jnp.inf: 4}
    for p, y in ends.items():
        np.testing.assert_allclose(lp_pool(x, (2,), p=p), [[y]], rtol=1e-6)
    np.testing.assert_allclose(lp_pool(x, (2,), normalize=True), [[12.5**0.5]], rtol=1e-6)
    np.testing.assert_allclose(jaxpool.gem_pool(x, (2,), p=1, eps=1.0), [[2]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_the_ends_are_average_and_maximum(dtype):
    x = jnp.asarray(random("ends").normal(size=(2, 7, 8, 3)), dtype)
    average = jaxpool.avg_pool(jnp.abs(x), **GEOMETRY, count_include_pad=False)
    maximum = jaxpool.max_pool(jnp.abs(x), **GEOMETRY)
    eps = 2 * float(jnp.finfo(dtype).eps)
    mean = functools.partial(lp_pool, x, **GEOMETRY, normalize=True)
    assert_equal(mean(p=1), average, eps)
    assert_equal(mean(p=jnp.inf), maximum, 0)
    for traced, end in ((1.0, average), (1e30, maximum), (jnp.inf, maximum)):
        assert_equal(jax.jit(lambda p: mean(p=p))(jnp.float32(traced)), end, max(eps, 1e-5))


def test_power_means_lie_between_average_and_maximum_and_grow():
    x = jnp.asarray(random("order").normal(size=(2, 8, 8, 3)) ** 2, FLOAT)
    low = jaxpool.avg_pool(x, **GEOMETRY, count_include_pad=False)
    for p in [1, 1.5, 2, 3, 4, 7.0, 100.0, jnp.inf]:
        y = lp_pool(x, **GEOMETRY, p=p, normalize=True)
        assert (low <= y * (1 + 1e-6)).all()
        low = y
    assert (low <= jaxpool.max_pool(x, **GEOMETRY)).all()


def test_the_infinite_norm_has_the_gradient_of_the_maximum():
    x = jnp.asarray(2 * random("infinite").integers(-3, 3, (2, 7, 8, 3)) + 1, FLOAT)
    where = random("infinite").random(x.shape) < 0.7
    y, slope = values_and_slopes(lambda x: lp_pool(x, **GEOMETRY, p=np.inf, where=where), x)
    expected, other = values_and_slopes(
        lambda x: jaxpool.max_pool(jnp.abs(x), **GEOMETRY, where=where), x
    )
    np.testing.assert_array_equal(y, jnp.maximum(expected, 0))
    np.testing.assert_array_equal(slope, other)
    bins = jaxpool.adaptive_lp_pool(x, (3, 5), p=np.inf, where=where)
    expected = jaxpool.adaptive_max_pool(jnp.abs(x), (3, 5), where=where)
    np.testing.assert_array_equal(bins, jnp.maximum(expected, 0))
    _, slope = values_and_slopes(
        lambda x: lp_pool(x, 3, axis=0, p=np.inf), jnp.array([1, np.nan, 2])
    )
    np.testing.assert_array_equal(slope, [0, 1, 0])


# Scale and zeros


@pytest.mark.parametrize("p", [*POWERS, 100.0])
def test_no_scale_is_too_large_or_too_small(p):
    x = distinct((1, 6, 5, 2)).astype(np.float32)
    v = random("scale").normal(size=x.shape).astype(np.float32)

    @jax.jit
    def all_three(x):
        f = lambda x: lp_pool(x, (3, 2), 1, "SAME", p=p)  # noqa: E731
        slope = jax.grad(lambda x: f(x).sum())
        return f(x), slope(x), jax.jvp(slope, (x,), (v,))[1]

    expected = all_three(x)
    scales = np.ldexp(1.0, [-83, 83]).astype(np.float32)  # about 1e-25 and 1e25
    for c in scales:
        for order, (y, one) in enumerate(zip(all_three(c * x), expected, strict=True)):
            assert_equal(y * c ** (order - 1), one, 1e-6)
    # Both in one map: a window has the scale of its largest element.
    mixed = np.concatenate([scales[0] * x, scales[1] * x], 1)
    y = lp_pool(mixed, (2, 1), p=p)
    for half, c in zip((y[:, :3], y[:, 3:]), scales, strict=True):
        np.testing.assert_array_equal(half, c * lp_pool(x, (2, 1), p=p))


@pytest.mark.parametrize("p", POWERS)
def test_float16_does_not_overflow_on_the_way(p):
    x = jnp.asarray([6e4, 1e2, 6e-8, 0.0], jnp.float16)[:, None]
    y, slope = values_and_slopes(lambda x: lp_pool(x, (2,), p=p, normalize=True), x)
    expected = r.pool(r.norm, x, (2,), p=p, normalize=True)
    np.testing.assert_allclose(y, expected.values.astype(np.float16), rtol=1e-3)
    np.testing.assert_allclose(slope, expected.pullback(np.ones(2)), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("p", POWERS)
def test_the_largest_numbers_have_a_mean(p):
    # Their norm overflows, their mean does not: of any window, in one pass or in several.
    large = np.full((1, 40, 40, 1), 2.0**127, np.float32)
    mean = functools.partial(lp_pool, normalize=True)
    for window, padding in [((2, 2), "VALID"), ((3, 3), "SAME"), ((13, 40), "VALID")]:
        for pool in (mean, jaxpool.gem_pool):
            np.testing.assert_allclose(pool(large, window, None, padding, p=p), 2.0**127, rtol=1e-6)
    bins = jaxpool.adaptive_lp_pool(large, (3, 7), p=p, normalize=True)
    np.testing.assert_allclose(bins, 2.0**127, rtol=1e-6)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_a_norm_that_overflows_has_a_slope(p: int):
    x = np.array([3e38, -2e38, 3e38, 0], np.float32)
    y, slope = jax.value_and_grad(lambda x: lp_pool(x, 4, axis=0, p=p).sum())(jnp.asarray(x))
    assert y == np.inf
    most = float(jnp.finfo(FLOAT).max)  # which stands for the norm
    np.testing.assert_allclose(slope, np.sign(x) * np.abs(x / most) ** (p - 1), rtol=1e-6)


@pytest.mark.parametrize(("p", "most"), [(50.0, 3e38), (1e4, 8e37)])
def test_the_largest_numbers_that_a_power_takes(p: float, most: float):
    x = jnp.array([most / 2, most, -most], jnp.float32)
    y, slope = jax.value_and_grad(lambda x: lp_pool(x, 3, axis=0, p=p, normalize=True).sum())(x)
    mean = (2 / 3) ** (1 / p)
    np.testing.assert_allclose(y, mean * most, rtol=1e-5)
    np.testing.assert_allclose(slope, [0, mean / 2, -mean / 2], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("window", [3, 40])
def test_a_sum_has_the_gradient_of_each_sign_however_small(window: int):
    x = np.full(window, -1e-10, np.float32)
    x[-1] = 1e30
    slope = jax.grad(lambda x: lp_pool(x, window, axis=0, p=1).sum())(jnp.asarray(x))
    np.testing.assert_array_equal(slope, np.sign(x))


def test_the_greatest_power_has_its_whole_derivative():
    x = jnp.arange(1, 5, dtype=FLOAT)
    pool = functools.partial(lp_pool, x, 4, axis=0, normalize=True)
    slopes = [jax.grad(lambda p: pool(p=p)[0])(p) for p in (1e6 - 1, 1e6)]
    np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-4)


@pytest.mark.parametrize("p", [3, 2.5])
def test_an_eps_of_0_leaves_zeros(p):
    x = jnp.asarray([0.0, 0.0, -1.0, 2.0], FLOAT)
    y, slope = values_and_slopes(lambda x: jaxpool.gem_pool(x, 2, axis=0, p=p, eps=0), x)
    assert_equal(y, [0, 2 / 2 ** (1 / p)], TOLERANCE)
    assert_equal(slope, [0, 0, 0, 2 ** (-1 / p)], TOLERANCE)


@pytest.mark.parametrize("p", [*POWERS, np.inf])
def test_zeros_have_no_gradient(p):
    # A window of zeros, one with a zero, and one that the mask empties.
    x = jnp.asarray([0.0, -0.0, 0.0, 2.0, 5.0, 7.0], FLOAT)[:, None]
    where = np.array([1, 1, 1, 1, 0, 0], bool)[:, None]
    pool = functools.partial(lp_pool, window_shape=(2,), where=where)
    data = jnp.asarray(p, FLOAT)
    known = values_and_slopes(lambda x: pool(x, p=p), x)
    *traced, by_p = values_and_slopes(lambda x, p: pool(x, p=p), x, data)
    for y, slope in (known, traced):
        assert_equal(y[:, 0], [0, 2, 0], TOLERANCE)
        assert_equal(slope[:, 0], [0, 0, 0, 1, 0, 0], TOLERANCE)
    assert by_p == 0
    tangent = jax.jvp(lambda x, p: pool(x, p=p), (x, data), (x, jnp.ones_like(data)))[1]
    assert_equal(tangent[:, 0], [0, 2, 0], TOLERANCE)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("pool", [lp_pool, jaxpool.gem_pool])
def test_a_constant_mask_may_leave_nothing(pool, p):
    # What is constant XLA computes as it compiles, and in another order.
    nothing = np.zeros((1, 1), bool)

    @jax.jit
    def both(x):
        y, back = jax.vjp(lambda x: pool(x, (1,), p=p, where=nothing), x)
        return y, back(jnp.ones_like(y))[0]

    for found in both(jnp.ones((1, 1), FLOAT)):
        assert_equal(found, np.zeros((1, 1)), 0)


def test_curvature_at_a_zero():
    # sqrt(x^2 + 4) has the second derivative 1/2 at x = 0.
    hessian = jax.hessian(lambda x: lp_pool(x, 2, axis=0)[0])(jnp.asarray([0.0, 2.0], FLOAT))
    assert_equal(hessian, [[0.5, 0], [0, 0]], TOLERANCE)


@pytest.mark.parametrize("p", [2.5, 5.0, 30.0])
def test_second_derivatives_of_zeros_and_empty_windows_are_0(p):
    x = jnp.asarray([1.0, 2.0, 0.0, 0.0, 3.0, 4.0], FLOAT)
    where = np.array([1, 1, 1, 1, 0, 0], bool)

    def pool(x, p):
        return lp_pool(x, 2, axis=0, p=p, where=where).sum()

    both = jax.jit(jax.hessian(pool, (0, 1)))(x, jnp.asarray(p, FLOAT))
    for second in jax.tree.leaves(both):
        assert np.isfinite(second).all()
    assert not np.any(both[0][0][2:]) and not np.any(both[1][0][2:])


@pytest.mark.parametrize("window", [[2.0, 2.0], [3.0, 0.0], [2.0, 1.0]])
@pytest.mark.parametrize("pool", [lp_pool, jaxpool.gem_pool])
def test_second_derivatives_by_x_and_p_do_not_depend_on_their_order(pool, window):
    def f(x, p):
        return pool(x, 2, axis=0, p=p)[0]

    args = jnp.asarray(window, FLOAT), jnp.asarray(2.5, FLOAT)
    first = jax.jit(jax.jacfwd(jax.grad(f, 0), 1))(*args)
    for second in (jax.grad(jax.grad(f, 1), 0), jax.jacfwd(jax.jacfwd(f, 1), 0)):
        np.testing.assert_allclose(jax.jit(second)(*args), first, atol=1e-6)


# The power as data


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_a_known_power_and_the_same_as_data_agree(p):
    x = jnp.asarray(distinct((2, 6, 5, 2)), FLOAT)
    v = jnp.asarray(random("known").normal(size=x.shape), FLOAT)

    def all_three(p, x):
        f = lambda x: lp_pool(x, (3, 2), 1, "SAME", p=p, normalize=True)  # noqa: E731
        slope = jax.grad(lambda x: jnp.sin(f(x)).sum())
        return f(x), slope(x), jax.jvp(slope, (x,), (v,))[1]

    known = jax.jit(functools.partial(all_three, p))(x)
    for actual, expected in zip(jax.jit(all_three)(FLOAT.type(p), x), known, strict=True):
        assert_equal(actual, expected, 10 * TOLERANCE)


def test_forms_of_p():
    x = jnp.asarray(distinct((2, 6, 5, 3)), FLOAT)
    for p in (2.5, np.float32(2.5), np.array([2.5]), jnp.asarray([2.5] * 3)):
        expected = r.pool(r.norm, x, (3, 2), p=2.5).values
        assert_equal(lp_pool(x, (3, 2), p=p), expected, TOLERANCE)
    each = jnp.asarray([1.0, 2.0, 6.5], FLOAT)
    expected = r.pool(r.norm, x, (3, 2), p=each).values
    for p in (each, each.reshape(1, 1, 1, 3), np.asarray(each)):
        assert_equal(lp_pool(x, (3, 2), p=p), expected, TOLERANCE)
    stacked = jax.vmap(lambda p: lp_pool(x, (3, 2), p=p))(each)
    for p, y in zip([1, 2.0, 6.5], stacked, strict=True):
        assert_equal(y, lp_pool(x, (3, 2), p=p), TOLERANCE)
    # Channels first, and windows so large that they go another way.
    first = lp_pool(jnp.moveaxis(x, -1, 1), (3, 2), axis=(2, 3), p=each.reshape(3, 1, 1))
    assert_equal(first, np.moveaxis(expected, -1, 1), TOLERANCE)
    lines = jnp.asarray(distinct((1, 3, 40)), FLOAT)
    y = lp_pool(lines, 20, axis=-1, p=each.reshape(3, 1))
    expected = r.pool(r.norm, lines, 20, axis=-1, p=each.reshape(3, 1)).values
    assert_equal(y, expected, TOLERANCE)


def test_derivatives_by_p():
    x = distinct((2, 4, 2)).astype(FLOAT)
    p = np.array([3.25, 5.5], FLOAT)
    pool = functools.partial(lp_pool, window_shape=(3,), strides=1, padding="SAME", normalize=True)
    check_derivatives(jax.jit(lambda x, p: pool(x, p=p)), x, p)
    # One power for all is the sum over channels.
    slope = jax.jit(jax.grad(lambda p: pool(x, p=p).sum()))
    assert_equal(slope(FLOAT.type(2.5)), slope(np.full(2, 2.5, FLOAT)).sum(), 10 * TOLERANCE)


def test_derivatives_by_p_at_every_scale():
    x = distinct((2, 6, 2)).astype(np.float32)
    slope = jax.jit(jax.jacfwd(lambda p, x: lp_pool(x, (3,), p=p)))
    for p in (1.5, 2.0, 10.0, 100.0):
        higher, lower = (r.pool(r.norm, x, (3,), p=p * (1 + e)).values for e in (1e-5, -1e-5))
        expected = (higher - lower) / (2e-5 * p)
        for c in (1e-25, 1.0, 1e25):
            actual = np.asarray(slope(np.float32(p), np.float32(c) * x), float) / c
            np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), 2, "SAME"),
        ((2, 2), 1, "SAME"),  # padded where windows of few channels are dense
        ((4, 9), 1, "VALID"),
        ((3,), 1, ((5, 0),)),  # windows of padding alone
        ((9,), 1, "SAME"),  # many borders
        ((19,), 19, ((3, 0),)),  # rows, with padding in them
        ((30,), 1, "SAME"),
    ],
    ids=str,
)
def test_no_padding_is_raised(window, strides, padding):
    # Loops raise elements to eps themselves where they read no padding, which is 0 and stays so.
    rng = random("raised")
    shape = (2, 40, *(9, 3)[2 - len(window) :])
    x = jnp.asarray(rng.normal(size=shape), FLOAT)

    def gem(where, x, p):
        return jaxpool.gem_pool(x, window, strides, padding, p=p, eps=0.5, where=where)

    def by_hand(where, x, p):
        x = jnp.where(x < 0.5, jnp.asarray(0.5, FLOAT), x)
        return lp_pool(x, window, strides, padding, p=p, normalize=True, where=where)

    for where in (None, rng.random(x.shape) < 0.8):
        ways = []
        for pool in (gem, by_hand):
            of = functools.partial(pool, where)
            traced = jax.jit(functools.partial(values_and_slopes, of))  # once for both powers
            for p in (3.0, 2.5):
                known = values_and_slopes(functools.partial(of, p=p), x)
                ways.append(known + traced(x, jnp.asarray(p, FLOAT)))
        for ours, theirs in zip(ways[:2], ways[2:], strict=True):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_raised_has_no_gradient_beside_nan_either(bad):
    x = jnp.asarray([1.0, 2.0, -1.0, bad, 3.0], FLOAT)[:, None]
    _, slope = values_and_slopes(lambda x: jaxpool.gem_pool(x, (2,), 1), x)
    assert slope[2] == 0 and np.isfinite(slope[1])
    assert np.isnan(slope[4]) if np.isnan(bad) else slope[4] == 0


# How it runs


@pytest.mark.parametrize(
    ("pool", "p", "channels"),
    [(lp_pool, 2, 8), (lp_pool, 2, 16), (lp_pool, 2.5, 16), (jaxpool.gem_pool, 3, 16)],
)
def test_little_is_kept_for_the_way_back(pool, p, channels: int):
    # (Of 8 channels and p = 2.5, axes are folded one by one: that keeps more, for speed.)
    x = jax.ShapeDtypeStruct((2, 48, 48, channels), jnp.float32)
    back = jax.eval_shape(lambda x: jax.vjp(lambda x: pool(x, (3, 3), 2, p=p), x)[1], x)
    kept = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(back))
    assert kept <= 1.51 * x.size * 4  # x, and two numbers for each window


@pytest.mark.parametrize("pool", [jaxpool.lp_pool, jaxpool.gem_pool])
def test_gradients_pass_what_jax_can_check_of_itself(pool):
    with jax.enable_checks(True):
        jax.hessian(lambda x, p: pool(x, 2, axis=0, p=p).sum(), (0, 1))(jnp.arange(1.0, 5.0), 3.0)
