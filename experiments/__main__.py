"""The command line: `python -m experiments run | report | check | list`."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import tyro
from rich.console import Console

from experiments import EXPERIMENTS
from experiments.config import UserError, at_least, choose

Name = Annotated[str, tyro.conf.Positional]


def _experiment(name: str) -> ModuleType:
    return import_module(EXPERIMENTS[choose("experiment", name, EXPERIMENTS)])


def _named(text: str | None, skip: bool, side: int | None) -> str | None:
    from experiments import data

    if side is not None:
        at_least("--image-size", side, 1)
    return text and data.named(text, skip=skip, side=side)


def run(
    name: Name,
    preset: str = "quick",
    data: str | None = None,
    seeds: int | None = None,
    variants: tuple[str, ...] = (),
    results: Path = Path("results"),
    workers: int = 2,
    skip_damaged: bool = False,
    image_size: int | None = None,
) -> None:
    """Measure what is not measured yet; the same command resumes an interrupted run.

    Args:
      name: the experiment; `list` shows them.
      preset: how large; `list` shows them.
      data: another data set than the preset's: a name, a file or folder of your own, or hf:name.
      seeds: another number of seeds than the preset's.
      variants: only these.
      results: the folder of the results.
      workers: how many cells run at a time.
      skip_damaged: leave out those of your own files that cannot be read.
      image_size: scale your own images to this size.
    """
    experiment = _experiment(name)
    data = _named(data, skip_damaged, image_size)
    cells = experiment.cells(preset, data, seeds, variants)
    from experiments import runner

    workers = min(at_least("--workers", workers, 1), getattr(experiment, "WORKERS", workers))
    done = runner.run(experiment, cells, root=results, workers=workers)
    print(
        f"{len(cells)} of {len(cells)} cells are finished in {results}: {done.ran} now "
        f"({runner.duration(done.seconds)}), {done.found} before. "
        f"Now: python -m experiments report {name}"
    )


def report(
    name: Name = "consistency",
    preset: str | None = None,
    data: str | None = None,
    results: Path = Path("results"),
    out: Path | None = None,
    skip_damaged: bool = False,
    image_size: int | None = None,
) -> None:
    """Draw what is stored: a table here; pictures, CSV and one HTML page in a folder.

    Args:
      name: the experiment, or `all` for one page over all of them.
      preset: which study: by default quick or, for all, that of which most is stored.
      data: which study, where it is not of the preset's data set.
      results: the folder of the results.
      out: the folder to write to; by default `report` in the folder of the results.
      skip_damaged, image_size: as for the run.
    """
    choose("experiment", name, [*EXPERIMENTS, "all"])
    data, out = _named(data, skip_damaged, image_size), out or results / "report"
    from experiments import joint
    from experiments.report import report

    if name != "all":
        report(_experiment(name), preset or "quick", data, root=results, out=out)
    elif joint.report([*map(_experiment, EXPERIMENTS)], preset, data, root=results, out=out):
        sys.exit(1)


def check(name: Name = "consistency", results: Path = Path("results")) -> None:
    """Hold all stored cells to the exact statements; exit 1 where one is broken.

    Args:
      name: the experiment.
      results: the folder of the results.
    """
    experiment = _experiment(name)
    from experiments import store

    cells = list(store.cells(results, name, experiment.Config))
    if not cells:
        raise UserError(
            f"There is no finished cell of {name} in {results}: "
            f"first run `python -m experiments run {name}`."
        )
    broken = [f"{cell.path}: {what}." for cell in cells for what in experiment.check(cell)]
    if broken:
        print(*broken, sep="\n", file=sys.stderr)
        sys.exit(1)
    print(f"All exact statements hold in all {len(cells)} stored cells of {name}.")


def show() -> None:
    """List the experiments, presets, data sets and variants."""
    from experiments.data import OWN, SOURCES
    from experiments.nets import VARIANTS

    for name in EXPERIMENTS:
        experiment = _experiment(name)
        print(f"{name}: {experiment.QUESTION}")
        for preset, row in experiment.PRESETS.items():
            print(f"  --preset {preset:8} {row.about}")
    print("data sets")
    for name, source in SOURCES.items():
        print(f"  --data {name:10} {source.title}, {source.licence}")
    print(f"  --data PATH       {OWN}")
    print("variants")
    for name, variant in VARIANTS.items():
        print(f"  --variants {name:10} {variant.title}")


def main() -> None:
    """Run a command; the user's mistakes are one sentence, not a traceback."""
    from experiments.runner import Interrupted

    try:
        tyro.extras.subcommand_cli_from_dict(
            {"run": run, "report": report, "check": check, "list": show},
            prog="python -m experiments",
            description="Experiments on pooling and translation invariance.",
        )
    except UserError as error:
        sys.exit(_say(str(error), 2))
    except OSError as error:
        sys.exit(_say(f"The results cannot be read or written: {error}.", 2))
    except Interrupted as error:
        sys.exit(_say(str(error), 130))
    except KeyboardInterrupt:
        sys.exit(_say("Stopped. Finished cells are kept; the same command goes on.", 130))


def _say(sentence: str, code: int) -> int:
    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    main()
