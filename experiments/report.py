"""From stored cells to a table, pictures, a CSV file and one page that needs no other file.

An experiment says what it has to show as a `Section`; here is written how that is shown. Every
number is computed anew from the raw predictions, none is read from a log.
"""

import base64
import csv
import io
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import store
from experiments.config import RESULTS, Config, UserError, study
from experiments.runner import duration
from experiments.stats import FEWEST, holm, p_value, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Column:
    """Something measured: its name in the CSV, short title, meaning, and how it is written."""

    key: str
    title: str
    meaning: str
    on_terminal: bool = True
    show: "Callable[[np.ndarray], str]" = lambda values: percent(values)


@dataclass(frozen=True)
class Row:
    """One variant: for each column one value per seed; or what all variants say, of no seed."""

    variant: str
    title: str
    values: Mapping[str, np.ndarray]
    seeds: Sequence[int] = ()

    def by_seed(self, key: str) -> dict[int, float]:
        """The values of a column: nothing promises that another row has the same seeds."""
        return dict(zip(self.seeds, self.values[key].tolist(), strict=True))


@dataclass(frozen=True)
class Sheet:
    """A table: its name in file names, its title, what stands above the names of its rows."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    unit: str = "%"
    on_terminal: bool = True


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn for a page or, with narrow=True, for a phone.

    `alt` is its title; `seen` says in words, for who does not see it, what is seen there.
    """

    name: str
    alt: str
    caption: str
    draw: Callable[[bool], "Figure"]
    seen: str = ""


@dataclass(frozen=True)
class Claim:
    """Something that is said to be so, and what was seen; `holds` is None where that is open."""

    expected: str
    observed: str
    holds: bool | None
    source: str

    @property
    def verdict(self) -> str:
        return "open" if self.holds is None else "yes" if self.holds else "no"


@dataclass(frozen=True)
class Section:
    """What an experiment shows; its files have the `stem` in their names, too."""

    question: str
    answer: str
    pictures: Sequence[Picture]
    sheets: Sequence[Sheet]
    size: str
    claims: Sequence[Claim]
    method: Sequence[str]
    stem: str = ""


def percent(values: np.ndarray) -> str:
    """Mean and, with more than one seed, standard deviation over seeds: 85.3 ± 1.2."""
    if not np.isfinite(values).all():
        return "not known"
    mean = f"{100 * np.mean(values):.1f}"
    spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return mean + spread


def number(value: float, digits: int = 1, sign: str = "") -> str:
    """A number with so many digits; `sign="+"` writes that of positive ones, too. What rounds to 0
    is no negative number."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def end(value: float, digits: int = 1, sign: str = "") -> str:
    """The end of an interval, whose sign matters: with more digits where it would round to 0."""
    more = next((n for n in range(digits, FINEST) if round(value, n)), digits)
    return number(value, more, sign)


FINEST = 5
"""Digits after which an end of an interval is 0."""


def ends(interval: tuple[float, float] | None, digits: int = 1, sign: str = "") -> str:
    """An interval behind a mean; nothing where there is none."""
    return f" [{', '.join(end(each, digits, sign) for each in interval)}]" if interval else ""


def spread(scale: float = 1, digits: int = 1) -> Callable[[np.ndarray], str]:
    """How to write values times a scale: mean ± standard deviation, and the interval if known."""

    def show(values: np.ndarray) -> str:
        found = summary(scale * values)
        text = number(found.mean, digits) if found.n else "not known"
        text += f" ± {found.sd:.{digits}f}" if found.n > 1 else ""
        return text + ends(found.interval, digits)

    return show


def thin(seeds: int) -> str:
    """What is drawn thin around a mean over so many seeds."""
    few = seeds < FEWEST
    return "one dot for each seed" if few else "its 95 % bootstrap interval over seeds"


SPREAD = (
    f"Mean ± standard deviation over seeds, and from {FEWEST} seeds on a 95 % bootstrap interval "
    "(expanded percentiles, Hesterberg 2015). Seeds draw from the same images: intervals and tests "
    "are about training on this data set."
)
"""What `spread` writes."""


def after(source: str) -> str:
    """The source of a claim that the paper does not make in these words, or with this number."""
    return f"this project, after {source}"


def counted(number: int, thing: str) -> str:
    """1 seed, 3 seeds."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def seeds_of(cells: Iterable[store.Cell]) -> str:
    """How many seeds a variant has: 10 seeds, or 9 to 10 seeds where some are still to come."""
    each = Counter(cell.variant for cell in cells).values()
    fewest, most = min(each), max(each)
    return f"{fewest} to {counted(most, 'seed')}" if fewest < most else counted(most, "seed")


def of_variant(cells: Iterable[store.Cell], variant: str) -> list[store.Cell]:
    """The cells of a variant, seed by seed."""
    return sorted((c for c in cells if c.variant == variant), key=lambda cell: cell.seed)


def by_variant(
    cells: Sequence[store.Cell],
    titles: Mapping[str, str],
    numbers: Callable[[store.Cell], Mapping[str, float]],
) -> list[Row]:
    """One row for each variant that there is, in the order of the titles."""
    found = []
    for variant, title in titles.items():
        if of := of_variant(cells, variant):
            each = [numbers(cell) for cell in of]
            values = {key: np.array([row[key] for row in each]) for key in each[0]}
            found.append(Row(variant, title, values, [cell.seed for cell in of]))
    return found


Numbers = Mapping[int, Mapping[str, float]]
"""What each seed of a variant says."""


def differences(
    pairs: Mapping[str, tuple[str, Numbers, Numbers]], keys: Sequence[str]
) -> list[Row]:
    """One row for each pair (title, ours, base): ours minus base, seed by seed.

    A seed that the base lacks is NaN. `p_` and a key is the p of its sign flips, corrected by
    Holm's method over all rows; NaN where there are too few seeds to find anything.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, (_, ours, base) in pairs.items():
        unknown = dict.fromkeys(keys, np.nan)
        found[name] = {
            key: np.array([ours[s][key] - base.get(s, unknown)[key] for s in sorted(ours)])
            for key in keys
        }
    for key in keys:
        known = {name: values[key][np.isfinite(values[key])] for name, values in found.items()}
        adjusted = holm({name: p_value(each, len(pairs)) for name, each in known.items()})
        for name, p in adjusted.items():
            values = found[name]
            values[f"p_{key}"] = np.full(len(values[key]), np.nan if p is None else p)
    return [Row(name, title, found[name], sorted(ours)) for name, (title, ours, _) in pairs.items()]


def chance(p: np.ndarray) -> str:
    """How to write the p of `differences`."""
    return "not tested" if np.isnan(p[0]) else f"{p[0]:.2g}"


def changes(*columns: tuple[str, str, str]) -> tuple[Column, ...]:
    """The columns (key, title, meaning) of `differences`, each with its p beside it."""
    sign_flips = (
        "Of this difference: sign flips, corrected by Holm's method over all rows. Not tested "
        "where even the least p possible, 2^(1 - seeds) times the rows, is above 0.05."
    )
    return tuple(
        column
        for key, title, meaning in columns
        for column in (
            Column(key, title, meaning, show=spread(100)),
            Column(f"p_{key}", f"p of {title}", sign_flips, show=chance),
        )
    )


def interval(values: np.ndarray, scale: float = 100, digits: int = 1) -> str:
    """A mean for a sentence, with its sign, and its interval if there are seeds enough."""
    found = summary(scale * values)
    return number(found.mean, digits, "+") + ends(found.interval, digits, "+")


def extremes(of: Mapping[str, float]) -> str:
    """The least and the largest of some shares, by title, for who does not see a picture."""
    low, high = (pick(of, key=of.__getitem__) for pick in (min, max))
    least, most = (f"{round(100 * of[title], 3):.3g} %" for title in (low, high))
    return f"from {least} with {low} to {most} with {high}" if least != most else f"{most} with all"


def means(rows: Sequence[Row], key: str) -> dict[str, float]:
    """The mean of a column over the seeds, by title."""
    return {row.title: float(np.nanmean(row.values[key])) for row in rows}


class Inline(NamedTuple):
    """A picture inside a page: its bytes as text, and its size in pixels."""

    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Study:
    """Cells that may share a table: those that a preset asks for, and those that are stored.

    `seeds` is how many there are, where they are more than the preset's.
    """

    experiment: ModuleType
    root: Path
    preset: str
    wanted: Sequence[Config]
    cells: Sequence[store.Cell]
    seeds: int | None = None

    def command(self, verb: str) -> str:
        """What measures it (run), or shows it (report)."""
        seeds = f" --seeds {self.seeds}" if self.seeds and verb == "run" else ""
        return store.command(verb, self.wanted[0], self.preset, self.root) + seeds

    @property
    def missing(self) -> int:
        """How many cells are still to be measured."""
        found = {(cell.variant, cell.seed) for cell in self.cells}
        return len({(config.variant, config.seed) for config in self.wanted} - found)

    @property
    def commits(self) -> str:
        """That cells are of several commits, in a sentence; empty where they are of one."""
        of = Counter(str(cell.facts.get("commit") or "none") for cell in self.cells)
        each = ", ".join(f"{count:,} of {commit}" for commit, count in sorted(of.items()))
        return f"The cells are of {len(of)} commits: {each}." if len(of) > 1 else ""

    @property
    def note(self) -> str:
        """What is missing, in a sentence; empty where nothing is."""
        if not self.missing:
            return ""
        return (
            f"{self.missing} of {len(self.wanted)} cells are missing: run `{self.command('run')}`."
        )


@dataclass(frozen=True)
class Shown:
    """A study as a page shows it: for each picture the wide and the narrow one."""

    study: Study
    section: Section
    pictures: Sequence[tuple[Picture, Inline, Inline]]
    made: Sequence[tuple[str, str]]


def study_of(
    experiment: ModuleType,
    preset: str,
    data: str | None,
    stored: Iterable[store.Cell],
    root: Path = RESULTS,
    **more: Any,
) -> Study:
    """The study of a preset, with those of the cells stored in `root` that belong to it.

    `more` are arguments of the experiment's `cells`.
    """
    wanted = experiment.cells(preset, data, **more)
    shared = study(asdict(wanted[0]))
    cells = [cell for cell in stored if study(cell.config) == shared]
    seeds = 1 + max((cell.seed for cell in cells), default=0)
    if seeds <= 1 + max(config.seed for config in wanted):
        return Study(experiment, root, preset, wanted, cells)
    every = experiment.cells(preset, data, seeds, **more)
    return Study(experiment, root, preset, every, cells, seeds)


def report(
    experiment: ModuleType,
    preset: str,
    data: str | None,
    *,
    root: Path,
    out: Path,
    **more: Any,
) -> None:
    """Show one study on the terminal and write it to a folder; `more` is as in `study_of`."""
    stored = list(store.cells(root, experiment.NAME, experiment.Config))
    ours = study_of(experiment, preset, data, stored, root, **more)
    if not ours.cells:
        others = (
            study_of(experiment, other, data, stored, root, **more)
            for other in experiment.PRESETS
            if other != preset
        )
        there = [f"`{other.command('report')}`" for other in others if other.cells]
        raise UserError(
            f"There is no finished cell of {experiment.NAME} (preset {preset}, data "
            f"{ours.wanted[0].data}) in {root}: first run `{ours.command('run')}`"
            + (f", or show what there is by {' or '.join(there)}." if there else ".")
        )
    shown, files = show(ours, out)
    _print(shown.section, ours.note)
    for path, content in files.items():
        store.write(path, content)
        print(f"  {path}")


def _print(section: Section, note: str) -> None:
    """The tables, as wide as they need to be where no terminal limits them."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    for sheet in section.sheets:
        if sheet.on_terminal:
            console.print(_table(sheet))
    for line in filter(None, (section.size, section.answer, note)):
        console.print(line, markup=False, highlight=False)
        console.print()


def _table(sheet: Sheet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(sheet.unit, no_wrap=True)
    columns = [column for column in sheet.columns if column.on_terminal]
    for column in columns:
        table.add_column(column.title, justify="right")
    for row in sheet.rows:
        table.add_row(row.title, *(column.show(row.values[column.key]) for column in columns))
    return table


def show(study: Study, out: Path) -> tuple[Shown, dict[Path, bytes]]:
    """What a page shows of a study, and its files in the folder `out`, the page first."""
    section = study.experiment.section(study.cells)
    name = "-".join(filter(None, (study.experiment.NAME, section.stem)))
    files = {}
    for sheet in section.sheets:
        stem = "-".join(filter(None, (name, sheet.name)))
        files[out / f"{stem}.csv"] = _csv(sheet, study.cells)
    pictures = []
    for picture in section.pictures:
        png, svg = _images(picture.draw(False), "png", "svg")
        (narrow,) = _images(picture.draw(True), "png")
        files |= {out / f"{name}-{picture.name}.png": png, out / f"{name}-{picture.name}.svg": svg}
        pictures.append((picture, _inline(png), _inline(narrow)))
    shown = Shown(study, section, pictures, _made(study.cells))
    page, text = (render(f"report.{kind}.j2", shown=shown) for kind in ("html", "md"))
    return shown, {out / f"{name}.html": page, out / f"{name}.md": text, **files}


def _csv(sheet: Sheet, cells: Sequence[store.Cell]) -> bytes:
    """One line per cell, with every metric; rows that are of no variant have one line for all."""
    text = io.StringIO()
    keys = list(sheet.rows[0].values)
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["data", "variant", "seed", *keys])
    data = cells[0].config["data"]
    for row in sheet.rows:
        for number, seed in enumerate(row.seeds or ["all"]):
            values = [f"{row.values[key][number]:.6f}" for key in keys]
            lines.writerow([data, row.variant, seed, *values])
    return text.getvalue().encode()


def _images(figure: "Figure", *kinds: str) -> list[bytes]:
    """The bytes of a picture in each format, the same ones for the same picture."""
    from matplotlib import pyplot

    contents = []
    for kind in kinds:
        content = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with pyplot.rc_context({"svg.hashsalt": "jaxpool"}):
            figure.savefig(content, format=kind, dpi=200, metadata=metadata, facecolor="white")
        contents.append(_small(content) if kind == "png" else content.getvalue())
    pyplot.close(figure)
    return contents


def _small(png: io.BytesIO) -> bytes:
    """The same picture with a palette of 256 colours: a third of the size."""
    from PIL import Image

    smaller = io.BytesIO()
    Image.open(png).convert("RGB").quantize(256).save(smaller, format="png", optimize=True)
    return smaller.getvalue()


def _inline(png: bytes) -> Inline:
    width, height = struct.unpack(">II", png[16:24])
    return Inline(f"data:image/png;base64,{base64.b64encode(png).decode()}", width, height)


def _code(text: str) -> Any:
    """A sentence for a page: what stands in backticks is code, and no line breaks inside `-m`."""
    from markupsafe import Markup, escape

    def words(code: re.Match) -> str:
        return f"<code>{' '.join(f'<span>{word}</span>' for word in code[1].split())}</code>"

    return Markup(re.sub("`([^`]*)`", words, str(escape(text))))


def render(template: str, **shown: Any) -> bytes:
    """A page from a file in `templates`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    return environment.get_template(template).render(**shown).encode()


def _made(cells: Sequence[store.Cell]) -> list[tuple[str, str]]:
    """What the cells were made with; several values where they differ."""

    def values(read: Callable[[dict[str, Any]], Any]) -> str:
        return ", ".join(sorted({str(read(cell.facts) or "none") for cell in cells}))

    versions = [
        (package, values(lambda facts, package=package: facts["versions"].get(package)))
        for package in cells[0].facts["versions"]
    ]
    seconds = sum(cell.facts["wall_seconds"] / cell.facts["workers"] for cell in cells)
    return [
        ("cells", str(len(cells))),
        ("time", duration(seconds)),
        ("device", values(lambda facts: f"{facts['device']}, {facts['cores']} cores")),
        ("precision", values(lambda facts: facts["dtype"])),
        ("XLA flags", values(lambda facts: facts["xla_flags"])),
        ("commit", values(lambda facts: facts["commit"])),
        *versions,
    ]
