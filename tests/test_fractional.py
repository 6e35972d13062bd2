"""Fractional windows: where they lie, for each sequence, key and platform; and the pyramid."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from test_contract import FLOAT, assert_equal, assert_identical, distinct, random

import jaxpool

SEQUENCES = ["pseudorandom", "random"]


def starts(key, length: int, window: int, out: int, **options) -> np.ndarray:
    """Where the windows start: what each one's smallest negative position is."""
    x = -jnp.arange(length, dtype=jnp.int32)
    y = jaxpool.fractional_max_pool(key, x, window, output_shape=out, axis=0, **options)
    return -np.asarray(y)


def test_the_textbook_windows():
    x = jnp.arange(25.0).reshape(5, 5)
    y = jaxpool.fractional_max_pool(
        None, x, 2, output_shape=(3, 3), axis=(0, 1), samples=np.array([0.5, 0.5])
    )
    np.testing.assert_array_equal(y, [[6, 8, 9], [16, 18, 19], [21, 23, 24]])


@pytest.mark.parametrize(
    ("length", "window", "out"), [(25, 2, 17), (40, 3, 9), (300, 4, 150), (7, 7, 1), (9, 1, 9)]
)
def test_pseudorandom_windows_are_those_of_the_paper(length: int, window: int, out: int):
    @jax.jit
    def find(u):
        x = -jnp.arange(length, dtype=jnp.int32)
        return -jaxpool.fractional_max_pool(
            None, x, window, output_shape=out, axis=0, samples=u[None]
        )

    for numerator in (0, 1, 511, 512, 513, 1023):
        u = Fraction(numerator, 1024)
        expected = reference.fraction_starts(length, window, out, u)
        np.testing.assert_array_equal(find(jnp.asarray(float(u), FLOAT)), expected)
        assert expected[-1] == length - window


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_windows_run_from_end_to_end_with_two_steps(sequence: str):
    @jax.vmap
    def draw(key):
        x = -jnp.arange(40, dtype=jnp.int32)
        return -jaxpool.fractional_max_pool(key, x, 2, output_shape=27, axis=0, sequence=sequence)

    found = np.asarray(draw(jax.random.split(jax.random.key(0), 50)))
    assert (found[:, 0] == 0).all()
    assert (found[:, -1] == 38).all()
    steps = np.diff(found)
    assert set(steps.ravel().tolist()) == {1, 2}
    ones = (steps == 1).sum(1)
    assert (ones == 26 * 2 - 38).all()  # so many of each, in any order
    assert len(np.unique(found, axis=0)) > (45 if sequence == "random" else 10)


def test_one_key_is_one_set_of_windows_for_ever():
    # Pinned: not to change between versions or platforms.
    key = jax.random.key(0)
    one = starts(key, 20, 2, 13)
    other = starts(key, 20, 2, 13, sequence="random")
    np.testing.assert_array_equal(one, PINNED["pseudorandom"])
    np.testing.assert_array_equal(other, PINNED["random"])
    old = jax.random.PRNGKey(0)
    np.testing.assert_array_equal(starts(old, 20, 2, 13), one)


PINNED = {
    "pseudorandom": [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18],
    "random": [0, 1, 3, 4, 6, 7, 9, 11, 12, 13, 15, 17, 18],
}


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_transformations_keep_the_windows(sequence: str, overlapping: bool):
    pool = functools.partial(
        jaxpool.fractional_max_pool,
        window_shape=(3, 2),
        output_ratio=0.6,
        sequence=sequence,
        overlapping=overlapping,
    )
    keys = jax.random.split(jax.random.key(1), 3)
    x = jnp.asarray(distinct((3, 11, 8, 2)), FLOAT)
    cotangent = random("fraction").normal(size=(3, 6, 4, 2)).astype(FLOAT)

    def both(key, x, cotangent):
        y, back = jax.vjp(lambda x: pool(key, x), x)
        return y, back(cotangent)[0]

    run = jax.jit(both)
    expected = [run(*each) for each in zip(keys, x, cotangent, strict=True)]
    found = jax.jit(jax.vmap(both))(keys, x, cotangent)
    for i, (y, gradient) in enumerate(expected):
        assert_identical(found[0][i], y)
        assert_equal(found[1][i], gradient, 1e-6)
        assert_identical(pool(keys[i], x[i]), y)
    # One key for all examples is one set of windows for all, wherever the axes are.
    y = pool(keys[0], x)
    assert_identical(y[0], expected[0][0])
    first = pool(keys[0], jnp.moveaxis(x, -1, 1), axis=(2, 3))
    assert_identical(first, jnp.moveaxis(y, -1, 1))
    swapped = pool(keys[0], x, axis=(2, 1), window_shape=(3, 2))
    assert swapped.shape == y.shape


def test_disjoint_windows_share_no_element():
    key = jax.random.key(2)
    x = jnp.arange(20.0)
    pool = functools.partial(jaxpool.fractional_max_pool, key, output_shape=13, axis=0)
    lowest = -pool(-x, 2, overlapping=False)
    highest = pool(x, 2, overlapping=False)
    np.testing.assert_array_equal(lowest[1:], highest[:-1] + 1)  # none is left out either
    assert (lowest[0], highest[-1]) == (0, 19)
    ones = jax.grad(lambda x: pool(x, 2, overlapping=False).sum())(x)
    assert set(ones.tolist()) == {0.0, 1.0}


def test_ratios_give_pytorchs_sizes():
    key = jax.random.key(0)
    for length, ratio in [(32, 0.7), (25, 0.75), (13, 0.5), (10, 0.05)]:
        y = jaxpool.fractional_max_pool(key, jnp.zeros(length), 1, output_ratio=ratio, axis=0)
        assert len(y) == max(int(length * ratio), 1)
    x = jnp.zeros((16, 12, 3))
    y = jaxpool.fractional_max_pool(key, x, (2, 3), output_ratio=(0.5, 0.75))
    assert y.shape == (8, 9, 3)


# The pyramid


@pytest.mark.parametrize("pool", ["max", "min", "avg", "sum", "lse", "softmax", "lp"])
def test_a_pyramid_is_adaptive_pools_in_a_row(pool: str):
    x = jnp.asarray(distinct((2, 5, 6, 3)), FLOAT)
    where = random("pyramid").random(x.shape) < 0.7
    adaptive = functools.partial(getattr(jaxpool, f"adaptive_{pool}_pool"), where=where)
    parts = [adaptive(x, level).reshape(2, -1) for level in [(1, 1), (2, 3), (4, 4)]]
    levels = (1, (2, 3), 4)
    y = jaxpool.spatial_pyramid_pool(x, levels, pool=pool, where=where)
    assert_identical(y, jnp.concatenate(parts, -1))
    assert y.shape == jaxpool.pyramid_output_shape(x.shape, levels)


def test_a_pyramid_has_one_length_and_any_layout():
    for shape in [(2, 4, 4, 3), (2, 13, 10, 3)]:
        x = jnp.asarray(distinct(shape), FLOAT)
        y = jaxpool.spatial_pyramid_pool(x)
        assert y.shape == (2, 21 * 3)
        first = jnp.moveaxis(x, -1, 1)
        assert_identical(jaxpool.spatial_pyramid_pool(first, axis=(3, 2)), y)
        assert_identical(jax.vmap(jaxpool.spatial_pyramid_pool, (0,))(x[:, None])[:, 0], y)
    video = jnp.zeros((2, 5, 6, 7, 3))
    assert jaxpool.spatial_pyramid_pool(video, (1, 2)).shape == (2, 9 * 3)
    assert jaxpool.spatial_pyramid_pool(video, (1, 2), axis=(2, 3)).shape == (2, 5, 5 * 3)
    assert jaxpool.spatial_pyramid_pool(jnp.arange(6.0), (1, 2), axis=0).tolist() == [5, 2, 5]
