"""Poolings of arrays that are split over devices: in a process of its own, which has several.

Inside `jax.shard_map`, what varies over the devices, and what is the same on all, is part of an
array's type. Each case is a pooling of two arrays, and which of the two is split over two devices.

Outside, axes of the array may be split, and where axes of the mesh are explicit, types say so. Of
examples and channels results are split alike, and no device needs what another one has. With
JAXPOOL_TYPES_ALONE=1 nothing of that is compiled: another JAX has other types, and much the same
XLA.
"""

import importlib
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxpool as jp
from jaxpool.linen import GatedPool, LearnedPolyphasePool

X, MASK = jax.random.normal(jax.random.key(0), (2, 6, 6, 2)), np.ones((1, 6, 6, 1), bool)
MASK[0, 0, 0] = False
MASKS = np.concatenate([MASK, MASK[:, ::-1]])
NUMBERS = jnp.array([0.5, 2.0]).reshape(2, 1, 1, 1)
SPLIT, SAME = PartitionSpec("devices"), PartitionSpec()
HERE, THERE = (SPLIT, SAME), (SAME, SPLIT)


def large(a: jax.Array) -> jax.Array:
    return jnp.tile(a, (1, 6, 6, 8))


CASES = {
    "temperature": (lambda x, t: jp.lse_pool(x, (2, 2), temperature=t), NUMBERS, THERE),
    "large window": (
        lambda x, t: jp.softmax_pool(x, (5, 5), 1, temperature=t),
        NUMBERS,
        THERE,
    ),
    "power": (lambda x, p: jp.lp_pool(x, (2, 2), p=1 + p), NUMBERS, THERE),
    "phase": (
        lambda x, p: jp.polyphase_pool(x, phase=p[0]),
        jnp.array([[1, 3], [2, 0]]),
        THERE,
    ),
    "mask": (lambda x, m: jp.avg_pool(x, (2, 2), where=m), MASKS, THERE),
    "one mask": (lambda x, m: jp.lse_pool(x, (2, 2), where=m), MASK, HERE),
    "large window, one mask": (lambda x, m: jp.lse_pool(x, (5, 5), 1, where=m), MASK, HERE),
    "in parts": (lambda x, a: jp.lse_pool(large(x), (3, 3), 1) + a, 0.0, HERE),
    "in parts, one mask": (
        lambda x, m: jp.softmax_pool(large(x), (5, 5), 1, "SAME", where=large(m)[..., :1]),
        MASK,
        HERE,
    ),
    "border": (lambda x, a: jp.max_pool(x, (2, 2), 1, "CIRCULAR") + a, 0.0, HERE),
    "average, border": (lambda x, a: jp.avg_pool(x, (3, 3), 1, "REFLECT") + a, 0.0, HERE),
}


def check(name: str) -> None:
    pool, other, specs = CASES[name]
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,))

    def loss(x, other):
        return (pool(x, other) ** 2).sum()

    def shared(x, other):
        return jax.lax.psum(loss(x, other), "devices")

    split = jax.shard_map(shared, mesh=mesh, in_specs=specs, out_specs=SAME)
    whole = jax.jit(jax.grad(loss))
    if specs is HERE:
        expected = whole(X, other)
    else:  # every device has all of x
        expected = whole(X, other[:1]) + whole(X, other[1:])
    traced = jax.jit(jax.grad(split)).trace(X, other)
    traced.lower(lowering_platforms=("cuda",))
    program = traced.lower().compile()
    np.testing.assert_allclose(program(X, other), expected, rtol=2e-5, atol=1e-5)


KEY, MAP = jax.random.key(0), jax.random.normal(jax.random.key(1), (8, 20, 12, 16))
REAL = np.random.default_rng(0).random((20, 12, 16)) < 0.5
SPECS = {axis: PartitionSpec(*[None] * axis, "devices") for axis in range(4)}
LEARNED = LearnedPolyphasePool(deterministic=False)
GATED = [GatedPool((7, 10), 1, "SAME", learn=learn) for learn in ("layer", "channel")]
POOLINGS = {
    "max": lambda x: jp.max_pool(x, (3, 3), 2, "SAME"),
    "max, disjoint": lambda x: jp.max_pool(x, (2, 2)),
    "max, large": lambda x: jp.max_pool(x, (9, 9), 1),
    "max, masked": lambda x: jp.max_pool(x, (3, 3), 2, where=jnp.broadcast_to(REAL, x.shape)),
    "avg": lambda x: jp.avg_pool(x, (3, 3), 1, "SAME"),
    "avg, masked": lambda x: jp.avg_pool(x, (3, 3), 2, where=jnp.broadcast_to(REAL, x.shape)),
    "avg, large": lambda x: jp.avg_pool(x, 17, 1, axis=1),
    "max, one axis": lambda x: jp.max_pool(x, 3, 2, axis=1),
    "avg, one axis": lambda x: jp.avg_pool(x, 3, 1, "SAME", axis=1),
    "lp, one axis": lambda x: jp.lp_pool(x, 3, 2, axis=1),
    "avg, by turns": lambda x: jp.avg_pool(jnp.tile(x, (1, 3, 1, 1)), 17, 5, 2, axis=1),
    "softmax": lambda x: jp.softmax_pool(x, (3, 3), 2, "SAME"),
    "lse, large": lambda x: jp.lse_pool(x, (9, 9), 1),
    "gem": lambda x: jp.gem_pool(x, (2, 2)),
    "global max": jp.global_max_pool,
    "global lse": jp.global_lse_pool,
    "adaptive max": lambda x: jp.adaptive_max_pool(x, (5, 7)),
    "adaptive avg": lambda x: jp.adaptive_avg_pool(x, (5, 7)),
    "adaptive lse": lambda x: jp.adaptive_lse_pool(x, (5, 7)),
    "unpool": lambda x: jp.max_unpool(*jp.max_pool_with_indices(x, (2, 2)), (20, 12)),
    "indices": lambda x: (
        x[:, :3, :3] * jp.adaptive_max_pool_with_indices(x, 3, axis=1)[1][:, :, :3].astype(x.dtype)
    ),
    "fractional": lambda x: jp.fractional_max_pool(KEY, x, (2, 2), output_ratio=0.7),
    "stochastic": lambda x: jp.stochastic_pool(KEY, abs(x), (2, 2)),
    "max blur": lambda x: jp.max_blur_pool(x, (2, 2)),
    "polyphase": jp.polyphase_pool,
    "polyphase, learned": lambda x: LEARNED.init_with_output({"params": KEY, "pool": KEY}, x)[0],
    "polyphase, back": lambda x: jp.polyphase_unpool(*jp.polyphase_pool(x, return_phase=True)),
    "gated, large": lambda x: GATED[0].init_with_output(KEY, x)[0],
    "gated by channel, large": lambda x: GATED[1].init_with_output(KEY, x)[0],
    "border": lambda x: jp.max_pool(x, (3, 3), 2, "CIRCULAR"),
}
# What depends on all of x, or on all channels, is asked of all devices, once there and once back.
# (A convolution takes channels of one kernel for examples.)
ASKS = {("polyphase", 3), ("polyphase, back", 3), ("gated, large", 3)}
ASKS |= {("lse, large", 0), ("lse, large", 3)}


def check_split(name: str) -> None:
    def both(x):
        y, back = jax.vjp(POOLINGS[name], x)
        return y, back(y)[0]

    alone = "JAXPOOL_TYPES_ALONE" in os.environ
    expected = None if alone else jax.jit(both)(MAP)
    for kind, axes in {AxisType.Auto: (0, 1, 3), AxisType.Explicit: (0, 3)}.items():
        mesh = jax.make_mesh((4,), ("devices",), axis_types=(kind,))
        for axis in axes:
            if axis == 3 and name == "polyphase, learned":
                continue  # its convolution is over all channels
            again = kind is AxisType.Auto and axis > 0  # types do not say which axis is split
            if again and alone:
                continue
            x = jax.device_put(MAP, NamedSharding(mesh, SPECS[axis]))
            with jax.set_mesh(mesh):
                traced = jax.jit(both).trace(x)
                if not again:
                    traced.lower(lowering_platforms=("cuda",))
                lowered = traced.lower()
            if kind is AxisType.Explicit:
                for a in jax.tree.leaves(traced.out_avals):
                    split = [i for i, of in enumerate(a.sharding.spec) if of]
                    assert split == [axis if axis == 0 else a.ndim - 1], a
                if axis == 0:
                    continue  # the program is that of the axes above
            if alone:
                continue
            program = lowered.compile()
            for result, wanted in zip(program(x), expected, strict=True):
                np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-5)
            asked = re.findall(r" (all-\w+|collective-permute)", program.as_text())
            most = 2 if (name, axis) in ASKS else 0
            assert len(asked) <= most or axis == 1, (kind, axis, asked)


SHOWN = jnp.asarray(np.random.default_rng(0).random(MAP.shape[1:]) < 0.8)
BESIDE = {
    "max": lambda x: jp.max_pool(x, (3, 3), 1, where=SHOWN),
    "lse": lambda x: jp.lse_pool(x, (2, 2), where=SHOWN),
    "fractional": lambda x: jp.fractional_max_pool(KEY, x, (2, 2), output_ratio=0.7),
}


def check_beside(name: str) -> None:
    """Examples are split, one by one with what all share, and on a mesh with other axes, too."""

    def both(x):
        y, back = jax.vjp(BESIDE[name], x)
        return y, back(y)[0]

    wanted = jax.jit(jax.vmap(both))(MAP)
    explicit, auto = AxisType.Explicit, AxisType.Auto
    meshes = [
        jax.make_mesh((4,), ("devices",), axis_types=(explicit,)),
        jax.make_mesh((2, 2), ("devices", "more"), axis_types=(explicit, auto)),
    ]
    for mesh in meshes:
        x = jax.device_put(MAP, NamedSharding(mesh, PartitionSpec("devices")))
        with jax.set_mesh(mesh):
            for found, expected in zip(jax.jit(jax.vmap(both))(x), wanted, strict=True):
                assert jax.typeof(found).sharding.spec[0] == "devices", (mesh, found)
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def run(cases: str, part: int = 0, parts: int = 1) -> None:
    two = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    words = [sys.executable, __file__, cases, str(part), str(parts)]
    done = subprocess.run(words, env=os.environ | two, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_poolings_inside_shard_map():
    run("inside")


def test_examples_beside_what_they_share():
    run("beside")


@pytest.mark.parametrize("part", range(2))  # two processes at once
def test_poolings_of_what_is_split(part: int):
    run("split", part, 2)


if __name__ == "__main__":
    conftest = importlib.import_module("conftest")  # its settings hold here, too
    assert jax.device_count() == 4
    tests = {
        "inside": (CASES, check),
        "split": (POOLINGS, check_split),
        "beside": (BESIDE, check_beside),
    }
    cases, one = tests[sys.argv[1]]
    part, parts = map(int, sys.argv[2:])
    for name in list(cases)[part::parts]:
        print(name, file=sys.stderr)
        conftest._quick = name != "global lse"  # for which the older emitters take a minute
        one(name)
