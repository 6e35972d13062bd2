"""What a cell is: a frozen dataclass, its canonical text, and eight digits that name it.

A *cell* is the smallest unit of work: one experiment, data set, variant and seed. Cells that differ
in nothing but variant and seed form a *study*; these are the ones that may share a table.
"""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

RESULTS = Path("results")
"""Where results are, unless said otherwise."""


def elsewhere(root: Path) -> str:
    """What a command has to be told of results that are not where they usually are."""
    return f" --results {shlex.quote(str(root))}" if root != RESULTS else ""


EXHAUSTIVE = "exhaustive"
"""The protocol that measures all shifts: what is shown unless another one is asked for."""

REFUSED = "The results cannot be read or written"
"""How a sentence about a file or folder begins."""


class UserError(ValueError):
    """A mistake that the user can repair: the command line prints its sentence and no traceback."""


class Interrupted(Exception):
    """The user stopped a run; the message says what is kept."""


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


C = TypeVar("C", bound=Config)


def canonical(config: Config | Mapping[str, Any]) -> str:
    """The configuration as one line of JSON with sorted keys: equal configurations, equal text."""
    fields = config if isinstance(config, Mapping) else dataclasses.asdict(config)
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def digest(config: Config | Mapping[str, Any]) -> str:
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


def preset_of_all(preset: str, presets: Iterable[Iterable[str]]) -> str:
    """Return `preset` if one of the experiments has it, by the presets of each."""
    return choose("preset", preset, dict.fromkeys(name for each in presets for name in each))


def pairs(
    variants: Iterable[str], known: Iterable[str], seeds: int | None, usual: int
) -> list[tuple[int, str]]:
    """Every seed with every variant: `known` ones, all of one seed before the next seed."""
    known = list(known)
    names = dict.fromkeys(choose("variant", name, known) for name in list(variants) or known)
    count = at_least("--seeds", usual if seeds is None else seeds, 1)
    return [(seed, name) for seed in range(count) for name in names]


def cells(
    kind: type[C],
    chosen: Any,
    known: Iterable[str],
    *,
    data: str,
    seeds: int | None,
    variants: Iterable[str],
    **more: Any,
) -> list[C]:
    """The cells of a preset, all variants of one seed before the next seed.

    Args:
      kind: the configuration. What it calls the same as the preset does comes from there.
      chosen: the preset, with its `seeds` and `variants`.
      known: the variants that there are.
      data: the data set.
      seeds, variants: others than those of the preset.
      more: the other fields.
    """
    names = {field.name for field in dataclasses.fields(kind)} - {"data"}
    ours = [field.name for field in dataclasses.fields(chosen) if field.name in names]
    shared = {name: getattr(chosen, name) for name in ours} | more
    return [
        kind(data=data, variant=variant, seed=seed, **shared)
        for seed, variant in pairs(variants or chosen.variants, known, seeds, chosen.seeds)
    ]


def restored(kind: type[C], stored: Mapping[str, Any]) -> C:
    """The configuration of a stored cell: JSON has lists where it had tuples."""
    fields: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return kind(**fields)


def at_least(name: str, value: int, least: int) -> int:
    """Return `value` unless it is too small to make sense."""
    if value < least:
        raise UserError(f"{name} is {value}, but must be at least {least}.")
    return value
