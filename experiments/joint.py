"""One page over all experiments: its first screen is the answer of the first one.

An experiment that is not measured, or whose report fails, is one sentence on the page, and the
others are shown all the same.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType

from experiments import store
from experiments.config import RESULTS, UserError, elsewhere, preset_of_all
from experiments.report import Shown, Study, render, show, study_of


@dataclass(frozen=True)
class Entry:
    """An experiment on the page: what it shows or, in a sentence, why it shows nothing.

    `state` stands in the table of contents. `others` are the commands that show the studies which
    are stored besides.
    """

    name: str
    question: str
    state: str
    why: str = ""
    shown: Shown | None = None
    others: Sequence[str] = ()

    @property
    def failed(self) -> bool:
        return self.state == FAILED

    @property
    def said(self) -> str:
        """What the terminal says of it."""
        if self.shown is None:
            return self.why
        return f"{self.shown.section.answer} {self.shown.study.note}".strip()


FAILED = "its report failed"


def report(
    experiments: Sequence[ModuleType],
    preset: str | None,
    data: str | None,
    *,
    root: Path,
    out: Path,
) -> list[str]:
    """Write the page of all experiments, its answers as text, and beside it the files of each.

    Returns the names of the experiments whose report failed.
    """
    if preset:
        preset_of_all(preset, [experiment.PRESETS for experiment in experiments])
    entries, files = [], {}
    for experiment in experiments:
        entry, of = _entry(experiment, preset, data, root=root, out=out)
        entries.append(entry)
        files |= of
        print(f"{entry.name}: {entry.said}\n", file=sys.stderr if entry.failed else sys.stdout)
    if not files and not any(entry.failed for entry in entries):
        raise UserError(f"There is nothing to show in {root}. {entries[0].why}")
    page, text = out / "report.html", out / "report.md"
    files[page] = render("joint.html.j2", entries=entries)
    files[text] = render("joint.md.j2", entries=entries)
    for path, content in files.items():
        store.write(path, content)
    print(f"  {page}, and beside it the page, tables and pictures of each experiment")
    return [entry.name for entry in entries if entry.failed]


def _entry(
    experiment: ModuleType, preset: str | None, data: str | None, *, root: Path, out: Path
) -> tuple[Entry, dict[Path, bytes]]:
    """One experiment and its files; whatever fails in it stays in it."""
    blank = partial(Entry, experiment.NAME, experiment.QUESTION)
    used = preset or "quick"
    try:
        stored = list(store.cells(root, experiment.NAME, experiment.Config))
        studies = _studies(experiment, preset, data, stored, root)
        if not studies:
            command = study_of(experiment, used, data, stored, root).command("run")
            return blank("not measured yet", f"Not measured yet: run `{command}`."), {}
        used = studies[0].preset
        shown, files = show(studies[0], out)
        if getattr(experiment, "OF_ONE_COMMIT", False):
            why = (
                f"See {experiment.NAME}.md, beside this page: times are of one machine and commit."
            )
            return blank("on a page of its own", why), files
        others = [study.command("report") for study in studies[1:]]
        return blank(_state(shown), shown=shown, others=others), files
    except UserError as error:
        return blank("not shown", str(error)), {}
    except Exception as error:  # a fault of one experiment: the others are shown all the same
        again = f"python -m experiments report {experiment.NAME} --preset {used}"
        again += elsewhere(root)
        why = f"Its report failed ({type(error).__name__}: {error}): `{again}` shows where."
        return blank(FAILED, why), {}


def _state(shown: Shown) -> str:
    claims = shown.section.claims
    held = f"{sum(claim.holds is True for claim in claims)} of {len(claims)} expectations hold"
    if unsettled := sum(claim.holds is None for claim in claims):
        held += f", {unsettled} {'is' if unsettled == 1 else 'are'} open"
    return (held if claims else "measured") + ("; cells are missing" if shown.study.missing else "")


def _studies(
    experiment: ModuleType,
    preset: str | None,
    data: str | None,
    stored: Sequence[store.Cell],
    root: Path = RESULTS,
) -> list[Study]:
    """The studies of which cells are stored, that of the most cells first."""
    presets = [preset] if preset else [*experiment.PRESETS][::-1]
    names = [data] if data else [None, *sorted({cell.config["data"] for cell in stored})]
    found = []
    for each, name in product(presets, names):
        with suppress(UserError):  # not every experiment takes all data
            found.append(study_of(experiment, each, name, stored, root))
    # Presets that differ in the number of seeds alone have cells in common: one is shown.
    first: dict[Path, Study] = {}
    for study in sorted(found, key=lambda study: (-len(study.cells), study.missing)):
        if study.cells:
            first.setdefault(study.cells[0].path, study)
    return list(first.values())
