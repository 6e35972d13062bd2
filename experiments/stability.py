"""What does the probability of an object do as it slides, by pixels and by quarters of a pixel?

Command:  python -m experiments run stability --preset quick
Time:     3 minutes on 2 cores (15 nets)
Result:   how much the probability of the true class changes from step to step, how far it ranges
          and how often the answer flips over a slide; the traces of two images, chosen by a rule

Nets are trained as in `experiments.consistency`. Then each test image slides to the right, over two
periods of 2^L = 8 pixels, in steps of a quarter of a pixel. Parts of a pixel are a Fourier phase,
or for letters (--data glyphs) a new drawing; whole pixels are a roll. So all borders are circular.

Expected:

- One pixel changes answers of nets that subsample without a filter. Azulay and Weiss, "Why do deep
  convolutional networks generalize so poorly to small image transformations?", 2019.
- A blur behind the max steadies the probability, on every seed. Zhang, "Making convolutional
  networks shift-invariant again", 2019.
- Exactly: with adaptive polyphase sampling, steps of whole pixels change nothing. Chaman and
  Dokmanic, "Truly shift-invariant convolutional neural networks", 2021. Parts of a pixel do.
- Exactly: p(t + 8) = p(t). `check` holds stored results to both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import config as configs
from experiments import data, shifts, stats, trained
from experiments.data import glyphs
from experiments.nets import TITLES, UNFILTERED, VARIANTS, Net, titles
from experiments.poolings import NAMES
from experiments.report import (
    SPREAD,
    Claim,
    Column,
    Picture,
    Row,
    Section,
    Sheet,
    by_variant,
    extremes,
    means,
    of_variant,
    seeds_of,
    spread,
    thin,
)
from experiments.store import Cell

NAME = "stability"
QUESTION = "What does the probability of an object do as it slides?"

PERIODS = 2
PROBE = slice(512)
"""Of the training images, those whose answers are stored."""
ROUNDING = 1e-4
"""Probabilities that differ by no more are the same: a roll changes the order of their sums."""


@dataclass(frozen=True, kw_only=True)
class Config(trained.Config):
    """All that one net and its measurement depend on. A pixel is made in so many `parts`."""

    experiment: str = NAME
    size: int
    parts: int = 4


@dataclass(frozen=True, kw_only=True)
class Preset(trained.Preset):
    """How large a study is: everything but the variant and the seed."""

    variants: tuple[str, ...] = ("stride", "max", "avg", "maxblur3", "max_aps")


PRESETS = {
    "smoke": Preset(
        about="seconds: does everything run?",
        data="digits",
        seeds=1,
        train_images=512,
        test_images=40,
        epochs=2,
        batch=32,
        widths=(4, 4, 4),
        variants=("max", "max_aps"),
    ),
    "quick": Preset(
        about="3 minutes on 2 cores: a first measured answer, trained to the same loss",
        data="mnist5k",
        seeds=3,
        train_images=4000,
        test_images=128,
        epochs=16,
        target_loss=0.4,
    ),
    "full": Preset(
        about="about 3 hours on 2 cores: all variants, 10 seeds, trained to the same loss",
        data="mnist5k",
        seeds=10,
        train_images=4000,
        test_images=256,
        epochs=16,
        target_loss=0.4,
        variants=tuple(VARIANTS),
    ),
}


def cells(
    preset: str,
    data_name: str | None = None,
    seeds: int | None = None,
    variants: Sequence[str] = (),
) -> list[Config]:
    """The cells of a preset, all variants of one seed before the next seed."""
    chosen = PRESETS[configs.choose("preset", preset, PRESETS)]
    name = data_name or chosen.data
    size = data.known(name).size
    return configs.cells(
        Config, chosen, VARIANTS, data=name, seeds=seeds, variants=variants, size=size
    )


# ---- training and measuring ----


def pixels(widths: Sequence[int]) -> int:
    """How far an image slides."""
    return PERIODS * 2 ** len(widths)


def work(config: Config) -> int:
    """How long a cell takes, in images passed through the net; training counts three times."""
    return trained.work(config) + pixels(config.widths) * config.parts * config.test_images


def run(config: Config, tick: trained.Tick) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train a net and slide its test images: probabilities and answers [pixel, part, image]."""
    split = trained.split(config, config.size)
    net = Net(VARIANTS[config.variant], config.widths, split.classes)
    params, losses = trained.fit(config, net, split.train_images, split.train_labels, tick)
    rolls = np.array([(0, right) for right in range(pixels(config.widths))], np.int32)
    found = [
        shifts.measure(
            net,
            params,
            nudged(config.data, split, part / config.parts),
            rolls,
            lambda count: tick(count, None),
            classes=split.test_labels,
        )
        for part in range(config.parts)
    ]
    arrays = {
        "probabilities": np.stack([each["top"] for each in found], axis=1),
        "answers": np.stack([each["predictions"] for each in found], axis=1),
        "labels": split.test_labels.astype(np.uint8),
        "images": split.test_index.astype(np.int32),
        "train_predictions": shifts.predictions(net, params, split.train_images[PROBE], rolls[:1])[
            0
        ],
        "train_labels": split.train_labels[PROBE].astype(np.uint8),
    }
    return arrays, {"losses": losses}


def nudged(name: str, split: data.Split, right: float) -> np.ndarray:
    """The test images moved to the right by less than a pixel."""
    if not right:
        return split.test_images
    if name == "glyphs":
        letters, folder = glyphs.glyphs(), data.fonts()
        drawn = [glyphs.draw(letters[i], folder, right=right) for i in split.test_index]
        return np.stack(drawn)[..., None].astype(np.float32) / 255
    by = jnp.array([0, right], jnp.float32)
    return np.asarray(shifts.fractional(jnp.asarray(split.test_images), by))


# ---- the numbers ----


def steps(values: np.ndarray) -> np.ndarray:
    """From each place to the next, and from the last to the first: they are a period apart."""
    return np.roll(values, -1, axis=0) - values


def slide(values: np.ndarray) -> np.ndarray:
    """All places in their order, [place, image], from [pixel, part, image]."""
    return values.reshape(-1, values.shape[-1])


def numbers(cell: Cell) -> dict[str, float]:
    """What a stored cell says: means over its images."""
    p, called = cell.arrays["probabilities"].astype(np.float64), cell.arrays["answers"]
    flips = steps(called.astype(int)) != 0  # of whole pixels, from every part
    return {
        "accuracy": float((called[0, 0] == cell.arrays["labels"]).mean()),
        "pixel": float(np.abs(steps(p)).mean()),
        "part": float(np.abs(steps(slide(p))).mean()),
        "pixel_range": float(np.ptp(p, axis=0).mean()),
        "range": float(np.ptp(slide(p), axis=0).mean()),
        "pixel_flips": float(flips.sum(axis=0).mean()),
        "flips": float((steps(slide(called).astype(int)) != 0).sum(axis=0).mean()),
        "flip": float(flips.mean()),
    }


def check(cell: Cell) -> list[str]:
    """The exact statements that a stored cell breaks, as sentences; none if all is well."""
    config, broken = cell.config, []
    shape = (pixels(config["widths"]), config["parts"], config["test_images"])
    p, called = cell.arrays["probabilities"], cell.arrays["answers"]
    if p.shape != shape or called.shape != shape:
        return [f"its slides are not of {shape[0]} pixels in {shape[1]} parts for each test image"]
    if not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
        broken.append("its probabilities are not all between 0 and 1")
    if ((p > 0.5) & (called != cell.arrays["labels"])).any():
        broken.append("a class with a probability above 50 % is not the answer")
    period = shape[0] // PERIODS
    broken += _differ(p, called, np.arange(shape[0]) % period, f"a slide by {period} pixels")
    if VARIANTS[cell.variant].exact:
        broken += _differ(p, called, np.zeros(shape[0], int), "a slide by whole pixels")
    return broken


def _differ(p: np.ndarray, called: np.ndarray, same: np.ndarray, what: str) -> list[str]:
    """What differs between each pixel and the one that it should be the same as."""
    flips, change = _changes(p, called, same)
    broken = [f"{flips} answers change with {what}"] if flips else []
    if not change <= ROUNDING:
        broken.append(f"a probability changes by {change:.1g} with {what}")
    return broken


def _changes(p: np.ndarray, called: np.ndarray, same: np.ndarray) -> tuple[int, float]:
    """How many answers differ from those at the same place, and the largest change there."""
    return int((called != called[same]).sum()), float(np.abs(p - p[same]).max())


# ---- the report ----

PROBABILITY = [
    Column(key, title, meaning, show=spread(100))
    for key, title, meaning in (
        ("accuracy", "accuracy", "Test images, unshifted, that are called right."),
        ("pixel", "a pixel", "Mean absolute change from each place to one pixel on."),
        ("part", "a quarter", "Mean absolute change from each place to a quarter pixel on."),
        ("pixel_range", "range, pixels", "Largest minus smallest at places whole pixels apart."),
        ("range", "range", "Largest minus smallest at all places of a slide."),
    )
]
FLIPS = [
    Column("pixel_flips", "by pixels", "In a slide of 16 steps of a pixel.", show=spread(1, 2)),
    Column("flips", "by quarters", "In the same slide by quarter pixels.", show=spread(1, 2)),
    Column("flip", "a pixel (%)", "Steps of a pixel that change the answer.", show=spread(100)),
]

METHOD = (
    f"{trained.NETS} All borders are circular.",
    "Each test image slides to the right by 16 pixels, two periods of 2^3, in steps of a quarter "
    "of a pixel. The probability is that of the true class. A step of one pixel is taken from "
    "every place, also from those between pixels.",
    "For parts of a pixel each frequency of the image is given another phase, which rings beside "
    "sharp edges: some of what is seen there is due to images unlike those of training. Letters "
    "(--data glyphs) are drawn anew instead, as a camera would see them.",
)


def section(cells: Sequence[Cell]) -> Section:
    """What a study shows: two traces for each variant, and how steady the probability is."""
    config, shown = cells[0].config, by_variant(cells, TITLES, numbers)
    n = f"{config['test_images']} test images, {seeds_of(cells)}"
    return Section(
        question=QUESTION,
        answer=_answer(shown, data.SOURCES[config["data"]].name),
        pictures=[_traces(cells), _dots(shown, n)],
        sheets=[
            Sheet("", "The probability of the true class", PROBABILITY, shown),
            Sheet("flips", "How often the answer flips", FLIPS, shown, unit="a slide"),
        ],
        size=f"{n}; {trained.size(config)}. {SPREAD}",
        claims=_claims(cells),
        method=(*METHOD, NAMES, trained.length(cells)),
    )


def _answer(rows: Sequence[Row], name: str) -> str:
    """Three sentences, from the numbers: how far the probability ranges, by which steps, and what
    comes of the answer."""
    ranges = ", ".join(f"{_percent(row, 'range', 0)} % with {row.title}" for row in rows)
    changes = ", ".join(
        f"{_percent(row, 'pixel', 1)} ({_percent(row, 'part', 1)}) % with {row.title}"
        for row in rows
    )
    flips = ", ".join(f"{row.values['flips'].mean():.1f} times with {row.title}" for row in rows)
    return (
        f"On {name}, the probability of the true class of an image that slides by {PERIODS} "
        f"periods ranges over {ranges}. A step of one pixel (of a quarter) changes it by "
        f"{changes}. In a slide by quarters the answer flips {flips}."
    )


def _percent(row: Row, key: str, digits: int) -> str:
    return f"{100 * row.values[key].mean():.{digits}f}"


def _chosen(cells: Sequence[Cell]) -> tuple[list[Cell], str, dict[str, int]]:
    """The cells of the first seed, and the images whose traces are shown.

    These are the ones of median and of largest range with one variant: max, if it is there.
    """
    seed = min(cell.seed for cell in cells)
    ours = [cell for cell in cells if cell.seed == seed]
    ours.sort(key=lambda cell: list(VARIANTS).index(cell.variant))
    judge = next((cell for cell in ours if cell.variant == "max"), ours[0])
    order = np.argsort(np.ptp(slide(judge.arrays["probabilities"]), axis=0), kind="stable")
    images = {"median": int(order[len(order) // 2]), "largest": int(order[-1])}
    return ours, judge.variant, images


def _traces(cells: Sequence[Cell]) -> Picture:
    ours, judge, chosen = _chosen(cells)
    labels = ours[0].arrays["labels"]
    config = ours[0].config

    def draw(narrow: bool) -> Any:
        from experiments import figures

        traces = {
            VARIANTS[cell.variant].title: [
                figures.Trace(
                    slide(cell.arrays["probabilities"])[:, image],
                    slide(cell.arrays["answers"])[:, image] == labels[image],
                )
                for image in chosen.values()
            ]
            for cell in ours
        }
        return figures.traces(
            [f"{which} range (class {labels[image]})" for which, image in chosen.items()],
            traces,
            config["parts"],
            "position (pixels to the right)",
            "probability of the true class",
            mark=pixels(config["widths"]) // PERIODS,
            narrow=narrow,
        )

    return Picture(
        "traces",
        "The probability of the true class while an image slides",
        "Lines: by quarters of a pixel; dots: whole pixels, hollow where the answer is wrong. From "
        "the grey line on, everything repeats. Of the "
        f"{config['test_images']} test images of seed {ours[0].seed}, the two whose probability "
        f"has the median and the largest range with {VARIANTS[judge].phrase}.",
        draw,
    )


def _dots(rows: Sequence[Row], n: str) -> Picture:
    def draw(narrow: bool) -> Any:
        from experiments import figures

        series = {"pixel": "by one pixel", "part": "by a quarter of a pixel"}
        values = {
            row.title: {title: 100 * row.values[key] for key, title in series.items()}
            for row in rows
        }
        return figures.dots(values, "mean change of the probability (%)", narrow=narrow)

    return Picture(
        "steps",
        "How much the probability of the true class changes from step to step",
        "The mean absolute change of the probability of the true class. Large: the mean; thin: "
        f"{thin(len(rows[0].values['pixel']))}. {n}.",
        draw,
        f"by one pixel, {extremes(means(rows, 'pixel'))}; by a quarter, "
        f"{extremes(means(rows, 'part'))}.",
    )


def _claims(cells: Sequence[Cell]) -> list[Claim]:
    """What the header expects, and what is stored."""
    period = pixels(cells[0].config["widths"]) // PERIODS
    unfiltered = [cell for cell in cells if cell.variant in UNFILTERED]
    adaptive = [cell for cell in cells if VARIANTS[cell.variant].exact]
    exact, others = (titles(cell.variant for cell in some) for some in (adaptive, unfiltered))
    chaman = "Chaman and Dokmanic 2021"
    claims = [
        *_exact(cells, period, f"p(t + {period}) = p(t)", "exact for circular borders"),
        *_exact(
            adaptive,
            1,
            f"Whole pixels change nothing: {exact}",
            chaman,
        ),
    ]
    if adaptive:
        ranges = [100 * numbers(cell)["range"] for cell in adaptive]
        claims.append(
            Claim(
                f"Shifts by parts of a pixel change the probability: {exact}",
                f"the probability ranges over {np.mean(ranges):.1f} % in a slide, on average.",
                min(ranges) > 100 * ROUNDING,
                "no theorem for them",
            )
        )
    if unfiltered:
        flips = [100 * numbers(cell)["flip"] for cell in unfiltered]
        claims.append(
            Claim(
                f"One pixel changes answers: {others}",
                f"in {min(flips):.1f} to {max(flips):.1f} % of the steps, from net to net.",
                min(flips) > 0,
                "Azulay and Weiss 2019",
            )
        )
    return claims + _steadier(cells, "max", "maxblur3", "Zhang 2019")


def _exact(cells: Sequence[Cell], step: int, expected: str, source: str) -> list[Claim]:
    """Whether places that are multiples of a step apart are the same."""
    if not cells:
        return []
    same = np.arange(pixels(cells[0].config["widths"])) % step
    found = [_changes(c.arrays["probabilities"], c.arrays["answers"], same) for c in cells]
    flips, change = sum(flips for flips, _ in found), max(change for _, change in found)
    asked = sum(cell.arrays["answers"].size for cell in cells)
    return [
        Claim(
            expected,
            f"{flips:,} of {asked:,} answers change, probabilities by {change:.0e} at most.",
            not flips and change <= ROUNDING,
            source,
        )
    ]


def _steadier(cells: Sequence[Cell], base: str, ours: str, source: str) -> list[Claim]:
    """Whether one pixel changes the probability less, on every seed that has both variants."""
    each = {
        name: {c.seed: numbers(c)["pixel"] for c in of_variant(cells, name)}
        for name in (base, ours)
    }
    found = stats.difference(each[ours], each[base])
    if not found.n:
        return []
    seeds = each[ours].keys() & each[base].keys()
    held = sum(each[ours][seed] < each[base][seed] for seed in seeds)
    tested = "" if found.p is None else f"; p = {found.p:.2g}, sign flips of paired seeds"
    return [
        Claim(
            f"One pixel changes the probability less with {VARIANTS[ours].title} than with "
            f"{VARIANTS[base].title}, on every seed",
            f"on {held} of {found.n}; by {-100 * found.mean:.1f} points less on average{tested}.",
            held == found.n,
            source,
        )
    ]
