"""What tells a net where an object is: the border, or aliasing?

Command:  python -m experiments run leakage --preset quick
Time:     2 minutes on 2 cores (45 nets)
Result:   how often a net tells at which of two places a digit is, with circular and with zero
          padding, at distances that are and are not a multiple of the period

The same digits are pasted at a left and at a right place of a black canvas, and the class is the
place. Each digit is tested at both places. A net that cannot tell them apart gives the same answer
twice, and so is right in exactly half of the cases: 50 % is no estimate here.

Expected:

- Exactly 50 % with circular padding and 16 pixels from place to place, for every variant: the
  answer depends on a shift only modulo 2^L = 8 (see `experiments.shifts`).
- At least 99 % with circular padding and 13 pixels for max and max-blur: aliasing alone tells the
  place. So this project expects after Azulay and Weiss, "Why do deep convolutional networks
  generalize so poorly to small image transformations?", 2019, who do not measure it.
- Exactly 50 % there for adaptive polyphase sampling. Chaman and Dokmanic, "Truly shift-invariant
  convolutional neural networks", 2021.
- At least 99 % with zero padding for every variant, APS included: the border tells the place. So
  it expects after Kayhan and van Gemert, "On translation invariance in CNNs: convolutional layers
  can exploit absolute spatial location", 2020.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from experiments import config as configs
from experiments import data, shifts, trained
from experiments.nets import TITLES, VARIANTS, Net, titles
from experiments.poolings import NAMES
from experiments.report import (
    SPREAD,
    Claim,
    Column,
    Picture,
    Row,
    Section,
    Sheet,
    after,
    by_variant,
    extremes,
    means,
    seeds_of,
    spread,
    thin,
)
from experiments.store import Cell

NAME = "leakage"
QUESTION = "What tells a net where an object is: the border, or aliasing?"

ROUNDING = 1e-4
"""Of the spread of the logits over images: logits that differ by no more are the same. A circular
shift changes the order of their sums. Nets that cannot tell the places have small logits, so a
difference says nothing by itself."""

NEARLY = 0.99
"""The share of right answers that is called telling the place."""

Setting = tuple[str, int]
"""The padding, and the pixels from the left to the right place."""


@dataclass(frozen=True, kw_only=True)
class Config(trained.Config):
    """All that the nets of one cell, one for each setting, and their measurement depend on."""

    experiment: str = NAME
    canvas: int
    target_loss: float = 0.005
    settings: tuple[Setting, ...] = (("CIRCULAR", 16), ("CIRCULAR", 13), ("SAME", 16))


@dataclass(frozen=True, kw_only=True)
class Preset(trained.Preset):
    """How large a study is: everything but the variant and the seed."""

    data: str = "digits"
    target_loss: float = Config.target_loss
    widths: tuple[int, ...] = (8, 16, 32)
    variants: tuple[str, ...] = ("stride", "max", "avg", "maxblur3", "max_aps")


PRESETS = {
    "smoke": Preset(
        about="seconds: does everything run?",
        seeds=1,
        train_images=64,
        test_images=20,
        epochs=2,
        widths=(4, 4, 4),
        variants=("max", "max_aps"),
    ),
    "quick": Preset(
        about="2 minutes on 2 cores: a first measured answer",
        seeds=3,
        train_images=512,
        test_images=256,
        epochs=24,
    ),
    "full": Preset(
        about="about 3 hours on 2 cores: all variants, 10 seeds",
        seeds=10,
        train_images=1024,
        test_images=512,
        epochs=32,
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
    # Room for both places: no setting moves a digit by more than 8 pixels from the centre.
    canvas = max(2 * data.known(name).size, 32)
    return configs.cells(
        Config, chosen, VARIANTS, data=name, seeds=seeds, variants=variants, canvas=canvas
    )


# ---- training and measuring ----


def work(config: Config) -> int:
    """How long a cell takes, in images passed through the nets; training counts three times."""
    each = trained.work(config, 2 * config.train_images) + 2 * config.test_images
    return len(config.settings) * each


def run(config: Config, tick: trained.Tick) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train and measure one net for each setting: logits [place, image, class], and losses."""
    split = trained.split(config, config.canvas)
    arrays, facts = {"images": split.test_index.astype(np.int32)}, {}
    for padding, distance in config.settings:
        net = Net(VARIANTS[config.variant], config.widths, classes=2, padding=padding)
        params, facts[name("losses", padding, distance)] = trained.fit(
            config,
            net,
            np.concatenate(places(split.train_images, distance)),
            np.repeat(np.arange(2, dtype=np.int32), config.train_images),
            tick,
        )
        both = [shifts.logits(net, params, x) for x in places(split.test_images, distance)]
        arrays[name("logits", padding, distance)] = np.stack(both)
        tick(2 * config.test_images, None)
    return arrays, facts


def places(images: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose content is in the centre, with that content at the left and the right place."""
    left = -(distance // 2)
    return np.roll(images, left, axis=2), np.roll(images, left + distance, axis=2)


def name(kind: str, padding: str, distance: int) -> str:
    """What is stored under which name."""
    return f"{kind}_{padding.lower()}_{distance}"


# ---- the numbers ----


def spread_of(logits: np.ndarray) -> float:
    """The standard deviation of a logit over images and places, from [place, image, class]."""
    return float(logits.astype(np.float64).std(axis=(0, 1)).max())


def apart(logits: np.ndarray) -> np.ndarray:
    """How far the logits of each image differ between the places, [image]."""
    return np.abs(logits[1].astype(np.float64) - logits[0]).max(axis=-1)


def answers(logits: np.ndarray) -> np.ndarray:
    """Whether the net says "right": bool [place, image], from logits [place, image, class].

    Where the logits of the two places are the same up to rounding, so are the answers.
    """
    same = apart(logits) <= ROUNDING * spread_of(logits)
    margins = logits[..., 1].astype(np.float64) - logits[..., 0]
    return np.where(same, margins.mean(axis=0), margins) > 0


def right(logits: np.ndarray) -> np.ndarray:
    """Whether each answer is right: bool [place, image]."""
    return answers(logits) == np.array([[False], [True]])


def blind(variant: str, widths: Sequence[int], padding: str, distance: int) -> bool:
    """Whether a net of this kind cannot tell the places apart, whatever its parameters."""
    whole = distance % 2 ** len(widths) == 0
    return padding == "CIRCULAR" and (whole or VARIANTS[variant].exact)


def check(cell: Cell) -> list[str]:
    """What a stored cell breaks: a net that cannot tell two places apart gives equal logits."""
    broken = []
    for padding, distance in cell.config["settings"]:
        logits, where = cell.arrays[name("logits", padding, distance)], in_words(padding, distance)
        if logits.shape != (2, cell.config["test_images"], 2):
            broken.append(f"its logits ({where}) are not those of each image at both places")
        elif not np.isfinite(logits).all():
            broken.append(f"its logits ({where}) are not finite")
        elif blind(cell.variant, cell.config["widths"], padding, distance):
            most = apart(logits).max()
            if most > ROUNDING * spread_of(logits):
                broken.append(f"its logits tell the places apart ({where}), by up to {most:.1g}")
    return broken


# ---- the report ----


def in_words(padding: str, distance: int) -> str:
    """A setting in words."""
    return f"{'zero' if padding == 'SAME' else padding.lower()} padding, {distance} pixels"


METHOD = (
    "Images of digits, or others with --data, are pasted on a black canvas at a left or at a right "
    "place, and two classes are to be told apart: left and right. The nets have three blocks of "
    "convolution 3x3, ReLU and a reduction by 2, then a global average and one dense layer. One is "
    "trained for each padding and distance; the nets of one seed start from the same parameters "
    "and see the same images in the same order. Training goes on until the mean loss of an epoch "
    f"is {Config.target_loss}, or the epochs are over.",
    NAMES,
    "Each test image is shown at both places. A net whose logits are the same at both, up to "
    f"rounding ({ROUNDING:g} of their standard deviation over images), gives one answer to both, "
    "so one of the two is right: exactly 50 %.",
    "An image fails where its place is not told right at both places. Failures are counted over "
    "the test images of all seeds, with the 95 % interval of Clopper and Pearson for their share "
    "(in the table seeds may draw the same image again, so there it is somewhat too narrow). "
    "It speaks about further images, not about further nets: those of one seed share a net.",
)


def section(cells: Sequence[Cell]) -> Section:
    """What a study shows: accuracy and failures for each setting."""
    config = cells[0].config
    settings = [(padding, distance) for padding, distance in config["settings"]]
    shown = by_variant(cells, TITLES, partial(numbers, settings=settings))
    seeds = seeds_of(cells)
    n = f"{config['test_images']} test images at both places, {seeds}"
    return Section(
        question=QUESTION,
        answer=_answer(shown, settings),
        pictures=[_picture(shown, settings, n)],
        sheets=[
            Sheet("", "How often the place is told", _accuracies(settings), shown),
            Sheet(
                "failures",
                "Images whose place is not told right at both places",
                _failures(settings, config["test_images"]),
                shown,
                unit="images",
                on_terminal=False,
            ),
        ],
        size=f"{n}; up to {config['epochs']} epochs of {2 * config['train_images']:,} training "
        f"images of {config['canvas']}x{config['canvas']} pixels, widths "
        f"{', '.join(map(str, config['widths']))}. {SPREAD}",
        claims=_claims(cells, settings),
        method=METHOD,
    )


def numbers(cell: Cell, settings: Sequence[Setting]) -> dict[str, float]:
    """What a stored cell says: for each setting the share of right answers, and the failures."""
    found = {}
    for setting in settings:
        told = right(cell.arrays[name("logits", *setting)])
        found[name("accuracy", *setting)] = float(told.mean())
        found[name("failures", *setting)] = _failed(told)
    return found


def _failed(told: np.ndarray) -> int:
    return int((~told.all(axis=0)).sum())


def _accuracies(settings: Sequence[Setting]) -> list[Column]:
    return [
        Column(
            name("accuracy", *setting),
            in_words(*setting),
            "Answers that are right, of two for each image: 50 % where none is told from another.",
            show=spread(100),
        )
        for setting in settings
    ]


def _failures(settings: Sequence[Setting], images: int) -> list[Column]:
    return [
        Column(
            name("failures", *setting),
            in_words(*setting),
            "Failures of all images of all seeds, and the 95 % interval of their share.",
            show=lambda values: trained.failures(int(values.sum()), images * len(values)),
        )
        for setting in settings
    ]


def _answer(rows: Sequence[Row], settings: Sequence[Setting]) -> str:
    """Two sentences, from the numbers: without aliasing, and where it alone can tell the place."""

    def told(setting: Setting) -> str:
        means = [100 * row.values[name("accuracy", *setting)].mean() for row in rows]
        low, high = f"{min(means):.1f}", f"{max(means):.1f}"
        return f"{low} %" if low == high else f"{low} to {high} %"

    far, near, border = settings
    each = ", ".join(
        f"{100 * row.values[name('accuracy', *near)].mean():.1f} % with {row.title}" for row in rows
    )
    return (
        f"With zero padding, where the border is near, the place is told in {told(border)} of the "
        f"cases; with circular padding and {far[1]} pixels, a multiple of the period, in "
        f"{told(far)}. With circular padding and {near[1]} pixels, where only aliasing can tell "
        f"it: {each}."
    )


def _picture(rows: Sequence[Row], settings: Sequence[Setting], n: str) -> Picture:
    def draw(narrow: bool) -> Any:
        from experiments import figures

        values = {
            row.title: {
                in_words(*setting): 100 * row.values[name("accuracy", *setting)]
                for setting in settings
            }
            for row in rows
        }
        return figures.dots(values, "the place is told right (%)", mark=50, narrow=narrow)

    return Picture(
        "places",
        "How often the place of an image is told, with circular and zero padding",
        "The class is the place of the image, left or right. Large: the mean; thin: "
        f"{thin(len(rows[0].values[name('accuracy', *settings[0])]))}. The line at 50 % is "
        f"guessing. {n}.",
        draw,
        "; ".join(
            f"{in_words(*setting)}, {extremes(means(rows, name('accuracy', *setting)))}"
            for setting in settings
        )
        + ".",
    )


def _claims(cells: Sequence[Cell], settings: Sequence[Setting]) -> list[Claim]:
    """What the header expects, and what is stored."""
    far, near, border = settings
    adaptive = [cell for cell in cells if VARIANTS[cell.variant].exact]
    aliased = [cell for cell in cells if cell.variant.startswith("max") and cell not in adaptive]
    exact, alias = (titles(cell.variant for cell in some) for some in (adaptive, aliased))
    chaman = "Chaman and Dokmanic 2021"
    period = f"exact: {far[1]} pixels are a multiple of 2^{len(cells[0].config['widths'])}"
    return [
        *_half(cells, far, "exactly 50 % for every variant", period),
        *_half(adaptive, near, f"exactly 50 % for {exact}", chaman),
        *_nearly_all(aliased, near, f"for {alias}", after("Azulay and Weiss 2019")),
        *_nearly_all(cells, border, "for every variant", after("Kayhan and van Gemert 2020")),
    ]


def _half(cells: Sequence[Cell], setting: Setting, expected: str, source: str) -> list[Claim]:
    """Whether no net tells any image at one place from the same image at the other."""
    if not cells:
        return []
    found = [cell.arrays[name("logits", *setting)] for cell in cells]
    told = sum(int(np.diff(answers(logits), axis=0).sum()) for logits in found)
    images = sum(logits.shape[1] for logits in found)
    most, least = max(apart(x).max() for x in found), min(map(spread_of, found))
    return [
        Claim(
            f"{in_words(*setting).capitalize()}: {expected}",
            f"{told:,} of {images:,} images get two answers; logits differ by {most:.0e} at most, "
            f"and their standard deviation over images is {least:.0e} at least.",
            told == 0,
            source,
        )
    ]


def _nearly_all(cells: Sequence[Cell], setting: Setting, who: str, source: str) -> list[Claim]:
    """Whether every net tells nearly all places."""
    if not cells:
        return []
    told = {cell.path: right(cell.arrays[name("logits", *setting)]) for cell in cells}
    failed = trained.of_images(cells, lambda cell: ~told[cell.path].all(axis=0))
    worst = min(cells, key=lambda cell: told[cell.path].mean())
    least = told[worst.path].mean()
    return [
        Claim(
            f"{in_words(*setting).capitalize()}: at least {100 * NEARLY:g} % {who}, in every net",
            f"the least is {100 * least:.1f} % with {VARIANTS[worst.variant].title}, seed "
            f"{worst.seed}; images that fail in at least one net: {failed}.",
            bool(least >= NEARLY),
            source,
        )
    ]
