"""Poolings inside `jax.shard_map`, on two devices: in a process of its own, which has as many.

What varies over the devices, and what is the same on all, is part of an array's type there. Each
case is a pooling of two arrays, and which of the two is split over the devices.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

import jaxpool

X, MASK = jax.random.normal(jax.random.key(0), (2, 6, 6, 2)), np.ones((1, 6, 6, 1), bool)
MASK[0, 0, 0] = False
MASKS = np.concatenate([MASK, MASK[:, ::-1]])
NUMBERS = jnp.array([0.5, 2.0]).reshape(2, 1, 1, 1)
SPLIT, SAME = PartitionSpec("devices"), PartitionSpec()
HERE, THERE = (SPLIT, SAME), (SAME, SPLIT)

CASES = {
    "temperature": (lambda x, t: jaxpool.lse_pool(x, (2, 2), temperature=t), NUMBERS, THERE),
    "large window": (
        lambda x, t: jaxpool.softmax_pool(x, (5, 5), 1, temperature=t),
        NUMBERS,
        THERE,
    ),
    "power": (lambda x, p: jaxpool.lp_pool(x, (2, 2), p=1 + p), NUMBERS, THERE),
    "phase": (
        lambda x, p: jaxpool.polyphase_pool(x, phase=p[0]),
        jnp.array([[1, 3], [2, 0]]),
        THERE,
    ),
    "mask": (lambda x, m: jaxpool.avg_pool(x, (2, 2), where=m), MASKS, THERE),
    "one mask": (lambda x, m: jaxpool.lse_pool(x, (2, 2), where=m), MASK, HERE),
    "large window, one mask": (lambda x, m: jaxpool.lse_pool(x, (5, 5), 1, where=m), MASK, HERE),
    "border": (lambda x, a: jaxpool.max_pool(x, (2, 2), 1, "CIRCULAR") + a, 0.0, HERE),
    "average, border": (lambda x, a: jaxpool.avg_pool(x, (3, 3), 1, "REFLECT") + a, 0.0, HERE),
}


def check(name: str) -> None:
    pool, other, specs = CASES[name]
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(x, other):
        return (pool(x, other) ** 2).sum()

    def shared(x, other):
        return jax.lax.psum(loss(x, other), "devices")

    split = jax.shard_map(shared, mesh=mesh, in_specs=specs, out_specs=SAME)
    if specs is HERE:
        expected = jax.grad(loss)(X, other)
    else:  # every device has all of x
        each = [jax.grad(loss)(X, other[i : i + 1]) for i in range(2)]
        expected = each[0] + each[1]
    np.testing.assert_allclose(jax.jit(jax.grad(split))(X, other), expected, rtol=2e-5, atol=1e-5)


def test_poolings_inside_shard_map():
    two = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    run = subprocess.run([sys.executable, __file__], env=os.environ | two, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()


if __name__ == "__main__":
    assert jax.device_count() == 2
    for name in CASES:
        check(name)
        print(name, file=sys.stderr)
