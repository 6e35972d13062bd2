"""Blurs: the filter's frequencies and gain, exact shifts, and what runs for them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from test_contract import FLOAT, assert_equal, assert_identical, distinct, random

import jaxpool

FILTERS = range(1, 8)
GAIN_1 = ["REFLECT", "CIRCULAR", "EDGE", "NORMALIZED", "VALID"]
blur = functools.partial(jaxpool.blur_pool, padding="CIRCULAR")


@pytest.mark.parametrize("size", FILTERS)
def test_the_frequency_response_is_a_power_of_a_cosine(size: int):
    n = np.arange(12)
    w = 2 * np.pi * n / 12
    waves = jnp.asarray(np.exp(1j * np.outer(n, w)), jnp.complex64)  # one per column
    y = blur(waves, 1, filter_size=size, axis=0)
    response = np.abs(np.cos(w / 2)) ** (size - 1)
    np.testing.assert_allclose(np.abs(y), np.tile(response, (12, 1)), atol=1e-6)
    # And along two axes it is the product.
    both = jnp.einsum("ai,bj->abij", waves, waves[:, :7])
    y = jax.jit(functools.partial(blur, strides=1, filter_size=size, axis=(0, 1)))(both)
    expected = np.tile(np.outer(response, response[:7]), (12, 12, 1, 1))
    np.testing.assert_allclose(np.abs(y), expected, atol=1e-6)


@pytest.mark.parametrize("padding", GAIN_1)
@pytest.mark.parametrize("size", [2, 3, (4, 7)])
def test_a_constant_stays_as_it_is(size, padding: str):
    x = jnp.full((1, 9, 8, 2), 0.7, FLOAT)
    y = jaxpool.blur_pool(x, filter_size=size, padding=padding)
    np.testing.assert_allclose(y, np.full(y.shape, 0.7), 1e-6)


@pytest.mark.parametrize("padding", GAIN_1[:-1])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (1, 2, 1, 2), (1, 1, 3, 2)])
def test_a_constant_stays_on_maps_smaller_than_the_filter(shape, padding: str):
    x = jnp.full(shape, 0.7, FLOAT)
    np.testing.assert_allclose(jaxpool.blur_pool(x, 1, filter_size=7, padding=padding), x, 1e-6)


def test_zeros_outside_darken_the_border():
    y = jaxpool.blur_pool(jnp.ones((4, 1)), (1,), padding="SAME")
    np.testing.assert_array_equal(y[:, 0], [0.75, 1, 1, 0.75])


@pytest.mark.parametrize("padding", [*GAIN_1, "SAME", "SAME_LOWER", 3])
def test_strides_keep_every_sth_element(padding):
    x = jnp.asarray(distinct((1, 9, 8, 2)), FLOAT)
    every = jaxpool.blur_pool(x, 1, filter_size=(4, 3), padding=padding)
    for s in (2, 3, 11):
        y = jaxpool.blur_pool(x, s, filter_size=(4, 3), padding=padding)
        assert_identical(y, every[:, ::s, ::s])
        like = "SAME" if padding == "NORMALIZED" else padding
        assert y.shape == jaxpool.output_shape(x.shape, (4, 3), s, like)


def test_a_filter_of_one_only_takes_elements():
    x = jnp.asarray(distinct((2, 7, 6, 3)), FLOAT)
    for padding in ("REFLECT", "VALID", "NORMALIZED", "SAME"):
        y = jaxpool.blur_pool(x, (2, 3), filter_size=1, padding=padding)
        assert_identical(y, x[:, ::2, ::3])


@pytest.mark.parametrize("padding", ["REFLECT", "SAME", "VALID"])
def test_a_filter_of_two_with_stride_two_is_an_average(padding: str):
    x = jnp.asarray(random("average").normal(size=(2, 8, 6, 3)), FLOAT)
    y = jaxpool.blur_pool(x, filter_size=2, padding=padding)
    assert_equal(y, jaxpool.avg_pool(x, (2, 2)), 1e-6)
    ramp = jnp.asarray(np.arange(8.0)[:, None], FLOAT)  # which no rounding spoils
    y = jaxpool.blur_pool(ramp, (2,), filter_size=2, padding=padding)
    assert_identical(y, jaxpool.avg_pool(ramp, (2,)))


def test_an_even_filter_reaches_further_ahead():
    x = jnp.asarray([0.0, 0, 8, 0, 0])[:, None]
    y = [jaxpool.blur_pool(x, (1,), filter_size=4, padding=p) for p in ("SAME", "SAME_LOWER")]
    np.testing.assert_array_equal(y[0][:, 0], [1, 3, 3, 1, 0])
    np.testing.assert_array_equal(y[1][:, 0], [0, 1, 3, 3, 1])


def test_two_blurs_are_one_of_a_wider_filter():
    x = jnp.asarray(distinct((1, 8, 8, 2)), FLOAT)
    for a, b in ((3, 3), (3, 5), (5, 3)):
        y = blur(blur(x, 1, filter_size=a), filter_size=b)
        assert_equal(y, blur(x, filter_size=a + b - 1), 1e-6)


@pytest.mark.parametrize("padding", ["CIRCULAR", "REFLECT", "EDGE"])
def test_the_border_is_what_numpy_pads(padding: str):
    mode = {"CIRCULAR": "wrap", "REFLECT": "reflect", "EDGE": "edge"}[padding]
    x = np.asarray(distinct((1, 4, 9, 2)), FLOAT)
    padded = jnp.asarray(np.pad(x, [(0, 0), (2, 3), (2, 2), (0, 0)], mode=mode))
    size = (6, 5)
    y = jaxpool.blur_pool(jnp.asarray(x), 2, filter_size=size, padding=padding)
    assert_equal(y, jaxpool.blur_pool(padded, 2, filter_size=size, padding="VALID"), 1e-6)


# Shifts


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("size", "strides"), [(2, 1), (3, 2), (4, (4, 3)), (5, 2), (6, 1), (7, (4, 3))]
)
@pytest.mark.parametrize("window", [None, (2, 3)])
def test_circular_blurs_shift_with_the_map_bit_for_bit(window, size: int, strides):
    step = (strides, strides) if isinstance(strides, int) else strides
    x = jnp.asarray(random("shift").normal(size=(2, 8, 12, 3)), FLOAT)
    pool = jaxpool.blur_pool if window is None else jaxpool.max_blur_pool
    of = {} if window is None else {"window_shape": window}
    pool = functools.partial(
        pool, **of, strides=strides, filter_size=size, padding="CIRCULAR", axis=(1, 2)
    )
    pool = jax.jit(pool)
    y = pool(x)
    for moves in [(1, 0), (0, 1), (1, 2), (-1, 1)]:
        shifted = jnp.roll(x, [m * s for m, s in zip(moves, step, strict=True)], (1, 2))
        assert_identical(pool(shifted), jnp.roll(y, moves, (1, 2)))


# A maximum before


@pytest.mark.parametrize("padding", [*GAIN_1, "SAME", 1])
def test_a_maximum_of_single_elements_is_none(padding):
    x = jnp.asarray(distinct((2, 7, 6, 3)), FLOAT)
    y = jaxpool.max_blur_pool(x, (1, 1), (2, 3), filter_size=(4, 3), padding=padding)
    assert_identical(y, jaxpool.blur_pool(x, (2, 3), filter_size=(4, 3), padding=padding))


@pytest.mark.parametrize("padding", ["EDGE", "CIRCULAR", "VALID", "SAME", "SAME_LOWER"])
def test_the_windows_of_the_maximum_are_padded_as_the_blur(padding: str):
    x = jnp.asarray(distinct((2, 7, 6, 3)), FLOAT)
    largest = jaxpool.max_pool(x, (3, 2), 1, padding)
    y = jaxpool.max_blur_pool(x, (3, 2), padding=padding)
    assert_identical(y, jaxpool.blur_pool(largest, padding=padding))


@pytest.mark.parametrize("padding", ["REFLECT", "NORMALIZED", 1])
def test_other_paddings_are_the_blur_s_alone(padding):
    x = jnp.asarray(distinct((2, 7, 6, 3)), FLOAT)
    largest = jaxpool.max_pool(x, (3, 2), 1, "SAME")
    y = jaxpool.max_blur_pool(x, (3, 2), padding=padding)
    assert_identical(y, jaxpool.blur_pool(largest, padding=padding))


# NaN


@pytest.mark.optimized
@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (1, 64, 64, 1), (1, 250, 20, 20)])
@pytest.mark.parametrize("size", [3, 6])
def test_nan_is_seen_by_exactly_its_windows(shape, size: int):
    # Weights are positive: the blur of a flag is above 0 where the flag is seen.
    flags = (random("nan", shape).random(shape) < 0.02).astype(np.float32)
    flags[0, -1, -1, -1] = 1
    x = jnp.asarray(np.where(flags, np.nan, 1), jnp.float32)
    for pool in (jaxpool.blur_pool, functools.partial(jaxpool.max_blur_pool, window_shape=(2, 2))):
        f = functools.partial(pool, filter_size=size)
        expected = f(jnp.asarray(flags)) > 0
        assert not expected.all()
        np.testing.assert_array_equal(np.isnan(f(x)), expected)
        np.testing.assert_array_equal(np.isnan(jax.jit(f)(x)), expected)


# How it runs

MAP = jax.ShapeDtypeStruct((2, 48, 48, 64), jnp.float32)
each_pool = pytest.mark.parametrize(
    "pool",
    [jaxpool.blur_pool, functools.partial(jaxpool.max_blur_pool, window_shape=(2, 2))],
    ids=["blur", "max_blur"],
)


def both(pool, **options):
    """The value and the gradient that one cotangent gives."""

    @jax.jit
    def run(x, g):
        y, back = jax.vjp(functools.partial(pool, **options), x)
        return y, back(g)[0]

    return run


@each_pool
def test_only_winners_are_kept(pool):
    back = jax.eval_shape(lambda x: jax.vjp(pool, x)[1], MAP)
    kept = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(back))
    assert kept <= (0 if pool is jaxpool.blur_pool else MAP.size)  # bytes


@pytest.mark.optimized
@each_pool
@pytest.mark.parametrize(("size", "most"), [(3, 0.3), (5, 0.6)])
def test_little_memory_is_used_on_the_way(pool, size: int, most: float, memory_of):
    x = jnp.zeros(MAP.shape)
    run = both(pool, filter_size=size)
    memory = memory_of(run.lower(x, x[:, ::2, ::2]))
    most += 0 if pool is jaxpool.blur_pool else 1.25  # the largest elements, and their winners
    assert memory.temp_size_in_bytes <= most * x.nbytes


@pytest.mark.optimized
def test_bfloat16_is_not_copied_as_float32(memory_of):
    x = jnp.zeros(MAP.shape, jnp.bfloat16)
    memory = memory_of(jax.jit(jaxpool.blur_pool).lower(x))
    assert memory.temp_size_in_bytes <= 1.5 * x.nbytes


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("padding", ["REFLECT", "NORMALIZED"])
def test_16_bits_are_rounded_once(padding: str, dtype):
    x = jnp.asarray(random("16 bits").normal(size=(2, 12, 12, 20)), dtype)
    run = both(jaxpool.blur_pool, filter_size=(4, 5), padding=padding)
    g = x[:, ::2, 6:]
    in_float32 = run(x.astype(jnp.float32), g.astype(jnp.float32))
    for found, expected in zip(run(x, g), in_float32, strict=True):
        assert_identical(found, expected.astype(dtype))


@each_pool
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("padding", ["REFLECT", "NORMALIZED"])
def test_every_platform_has_a_lowering(pool, padding: str, platform: str):
    run = both(pool, filter_size=5, padding=padding)
    args = [jax.ShapeDtypeStruct((2, n, n, 3), jnp.float32) for n in (12, 6)]
    text = export.export(run, platforms=[platform])(*args).mlir_module()
    assert "scatter" not in text and "convolution" not in text


@pytest.mark.parametrize("padding", ["REFLECT", "CIRCULAR", "NORMALIZED", "SAME"])
def test_a_tangent_is_blurred_like_x(padding: str):
    x, t = jnp.asarray(distinct((2, 7, 6, 3)), FLOAT), jnp.ones((2, 7, 6, 3), FLOAT)
    f = functools.partial(jaxpool.blur_pool, filter_size=(4, 5), padding=padding)
    assert_identical(jax.jvp(f, (x,), (t,))[1], f(t))


def test_words_are_read_in_any_case():
    x = jnp.asarray(distinct((1, 5, 4, 1)), FLOAT)
    for word, how in itertools.product(["NORMALIZED", "REFLECT"], [str.lower, str.title]):
        for pool in (blur, functools.partial(jaxpool.max_blur_pool, window_shape=(2, 2))):
            assert_identical(pool(x, padding=how(word)), pool(x, padding=word))
