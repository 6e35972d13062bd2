"""What a cell is: a frozen dataclass, its canonical text, and eight digits that name it.

A *cell* is the smallest unit of work: one experiment, data set, variant and seed. Cells that differ
in nothing but variant and seed form a *study*; these are the ones that may share a table.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


class UserError(ValueError):
    """A mistake that the user can repair: the command line prints its sentence and no traceback."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every cell has; an experiment adds its own fields.

    Every field that changes the result belongs here, and nothing else: results are found again by
    the hash of these fields.
    """

    experiment: str
    data: str
    variant: str
    seed: int


def canonical(config: Config) -> str:
    """The configuration as one line of JSON with sorted keys: equal configurations, equal text."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True, separators=(",", ":"))


def digest(config: Config) -> str:
    """Eight hexadecimal digits that name a configuration."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:8]


def study(config: Mapping[str, Any]) -> str:
    """What the cells of one study have in common: the configuration without variant and seed."""
    shared = {key: value for key, value in config.items() if key not in ("variant", "seed")}
    return json.dumps(shared, sort_keys=True, separators=(",", ":"))


def choose(kind: str, name: str, names: Iterable[str], others: str = "") -> str:
    """Return `name` if it is one of `names`; otherwise say what to write instead.

    `others` says in words what may be written besides.
    """
    names = list(names)
    if name in names:
        return name
    close = get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    others = f", or {others}" if others else ""
    raise UserError(f"Unknown {kind} {name!r}: write one of {', '.join(names)}{others}.{hint}")


def pairs(
    variants: Iterable[str], known: Iterable[str], seeds: int | None, usual: int
) -> list[tuple[int, str]]:
    """Every seed with every variant: `known` ones, all of one seed before the next seed."""
    known = list(known)
    names = dict.fromkeys(choose("variant", name, known) for name in list(variants) or known)
    count = at_least("--seeds", usual if seeds is None else seeds, 1)
    return [(seed, name) for seed in range(count) for name in names]


def at_least(name: str, value: int, least: int) -> int:
    """Return `value` unless it is too small to make sense."""
    if value < least:
        raise UserError(f"{name} is {value}, but must be at least {least}.")
    return value
