"""The net, and the table of what may stand between its convolutions.

Three blocks of convolution 3x3, ReLU and a reduction by 2, then a global average and one dense
layer. Borders are circular unless said. A net of this kind can lose translation invariance in its
reductions only: everything else commutes with circular shifts exactly. (APS is adaptive polyphase
sampling, a reduction that does so, too.)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
from flax import linen as nn

import jaxpool
import jaxpool.linen as jpl
from experiments.poolings import POOLINGS


@dataclass(frozen=True)
class Variant:
    """One way to halve a feature map.

    Either the convolution strides, or a pooling follows it: `pool(padding)` makes a new one for
    each of the three places, so that poolings with parameters have their own. `random`: it draws in
    training. `exact`: with circular borders no shift ever changes an answer.
    """

    title: str
    pool: Callable[[str], nn.Module] | None = None
    random: bool = False
    exact: bool = False

    @property
    def phrase(self) -> str:
        """The title as part of a sentence."""
        return f"{self.title} pooling" if self.pool else self.title


class Fixed(nn.Module):
    """A pooling without parameters: windows of 2x2, unless it has its own, and stride 2."""

    pooling: str
    padding: str

    def __call__(self, x: jax.Array) -> jax.Array:
        return POOLINGS[self.pooling].pool(x, 2, 2, self.padding)


def fixed(name: str, *, exact: bool = False) -> Variant:
    """A row of `POOLINGS`."""
    return Variant(POOLINGS[name].title, partial(Fixed, name), exact=exact)


def learned(
    title: str, kind: Callable[..., nn.Module], *, random: bool = False, **options: Any
) -> Variant:
    """A module with parameters or random numbers: windows of 2x2, which need no padding."""
    return Variant(title, lambda padding: kind((2, 2), **options), random=random)


VARIANTS = {
    "stride": Variant("strided convolution"),
    "max": fixed("max"),
    "max_wide": fixed("max_wide"),
    "avg": fixed("avg"),
    "min": fixed("min"),
    "l2": fixed("l2"),
    "l3": fixed("l3"),
    "gem": learned("GeM, learned p", jpl.GeMPool, learn="layer"),
    "lse": fixed("lse"),
    "softmax": fixed("softmax"),
    "mixed": learned("mixed, learned", jpl.MixedPool, learn="layer", deterministic=True),
    "gated": learned("gated", jpl.GatedPool),
    "stochastic": learned("stochastic", jpl.StochasticPool, random=True),
    "blur3": fixed("blur3"),
    "maxblur2": fixed("maxblur2"),
    "maxblur3": fixed("maxblur3"),
    "maxblur5": fixed("maxblur5"),
    "aps": fixed("aps", exact=True),
    "max_aps": fixed("max_aps", exact=True),
    "maxblur3_aps": fixed("maxblur3_aps", exact=True),
}


TITLES = {name: variant.title for name, variant in VARIANTS.items()}
UNFILTERED = ("stride", "max")
"""Those that subsample without a filter, as architectures did before the others."""


def titles(variants: Iterable[str]) -> str:
    """Each of them once, in words."""
    return ", ".join(dict.fromkeys(TITLES[variant] for variant in variants))


class Net(nn.Module):
    """Images [batch, size, size, channels] to logits [batch, classes].

    `padding` is that of the convolutions, and of the poolings that reach over the border. Where it
    is `flat`, the dense layer takes the last map as it is, in the place of its average.
    """

    variant: Variant
    widths: tuple[int, ...] = (16, 32, 64)
    classes: int = 10
    padding: str = "CIRCULAR"
    flat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pool, strides = self.variant.pool, 1 if self.variant.pool else 2
        for width in self.widths:
            x = nn.relu(nn.Conv(width, (3, 3), strides=strides, padding=self.padding)(x))
            if pool is not None:
                how = {"deterministic": not self.has_rng("pool")} if self.variant.random else {}
                x = pool(self.padding)(x, **how)
        x = x.reshape(len(x), -1) if self.flat else jaxpool.global_avg_pool(x)
        return nn.Dense(self.classes)(x)

    @property
    def period(self) -> int:
        """The answer depends on a circular shift only modulo this many pixels."""
        return 2 ** len(self.widths)


def apply(net: nn.Module, params: Any, images: jax.Array, key: jax.Array | None = None):
    """The logits [batch, classes] of a net without state; in training there is a key."""
    rngs = None if key is None else {"pool": key}
    return cast(jax.Array, net.apply(params, images, rngs=rngs))
