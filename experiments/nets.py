"""The net, and the table of what may stand between its convolutions.

Three blocks of convolution 3x3, ReLU and a reduction by 2, then a global average and one dense
layer. All borders are circular. A net of this kind can lose translation invariance in its
reductions only: everything else commutes with circular shifts exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
from flax import linen as nn

import jaxpool
import jaxpool.linen as jpl


@dataclass(frozen=True)
class Variant:
    """One way to halve a feature map.

    Either the convolution strides, or a pooling module follows it: `pool` makes a new one for each
    of the three places, so that poolings with parameters have their own.
    """

    title: str
    pool: Callable[[], Callable[[jax.Array], jax.Array]] | None
    conv_strides: int = 1

    @property
    def phrase(self) -> str:
        """The title as part of a sentence."""
        return f"{self.title} pooling" if self.pool else self.title


def _pool(module: Any, **arguments: Any) -> Callable[[], Any]:
    """A 2x2 pooling, stride 2."""
    return partial(module, (2, 2), **arguments)


VARIANTS = {
    "stride": Variant("strided convolution", None, conv_strides=2),
    "max": Variant("max", _pool(jpl.MaxPool)),
    "avg": Variant("average", _pool(jpl.AvgPool)),
    "min": Variant("min", _pool(jpl.MinPool)),
    "softmax": Variant("softmax", _pool(jpl.SoftmaxPool)),
    "lse": Variant("log-sum-exp", _pool(jpl.LSEPool)),
}


class Net(nn.Module):
    """Images [batch, size, size, channels] to logits [batch, classes]."""

    variant: str
    widths: tuple[int, ...] = (16, 32, 64)
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        variant = VARIANTS[self.variant]
        for width in self.widths:
            x = nn.Conv(width, (3, 3), strides=variant.conv_strides, padding="CIRCULAR")(x)
            x = nn.relu(x)
            if variant.pool is not None:
                x = variant.pool()(x)
        return nn.Dense(self.classes)(jaxpool.global_avg_pool(x))

    @property
    def period(self) -> int:
        """The answer depends on a circular shift only modulo this many pixels."""
        return 2 ** len(self.widths)


def apply(net: nn.Module, params: Any, images: jax.Array) -> jax.Array:
    """The logits [batch, classes] of a net without state."""
    return cast(jax.Array, net.apply(params, images))
