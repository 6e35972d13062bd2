"""Large windows whose size and stride share no factor: pieces of the map that take turns."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.nn import logsumexp, softmax

import jaxpool
from jaxpool import _turns
from jaxpool._plan import takes_turns
from jaxpool._window import Window

INF = np.inf

# (size, stride, padding), and whether there is a mask: the first elements of a row and the others;
# rows alone, of a prime number of elements; windows that do not overlap; elements left over;
# windows that see nothing; pieces that are made of one length, or are of one.
AXES = [
    ((73, 16, 0), False),
    ((70, 23, 0), True),
    ((76, 19, 0), False),
    ((37, 37, 0), True),
    ((29, 40, 0), False),
    ((75, 17, 30), True),
    ((76, 19, 11), False),
    ((37, 37, 18), False),
    ((41, 44, 90), False),
    ((50, 33, 0), True),
    ((53, 35, 26), False),
    ((57, 38, 8), True),
]


def whole_of(kind: str) -> Callable:
    """A pooling of arrays [..., taps], of which only what is `real` exists, by its definition."""

    def run(x: jax.Array, real: jax.Array) -> jax.Array:
        some = real.any(-1)
        if kind == "max":
            return jnp.max(x, -1, where=real, initial=-INF)
        if kind == "min":
            return jnp.min(x, -1, where=real, initial=INF)
        if kind == "sum":
            return jnp.sum(x, -1, where=real)
        if kind == "lp":
            total = jnp.sum(jnp.abs(x) ** 3, -1, where=real)
            return jnp.where(some, jnp.where(some, total, 1) ** (1 / 3), 0)
        z = jnp.where(real, x, -1e30)
        if kind == "lse":
            return jnp.where(some, logsumexp(z, -1) - jnp.log(jnp.maximum(real.sum(-1), 1)), -INF)
        return jnp.where(some, jnp.sum(softmax(z, -1) * jnp.where(real, x, 0), -1), 0)

    return run


POOLS = {
    "max": jaxpool.max_pool,
    "min": jaxpool.min_pool,
    "sum": jaxpool.sum_pool,
    "lse": jaxpool.lse_pool,
    "softmax": jaxpool.softmax_pool,
    "lp": lambda *args, **how: jaxpool.lp_pool(*args, p=3.0, **how),
}


def gathered(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    """[batch, n, channels] as [batch, windows, channels, taps]."""
    n = (x.shape[1] + 2 * padding - size) // stride + 1
    x = jnp.pad(x, ((0, 0), (padding, padding), (0, 0)))
    at = np.arange(n)[:, None] * stride + np.arange(size)
    return jnp.moveaxis(x[:, at], 2, -1)


@pytest.mark.parametrize(("axis", "masked"), AXES)
@pytest.mark.parametrize("kind", POOLS)
def test_they_equal_the_definition(kind: str, axis: tuple, masked: bool):
    size, stride, padding = axis
    rng = np.random.default_rng(size)
    x = jnp.asarray(rng.permutation(2 * 160 * 3).reshape(2, 160, 3) / 100 + 0.01, jnp.float32)
    mask = rng.random((2, 160, 1)) < 0.1 if masked else np.ones((1, 160, 1), bool)
    where = jnp.asarray(mask) if masked else None
    assert takes_turns(window_of(x, *axis), rows=True)
    assert takes_turns(window_of(x, *axis), rows=False) == (stride < size)

    def ours(x):
        return POOLS[kind](x, (size,), stride, ((padding, padding),), where=where)

    def defined(x):
        real = gathered(jnp.broadcast_to(jnp.asarray(mask), x.shape).astype(x.dtype), *axis) > 0
        return whole_of(kind)(gathered(x, *axis), real)

    def all_of(f, x):
        y, along = jax.linearize(f, x)
        (back,) = jax.linear_transpose(along, x)(jnp.cos(jnp.arange(y.size)).reshape(y.shape))
        return y, back, along(1 / x)

    found, expected = (jax.jit(all_of, static_argnums=0)(f, x) for f in (ours, defined))
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-5, atol=2e-5)
    for derivative, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(derivative, other, rtol=2e-4, atol=2e-5)


def window_of(x: jax.Array, size: int, stride: int, padding: int) -> Window:
    n = (x.shape[1] + 2 * padding - size) // stride + 1
    return Window(-2, x.shape[1], size, stride, 1, padding, padding, n)


@pytest.mark.parametrize("kind", [*POOLS, "gem"])
def test_several_axes_take_turns_as_they_would_not(kind: str, monkeypatch):
    pool = POOLS.get(kind, jaxpool.gem_pool)
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (2, 90, 80, 3)).astype(np.float32)  # with ties
    if kind in ("max", "min", "lse"):
        x[0, 7, 9, 1], x[1, :, :, 2] = np.nan, -INF
    tangent = rng.normal(size=x.shape).astype(np.float32)
    both_turn, one_turns, small = ((69, 67), (17, 18)), ((81, 4), (16, 3)), ((33, 19), (16, 17))
    for windows, strides in [small] if kind in ("lse", "softmax") else [both_turn, one_turns]:

        def both(x, windows=windows, strides=strides):
            y, along = jax.linearize(lambda x: pool(x, windows, strides, "SAME"), x)
            (back,) = jax.linear_transpose(along, x)(jnp.cos(jnp.where(jnp.isfinite(y), y, 0)))
            return y, back, along(jnp.asarray(tangent))

        found = jax.jit(both)(x)
        with monkeypatch.context() as patch:
            patch.setattr(_turns, "takes_turns", lambda *_, **__: False)
            jax.clear_caches()
            expected = jax.jit(both)(x)
        jax.clear_caches()
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["max", "lse", "lp"])
def test_second_derivatives_and_maps_over_them(kind: str):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 120, 2)), jnp.float32)

    def ours(x):
        return (POOLS[kind](x, (69,), 16, axis=0) ** 2).sum()

    def defined(x):
        each = gathered(x[None], 69, 16, 0)
        return (whole_of(kind)(each, jnp.ones(each.shape, bool)) ** 2).sum()

    def curved(f, x):
        return jax.jvp(jax.grad(f), (x,), (jnp.cos(x),))[1]

    found = jax.jit(jax.vmap(lambda x: curved(ours, x)))(x)
    expected = jax.lax.map(lambda x: curved(defined, x), x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    mapped = jax.lax.map(lambda x: curved(ours, x), x)
    np.testing.assert_allclose(mapped, found, rtol=1e-5, atol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize(("size", "stride"), [(551, 220), (1102, 441), (97, 97)])
@pytest.mark.parametrize("kind", POOLS)
def test_they_need_little_memory(kind: str, size: int, stride: int, memory_of):
    x = jax.ShapeDtypeStruct((2, 20000, 8), jnp.float32)

    def both(x):
        y, back = jax.vjp(lambda x: POOLS[kind](x, (size,), stride), x)
        return y, back(y)[0]

    memory = memory_of(jax.jit(both).lower(x))
    assert memory.temp_size_in_bytes < 2 * 2 * 20000 * 8 * 4


@pytest.mark.optimized
@pytest.mark.parametrize(("size", "stride"), [(551, 220), (60, 23)])
@pytest.mark.parametrize("pool", [jaxpool.max_pool, jaxpool.avg_pool])
def test_pieces_are_read_in_place(pool: Callable, size: int, stride: int, memory_of):
    x = jax.ShapeDtypeStruct((2, 20000, 8), jnp.float32)
    y = jax.ShapeDtypeStruct((2, (20000 - size) // stride + 1, 8), jnp.float32)

    def value(x, y):
        return pool(x, (size,), stride)

    def slope(x, y):
        return jax.vjp(lambda x: pool(x, (size,), stride), x)[1](y)

    for f in (value, slope) if pool is jaxpool.avg_pool else (value,):
        memory = memory_of(jax.jit(f).lower(x, y))
        assert memory.temp_size_in_bytes < x.size * 4 / 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int16"])
@pytest.mark.parametrize("axis", [-1, -2], ids=["last", "not last"])
@pytest.mark.parametrize("kind", ["max", "min", "sum"])
def test_axes_and_dtypes(kind: str, axis: int, dtype: str):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (2, 170, 3))
    mask = rng.random((2, 1, 3)) < 0.5  # one for all elements of an axis
    for size, stride, padding in ((73, 16, 0), (37, 37, 20), (40, 50, 0), (31, 5, 9)):
        real = gathered(jnp.broadcast_to(mask, x.shape).astype(int), size, stride, padding) > 0
        expected = whole_of(kind)(gathered(jnp.asarray(x, "float32"), size, stride, padding), real)
        found = POOLS[kind](
            jnp.swapaxes(jnp.asarray(x, dtype), 1, axis),
            size,
            stride,
            padding,
            axis=axis,
            where=np.swapaxes(mask, 1, axis),
        )
        if dtype == "int16" and kind != "sum":
            least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
            expected = np.nan_to_num(expected, posinf=most, neginf=least)
        np.testing.assert_array_equal(
            np.swapaxes(found, 1, axis), np.asarray(jnp.asarray(expected, dtype))
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(73, 16, 0), (50, 33, 9), (37, 37, 18), (5, 2, 2)]
)
def test_16_bits_have_the_gradient_of_32(size: int, stride: int, padding: int, dtype: str):
    # Of whole numbers, so nothing is rounded; all less than 0, which padding must not be.
    rng = np.random.default_rng(0)
    x = rng.integers(-20, 0, (2, 170, 3))

    def slope(x):
        y, back = jax.vjp(lambda x: jaxpool.max_pool(x, (size,), stride, padding), x)
        return y, back((jnp.arange(y.size) % 16).reshape(y.shape).astype(x.dtype))[0]

    narrow, wide = (slope(jnp.asarray(x, d)) for d in (dtype, "float32"))
    for found, expected in zip(narrow, wide, strict=True):
        assert found.dtype == dtype
        np.testing.assert_array_equal(np.asarray(found, np.float32), expected)


def test_an_element_is_in_one_piece():
    for size, stride, low, length in itertools.product((17, 40, 51), (16, 17, 60), (0, 9), (150,)):
        out = (length + low - size) // stride + 1
        window = Window(-1, length, size, stride, 1, low, 0, out)
        x = jnp.arange(1, length + 1)
        seen = np.concatenate([np.ravel(p) for p in _turns.pieces(x, window)])
        expected = np.asarray(x)[window.seen()]
        assert sorted(seen[seen > 0]) == expected.tolist()


@pytest.mark.parametrize("kind", ["max", "softmax"])
def test_pieces_of_almost_one_length_are_one_program(kind: str):
    x = jax.ShapeDtypeStruct((1, 20_000, 8), jnp.float32)

    def lines(size: int, stride: int) -> int:
        slope = jax.grad(lambda x: POOLS[kind](x, (size,), stride).sum())
        return jax.jit(slope).lower(x).as_text().count("\n")

    of_one_kind = lines(3 * 223, 223)
    for size, stride in ((1115, 446), (1117, 447), (1118, 447)):  # 223 and 223, 224; 224 and 223
        assert lines(size, stride) < 1.3 * of_one_kind


def test_sizes_may_be_symbolic():
    batch, channels = export.symbolic_shape("b, c")
    f = jax.jit(jax.grad(lambda x: jaxpool.lse_pool(x, (71,), 17, "SAME").sum()))
    exported = export.export(f)(jax.ShapeDtypeStruct((batch, 100, channels), jnp.float32))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 100, 3)), jnp.float32)
    np.testing.assert_allclose(exported.call(x), f(x), rtol=1e-5, atol=1e-6)
