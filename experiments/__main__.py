"""The command line: `python -m experiments run | report | check | list`."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from textwrap import fill
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from experiments import EXPERIMENTS, interrupts
from experiments.config import (
    REFUSED,
    RESULTS,
    Config,
    Interrupted,
    UserError,
    at_least,
    choose,
    elsewhere,
    preset_of_all,
)
from experiments.hosts import ALONE, Hosts

if TYPE_CHECKING:
    from experiments.runner import Summary

Name = Annotated[str, tyro.conf.Positional]

ALL = "all"
"""What stands for every experiment."""


def _experiment(name: str) -> ModuleType:
    with interrupts.deferred():  # importing JAX takes seconds
        return import_module(EXPERIMENTS[choose("experiment", name, EXPERIMENTS, ALL)])


def _names(name: str) -> list[str]:
    """The experiments that a name stands for."""
    return list(EXPERIMENTS) if name == ALL else [name]


def _named(text: str | None, skip: bool, side: int | None) -> str | None:
    from experiments import data

    if side is not None:
        at_least("--image-size", side, 1)
    if text is None and (skip or side is not None):
        raise UserError(
            "--image-size and --skip-damaged are for images of your own: write --data PATH, too."
        )
    return text and data.named(text, skip=skip, side=side)


def _by(protocol: str | None, name: str) -> dict[str, str]:
    """The argument for an experiment that knows protocols."""
    if protocol is None:
        return {}
    if name != "consistency":
        raise UserError(
            f"--protocol says how consistency is measured, and {name} is no measurement of it: "
            "write consistency in its place."
        )
    return {"protocol": protocol}


def _on_devices(mesh: bool) -> AbstractContextManager[None]:
    if not mesh:
        return nullcontext()
    import jax

    from experiments import shifts

    return shifts.spread(jax.local_devices())


def run(
    name: Name,
    preset: str = "quick",
    data: str | None = None,
    seeds: int | None = None,
    variants: tuple[str, ...] = (),
    results: Path = RESULTS,
    workers: int = 2,
    skip_damaged: bool = False,
    image_size: int | None = None,
    protocol: str | None = None,
    mesh: bool = False,
    hosts: tyro.conf.OmitArgPrefixes[Hosts] = ALONE,
) -> None:
    """Measure what is not measured yet; the same command resumes an interrupted run.

    Args:
      name: the experiment, or all; `list` shows them.
      preset: how large; `list` shows them. With all, an experiment without it runs in its largest.
      data: another data set than the preset's: a name, a file or folder of your own, or hf:name.
      seeds: another number of seeds than the preset's.
      variants: only these.
      results: the folder of the results.
      workers: how many cells run at a time.
      skip_damaged: leave out those of your own files that cannot be read.
      image_size: scale your own images to this size.
      protocol: for consistency, measure at the shifts of a paper; `list` shows them.
      mesh: measure nets at as many shifts at a time as there are devices here.
      hosts: share the cells with other processes.
    """
    if name == ALL:
        asked = {"data": data, "variants": variants, "image-size": image_size}
        _refuse(asked | {"skip-damaged": skip_damaged, "protocol": protocol})
        return _run_all(preset, seeds, results, workers, mesh, hosts)
    experiment = _experiment(name)
    data = _named(data, skip_damaged, image_size)
    study = experiment.cells(preset, data, seeds, variants, **_by(protocol, name))
    share = hosts.join()
    cells = share.of(study)
    with _on_devices(mesh):
        done = _run(experiment, cells, results, workers)
    from experiments.store import command

    print(
        f"{share}{len(cells)} of {len(cells)} cells are finished in {results}: {_counted(done)}. "
        f"Now: {command('report', study[0], preset, results)}"
    )


def _refuse(options: dict[str, Any]) -> None:
    """Say which options do not fit all experiments."""
    if given := [f"--{name}" for name, value in options.items() if value]:
        raise UserError(
            f"{' and '.join(given)} cannot be given for all experiments, since what fits one does "
            "not fit another: write the name of one experiment in the place of all."
        )


def _run_all(
    preset: str, seeds: int | None, results: Path, workers: int, mesh: bool, hosts: Hosts
) -> None:
    """Every experiment, one after the other, each with its preset of this name."""
    from experiments.runner import Summary

    todo, every = _all_cells(preset, seeds), []
    share = hosts.join()
    for number, name in enumerate(todo, 1):
        cells = share.of(todo[name])
        with _on_devices(mesh):
            every.append(done := _run(_experiment(name), cells, results, workers))
        print(f"{share}[{number}/{len(todo)}] {name}: {len(cells)} cells, {_counted(done)}")
    total = sum(every, Summary(0, 0, 0.0))
    print(
        f"All {len(todo)} experiments are finished in {results}: {total.ran + total.found} cells, "
        f"{_counted(total)}. Now: python -m experiments check all{elsewhere(results)}"
    )


def _all_cells(preset: str, seeds: int | None) -> dict[str, Sequence[Config]]:
    """What there is to run, found before anything runs: a mistake is answered at once."""
    experiments = {name: _experiment(name) for name in EXPERIMENTS}
    preset_of_all(preset, [experiment.PRESETS for experiment in experiments.values()])
    found = {}
    for name, experiment in experiments.items():
        own = preset if preset in experiment.PRESETS else list(experiment.PRESETS)[-1]
        if own != preset:
            print(f"{name} has no preset {preset}: it runs in its largest, {own}.")
        found[name] = experiment.cells(own, None, seeds)
    return found


def _run(experiment: ModuleType, cells: Sequence[Config], results: Path, workers: int) -> "Summary":
    from experiments import runner

    workers = min(at_least("--workers", workers, 1), getattr(experiment, "WORKERS", workers))
    return runner.run(experiment, cells, root=results, workers=workers)


def _counted(done: "Summary") -> str:
    from experiments.runner import duration

    return f"{done.ran} now ({duration(done.seconds)}), {done.found} before"


def report(
    name: Name = "consistency",
    preset: str | None = None,
    data: str | None = None,
    results: Path = RESULTS,
    out: Path | None = None,
    skip_damaged: bool = False,
    image_size: int | None = None,
    protocol: str | None = None,
) -> None:
    """Draw what is stored: a table here; pictures, CSV and one HTML page in a folder.

    Args:
      name: the experiment, or `all` for one page over all of them.
      preset: which study: by default quick or, for all, that of which most is stored.
      data: which study, where it is not of the preset's data set.
      results: the folder of the results.
      out: the folder to write to; by default `report` in the folder of the results.
      skip_damaged, image_size, protocol: as for the run.
    """
    experiments = [_experiment(each) for each in _names(name)]
    data, out = _named(data, skip_damaged, image_size), out or results / "report"
    from experiments import joint
    from experiments.report import report

    more = _by(protocol, name)
    if name != ALL:
        report(experiments[0], preset or "quick", data, root=results, out=out, **more)
    elif joint.report(experiments, preset, data, root=results, out=out):
        sys.exit(1)


def check(name: Name = "consistency", results: Path = RESULTS) -> None:
    """Hold all stored cells to the exact statements; exit 1 where one is broken.

    Args:
      name: the experiment, or all.
      results: the folder of the results.
    """
    found = {each: _check(each, results) for each in _names(name)}
    if not any(count for count, _ in found.values()):
        raise UserError(
            f"There is no finished cell of {'any experiment' if name == ALL else name} in "
            f"{results}: first run `python -m experiments run {name}{elsewhere(results)}`."
        )
    for each, (count, broken) in found.items():
        if broken:
            print(*broken, sep="\n", file=sys.stderr)
        elif count:
            print(f"All exact statements hold in all {count} stored cells of {each}.")
        else:
            print(f"There is no finished cell of {each}.")
    if any(broken for _, broken in found.values()):
        sys.exit(1)


def _check(name: str, results: Path) -> tuple[int, list[str]]:
    """How many cells of an experiment are stored, and what these break, as sentences."""
    experiment = _experiment(name)
    from experiments import store

    cells = list(store.cells(results, name, experiment.Config))
    return len(cells), [
        f"{cell.path}: {what}." for cell in cells for what in experiment.check(cell)
    ]


def show() -> None:
    """List the experiments, presets, data sets and variants."""
    from experiments.data import OWN, SOURCES
    from experiments.nets import VARIANTS
    from experiments.shifts import PROTOCOLS

    for name in EXPERIMENTS:
        experiment = _experiment(name)
        print(f"{name}: {experiment.QUESTION}")
        for preset, row in experiment.PRESETS.items():
            print(f"  --preset {preset:8} {row.about}")
        largest = list(experiment.PRESETS)[-1]
        names = dict.fromkeys(cell.variant for cell in experiment.cells(largest))
        indents = {"initial_indent": "  --variants ", "subsequent_indent": "    "}
        print(fill(" ".join(names), 100, break_on_hyphens=False, **indents))
    print("data sets")
    for name, source in SOURCES.items():
        print(f"  --data {name:10} {source.title}, {source.licence}")
    print(f"  --data PATH       {OWN}")
    print("protocols of consistency")
    for name, protocol in PROTOCOLS.items():
        print(f"  --protocol {name:15} {protocol.source}")
    print("poolings in the names of variants")
    for name, variant in VARIANTS.items():
        print(f"  {name:10} {variant.title}")


def _command() -> None:
    """Run a command. What fails after Ctrl-C is taken to fail of it, and what ends is stopped."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"run": run, "report": report, "check": check, "list": show},
            prog="python -m experiments",
            description="Experiments on pooling and translation invariance.",
        )
    except (UserError, Interrupted):
        raise
    except Exception:
        interrupts.answer()
        raise
    interrupts.answer()


def main() -> None:
    """Run a command; the user's mistakes are one sentence, not a traceback."""
    try:
        with interrupts.remembered():
            _command()
    except UserError as error:
        sys.exit(_say(str(error), 2))
    except OSError as error:
        sys.exit(_say(f"{REFUSED}: {error}.", 2))
    except Interrupted as error:
        sys.exit(_say(str(error), 130))
    except KeyboardInterrupt:
        sys.exit(_say("Stopped. Finished cells are kept; the same command goes on.", 130))


def _say(sentence: str, code: int) -> int:
    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    main()
