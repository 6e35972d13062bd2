"""Draws have the odds of the paper, in windows of every kind; and what mixing is made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import (
    FLOAT,
    TOLERANCE,
    Call,
    assert_equal,
    assert_identical,
    check_derivatives,
    distinct,
    geometries,
    masks,
    pullback,
    random,
)

import jaxpool
from jaxpool import _plan

KEY = jax.random.key(0)
DRAWS = 4096

# From windows that are drawn at once to those that are drawn axis by axis, and to races.
CALLS = {
    "apart": Call((1, 4, 6, 2), ((2, 2),)),
    "overlapping": Call((5, 6, 1), ((3, 3), 2, "SAME")),
    "axis by axis": Call((9, 8, 1), ((5, 4), 2, 1), {"ceil_mode": True}),
    "whole axes": Call((6, 7, 1), ((6, 7),)),
    "dilated": Call((9, 2), ((3,), 1), {"window_dilation": 2}),
    "filled": Call((4, 5, 1), ((3, 3), 1, "REFLECT")),
    "a race": Call((30, 1), ((17,), 6, "SAME")),
    "a race apart": Call((40, 1), ((20,),)),
    "a race of two axes": Call((9, 9, 1), ((8, 3), 1)),
}


def each(*calls: str):
    return pytest.mark.parametrize("call", [CALLS[c] for c in calls or CALLS], ids=calls or CALLS)


def draw(key, x, call: Call, **options):
    return jaxpool.stochastic_pool(key, x, *call.args, **call.options, **options)


def expect(x, call: Call, **options) -> reference.Pooled:
    return reference.pool(reference.expectation, x, *call.args, **call.options, **options)


def draws(x, call: Call, **options) -> np.ndarray:
    keys = jax.random.split(KEY, DRAWS)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw(key, x, call, **options)))(keys))


# The odds


@pytest.mark.parametrize("masked", [False, True])
@each()
def test_every_element_is_drawn_as_often_as_its_size_says(call: Call, masked: bool):
    x = distinct(call.shape).astype(np.float32)
    where = {"where": random("odds").random(call.shape) < 0.7} if masked else {}
    y = draws(jnp.asarray(x), call, **where)

    sizes = np.maximum(x, 0)
    pairs = [(out, into) for out, into, _ in expect(x, call, **where).slopes if sizes[into] > 0]
    whole = np.zeros(y.shape[1:])
    for out, into in pairs:
        whole[out] += sizes[into]
    odds = {}  # of an element that a window sees twice, too
    for out, into in pairs:
        odds[out, into] = odds.get((out, into), 0) + sizes[into] / whole[out]
    found = {(out, into): np.mean(y[:, *out] == x[into]) for out, into in odds}

    p, q = (np.array([d[pair] for pair in odds]) for d in (odds, found))
    sure = p > 1 - 1e-6
    np.testing.assert_array_equal(q[sure], 1)
    p, q = p[~sure], q[~sure]
    error = (q - p) / np.sqrt(p * (1 - p) / DRAWS)
    assert np.abs(error).max() < 5
    assert np.mean(error**2) < 1 + 8 / np.sqrt(len(p))
    np.testing.assert_array_equal(y[:, whole == 0], 0)


@each("apart", "axis by axis", "a race")
def test_the_mean_of_draws_is_the_deterministic_value(call: Call):
    x = jnp.asarray(np.abs(distinct(call.shape)), jnp.float32)
    y = draws(x, call)
    error = np.std(y, 0) / np.sqrt(DRAWS)
    mean = draw(None, x, call, deterministic=True)
    assert (np.abs(np.mean(y, 0, np.float64) - mean) <= 4 * error + 1e-6).all()


def test_small_windows_are_drawn_independently():
    x = jnp.asarray([1, 2, 3, 4], jnp.float32)
    x = jnp.stack([x, x], -1)[None]  # windows that overlap, channels, and keys
    y = draws(x, Call(x.shape, ((3,), 1)))
    pairs = [(y[:, 0, 0, 0], y[:, 0, 1, 0]), (y[:, 0, 0, 0], y[:, 0, 0, 1]), (y[:-1], y[1:])]
    for one, other in pairs:
        both = np.mean((one == 2) & (other == 2))
        alone = np.mean(one == 2) * np.mean(other == 2)
        assert np.abs(both - alone) < 5 * np.sqrt(alone / DRAWS)


def test_tuning_keeps_the_draws(monkeypatch):
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))

    def drawn():
        jax.clear_caches()
        windows = ((3, 3), 1), ((4, 4), 4), ((7, 1), 1)
        return [jaxpool.stochastic_pool(KEY, x, *window, "SAME") for window in windows]

    expected = drawn()
    for name in ("JOINT", "DIRECT", "BLOCK", "MOST"):
        monkeypatch.setattr(_plan, name, 4)
    for found, draws in zip(drawn(), expected, strict=True):
        np.testing.assert_array_equal(found, draws)
    jax.clear_caches()


def test_one_key_is_one_set_of_draws_for_ever():
    # Pinned: not to change between versions or platforms.
    x = jnp.arange(1, 31, dtype=jnp.float32)
    for key in (KEY, jax.random.PRNGKey(0)):
        few = jaxpool.stochastic_pool(key, x, 3, axis=0)
        many = jaxpool.stochastic_pool(key, x, 11, 3, axis=0)
        np.testing.assert_array_equal(few, PINNED["few"])
        np.testing.assert_array_equal(many, PINNED["many"])


PINNED = {
    "few": [3, 4, 7, 10, 13, 18, 21, 22, 27, 28],
    "many": [10, 12, 12, 20, 20, 20, 20],
}


# The element that was drawn


@settings(max_examples=settings.default.max_examples * 2)
@given(st.data())
def test_the_gradient_goes_to_the_element_that_was_drawn(data):
    call = data.draw(geometries())
    where = data.draw(masks(call.shape))
    mask = {} if where is None else {"where": where}
    x = distinct(call.shape).astype(FLOAT)
    key = jax.random.key(data.draw(st.integers(0, 99)))
    expected = expect(x, call, **mask)
    cotangent = random("drawn").normal(size=expected.values.shape).astype(FLOAT)
    y, gradient = pullback(lambda x: draw(key, x, call, **mask), x, cotangent)
    drawn, slopes = np.asarray(y), np.zeros(x.shape, FLOAT)
    seen = {out: [] for out in np.ndindex(*drawn.shape)}
    for out, into, _ in expected.slopes:
        seen[out].append(into)
    for out, elements in seen.items():
        if expected.values[out] == 0:
            assert drawn[out] == 0
        else:
            (one,) = {into for into in elements if x[into] == drawn[out]}
            slopes[one] += cotangent[out]
    assert_equal(gradient, slopes, TOLERANCE)


@each("overlapping", "axis by axis", "a race of two axes")
def test_transformations_keep_the_draws(call: Call):
    keys = jax.random.split(KEY, 3)
    x = jnp.asarray(distinct((3, *call.shape)), FLOAT)
    pool = functools.partial(draw, call=call)

    def both(key, x):
        y, back = jax.vjp(functools.partial(pool, key), x)
        return y, back(jnp.ones_like(y))[0], jax.jvp(functools.partial(pool, key), (x,), (x,))[1]

    run = jax.jit(both)
    expected = [run(*each) for each in zip(keys, x, strict=True)]
    found = jax.jit(jax.vmap(both))(keys, x)
    for i, (y, gradient, tangent) in enumerate(expected):
        assert_identical(found[0][i], y)
        assert_identical(found[1][i], gradient)
        assert_identical(found[2][i], y)
        assert_identical(tangent, y)
        assert_identical(pool(keys[i], x[i]), y)
    assert_identical(jax.vmap(pool, (None, 0))(keys[0], x)[0], expected[0][0])

    remat = jax.jit(jax.grad(lambda x: jax.checkpoint(functools.partial(pool, keys[0]))(x).sum()))
    assert_identical(remat(x[0]), expected[0][1])
    curved = jax.jit(jax.hessian(lambda x: (pool(keys[0], x) ** 2).sum()))(x[0])
    size = x[0].size
    assert_equal(curved.reshape(size, size), 2 * np.diag(expected[0][1].ravel()), TOLERANCE)


# Numbers of any size


@pytest.mark.parametrize("deterministic", [False, True])
@each("overlapping", "axis by axis", "a race of two axes")
def test_scale_does_not_matter(call: Call, deterministic: bool):
    x = jnp.asarray(distinct(call.shape), jnp.float32)
    pool = jax.jit(functools.partial(draw, KEY, call=call, deterministic=deterministic))
    slope = jax.jit(jax.grad(lambda x: jnp.sum(pool(x))))
    for scale in (2.0**-83, 2.0**83):
        assert_equal(pool(x * scale) / scale, pool(x), 1e-5)
        assert_equal(slope(x * scale), slope(x), 1e-5)


def test_small_windows_beside_large_ones():
    x = jnp.asarray([1e-25, 3e-25, 1e25, 3e25], jnp.float32)
    y = jaxpool.stochastic_pool(None, x, 2, axis=0, deterministic=True)
    np.testing.assert_allclose(y, [2.5e-25, 2.5e25], rtol=1e-6)
    top = jnp.asarray([1e38, 2e38, 3e38], jnp.float32)  # whose sum is infinite
    y = draws(top, Call((3,), (3,), {"axis": 0}))
    found = np.mean(y == top[None], 0)
    np.testing.assert_allclose(found, [1 / 6, 2 / 6, 3 / 6], atol=0.04)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@each("overlapping", "a race")
def test_16_bits_are_drawn_as_32(call: Call, dtype):
    x = jnp.asarray(distinct(call.shape), dtype)
    y = draw(KEY, x, call)
    assert y.dtype == dtype
    assert_identical(y.astype(jnp.float32), draw(KEY, x.astype(jnp.float32), call))
    whole = jnp.full((200, 300, 1), 6e4, dtype)  # whose sum float16 cannot hold
    assert_identical(jaxpool.stochastic_pool(KEY, whole, (200, 300)), whole[:1, :1])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("size", [3, 20])
def test_nan_and_infinity_are_not_left_to_chance(size: int, deterministic: bool):
    x = jnp.ones((5, size), jnp.float32)
    x = x.at[0, 1].set(jnp.nan).at[1, 1].set(jnp.inf).at[2, 1].set(-jnp.inf)
    x = x.at[3, 0].set(jnp.inf).at[3, 2].set(jnp.nan)

    @jax.vmap
    def pool(key):
        return jaxpool.stochastic_pool(key, x, size, axis=1, deterministic=deterministic)[:, 0]

    y = pool(jax.random.split(KEY, 100))
    np.testing.assert_allclose(y, np.tile([np.nan, np.inf, 1, np.nan, 1], (100, 1)), rtol=1e-6)


@pytest.mark.parametrize("deterministic", [False, True])
def test_windows_without_a_positive_element_are_flat(deterministic: bool):
    x = jnp.asarray([[-1.0, -2.0, -3.0, 0.0], [0.0, 0.0, 0.0, 0.0]], FLOAT)

    def pool(x):
        how = {"axis": 1, "deterministic": deterministic}
        return jaxpool.stochastic_pool(KEY, x, 3, 1, "SAME", **how)

    np.testing.assert_array_equal(pool(x), 0)
    np.testing.assert_array_equal(jax.grad(lambda x: pool(x).sum())(x), 0)
    np.testing.assert_array_equal(jax.hessian(lambda x: jnp.sin(1 + pool(x)).sum())(x), 0)
    np.testing.assert_array_equal(jax.jvp(pool, (x,), (jnp.ones_like(x),))[1], 0)


@each("overlapping", "a race")
def test_the_expectation_lies_between_average_and_maximum(call: Call):
    x = jnp.asarray(np.abs(distinct(call.shape)), FLOAT)
    y = draw(None, x, call, deterministic=True)
    low = jaxpool.avg_pool(x, *call.args, **call.options, count_include_pad=False)
    assert (low <= y + 1e-6).all()
    assert (y <= jaxpool.max_pool(x, *call.args, **call.options) + 1e-6).all()


# Mixed


GEOMETRY = {"window_shape": (3, 2), "strides": 2, "padding": "SAME"}


@pytest.mark.parametrize("pads", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_the_ends_of_alpha_are_max_and_avg(dtype, pads: bool):
    x = random("ends").integers(-100, 100, (2, 7, 6, 3)).astype(np.float32)
    if dtype != jnp.int8:
        x = x / 7
        x[0, :3] = -np.inf, np.inf, -np.inf
    x = jnp.asarray(x).astype(dtype)
    mixed = functools.partial(jaxpool.mixed_pool, x, **GEOMETRY, count_include_pad=pads)
    top = jaxpool.max_pool(x, **GEOMETRY)
    mean = jaxpool.avg_pool(x, **GEOMETRY, count_include_pad=pads)
    for alpha in (mixed(alpha=1), jax.jit(lambda a: mixed(alpha=a))(1.0)):
        assert_identical(alpha, top.astype(mean.dtype))
    for alpha in (mixed(alpha=0), jax.jit(lambda a: mixed(alpha=a))(0.0)):
        assert_identical(alpha, mean)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_mixed_lies_between_average_and_maximum_at_the_border_too(alpha: float):
    x = jnp.asarray(distinct((2, 7, 6, 3)) - 3, FLOAT)  # below the zeros of padding
    y = jaxpool.mixed_pool(x, **GEOMETRY, alpha=alpha)
    assert (jaxpool.avg_pool(x, **GEOMETRY, count_include_pad=False) <= y + 1e-6).all()
    assert (y <= jaxpool.max_pool(x, **GEOMETRY) + 1e-6).all()


def test_forms_of_alpha():
    x = jnp.asarray(distinct((2, 7, 6, 3)), FLOAT)
    pool = functools.partial(jaxpool.mixed_pool, x, **GEOMETRY)
    top, mean = pool(alpha=1), pool(alpha=0)
    each = jnp.asarray([0, 0.25, 1], FLOAT)
    expected = each[None, None, None] * (top - mean) + mean
    for alpha in (each, np.asarray(each, np.float64), each.reshape(1, 1, 1, 3)):
        assert_equal(pool(alpha=alpha), expected, TOLERANCE)
    assert_equal(jax.jit(lambda a: pool(alpha=a))(each), expected, TOLERANCE)
    stacked = jax.vmap(lambda a: pool(alpha=a))(each)
    assert_equal(stacked[1], 0.25 * top + 0.75 * mean, TOLERANCE)
    first = jaxpool.mixed_pool(
        jnp.moveaxis(x, -1, 1), **GEOMETRY, axis=(2, 3), alpha=each.reshape(3, 1, 1)
    )
    assert_equal(jnp.moveaxis(first, 1, -1), expected, TOLERANCE)


def test_derivatives_by_alpha():
    x, alpha = distinct((2, 3, 2)).astype(FLOAT), np.array([0.25, 0.75], FLOAT)
    check_derivatives(
        jax.jit(lambda x, a: jaxpool.mixed_pool(x, (2,), 1, "SAME", alpha=a)), x, alpha
    )
    slope = jax.jit(jax.grad(lambda a: jaxpool.mixed_pool(x, (2,), alpha=a).sum()))
    for end in (0, 1):  # where a part has no share
        expected = (jaxpool.max_pool(x, (2,)) - jaxpool.avg_pool(x, (2,))).sum()
        assert_equal(slope(FLOAT.type(end)), expected, TOLERANCE)
    nothing = np.zeros(x.shape, bool)
    empty = jax.grad(lambda x, a: jaxpool.mixed_pool(x, (2,), alpha=a, where=nothing).sum(), (0, 1))
    for gradient in empty(x, alpha):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bits_are_mixed_as_32(dtype):
    x = jnp.asarray(random("wide").uniform(0, 2, (1, 32, 32, 1)), dtype)
    y = jaxpool.mixed_pool(x, (32, 32), alpha=0.3)
    wide = x.astype(jnp.float32)
    assert_identical(y, (0.3 * wide.max() + 0.7 * wide.mean()).astype(dtype).reshape(y.shape))
