"""The modules: NNX equals Linen equals the function, and the temperature that both can learn."""

import dataclasses
import functools
import inspect
import itertools
import re

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jaxpool
import jaxpool.linen as jpl
import jaxpool.nnx as jpn
from jaxpool import _mixed
from jaxpool._modules import POWER, learned

WINDOWED = ["MaxPool", "MinPool", "SumPool", "AvgPool", "LSEPool", "SoftmaxPool", "LpPool"]
ADAPTIVE = [f"Adaptive{name}" for name in [*WINDOWED, "MaxPoolWithIndices"]]
WINDOWED += ["GeMPool"]
GLOBAL = [f"Global{name}" for name in WINDOWED]
LOCATED = ["MaxPoolWithIndices", "MinPoolWithIndices"]
OTHERS = ["MaxUnpool", "FractionalMaxPool", "SpatialPyramidPool", "BlurPool", "MaxBlurPool"]
OTHERS += ["MixedPool", "StochasticPool", "PolyphasePool", "PolyphaseUnpool"]
GATED = "GatedPool"  # mixed_pool at the odds of a gate, a function of the modules alone
LEARNED = "LearnedPolyphasePool"
ALL = [*WINDOWED, *LOCATED, *GLOBAL, *ADAPTIVE, *OTHERS]
TEMPERED = [name for name in WINDOWED + GLOBAL if "LSE" in name or "Softmax" in name]
POWERED = [name for name in WINDOWED + GLOBAL if "Lp" in name or "GeM" in name]
EXTRA = {
    "MixedPool": [{"alpha": [0.1, 0.5, 1]}, {"alpha": np.float32(0.3), "count_include_pad": True}],
    "AvgPool": [{"count_include_pad": False}, {"divisor_override": 3}],
    "LSEPool": [{"temperature": 0.3}, {"temperature": [0.5, 1, 2], "normalize": False}],
    "SoftmaxPool": [{"temperature": 0.3}, {"temperature": np.array([0.5, 1.0, 2.0])}],
    "LpPool": [{"p": 3}, {"p": [1, 2.5, 9], "normalize": True}, {"p": float("inf")}],
    "GeMPool": [{"p": np.array([1.0, 3.0, 4.0]), "eps": 0.1}],
}
LEARN = {"learn", "features", "channel_axis", "param_dtype", "rngs", "rng_collection"}


def function(name):
    """GlobalLSEPool -> jaxpool.global_lse_pool."""
    plain = name.replace("LSE", "Lse").replace("GeM", "Gem").replace("Gated", "Mixed")
    words = re.findall("[A-Z][a-z]+", plain)
    return getattr(jaxpool, "_".join(words).lower())


def window(name):
    """The positional arguments that a class needs."""
    return () if name in GLOBAL else ((2, 2),)


def images(shape=(2, 4, 4, 3), seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def masks(shape=(2, 4, 4, 1), seed=1):
    return jax.random.bernoulli(jax.random.key(seed), 0.7, shape)


def linen(module, x, **data):
    """Initialise and apply a Linen module: (output, its params)."""
    y, variables = module.init_with_output(jax.random.key(0), x, **data)
    return y, variables.get("params", {})


# The same function three times


def check_same(name, *args, where=None, **kwargs):
    x, mask = images(), {} if where is None else {"where": where}
    expected = function(name)(x, *args, **mask, **kwargs)
    found, params = linen(getattr(jpl, name)(*args, **kwargs), x, **mask)
    assert not params
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal(getattr(jpn, name)(*args, **kwargs)(x, **mask), expected)


@pytest.mark.parametrize("name", [*WINDOWED, "MixedPool"])
def test_modules_equal_the_function(name):
    check_same(name, (2, 2))
    check_same(name, [3, 2], [1, 2], "SAME", axis=(-3, -2))
    check_same(name, (2, 3), 1, [(1, 0), (0, 1)], axis=[2, 1])
    check_same(name, np.array([2, 3]), None, "circular", window_dilation=[2, 1])
    check_same(name, (3, 3), 2, np.array([1, 1]), ceil_mode=True)
    check_same(name, 2, axis=np.int64(1))


@pytest.mark.parametrize("name", [*WINDOWED, "MixedPool"])
def test_modules_pass_masks_and_options_on(name):
    check_same(name, (2, 2), where=masks())
    for options in EXTRA.get(name, []):
        check_same(name, (2, 2), padding="SAME", **options)


@pytest.mark.parametrize("name", GLOBAL)
def test_global_modules_equal_the_function(name):
    for axis, keepdims in (None, False), (1, True), ([1, 2], True):
        check_same(name, axis=axis, keepdims=keepdims)
    check_same(name, where=masks())
    for options in EXTRA.get(name.removeprefix("Global"), []) if name in TEMPERED + POWERED else []:
        check_same(name, **options)


@pytest.mark.parametrize("name", LOCATED)
def test_modules_give_indices(name):
    check_same(name, (2, 2), where=masks())
    check_same(name, [3, 2], [1, 2], "reflect", axis=(-3, -2))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_modules_equal_the_function(name):
    check_same(name, [3, None], where=masks())
    check_same(name, 3, axis=np.array([2, 1]))
    if "LSE" in name or "Softmax" in name:
        check_same(name, (3, 2), temperature=[0.5, 1, 2])
        y, params = linen(getattr(jpl, name)((3, 2), temperature=0.5, learn="channel"), images())
        assert params["log_temperature"].shape == (3,)
        expected = function(name)(images(), (3, 2), temperature=0.5)
        np.testing.assert_allclose(y, expected, atol=1e-6)
        module = getattr(jpn, name)((3, 2), temperature=0.5, learn="channel", features=3)
        np.testing.assert_array_equal(module(images()), y)


def test_pyramid_modules_equal_the_function():
    check_same("SpatialPyramidPool", where=masks())
    check_same("SpatialPyramidPool", [1, [2, 3]], pool="avg", axis=(1, 2))


def test_blur_modules_equal_the_function():
    check_same("BlurPool")
    check_same("BlurPool", [2, 1], filter_size=np.array([4, 1]), padding="circular", axis=[2, 1])
    check_same("MaxBlurPool", [2, 3], padding=[[1, 0], [0, 1]])
    check_same("MaxBlurPool", 2, np.int64(1), filter_size=5, padding="normalized", axis=(1, 2))


def test_unpool_modules_equal_the_function():
    y, indices = jaxpool.max_pool_with_indices(images(), (2, 2))
    for args, axis in (([4, 4],), None), ((4,), [1, 2]):
        expected = jaxpool.max_unpool(y, indices, *args, axis=axis)
        found = jpl.MaxUnpool(*args, axis=axis).apply({}, y, indices)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(jpn.MaxUnpool(*args, axis=axis)(y, indices), expected)


def test_fractional_modules_draw_from_their_stream():
    x, key = images((2, 9, 9, 3)), jax.random.key(3)
    arguments = {"output_ratio": 0.6, "sequence": "random", "overlapping": False}
    module = jpl.FractionalMaxPool([2, 2], **arguments)
    y = module.apply({}, x, rngs={"pool": key})
    other = jpl.FractionalMaxPool([2, 2], **arguments, rng_collection="dropout")
    np.testing.assert_array_equal(other.apply({}, x, rngs={"dropout": key}), y)
    assert y.shape == (2, 5, 5, 3)
    np.testing.assert_array_equal(module.apply({}, x, rngs={"pool": key}), y)
    assert np.any(module.apply({}, x, rngs={"pool": jax.random.key(4)}) != y)

    expected = jaxpool.fractional_max_pool(nnx.Rngs(pool=3).pool(), x, (2, 2), **arguments)
    own = nnx.Rngs(pool=3).pool.fork()()
    expected_own = jaxpool.fractional_max_pool(own, x, (2, 2), **arguments)
    module = jpn.FractionalMaxPool([2, 2], **arguments, rngs=nnx.Rngs(pool=3))
    np.testing.assert_array_equal(module(x), expected_own)
    other = jpn.FractionalMaxPool([2, 2], **arguments, rng_collection="other")
    np.testing.assert_array_equal(other(x, rngs=nnx.Rngs(other=3)), expected)
    assert any(np.any(module(x) != expected_own) for _ in range(3))  # drawn anew
    np.testing.assert_array_equal(module(x, rngs=nnx.Rngs(pool=3)), expected)
    with pytest.raises(ValueError, match="^FractionalMaxPool: rngs=None .*Write rngs="):
        jpn.FractionalMaxPool((2, 2), output_shape=3)(x)

    @nnx.jit
    def run(module, x):
        return module(x)

    module = jpn.FractionalMaxPool([2, 2], **arguments, rngs=nnx.Rngs(pool=3))
    np.testing.assert_array_equal(run(module, x), expected_own)
    assert any(np.any(run(module, x) != expected_own) for _ in range(3))


def one_of_each_that_draws(rngs):
    """Every module that draws, twice, of the same `rngs`."""
    make = {
        "fractional": lambda: jpn.FractionalMaxPool((2, 2), output_ratio=0.5, rngs=rngs),
        "stochastic": lambda: jpn.StochasticPool((2, 2), rngs=rngs),
        "mixed": lambda: jpn.MixedPool((2, 2), alpha="random", rngs=rngs),
        "polyphase": lambda: jpn.LearnedPolyphasePool(features=3, rngs=rngs),
    }
    return nnx.Dict({name: nnx.List([one(), one()]) for name, one in make.items()})


def test_modules_of_one_rngs_draw_from_streams_of_their_own():
    """As Flax's Dropout: a copy, such as `jax.jit` makes, has no stream that two modules share."""
    pools = one_of_each_that_draws(nnx.Rngs(0, pool=1))
    streams = [pool.rngs for pools in pools.values() for pool in pools]
    keys = {tuple(np.asarray(jax.random.key_data(stream.key[...]))) for stream in streams}
    assert len(keys) == len(streams) == 8
    nnx.split(pools, graph=False)  # which refuses what is shared
    x = images((2, 12, 12, 3))
    first, second = jax.jit(lambda pools, x: [pool(x) for pool in pools])(pools["stochastic"], x)
    assert np.any(first != second)


def linen_draw(module, x, key=None, **data):
    """Apply a Linen module that draws."""
    return module.apply({}, x, **data, rngs={} if key is None else {"pool": key})


def test_stochastic_modules_draw_as_dropout_does():
    x, key, where = images(), jax.random.key(3), masks()
    arguments = {"strides": [1, 2], "padding": "SAME"}
    expected = jaxpool.stochastic_pool(None, x, (2, 2), **arguments, deterministic=True)
    module = jpl.StochasticPool([2, 2], **arguments)
    y = linen_draw(module, x, key, where=where, deterministic=False)
    again = jpl.StochasticPool((2, 2), **arguments, deterministic=False)
    np.testing.assert_array_equal(linen_draw(again, x, key, where=where), y)
    assert np.any(linen_draw(again, x, jax.random.key(4), where=where) != y)
    chex.assert_trees_all_equal(linen_draw(module, x, deterministic=True), expected)
    other = jpl.StochasticPool((2, 2), **arguments, rng_collection="dropout", deterministic=False)
    assert other.apply({}, x, rngs={"dropout": key}).shape == y.shape
    with pytest.raises(Exception, match="deterministic"):  # not told, as Dropout
        linen_draw(module, x, key)
    with pytest.raises(TypeError, match="^StochasticPool: deterministic=.*before tracing"):
        jax.jit(lambda told: linen_draw(module, x, key, deterministic=told))(True)

    draw = functools.partial(jaxpool.stochastic_pool, **arguments, where=where)
    wanted, wanted_own = (
        draw(key, x, (2, 2)) for key in (nnx.Rngs(pool=3).pool(), nnx.Rngs(pool=3).pool.fork()())
    )
    module = jpn.StochasticPool([2, 2], **arguments, rngs=nnx.Rngs(pool=3))
    np.testing.assert_array_equal(module(x, where), wanted_own)
    assert np.any(module(x, where) != wanted_own)  # drawn anew
    np.testing.assert_array_equal(module(x, where, rngs=nnx.Rngs(pool=3)), wanted)
    np.testing.assert_array_equal(module(x, where, rngs=nnx.Rngs(pool=3).pool), wanted)
    chex.assert_trees_all_equal(module(x, deterministic=True), expected)
    module.eval()
    chex.assert_trees_all_equal(module(x), expected)
    assert np.any(nnx.view(module, deterministic=False)(x) != expected)
    other = jpn.StochasticPool([2, 2], **arguments, rng_collection="dropout")
    assert np.any(other(x, rngs=nnx.Rngs(dropout=3)) != expected)
    with pytest.raises(ValueError, match="^StochasticPool: rngs=None .*nnx.Rngs.dropout=0"):
        other(x)
    for no_stream in (0, jax.random.key(0), nnx.Rngs(params=0)):
        kind = type(no_stream).__name__
        with pytest.raises(ValueError, match=f"rngs of type {kind} has no stream 'dropout'"):
            other(x, rngs=no_stream)
        with pytest.raises(ValueError, match="^LearnedPolyphasePool: rngs"):
            jpn.LearnedPolyphasePool(features=3, rngs=None if kind == "Rngs" else no_stream)
    with pytest.raises(TypeError, match="^StochasticPool: deterministic=.*before tracing"):
        jax.jit(lambda told: module(x, deterministic=told))(True)


def test_mixed_modules_draw_max_or_avg():
    x = images()
    both = [jaxpool.max_pool(x, (2, 2)), jaxpool.avg_pool(x, (2, 2))]
    mean = jaxpool.mixed_pool(x, (2, 2))
    module = jpl.MixedPool((2, 2), alpha="random")
    keys = jax.random.split(jax.random.key(0), 200)
    y = jax.jit(jax.vmap(lambda key: linen_draw(module, x, key, deterministic=False)))(keys)
    tops, means = (np.array([np.array_equal(one, end) for one in y]) for end in both)
    assert np.all(tops ^ means)
    assert 70 < tops.sum() < 130
    np.testing.assert_array_equal(linen_draw(module, x, deterministic=True), mean)

    module = jpn.MixedPool((2, 2), alpha="random", rngs=nnx.Rngs(pool=0))
    found = {float(module(x).sum()) for _ in range(20)}
    assert found == {float(end.sum()) for end in both}
    np.testing.assert_array_equal(module(x, deterministic=True), mean)


def train(module, rate, steps):
    """Outputs that no SGD step, however large, makes illegal: (parameters, output)."""
    x = images()
    params = module.init(jax.random.key(0), x)["params"]
    low, high = jaxpool.avg_pool(x, (2, 2)), jaxpool.max_pool(x, (2, 2))

    @jax.jit
    def step(params):
        def loss(params):
            y = module.apply({"params": params}, x)
            return jnp.sum((y - high) ** 2), y

        (_, y), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), grads, y

    for _ in range(steps):
        params, grads, y = step(params)
        chex.assert_tree_all_finite((params, grads))
        assert np.all(low - 1e-5 <= y) and np.all(y <= high + 1e-5)
    return params, y, high


@pytest.mark.parametrize("learn", ["layer", "channel"])
@pytest.mark.parametrize("name", ["MixedPool", GATED])
def test_mixtures_learn_and_stay_mixtures(name, learn):
    module = getattr(jpl, name)((2, 2), learn=learn)
    params, *_ = train(module, rate=1e4, steps=4)
    if name == GATED:  # which learns from what is in the window
        _, y, high = train(module, rate=1e-2, steps=30)
        start = jaxpool.mixed_pool(images(), (2, 2))
        assert np.sum((y - high) ** 2) < 0.7 * np.sum((start - high) ** 2)
        assert params["kernel"].shape == ((2, 2) if learn == "layer" else (2, 2, 3))
    else:  # the maximum alone is what it is told to be
        params, *_ = train(module, rate=1e-1, steps=60)
        alpha = jax.nn.sigmoid(params["logit_alpha"])
        assert alpha.shape == (() if learn == "layer" else (3,))
        assert np.all(alpha > 0.9) and np.all(alpha <= 1)


@pytest.mark.parametrize("learn", ["layer", "channel"])
def test_a_learned_alpha_starts_where_it_is_told(learn):
    x, where = images(), masks()
    alpha, features = (0.2, {}) if learn == "layer" else ([0.2, 0.5, 0.9], {"features": 3})
    expected = jaxpool.mixed_pool(x, (2, 2), alpha=jnp.asarray(alpha), where=where)
    how = {"alpha": alpha, "learn": learn, "param_dtype": jnp.bfloat16}
    y, params = linen(jpl.MixedPool((2, 2), **how), x, where=where)
    assert params["logit_alpha"].dtype == jnp.bfloat16
    np.testing.assert_allclose(y, expected, atol=5e-3)
    module = jpn.MixedPool((2, 2), **how, **features)
    np.testing.assert_array_equal(module(x, where), y)
    grads = nnx.grad(lambda module: jnp.sum(module(x)))(module)
    assert np.all(grads["logit_alpha"][...] != 0)


def gated(x, kernel, real):
    """The definition: 2x2 windows of images, as loops."""
    out = np.zeros((x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3]))
    for n, i, j, c in np.ndindex(*out.shape):
        window = x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        mask = real[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 0]
        weights = kernel[..., c] if kernel.ndim > 2 else kernel
        alpha = 1 / (1 + np.exp(-np.sum((weights * window)[mask])))
        seen = window[mask]
        out[n, i, j, c] = alpha * seen.max() + (1 - alpha) * seen.mean() if seen.size else 0
    return out


@pytest.mark.parametrize("learn", ["layer", "channel"])
def test_gated_modules_equal_the_definition(learn):
    x, where = images(), masks()
    start = {"kernel_init": nn.initializers.normal(1.0), "learn": learn}
    features = {"features": 3} if learn == "channel" else {}
    module = jpl.GatedPool([2, 2], **start)
    y, params = linen(module, x, where=where)
    kernel = np.asarray(params["kernel"])
    np.testing.assert_allclose(y, gated(np.asarray(x), kernel, np.asarray(where)), atol=1e-5)

    other = jpn.GatedPool([2, 2], **start, **features, rngs=nnx.Rngs(0))
    assert np.any(other.kernel[...] != 0)
    other.kernel[...] = params["kernel"]
    np.testing.assert_array_equal(other(x, where), y)

    # Axes in another order, channels first, and a border that is padding.
    turned = jnp.swapaxes(params["kernel"], 0, 1)
    how = {"axis": (-1, -2), "learn": learn}
    first = jpl.GatedPool(2, **how).apply({"params": {"kernel": turned}}, jnp.moveaxis(x, -1, 1))
    plain = module.apply({"params": params}, x)
    np.testing.assert_allclose(jnp.moveaxis(first, 1, -1), plain, atol=1e-5)
    wide = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    real = jnp.pad(jnp.ones((2, 4, 4, 1), bool), ((0, 0), (2, 2), (2, 2), (0, 0)))
    padded = jpl.GatedPool((2, 2), padding=2, learn=learn).apply({"params": params}, x)
    np.testing.assert_allclose(padded, module.apply({"params": params}, wide, real), atol=1e-5)

    grads = nnx.grad(lambda module: jnp.sum(module(x, where)))(other)
    expected = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, x, where)))(params)
    np.testing.assert_allclose(grads["kernel"][...], expected["kernel"], rtol=1e-5)


@pytest.mark.parametrize("learn", ["layer", "channel"])
def test_gates_of_many_taps_are_the_same_gates(learn, monkeypatch):
    x = images((2, 20, 3, 18))
    how: dict = {"axis": (1, -1), "window_dilation": (1, 2), "learn": learn}
    module = jpl.GatedPool((9, 8), (2, 3), "SAME", kernel_init=nn.initializers.normal(), **how)
    few, params = linen(module, x)  # 72 taps
    slope = jax.jit(jax.grad(lambda p, x: jnp.sum(module.apply({"params": p}, x) ** 2), (0, 1)))
    expected = slope(params, x)
    monkeypatch.setattr(_mixed, "MOST", 72)
    jax.clear_caches()
    np.testing.assert_allclose(module.apply({"params": params}, x), few, atol=1e-5)
    chex.assert_trees_all_close(slope(params, x), expected, atol=1e-3, rtol=1e-4)
    jax.clear_caches()


def test_a_gate_of_no_channels():
    for window in (2, 9):
        y, _ = linen(jpl.GatedPool((window, window), learn="channel"), jnp.zeros((2, 18, 18, 0)))
        assert y.size == 0


@pytest.mark.parametrize("module", [jpl, jpn])
@pytest.mark.parametrize("window", [(2, 2), (9, 9)])
def test_a_new_gate_halves_windows_with_infinities(module, window):
    x = jnp.ones((4, *window, 1)).at[:, 0, 1, 0].set(jnp.array([1, jnp.inf, -jnp.inf, jnp.nan]))
    y = module.GatedPool(window)
    y = linen(y, x)[0] if module is jpl else y(x)
    np.testing.assert_array_equal(y.ravel(), [1, np.inf, -np.inf, np.nan])


def test_mixtures_refuse():
    for module in (jpl, jpn):
        with pytest.raises(ValueError, match="^MixedPool: alpha='some' is not known.*'random'"):
            module.MixedPool((2, 2), alpha="some")
        with pytest.raises(ValueError, match="^MixedPool: alpha='random' is drawn.*learn='layer'"):
            module.MixedPool((2, 2), alpha="random", learn="layer")
        with pytest.raises(ValueError, match="^MixedPool: alpha=1.0 cannot be learned from"):
            module.MixedPool((2, 2), alpha=1.0, learn="layer")
        with pytest.raises(ValueError, match="^GatedPool: learn=None is not known"):
            module.GatedPool((2, 2), learn=None)
    with pytest.raises(ValueError, match="^GatedPool: learn='channel' needs the number"):
        jpn.GatedPool((2, 2), learn="channel")
    with pytest.raises(ValueError, match="^GatedPool: rngs=None .*kernel_init"):
        jpn.GatedPool((2, 2), kernel_init=nn.initializers.normal())
    with pytest.raises(TypeError, match="^GatedPool: window_shape="):
        jpn.GatedPool((2.0, 2))
    with pytest.raises(
        ValueError, match=r"^GatedPool: channel_axis=2 .*\(1, 2\).*Write channel_axis="
    ):
        linen(jpl.GatedPool((2, 2), learn="channel", channel_axis=2), images())
    with pytest.raises(ValueError, match="^GatedPool: window_shape=2 "):
        linen(jpl.GatedPool(2), images())
    with pytest.raises(ValueError, match="^GatedPool: rngs of type Rngs has no stream 'params'"):
        jpn.GatedPool((2, 2), kernel_init=nn.initializers.normal(), rngs=nnx.Rngs(pool=0))
    assert not jpn.GatedPool((2, 2), rngs=nnx.Rngs(pool=0)).kernel[...].any()  # zeros need no key
    for module in (jpl, jpn):
        with pytest.raises(TypeError, match="^GatedPool: kernel_init of type .*Write kernel_init="):
            module.GatedPool((2, 2), kernel_init=jnp.zeros((2, 2)))


@pytest.mark.parametrize(("channels", "axis"), [(1, None), (2, None), (2, 0), (0, None)])
def test_a_gate_has_weights_for_every_channel(channels, axis):
    gate = jpn.GatedPool((9, 9), 1, "SAME", learn="channel", features=3, channel_axis=axis)
    x = jnp.ones((1, 9, 9, channels))
    n = x.shape[3 if axis is None else axis]
    with pytest.raises(ValueError, match=f"weights for 3 channels.* has {n}. Write features={n}"):
        gate(x)


@pytest.mark.parametrize("name", ["LSEPool", "LpPool", "MixedPool"])
def test_one_channel_is_not_learned_for_many(name):
    pool = getattr(jpn, name)(
        (2, 2), learn="channel", features=1, **{"LpPool": {"p": 2.0}}.get(name, {})
    )
    assert pool(images((2, 4, 4, 1))).shape == (2, 2, 2, 1)
    with pytest.raises(
        ValueError, match=f"^{name}: .* for features=1,.* has 3. Write features=3, or learn='layer'"
    ):
        pool(images())
    pool = getattr(jpn, name)((2, 2), learn="channel", features=8)
    with pytest.raises(ValueError, match=f"^{name}: .* for features=8,.* has 3. Write features=3"):
        pool(images())


def test_features_of_a_learned_choice_are_those_of_x():
    pool = jpn.LearnedPolyphasePool(features=5, rngs=nnx.Rngs(0))
    message = "^LearnedPolyphasePool: features=5, but x has 3 channels. Write features=3"
    with pytest.raises(ValueError, match=message):
        pool(images())


@pytest.mark.parametrize("module", [jpl, jpn])
def test_axes_may_be_a_range(module):
    x = images()
    pool = module.MaxPool(range(2, 4), axis=range(1, 3))
    y = linen(pool, x)[0] if module is jpl else pool(x)
    np.testing.assert_array_equal(y, jaxpool.max_pool(x, (2, 3)))
    learned = jpl.LSEPool(2, axis=range(2, 4), learn="channel").init(jax.random.key(0), x)
    assert learned["params"]["log_temperature"].shape == x.shape[1:2]


def test_where_all_axes_are_pooled_there_are_no_channels():
    x = images()
    pool = jpl.GlobalLSEPool(axis=(0, 1, 2, 3), learn="channel")
    with pytest.raises(ValueError, match="^GlobalLSEPool: axis=.* all axes.*Write learn='layer'"):
        pool.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"Write one number\.$"):
        jaxpool.global_lse_pool(x, axis=(0, 1, 2, 3), temperature=jnp.ones(2))


def test_polyphase_modules_equal_the_function():
    check_polyphase()
    check_polyphase(2, order=1, strict=True)
    check_polyphase([2, 3], axis=[2, 1], order=float("inf"))


def check_polyphase(strides=2, axis=None, **options):
    x, how = images(), {"strides": strides, "axis": axis}
    y, phase = jaxpool.polyphase_pool(x, **how, **options, return_phase=True)
    back = jaxpool.polyphase_unpool(y, phase, **how, output_shape=4)
    pool, unpool = jpl.PolyphasePool(**how, **options), jpl.PolyphaseUnpool(**how, output_shape=4)
    chex.assert_trees_all_equal(pool.apply({}, x), y)
    chex.assert_trees_all_equal(pool.apply({}, x, phase), y)
    chex.assert_trees_all_equal(unpool.apply({}, y, phase), back)
    pool = jpn.PolyphasePool(**how, **options, return_phase=True)
    chex.assert_trees_all_equal(pool(x), (y, phase))
    chex.assert_trees_all_equal(pool(2 * x, phase), (2 * y, phase))
    chex.assert_trees_all_equal(jpn.PolyphaseUnpool(**how, output_shape=4)(y, phase), back)


# The learned choice of a phase


def learned_pair(**options):
    """The same in NNX and in Linen, and the parameters for Linen."""
    pool = jpn.LearnedPolyphasePool(features=3, **options, rngs=nnx.Rngs(0, pool=3))
    params = {
        "Conv_0": {"kernel": pool.conv.kernel[...], "bias": pool.conv.bias[...]},
        "Dense_0": {"kernel": pool.dense.kernel[...]},
    }
    return pool, jpl.LearnedPolyphasePool(**options), {"params": params}


def test_a_learned_choice_is_one_phase_or_a_mixture():
    x = images((4, 6, 4, 3))
    pool, module, variables = learned_pair(hidden=4)
    shape = jax.eval_shape(lambda: module.init(jax.random.key(0), x, deterministic=True))
    chex.assert_trees_all_equal_shapes(shape, variables)
    best = pool(x, deterministic=True)
    chex.assert_trees_all_equal(module.apply(variables, x, deterministic=True), best)
    phases = np.stack([jaxpool.polyphase_pool(x, phase=np.full(4, p)) for p in range(4)])
    chosen = np.all(phases == np.asarray(best), (2, 3, 4))
    assert (chosen.sum(0) == 1).all()
    assert (chosen.sum(1) < 4).all()  # not the same of all examples

    rngs = {"pool": jax.random.key(3)}
    drawn = [pool(x), pool(x), module.apply(variables, x, deterministic=False, rngs=rngs)]
    for mixed in drawn:
        assert np.all((phases.min(0) - 1e-5 <= mixed) & (mixed <= phases.max(0) + 1e-5))
    assert all(np.any(a != b) for a, b in itertools.combinations(drawn, 2))
    np.testing.assert_array_equal(pool(x, rngs=nnx.Rngs(pool=3).pool.fork()), drawn[0])
    cold = jpl.LearnedPolyphasePool(hidden=4, temperature=1e-6)
    cold = cold.apply(variables, x, deterministic=False, rngs=rngs)
    near = np.abs(phases - np.asarray(cold)).max((2, 3, 4)) < 1e-5
    assert (near.sum(0) == 1).all()

    first, _, _ = learned_pair(hidden=4, strides=2, axis=(2, 3))
    moved = first(jnp.moveaxis(x, -1, 1), deterministic=True)
    np.testing.assert_array_equal(jnp.moveaxis(moved, 1, -1), best)
    pool.eval()
    np.testing.assert_array_equal(pool(x), best)
    half = pool(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_a_learned_choice_needs_to_know_its_axes():
    message = "^LearnedPolyphasePool: strides=2 does not say.*Write strides="
    with pytest.raises(ValueError, match=message):
        jpn.LearnedPolyphasePool(2, features=3, rngs=nnx.Rngs(0))
    module = jpl.LearnedPolyphasePool((3, 3), strict=True, deterministic=True)
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="^LearnedPolyphasePool: temperature=.*Write a number"):
            linen(jpl.LearnedPolyphasePool(temperature=wrong, deterministic=True), images())
    with pytest.raises(ValueError, match="^LearnedPolyphasePool: .*strict=True"):
        module.init(jax.random.key(0), images())


def test_a_choice_can_be_learned():
    """The phase that is wanted has the smallest norm, and the pool finds it in every example."""
    x = images((32, 4, 4, 3)) * jnp.array([[2.0, 2, 1, 2]])[..., None].reshape(1, 1, 4, 1)
    x = jnp.stack([jnp.roll(one, i, (0, 1)) for i, one in enumerate(x)])
    size = [jnp.abs(x[:, i::2, j::2]).sum((1, 2, 3)) for i in range(2) for j in range(2)]
    target = jaxpool.polyphase_pool(x, phase=jnp.argmin(jnp.stack(size), 0))
    pool = jpn.LearnedPolyphasePool(features=3, temperature=0.5, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(pool, optax.adam(0.03), wrt=nnx.Param)

    @nnx.jit
    def step(pool, optimizer):
        loss, grads = nnx.value_and_grad(lambda pool: jnp.mean((pool(x) - target) ** 2))(pool)
        optimizer.update(pool, grads)
        return loss

    def right():
        return np.mean(np.all(pool(x, deterministic=True) == target, (1, 2, 3)))

    before = right()
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        losses = [step(pool, optimizer) for _ in range(100)]
    assert losses[-1] < 0.6 * losses[0]
    assert before < 0.6 < 0.9 <= right()
    shifted = pool(jnp.roll(x, (3, 1), (1, 2)), deterministic=True)
    for one, y in zip(shifted, pool(x, deterministic=True), strict=True):
        moves = [jnp.roll(y, (i, j), (0, 1)) for i in range(2) for j in range(2)]
        assert any(np.array_equal(one, move) for move in moves)


@pytest.mark.parametrize("name", ALL)
def test_arguments_are_those_of_the_function(name):
    wanted = [
        (p.name, p.default, p.kind is p.KEYWORD_ONLY)
        for p in inspect.signature(function(name)).parameters.values()
        if p.name not in ("x", "where", "indices", "key", "samples", "phase", "deterministic")
    ]
    for module, own in (jpl, LEARN | {"parent", "name"}), (jpn, LEARN):
        found = [
            (
                f.name,
                inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default,
                f.kw_only,
            )
            for f in dataclasses.fields(getattr(module, name))
            if f.name not in {*own, "deterministic"}
        ]
        assert sorted(found, key=str) == sorted(wanted, key=str)
        positional = [n for n, _, keyword in found if not keyword]
        assert positional == [n for n, _, keyword in wanted if not keyword]
        with pytest.raises(TypeError, match="positional"):
            getattr(module, name)(*positional, 1)


def test_both_homes_have_the_same_classes():
    assert sorted(jpl.__all__) == sorted(jpn.__all__) == sorted([*ALL, GATED, LEARNED])
    for module, name in itertools.product((jpl, jpn), [*ALL, GATED]):
        doc = inspect.getdoc(getattr(module, name)) or ""
        assert ">>> " in doc and f"`jaxpool.{function(name).__name__}`" in doc


def test_linen_modules_compare_and_hash():
    one, other = jpl.MaxPool([2, 2], np.array([1, 1])), jpl.MaxPool((2, 2), (1, 1))
    assert one == other and hash(one) == hash(other)
    assert hash(jpl.LSEPool((2, 2), temperature=jnp.ones(3))) is not None


def test_nnx_arguments_are_static_until_a_temperature_is_an_array():
    module = jpn.LSEPool([2, 2], padding=[[1, 0], [0, 1]], temperature=[1.0, 2.0, 3.0])
    assert not jax.tree.leaves(nnx.state(module))
    assert module.padding == ((1, 0), (0, 1))
    module.strides = [1, 1]
    assert module(images()).shape == (2, 4, 4, 3)

    cooled = jpn.GlobalLSEPool(temperature=jnp.float32(1.0))

    @nnx.jit
    @chex.assert_max_traces(1)
    def run(module, x):
        return module(x)

    for t in 1.0, 0.5:
        cooled.temperature = jnp.float32(t)
        chex.assert_trees_all_close(
            run(cooled, images()), jaxpool.global_lse_pool(images(), temperature=t), atol=1e-6
        )


# The learned temperature


@pytest.mark.parametrize("learn", ["layer", "channel"])
@pytest.mark.parametrize("name", TEMPERED)
def test_a_learned_temperature_starts_where_it_is_told(name, learn):
    x, where = images(), masks()
    expected = function(name)(x, *window(name), temperature=0.5, where=where)
    arguments = {"temperature": 0.5, "learn": learn}
    shape = () if learn == "layer" else (3,)

    y, params = linen(getattr(jpl, name)(*window(name), **arguments), x, where=where)
    assert params["log_temperature"].shape == shape
    assert params["log_temperature"].dtype == jnp.float32
    np.testing.assert_allclose(y, expected, atol=1e-6)

    features = {"features": 3} if learn == "channel" else {}
    module = getattr(jpn, name)(*window(name), **arguments, **features)
    np.testing.assert_array_equal(module.log_temperature[...], params["log_temperature"])
    np.testing.assert_array_equal(module(x, where=where), y)


@pytest.mark.parametrize("name", TEMPERED)
def test_every_channel_may_start_elsewhere(name):
    start = [0.1, 1.0, 10.0]
    expected = function(name)(images(), *window(name), temperature=jnp.asarray(start))
    y, _ = linen(getattr(jpl, name)(*window(name), temperature=start, learn="channel"), images())
    np.testing.assert_allclose(y, expected, atol=2e-6)
    module = getattr(jpn, name)(*window(name), temperature=np.array(start), learn="channel")
    np.testing.assert_array_equal(module(images()), y)


@pytest.mark.parametrize("learn", ["layer", "channel"])
@pytest.mark.parametrize("name", TEMPERED)
def test_the_gradient_flows_into_the_temperature(name, learn):
    x = images()
    log = jnp.zeros(() if learn == "layer" else (3,))

    def loss(log):
        return jnp.sum(jnp.sin(function(name)(x, *window(name), temperature=jnp.exp(log))))

    expected = jax.grad(loss)(log)
    assert np.all(np.abs(expected) > 1e-3)

    module = getattr(jpl, name)(*window(name), learn=learn)
    params = {"log_temperature": log}
    found = jax.grad(lambda p: jnp.sum(jnp.sin(module.apply({"params": p}, x))))(params)
    np.testing.assert_allclose(found["log_temperature"], expected, rtol=1e-4)

    module = getattr(jpn, name)(
        *window(name), learn=learn, features=3 if learn == "channel" else None
    )
    found = nnx.grad(lambda m: jnp.sum(jnp.sin(m(x))))(module)
    np.testing.assert_allclose(found["log_temperature"][...], expected, rtol=1e-4)


@pytest.mark.parametrize("name", TEMPERED)
def test_a_channel_learns_from_its_own_channel_alone(name):
    module = getattr(jpl, name)(*window(name), learn="channel")
    params = {"log_temperature": jnp.zeros(3)}
    grad = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, images())[..., 1] ** 2))(params)
    assert list(np.flatnonzero(grad["log_temperature"])) == [1]


@pytest.mark.parametrize("goal", ["max", "mean"])
@pytest.mark.parametrize("name", TEMPERED)
def test_the_temperature_survives_large_steps(name, goal):
    """Steps of 1e4 in log T: without care, T would be 0 or infinite after the first one."""
    x = images()
    sign = -1.0 if goal == "max" else 1.0
    module = getattr(jpl, name)(*window(name), learn="channel")
    params = {"log_temperature": jnp.zeros(3)}
    optimizer = optax.sgd(1e4)
    state = optimizer.init(params)

    def loss(params):
        return sign * jnp.sum(module.apply({"params": params}, x))

    for _ in range(4):
        value, grads = jax.value_and_grad(loss)(params)
        chex.assert_tree_all_finite((value, grads))
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(params, updates)

    y = module.apply({"params": params}, x)
    end = function(
        name.replace("LSE", "Max" if goal == "max" else "Avg").replace(
            "Softmax", "Max" if goal == "max" else "Avg"
        )
    )
    chex.assert_trees_all_close(y, end(x, *window(name)), atol=1e-5)


@pytest.mark.parametrize("start", [1.0, [1.0, 2.0, 3.0], jnp.ones(3)])
def test_nnx_holds_one_parameter_and_no_other_data(start):
    module = jpn.LSEPool((2, 2), learn="channel", temperature=start, features=3)
    assert list(nnx.state(module)) == ["log_temperature"]


def test_a_temperature_can_be_fitted():
    """The teacher's temperature comes back, per channel, from outputs alone."""
    x, teacher = images(), jnp.array([0.2, 1.0, 4.0])
    target = jaxpool.lse_pool(x, (2, 2), temperature=teacher)
    pool = jpn.LSEPool((2, 2), learn="channel", features=3)
    optimizer = nnx.Optimizer(pool, optax.adam(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(pool, optimizer):
        loss, grads = nnx.value_and_grad(lambda pool: jnp.mean((pool(x) - target) ** 2))(pool)
        optimizer.update(pool, grads)
        return loss

    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        for _ in range(300):
            loss = step(pool, optimizer)
    assert loss < 1e-5
    np.testing.assert_allclose(jnp.exp(pool.log_temperature[...]), teacher, rtol=0.05)


@pytest.mark.parametrize("told", [None, 1, -3])
@pytest.mark.parametrize("learn", [None, "channel"])
@pytest.mark.parametrize("name", TEMPERED)
def test_channels_first(name, learn, told):
    x, t = images(), [0.5, 1.0, 2.0]
    last = {"temperature": t, "learn": learn}
    first = last | {"axis": (-2, -1)} | ({} if told is None else {"channel_axis": told})
    expected, _ = linen(getattr(jpl, name)(*window(name), **last), x)
    expected = jnp.moveaxis(expected, -1, 1)
    x = jnp.moveaxis(x, -1, 1)
    y, _ = linen(getattr(jpl, name)(*window(name), **first), x)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(getattr(jpn, name)(*window(name), **first)(x), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", TEMPERED)
def test_the_result_keeps_the_dtype_of_x(name, dtype):
    x = images().astype(dtype)
    y, params = linen(getattr(jpl, name)(*window(name), learn="channel"), x)
    assert y.dtype == dtype and params["log_temperature"].dtype == jnp.float32
    assert getattr(jpn, name)(*window(name), learn="layer")(x).dtype == dtype


# The learned power


@pytest.mark.parametrize("learn", ["layer", "channel"])
@pytest.mark.parametrize("name", POWERED)
def test_a_learned_power_starts_where_it_is_told(name, learn):
    x, where, features = images(), masks(), 3 if learn == "channel" else None
    expected = function(name)(x, *window(name), p=2.5, where=where)
    y, params = linen(getattr(jpl, name)(*window(name), p=2.5, learn=learn), x, where=where)
    assert params["raw_p"].shape == (() if features is None else (features,))
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    module = getattr(jpn, name)(*window(name), p=2.5, learn=learn, features=features)
    np.testing.assert_array_equal(module.raw_p[...], params["raw_p"])
    np.testing.assert_array_equal(module(x, where=where), y)


@pytest.mark.parametrize("p", [1.01, 3.0, 50.0])
def test_a_power_is_read_as_it_was_written(p):
    np.testing.assert_allclose(learned(POWER, POWER.write(jnp.float32(p))), p, rtol=1e-6)


@pytest.mark.parametrize(("goal", "end"), [(1.0, "Max"), (-1.0, "Avg")])
def test_a_power_stays_in_its_range_through_large_steps(goal, end):
    """Towards the average p falls to 1, towards the maximum it grows to 1000, and not beyond."""
    x = jnp.abs(images())
    module = jpl.LpPool((2, 2), p=3.0, normalize=True, learn="channel")
    _, params = linen(module, x)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return -goal * jnp.sum(module.apply({"params": params}, x))

    for _ in range(40):
        value, grads = loss(params)
        chex.assert_tree_all_finite((value, grads))
        params = jax.tree.map(lambda p, g: p - 1e4 * g, params, grads)
        p = learned(POWER, params["raw_p"])
        assert np.all((p >= 1) & (p <= 1000))
    y = module.apply({"params": params}, x)
    chex.assert_trees_all_close(y, function(f"{end}Pool")(x, (2, 2)), rtol=2e-3)


def test_a_power_can_be_fitted():
    """The teacher's p comes back, per channel, from outputs alone."""
    x, teacher = images(), jnp.array([1.2, 3.0, 6.0])
    target = jaxpool.gem_pool(x, (2, 2), p=teacher)
    pool = jpn.GeMPool((2, 2), learn="channel", features=3)

    @nnx.jit
    def step(pool):
        grads = nnx.grad(lambda pool: jnp.sum((pool(x) - target) ** 2))(pool)
        raw = pool.raw_p
        raw[...] = raw[...] - 0.5 * grads["raw_p"][...]

    for _ in range(500):
        step(pool)
    np.testing.assert_allclose(learned(POWER, pool.raw_p[...]), teacher, rtol=0.05)


@pytest.mark.parametrize("module", [jpl, jpn])
@pytest.mark.parametrize(("name", "start"), [
    ("LpPool", {"p": 1 + 1e-9}),
    ("MixedPool", {"alpha": 1 - 1e-9}),
    ("MixedPool", {"alpha": 1e-12}),
])  # fmt: skip
def test_no_start_is_rounded_to_where_nothing_is_learned(module, name, start):
    with pytest.raises(ValueError, match=f"^{name}: .*cannot be learned from"):
        getattr(module, name)((2, 2), learn="layer", **start)


@pytest.mark.parametrize("module", [jpl, jpn])
@pytest.mark.parametrize("p", [1.0, 0.5, 1e4, float("inf")])
def test_a_power_at_the_end_cannot_be_learned_from(module, p):
    message = f"^LpPool: p={p} cannot be learned from.*strictly between 1 and 1e.03"
    with pytest.raises(ValueError, match=message):
        module.LpPool((2, 2), p=p, learn="layer")


@pytest.mark.parametrize("name", ["LSEPool", "LpPool"])
def test_the_dtype_of_a_parameter_is_told(name):
    dtype = jnp.dtype(jnp.bfloat16)
    module = getattr(jpl, name)((2, 2), learn="layer", param_dtype=dtype)
    y, params = linen(module, images())
    (parameter,) = params.values()
    assert parameter.dtype == dtype and y.dtype == jnp.float32
    other = getattr(jpn, name)((2, 2), learn="layer", param_dtype=dtype)
    np.testing.assert_array_equal(other(images()), y)
    assert jax.tree.leaves(nnx.state(other))[0].dtype == dtype


# Inside other modules and transformations


def test_linen_sequential():
    layers = [
        nn.Conv(4, (3, 3)),
        nn.relu,
        jpl.MaxPool([2, 2]),
        jpl.SoftmaxPool((2, 2), learn="channel"),
    ]
    net = nn.Sequential([*layers, jpl.GlobalAvgPool(), nn.Dense(10)])
    y, params = linen(net, images((2, 8, 8, 3)))
    assert y.shape == (2, 10)
    assert params["layers_3"]["log_temperature"].shape == (4,)

    @jax.jit
    @jax.grad
    def grad(params):
        return jnp.sum(net.apply({"params": params}, images((2, 8, 8, 3))) ** 2)

    grads = grad(params)
    assert all(np.any(g != 0) for g in jax.tree.leaves(grads))


def nnx_net():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Conv(3, 4, (3, 3), rngs=rngs),
        nnx.relu,
        jpn.MaxPool([2, 2]),
        jpn.SoftmaxPool((2, 2), learn="channel", features=4),
        jpn.GlobalAvgPool(),
        nnx.Linear(4, 10, rngs=rngs),
    )


def test_nnx_sequential_trains_compiled():
    net, x = nnx_net(), images((2, 8, 8, 3))
    optimizer = nnx.Optimizer(net, optax.sgd(1e-2), wrt=nnx.Param)

    @nnx.jit
    @chex.assert_max_traces(1)
    def step(net, optimizer):
        loss, grads = nnx.value_and_grad(lambda net: jnp.mean(net(x) ** 2))(net)
        optimizer.update(net, grads)
        return loss

    before = jax.tree.map(np.array, nnx.state(net, nnx.Param))
    losses = [step(net, optimizer) for _ in range(5)]
    assert losses[-1] < losses[0]
    after = jax.tree.leaves(nnx.state(net, nnx.Param))
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(before), after, strict=True))


def test_an_encoder_and_decoder_train():
    """What the encoder pooled goes back to where it was: a network with unpooling learns blobs."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.relu(nn.Conv(8, (3, 3))(x))
            y, indices = jpl.MaxPoolWithIndices((2, 2))(y)
            y = nn.relu(nn.Conv(8, (3, 3))(y))
            y = jpl.MaxUnpool(x.shape[1:3])(y, indices)
            return nn.Conv(1, (3, 3))(y)

    x = images((4, 8, 8, 1))
    target = jnp.maximum(x, 0)
    net, optimizer = Net(), optax.adam(1e-2)
    params = net.init(jax.random.key(0), x)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((net.apply(p, x) - target) ** 2))(
            params
        )
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        for _ in range(150):
            params, state, loss = step(params, state)
            losses.append(loss)
    assert losses[-1] < 0.2 * losses[0]


def test_linen_scan_over_layers():
    x = images()

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jpl.LSEPool((3, 3), 1, "SAME", learn="channel", temperature=0.5)(x), None

    scanned = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    (y, _), variables = scanned.init_with_output(jax.random.key(0), x, None)
    assert jax.tree.leaves(variables["params"])[0].shape == (3, 3)
    for _ in range(3):
        x = jaxpool.lse_pool(x, (3, 3), 1, "SAME", temperature=0.5)
    chex.assert_trees_all_close(y, x, atol=1e-5)

    @jax.jit
    @jax.grad
    def grad(params):
        return jnp.sum(scanned.apply({"params": params}, images(), None)[0] ** 2)

    grads = grad(variables["params"])
    chex.assert_tree_all_finite(grads)
    assert np.all(jax.tree.leaves(grads)[0] != 0)


def test_nnx_scan_over_layers():
    @nnx.vmap(in_axes=0, out_axes=0)
    def layers(temperature):
        return jpn.LSEPool((3, 3), 1, "SAME", learn="layer", temperature=temperature)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def run(layer, x):
        return layer(x)

    x = images()
    stack = layers(jnp.array([0.5, 1.0, 2.0]))
    assert stack.log_temperature.shape == (3,)
    y = run(stack, x)
    for t in 0.5, 1.0, 2.0:
        x = jaxpool.lse_pool(x, (3, 3), 1, "SAME", temperature=t)
    chex.assert_trees_all_close(y, x, atol=1e-5)


def test_linen_vmap_gives_every_member_its_temperature():
    ensemble = nn.vmap(
        jpl.GlobalLSEPool,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=None,
        axis_size=4,
    )(learn="channel")
    y, params = linen(ensemble, images())
    assert y.shape == (4, 2, 3)
    assert params["log_temperature"].shape == (4, 3)


def test_linen_jit_and_remat():
    x = images()
    plain, _ = linen(jpl.SoftmaxPool((2, 2), learn="channel"), x)
    for lift in nn.jit, nn.remat:
        module = lift(jpl.SoftmaxPool)((2, 2), learn="channel")
        y, params = linen(module, x)
        np.testing.assert_allclose(y, plain, atol=1e-6)
        grads = jax.grad(lambda p, m=module: jnp.sum(jnp.sin(m.apply({"params": p}, x))))(params)
        assert np.all(grads["log_temperature"] != 0)


def test_remat_leaves_the_gradients_alone():
    x = images()
    net = nnx.Sequential(jpn.MaxPool((2, 2)), jpn.GlobalLSEPool(learn="channel", features=3))
    expected = nnx.grad(lambda net: jnp.sum(net(x) ** 2))(net)

    @nnx.remat
    def run(net, x):
        return net(x)

    found = nnx.grad(lambda net: jnp.sum(run(net, x) ** 2))(net)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)

    module = jpl.LSEPool((2, 2), learn="layer")
    params = {"log_temperature": jnp.float32(0.0)}

    def loss(params):
        return jnp.sum(jnp.sin(module.apply({"params": params}, x)))

    chex.assert_trees_all_close(
        jax.grad(jax.checkpoint(loss))(params), jax.grad(loss)(params), rtol=1e-5
    )


@pytest.mark.parametrize("name", WINDOWED + GLOBAL)
def test_scan_over_time_with_a_mask(name):
    """The mask is data: it may be traced and change from step to step."""
    x, where = images((5, 2, 4, 4, 3)), masks((5, 2, 4, 4, 1))
    module = getattr(jpn, name)(*window(name))
    _, found = jax.lax.scan(lambda carry, xs: (carry, module(xs[0], where=xs[1])), None, (x, where))
    expected = jnp.stack([module(*xs) for xs in zip(x, where, strict=True)])
    chex.assert_trees_all_close(found, expected, atol=1e-5)


# Saving and restoring


def test_linen_params_survive_bytes():
    module = jpl.LSEPool((2, 2), temperature=[0.1, 1.0, 10.0], learn="channel")
    _, params = linen(module, images())
    blank = jax.tree.map(jnp.zeros_like, params)
    restored = flax.serialization.from_bytes(blank, flax.serialization.to_bytes(params))
    chex.assert_trees_all_equal(restored, params)
    np.testing.assert_array_equal(
        module.apply({"params": restored}, images()), module.apply({"params": params}, images())
    )


def test_nnx_state_survives_bytes():
    net, x = nnx_net(), images((2, 8, 8, 3))
    graph, state = nnx.split(net)
    saved = flax.serialization.msgpack_serialize(
        jax.tree.map(np.asarray, flax.serialization.to_state_dict(nnx.to_pure_dict(state)))
    )
    blank = jax.tree.map(jnp.zeros_like, state)
    pure = flax.serialization.from_state_dict(
        nnx.to_pure_dict(blank), flax.serialization.msgpack_restore(saved)
    )
    nnx.replace_by_pure_dict(blank, pure)
    np.testing.assert_array_equal(nnx.merge(graph, blank)(x), net(x))


# What is refused


@pytest.mark.parametrize("module", [jpl, jpn])
@pytest.mark.parametrize("name", TEMPERED)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learn": "pixel"}, "learn='pixel' is not known.*'layer'.*'channel'"),
        ({"learn": True}, "learn=True is not known"),
        ({"learn": "layer", "temperature": [1.0, 2.0]}, r"temperature has shape \(2,\)"),
        ({"learn": "channel", "temperature": [[1.0]]}, r"temperature has shape \(1, 1\)"),
        ({"learn": "layer", "temperature": 0.0}, "temperature=0.0 cannot be learned from"),
        ({"learn": "layer", "temperature": float("nan")}, "temperature=nan cannot be learned from"),
        ({"learn": "channel", "temperature": (1.0, -1.0)}, "between 2e-09 and 5e.08"),
    ],
)
def test_learning_is_refused(module, name, arguments, message):
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        getattr(module, name)(*window(name), **arguments)


@pytest.mark.parametrize("module", [jpl, jpn])
@pytest.mark.parametrize("start", ["1", None, True, 1j])
def test_learning_starts_from_a_number(module, start):
    with pytest.raises(TypeError, match=f"^LSEPool: temperature={re.escape(repr(start))} .*Write "):
        module.LSEPool((2, 2), learn="layer", temperature=start)


@pytest.mark.parametrize("module", [jpl, jpn])
def test_whole_numbers_cannot_be_trained(module):
    for make in (functools.partial(module.LpPool, learn="layer"), module.GatedPool):
        with pytest.raises(TypeError, match="Pool: param_dtype=int32 .*Write param_dtype="):
            make((2, 2), param_dtype=jnp.int32)
        with pytest.raises(TypeError, match="Pool: param_dtype='float23' is not a .*Write param"):
            make((2, 2), param_dtype="float23")


def test_sizes_are_whole_numbers():
    for features in ("3", -1, 2.5):
        with pytest.raises((TypeError, ValueError), match="^LSEPool: features=.*Write whole"):
            jpn.LSEPool((2, 2), learn="channel", features=features)
    for axis in ("C", 1.5):
        with pytest.raises(TypeError, match="^LSEPool: channel_axis=.*Write whole"):
            linen(jpl.LSEPool((2, 2), learn="channel", channel_axis=axis), images())
    says = "^LearnedPolyphasePool: hidden=0 .*Write whole"
    with pytest.raises(ValueError, match=says):
        jpn.LearnedPolyphasePool(features=3, hidden=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=says):
        jpl.LearnedPolyphasePool(hidden=0).init(jax.random.key(0), images(), deterministic=True)
    module = jpl.LearnedPolyphasePool(temperature=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="^LearnedPolyphasePool: temperature .*Write temperature"):
        module.init(jax.random.key(0), images(), deterministic=True)


def test_channels_must_be_known_and_agree():
    with pytest.raises(ValueError, match="^LSEPool: learn='channel' needs the number of channels"):
        jpn.LSEPool((2, 2), learn="channel")
    with pytest.raises(ValueError, match="^LSEPool: temperature has 2 values.*3 channels"):
        jpn.LSEPool((2, 2), learn="channel", temperature=[1.0, 2.0], features=3)
    with pytest.raises(ValueError, match="^LSEPool: temperature has 2 values.*3 channels"):
        linen(jpl.LSEPool((2, 2), learn="channel", temperature=[1.0, 2.0]), images())


def test_the_channel_axis_must_exist():
    x = images()
    for call in (
        lambda: linen(jpl.LSEPool((2, 2), channel_axis=4, learn="channel"), x),
        lambda: jpn.LSEPool((2, 2), channel_axis=4)(x),
    ):
        with pytest.raises(ValueError, match="^LSEPool: channel_axis=4 is not an axis of x"):
            call()
    for number in (
        lambda: linen(jpl.LSEPool((2, 2), learn="channel"), 3.0),
        lambda: jpn.LSEPool((2, 2), learn="channel", features=3)(3.0),
    ):
        with pytest.raises(ValueError, match=r"^LSEPool: x of shape \(\) .*Write an x"):
            number()
    for call in (
        lambda x: linen(jpl.LSEPool((2, 2), learn="channel"), x),
        lambda x: jpn.LSEPool((2, 2))(x),
    ):
        for no_map in (None, "abc", [[1.0, 2.0], [3.0]]):
            with pytest.raises(TypeError, match="^LSEPool: x of type .* is not an array"):
                call(no_map)
    for axes in ({}, {"axis": (1, 2)}):
        how = {"learn": "channel", "channel_axis": 1, **axes}
        for call in (
            lambda how=how: linen(jpl.LSEPool((2, 2), **how), x),
            lambda how=how: jpn.LSEPool((2, 2), features=8, **how)(x),
        ):
            with pytest.raises(
                ValueError, match=r"^LSEPool: channel_axis=1 .*\(1, 2\). Write chan"
            ):
                call()
    kept = jpn.AdaptiveLSEPool((None, 2), learn="channel", features=4, channel_axis=1)
    assert kept(x).shape == (2, 4, 2, 3)


@pytest.mark.parametrize("module", [jpl, jpn])
def test_numbers_that_are_none(module):
    for wrong in ((None, None), ((1.0, 2.0), (3.0,))):
        for name, of in (("LSEPool", "temperature"), ("LpPool", "p"), ("MixedPool", "alpha")):
            pool = getattr(module, name)((2, 2), **{of: wrong})
            call = pool if module is jpn else functools.partial(pool.apply, {})
            with pytest.raises(TypeError, match=f"^{name}: {of}=.* is not an array of numbers"):
                call(images())


def test_a_key_is_no_argument_of_a_module():
    """As the first argument of a function that draws is."""
    pool = jpl.StochasticPool(jax.random.key(0), (2, 2), deterministic=False)
    with pytest.raises(TypeError, match="^stochastic_pool: window_shape=.*PRNGKey"):
        pool.apply({}, images(), rngs={"pool": jax.random.key(1)})


@pytest.mark.parametrize("name", jpn.__all__)
def test_what_a_constructor_refuses_names_the_class(name):
    with pytest.raises(TypeError, match=rf"^{name}\.__init__\(\) "):
        getattr(jpn, name)(stride=2)


def test_a_module_raises_the_error_of_its_function():
    for call in (lambda: linen(jpl.MaxPool(2), images()), lambda: jpn.MaxPool(2)(images())):
        with pytest.raises(ValueError, match="^max_pool: window_shape=2 "):
            call()
