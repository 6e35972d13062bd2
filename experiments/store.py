"""Finished cells on disk: raw predictions in .npz, everything else in .json, both or neither.

    results/<experiment>/<data>/<variant>/seed=<k>-<hash of the configuration>.json and .npz

Both files are written under another name, brought to the disk, and renamed, the .json last. It
holds the SHA-256 of the .npz. So a cell is finished when its .json can be read and the .npz fits to
it, whenever the process or the machine was stopped.
"""

import dataclasses
import errno
import hashlib
import io
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import EXHAUSTIVE, REFUSED, Config, UserError, digest, elsewhere
from experiments.data import flag

FORMAT = 1
"""Raise it when stored cells change their meaning: older ones are then refused, not misread."""


@dataclass(frozen=True)
class Cell:
    """A finished cell: its configuration, facts about its making, and its arrays."""

    path: Path
    config: dict[str, Any]
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def variant(self) -> str:
        return self.config["variant"]

    @property
    def seed(self) -> int:
        return self.config["seed"]


def command(verb: str, config: Config, preset: str, root: Path) -> str:
    """What measures the study of a cell (run), or shows it (report)."""
    named = f"{config.experiment} --preset {preset} {flag(config.data)}{protocol(config)}"
    return f"python -m experiments {verb} {named}{elsewhere(root)}"


def protocol(config: Config) -> str:
    """What a command has to be told of shifts that are those of a paper."""
    name = getattr(config, "shifts", EXHAUSTIVE)
    return "" if name == EXHAUSTIVE else f" --protocol {name}"


def path(root: Path, config: Config) -> Path:
    """Where the .json of a cell is, or will be."""
    folder = root / config.experiment / config.data / config.variant
    return folder / f"seed={config.seed}-{digest(config)}.json"


def save(root: Path, config: Config, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> Path:
    """Store a finished cell, so that it is there as a whole or not at all."""
    target = path(root, config)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    record = {
        "format": FORMAT,
        "config": dataclasses.asdict(config),
        "facts": dict(facts),
        "sha256": hashlib.sha256(packed.getvalue()).hexdigest(),
    }
    write(target.with_suffix(".npz"), packed.getvalue())
    write(target, (json.dumps(record, indent=1) + "\n").encode())
    return target


def load(target: Path) -> Cell | None:
    """Read a cell; None where there is none, or where it is torn or does not fit together: the
    record to its name, or the arrays to the record."""
    try:
        record = json.loads(target.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:  # the whole text is there, so nothing was torn
        raise UserError(
            f"{target} was written by another version (format {found}, this one reads {FORMAT}): "
            "name another folder with --results, or move this one away. Nothing was overwritten."
        )
    try:
        packed = target.with_suffix(".npz").read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(packed).hexdigest() != record.get("sha256"):
        return None
    if not target.stem.endswith(digest(record.get("config", {}))):
        return None
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return Cell(target, record["config"], record["facts"], dict(arrays))


def cells(root: Path, experiment: str, kind: type[Config] | None = None) -> Iterator[Cell]:
    """All finished cells of an experiment, in the order of their names.

    With `kind`, those with other settings than this configuration are from another version: they
    are left out, as damaged ones are, and that is said.
    """
    fields = {field.name for field in dataclasses.fields(kind)} if kind else None
    others, damaged = 0, []
    for target in sorted((root / experiment).glob("*/*/seed=*.json")):
        cell = load(target)
        if cell is None:
            damaged.append(target)
        elif fields is None or fields == cell.config.keys():
            yield cell
        else:
            others += 1
    if damaged:
        print(
            f"{len(damaged)} of the cells in {root / experiment} cannot be read, {damaged[0]} is "
            "the first: they are left out, and a run measures them again.",
            file=sys.stderr,
        )
    if others:
        print(
            f"Another version wrote {others} of the cells in {root / experiment}, with other "
            "settings: they are left out, and stay as they are.",
            file=sys.stderr,
        )


@contextmanager
def _room(target: Path) -> Iterator[None]:
    """Turn a full disk, or a folder that takes no files, into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            why = f"{REFUSED}: {target}: {error.strerror}."
            raise UserError(f"{why} Name another folder with --results or --out.") from error
        raise UserError(
            f"There is no space left to write {target}: make some, and the same command goes on. "
            "What was finished before is kept."
        ) from error


def probe(folder: Path) -> None:
    """Make a folder and see that it takes a file, before there is something to lose."""
    with _room(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".probe"):
            pass


def write(target: Path, content: bytes) -> None:
    """Write a file that is complete from the moment it has its name, with its folder."""
    with _room(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(target, content)


def _draft(target: Path, host: str, process: object) -> Path:
    return target.with_name(f".{target.name}.{host}.{process}")


def _sweep(target: Path) -> None:
    """Remove the drafts of stopped processes, and leave those of others at work."""
    for draft in target.parent.glob(_draft(target, "*", "*").name):
        with suppress(FileNotFoundError):
            if _is_stopped(draft) or time.time() - draft.stat().st_mtime > STALE:
                draft.unlink()


STALE = 3600.0
"""After how many seconds nobody is writing a draft any more, on whichever host."""


def _is_stopped(draft: Path) -> bool:
    """Whether it was written here, by a process that is no more."""
    before, _, process = draft.name.rpartition(".")
    if not before.endswith(f".{HOST}") or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return False


HOST = socket.gethostname()


def _write(target: Path, content: bytes) -> None:
    _sweep(target)
    draft = _draft(target, HOST, os.getpid())
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
