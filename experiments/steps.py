"""Training steps of networks that differ in nothing but their max pooling: how much does it matter?

`none` takes every second pixel instead, or the first quarter of the image, whose gradient is
simpler. What is left is the time of everything else, so the faster one says which share pooling
has, and what the fastest pooling could gain. It can be less than the pooling takes alone, where XLA
runs a gradient of pooling on one core beside gradients of convolutions on the other.

The net of the experiments has a twin in PyTorch, where that is installed: the same parameters,
losses and updates, on as many cores. Either layout of its images is tried, and the better counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jaxpool
from experiments import train
from experiments.contenders import Run, optional
from experiments.nets import Net, Variant

Pool = Callable[[jax.Array], jax.Array]


class LeNet(nn.Module):
    """Two convolutions, two poolings, three dense layers."""

    pool: Pool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in (6, 16):
            x = self.pool(nn.relu(nn.Conv(features, (5, 5), padding="VALID")(x)))
        x = x.reshape(x.shape[0], -1)
        for features in (120, 84):
            x = nn.relu(nn.Dense(features)(x))
        return nn.Dense(10)(x)


class ResNet(nn.Module):
    """The stem and the first two stages of a ResNet-18."""

    pool: Pool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(_norm(nn.Conv(64, (7, 7), 2, use_bias=False)(x)))
        x = self.pool(x)
        for features, strides in ((64, 1), (64, 1), (128, 2), (128, 1)):
            x = _block(x, features, strides)
        return nn.Dense(10)(x.mean((1, 2)))


def _block(x: jax.Array, features: int, strides: int) -> jax.Array:
    """A basic block."""
    y = nn.relu(_norm(nn.Conv(features, (3, 3), strides, use_bias=False)(x)))
    y = _norm(nn.Conv(features, (3, 3), use_bias=False)(y))
    if x.shape != y.shape:
        x = _norm(nn.Conv(features, (1, 1), strides, use_bias=False)(x))
    return nn.relu(x + y)


def _norm(x: jax.Array) -> jax.Array:
    """Batch normalisation as it is in training; running averages are left out."""
    return nn.LayerNorm(reduction_axes=(0, 1, 2), feature_axes=-1)(x)


@dataclass(frozen=True)
class Step:
    """One training step, on images of this shape; its poolings have stride 2."""

    title: str
    net: Callable[[Pool], nn.Module]
    shape: tuple[int, ...]
    window: tuple[int, int]
    padding: int
    twin: bool = False  # in PyTorch


class Pooled(nn.Module):
    """A pooling as a module."""

    pool: Pool

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.pool(x)


def _small(pool: Pool) -> nn.Module:
    """The net that the experiments train."""
    return Net(Variant("", lambda padding: Pooled(pool)))


STEPS = {
    "lenet": Step("LeNet", LeNet, (128, 32, 32, 3), (2, 2), 0),
    "resnet": Step("ResNet, stem and two stages", ResNet, (8, 112, 112, 3), (3, 3), 1),
    "small": Step("the net of the experiments", _small, (128, 32, 32, 1), (2, 2), 0, twin=True),
}


def pools(step: Step) -> dict[str, Pool]:
    """What may stand between the convolutions."""
    window, p = step.window, step.padding
    return {
        "jaxpool": lambda x: jaxpool.max_pool(x, window, 2, p),
        "flax": lambda x: nn.max_pool(x, window, (2, 2), ((p, p), (p, p))),
        "none, second": lambda x: x[:, ::2, ::2],
        "none, quarter": lambda x: x[:, : x.shape[1] // 2, : x.shape[2] // 2],
    }


def contenders(step: Step, images: np.ndarray) -> dict[str, Run]:
    """The step with each pooling, from the same parameters on the same images."""
    nets = {name: step.net(pool) for name, pool in pools(step).items()}
    runs = {f"{name}/step": _run(net, images) for name, net in nets.items()}
    if step.twin and optional("torch"):
        params = train.start(nets["jaxpool"], 0, images.shape[1:]).params["params"]
        for layout, last in {"first": False, "last": True}.items():
            runs[f"torch, channels {layout}/step"] = _twin(params, images, channels_last=last)
    return runs


RATE = 1e-3


def _run(net: nn.Module, images: np.ndarray) -> Run:
    """A step that goes on from the last one, and overwrites its state, as in training."""
    state = train.start(net, 0, images.shape[1:])
    batch = np.arange(len(images), dtype=np.int32)
    labels = jnp.asarray(batch % 10)
    values, rate = jnp.asarray(images), jnp.float32(RATE)

    def run() -> jax.Array:
        nonlocal state
        state, loss = train.step(net, None, state, values, labels, batch, rate)
        return jax.block_until_ready((state, loss))[1]

    run()  # compiles
    return run


def _twin(params: Mapping[str, Any], images: np.ndarray, *, channels_last: bool) -> Run:
    """The same step of a `Net` with max pooling in PyTorch, from the same parameters."""
    torch = import_module("torch")
    net = _torch_net(params)
    values = torch.from_numpy(images).movedim(-1, 1).contiguous()
    if channels_last:
        net, values = (x.to(memory_format=torch.channels_last) for x in (net, values))
    batch = torch.arange(len(images))
    labels = batch % 10
    adam = torch.optim.Adam(net.parameters(), RATE)

    def run() -> Any:
        adam.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(values[batch]), labels[batch])
        loss.backward()
        adam.step()
        return loss.detach()

    run()  # as the others
    return run


def _torch_net(params: Mapping[str, Any]) -> Any:
    """A `Net` with max pooling in PyTorch, with these parameters."""
    nn = import_module("torch").nn
    blocks = []
    for name in params:
        kernel = np.asarray(params[name]["kernel"])
        if name.startswith("Conv"):
            *_, inputs, outputs = kernel.shape
            layer = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")
            blocks += [layer, nn.ReLU(), nn.MaxPool2d(2)]
        else:
            layer = nn.Linear(*kernel.shape)
            blocks += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer]
        _set(layer.weight, np.moveaxis(kernel, (-1, -2), (0, 1)))
        _set(layer.bias, np.asarray(params[name]["bias"]))
    return nn.Sequential(*blocks)


def _set(parameter: Any, values: np.ndarray) -> None:
    torch = import_module("torch")
    with torch.no_grad():
        parameter.copy_(torch.tensor(values))
