"""Training: Adam with a cosine schedule, the same for every variant.

How long is either fixed, or the same rule for all: on at a constant rate until an epoch's mean loss
is low enough, or the time is up, and then a cosine down. What learns slowly then gets more time.

A Python loop over jitted steps. On CPU, `lax.scan` over the steps is about ten times slower, and
`vmap` over seeds slower than one seed after the other.
"""

import threading
from collections.abc import Callable
from functools import partial
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
    """What a training step takes and returns; `key` is for what is random in it."""

    params: Params
    moments: optax.OptState
    key: jax.Array


ADAM = optax.scale_by_adam()
Change = Callable[[jax.Array, jax.Array], jax.Array]
"""Changes images [batch, height, width, channels] at random, given a key."""


def start(net: nn.Module, seed: int, shape: tuple[int, ...]) -> State:
    """The state before training. The net is not run for it: running it would be compiled, too."""
    key = jax.random.key(seed)
    params = net.lazy_init(key, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return State(params, ADAM.init(params), key)


@partial(jax.jit, static_argnums=(0, 1), static_argnames="pool_rate", donate_argnums=2)
def step(
    net: nn.Module,
    change: Change | None,
    state: State,
    images: jax.Array,
    labels: jax.Array,
    batch: jax.Array,
    rate: jax.Array,
    *,
    pool_rate: float = 1.0,
) -> tuple[State, jax.Array]:
    """One step on the images named by `batch`; the old state is overwritten."""
    key, drawn, moved = jax.random.split(state.key, 3)
    seen = images[batch] if change is None else change(moved, images[batch])

    def loss(params: Params) -> jax.Array:
        logits = apply(net, params, seen, drawn)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, moments = ADAM.update(gradient, state.moments, state.params)
    weights = {name for name in state.params["params"] if name.startswith(("Conv_", "Dense_"))}

    def scaled(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        return -rate * (update if path[1].key in weights else pool_rate * update)

    updates = jax.tree_util.tree_map_with_path(scaled, updates)
    return State(optax.apply_updates(state.params, updates), moments, key), value


DOWN = 2
"""How many epochs a cosine takes at the end of a training that is as long as it needs to be."""


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
    target: float = 0.0,
    pool_rate: float = 1.0,
    change: Change | None = None,
    watch: Callable[[int, Params], None] = lambda epochs, params: None,
) -> tuple[Params, list[float]]:
    """Train from scratch.

    Args:
      net: the net; its initial parameters come from `seed` alone.
      images, labels: the training set, which is moved to the device once.
      epochs, batch, learning_rate: how to train.
      seed: for the initial parameters, the data order, and what is random in a step.
      tick: called after every step with the number of images seen and, now and then, the loss.
      target: where it is not 0, the rate stays constant until an epoch's mean loss is as low, or
        only `DOWN` epochs are left; then come `DOWN` epochs along a cosine, and training is over.
      pool_rate: how many times as fast the parameters of poolings learn.
      change: changes the images of every step at random.
      watch: called before the first epoch and after each, with their number and the parameters,
        which the next step overwrites.

    Returns:
      The parameters, and the mean loss of each epoch.
    """
    order = batches(len(images), batch=batch, epochs=epochs, seed=seed)
    with _STARTING:
        state = start(net, seed, images.shape[1:])
    images, labels = jax.device_put((images, labels))
    history: list[float] = []
    down = min(DOWN, epochs) if target else epochs
    end = epochs  # of the way down, which begins `down` epochs before
    watch(0, state.params)
    for number, epoch in enumerate(order):
        if number < end - down and history and history[-1] <= target:
            end = number + down
        losses = []
        for at, chosen in enumerate(epoch):
            gone = max(0.0, (number + at / len(epoch) - (end - down)) / down)
            rate = np.float32(learning_rate * (1 + np.cos(np.pi * gone)) / 2)
            state, loss = step(
                net, change, state, images, labels, chosen, rate, pool_rate=pool_rate
            )
            losses.append(loss)
            # Reading a loss waits for it, so not at every step.
            tick(batch, float(loss) if at % 4 == 0 else None)
        history.append(float(jnp.stack(losses).mean()))
        watch(number + 1, state.params)
        if number + 1 == end:
            break
    tick((epochs - end) * order[0].size, None)  # what was not needed
    return state.params, history
