"""The poolings: one table for every experiment, each a function with a geometry.

A further pooling is a row of `POOLINGS`, which `equivariance` shows; nets that pool by it are a row
of `nets.VARIANTS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

import jaxpool

Pool = Callable[[jax.Array, int, int, str], jax.Array]
"""Maps [batch, height, width, channels], the side k of the window, the stride s, the padding."""


@dataclass(frozen=True)
class Pooling:
    """A way to reduce maps by s, and what it is called.

    `pool(x, k, s, "CIRCULAR")` commutes with circular shifts by multiples of s, where s divides the
    map; other words of padding are those of `jaxpool`. `whole(x)` is the form that takes whole
    maps, [batch, channels], where there is one.
    """

    title: str
    family: str
    pool: Pool
    whole: Callable[[jax.Array], jax.Array] | None = None


def _windows(op: Callable[..., Any], more: int = 0, **options: Any) -> Pool:
    """Windows of k + `more` on each side."""

    def pool(x: jax.Array, k: int, s: int, padding: str) -> jax.Array:
        return op(x, (k + more, k + more), s, padding, **options)

    return pool


def _every(x: jax.Array, k: int, s: int, padding: str) -> jax.Array:
    """Every s-th element, as a strided convolution takes them."""
    return x[:, ::s, ::s]


def _blur(x: jax.Array, k: int, s: int, padding: str) -> jax.Array:
    return jaxpool.blur_pool(x, s, filter_size=3, padding=padding)


def _max_blur(size: int) -> Pool:
    """A maximum over windows of k, then a blur of this size."""

    def pool(x: jax.Array, k: int, s: int, padding: str) -> jax.Array:
        return jaxpool.max_blur_pool(x, (k, k), s, filter_size=size, padding=padding)

    return pool


def _polyphase(first: Pool) -> Pool:
    """A pooling at stride 1, then the phase of the largest norm, which needs no padding."""

    def pool(x: jax.Array, k: int, s: int, padding: str) -> jax.Array:
        return jaxpool.polyphase_pool(first(x, k, 1, padding), s)

    return pool


NAMES = (
    "Log-sum-exp and softmax have temperature 1 if no other is given; L2 and L3 are power means. "
    "Windows of the overlapping max are one wider than others. Blur n is a binomial blur alone, "
    "max-blur n a maximum at stride 1 and then that blur over n pixels, which strides. APS is "
    "adaptive polyphase sampling: it takes the phase of the largest norm."
)
"""What some titles mean, for those who read a report."""

WINDOW, BETWEEN, ANTIALIASED = "windows", "between average and max", "against aliasing"
FAMILIES = (WINDOW, BETWEEN, ANTIALIASED)

POOLINGS = {
    "stride": Pooling("every s-th element", WINDOW, _every),
    "max": Pooling("max", WINDOW, _windows(jaxpool.max_pool), jaxpool.global_max_pool),
    "max_wide": Pooling("overlapping max", WINDOW, _windows(jaxpool.max_pool, more=1)),
    "avg": Pooling("average", WINDOW, _windows(jaxpool.avg_pool), jaxpool.global_avg_pool),
    "min": Pooling("min", WINDOW, _windows(jaxpool.min_pool), jaxpool.global_min_pool),
    "l2": Pooling(
        "L2",
        BETWEEN,
        _windows(jaxpool.lp_pool, p=2, normalize=True),
        partial(jaxpool.global_lp_pool, p=2, normalize=True),
    ),
    "l3": Pooling(
        "L3",
        BETWEEN,
        _windows(jaxpool.lp_pool, p=3, normalize=True),
        partial(jaxpool.global_lp_pool, p=3, normalize=True),
    ),
    "gem": Pooling("GeM", BETWEEN, _windows(jaxpool.gem_pool), jaxpool.global_gem_pool),
    "lse": Pooling("log-sum-exp", BETWEEN, _windows(jaxpool.lse_pool), jaxpool.global_lse_pool),
    "lse_cold": Pooling(
        "log-sum-exp, T = 0.1",
        BETWEEN,
        _windows(jaxpool.lse_pool, temperature=0.1),
        partial(jaxpool.global_lse_pool, temperature=0.1),
    ),
    "softmax": Pooling(
        "softmax", BETWEEN, _windows(jaxpool.softmax_pool), jaxpool.global_softmax_pool
    ),
    "softmax_cold": Pooling(
        "softmax, T = 0.1",
        BETWEEN,
        _windows(jaxpool.softmax_pool, temperature=0.1),
        partial(jaxpool.global_softmax_pool, temperature=0.1),
    ),
    "mixed": Pooling("mixed", BETWEEN, _windows(jaxpool.mixed_pool)),
    "stochastic": Pooling(
        "stochastic, in testing",
        BETWEEN,
        _windows(partial(jaxpool.stochastic_pool, None, deterministic=True)),
    ),
    "blur3": Pooling("blur 3", ANTIALIASED, _blur),
    "maxblur2": Pooling("max-blur 2", ANTIALIASED, _max_blur(2)),
    "maxblur3": Pooling("max-blur 3", ANTIALIASED, _max_blur(3)),
    "maxblur5": Pooling("max-blur 5", ANTIALIASED, _max_blur(5)),
    "aps": Pooling("APS", ANTIALIASED, _polyphase(_every)),
    "max_aps": Pooling("max + APS", ANTIALIASED, _polyphase(_windows(jaxpool.max_pool))),
    "maxblur3_aps": Pooling("max-blur 3 + APS", ANTIALIASED, _polyphase(_max_blur(3))),
}
