"""Shifted images, and what a net says about them.

A shift is (down, right) in pixels. So far one family: `roll`, where what leaves on one side comes
back on the other. It is the family of the exact theory:

    In a net of circular convolutions and L reductions by 2, followed by a global pooling, the
    answer depends on a shift only modulo 2^L.

So with L = 3 the 64 shifts of `exhaustive(8)` stand for all 1,024 shifts of a 32x32 image, each
for 16 of them, and averages over the 64 are averages over the 1,024 without sampling noise.
`multiples(8, 32)` are the shifts at which the statement itself is tested.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.nets import apply

BATCH = 128


def exhaustive(period: int) -> np.ndarray:
    """Every shift within one period, int32 [period^2, 2], row by row; the first one is (0, 0)."""
    return np.argwhere(np.ones((period, period))).astype(np.int32)


def multiples(period: int, size: int) -> np.ndarray:
    """Every multiple of the period in an image of this size, (0, 0) left out."""
    return exhaustive(size // period)[1:] * np.int32(period)


@partial(jax.jit, static_argnums=0)
def _logits(net: nn.Module, params: Any, images: jax.Array, shift: jax.Array) -> jax.Array:
    return apply(net, params, jnp.roll(images, shift, axis=(1, 2)))


def _in_batches(images: np.ndarray) -> list[jax.Array]:
    """Equal batches, the last one filled with black images: one shape, one compilation."""
    missing = -len(images) % BATCH
    images = np.pad(images, ((0, missing),) + ((0, 0),) * (images.ndim - 1))
    return [jax.device_put(part) for part in np.split(images, len(images) // BATCH)]


def _at(net: nn.Module, params: Any, parts: list[jax.Array], shift: np.ndarray) -> np.ndarray:
    """The logits of all batches at one shift."""
    return np.concatenate([np.asarray(_logits(net, params, part, shift)) for part in parts])


def logits(net: nn.Module, params: Any, images: np.ndarray) -> np.ndarray:
    """The logits of the images as they are, float32 [N, classes]."""
    return _at(net, params, _in_batches(images), np.zeros(2, np.int32))[: len(images)]


def predictions(
    net: nn.Module,
    params: Any,
    images: np.ndarray,
    shifts: np.ndarray,
    tick: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """The class that the net calls each image at each shift, uint8 [K, N].

    `tick` is called after every shift with the number of images seen.
    """
    parts = _in_batches(images)
    answers = np.empty((len(shifts), len(images)), np.uint8)
    for row, shift in zip(answers, shifts, strict=True):
        row[:] = _at(net, params, parts, shift)[: len(images)].argmax(-1)
        tick(len(images))
    return answers
