"""An experiment that only writes, and a disk slow enough to be interrupted anywhere.

Run as a program it is a nursery, so that JAX is imported once for many processes: for each line
`rest words` it forks one that is the command line with these words, and for `wait pid` it says how
that one ended.
"""

import io
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments import EXPERIMENTS, config, runner, store  # noqa: F401, the runner loads JAX
from experiments.__main__ import main

NAME = "toy"
VARIANTS = ("a", "b")
PRESETS = {"many": 120, "few": 30}


@dataclass(frozen=True, kw_only=True)
class Config(config.Config):
    experiment: str = NAME


def cells(preset, data=None, seeds=None, variants=()):
    pairs = config.pairs(variants, VARIANTS, seeds, PRESETS[preset])
    return [Config(data="random", variant=variant, seed=seed) for seed, variant in pairs]


def work(config):
    return 1


def run(config, tick):
    random = np.random.default_rng([config.seed, VARIANTS.index(config.variant)])
    tick(1, 0.5)
    return {name: random.random((20, 20)) for name in ("predictions", "logits")}, {}


class Halves(io.FileIO):
    """A file that is written half by half, with a rest after each."""

    rest = 0.0

    def write(self, content):
        half = len(content) // 2
        for part in (content[:half], content[half:]):
            super().write(part)
            time.sleep(self.rest)
        return len(content)


def slow_disk(rest):
    """Every file takes twice as many seconds to write."""

    def opened(path, mode="r", *how, **else_):
        return Halves(path, mode) if mode == "wb" else open(path, mode, *how, **else_)

    Halves.rest, Path.open = rest, opened
    store.os.fsync = lambda file: None


def nursery():
    EXPERIMENTS[NAME] = "toy"
    for line in sys.stdin:
        first, *words = line.split()
        if first == "wait":
            _, status = os.waitpid(int(words[0]), 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        elif child := os.fork():
            print(child, flush=True)
        else:
            os.dup2(2, 1)
            slow_disk(float(first))
            sys.argv = ["experiments", *words]
            sys.exit(main())


if __name__ == "__main__":
    nursery()
