"""Is augmentation worth more than architecture?

Command:  python -m experiments run augmentation --preset quick
Time:     6 minutes on 2 cores (60 nets)
Result:   accuracy and consistency at shifts of every pooling, with circular and with zero borders,
          trained with and without random shifts; the share of the variance that each explains

A factorial design: every pooling with every border, and each of these architectures trained on the
images as they are and on images shifted at random, anew in every step. Otherwise the nets of one
seed are alike: same parameters, images and order.

Border and shift go together. With circular borders a shift is a roll, in training and in testing,
and those of one period stand for all (`experiments.shifts`). With zero borders black comes in, and
nets are tested beyond the shifts they were trained on.

How far a net moves is its sensitivity: the distance of the logits of a shifted image from those of
the unshifted one, as a share of the median distance between two images.

Expected:

- Augmentation explains more of the invariance than the architecture does: Kauderer-Abrams,
  "Quantifying translation-invariance in convolutional neural networks", 2017.
- It helps on images like those of training only, so less beyond its shifts: Azulay and Weiss, "Why
  do deep convolutional networks generalize so poorly to small image transformations?", 2019.
- Exactly: with circular borders shifts by multiples of 2^L change no answer, and with adaptive
  polyphase sampling no shift does. `check` holds stored results to it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Any

import jax
import numpy as np

from experiments import config as configs
from experiments import data, metrics, shifts, stats, train, trained
from experiments.config import UserError
from experiments.nets import UNFILTERED, VARIANTS, Net
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
    changes,
    differences,
    extremes,
    interval,
    number,
    of_variant,
    seeds_of,
    spread,
    thin,
)
from experiments.store import Cell

NAME = "augmentation"
QUESTION = "Is augmentation worth more than architecture?"


@dataclass(frozen=True)
class Border:
    """What the convolutions see beyond the border, and what a shift brings in there."""

    padding: str
    family: str


BORDERS = {"circular": Border("CIRCULAR", "roll"), "zero": Border("SAME", "zero_fill")}
TRAINING = ("plain", "shifted")


@dataclass(frozen=True)
class Arm:
    """One combination of the design."""

    pooling: str
    border: str
    training: str

    @property
    def name(self) -> str:
        return f"{self.pooling}-{self.border}-{self.training}"

    @property
    def architecture(self) -> str:
        return f"{VARIANTS[self.pooling].title}, {self.border}"

    @property
    def shifted(self) -> bool:
        return self.training == "shifted"


def design(poolings: Sequence[str], borders: Sequence[str] = tuple(BORDERS)) -> tuple[str, ...]:
    """The names of all combinations."""
    return tuple(Arm(*levels).name for levels in product(poolings, borders, TRAINING))


ARMS = {arm.name: arm for arm in (Arm(*each) for each in product(VARIANTS, BORDERS, TRAINING))}


@dataclass(frozen=True, kw_only=True)
class Config(trained.Config):
    """All that one net and its measurement depend on.

    In training, shifts go up to `near` pixels along each axis. With zero borders they are measured
    up to `far` pixels, in steps of `step`. A step of 1 leaves none out: shifts by multiples of 2
    are those that the first reduction is exact for.
    """

    experiment: str = NAME
    size: int
    probe_images: int = 512
    near: int = 4
    far: int = 9
    step: int = 1


@dataclass(frozen=True, kw_only=True)
class Preset(trained.Preset):
    """How large a study is: everything but the variant and the seed."""

    near: int = 4
    far: int = 9
    step: int = 1


PRESETS = {
    "smoke": Preset(
        about="seconds: does everything run?",
        data="digits",
        seeds=1,
        train_images=256,
        test_images=40,
        epochs=2,
        batch=32,
        widths=(4, 4, 4),
        near=2,
        far=3,
        variants=design(["avg"], ["zero"]),
    ),
    "quick": Preset(
        about="6 minutes on 2 cores: 5 poolings, 3 seeds",
        data="mnist5k",
        seeds=3,
        train_images=4000,
        test_images=128,
        epochs=6,
        variants=design(["stride", "max", "avg", "maxblur3", "max_aps"]),
    ),
    "full": Preset(
        about="hours on 2 cores: 7 poolings, 10 seeds, trained to the same loss",
        data="mnist5k",
        seeds=10,
        train_images=4000,
        test_images=256,
        epochs=24,
        target_loss=0.4,
        far=8,
        variants=design(["stride", "max", "max_wide", "avg", "l3", "maxblur3", "max_aps"]),
    ),
}


def cells(
    preset: str,
    data_name: str | None = None,
    seeds: int | None = None,
    variants: Sequence[str] = (),
) -> list[Config]:
    """The cells of a preset, all combinations of one seed before the next seed."""
    chosen = PRESETS[configs.choose("preset", preset, PRESETS)]
    name = data_name or chosen.data
    size = data.known(name).size
    if size <= 2 * chosen.far:
        raise UserError(
            f"The images of {name!r} have {size} pixels a side, so shifts by {chosen.far} leave "
            f"nothing of them: write --preset smoke, whose shifts are smaller."
        )
    return configs.cells(Config, chosen, ARMS, data=name, seeds=seeds, variants=variants, size=size)


# ---- training and measuring ----


def grid(far: int, step: int) -> np.ndarray:
    """The shifts up to `far` pixels along each axis, int32 [K, 2]; the first one is (0, 0)."""
    line = np.arange(-(far // step), far // step + 1, dtype=np.int32) * np.int32(step)
    square = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return np.concatenate([np.zeros((1, 2), np.int32), square[square.any(axis=1)]])


def _protocol(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The shifts to measure, and those at which no answer may change."""
    period = 2 ** len(config.widths)
    if ARMS[config.variant].border == "zero":
        return grid(config.far, config.step), np.zeros((0, 2), np.int32)
    return shifts.exhaustive(period), shifts.multiples(period, config.size)


def work(config: Config) -> int:
    """How long a cell takes, in images passed through the net; training counts three times."""
    measured = sum(map(len, _protocol(config))) * config.test_images
    return trained.work(config) + measured


@cache
def jitter(family: str, near: int) -> train.Change:
    """Shifts of each image by up to `near` pixels; the same function again for the same words."""
    move = shifts.FAMILIES[family]

    def change(key: jax.Array, images: jax.Array) -> jax.Array:
        by = jax.random.randint(key, (len(images), 2), -near, near + 1)
        return jax.vmap(lambda image, shift: move(image[None], shift)[0])(images, by)

    return change


def run(config: Config, tick: trained.Tick) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train and measure one net: arrays to store, and facts about them."""
    split = trained.split(config, config.size)
    arm = ARMS[config.variant]
    border = BORDERS[arm.border]
    net = Net(VARIANTS[arm.pooling], config.widths, split.classes, border.padding)
    change = jitter(border.family, config.near) if arm.shifted else None
    images, labels = split.train_images, split.train_labels
    params, losses = trained.fit(config, net, images, labels, tick, change=change)
    measured, periods = _protocol(config)
    seen, probe = lambda count: tick(count, None), slice(config.probe_images)
    images, still = split.test_images, np.zeros((1, 2), np.int32)

    def measure(images: np.ndarray, by: np.ndarray, seen: Callable[[int], None]) -> dict:
        return shifts.measure(net, params, images, by, seen, family=border.family)

    known = measure(split.train_images[probe], still, lambda count: None)
    arrays = {
        "shifts": measured,
        **measure(images, measured, seen),
        "period_shifts": periods,
        "period_predictions": measure(images, periods, seen)["predictions"],
        "labels": split.test_labels.astype(np.uint8),
        "images": split.test_index.astype(np.int32),
        "train_predictions": known["predictions"][0],
        "train_labels": split.train_labels[probe].astype(np.uint8),
    }
    return arrays, {"losses": losses}


# ---- the numbers ----


def around(cell: Cell) -> np.ndarray:
    """The shifts, each the shortest way: of circular borders they are known modulo the period."""
    by = cell.arrays["shifts"]
    if ARMS[cell.variant].border == "zero":
        return by
    return shifts.signed(by, 2 ** len(cell.config["widths"]))


def sensitivity(cell: Cell) -> np.ndarray:
    """How far each shift moves an image: 0 not at all, 1 as far as to another image, [K]."""
    return metrics.sensitivity(cell.arrays["distances"], cell.arrays["logits"])


def numbers(cell: Cell) -> dict[str, float]:
    """What a stored cell says, from its raw predictions.

    `inside` and `outside` are reference consistency at shifts, of zero borders, that are no larger
    than those of training, and up to half as large again; NaN where there are none.
    """
    length = np.abs(around(cell)).max(axis=1)
    agreement = metrics.agreement(cell.arrays["predictions"])
    near = cell.config["near"]
    return trained.measured(cell).row() | {
        "sensitivity": float(sensitivity(cell)[1:].mean()),
        "inside": _mean(agreement[(length > 0) & (length <= near)]),
        "outside": _mean(agreement[(length > near) & (length <= FARTHER * near)]),
    }


FARTHER = 1.5
"""Times the shifts of training. Beyond, digits of MNIST leave the picture: nothing keeps that."""


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def check(cell: Cell) -> list[str]:
    """The exact statements that a stored cell breaks, as sentences; none if all is well."""
    arm, broken = ARMS[cell.variant], []
    measured, periods = _protocol(configs.restored(Config, cell.config))
    if not np.array_equal(cell.arrays["shifts"], measured):
        broken.append("its shifts are not those of its settings")
    exact = VARIANTS[arm.pooling].exact and arm.border == "circular"
    broken += trained.moved(cell.arrays, periods, exact=exact) + trained.unsound(cell.arrays)
    if cell.arrays["distances"][0].any():
        broken.append("an image that is not shifted is moved")
    return broken


# ---- the variance ----

OUTCOMES = {
    "shifted_accuracy": "accuracy at shifts",
    "reference": "reference consistency",
    "accuracy": "accuracy, unshifted",
}
AT_SHIFTS = ("shifted_accuracy", "reference")
MAIN = ("augmentation", "architecture", "architecture x augmentation")


def shared(found: Sequence[Cell]) -> set[tuple[int, int]]:
    """The shifts at which all nets were measured, without (0, 0)."""
    return set.intersection(*({*map(tuple, around(cell))} for cell in found)) - {(0, 0)}


def _shared_words(found: Sequence[Cell]) -> str:
    """How many shifts these are, and how large."""
    at = shared(found)
    return f"{len(at)} shifts of up to {np.abs([*at]).max() if at else 0} pixels"


def at_shared(cell: Cell, at: set[tuple[int, int]]) -> dict[str, float]:
    """What is compared between borders: the accuracy of unshifted images, and what holds at the
    shifts that all nets have."""
    chosen = [tuple(shift) in at for shift in around(cell)]
    predictions, labels = cell.arrays["predictions"], cell.arrays["labels"]
    return {
        "shifted_accuracy": _mean(predictions[chosen] == labels),
        "reference": _mean(metrics.agreement(predictions)[chosen]),
        "accuracy": _mean(predictions[0] == labels),
    }


def table(found: Sequence[Cell], key: str) -> np.ndarray | None:
    """A number of all combinations, [pooling, border, training, seed], at the shared shifts.

    Only poolings, borders and seeds that are in every combination count. None where nothing could
    be compared: with less than two architectures, or without both kinds of training.
    """
    at = shared(found)
    values = {(ARMS[c.variant], c.seed): at_shared(c, at)[key] for c in found}
    arms = {arm for arm, _ in values}
    borders = [b for b in BORDERS if any(arm.border == b for arm in arms)]

    def whole(pooling: str) -> bool:
        return all(Arm(pooling, *each) in arms for each in product(borders, TRAINING))

    poolings = [name for name in VARIANTS if whole(name)]
    levels = [Arm(*each) for each in product(poolings, borders, TRAINING)]
    seeds = sorted({seed for _, seed in values})
    seeds = [seed for seed in seeds if all((arm, seed) in values for arm in levels)]
    if len(poolings) * len(borders) < 2 or not seeds or not at:
        return None
    flat = np.array([[values[arm, seed] for seed in seeds] for arm in levels])
    return flat.reshape(len(poolings), len(borders), len(TRAINING), len(seeds))


def shares(values: np.ndarray) -> dict[str, stats.Share]:
    """Eta squared: of training and architecture, then of the factors the latter is made of."""
    whole = values.reshape(-1, *values.shape[2:])
    coarse = stats.variance_shares(whole, ("architecture", "augmentation"))
    fine = stats.variance_shares(values, ("pooling", "border", "augmentation"))
    parts = ("pooling", "border", "pooling x border")
    rest = {name: coarse[name] for name in ("seed", "rest")}
    return {name: coarse[name] for name in MAIN} | {name: fine[name] for name in parts} | rest


# ---- the report ----


def _share(values: np.ndarray) -> str:
    share, low, high = 100 * values
    return f"{share:.1f}" + ("" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]")


COLUMNS = [
    Column(key, title, meaning, show=spread(100))
    for key, title, meaning in (
        ("accuracy", "accuracy", "Test images, unshifted, that are called right."),
        ("train_accuracy", "train", "Training images (the first 512), unshifted, called right."),
        ("shifted_accuracy", "at shifts", "Shifted test images that are called right."),
        ("reference", "consistency", "Shifted images that are called the same as unshifted."),
        ("worst_case", "worst case", "Images that are called right at every shift."),
        (
            "sensitivity",
            "sensitivity",
            "Distance of the logits from the unshifted ones, in % of that between two images.",
        ),
    )
]
SHARES = [
    Column(key, title, f"Eta squared: the share of the variance of the {title}.", show=_share)
    for key, title in OUTCOMES.items()
]
GAINS = changes(
    ("shifted_accuracy", "at shifts", "Accuracy at shifts, trained with shifts minus without."),
    ("reference", "consistency", "Reference consistency, trained with shifts minus without."),
)
LOSSES = changes(
    ("shifted_accuracy", "at shifts", "Accuracy at the shared shifts, zero minus circular border."),
    ("reference", "consistency", "Consistency at the shared shifts, zero minus circular border."),
)

METHOD = (
    f"{trained.NETS} With augmentation, each image is shifted anew in every step.",
    "With circular borders a shift rolls the image, and the 64 shifts measured stand for all. With "
    "zero borders black comes in, and what leaves is lost; the shifts are all those up to a "
    "largest one along each axis, (0, 0) included. Where borders are compared, in the shares of "
    "the variance and in what zero borders change, this is done at the shifts that both were "
    "measured at. These are small, and where the "
    "margin of an image is black, as that of nearly every digit of MNIST, a roll and a shift into "
    "black make the same image of it; of other images they do not.",
    "Eta squared is the share of the variance over all nets that the means of a factor explain, "
    "less its bias, by the jackknife over seeds. An "
    "architecture is a pooling with a border; it has more levels than augmentation, which is in "
    "its favour. The choice of the levels decides, too: a range of worse poolings explains more.",
    "What augmentation does within and beyond its shifts is compared by the share of the changed "
    "answers that it keeps from changing, over all shifts whose larger part is so many pixels. In "
    "points the order may be another: where few change, few can be kept.",
    "Shifted images are harder to learn. Where nets are under-trained, augmentation costs accuracy "
    "that a longer training would give back.",
    "Sensitivity is how far a shift moves the logits, over the median distance between the logits "
    "of two test images.",
)


def section(found: Sequence[Cell]) -> Section:
    """What a study shows."""
    shown, config = _rows(found), found[0].config
    n = f"{config['test_images']} test images, {seeds_of(found)}"
    sheets = [Sheet("", "The numbers", COLUMNS, shown)]
    variance = {key: table(found, key) for key in OUTCOMES}
    explained = {key: shares(each) for key, each in variance.items() if each is not None}
    if explained:
        title = "The share of the variance that each factor explains"
        sheets.append(Sheet("variance", title, SHARES, _share_rows(explained)))
    compared = {
        "gains": ("What shifts in training add, by architecture", GAINS, _gains(found)),
        "borders": ("What zero borders change, at shared shifts", LOSSES, lost := _losses(found)),
    }
    for name, (title, columns, rows) in compared.items():
        if rows:
            sheets.append(Sheet(name, title, columns, rows, unit="percentage points"))
    return Section(
        question=QUESTION,
        answer=_answer(
            explained, lost, shown, data.SOURCES[config["data"]].name, n, _shared_words(found)
        ),
        pictures=[_bars(shown, n), _profiles(found, n), *_maps(found, n)],
        sheets=sheets,
        size=f"{n}; {trained.size(config)}; shifted by up to {config['near']} pixels or not; with "
        f"zero borders measured at every shift of up to {config['far']} pixels along each axis. "
        f"{SPREAD}",
        claims=_claims(found, explained),
        method=(*METHOD, NAMES, trained.length(found)),
    )


def _names(found: Sequence[Cell]) -> list[str]:
    """The combinations that there are, those of one border together."""
    there = [ARMS[name] for name in ARMS if any(cell.variant == name for cell in found)]
    return [arm.name for arm in sorted(there, key=lambda arm: list(BORDERS).index(arm.border))]


def _rows(found: Sequence[Cell]) -> list[Row]:
    names = {name: f"{ARMS[name].architecture}, {ARMS[name].training}" for name in _names(found)}
    return by_variant(found, names, numbers)


def _share_rows(explained: dict[str, dict[str, stats.Share]]) -> list[Row]:
    """One row for each factor: the share, and the ends of its interval."""

    def values(share: stats.Share) -> np.ndarray:
        return np.array([share.share, *(share.interval or (np.nan, np.nan))])

    names = next(iter(explained.values()))
    return [
        Row(name, name, {key: values(each[name]) for key, each in explained.items()})
        for name in names
    ]


def _gains(found: Sequence[Cell]) -> list[Row]:
    """What shifts in training add to each architecture."""
    each = _each(found, numbers)
    pairs = {
        arm.name: (arm.architecture, each[arm], each[plain])
        for arm in each
        if arm.shifted and (plain := replace(arm, training="plain")) in each
    }
    return differences(pairs, AT_SHIFTS)


def _losses(found: Sequence[Cell]) -> list[Row]:
    """What zero borders take, at the shifts that all nets were measured at."""
    at = shared(found)
    if not at:
        return []
    each = _each(found, partial(at_shared, at=at))
    pairs = {
        arm.name: (f"{VARIANTS[arm.pooling].title}, {arm.training}", each[arm], each[rolled])
        for arm in each
        if arm.border == "zero" and (rolled := replace(arm, border="circular")) in each
    }
    return differences(pairs, AT_SHIFTS)


def _each(
    found: Sequence[Cell], numbers: Callable[[Cell], dict[str, float]]
) -> dict[Arm, dict[int, dict[str, float]]]:
    """What the seeds of every combination say."""
    return {
        ARMS[name]: {cell.seed: numbers(cell) for cell in of_variant(found, name)}
        for name in _names(found)
    }


def _answer(
    explained: dict[str, dict[str, stats.Share]],
    lost: Sequence[Row],
    rows: Sequence[Row],
    name: str,
    n: str,
    at: str,
) -> str:
    """Sentences, from the numbers: what explains more, and what zero borders take."""
    if not explained:
        return (
            "The cells do not make a factorial design: at least two architectures must be there, "
            "with and without shifts in training."
        )
    parts = []
    for key in AT_SHIFTS:
        ours, theirs, both = (_part(explained[key][factor]) for factor in MAIN)
        parts.append(
            f"of the variance of {OUTCOMES[key]} augmentation explains {ours}, the architecture "
            f"{theirs}, and how much the one does for the other {both}"
        )
    said = {"architecture": "the architecture"}
    more = [_more(explained[key]) for key in AT_SHIFTS]
    accuracy, consistency = (said.get(factor, factor) for factor in more)
    if accuracy == consistency:
        verdict = f"So {accuracy} explains more of both" if accuracy else "Which is more is open"
    else:
        verdict = (
            f"So {accuracy or 'neither'} clearly explains more of the accuracy, "
            f"{consistency or 'neither'} of the consistency"
        )
    trained = [100 * row.values["train_accuracy"].mean() for row in rows]
    return (
        f"On {name}, {'; '.join(parts)} ({n}, {at}). {verdict}, of these architectures and "
        "of nets that are right on "
        f"{min(trained):.0f} to {max(trained):.0f} % of their training images.{_taken(lost)}"
    )


def _part(share: stats.Share) -> str:
    ends = [f"{100 * end:.0f}" for end in share.interval or ()]
    return f"{100 * share.share:.0f} %" + (f" [{', '.join(ends)}]" if ends else "")


def _taken(lost: Sequence[Row]) -> str:
    """A sentence on what zero borders change in nets that were trained without shifts."""
    plain = [row for row in lost if not ARMS[row.variant].shifted]
    changes = ", ".join(
        f"{interval(row.values['reference'])} with {VARIANTS[ARMS[row.variant].pooling].title}"
        for row in plain
    )
    start = " Zero borders, with shifts into black, change consistency at the same shifts by "
    return f"{start}{changes} points." if plain else ""


def _more(explained: dict[str, stats.Share]) -> str:
    """Which of the two factors explains more; neither where their intervals overlap."""
    first, second = sorted(MAIN[:2], key=lambda factor: -explained[factor].share)
    high, low = explained[second].interval, explained[first].interval
    return "" if high and low and low[0] <= high[1] else first


def _explains(found: Sequence[Cell], explained: dict[str, dict[str, stats.Share]]) -> list[Claim]:
    """Whether augmentation explains more than the architecture: of all poolings, and of those that
    alias, since the choice of the levels decides. Where these do not agree, it is open."""
    some = [cell for cell in found if ARMS[cell.variant].pooling in UNFILTERED]
    claims = []
    for key in [key for key in AT_SHIFTS if key in explained]:
        few = table(some, key) if 0 < len(some) < len(found) else None
        of = [explained[key], *([shares(few)] if few is not None else [])]
        said = [" against ".join(_part(each[factor]) for factor in MAIN[:2]) for each in of]
        names = " and ".join(VARIANTS[name].title for name in UNFILTERED)
        more = [_more(each) for each in of]
        verdicts = {None if not each else each == MAIN[0] for each in more}
        claims.append(
            Claim(
                f"Augmentation explains more of the {OUTCOMES[key]} than the architecture",
                f"{said[0]} of the variance"
                + (f"; of {names} alone, {said[1]}." if len(said) > 1 else "."),
                verdicts.pop() if len(verdicts) == 1 else None,
                "Kauderer-Abrams 2017",
            )
        )
    return claims


def _bars(rows: Sequence[Row], n: str) -> Picture:
    by: dict[str, dict[str, float]] = {}
    for row in rows:
        arm = ARMS[row.variant]
        by.setdefault(arm.training, {})[arm.architecture] = row.values["reference"].mean()

    def draw(narrow: bool) -> Any:
        from experiments import figures

        values: dict[str, dict[str, np.ndarray]] = {}
        for row in rows:
            arm = ARMS[row.variant]
            series = dict.fromkeys(TRAINING, np.array([]))
            found = values.setdefault(arm.architecture, series)
            found[arm.training] = 100 * row.values["reference"]
        return figures.dots(values, "reference consistency (%)", narrow=narrow)

    return Picture(
        "consistency",
        "Consistency of every architecture, with and without shifts in training",
        "Shifted images that are called the same as unshifted, by nets trained on the images as "
        f"they are (plain) or shifted at random. Large: the mean; thin: "
        f"{thin(len(rows[0].values['reference']))}. {n}.",
        draw,
        "; ".join(f"{what}, {extremes(of)}" for what, of in by.items()) + ".",
    )


def _profiles(found: Sequence[Cell], n: str) -> Picture:
    def draw(narrow: bool) -> Any:
        from experiments import figures

        panels: dict[str, dict[str, figures.Curve]] = {}
        styles = list(dict.fromkeys(ARMS[name].pooling for name in _names(found)))
        for name in _names(found):
            ours, arm = of_variant(found, name), ARMS[name]
            mean = np.mean([sensitivity(cell) for cell in ours], axis=0)
            rings = metrics.radial(around(ours[0]), 100 * mean, square=True)
            at, values = (each[1:] for each in rings)
            curve = figures.Curve((at, values), (at, values), styles.index(arm.pooling))
            title = f"{arm.border} border, {arm.training}"
            panels.setdefault(title, {})[VARIANTS[arm.pooling].title] = curve
        x, y = (
            "larger part of the shift (pixels)",
            "sensitivity (% of the distance of two images)",
        )
        return figures.curves(
            panels, x, y, least=0, log_y=False, mark=found[0].config["near"], narrow=narrow
        )

    return Picture(
        "profiles",
        "Sensitivity over the length of the shift",
        "How far a shift moves the logits, averaged over all shifts whose larger part, along one "
        "axis or the other, is so many pixels; the grey line is the largest shift in training. "
        f"Mean over {n}.",
        draw,
    )


def _maps(found: Sequence[Cell], n: str) -> list[Picture]:
    """The maps of each border."""
    return [
        _map(border, [name for name in _names(found) if ARMS[name].border == border], found, n)
        for border in BORDERS
        if any(ARMS[cell.variant].border == border for cell in found)
    ]


def _map(border: str, names: Sequence[str], found: Sequence[Cell], n: str) -> Picture:
    def draw(narrow: bool) -> Any:
        from experiments import figures

        titles = [f"{VARIANTS[ARMS[name].pooling].title}, {ARMS[name].training}" for name in names]
        by = around(of_variant(found, names[0])[0])
        lines = np.unique(by)
        at = tuple(((by - lines[0]) // (lines[1] - lines[0])).T)
        squares = []
        for name in names:
            square = np.empty((len(lines), len(lines)))
            square[at] = np.mean([sensitivity(cell) for cell in of_variant(found, name)], axis=0)
            squares.append(square)
        return figures.maps(
            titles,
            squares,
            label="sensitivity (% of the distance of two images)",
            first=int(lines[0]),
            step=int(lines[1] - lines[0]),
            narrow=narrow,
        )

    return Picture(
        f"maps-{border}",
        f"Sensitivity to every shift, {border} borders",
        f"The sensitivity to every shift with {border} borders; dark shifts change little, those "
        f"above 100 % look like 100 %. Averages include (0, 0). Mean over {n}.",
        draw,
    )


def _claims(found: Sequence[Cell], explained: dict[str, dict[str, stats.Share]]) -> list[Claim]:
    """What the header expects, and what is stored."""
    circular = [cell for cell in found if ARMS[cell.variant].border == "circular"]
    adaptive = [cell for cell in circular if VARIANTS[ARMS[cell.variant].pooling].exact]
    return [
        *_explains(found, explained),
        *_beyond(found),
        *trained.never(
            circular,
            "period_predictions",
            "Shifts by multiples of the period never change an answer with circular borders",
            "exact for circular borders",
        ),
        *trained.never(
            adaptive,
            "predictions",
            "No shift ever changes an answer of APS with circular borders",
            "Chaman and Dokmanic 2021",
        ),
    ]


def _beyond(found: Sequence[Cell]) -> list[Claim]:
    """Whether shifts in training help less beyond them, over nets with zero borders."""
    each = {
        (ARMS[c.variant], c.seed): numbers(c) for c in found if ARMS[c.variant].border == "zero"
    }
    pairs: dict[str, dict[int, list[list[float]]]] = {}
    for (arm, seed), shifted in each.items():
        plain = each.get((Arm(arm.pooling, arm.border, "plain"), seed))
        if arm.shifted and plain:
            pair = [[net[key] for key in ("inside", "outside")] for net in (plain, shifted)]
            if np.isfinite(pair).all() and max(pair[0]) < 1:  # or there is nothing to keep
                pairs.setdefault(VARIANTS[arm.pooling].title, {})[seed] = pair
    return [_less_beyond(pairs, found[0].config["near"])] if pairs else []


def _less_beyond(pairs: Mapping[str, Mapping[int, Any]], near: int) -> Claim:
    """By the share of the changed answers that is kept, not in points: where little changes, little
    can be kept. And pooling by pooling, since a mean hides those of which the opposite is true.

    `pairs` has the consistency of each pooling and seed, [plain or shifted, inside or outside].
    """
    kept = {title: _kept(each) for title, each in pairs.items()}
    found = stats.corrected(
        {title: stats.difference(inside, outside) for title, (inside, outside) in kept.items()}
    )
    told = []
    for title, each in pairs.items():
        inside, outside = (100 * np.mean(list(share.values())) for share in kept[title])
        points = 100 * np.subtract(*np.mean(list(each.values()), axis=0)[::-1])
        p = "" if found[title].p is None else f", p = {found[title].adjusted:.2g}"
        told.append(
            f"{title} {outside:.0f} % beyond, {inside:.0f} % within "
            f"({number(points[1], sign='+')} and {number(points[0], sign='+')} points{p})"
        )
    return Claim(
        f"Shifts of up to {near} pixels in training keep a smaller share of the answers that "
        f"changed beyond them, up to {FARTHER * near:g}, than within, for every pooling",
        f"{'; '.join(told)}; nets with zero borders.",
        stats.every(each.higher for each in found.values()),
        "Azulay and Weiss 2019",
    )


def _kept(pairs: Mapping[int, Any]) -> tuple[dict[int, float], dict[int, float]]:
    """The share of the changed answers that shifts in training keep, within and beyond them, by
    seed."""
    changed = {seed: 1 - np.asarray(pair) for seed, pair in pairs.items()}
    shares = {seed: 1 - new / old for seed, (old, new) in changed.items()}
    inside, outside = ({seed: float(s[i]) for seed, s in shares.items()} for i in (0, 1))
    return inside, outside
