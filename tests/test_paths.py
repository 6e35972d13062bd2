"""How poolings run: what is kept for the backward pass, what is lowered, that no window unrolls."""

import contextlib
import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.interpreters import mlir

import jaxpool
from jaxpool import (
    _border,
    _linear,
    _pairs,
    _parts,
    _plan,
    _regions,
    _slices,
    _soft,
    _sums,
    _winners,
    linen,
)
from jaxpool._window import Window, all_of

POOLS = [
    jaxpool.max_pool,
    jaxpool.min_pool,
    jaxpool.sum_pool,
    jaxpool.avg_pool,
    jaxpool.lse_pool,
    jaxpool.softmax_pool,
]
each_pool = pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.__name__)
extremes = pytest.mark.parametrize("pool", POOLS[:2], ids=lambda pool: pool.__name__)


def kept(f, x) -> int:
    """Bytes kept for the backward pass."""
    back = jax.eval_shape(lambda x: jax.vjp(f, x)[1], x)
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(back))


def gradient(pool, *args, **options):
    return jax.grad(lambda x: pool(x, *args, **options).sum())


@contextlib.contextmanager
def as_elsewhere() -> Iterator[None]:
    """What is compiled in here is what other platforms than CPU get."""
    apart = _linear._apart
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        for module in (_border, _pairs, _regions, _slices, _soft, _sums, _winners):
            patch.setattr(module, "by_platform", lambda *args, cpu, other: other(*args))
        patch.setattr(_slices, "on_cpu", lambda: False)
        mlir.register_lowering(apart, _linear._lower_elsewhere, platform="cpu")
        try:
            yield
        finally:
            mlir.register_lowering(apart, _linear._lower_apart, platform="cpu")
            jax.clear_caches()


@extremes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    ("window", "strides", "options"),
    [
        ((3, 3), 2, {"padding": 1}),
        ((3, 3), 1, {"padding": "SAME"}),
        ((5, 2), (2, 3), {"padding": ((4, 0), (1, 1)), "window_dilation": (1, 2)}),
        ((11, 9), 1, {"padding": "SAME"}),  # several passes
        ((3, 2), (4, 3), {"padding": ((2, 9), (0, 2)), "ceil_mode": True}),  # apart
        ((3, 4), (1, 2), {"padding": 2, "where": True}),
        ((4, 5), (4, 5), {"padding": 1, "where": True}),  # one winner of both axes
        ((5, 4), 2, {"padding": "CIRCULAR"}),
        ((4, 3), 1, {"padding": "REFLECT", "where": True}),
    ],
    ids=[
        *("stride", "overlap", "dilation", "passes", "apart", "mask", "mask, joint"),
        *("circular", "reflect, mask"),
    ],
)
def test_other_platforms_find_the_same_winners(pool, dtype, window, strides, options):
    # Ties, NaN, elements that nothing beats and windows that hold nothing else: to the last bit.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 4, (2, 21, 18, 16)), dtype)
    if dtype != "int8":
        worst = -jnp.inf if pool is jaxpool.max_pool else jnp.inf
        x = x.at[0, :9, :8].set(worst).at[1, ::7, ::5, :4].set(jnp.nan)
    if "where" in options:
        options = options | {"where": jnp.asarray(rng.random(x.shape) < 0.5)}

    def results() -> tuple[jax.Array, jax.Array]:
        f = functools.partial(pool, window_shape=window, strides=strides, **options)
        if dtype == "int8":  # has no gradient
            name = f"{pool.__name__}_with_indices"
            f = functools.partial(getattr(jaxpool, name), window_shape=window, strides=strides)
            return f(x, **options)

        def both(x):
            y, back = jax.vjp(f, x)
            return y, back(jnp.arange(y.size, dtype=x.dtype).reshape(y.shape) % 8)[0]

        return jax.jit(both)(x)

    expected = results()
    with as_elsewhere():
        found = results()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("pool", POOLS[:4], ids=lambda pool: pool.__name__)
def test_other_platforms_read_large_windows_alike(pool):
    # By turns, side by side, with gaps between them, and with padding.
    x = jnp.asarray(np.random.default_rng(0).integers(-9, 9, (2, 300, 2)), jnp.float32)
    cases = [(97, 16, 0), (100, 5, 30), (70, 70, 0), (71, 80, 35), (75, 75, 170)]

    def results() -> list:
        found = []
        for window, strides, padding in cases:
            f = functools.partial(pool, window_shape=window, strides=strides, axis=1)

            def both(x, f=f, padding=padding):
                y, back = jax.vjp(lambda x: f(x, padding=padding), x)
                return y, back(jnp.round(8 * jnp.cos(y)))[0]

            found += [f(x, padding=padding), *jax.jit(both)(x)]
        return found

    expected = results()
    with as_elsewhere():
        found = results()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


LAID = [
    *itertools.product(POOLS, ["float32"], [(2, 10, 8)], [2], [False]),
    *itertools.product(POOLS, ["bfloat16"], [(2, 9, 8)], [(1, 2)], [True]),
    *itertools.product(POOLS[2:4], ["float32"], [(1, 6, 7, 5)], [1], [True]),
]


@pytest.mark.parametrize(("pool", "dtype", "shape", "strides", "masked"), LAID)
def test_borders_at_both_ends_are_laid(pool, dtype: str, shape: tuple, strides, masked: bool):
    # Loops over 16 channels with a branch for each border would not be vectorised; few are.
    window = (3,) * (len(shape) - 1)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-9, 9, (*shape, 16)), dtype).at[0, 4, 4].set(jnp.nan)
    where = jnp.asarray(rng.random(x.shape) < 0.8) if masked else None
    y = jax.eval_shape(lambda x: pool(x, window, strides), x)
    g = jnp.asarray(rng.integers(-9, 9, y.shape), dtype)

    @jax.jit
    def slope(g, x, where):
        return jax.vjp(lambda x: pool(x, window, strides, where=where), x)[1](g)[0]

    few = [jax.tree.map(lambda a, i=i: a[..., i : i + 8], (g, x, where)) for i in (0, 8)]
    expected = jnp.concatenate([slope(*part) for part in few], -1)
    close = {"rtol": 0, "atol": 0} if pool in POOLS[:3] else {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(slope(g, x, where), expected, **close)
    pads = [slope.lower(*a).as_text().count("stablehlo.pad") for a in (few[0], (g, x, where))]
    assert pads[0] < pads[1]


@extremes
def test_values_of_volumes_padded_behind_take_two_loops(pool):
    # A loop over all 27 taps would not be vectorised then.
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8, 16))
    loops = {}
    for padding in ("SAME", 1):
        f = jax.jit(functools.partial(pool, window_shape=(3, 3, 3), strides=2, padding=padding))
        loops[padding] = len(re.findall("call @_fold", f.lower(x).as_text()))
        np.testing.assert_array_equal(f(x), jax.vjp(f, x)[0])
    assert loops == {"SAME": 2, 1: 1}


SMOOTH = [jaxpool.lse_pool, jaxpool.softmax_pool, jaxpool.lp_pool, jaxpool.gem_pool]


@pytest.mark.parametrize(
    ("odd", "even", "window", "stride"),
    [((2, 9, 11, 16), (2, 10, 12, 16), 3, 2), ((2, 11, 3), (2, 12, 3), 4, 3)],
)
@pytest.mark.parametrize("pool", SMOOTH, ids=lambda pool: pool.__name__)
def test_what_strides_do_not_divide_is_not_completed(pool, odd, even, window: int, stride: int):
    # No window sees the elements by which the maps differ.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=even) + 3, jnp.float32)
    axis = tuple(range(1, x.ndim - 1))

    @jax.jit
    def slope(x):
        y, back = jax.vjp(lambda x: pool(x, window, stride, axis=axis), x)
        return back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))[0]

    part = tuple(slice(n) for n in odd)
    np.testing.assert_allclose(slope(x[part]), slope(x)[part], rtol=2e-6, atol=1e-7)
    assert f"tensor<{'x'.join(map(str, even))}x" not in slope.lower(x[part]).as_text()


@pytest.mark.parametrize("platform", ["cpu", "other"])
@pytest.mark.parametrize("pool", SMOOTH, ids=lambda pool: pool.__name__)
def test_windows_that_do_not_exist_give_no_gradient(pool, platform: str):
    # Phases of strides are completed, or borders filled, with windows that see the last element.
    with as_elsewhere() if platform == "other" else contextlib.nullcontext():
        for length, window, strides, dilation in ((8, 3, 2, 1), (9, 2, 4, 2), (43, 17, 4, 2)):
            slope = jax.jit(gradient(pool, window, strides, axis=0, window_dilation=dilation))
            x = jnp.linspace(1, 2, length)
            expected = slope(x)
            assert not expected[-1]
            for bad in (jnp.nan, jnp.inf, -jnp.inf):
                np.testing.assert_allclose(slope(x.at[-1].set(bad)), expected, rtol=1e-6)


@extremes
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_an_extreme_is_one_region_elsewhere(pool, platform: str):
    # There regions to put together are what loops are not fused across.
    x = jax.ShapeDtypeStruct((2, 12, 12, 16), jnp.float32)
    f = jax.jit(gradient(pool, (3, 3), 1, "SAME"))
    text = export.export(f, platforms=[platform])(x).mlir_module()
    assert ("stablehlo.concatenate" in text) == (platform == "cpu")
    # Values of large windows are calls of up to 16 taps: one of 11, and 8 and 5 for 40.
    f = jax.jit(functools.partial(pool, window_shape=(11, 40), strides=1))
    x = jax.ShapeDtypeStruct((2, 48, 48, 16), jnp.float32)
    text = export.export(f, platforms=[platform])(x).mlir_module()
    assert text.count("stablehlo.reduce_window") == (0 if platform == "cpu" else 3)


@extremes
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("window", [2, 3, 7, 8, 13, 33])
def test_an_extreme_keeps_its_winners_alone(pool, window: int, strides: int):
    x = jax.ShapeDtypeStruct((2, 48, 48, 8), jnp.float32)
    f = functools.partial(pool, window_shape=(window, window), strides=strides, padding="SAME")
    assert kept(f, x) <= (0.5 if strides == 1 else 0.25) * x.size * 4


@pytest.mark.parametrize("pool", POOLS[2:4], ids=lambda pool: pool.__name__)
@pytest.mark.parametrize("window", [3, 40])
def test_a_sum_keeps_nothing(pool, window: int):
    x = jax.ShapeDtypeStruct((2, 48, 48, 8), jnp.float32)
    # (But the counts of an average, which are the same for all examples and channels, and one
    # number of a large window's result, for which the backward pass waits.)
    assert kept(lambda x: pool(x, (window, window), 2, "SAME"), x) <= (4 if window == 3 else 8)


def test_bfloat16_is_rounded_to_nearest():
    # Every upper half, with lower ones that are 0, around a tie, and nearly the next; by NumPy's.
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = ((np.arange(2**16, dtype=np.uint32) << 16)[:, None] | lower).view(np.float32)
    found = np.asarray(jax.jit(_slices.rounded, static_argnums=1)(x, jnp.dtype(jnp.bfloat16)))
    with np.errstate(invalid="ignore"):
        expected = x.astype(jnp.bfloat16)
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(found[found == 0]), np.signbit(expected[found == 0]))


@pytest.mark.parametrize(("channels", "length"), [(3, 8), (4, 6)])
def test_few_channels_are_padded_for_loops_over_several_axes(channels: int, length: int):
    windows = tuple(Window(axis, 6, 3, 1, 1, 1, 1, 6) for axis in (-3, -2))
    cells, group = _pairs.reach({"x": jnp.ones((1, 6, 6, channels))}, windows)
    assert cells["x"].shape == (1, length, length, channels)
    assert cells["x"].sum() == 36 * channels
    assert [w.length for w in group] == [length, length]


@pytest.mark.parametrize("n", [255, 256, 65_535, 65_536])
def test_no_window_is_too_large_for_its_count(n: int):
    # Counts are of as few bits as hold them.
    x = jnp.ones((2 * n, 1))
    y = jaxpool.avg_pool(x, (n,), 2, where=np.ones(x.shape, bool))
    np.testing.assert_array_equal(y, 1)


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("shape", "window", "axis"),
    [
        *[((2, 48, 48, 64), window, None) for window in (3, 5, 11)],
        *[((1, 48, 48, 16), window, None) for window in (5, 48)],  # to be cut along channels only
        ((1, 192, 160, 1), 11, None),  # along the map
        *[((4, 512, 16), window, None) for window in (2, 3, 32, 127)],
        *[((2, 64, width, width), 3, (-2, -1)) for width in (14, 28)],
    ],
)
@each_pool
def test_little_memory_is_used_on_the_way(pool, shape, window: int, axis, memory_of):
    x = jnp.zeros(shape)

    @jax.jit
    def both(x, g):
        y, back = jax.vjp(lambda x: pool(x, (window,) * (x.ndim - 2), 1, "SAME", axis=axis), x)
        return y, back(g)[0]

    memory = memory_of(both.lower(x, x))
    most = 1.5 if window <= 3 and pool in POOLS[:4] else 4
    assert memory.temp_size_in_bytes <= most * x.nbytes + 4096  # and a few counts


@pytest.mark.optimized
@pytest.mark.parametrize("pool", [*POOLS[:4], jaxpool.lp_pool], ids=lambda pool: pool.__name__)
@pytest.mark.parametrize(("window", "strides"), [((3, 3), 2), ((2, 2), 2), ((48, 48), 1)])
def test_a_mask_needs_no_copy_of_x(pool, window: tuple, strides: int, memory_of):
    if pool is jaxpool.lp_pool and window == (48, 48):
        pytest.skip("large norms are taken of a masked copy")
    x, mask = jnp.zeros((2, 48, 48, 64)), jnp.ones((2, 48, 48, 1), bool)

    def needs(mask) -> float:
        def both(x, mask):
            y, back = jax.vjp(lambda x: pool(x, window, strides, where=mask), x)
            return y, back(y)[0]

        memory = memory_of(jax.jit(both).lower(x, mask))
        return memory.temp_size_in_bytes / x.nbytes

    assert needs(mask) - needs(None) < 0.3  # each cotangent over its window's count


@extremes
def test_a_window_in_which_nothing_is_real_has_no_winner(pool):
    # Two axes that are folded one after the other, and have one winner: or as one axis, beside.
    def taps(a):
        a = jnp.broadcast_to(a, (2, 8, 10, 16)).reshape(2, 2, 4, 2, 5, 16)
        return a.transpose(0, 1, 3, 5, 2, 4).reshape(2, 2, 2, 16, 20)

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-9, 9, (2, 8, 10, 16)), jnp.float32)
    mask = rng.random((2, 8, 10, 1)) < 0.3
    mask[0, :4, :5], mask[1, 4:, 5:] = False, False
    y, back = jax.vjp(lambda x: pool(x, (4, 5), where=mask), x)
    expected, taps_back = jax.vjp(lambda x: pool(x, 20, axis=-1, where=taps(mask)), taps(x))
    np.testing.assert_array_equal(y, expected[..., 0])
    found = taps(back(jnp.ones_like(y))[0])
    np.testing.assert_array_equal(found, taps_back(jnp.ones_like(expected))[0])
    assert not np.any(found, where=~np.asarray(taps(mask)))


@pytest.mark.parametrize(
    ("pool", "nothing"), [*zip(POOLS, (-np.inf, np.inf, 0, 0, -np.inf, 0), strict=True)]
)
def test_axes_with_nothing_to_pool_see_the_mask(pool, nothing: float):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 20))
    mask = jax.random.bernoulli(jax.random.key(1), 0.4, (2, 5, 6, 1))
    for options in ({"axis": (1, 2)}, {"axis": (-2, -1)}, {"axis": (2, 3)}):
        y = pool(x, (1, 1), 1, where=mask, **options)
        np.testing.assert_allclose(y, np.where(mask, x, nothing), rtol=1e-5, atol=1e-6)
    expected = pool(x, 2, 1, axis=2, where=mask)
    np.testing.assert_allclose(pool(x, (1, 2), 1, where=mask), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.__name__)
@pytest.mark.parametrize("shared", [(1,), (4,), (3, 4)])
@pytest.mark.parametrize(("window", "stride"), [(3, 1), (40, 40)])
def test_masks_along_lines(pool, shared, window: int, stride: int):
    # The axes behind a window are one where its loops run; a mask may have one value for some.
    rng = np.random.default_rng(0)
    shape = (2, 3, 40, 4, 5)
    x = jnp.asarray(rng.integers(-9, 9, shape), jnp.float32)
    mask = rng.random([1 if axis in shared else n for axis, n in enumerate(shape)]) < 0.2

    def moved(x):  # none behind
        whole = jnp.broadcast_to(mask, shape)
        x, where = (jnp.moveaxis(a, 2, -1) for a in (x, whole))
        return jnp.moveaxis(pool(x, window, stride, axis=-1, where=where), -1, 2)

    y, back = jax.vjp(lambda x: pool(x, window, stride, axis=2, where=mask), x)
    expected, moved_back = jax.vjp(moved, x)
    weights = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(back(weights)[0], moved_back(weights)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS[:3], ids=lambda pool: pool.__name__)
@pytest.mark.parametrize(("channels", "bits"), [(1, 0), (3, 1), (8, 1), (9, 0)])
def test_a_mask_of_all_channels_takes_bits(pool, channels: int, bits: int):
    # What is left out may be anything; all that stays is kept to the sign of a zero.
    rng = np.random.default_rng(0)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, -3.0, 2.0**-149], np.float32)
    x = jnp.asarray(rng.choice(special, (2, 6, 7, channels), p=[0.03, 0.1, 0.1, *[0.77 / 4] * 4]))
    mask = jnp.asarray(rng.random((2, 6, 7, 1)) < 0.7)

    @jax.jit
    def both(x, mask):
        y, back = jax.vjp(lambda x: pool(x, (3, 3), 2, "SAME", where=mask), x)
        return y, back(jnp.ones_like(y))[0]

    of_every_element = both(x, jnp.broadcast_to(mask, x.shape))
    for found, expected in zip(both(x, mask), of_every_element, strict=True):
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(jnp.signbit(found), jnp.signbit(expected))
    bits |= channels > 1 and pool is jaxpool.sum_pool  # a sum needs no second half
    assert ("stablehlo.negate" in both.lower(x, mask).as_text()) == bits


@pytest.mark.optimized
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (3, 1), (2, 2)])
def test_a_sum_over_much_padding_needs_no_third_array(stride: int, dilation: int, memory_of):
    x = jax.random.normal(jax.random.key(0), (2, 48, 64))
    low, high = 30 * dilation, 20 * dilation
    how = {"window_dilation": dilation}

    @jax.jit
    def pooled(x):
        return jaxpool.sum_pool(x, (31,), stride, [(low, high)], **how)  # 31 is 11111, all odd

    memory = memory_of(pooled.lower(x))
    assert memory.temp_size_in_bytes <= 2.1 * (48 + low + high) / 48 * x.nbytes
    expected = lax.reduce_window(
        x, 0.0, lax.add, (1, 31, 1), (1, stride, 1), [(0, 0), (low, high), (0, 0)], None,
        (1, dilation, 1),
    )  # fmt: skip
    np.testing.assert_allclose(pooled(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.optimized
def test_a_large_sum_uses_its_memory_twice(memory_of):
    # The passes back wait for those of the value to be over.
    def pool(x):
        return jaxpool.avg_pool(x, (31, 31), 1, "SAME")

    def both(x, g):
        y, back = jax.vjp(pool, x)
        return y, back(g)[0]

    def temporary(f, *args) -> int:
        return memory_of(jax.jit(f).lower(*args)).temp_size_in_bytes

    x = jnp.zeros((1, 96, 96, 8))
    assert temporary(both, x, x) <= 1.1 * temporary(pool, x)


@pytest.mark.optimized
@pytest.mark.parametrize("pool", [jaxpool.sum_pool, jaxpool.avg_pool])
def test_constants_are_not_added_up_by_the_compiler(pool):
    # The gradient of a sum of what is pooled, which took XLA seconds for a map of 2x40x40x256.
    grad = gradient(pool, (11, 11), 1, padding=5)
    x = jax.ShapeDtypeStruct((1, 20, 20, 64), jnp.float32)
    text = jax.jit(grad).lower(x).compile().as_text()
    assert len(re.findall(r" reduce-window\(", text)) == 2


@pytest.mark.optimized
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("window", [3, 11, 40])
def test_loops_run_over_all_axes_behind_the_pooled_one(pool, window: int):
    # Over each of 16 channels alone, some took three times as long.
    def both(x, g):
        y, back = jax.vjp(lambda x: pool(x, window, 1, "SAME", axis=1), x)
        return y, back(g)

    x = jax.ShapeDtypeStruct((2, 48, 20, 16), jnp.float32)
    text = jax.jit(both).lower(x, x).compile().as_text()
    computed = "slice|add|multiply|maximum|minimum|select|compare|reduce-window"
    assert re.search(rf"\]\S* ({computed})\(", text)
    assert not re.search(rf",20,16\]\S* ({computed})\(", text)


@pytest.mark.optimized
@pytest.mark.parametrize("pool", [jaxpool.avg_pool, jaxpool.lse_pool, jaxpool.softmax_pool])
def test_constant_masks_are_not_counted_by_the_compiler(pool):
    # Of a million elements that took what compiles for other platforms 3 seconds.
    mask = np.arange(100_000)[:, None] % 5 > 0
    with as_elsewhere():
        f = jax.jit(lambda x: pool(x, 7, 2, "SAME", axis=-2, where=mask))
        text = f.lower(jax.ShapeDtypeStruct((2, 100_000, 2), jnp.float32)).compile().as_text()
    assert re.search(r"(u8|f32)\[1,50000,1\]\S* reduce-window\(", text)


@pytest.mark.optimized
@pytest.mark.parametrize("pool", [jaxpool.max_pool, jaxpool.avg_pool], ids=["max", "avg"])
def test_bfloat16_is_not_copied(pool, memory_of):
    """Neither as float32, which would take 2, nor as bits, which would take 1, there and back."""
    x = jnp.zeros((2, 48, 48, 64), jnp.bfloat16)

    def f(x):
        return pool(x, (3, 3), 2, "SAME")

    def both(x, g):
        y, back = jax.vjp(f, x)
        return y, back(g)

    value, slope = (memory_of(jax.jit(of).lower(*a)) for of, a in ((f, [x]), (both, [x, f(x)])))
    assert value.temp_size_in_bytes <= 0.01 * x.nbytes
    assert slope.temp_size_in_bytes <= 0.3 * x.nbytes  # the winners, and g as bits


@pytest.mark.optimized
@pytest.mark.parametrize("border", ["CIRCULAR", "REFLECT", "EDGE"])
@pytest.mark.parametrize("window", [3, 9])
def test_a_border_of_copies_is_one_copy_of_the_map(border, window: int, memory_of):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 64)), jnp.float32)
    mode: Any = {"CIRCULAR": "wrap", "REFLECT": "reflect", "EDGE": "edge"}[border]
    low = window // 2

    def padded(x):
        return jnp.pad(x, ((0, 0), (low, low), (low, low), (0, 0)), mode=mode)

    def pool(x):
        return jaxpool.max_pool(x, (window, window), 1, border)

    def by_hand(x):
        return jaxpool.max_pool(padded(x), (window, window), 1)

    np.testing.assert_array_equal(pool(x), by_hand(x))
    (ours,), (theirs,) = (jax.vjp(f, x)[1](jnp.sin(x)) for f in (pool, by_hand))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    if window == 3:
        memory = memory_of(jax.jit(pool).lower(x))
        assert memory.temp_size_in_bytes <= 1.01 * padded(x).nbytes


@each_pool
def test_equal_shapes_are_traced_once(pool, monkeypatch):
    traced = []
    long = _plan.is_long
    monkeypatch.setattr(_plan, "is_long", lambda *args: traced.append(args) or long(*args))
    jax.clear_caches()
    chex.clear_trace_counter()

    @jax.jit
    @jax.grad
    @chex.assert_max_traces(n=1)
    def slope(x):
        return pool(x, (3, 2), [2, 1], "SAME").sum()

    for fill in range(3):
        x = jnp.full((2, 7, 6, 3), fill, jnp.float32)
        pool(x, (3, 2), (2, 1), "same")
        slope(x)
        if not fill:
            once = len(traced)
    assert once
    assert len(traced) == once


@each_pool
@pytest.mark.parametrize("window", [64, 1000, 1021, 1024])  # 1021 is a prime
def test_large_windows_are_short_programs(pool, window: int):
    x = jax.ShapeDtypeStruct((1, 4096, 8), jnp.float32)
    text = jax.jit(gradient(pool, (window,), 1)).lower(x).as_text()
    ways = 2 if pool in POOLS[4:] else 1  # one for large x/T and one for others
    assert text.count("\n") < 5000 * ways


def test_gates_of_large_windows_are_short_programs():
    x = jax.ShapeDtypeStruct((1, 48, 48, 8), jnp.float32)

    def run(kernel, x):
        return jnp.sum(linen.GatedPool((32, 32)).apply({"params": {"kernel": kernel}}, x))

    text = jax.jit(jax.grad(run)).lower(jax.ShapeDtypeStruct((32, 32), jnp.float32), x).as_text()
    assert text.count("\n") < 5000


def test_fractional_windows_are_found_in_little_memory(memory_of):
    x = jax.ShapeDtypeStruct((60_000,), jnp.float32)

    def run(x):
        key = jax.random.key(0)
        return jaxpool.fractional_max_pool(key, x, 2, output_ratio=0.7, axis=0).sum()

    memory = memory_of(jax.jit(jax.grad(run)).lower(x))
    assert memory.temp_size_in_bytes < 20 * x.size * 4


@pytest.mark.parametrize(
    ("pool", "window"),
    [(jaxpool.lse_pool, 1024), (jaxpool.softmax_pool, 5), (jaxpool.softmax_pool, 1024)],
)
def test_borders_of_many_exponentials_are_short_programs(pool, window: int):
    # So many examples that parts are some of them: strips of a map have more to do beside padding.
    x = jax.ShapeDtypeStruct((16, 4096, 8), jnp.float32)
    inside, border = (
        jax.jit(gradient(pool, (window,), 1, padding)).lower(x).as_text().count("\n")
        for padding in ("VALID", "SAME")
    )
    assert border <= 1.1 * inside


@pytest.mark.parametrize(
    ("size", "taps"), [(16, [16]), (220, [11, 5, 4]), (221, [13, 5, 4]), (1024, [16, 8, 8])]
)
def test_later_passes_have_few_taps(size: int, taps: list[int]):
    # Each is an exponential of its own, to be compiled, and later passes read little.
    passes = _pairs.few_taps((all_of(-1, size),))
    assert [window.size for (window,) in passes] == taps


@pytest.mark.parametrize("pool", POOLS[4:], ids=lambda pool: pool.__name__)
@pytest.mark.parametrize(
    ("shape", "window", "most"),
    [((4096, 8), (5,), 40), ((28, 28, 64), (3, 3), 80), ((4096, 8), (1024,), 100)],
    ids=["5", "3x3", "1024"],
)
def test_borders_of_many_exponentials_have_few_taps(pool, shape, window, most: int):
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    text = jax.jit(gradient(pool, window, 1, "SAME")).lower(x).as_text()
    assert len(re.findall(r"call @terms?(_\d+)?\(", text)) <= most  # one for each tap


@each_pool
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_every_platform_has_a_lowering(pool, platform: str):
    x = jax.ShapeDtypeStruct((2, 12, 12, 3), jnp.float32)

    def lowered(f) -> str:
        return export.export(jax.jit(f), platforms=[platform])(x).mlir_module()

    value = lowered(functools.partial(pool, window_shape=(3, 3), strides=2))
    # On CPU passes are calls that nothing is fused with; elsewhere small windows are one call.
    for text in (value, lowered(gradient(pool, (3, 3), 2))):
        assert ('inlineable = "false"' in text) == (platform == "cpu")
    if pool in POOLS[:4]:
        assert value.count("stablehlo.reduce_window") == (platform != "cpu")


def test_what_no_platform_compiles_is_not_traced():
    traced = []

    def way(name: str):
        def run(x):
            traced.append(name)
            return x**3

        return run

    f = jax.jit(lambda x: _linear.by_platform(x, cpu=way("cpu"), other=way("other")))
    program = f.trace(jnp.float32(2))
    assert set(traced) == {"cpu"}
    program.lower()
    assert set(traced) == {"cpu"}
    program.lower(lowering_platforms=("tpu",))
    assert set(traced) == {"cpu", "other"}
    assert jax.grad(jax.grad(f))(2.0) == 12
    assert jax.jvp(jax.vmap(f), (jnp.ones(2),), (jnp.ones(2),))[1].tolist() == [3, 3]


@each_pool
def test_one_export_is_for_all_platforms_and_the_same_without_jit(pool):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8, 3)), jnp.float32)
    f = jax.value_and_grad(lambda x: (pool(x, (3, 3), 2) ** 2).sum())
    exported = export.export(jax.jit(f), platforms=["cpu", "cuda", "tpu"])(x)
    with jax.disable_jit():
        alone = f(x)
    for a, b in zip(jax.tree.leaves(exported.call(x)), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", POOLS[:4], ids=lambda pool: pool.__name__)
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_whole_axes_are_one_reduce_where_that_is_fast(pool, platform: str):
    for size, call in {28: "reduce(", 8: "reduce_window"}.items():
        x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        f = jax.jit(functools.partial(pool, window_shape=(size, size)))
        text = export.export(f, platforms=[platform])(x).mlir_module()
        for other in ("reduce(", "reduce_window"):
            expected = platform != "cpu" and other == call
            assert text.count(f"stablehlo.{other}") == expected


@pytest.mark.parametrize("pool", SMOOTH, ids=lambda pool: pool.__name__)
def test_elsewhere_each_pass_is_kept_there_and_back(pool):
    # On a GPU XLA computes one pass anew for each read of the next, if it may.
    x = jax.ShapeDtypeStruct((2, 1600, 8), jnp.float32)
    for windows, passes in {(400, 160): 3, (100, 10): 2, (8, 4): 1}.items():
        f = jax.jit(gradient(pool, *([n] for n in windows)))
        text = export.export(f, platforms=["cuda"])(x).mlir_module()
        results = 2 if pool is jaxpool.softmax_pool else 1  # its level and its gap
        assert text.count("stablehlo.optimization_barrier") == 2 * results * (passes - 1)


@pytest.mark.parametrize("pool", SMOOTH[:2], ids=lambda pool: pool.__name__)
def test_padding_elsewhere_has_no_weight_at_the_largest_temperature(pool):
    x = np.random.default_rng(0).uniform(-2, 2, (2, 5, 3, 2)).astype(np.float32)

    def slope(x, t):
        return jax.grad(lambda t: pool(x, (3, 2), 2, "SAME", temperature=t).sum())(t)

    hot = np.float32(1e37)
    with as_elsewhere():
        found, expected = slope(hot * x, hot), slope(x, np.float32(1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@extremes
def test_all_passes_agree_on_ties_and_nan(pool):
    # One axis, windows of one, two and many passes: the winner by the definition.
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, 300).astype(np.float32)
    x[rng.random(300) < 0.02] = np.nan
    best, sign = (np.argmax, 1) if pool is jaxpool.max_pool else (np.argmin, -1)
    # The last tap wins, whatever its number, and that of what a pass before found.
    last = sign * np.arange(1300, dtype=np.float32)
    cases = [*itertools.product((x, last[:300]), (7, 17, 40, 256, 257)), (last, 1200)]
    for (a, window), strides in itertools.product(cases, (1, 3, None)):
        g = gradient(pool, (window,), strides)(jnp.asarray(a)[:, None])[:, 0]
        expected = np.zeros_like(a)
        for start in range(0, len(a) - window + 1, strides or window):
            seen = a[start : start + window]
            nan = np.flatnonzero(np.isnan(seen))
            expected[start + (nan[0] if len(nan) else best(seen))] += 1
        np.testing.assert_array_equal(g, expected)


@extremes
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("window", "options"),
    [
        (2, {"padding": ((1, 1),)}),
        (5, {"padding": "SAME", "where": True}),
        (7, {"padding": ((0, 3),), "window_dilation": 3}),
        (13, {"padding": "SAME"}),
        (13, {"padding": "VALID", "where": True}),
        (13, {"padding": "SAME", "strides": 2}),
        (100, {"padding": ((70, 99),), "where": True}),
    ],
)
def test_one_long_example_is_that_example_in_a_batch(pool, channels: int, window: int, options):
    # Its borders are loops of their own. Ties, NaN and a mask, to the last bit.
    rng = np.random.default_rng(window)
    x = rng.integers(0, 9, (1, _plan.SHARED, channels)).astype(np.float32)
    x[rng.random(x.shape) < 0.002] = np.nan
    options = {"strides": 1} | options
    mask = rng.random((*x.shape[:2], 1)) < 0.5 if "where" in options else None
    f = functools.partial(pool, window_shape=(window,), **options | {"where": mask})

    @jax.jit
    def run(x):
        y, back = jax.vjp(f, x)
        g = jnp.arange(y[0].size, dtype=y.dtype).reshape(y[:1].shape) % 7
        return y, back(jnp.broadcast_to(g, y.shape))[0], jax.jvp(f, (x,), (x,))[1]

    twice = np.concatenate([x, x])
    one, two = run(x), run(twice)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[0]), one, two)
    jax.tree.map(np.testing.assert_array_equal, two, jax.tree.map(lambda a: a[::-1], two))
    calls = [run.lower(x).as_text().count('inlineable = "false"') for x in (x, twice)]
    assert calls[0] > calls[1]


@pytest.mark.parametrize("name", ["max", "sum", "avg"])
@pytest.mark.parametrize(
    ("shape", "window", "options", "dtype"),
    [
        ((2, 60, 20), (2,), {}, "float32"),
        ((2, 90, 12), (3,), {"padding": "SAME"}, "float32"),
        ((2, 60, 20), (3,), {"padding": ((4, 1),), "window_dilation": 3, "where": True}, "float32"),
        ((2, 100, 12), (13,), {"padding": "SAME"}, "float32"),  # passes
        ((1, 5, 90, 12), (3, 3), {"padding": "SAME"}, "bfloat16"),
        ((1, 5, 90, 12), (2, 3), {"strides": (2, 1), "padding": 1, "where": True}, "float32"),
    ],
    ids=["small", "border", "mask", "passes", "axes", "axes, mask"],
)
def test_few_channels_are_one_axis_with_the_windows(name, shape, window, options, dtype):
    # Value, gradient and tangent of all channels are those of six at a time, which are no axis with
    # any other. Ties and NaN, to the last bit (where XLA does not divide by multiplying).
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, shape).astype(dtype)
    x[rng.random(shape) < 0.01] = np.nan
    mask = rng.random((*shape[:-1], 1)) < 0.7 if "where" in options else None
    how = {"strides": 1} | options | {"where": mask}
    if name == "avg":
        how["count_include_pad"] = False
    f = functools.partial(getattr(jaxpool, f"{name}_pool"), window_shape=window, **how)

    @jax.jit
    def run(x, g):
        y, back = jax.vjp(f, x)
        return y, back(g)[0], jax.jvp(f, (x,), (x,))[1]

    g = rng.integers(1, 7, f(x).shape).astype(dtype)
    parts = [slice(c, c + 6) for c in range(0, shape[-1], 6)]
    few = [run(x[..., part], g[..., part]) for part in parts]
    expected = jax.tree.map(lambda *a: np.concatenate(a, -1), *few)
    for actual, each in zip(run(x, g), expected, strict=True):
        exact = {"rtol": 2e-7 if name == "avg" else 0}
        np.testing.assert_allclose(actual.astype(float), each.astype(float), **exact)
    assert f"x{shape[-2] * shape[-1]}x" in run.lower(x, g).as_text()
    if len(window) == 1:  # else all behind the first axis is one
        assert f"x{shape[-2] * 6}x" not in run.lower(x[..., :6], g[..., :6]).as_text()


@extremes
@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("length", [16, 17, 40, 256, 257, 4099])
def test_a_whole_axis_agrees_on_ties_and_nan(pool, axis: int, length: int):
    # The last axes are folded line by line, taps far apart; the winner by the definition.
    rng = np.random.default_rng(length)
    x = rng.integers(0, max(length // 3, 2), (16, length)).astype(np.float32)
    x[8:][rng.random((8, length)) < 3 / length] = np.nan
    best = np.nanargmax if pool is jaxpool.max_pool else np.nanargmin
    expected = np.zeros_like(x)
    for row, slope in zip(x, expected, strict=True):
        nan = np.flatnonzero(np.isnan(row))
        slope[nan[0] if len(nan) else best(row)] = 1
    x, expected = np.moveaxis(x, 1, axis), np.moveaxis(expected, 1, axis)
    f = functools.partial(pool, window_shape=(length,), axis=axis)
    np.testing.assert_array_equal(jax.grad(lambda x: f(x).sum())(jnp.asarray(x)), expected)
    np.testing.assert_array_equal(f(x), (np.max if best is np.nanargmax else np.min)(
        x, axis, keepdims=True
    ))  # fmt: skip


@extremes
@pytest.mark.parametrize(
    ("window", "strides"), [((3, 3), (3, 3)), ((3, 2), (4, 4)), ((16, 16), 16), ((3, 3), 2)]
)
def test_windows_far_apart_find_value_and_winner_in_one_loop(pool, window, strides, monkeypatch):
    # As complex numbers; 16 bits in two loops, with the same results. Some windows are empty.
    x = np.random.default_rng(0).integers(0, 5, (2, 24, 25, 16)).astype(np.float16)
    x[0, ::7, ::5, :4] = np.nan
    x[1, :8, :8] = x[1, 8:] = -np.inf if pool is jaxpool.max_pool else np.inf
    f = functools.partial(pool, window_shape=window, strides=strides, padding=((0, 9), (9, 0)))

    def both(x):
        y, back = jax.vjp(f, x)
        return y, back(jnp.ones_like(y))[0]

    def is_one(x) -> bool:
        return "stablehlo.complex" in jax.jit(both).lower(x).as_text()

    narrow, wide = jnp.asarray(x), jnp.asarray(x, jnp.float32)
    if strides == 2:  # of a map that no cache keeps
        assert not is_one(wide)
        assert is_one(jax.ShapeDtypeStruct((8, 112, 112, 64), jnp.float32))
        monkeypatch.setattr(_plan, "LARGE", 0)
        jax.clear_caches()
    assert is_one(wide)
    assert not is_one(narrow)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(both)(wide), jax.jit(both)(narrow))


@extremes
@pytest.mark.parametrize(
    ("dtype", "channels", "steps"),
    [
        *(("bfloat16", 3, [31]), ("bfloat16", 16, [16, 8, 4, 2, 1]), ("bfloat16", 64, [31])),
        *(("float16", 12, None), ("float16", 24, [4, 2, 1]), ("float16", 32, [31])),
        *(("float32", 16, [16, 8, 4, 2, 1]), ("float32", 32, [31]), ("float32", 64, None)),
    ],
)
def test_a_cotangent_goes_to_its_winner_bit_by_bit(pool, dtype, channels: int, steps: list | None):
    # By the definition, NaN, infinities and zeros with a sign, too. Five of six taps are read.
    # It goes by numbers in so many steps, or by truth values.
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (2, 6, 11, channels)).astype(np.float32)
    f = functools.partial(pool, window_shape=(2, 5), strides=(2, 6))
    y, back = jax.vjp(f, jnp.asarray(x, dtype))
    g = rng.choice([np.nan, np.inf, -np.inf, -0.0, 1.5, -3.0], y.shape).astype(np.float32)
    expected, best = np.zeros_like(x), np.argmax if pool is jaxpool.max_pool else np.argmin
    for n, i, j, c in np.ndindex(g.shape):
        row, column = divmod(best(x[n, 2 * i : 2 * i + 2, 6 * j : 6 * j + 5, c]), 5)
        expected[n, 2 * i + row, 6 * j + column, c] = g[n, i, j, c]
    g, place = jnp.asarray(g, dtype), jax.jit(lambda g: back(g)[0])
    found = np.asarray(place(g), np.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    text = place.lower(g).as_text()
    assert ("stablehlo.xor" in text) == (steps is not None)
    assert text.count("stablehlo.shift_right") == len(steps or [])


@extremes
@pytest.mark.parametrize(("dtype", "sign", "fewer", "more"), [
    ("float32", r"stablehlo\.or .*xi1>", 16, 8),  # whether one of two is NaN
    ("bfloat16", "xi16>", 8, 16),  # ranks
], ids=["float32", "bfloat16"])  # fmt: skip
def test_few_channels_are_compared_in_other_ways(pool, dtype, sign: str, fewer: int, more: int):
    # Sixteen channels of four taps, and bfloat16 of fewer; with the same results.
    rng = np.random.default_rng(0)
    x = rng.choice([-np.inf, -1.0, -0.0, 0.0, 2.0, np.inf], (3, 8, 8, 16)).astype(dtype)
    x[rng.random(x.shape) < 0.03] = np.nan
    f = functools.partial(pool, window_shape=(2, 2))

    @jax.jit
    def both(x):
        y, back = jax.vjp(f, x)
        return y, back(jnp.ones_like(y))[0]

    halves = [both(x[..., :8]), both(x[..., 8:])]
    for found, *each in zip(both(x), *halves, strict=True):
        expected = np.concatenate(each, -1).astype(np.float32)
        np.testing.assert_array_equal(found.astype(np.float32), expected)
    texts = {n: both.lower(x[..., :n]).as_text() for n in (8, 16)}
    assert len(re.findall(sign, texts[fewer])) < len(re.findall(sign, texts[more]))


@extremes
@pytest.mark.parametrize("window", [(4, 5), (2, 9), (20, 3), (3, 20), (2, 3, 4), (2, 1, 17)])
def test_axes_folded_first_to_last_agree_on_ties_and_nan(pool, window):
    # Channels first: the last axis is folded last, and the first in row-major order wins still.
    n = len(window)
    rng = np.random.default_rng(n)
    x = rng.integers(0, 3, (3, *(2 * k for k in window))).astype(np.float32)
    x[1:][rng.random(x[1:].shape) < 1 / np.prod(window)] = np.nan
    axis = tuple(range(1, n + 1))
    text = jax.jit(gradient(pool, window, axis=axis)).lower(jnp.asarray(x)).as_text()
    assert "stablehlo.remainder" in text  # of a rank
    best = np.argmax if pool is jaxpool.max_pool else np.argmin
    expected = np.zeros_like(x)
    for start in np.ndindex(3, *(2,) * n):
        at = (
            start[0],
            *(slice(i * k, (i + 1) * k) for i, k in zip(start[1:], window, strict=True)),
        )
        nan = np.flatnonzero(np.isnan(x[at]))
        winner = nan[0] if len(nan) else best(x[at])
        expected[at][np.unravel_index(winner, window)] = 1
    np.testing.assert_array_equal(gradient(pool, window, axis=axis)(jnp.asarray(x)), expected)


@pytest.mark.optimized
@pytest.mark.parametrize("name", ["max", "avg"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_large_bins_need_no_copy_of_the_map(name, channels_last: bool, memory_of):
    x = jnp.zeros((2, 99, 99, 32) if channels_last else (2, 32, 99, 99))
    axis = (1, 2) if channels_last else (2, 3)
    pool = functools.partial(
        getattr(jaxpool, f"adaptive_{name}_pool"), output_shape=(5, 5), axis=axis
    )
    back = memory_of(jax.jit(gradient(pool)).lower(x)).temp_size_in_bytes
    value = memory_of(jax.jit(pool).lower(x)).temp_size_in_bytes
    assert value <= 0.25 * x.nbytes
    assert back <= (0.25 if channels_last else 1.5) * x.nbytes


@pytest.mark.parametrize("name", ["max", "sum", "avg", "lse", "softmax", "lp"])
def test_axes_pooled_whole_are_one(name):
    pool = getattr(jaxpool, f"global_{name}_pool")
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    mask = x > -1
    text = jax.jit(gradient(pool)).lower(x).as_text()
    assert "tensor<2x35x3xf32>" in text
    flat = functools.partial(pool, where=mask.reshape(2, 35, 3))
    expected = flat(x.reshape(2, 35, 3))
    np.testing.assert_array_equal(pool(x, where=mask), expected)
    # Axes apart, and one that is not pooled whole, keep to themselves.
    assert jax.jit(functools.partial(pool, axis=(0, 2))).lower(x).as_text().count("2x35") == 0


@pytest.mark.parametrize("pool", POOLS[2:], ids=lambda pool: pool.__name__)
@pytest.mark.parametrize("length", [80, 197])  # 16 * 5, and a prime
def test_a_large_window_of_its_own_is_passes_of_few_taps(pool, length: int):
    x = jax.ShapeDtypeStruct((2, length, 64), jnp.float32)
    text = jax.jit(lambda x: pool(x, (length,))).lower(x).as_text()
    assert "stablehlo.reduce" not in text


@pytest.mark.parametrize(("length", "passes"), [(108, 2), (144, 2), (192, 2), (197, 3)])
def test_a_whole_axis_is_added_up_in_equal_parts(length: int, passes: int):
    x = jax.ShapeDtypeStruct((2, length, 64), jnp.float32)
    text = jax.jit(lambda x: jaxpool.avg_pool(x, (length,))).lower(x).as_text()
    assert text.count("call @add_slices") == passes


@pytest.mark.parametrize(
    ("pool", "window", "strides", "channels", "loops"),
    [
        (jaxpool.max_pool, (3, 3, 3), 2, 16, 1),
        (jaxpool.max_pool, (3, 3, 3), 1, 16, 2),
        (jaxpool.max_pool, (5, 5), 1, 16, 2),
        (jaxpool.avg_pool, (3, 3, 3), 1, 16, 1),
        (jaxpool.avg_pool, (5, 5), 2, 16, 1),
        (jaxpool.avg_pool, (6, 5), 2, 16, 2),
        (jaxpool.avg_pool, (16,), 1, 16, 1),
        (jaxpool.avg_pool, (16,), 1, 64, 0),
        # (An axis of which nothing is pooled is no axis.)
        (jaxpool.max_pool, (1, 16), 1, 16, 2),
        (jaxpool.avg_pool, (1, 16), 1, 64, 0),
    ],
)
def test_one_loop_over_several_axes_if_it_reads_little_more(
    pool, window, strides, channels: int, loops: int
):
    x = jax.ShapeDtypeStruct((2, *[21] * len(window), channels), jnp.float32)
    text = jax.jit(lambda x: pool(x, window, strides)).lower(x).as_text()
    assert len(re.findall(r"call @(add_slices|_fold)", text)) == loops
    assert text.count("stablehlo.reduce_window") == (0 if loops else 1)


@pytest.mark.parametrize("channels", [1, 3, 16, 64])
@pytest.mark.parametrize(("window", "strides"), [(17, 1), (24, 1), (64, 1), (31, 3)])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_large_windows_over_few_channels_are_those_over_one_axis(
    channels: int, window: int, strides: int, padding: str
):
    x = jnp.asarray(np.random.default_rng(0).integers(-9, 10, (2, 200, channels)), jnp.float32)
    real = np.pad(x, [(0, 0), (window, window), (0, 0)])
    n = np.pad(np.ones(200), window)
    at = np.arange(0, 201 - window, strides)
    if padding == "SAME":
        at = np.arange(0, 200, strides)
        at -= (at[-1] + window - 200) // 2
    seen = at[:, None] + np.arange(window) + window
    expected = real[:, seen].sum(2) / n[seen].sum(1)[:, None]
    f = functools.partial(
        jaxpool.avg_pool, window_shape=(window,), strides=strides, count_include_pad=False
    )
    y, back = jax.vjp(functools.partial(f, padding=padding), x)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    g = np.random.default_rng(1).integers(-9, 10, y.shape).astype(np.float32)
    dx = np.zeros(real.shape)
    for i, places in enumerate(seen):
        dx[:, places] += (g[:, i] / n[places].sum())[:, None]
    np.testing.assert_allclose(back(g)[0], dx[:, window:-window], rtol=1e-5, atol=1e-5)
    # One axis of all positions and channels.
    text = jax.jit(functools.partial(f, padding=padding)).lower(x).as_text()
    line = f"call @_steps.*tensor<2x{y.shape[1] * channels}xf32>"
    assert bool(re.search(line, text)) == (strides == 1 and channels < 64)


@pytest.mark.parametrize(
    ("shape", "window", "padding", "dtype", "axis", "reduces"),
    [
        ((3, 64, 80), 80, 0, "float32", -1, 1),
        ((3, 4, 80), 20, 0, "int32", -1, 1),
        ((3, 4, 80), 20, 7, "float16", -1, 0),  # which would need a copy with padding
        ((3, 4, 90), 20, 0, "float32", -1, 0),  # or without what is left over
        ((3, 80, 64), 80, 0, "bfloat16", -2, 1),
    ],
)
def test_neighbours_in_memory_are_added_up_by_one_reduce(
    shape, window, padding, dtype, axis, reduces
):
    x = np.random.default_rng(0).integers(-9, 10, shape)
    around = np.pad(x, [(padding, padding) if i == 3 + axis else (0, 0) for i in range(3)])
    n = (around.shape[axis] - window) // window + 1
    windows = np.moveaxis(around, axis, -1)[..., : n * window].reshape(*shape[:1], -1, n, window)
    f = jax.jit(lambda x: jaxpool.sum_pool(x, (window,), padding=padding, axis=axis))
    y = np.moveaxis(np.asarray(f(jnp.asarray(x, dtype))), axis, -1)
    np.testing.assert_array_equal(y, windows.sum(-1).astype(dtype))
    text = f.lower(jax.ShapeDtypeStruct(shape, dtype)).as_text()
    assert text.count("stablehlo.reduce(") == reduces


@pytest.mark.parametrize(
    ("pool", "window", "strides", "shape"),
    [
        (jaxpool.lse_pool, (3, 3), 1, (2, 9, 10, 32)),
        (jaxpool.softmax_pool, (3, 3), (2, 1), (2, 9, 10, 32)),
        (jaxpool.softmax_pool, (5, 4), 1, (2, 9, 10, 32)),
        (jaxpool.softmax_pool, (17, 2), 1, (2, 9, 10, 32)),
        (jaxpool.softmax_pool, (67, 2), 1, (2, 9, 10, 32)),
        (jaxpool.lse_pool, (3, 3), 1, (1, 18, 10, 1)),
        (jaxpool.softmax_pool, (5, 3), (2, 1), (1, 21, 10, 1)),
    ],
    ids=[
        "lse",
        "softmax-stride",
        "softmax",
        "softmax-passes",
        "softmax-digits",
        "lse-map",
        "softmax-map",
    ],
)
def test_near_far_parts_and_other_platforms_agree(pool, window, strides, shape, monkeypatch):
    # What x/T is small enough for takes another way than what is not; large arrays go in parts.
    # Other platforms choose alike, and know no parts.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    mask = jnp.asarray(rng.random(x.shape) < 0.8) if shape[-1] > 1 else None
    each = jnp.asarray([0.5, 1.0, 1.0, 2.0] * 8, jnp.float32)[: shape[-1]]

    def compiled(near, large):
        monkeypatch.setattr(_soft, "NEAR", near)
        monkeypatch.setattr(_parts, "LARGE", large)
        jax.clear_caches()

        def both(x, t):
            y, back = jax.vjp(
                lambda x, t: pool(x, window, strides, "SAME", temperature=t, where=mask), x, t
            )
            return y, *back(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

        return jax.jit(both).lower(x, each).compile()

    limit, large = _soft.NEAR, _parts.LARGE
    far, near, parts = compiled(0.0, large), compiled(limit, large), compiled(limit, 0)
    with as_elsewhere():
        elsewhere = compiled(limit, large)
    assert "while" in parts.as_text()
    assert ["conditional" in a.as_text() for a in (near, elsewhere)] == [True, True]
    assert "while" not in elsewhere.as_text()
    for temperature in (1e-3, 0.08, 1.0, 1e3):
        expected = far(x, temperature * each)
        for other in (near, parts, elsewhere):
            for a, b in zip(other(x, temperature * each), expected, strict=True):
                largest = np.abs(b, where=np.isfinite(b), out=np.zeros_like(b)).max()
                np.testing.assert_allclose(a, b, atol=3e-5 * float(1 + largest))


@pytest.mark.parametrize("pool", POOLS[4:], ids=["lse", "softmax"])
def test_the_way_back_takes_the_means_of_the_way_there(pool):
    # Beside x and the value that is all, whichever way it went. Examples go the same way at once,
    # and their derivatives still know it when they are taken apart.
    scales = jnp.asarray([1.0, 100.0, 0.1]).reshape(3, 1, 1, 1, 1)
    x = scales * jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 9, 8, 4)), jnp.float32)

    def there(x):
        return jax.vjp(lambda x: pool(x, (3, 3), 1, "SAME"), x)

    assert kept(lambda x: pool(x, (3, 3), 1, "SAME"), x[0]) <= 3.02 * x[0].nbytes
    y, back = jax.vmap(there)(x)
    for i, example in enumerate(x):
        (ours,) = jax.tree.map(lambda a, i=i: a[i], back)(jnp.cos(y[i]))
        value, alone = there(example)
        np.testing.assert_allclose(y[i], value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours, alone(jnp.cos(y[i]))[0], atol=1e-5)


@pytest.mark.parametrize("pool", POOLS[4:], ids=["lse", "softmax"])
def test_examples_that_went_different_ways_go_back_together(pool):
    rng = np.random.default_rng(0)
    scales = jnp.asarray([1.0, 30.0, 0.1, 1.0])
    for only in ([0, 1, 2, 3], [0, 2]):  # far among them, and near alone, small or not
        x = scales[jnp.asarray(only), None, None, None, None]
        x *= jnp.asarray(rng.normal(size=(len(only), 1, 9, 8, 4)), jnp.float32)
        if len(only) > 2:
            x = x.at[3, 0, 0, 0, 0].set(jnp.nan)

        def there(x):
            return jax.vjp(lambda x: pool(x, (3, 3), 1, "SAME"), x)

        y, back = jax.lax.map(there, x)
        (together,) = jax.vmap(lambda back, y: back(jnp.ones_like(y)))(back, y)
        alone = [there(example)[1](jnp.ones_like(y[0]))[0] for example in x]
        np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-5)


@pytest.mark.parametrize(
    ("pool", "window"),
    [(jaxpool.lse_pool, (3, 3)), (jaxpool.softmax_pool, (5, 2))],
    ids=["lse, one loop", "softmax, passes"],
)
def test_near_and_far_agree_on_second_derivatives(pool, window, monkeypatch):
    rng = np.random.default_rng(0)
    x, v, u = jnp.asarray(rng.normal(size=(3, 1, 7, 6, 2)), jnp.float32)

    def derivatives(near):
        monkeypatch.setattr(_soft, "NEAR", near)
        jax.clear_caches()

        @jax.jit
        def run(x, t):
            def slope(x, t):
                return jax.grad(lambda x: jnp.vdot(u, pool(x, window, 1, "SAME", temperature=t)))(x)

            return (
                *jax.jvp(slope, (x, t), (v, jnp.zeros_like(t))),
                jax.jvp(slope, (x, t), (jnp.zeros_like(x), jnp.ones_like(t)))[1],
            )

        return run(x, jnp.asarray(0.7, jnp.float32))

    limit = _soft.NEAR
    far, near = derivatives(0.0), derivatives(limit)
    jax.clear_caches()
    for a, b in zip(far, near, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("temperature", [1e-30, 1e36])
def test_softmax_has_a_gradient_at_every_scale(temperature):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 9, 3)), jnp.float32)

    def slope(t):
        _, back = jax.vjp(
            lambda x: jaxpool.softmax_pool(x, (3, 3), 1, "SAME", temperature=t), x * t
        )
        return back(1e9 * jnp.cos(x))[0]

    np.testing.assert_allclose(slope(jnp.float32(temperature)), slope(1.0), rtol=1e-3, atol=1e5)


@pytest.mark.parametrize(
    ("shape", "axes", "pads", "part"),
    [
        # 16 parts of the channels would leave loops of 4.
        ((8, 12, 12, 64), (-3, -2), (1, 1), (1, 12, 12, 32)),
        ((12, 12, 256), (-3, -2), (1, 1), (12, 12, 16)),
        ((1, 12, 12, 32), (-3, -2), (1, 1), (1, 5, 12, 8)),  # of a vector, and along the map
        ((3, 12, 12, 8), (-3, -2), (1, 1), (1, 5, 12, 8)),
        ((1, 9, 12, 8), (-3, -2), (0, 0), (1, 1, 9, 7)),  # so few that loops go along the map
        ((1, 60, 12, 8), (-3, -2), (1, 1), (1, 6, 12, 8)),  # along a map that is long
        ((3, 12, 12, 6), (-3, -2), (1, 1), (1, 12, 12, 1)),  # one by one where they fill no vector
        ((1, 60, 12, 3), (-3, -2), (1, 1), (1, 12, 12, 1)),
        ((4, 12, 12), (-2, -1), (1, 1), (1, 5, 12)),  # along the map too: 3 windows reach 5
        ((12, 12), (-2, -1), (1, 1), (5, 12)),
        ((12, 12, 1), (-3, -2), (0, 0), (6, 12, 1)),
        ((12, 12, 1), (-3, -2), (7, 2), (6, 12, 1)),
        ((12, 12, 1), (-3, -2), (-2, 1), (5, 12, 1)),
    ],
)
def test_parts_make_the_whole(shape, axes, pads, part, monkeypatch):
    # Sums over windows, and back. Windows at the borders of parts share elements.
    monkeypatch.setattr(_parts, "LARGE", 0)
    low, high = pads
    lengths = [(a, shape[a]) for a in axes]
    windows = tuple(Window(a, n, 3, 1, 1, low, 0, n - 2 + low + high) for a, n in lengths)
    seen = set()

    def pool(elements, around, windows):
        x, _, mask = elements
        seen.add(x.shape)

        def total(x):
            return _sums.total(x if mask is None else jnp.where(mask, x, 0), windows)

        return jax.linear_transpose(total, x)(*around)[0] if around else total(x)

    x = jax.random.normal(jax.random.key(0), shape)
    elements = x, jnp.ones([1] * x.ndim), None
    y = pool(elements, (), windows)
    dx = pool(elements, (y,), windows)
    seen.clear()
    for expected, around in ((y, ()), (dx, (y,))):
        pooled = _parts.in_parts(pool, 16, bool(around), elements, around, windows)
        np.testing.assert_allclose(pooled, expected, atol=1e-5)
    assert seen == {part}


@pytest.mark.parametrize(
    ("pool", "shape", "window", "loops"),
    [
        (jaxpool.lse_pool, (2, 8000, 4), 32, 1),  # only large x/T
        (jaxpool.lse_pool, (16, 160000, 4), 32, 2),
        (jaxpool.lse_pool, (2, 8000, 4), 31, 2),
        (jaxpool.softmax_pool, (2, 8000, 4), 32, 2),
    ],
)
def test_what_needs_few_small_arrays_is_one_part(pool, shape, window: int, loops: int):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    text = jax.jit(lambda x: pool(x, (window,), 1)).lower(x).as_text()
    assert text.count("stablehlo.while") == loops


@pytest.mark.parametrize("pool", POOLS[4:], ids=lambda pool: pool.__name__)
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
def test_values_choose_the_way(pool, padding):
    # One value too large for the shorter way, and the others are as exact as without it.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 12, 3)), jnp.float32)
    f = jax.jit(lambda x: pool(x, (3, 3), 1, padding))
    far = f(x.at[0, 0, 0, 0].set(200.0))
    np.testing.assert_allclose(far[0, 2:-1, 2:-1], f(x)[0, 2:-1, 2:-1], atol=1e-5)
    assert np.isfinite(far).all()
    assert far[0, 0, 0, 0] > 190


@pytest.mark.parametrize("pool", POOLS[4:], ids=lambda pool: pool.__name__)
@pytest.mark.parametrize("shape", [(1, 28, 28, 64), (1, 56, 56, 3), (2, 60, 60, 1)])
@pytest.mark.parametrize("large", [1000, -1000])
def test_nan_hides_no_large_element_elsewhere(pool, shape, large: float):
    # XLA's own maximum of all elements forgets what it saw before a NaN.
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x[:, 2] = large
    clean = jnp.asarray(x)
    x[:, shape[1] // 2] = np.nan
    f = functools.partial(pool, window_shape=(3,) * (len(shape) - 2), strides=1)
    apart = slice(0, shape[1] // 2 - 4)  # no window there, and no element, meets the NaN

    @jax.jit
    def run(x):
        y, back = jax.vjp(f, x)
        return y[:, apart], back(jnp.ones_like(y))[0][:, apart]

    for found, expected in zip(run(jnp.asarray(x)), run(clean), strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", POOLS[4:], ids=lambda pool: pool.__name__)
def test_nan_hides_no_small_temperature_elsewhere(pool):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4, 4, 64)), jnp.float32)
    clean = jnp.ones((64, 1, 1, 64)).at[:30].set(1e-3)
    run = jax.jit(lambda t: pool(x, (3, 3), 1, temperature=t))
    found, expected = (run(t)[:30] for t in (clean.at[30].set(jnp.nan), clean))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("pool", POOLS[4:], ids=lambda pool: pool.__name__)
@pytest.mark.parametrize(
    ("window", "strides", "chooses"),
    [
        *[((2, 2), 1, True), ((4, 4), 2, True), ((3, 3), 2, False), ((2, 2), 2, False)],
        *[((3, 1), 1, True), ((3, 1), (1, 2), False), ((2, 1), 1, False)],
    ],
)
def test_one_exponential_for_elements_of_many_windows(pool, window, strides, chooses):
    x = jax.ShapeDtypeStruct((1, 12, 12, 3), jnp.float32)
    text = jax.jit(lambda x: pool(x, window, strides)).lower(x).as_text()
    assert ("@_value(" in text) == chooses  # between one for each element and one for each window


@pytest.mark.parametrize("pool", POOLS[4:], ids=lambda pool: pool.__name__)
def test_a_constant_moves_no_derivative(pool):
    # Near the largest |x/T| of the shorter way, where sums of exponentials are smallest.
    rng = np.random.default_rng(0)
    x, v, u = jnp.asarray(rng.uniform(-0.5, 0.5, (3, 1, 16, 2)), jnp.float32)

    @jax.jit
    def derivatives(x):
        def slope(x):
            return jax.grad(lambda x: jnp.vdot(u, pool(x, (5,), 1, "SAME")))(x)

        return slope(x), *jax.jvp(lambda x: jax.jvp(slope, (x,), (v,))[1], (x,), (v,))

    edge = _soft.NEAR - 1
    for low, middle in zip(derivatives(x - edge), derivatives(x), strict=True):
        np.testing.assert_allclose(low, middle, atol=1e-4)
