"""Polyphase sampling: what shifts with the map, bit for bit and through whole networks."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export
from test_contract import FLOAT, assert_identical, random

import jaxpool

pool = jaxpool.polyphase_pool
INF = float("inf")


def moved(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every circular shift of a map."""
    return list(itertools.product(*map(range, shape)))


@pytest.mark.optimized
@pytest.mark.parametrize("order", [1, 2, INF])
@pytest.mark.parametrize(
    ("size", "strides"),
    [((12,), 2), ((15,), 5), ((6, 8), 2), ((6, 9), (2, 3)), ((4, 3, 2), (2, 3, 1))],
)
def test_every_shift_gives_the_same_map_moved_bit_for_bit(size, strides, order):
    x = random("polyphase", size).normal(size=(*size, 5)).astype(FLOAT)
    axes = tuple(range(len(size)))
    x = np.stack([np.roll(x, move, axes) for move in moved(size)])
    y = np.asarray(pool(x, strides, order=order))
    copies = {np.roll(y[0], move, axes).tobytes() for move in moved(y.shape[1:-1])}
    assert all(one.tobytes() in copies for one in y)


def test_norms_do_not_depend_on_where_the_map_starts():
    # Two phases whose sums of squares differ by less than float32 sums of them do by their order.
    rng = random("near ties")
    values = rng.normal(size=2048).astype(np.float32)
    x = np.stack([values, rng.permutation(values)], -1).ravel()
    x[1] *= np.float32(1.0001)  # ... by one element
    moves = range(0, 4096, 37)
    x = np.stack([np.roll(x, move) for move in moves])[..., None]
    phase = pool(x, return_phase=True)[1]
    np.testing.assert_array_equal(phase, (phase[0] + np.array(moves)) % 2)
    sums = np.stack([np.cumsum(x[:, p::2, 0] ** 2, 1)[:, -1] for p in (0, 1)], 1)
    assert np.any(sums.argmax(1) != phase)  # what adding one after the other would give


def test_phases_of_64_bits_that_do_not_exist_give_zeros():
    x = jnp.arange(1.0, 7).reshape(1, 6, 1)
    with jax.enable_x64(True):
        for phase in (2**32 + 1, -(2**32), 2**31):
            assert not jaxpool.polyphase_pool(x, 2, phase=jnp.array([phase])).any()
            assert not jaxpool.polyphase_unpool(x, jnp.array([phase])).any()
        np.testing.assert_array_equal(
            jaxpool.polyphase_pool(x, 2, phase=jnp.array([1])).ravel(), [2, 4, 6]
        )


@pytest.mark.parametrize("order", [1, 2, INF])
@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1.0, 1e25, 3e37])
def test_the_choice_does_not_depend_on_the_scale(scale: float, order: float):
    x = random("scale").uniform(-4, 4, (6, 8, 6, 3)).astype(np.float32)
    expected = pool(x, order=order, return_phase=True)[1]
    assert len(set(expected.tolist())) > 1
    actual = pool(x * np.float32(scale), order=order, return_phase=True)[1]
    np.testing.assert_array_equal(actual, expected)
    # ... nor on what else is in the batch.
    x = np.concatenate([x, np.full((1, 8, 6, 3), 3e38, np.float32)])
    np.testing.assert_array_equal(pool(x, order=order, return_phase=True)[1][:-1], expected)


def test_many_elements_and_channels_do_not_overflow():
    x = np.ones((16, 4, 40_000), np.float32)
    x[:, 1::2] = np.linspace(1.001, 1.5, 16).reshape(16, 1, 1)
    assert np.all(pool(x, return_phase=True)[1] == 1)
    x = np.ones((1, 200_000, 1), np.float32)
    x[:, 1::2] = 1.01
    assert pool(x, return_phase=True)[1] == 1


def test_what_is_no_number_counts_as_the_largest():
    x = np.ones((1, 4, 1))
    for special, phase in [
        ([9, 1, 9, np.nan], 1),
        ([np.nan, 1, 9, -np.nan], 0),
        ([np.inf, np.nan, np.inf, 1], 1),
        ([9, -np.inf, 9, 1], 1),
        ([9, -np.inf, np.inf, 1], 0),
        ([0, -1, 0, 1], 1),
        ([0, 0, 0, 0], 0),
    ]:
        x[0, :, 0] = special
        for order in (1, 2, INF):
            assert pool(x.astype(FLOAT), order=order, return_phase=True)[1] == phase


def test_layouts_and_batches_choose_alike():
    x = jnp.asarray(random("layout").normal(size=(2, 3, 6, 8, 5)), FLOAT)  # batch, time, ...
    y, phase = pool(x, (3, 2), return_phase=True)
    assert phase.shape == (2, 3)
    assert phase.dtype == jnp.int32
    for order, axis in [((0, 1, 4, 2, 3), (3, 4)), ((2, 0, 1, 3, 4), (0, 3))]:
        laid = pool(x.transpose(order), (3, 2), axis=axis, return_phase=True)
        assert_identical(laid[0], y.transpose(order))
        assert_identical(laid[1], phase)
    swapped = pool(x, (2, 3), axis=(3, 2), return_phase=True)
    assert_identical(swapped[0], y)
    assert_identical(swapped[1], phase)
    assert_identical(jax.vmap(pool)(x), pool(x, (2, 2)))


def test_branches_can_share_a_phase():
    rng = random("branches")
    x, other = (jnp.asarray(rng.normal(size=(4, 6, 6, c)), FLOAT) for c in (3, 5))
    y, phase = pool(x, return_phase=True)
    assert_identical(pool(x, phase=phase), y)
    z = pool(other, phase=phase)
    for one, own, p in zip(z, other, phase, strict=True):
        assert_identical(one, own[p // 2 :: 2, p % 2 :: 2])
    assert_identical(pool(other, phase=phase.astype(jnp.uint8)), z)
    np.testing.assert_array_equal(pool(x, phase=np.array([4, -1, 99, 2**31 - 1])), 0)


@pytest.mark.parametrize("channels", [1, 16, 24, 32, 64])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("phase", [-1, -2, -(2**31), 2, 255, 256])
def test_a_phase_that_does_not_exist_gives_zeros(dtype: str, channels: int, phase: int):
    x, phase = jnp.ones((2, 6, channels), dtype), jnp.array([phase] * 2)
    assert not jaxpool.polyphase_unpool(x, phase).any()
    y, back = jax.vjp(lambda x: jaxpool.polyphase_pool(x, phase=phase), x)
    assert not y.any() and not back(jnp.ones_like(y))[0].any()


def test_phases_wrap_around_where_the_stride_does_not_divide():
    x = jnp.arange(1, 8, dtype=FLOAT)[None, :, None]
    y = [pool(x, 3, phase=jnp.array([p]))[0, :, 0].tolist() for p in range(3)]
    assert y == [[1, 4, 7], [2, 5, 1], [3, 6, 2]]
    assert pool(x, 9, phase=jnp.array([8])).item() == 2
    # What is taken twice has both gradients.
    gradient = jax.grad(lambda x: pool(x, 9, phase=jnp.array([8])).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, 0], [0, 1, 0, 0, 0, 0, 0])
    gradient = jax.grad(lambda x: pool(x, 4, phase=jnp.array([3])).sum())(x[:, :5])
    np.testing.assert_array_equal(gradient[0, :, 0], [0, 0, 1, 1, 0])
    assert_identical(pool(x[:, :6], 3, strict=True), pool(x[:, :6], 3))


# The way back


@pytest.mark.parametrize("strides", [2, (2, 3), (1, 4)])
def test_what_was_taken_goes_back_to_where_it_was(strides):
    x = jnp.asarray(random("back").normal(size=(3, 6, 12, 2)), FLOAT)
    y, phase = pool(x, strides, return_phase=True)
    back = jaxpool.polyphase_unpool(y, phase, strides)
    gradient = jax.vjp(functools.partial(pool, strides=strides), x)[1](y)[0]
    assert_identical(back, gradient)
    assert_identical(pool(back, strides, phase=phase), y)
    assert (back != 0).sum() == y.size
    np.testing.assert_array_equal(back[back != 0], x[back != 0])
    # Taking is the derivative of putting back.
    unpool = functools.partial(jaxpool.polyphase_unpool, phase=phase, strides=strides)
    assert_identical(jax.vjp(unpool, y)[1](x)[0], y)
    assert_identical(jax.jvp(unpool, (y,), (y,))[1], back)
    each = jax.vmap(functools.partial(jaxpool.polyphase_unpool, strides=strides))
    assert_identical(each(y[:, None], phase[:, None])[:, 0], back)


def test_what_was_wrapped_around_is_left_out():
    x = jnp.arange(1, 8, dtype=FLOAT)[None, :, None]
    for p, expected in [(0, [1, 0, 0, 4, 0, 0, 7]), (2, [0, 0, 3, 0, 0, 6, 0])]:
        phase = jnp.array([p])
        y = pool(x, 3, phase=phase)
        back = jaxpool.polyphase_unpool(y, phase, 3, output_shape=7)
        assert back[0, :, 0].tolist() == expected
        assert jaxpool.polyphase_unpool(y, phase, 3).shape == (1, 9, 1)
        unpool = functools.partial(jaxpool.polyphase_unpool, phase=phase, strides=3, output_shape=7)
        gradient = jax.vjp(unpool, y)[1](x)[0]
        assert gradient[0, :, 0].tolist() == ([1, 4, 7] if p == 0 else [3, 6, 0])
    np.testing.assert_array_equal(jaxpool.polyphase_unpool(y, jnp.array([3]), 3), 0)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_every_platform_has_a_lowering(platform: str):
    def both(x):
        y, back, phase = jax.vjp(functools.partial(pool, return_phase=True), x, has_aux=True)
        return back(jaxpool.polyphase_unpool(y, phase)[:, ::2, ::2])

    x = jax.ShapeDtypeStruct((2, 12, 12, 3), jnp.float32)
    assert export.export(jax.jit(both), platforms=[platform])(x).mlir_module()


# Whole networks


def logits(params: list, x: jax.Array, strides: int, most: bool) -> jax.Array:
    """Circular convolutions 3x3, ReLU and polyphase sampling, a global average and a dense layer;
    `most`: a maximum before."""
    *kernels, dense = params
    for kernel in kernels:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=dims)
        x = jax.nn.relu(x)
        if most:
            x = jaxpool.max_pool(x, (2, 2), 1, "CIRCULAR")
        x = pool(x, strides, strict=True)
    return jaxpool.global_avg_pool(x) @ dense


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("size", "strides", "most"), [(16, 2, False), (16, 2, True), (18, 3, False)]
)
def test_a_network_gives_one_answer_at_every_shift(size: int, strides: int, most: bool):
    widths = {2: [1, 6, 6, 6], 3: [1, 6, 6]}[strides]
    rng = random("network", strides)
    shapes = [(3, 3, *pair) for pair in itertools.pairwise(widths)]
    params = [rng.normal(size=s) / np.sqrt(np.prod(s[:3])) for s in [*shapes, (widths[-1], 4)]]
    params = [jnp.asarray(p, jnp.float32) for p in params]
    x = jnp.asarray(rng.normal(size=(8, size, size, 1)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 4, 8))
    net = functools.partial(logits, strides=strides, most=most)
    moves = jnp.array(moved((strides ** len(shapes),) * 2))

    @jax.jit
    def answers(params, move):
        return net(params, jnp.roll(x, move, (1, 2)))

    def error(params):
        y = np.stack([answers(params, move) for move in moves])
        return np.abs(y - y[0]).max()

    @jax.jit
    def step(params):
        def loss(params):
            y = net(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

        value, slopes = jax.value_and_grad(loss)(params)
        return [p - 0.3 * s for p, s in zip(params, slopes, strict=True)], value

    assert error(params) <= 1e-4
    losses = []
    for _ in range(5):
        params, loss = step(params)
        losses.append(loss)
    assert losses[-1] < losses[0]
    assert error(params) <= 1e-4
