"""What a geometry promises besides the contract: bins, positions and the way back."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import export
from test_contract import FLOAT, assert_equal, assert_identical, check_derivatives, pullback, random

import jaxpool
from jaxpool._geometry import adaptive
from jaxpool._window import Bins, Window, Woven

# Large windows


@pytest.mark.parametrize("size", [16, 17, 48, 67, 127, 134, 1021])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (3, 2), (15, 1)])
@pytest.mark.parametrize("most", [7, 64])
def test_a_window_is_the_chain_of_its_digits(size: int, stride: int, dilation: int, most: int):
    # Sums of integers by the regions of every pass; how often each element is seen, by its sources.
    for length, low in ((200, 0), (200, size - 1), (5, size // 2), (1, size - 1)):
        extent = dilation * (size - 1) + 1
        out = max(length + 2 * low - extent, 0) // stride + 1
        window = Window(-1, length, size, stride, dilation, low, low, out)
        x = np.random.default_rng(size).integers(1, 100, length)
        starts = np.arange(out) * stride - low
        seen = [[p for p in range(a, a + extent, dilation) if 0 <= p < length] for a in starts]
        chain, sums = window.digits(most, 16), x
        for part in chain:
            assert part.length == len(sums)
            assert part.size <= max(most, 17)
            now = np.zeros(part.out, int)
            for start, stop, taps in part.regions():
                for _, first in taps:
                    at = first + np.arange(stop - start) * part.stride
                    now[start:stop] += sums[at]
            sums = now
        np.testing.assert_array_equal(sums, [x[s].sum() for s in seen])
        for complete in (False, True):
            times = np.ones(out, int)
            for part in reversed(chain):
                times = how_often(part, times, complete)
            np.testing.assert_array_equal(times, [sum(p in s for s in seen) for p in range(length)])


def how_often(window: Window, times: np.ndarray, complete: bool) -> np.ndarray:
    """How often elements are seen by windows that are seen so often; `complete`: as if all windows
    existed that one could look for, which makes one region of each part of the map."""
    length = window.length
    if complete:
        parts = np.split(times, np.cumsum([n for n, _, _ in window.beyond()])[:-1])
        around = [around for _, *around in window.beyond()]
        times = np.concatenate([np.pad(*each) for each in zip(parts, around, strict=True)])
        window = window.complete()
        assert window.out == len(times)
        assert {around for _, *around in window.beyond() if any(around)} == set()
    now = np.zeros(window.phase_length * window.stride, int)
    for phase in range(window.stride):
        regions = window.sources(phase)
        if complete:
            assert len(regions) <= (len(window.ins) if isinstance(window, Woven) else 1)
        for start, stop, taps in regions:
            for _, first in taps:
                assert first >= 0
                at = phase + np.arange(start, stop) * window.stride
                now[at] += times[first : first + stop - start]
    return now[:length]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("low", [0, 2, -3])
def test_the_elements_in_a_window(size: int, stride: int, dilation: int, low: int):
    for length in (1, 4, 30):
        for out in (1, 3, 30):
            window = Window(-1, length, size, stride, dilation, low, 0, out)
            reached = {i * stride - low + j * dilation for i in range(out) for j in range(size)}
            assert set(np.flatnonzero(window.seen())) == reached & set(range(length))


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (3, 2), (7, 1)])
@pytest.mark.parametrize("most", [4, 16])
def test_a_maximum_takes_the_fewest_passes(stride: int, dilation: int, most: int):
    x = np.random.default_rng(0).permutation(400)
    fewest = {8: 2, 9: 2, 10: 2, 11: 3, 16: 2, 17: 3, 40: 3, 97: 4, 256: 4, 263: 5}
    for size, n in fewest.items():
        low = size // 2
        extent = dilation * (size - 1) + 1
        out = (len(x) + 2 * low - extent) // stride + 1
        window = Window(-1, len(x), size, stride, dilation, low, low, out)
        passes = window.passes(7, most)
        if most == 4 and np.gcd(size, stride) == 1:
            assert len(passes) == n
        top = x
        for part in (p.windows[0] for p in passes):
            assert part.length == len(top)
            assert part.size <= most
            now = np.full(part.out, -1)
            for start, stop, taps in part.regions():
                for _, first in taps:
                    at = first + np.arange(stop - start) * part.stride
                    now[start:stop] = np.maximum(now[start:stop], top[at])
            top = now
        starts = np.arange(out) * stride - low
        seen = [[p for p in range(a, a + extent, dilation) if 0 <= p < len(x)] for a in starts]
        np.testing.assert_array_equal(top, [x[s].max() for s in seen])


# Adaptive bins


@pytest.mark.parametrize(
    ("length", "out", "top", "mean"),
    [
        (10, 4, [2, 4, 7, 9], [1, 3, 6, 8]),
        (14, 7, [1, 3, 5, 7, 9, 11, 13], [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5]),
        (13, 7, [1, 3, 5, 7, 9, 11, 12], [0.5, 2, 4, 6, 8, 10, 11.5]),
        (224, 7, range(31, 224, 32), np.arange(7) * 32 + 15.5),
        (3, 5, [0, 1, 1, 2, 2], [0, 0.5, 1, 1.5, 2]),
        (6, 1, [5], [2.5]),
    ],
)
def test_bins_by_hand(length: int, out: int, top, mean):
    x = jnp.arange(length, dtype=FLOAT)
    np.testing.assert_array_equal(jaxpool.adaptive_max_pool(x, out, axis=0), list(top))
    np.testing.assert_allclose(jaxpool.adaptive_avg_pool(x, out, axis=0), mean)


def test_none_keeps_an_axis():
    # 9 -> 7: [0, 2), [1, 3), [2, 4), [3, 6), [5, 7), [6, 8), [7, 9)
    x = jnp.arange(90.0).reshape(10, 9)
    mean = [0.5, 1.5, 2.5, 4, 5.5, 6.5, 7.5] + 9 * np.arange(10)[:, None]
    np.testing.assert_allclose(jaxpool.adaptive_avg_pool(x, (None, 7), axis=(0, 1)), mean)
    np.testing.assert_array_equal(jaxpool.adaptive_max_pool(x, (None, None), axis=(0, 1)), x)
    # Positions count along the axis that was kept, too.
    _, indices = jaxpool.adaptive_max_pool_with_indices(x, (None, 1), axis=(0, 1))
    np.testing.assert_array_equal(indices[:, 0], np.arange(10) * 9 + 8)


@pytest.mark.parametrize(
    ("shape", "out", "axis", "expected"),
    [
        ((1, 64, 8), 5, -1, (1, 64, 5)),
        ((1, 64, 8, 9), (5, 7), (-2, -1), (1, 64, 5, 7)),
        ((1, 64, 10, 9), 7, (-2, -1), (1, 64, 7, 7)),
        ((1, 64, 10, 9), (None, 7), (-2, -1), (1, 64, 10, 7)),
        ((2, 5, 6, 7, 3), (9, 1, 2), None, (2, 9, 1, 2, 3)),
    ],
)
def test_shapes_of_adaptive_pools(shape, out, axis, expected):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    pool = functools.partial(jaxpool.adaptive_softmax_pool, output_shape=out, axis=axis)
    assert jax.eval_shape(pool, x).shape == expected


def test_as_many_bins_as_elements_are_the_identity():
    x = random("identity").normal(size=256).astype(FLOAT)
    pools = [getattr(jaxpool, f"adaptive_{name}_pool") for name in ("max", "avg")]

    @jax.jit
    def every_length(x):
        return [[pool(x[:n], n, axis=0) for pool in pools] for n in range(1, 257)]

    for n, same in enumerate(every_length(x), 1):
        for y in same:
            assert_identical(y, x[:n])
    for length in (1, 7, 256):
        for pool in (jaxpool.adaptive_lse_pool, jaxpool.adaptive_softmax_pool):
            assert_equal(pool(x[:length], length, axis=0), x[:length], 1e-6)


def test_bins_are_those_of_the_definition():
    for length in range(1, 41):
        for out in range(1, 51):
            (found,) = adaptive("test", (length,), out, 0)
            if isinstance(found, Window):
                assert length == out * found.size == out * found.stride
                continue
            assert isinstance(found, Bins)
            seen = [list(range(a, b)) for a, b in zip(found.starts, found.stops, strict=True)]
            assert seen == reference.bins(length, out)
            back = found.transposed()
            seers = [[i for i in range(out) if p in seen[i]] for p in range(length)]
            assert seers == [
                list(range(a, b)) for a, b in zip(back.starts, back.stops, strict=True)
            ]
            assert back.transposed() == found


@pytest.mark.parametrize(
    ("length", "out", "most"), [(112, 5, 16), (40, 3, 4), (37, 2, 16), (7, 3, 9)]
)
def test_large_bins_are_parts_of_few_elements(length: int, out: int, most: int):
    (bins,) = adaptive("adaptive_max_pool", (length, 1), (out,), None)
    assert isinstance(bins, Bins)
    parts = bins.split(most)
    assert (parts is None) == (bins.size <= most)
    if parts:
        few, window = parts
        assert few.size <= most and min(few.count()) > 0 and window.out == out
        assert few.starts[:: window.size] == bins.starts
        assert few.stops[window.size - 1 :: window.size] == bins.stops
        inner = [i for i in range(few.out) if i % window.size]
        assert [few.starts[i] for i in inner] == [few.stops[i - 1] for i in inner]


def test_bins_that_a_window_can_be_are_windows():
    x = jnp.ones((2, 224, 224, 3))
    same = jax.jit(lambda x: jaxpool.max_pool(x, (32, 32))).lower(x).as_text()
    text = jax.jit(lambda x: jaxpool.adaptive_max_pool(x, (7, 7))).lower(x).as_text()
    assert "gather" not in text
    assert text.count("\n") == same.count("\n")


@pytest.mark.parametrize("shape", [(224, 224, 13, 13), (37, 53, 29, 31), (300, 7, 1, 300)])
@pytest.mark.parametrize("name", ["max", "avg", "lse"])
def test_programs_are_short_and_scatter_nothing(name: str, shape):
    height, width, *out = shape
    pool = functools.partial(getattr(jaxpool, f"adaptive_{name}_pool"), output_shape=out)
    x = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    text = jax.jit(jax.grad(lambda x: pool(x).sum())).lower(x).as_text()
    assert "gather" in text
    assert "scatter" not in text
    assert text.count("\n") < 2500


@pytest.mark.parametrize("name", ["max", "avg", "lse", "softmax"])
def test_second_derivatives_scatter_nothing(name: str):
    pool = getattr(jaxpool, f"adaptive_{name}_pool")
    slope = jax.grad(lambda x: jnp.sum(pool(x, (3, 2)) ** 2))
    x = jax.ShapeDtypeStruct((1, 4, 40, 1), jnp.float32)  # few elements, and many
    text = jax.jit(jax.grad(lambda x: jnp.sum(slope(x) ** 2))).lower(x).as_text()
    assert "scatter" not in text


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("name", "most"), [("max", 1.25), ("avg", 1.25), ("lse", 3), ("softmax", 4.5)]
)
def test_bins_of_few_elements_are_not_laid_out(name: str, most: float, memory_of):
    x, g = jnp.zeros((2, 37, 53, 64)), jnp.zeros((2, 29, 31, 64))
    pool = functools.partial(getattr(jaxpool, f"adaptive_{name}_pool"), output_shape=(29, 31))
    both = jax.jit(lambda x, g: jax.vjp(pool, x)[1](g))
    memory = memory_of(both.lower(x, g))
    assert memory.temp_size_in_bytes <= most * x.nbytes


def test_a_16_bit_element_of_many_bins_adds_up_its_gradients_in_float32():
    # One element in 400 bins: added one by one in bfloat16, ones stop at 256.
    x = jnp.zeros((1,), jnp.bfloat16)
    for name in ("max", "avg"):
        pool = getattr(jaxpool, f"adaptive_{name}_pool")
        assert jax.grad(lambda x, pool=pool: pool(x, 400, axis=0).sum())(x).item() == 400


# Positions


def test_positions_of_ties_dilation_ceil_mode_and_masks():
    find = jaxpool.max_pool_with_indices
    zeros = jnp.zeros((1, 4, 4, 1))
    np.testing.assert_array_equal(find(zeros, (2, 2))[1][0, ..., 0], [[0, 2], [8, 10]])
    _, indices = find(zeros, (2, 2), 1, window_dilation=2)
    np.testing.assert_array_equal(indices[0, ..., 0], [[0, 1], [4, 5]])
    line = jnp.array([1.0, 3, 2, 0, 5])
    np.testing.assert_array_equal(find(line, 2, axis=0, ceil_mode=True)[1], [1, 2, 4])
    _, indices = find(line, 3, 2, 1, axis=0, ceil_mode=True)  # never the padding
    np.testing.assert_array_equal(indices, [1, 1, 4])
    where = np.array([True, False, True, False, False])
    values, indices = find(line, 1, axis=0, where=where)
    np.testing.assert_array_equal(indices, [0, -1, 2, -1, -1])
    np.testing.assert_array_equal(values[jnp.array([1, 3])], -np.inf)
    _, indices = find(line, 2, 2, ((2, 3),), axis=0)  # windows in the padding
    np.testing.assert_array_equal(indices, [-1, 1, 2, 4, -1])
    _, indices = find(jnp.array([1, np.nan, 9, np.nan]), 4, axis=0)
    np.testing.assert_array_equal(indices, [1])
    _, indices = find(jnp.full(4, -jnp.inf), 3, 1, 1, axis=0)
    np.testing.assert_array_equal(indices, [0, 0, 1, 2])


def test_positions_do_not_depend_on_layout_batch_or_transformation():
    find = functools.partial(jaxpool.max_pool_with_indices, strides=2, padding="SAME")
    x = jnp.asarray(random("layout").integers(0, 5, (2, 3, 5, 6, 4)), FLOAT)
    _, expected = jax.jit(lambda x: find(x, (3, 3)))(x)
    assert expected.dtype == jnp.int32
    assert expected.max() > 5 * 6 - 6  # the last row
    assert_identical(find(x, (3, 3))[1], expected)
    for axes in (0, 1, -1):
        at = expected.ndim - 1 if axes == -1 else axes
        one = (3, 3) if axes != -1 else 3
        axis = None if axes != -1 else (2, 3)
        f = jax.vmap(lambda x, one=one, axis=axis: find(x, one, axis=axis)[1], axes, axes)
        assert_identical(f(x), jnp.moveaxis(jnp.moveaxis(expected, at, 0), 0, at))
    first = jnp.moveaxis(x, -1, 1)
    assert_identical(find(first, 3, axis=(4, -2))[1], jnp.moveaxis(expected, -1, 1))
    assert_identical(find(x[0, 0], (3, 3))[1], expected[0, 0])


@pytest.mark.parametrize(
    "find",
    [
        lambda x: jaxpool.max_pool_with_indices(x, (3, 3), 2, "CIRCULAR"),
        lambda x: jaxpool.adaptive_max_pool_with_indices(x, (2, 4)),
    ],
)
def test_indices_have_no_tangent(find):
    x = jnp.asarray(random("float0").normal(size=(2, 5, 6, 3)), FLOAT)
    (values, indices), (tangent, none) = jax.jvp(find, (x,), (x,))
    assert none.dtype == jax.dtypes.float0
    assert_identical(tangent, values)  # the elements themselves, taken along x
    flat = x.reshape(2, 30, 3)
    taken = jnp.take_along_axis(flat, indices.reshape(2, -1, 3), 1)
    assert_identical(taken.reshape(values.shape), values)
    # In a loss, the indices are constants.
    slope = jax.grad(lambda x: jnp.vdot(*(a.astype(FLOAT) for a in find(x))))(x)
    _, gradient = pullback(lambda x: find(x)[0], x, indices.astype(FLOAT))
    assert_equal(slope, gradient, 1e-6)


# The way back


def test_unpooling_undoes_pooling():
    x = jnp.asarray(random("unpool").normal(size=(2, 6, 8, 3)), FLOAT)
    y, indices = jaxpool.max_pool_with_indices(x, (2, 2))
    back = jaxpool.max_unpool(y, indices, (6, 8))
    assert_identical(back, jnp.where(back == x, x, 0))
    assert (back != 0).sum() == y.size
    positive, indices = jaxpool.max_pool_with_indices(jnp.abs(x), (3, 3), 2)
    back = jaxpool.max_unpool(positive, indices, (6, 8))  # overlapping windows name one twice
    assert_identical(jaxpool.max_pool(back, (3, 3), 2), positive)


@pytest.mark.parametrize("axes", [(1, 2), (2, -1), (0,)])
def test_unpooling_equals_the_definition(axes):
    rng = random("unpool", axes)
    x = rng.normal(size=(2, 3, 4, 2)).astype(FLOAT)
    sizes = (5, 2)[: len(axes)]
    indices = rng.integers(-2, np.prod(sizes) + 3, x.shape)
    expected = reference.unpool(x, indices, sizes, axes)
    back = functools.partial(jaxpool.max_unpool, indices=indices, output_shape=sizes, axis=axes)
    assert_identical(back(x), jnp.asarray(expected))
    assert_identical(jax.jit(back)(x), jnp.asarray(expected))
    short = jnp.asarray(indices, jnp.int8)
    assert_identical(back(x, indices=short, output_shape=expected.shape), jnp.asarray(expected))
    whole = (x * 9).astype(np.int16)
    assert_identical(back(whole), jnp.asarray(reference.unpool(whole, indices, sizes, axes)))
    # The gradient of a position goes to the value that has it.
    cotangent = rng.normal(size=expected.shape).astype(FLOAT)
    _, gradient = pullback(back, x, cotangent)
    owner = reference.unpool(np.arange(1, x.size + 1).reshape(x.shape), indices, sizes, axes)
    slope = np.zeros(x.size + 1)
    slope[owner.ravel()] = cotangent.ravel()
    assert_equal(gradient, slope[1:].reshape(x.shape), 0)


def test_unpooling_batches_and_differentiates():
    rng = random("unpool batch")
    x = rng.normal(size=(3, 4, 2)).astype(FLOAT)
    indices = rng.integers(-1, 8, x.shape)
    f = functools.partial(jaxpool.max_unpool, output_shape=(7,))
    expected = f(x, indices)
    assert_identical(jax.vmap(f)(x, indices), expected)
    shared = jax.vmap(f, (None, 0))(x[0], indices)  # one map, three ways to put it back
    assert_identical(shared[1], f(x[0], indices[1]))
    moved = jax.vmap(f, in_axes=(1, 1), out_axes=1)(x.swapaxes(0, 1), indices.swapaxes(0, 1))
    assert_identical(moved, expected.swapaxes(0, 1))
    check_derivatives(jax.jit(lambda x: f(jnp.sin(x), indices)), x)
    slope = jax.vmap(jax.grad(lambda x, i: jnp.sum(f(x, i) ** 2)))(x, indices)
    assert_equal(slope, jax.grad(lambda x: jnp.sum(f(x, indices) ** 2))(x), 1e-6)


def test_unpooling_scatters_no_floats():
    x = jax.ShapeDtypeStruct((2, 8, 3), jnp.float32)
    at = jax.ShapeDtypeStruct((2, 8, 3), jnp.int32)
    f = jax.jit(jax.value_and_grad(lambda x, i: jnp.sum(jaxpool.max_unpool(x, i, (16,)) ** 2)))
    for platform in ("cpu", "cuda", "tpu"):
        text = export.export(f, platforms=[platform])(x, at).mlir_module()
        (scatter,) = text.split('"stablehlo.scatter"(')[1:]  # of the numbers of the windows
        assert re.search(r"-> tensor<[0-9x]+i32>", scatter.split("}) :")[1].split("\n")[0])


@pytest.mark.parametrize("shape", [(0, 4, 2), (2, 4, 0), (2, 0, 3)])
def test_unpooling_nothing(shape):
    x, indices = jnp.zeros(shape), jnp.zeros(shape, jnp.int32)
    whole = (shape[0], 5, shape[2])
    back = functools.partial(jaxpool.max_unpool, indices=indices, output_shape=(5,))
    y, gradient = pullback(back, x, jnp.zeros(whole))
    assert y.shape == whole
    assert gradient.shape == shape
    assert not y.any()
