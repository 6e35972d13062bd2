"""What the textbooks and the manuals print: every number here can be checked by eye.

Cases come from "Dive into Deep Learning" (pooling and LeNet chapters), from PyTorch's documentation
(shapes) and from its rules for ceil_mode, written out by hand. Each goes through the library and
through the oracle, so that the oracle too is held to numbers that nobody computed with it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

import jaxpool

pytestmark = pytest.mark.wide

SMALL = np.arange(9.0).reshape(3, 3)
LARGE = np.arange(16.0).reshape(4, 4)
POOLS = {
    "max": (jaxpool.max_pool, reference.maximum),
    "min": (jaxpool.min_pool, reference.minimum),
    "avg": (jaxpool.avg_pool, reference.mean),
}


def check(kind: str, x, expected, *args, axis=None, **options) -> None:
    """Pool one map, channels last, with the library and with the oracle."""
    pool, reduction = POOLS[kind]
    x = np.asarray(x, np.float32)
    axis = tuple(range(x.ndim)) if axis is None else axis
    actual = pool(jnp.asarray(x), *args, axis=axis, **options)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    oracle = reference.pool(reduction, x, *args, axis=axis, **options)
    np.testing.assert_allclose(oracle.values, expected, rtol=1e-6)


# Values


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("max", [[4, 5], [7, 8]]), ("avg", [[2, 3], [5, 6]]), ("min", [[0, 1], [3, 4]])],
)
def test_a_2x2_window_at_stride_1(kind: str, expected):
    check(kind, SMALL, expected, (2, 2), 1)


@pytest.mark.parametrize(
    ("expected", "window", "strides", "padding"),
    [
        ([[10]], (3, 3), None, "VALID"),
        ([[5, 7], [13, 15]], (3, 3), 2, 1),
        ([[5, 7], [13, 15]], (2, 3), (2, 3), (0, 1)),
        ([[1, 3], [9, 11], [13, 15]], (2, 3), (2, 3), (1, 1)),
    ],
)
def test_max_of_0_to_15(expected, window, strides, padding):
    check("max", LARGE, expected, window, strides, padding)


def test_the_default_stride_is_the_window():
    assert jaxpool.max_pool(LARGE[..., None], (3, 3)).shape == (1, 1, 1)
    assert jaxpool.max_pool(LARGE[..., None], (2, 2)).shape == (2, 2, 1)


def test_channels_are_pooled_apart():
    x = np.stack([LARGE, LARGE + 1], -1)
    expected = np.stack([[[5, 7], [13, 15]], [[6, 8], [14, 16]]], -1)
    check("max", x, expected, (3, 3), 2, 1, axis=(0, 1))
    check("max", np.moveaxis(x, -1, 0), np.moveaxis(expected, -1, 0), (3, 3), 2, 1, axis=(1, 2))
    np.testing.assert_array_equal(jaxpool.max_pool(x, (3, 3), 2, 1), expected)


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
@pytest.mark.parametrize("pool", [*(pool for pool, _ in POOLS.values()), jaxpool.lse_pool])
def test_floats_of_8_bits_are_computed_in_32(pool, dtype):
    narrow = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 3)), dtype)
    for args in (((2, 2),), ((3, 3), 1, "SAME"), ((6, 6),)):
        y, back = jax.vjp(lambda x, args=args: pool(x, *args), narrow)
        expected = pool(narrow.astype(jnp.float32), *args).astype(dtype)
        assert y.dtype == back(y)[0].dtype == dtype
        np.testing.assert_array_equal(y.astype(jnp.float32), expected.astype(jnp.float32))
    # One element of each window, in a dtype that may have no infinity for the other's place.
    where = np.arange(4).reshape(4, 1) % 3 == 0
    y = pool(narrow[0, 0, :4, :1], (2,), where=where)
    expected = narrow[0, 0, :4:3, :1]
    np.testing.assert_array_equal(y.astype(jnp.float32), expected.astype(jnp.float32))
    # No element: the least number, if that is the value.
    y, back = jax.vjp(lambda x: pool(x, (2,), where=np.zeros((4, 1), bool)), narrow[0, 0, :4, :1])
    assert not jnp.isnan(y).any() and not back(jnp.ones_like(y))[0].any()


def test_the_mean_of_ones_is_one_however_many():
    x = jnp.ones((1, 4099, 4097, 1))  # 16,793,603, a number that float32 does not have
    mask = jnp.ones((1, 4099, 4097, 1), bool)
    for y in (jaxpool.global_avg_pool(x), jaxpool.global_avg_pool(x, where=mask)):
        np.testing.assert_allclose(y, 1, rtol=np.finfo(y.dtype).eps)


def test_averages_of_1_to_7():
    check("avg", np.arange(1, 8), [2, 4, 6], (3,), 2)


# ceil_mode, x = 1 .. L


@pytest.mark.parametrize(
    ("length", "window", "stride", "padding", "out"),
    [
        (3, 2, 2, 1, 2),
        (6, 3, 2, 1, 4),
        (8, 3, 4, 1, 3),
        (4, 2, 3, 0, 2),
        (2, 3, 2, 0, 1),  # a window larger than the map
        (1, 2, 2, 0, 1),
        (3, 9, 5, 1, 1),
    ],
)
def test_ceil_mode_sizes(length: int, window: int, stride: int, padding: int, out: int):
    geometry = ((window,), stride, padding)
    assert jaxpool.output_shape((length, 1), *geometry, ceil_mode=True) == (out, 1)
    x = jnp.arange(1.0, length + 1)[:, None]
    assert jaxpool.max_pool(x, *geometry, ceil_mode=True).shape == (out, 1)
    assert len(reference.windows(length, window, stride, (padding, padding), ceil_mode=True)) == out


@pytest.mark.parametrize(
    ("length", "window", "stride", "padding", "counting", "expected"),
    [
        (5, 2, 2, 0, True, [1.5, 3.5, 5]),
        (5, 2, 2, 0, False, [1.5, 3.5, 5]),
        (6, 3, 2, 1, True, [1, 3, 5, 3]),
        (6, 3, 2, 1, False, [1.5, 3, 5, 6]),
        (8, 3, 4, 1, True, [1, 5, 4]),
        (8, 3, 4, 1, False, [1.5, 5, 8]),
        (7, 3, 3, 1, True, [1, 4, 13 / 3]),
        (7, 3, 3, 1, False, [1.5, 4, 6.5]),
        (2, 3, 2, 0, True, [1.5]),
        (3, 9, 5, 1, True, [6 / 5]),
        (3, 9, 5, 1, False, [2]),
    ],
)
def test_ceil_mode_averages(length, window, stride, padding, counting, expected):
    x = np.arange(1, length + 1)
    options = {"ceil_mode": True, "count_include_pad": counting}
    check("avg", x, expected, (window,), stride, padding, **options)


def test_divisor_override_beats_pads_and_overhang():
    expected = np.array([[4, 4, 2], [4, 4, 2], [2, 2, 1]]) / 3
    for counting in (True, False):
        options = {"ceil_mode": True, "divisor_override": 3, "count_include_pad": counting}
        check("avg", np.ones((5, 5)), expected, (2, 2), 2, **options)


# Shapes, torch layout


@pytest.mark.parametrize(
    ("shape", "window", "strides", "axis", "expected"),
    [
        ((20, 16, 50), 3, 2, -1, (20, 16, 24)),
        ((20, 16, 50, 32), 3, 2, (2, 3), (20, 16, 24, 15)),
        ((20, 16, 50, 32), (3, 2), (2, 1), (2, 3), (20, 16, 24, 31)),
    ],
)
def test_shapes_of_the_torch_manual(shape, window, strides, axis, expected):
    assert jaxpool.output_shape(shape, window, strides, axis=axis) == expected
    for pool in (jaxpool.max_pool, jaxpool.min_pool, jaxpool.avg_pool, jaxpool.sum_pool):
        assert pool(jnp.zeros(shape), window, strides, axis=axis).shape == expected


@pytest.mark.parametrize("length", range(1, 12))
@pytest.mark.parametrize("stride", range(1, 5))
def test_same_is_the_size_over_the_stride(length: int, stride: int):
    for window in range(1, 7):
        for padding in ("SAME", "SAME_LOWER", "CIRCULAR", "REFLECT", "EDGE"):
            shape = jaxpool.output_shape((length, 1), (window,), stride, padding)
            assert shape == (-(-length // stride), 1)


def test_the_odd_pad_goes_high_for_same_and_low_for_same_lower():
    x = jnp.arange(1.0, 5)[:, None]  # one pad element in all
    assert jaxpool.sum_pool(x, (2,), 1, "SAME")[:, 0].tolist() == [3, 5, 7, 4]
    assert jaxpool.sum_pool(x, (2,), 1, "SAME_LOWER")[:, 0].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize(
    ("padding", "expected"),
    [("CIRCULAR", [7, 6, 9, 8]), ("REFLECT", [5, 6, 9, 10]), ("EDGE", [4, 6, 9, 11])],
)
def test_maps_that_fill_their_own_border(padding: str, expected):
    x = jnp.arange(1.0, 5)[:, None]
    assert jaxpool.sum_pool(x, (3,), 1, padding)[:, 0].tolist() == expected
    average = jaxpool.avg_pool(x, (3,), 1, padding, count_include_pad=False)
    np.testing.assert_allclose(average[:, 0], np.array(expected) / 3, rtol=1e-6)  # all are real


# Derivatives


def test_the_first_of_equal_maxima_gets_the_gradient():
    x = jnp.asarray([1.0, 2, 2, 2])
    gradient = jax.grad(lambda x: jaxpool.max_pool(x, 4, axis=0).sum())(x)
    assert gradient.tolist() == [0, 1, 0, 0]


# What poolings are


def test_average_pooling_is_a_convolution():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 9, 8, 3)), jnp.float32)
    for (kh, kw), strides, padding in [
        ((2, 2), (2, 2), "VALID"),
        ((3, 2), (2, 1), "SAME"),
        ((3, 3), (1, 2), ((1, 1), (0, 2))),
    ]:
        kernel = jnp.full((kh, kw, 1, 3), 1 / (kh * kw), jnp.float32)
        convolved = jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
            precision="highest",
        )
        pooled = jaxpool.avg_pool(x, (kh, kw), strides, padding)
        np.testing.assert_allclose(pooled, convolved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", ["VALID", "SAME", "CIRCULAR", 1])
def test_min_is_minus_max_of_minus(padding):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, 6, 3)), jnp.float32)
    arguments = ((3, 2), (2, 1), padding)
    expected = -jaxpool.max_pool(-x, *arguments)
    np.testing.assert_array_equal(jaxpool.min_pool(x, *arguments), expected)
    expected = -jaxpool.global_max_pool(-x)
    np.testing.assert_array_equal(jaxpool.global_min_pool(x), expected)


def test_a_pooled_edge_stays_put_when_it_moves_one_pixel():
    def detect(column: int) -> np.ndarray:
        """White up to `column`, then black; the kernel [1, -1] answers 1 at the edge."""
        image = np.broadcast_to(np.arange(9) < column, (6, 9)).astype(np.float32)
        edges = jax.lax.conv_general_dilated(
            image[None, ..., None],
            np.array([1, -1], np.float32).reshape(1, 2, 1, 1),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        assert edges.shape == (1, 6, 8, 1)
        np.testing.assert_array_equal(np.flatnonzero(edges[0, 0, :, 0]), [column - 1])
        return np.asarray(jaxpool.max_pool(edges, (2, 2))[0, ..., 0])

    # The edge's answer lies in column 2, then 3, then 4; pooled columns hold two of them each.
    first, moved, further = (detect(column) for column in (3, 4, 5))
    np.testing.assert_array_equal(first, np.broadcast_to([0, 1, 0, 0], (3, 4)))
    np.testing.assert_array_equal(moved, first)
    np.testing.assert_array_equal(further, np.broadcast_to([0, 0, 1, 0], (3, 4)))


# LeNet


class LeNet(nn.Module):
    """Two convolutions, two poolings, three dense layers; notes the shape after each."""

    @nn.compact
    def __call__(self, x):
        for features in (6, 16):
            x = nn.relu(nn.Conv(features, (5, 5), padding="VALID")(x))
            self.sow("intermediates", "shapes", x.shape)
            x = jaxpool.max_pool(x, (2, 2))
            self.sow("intermediates", "shapes", x.shape)
        x = x.reshape(x.shape[0], -1)
        for features in (120, 84):
            x = nn.relu(nn.Dense(features)(x))
            self.sow("intermediates", "shapes", x.shape)
        return nn.Dense(10)(x)


def test_lenet_has_its_shapes_and_learns():
    net = LeNet()
    x = jax.random.normal(jax.random.key(0), (8, 32, 32, 3), jnp.float32)
    labels = jnp.arange(8) % 10
    variables = net.init(jax.random.key(1), x)
    params = variables["params"]
    assert params["Conv_0"]["kernel"].shape == (5, 5, 3, 6)
    assert params["Conv_1"]["kernel"].shape == (5, 5, 6, 16)
    assert params["Dense_0"]["kernel"].shape == (400, 120)

    logits, state = net.apply({"params": params}, x, mutable="intermediates")
    assert logits.shape == (8, 10)
    assert state["intermediates"]["shapes"] == (
        (8, 28, 28, 6),
        (8, 14, 14, 6),
        (8, 10, 10, 16),
        (8, 5, 5, 16),
        (8, 120),
        (8, 84),
    )

    def loss(params):
        logits = net.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimiser = optax.sgd(0.01)
    before, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    updates, _ = optimiser.update(gradient, optimiser.init(params), params)
    assert loss(optax.apply_updates(params, updates)) < before
