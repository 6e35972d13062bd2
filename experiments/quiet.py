"""Is the machine quiet? What a fixed computation takes now, over the least that it ever took.

Beside another job, loops that compute take up to twice their time, and those that only move memory
hardly more: what is timed then is not only slow, its ratios are wrong, and no number shows it.
"""

import time
from collections.abc import Callable
from functools import cache
from math import inf
from statistics import median
from typing import Any

BEATS = 5  # of which the median counts
QUIET = 1.5  # times the least: so much varies by itself
PAUSE = 0.2  # seconds


class Pulse:
    """Waits for quiet moments, `patience` seconds in all, and remembers how quiet they were."""

    least = inf  # seconds, of all beats in this process

    def __init__(self, patience: float, beat: Callable[[], Any] | None = None) -> None:
        self.patience, self.beat, self.seen = patience, beat or _computation(), []

    def now(self) -> float:
        """1 or more: how many times the least a beat takes."""
        beats = []
        for _ in range(BEATS):
            start = time.perf_counter()
            self.beat()
            beats.append(time.perf_counter() - start)
        Pulse.least = min(Pulse.least, *beats)
        return median(beats) / Pulse.least

    def wait(self) -> None:
        """Return when the machine is quiet, or there is no patience left."""
        now = self.now()
        while now > QUIET and self.patience > 0:
            time.sleep(PAUSE)
            self.patience -= PAUSE
            now = self.now()
        self.seen.append(now)


@cache
def _computation() -> Callable[[], Any]:
    """Half a millisecond of exponentials, on all cores."""
    import jax
    import jax.numpy as jnp

    def f(x: jax.Array) -> jax.Array:
        for _ in range(8):
            x = jnp.exp(-x)
        return x

    x = jnp.linspace(0, 1, 2**17)
    compiled = jax.jit(f).lower(x).compile()
    return lambda: jax.block_until_ready(compiled(x))
