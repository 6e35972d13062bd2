"""Training: Adam with a cosine schedule, the same for every variant.

A Python loop over jitted steps. On CPU, `lax.scan` over the steps is about ten times slower, and
`vmap` over seeds slower than one seed after the other.
"""

import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.nets import apply

Params = Any

# Two cells that start at the same time would compile the same random numbers twice.
_STARTING = threading.Lock()


class State(NamedTuple):
    """What a training step takes and returns."""

    params: Params
    optimizer: optax.OptState


@cache
def adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """One object per setting, because the compiled step is found again by it."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def start(
    net: nn.Module, optimizer: optax.GradientTransformation, seed: int, shape: tuple[int, ...]
) -> State:
    """The state before training. The net is not run for it: running it would be compiled, too."""
    params = net.lazy_init(jax.random.key(seed), jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return State(params, optimizer.init(params))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def step(
    net: nn.Module,
    optimizer: optax.GradientTransformation,
    state: State,
    images: jax.Array,
    labels: jax.Array,
    batch: jax.Array,
) -> tuple[State, jax.Array]:
    """One step on the images named by `batch`; the old state is overwritten."""

    def loss(params: Params) -> jax.Array:
        logits = apply(net, params, images[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, moments = optimizer.update(gradient, state.optimizer, state.params)
    return State(optax.apply_updates(state.params, updates), moments), value


def batches(images: int, *, batch: int, epochs: int, seed: int) -> np.ndarray:
    """The data order, int32 [epochs, steps, batch]; it depends on nothing but these numbers.

    Each epoch is a new permutation. What is left over after the last full batch is dropped: a
    smaller batch would be compiled anew.
    """
    random = np.random.default_rng([seed, 1])
    steps = images // batch
    orders = [random.permutation(images)[: steps * batch] for _ in range(epochs)]
    return np.asarray(orders, np.int32).reshape(epochs, steps, batch)


def fit(
    net: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    batch: int,
    learning_rate: float,
    seed: int,
    tick: Callable[[int, float | None], None],
) -> tuple[Params, list[float]]:
    """Train from scratch.

    Args:
      net: the net; its initial parameters come from `seed` alone.
      images, labels: the training set, which is moved to the device once.
      epochs, batch, learning_rate: how to train.
      seed: for the initial parameters and the data order.
      tick: called after every step with the number of images seen and, now and then, the loss.

    Returns:
      The parameters, and the mean loss of each epoch.
    """
    order = batches(len(images), batch=batch, epochs=epochs, seed=seed)
    optimizer = adam(learning_rate, order.shape[0] * order.shape[1])
    with _STARTING:
        state = start(net, optimizer, seed, images.shape[1:])
    images, labels = jax.device_put((images, labels))
    history = []
    for epoch in order:
        losses = []
        for number, chosen in enumerate(epoch):
            state, loss = step(net, optimizer, state, images, labels, chosen)
            losses.append(loss)
            # Reading a loss waits for it, so not at every step.
            tick(batch, float(loss) if number % 4 == 0 else None)
        history.append(float(jnp.stack(losses).mean()))
    return state.params, history
