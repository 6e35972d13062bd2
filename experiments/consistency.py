"""Does the choice of pooling change translation invariance, and what does it cost in accuracy?

Command:  python -m experiments run consistency --preset quick
Time:     under 5 minutes on 2 cores (24 nets); --preset full 45 minutes (200 nets)
Result:   accuracy and consistency for each variant; the map C(s) of the agreement with the
          unshifted answer, over all shifts s; with --protocol NAME the consistency of a paper

Small nets that differ in nothing but their reductions are trained on the same images, from the
same parameters, in the same order. All borders are circular, so the answer depends on a shift only
modulo 2^L (see `experiments.shifts`), and all shifts of an image can be measured: there is no
sampling noise.

Expected:

- Strided convolution < max < average in consistency on every seed. Strided convolution and max let
  high frequencies alias, an average damps them first. Azulay and Weiss, "Why do deep convolutional
  networks generalize so poorly to small image transformations?", 2019; Zhang, "Making convolutional
  networks shift-invariant again", 2019 (there, a blur behind the max).
- Softmax and log-sum-exp lie between average and max, as the poolings themselves do.
- A blur behind the max raises its consistency on every seed (Zhang 2019).
- Exactly: no shift ever changes an answer of max + APS, adaptive polyphase sampling behind the max.
  Chaman and Dokmanic, "Truly shift-invariant convolutional neural networks", 2021.
- Exactly: shifts by multiples of 2^L never change an answer. `check` holds stored results to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import config as configs
from experiments import data, shifts, trained
from experiments.config import EXHAUSTIVE, UserError
from experiments.metrics import agreement
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
    by_variant,
    changes,
    counted,
    differences,
    extremes,
    interval,
    means,
    seeds_of,
    spread,
    thin,
)
from experiments.stats import FEWEST, summary
from experiments.store import Cell

NAME = "consistency"
QUESTION = "What does pooling do to translation invariance, and what does it cost in accuracy?"


@dataclass(frozen=True, kw_only=True)
class Config(trained.Config):
    """All that one net and its measurement depend on.

    The accuracy on the training images is measured on the first `probe_images` of them. `shifts` is
    the protocol that says at which shifts the test images are.
    """

    experiment: str = NAME
    size: int
    probe_images: int = 512
    shifts: str = EXHAUSTIVE


FEW = ("stride", "max", "avg", "min", "softmax", "lse", "maxblur3", "max_aps")
"""The variants of the preset quick."""


@dataclass(frozen=True, kw_only=True)
class Preset(trained.Preset):
    """How large a study is: everything but the variant and the seed."""

    variants: tuple[str, ...] = FEW


PRESETS = {
    "smoke": Preset(
        about="seconds: does everything run?",
        data="digits",
        seeds=2,
        train_images=512,
        test_images=100,
        epochs=4,
        batch=32,
        widths=(8, 8, 8),
        variants=("stride", "max", "max_aps"),
    ),
    "quick": Preset(
        about="under 5 minutes on 2 cores: a first measured answer",
        data="mnist5k",
        seeds=3,
        train_images=4000,
        test_images=128,
        epochs=4,
    ),
    "full": Preset(
        about="45 minutes on 2 cores: all variants, 10 seeds, trained to the same loss",
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
    protocol: str = EXHAUSTIVE,
) -> list[Config]:
    """The cells of a preset, all variants of one seed before the next seed.

    So an unfinished run is one with fewer seeds, whose variants can be compared already.
    """
    shifts.protocol(protocol)
    chosen = PRESETS[configs.choose("preset", preset, PRESETS)]
    name = data_name or chosen.data
    size = data.known(name).size
    more = {"size": size, "shifts": protocol}
    return configs.cells(
        Config, chosen, VARIANTS, data=name, seeds=seeds, variants=variants, **more
    )


def _net(config: Config, classes: int = 10) -> Net:
    net = Net(VARIANTS[config.variant], config.widths, classes)
    if config.size % net.period:
        raise UserError(
            f"size={config.size} is not a multiple of {net.period}, so shifts by {net.period} "
            f"pixels are not exact: pad to {-(-config.size // net.period) * net.period}."
        )
    return net


def _how(config: Config) -> shifts.Protocol:
    return shifts.protocol(config.shifts, period=_net(config).period)


def _protocol(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The shifts to measure, and those at which no answer may change."""
    period = _net(config).period
    return _how(config).shifts(config.size), shifts.multiples(period, config.size)


def _middle(images: np.ndarray, size: int) -> np.ndarray:
    """The images without the margin that crops move over."""
    start = (images.shape[1] - size) // 2
    return images[:, start : start + size, start : start + size]


def work(config: Config) -> int:
    """How long a cell takes, in images passed through the net; training counts three times."""
    measured = sum(map(len, _protocol(config))) * config.test_images
    return trained.work(config) + measured


def run(config: Config, tick: trained.Tick) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train and measure one net: arrays to store, and facts about them.

    `tick` is called with the work done since the last call, and with the loss if it is known.
    """
    how, size = _how(config), config.size
    split = trained.split(config, size + how.margin(size))
    net, known = _net(config, split.classes), _middle(split.train_images, size)
    params, losses = trained.fit(config, net, known, split.train_labels, tick)
    grid, periods = _protocol(config)
    images, seen = split.test_images, lambda count: tick(count, None)
    probe = slice(config.probe_images)
    arrays = {
        "shifts": grid,
        **shifts.measure(net, params, images, grid, seen, family=how.family, size=size),
        "period_shifts": periods,
        "period_predictions": shifts.predictions(net, params, _middle(images, size), periods, seen),
        "labels": split.test_labels.astype(np.uint8),
        "images": split.test_index.astype(np.int32),
        "train_predictions": shifts.predictions(net, params, known[probe], grid[:1])[0],
        "train_labels": split.train_labels[probe].astype(np.uint8),
    }
    return arrays, {"losses": losses}


def shift_map(cell: Cell) -> np.ndarray:
    """C(s), the share of the images called the same at shift s as unshifted, [down, right]."""
    period = int(np.sqrt(len(cell.arrays["shifts"])))
    return agreement(cell.arrays["predictions"]).reshape(period, period)


def check(cell: Cell) -> list[str]:
    """The exact statements that a stored cell breaks, as sentences; none if all is well."""
    config = configs.restored(Config, cell.config)
    (grid, periods), how = _protocol(config), _how(config)
    broken = []
    if not np.array_equal(cell.arrays["shifts"], grid):
        broken.append(
            "its shifts are not all the shifts of one period"
            if how.name == EXHAUSTIVE
            else f"its shifts are not those of the protocol {how.name}"
        )
    exact = VARIANTS[cell.variant].exact and not how.crops
    broken += trained.moved(cell.arrays, periods, exact=exact)
    return broken + trained.unsound(cell.arrays)


COLUMNS = (
    Column(
        "accuracy",
        "accuracy",
        "Test images, unshifted, that are called right.",
        show=spread(100),
    ),
    Column("train_accuracy", "train", "Training images (the first 512) that are called right."),
    Column(
        "reference",
        "reference consistency",
        "Shifted images that are called the same as unshifted, over all images and shifts.",
        show=spread(100),
    ),
    Column(
        "pair",
        "pair consistency",
        "The probability that an image is called the same at two shifts drawn independently.",
    ),
    Column("stable", "stable", "Images that are called the same at every shift."),
    Column("worst_case", "worst case", "Images that are called right at every shift."),
    Column(
        "reference_when_right",
        "consistency if right",
        "Reference consistency of the images that are called right unshifted.",
        on_terminal=False,
    ),
    Column(
        "kappa",
        "kappa",
        "Pair consistency corrected for chance: 0 for a net that always gives the same answer.",
        on_terminal=False,
    ),
    Column(
        "probability_change",
        "change",
        "Mean absolute change of the probability of the unshifted answer.",
        on_terminal=False,
    ),
)

METHOD = (
    f"{trained.NETS} They differ in nothing but the reduction. Seeds differ in the "
    "split into training and test images, too. All borders are circular.",
    NAMES,
    "A shift rolls the image: what leaves on one side comes back on the other. The answer of such "
    "a net depends on a shift only modulo 8 pixels, so the 64 shifts that were measured stand for "
    "all shifts, and no sampling is involved. The nets were also run at all shifts by multiples "
    "of 8, to see that this is so. (The 64 include no shift at all, at which all answers agree.)",
    "What a pooling learns, GeM and mixed pooling, it learns at the rate of the weights.",
    "Whether a pooling is told from max is a test, of sign flips of paired seeds. Whether it costs "
    "accuracy is none: what a test does not see may be there. The 95 % interval of the difference "
    "decides that, for each pooling by itself. No accuracy is lost where it lies above -1 point, a "
    "margin that is fixed for all and not fitted: less is of no use to who chooses a pooling. "
    "Accuracy is lost where it lies below 0. Where it does neither, that is open.",
)
COMPARED = (
    *changes(
        ("accuracy", "accuracy", "Accuracy minus that of max, unshifted, seed by seed."),
        ("reference", "consistency", "Reference consistency minus that of max, seed by seed."),
    ),
    Column(
        "accuracy",
        "costs accuracy",
        "Yes: the interval of its accuracy minus that of max lies below 0; no: it lies above -1 "
        "point; open: neither.",
        show=lambda values: COSTS[costs(values)],
    ),
)


def section(cells: Sequence[Cell]) -> Section:
    """What a study shows, the most consistent variant first."""
    if cells[0].config["shifts"] != EXHAUSTIVE:
        return _section_of_a_paper(cells)
    shown, seeds, config = _rows(cells), seeds_of(cells), cells[0].config
    grid = len(cells[0].arrays["shifts"])
    n = f"{seeds}, {config['test_images']} test images, {grid} shifts of each"
    compared = _compared(cells, shown) if len({cell.seed for cell in cells}) >= FEWEST else []
    title = "Against max pooling, in percentage points"
    return Section(
        question=QUESTION,
        answer=_answer(shown, compared, data.SOURCES[config["data"]].name, seeds),
        pictures=[_pareto(shown, n), _maps(shown, cells, n)],
        sheets=[
            Sheet("", "The numbers", COLUMNS, shown),
            *([Sheet("compared", title, COMPARED, compared, unit="points")] if compared else []),
        ],
        size=f"{n}; {trained.size(config)}. {SPREAD}",
        claims=_claims(cells),
        method=(*METHOD, trained.length(cells)),
    )


def _section_of_a_paper(cells: Sequence[Cell]) -> Section:
    """What a paper would call consistency, by its protocol."""
    config = configs.restored(Config, cells[0].config)
    how, n = _how(config), f"{seeds_of(cells)}, {config.test_images} test images"

    def numbers(cell: Cell) -> dict[str, float]:
        ours = trained.measured(cell)
        consistent = how.consistency(cell.arrays["predictions"])
        return {"protocol": consistent, "accuracy": ours.accuracy, "train": ours.train_accuracy}

    rows = by_variant(cells, TITLES, numbers)
    rows.sort(key=lambda row: -row.values["protocol"].mean())
    columns = [
        Column("protocol", "consistency", f"As in {how.source}.", show=spread(100)),
        Column("accuracy", "accuracy", "Test images, unshifted, called right.", show=spread(100)),
        Column("train", "train", "Training images (the first 512) that are called right."),
    ]
    told = ", ".join(f"{100 * share:.1f} % with {title}" for title, share in _first(rows))
    return Section(
        question=QUESTION,
        answer=f"By the protocol of {how.source}, consistency is {told} (mean of {n}).",
        pictures=[],
        sheets=[Sheet("", how.title(config.size), columns, rows)],
        size=f"{n}; {how.title(config.size)}; {trained.size(cells[0].config)}. {SPREAD}",
        claims=_never(cells, [] if how.crops else _exact(cells)),
        method=(METHOD[0], NAMES, PAPERS, trained.length(cells)),
        stem=how.name,
    )


PAPERS = (
    "Shifts are those of the paper, in proportion to the side of the image. A paper draws them at "
    "random; here all of them are measured, and what would be seen on average is computed. A crop "
    "is a window that moves over the image, padded by black; a roll brings back what leaves."
)


def _first(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """The best, max and the last, with their consistency by the protocol."""
    return [
        (row.title, float(row.values["protocol"].mean()))
        for row in rows
        if row in (rows[0], rows[-1]) or row.variant == "max"
    ]


def _rows(cells: Sequence[Cell]) -> list[Row]:
    found = by_variant(cells, TITLES, lambda cell: trained.measured(cell).row())
    return sorted(found, key=lambda row: [-row.values[k].mean() for k in ("reference", "accuracy")])


def _compared(cells: Sequence[Cell], rows: Sequence[Row]) -> list[Row]:
    """Every variant minus max, in the order of the rows; nothing without max."""
    each: dict[str, dict[int, Any]] = {row.variant: {} for row in rows}
    for cell in cells:
        each[cell.variant][cell.seed] = trained.measured(cell).row()
    base = each.pop("max", None)
    if base is None:
        return []
    pairs = {name: (TITLES[name], ours, base) for name, ours in each.items()}
    return differences(pairs, ("accuracy", "reference"))


MARGIN = 0.01
"""Of the accuracy, one point: what differs from max by less is of no use to who chooses a pooling.
It is fixed, one for all poolings, and not fitted to what is stored."""


def costs(differences: np.ndarray) -> bool | None:
    """Whether a pooling costs accuracy, from its accuracy minus that of max, seed by seed.

    By the 95 % interval of their mean: no where it lies above -MARGIN, yes where it lies below 0.
    Where it does both, what is lost is less than MARGIN, and that is no cost. Where it does
    neither, and where there are too few seeds, it is open.
    """
    found = summary(differences).interval
    if found is None:
        return None
    low, high = found
    return False if low > -MARGIN else True if high < 0 else None


COSTS = {True: "yes", False: "no", None: "open"}


def _free(compared: Sequence[Row], rows: Sequence[Row]) -> str:
    """Which variant is the most consistent at no cost in accuracy, and what those cost that are
    more consistent still."""

    def told(row: Row) -> bool:
        """By the sign flips that stand in the table, corrected for all of its rows."""
        mean, p = np.nanmean(row.values["reference"]), row.values["p_reference"][0]
        return bool(mean > 0 and p <= 0.05)

    judged = [row for row in compared if np.isfinite(row.values["p_accuracy"][0])]
    more = [row for row in judged if told(row)]
    if not judged:
        return "Too few seeds have max, too, to say what costs accuracy."
    if not more:
        return "Nothing measured is more consistent than max by more than chance."
    free = [costs(row.values["accuracy"]) is False for row in more]
    if not any(free):
        return f"None that is more consistent than max {NO_COST}: {_prices(more)}."
    first = free.index(True)  # the most consistent comes first and, of equals, the most accurate
    best, above = more[first], more[:first]
    accuracy = next(row.values["accuracy"] for row in rows if row.variant == best.variant)
    return (
        f"The most consistent that {NO_COST} is {VARIANTS[best.variant].phrase}: "
        f"{interval(best.values['reference'])} points of consistency and "
        f"{interval(best.values['accuracy'])} of accuracy, {100 * accuracy.mean():.1f} % right."
        + (f" Of those that are more consistent still, {_prices(above)}." if above else "")
    )


NO_COST = (
    "is seen to cost no accuracy (the 95 % interval of its difference to max lies above "
    f"-{100 * MARGIN:g} point)"
)


def _prices(rows: Sequence[Row]) -> str:
    """Which of some poolings cost accuracy, and of which that is open."""
    of: dict[bool | None, list[str]] = {cost: [] for cost in COSTS}
    for row in rows:
        of[costs(row.values["accuracy"])].append(row.title)
    lost = f"accuracy is lost (the interval lies below 0) with {_listed(of[True])}"
    unknown = f"it is open whether accuracy is lost with {_listed(of[None])}"
    return "; ".join(text for cost, text in ((True, lost), (None, unknown)) if of[cost])


def _listed(titles: Sequence[str]) -> str:
    """A title may hold a comma, but the last one stands behind "and"."""
    return " and ".join(filter(None, (", ".join(titles[:-1]), *titles[-1:])))


def _answer(rows: Sequence[Row], compared: Sequence[Row], name: str, seeds: str) -> str:
    """Two sentences, from the numbers: who is consistent, and what it costs."""

    def share(row: Row, key: str) -> str:
        return f"{100 * row.values[key].mean():.0f} %"

    def phrase(row: Row) -> str:
        return VARIANTS[row.variant].phrase

    first, last = rows[0], rows[-1]
    shown = [row for row in rows if row is first or row is last or row.variant == "max"]
    ranking = ", ".join(f"{share(row, 'reference')} with {phrase(row)}" for row in shown)
    ranking = ranking.replace(" with", " of the cases with", 1)
    best = max(rows, key=lambda row: row.values["accuracy"].mean())
    start = (
        f"On {name}, a shifted image gets the answer of the unshifted one in {ranking} (mean of "
        f"{seeds}). "
    )
    if compared:
        return start + _free(compared, rows)
    if best is first:
        return start + f"The most consistent is the most accurate, too: {share(best, 'accuracy')}."
    gap = best.values["train_accuracy"].mean() - first.values["train_accuracy"].mean()
    slow = f", still under-trained ({share(first, 'train_accuracy')} of its training images)"
    return start + (
        f"The most accurate is {phrase(best)}: {share(best, 'accuracy')} right unshifted, against "
        f"{share(first, 'accuracy')} with {phrase(first)}{slow if gap > 0.05 else ''}."
    )


def _pareto(rows: Sequence[Row], n: str) -> Picture:
    def draw(narrow: bool) -> Any:
        from experiments import figures

        groups = [
            figures.Group(
                row.title,
                100 * row.values["reference"],
                100 * row.values["accuracy"],
                style=list(VARIANTS).index(row.variant),
            )
            for row in rows
        ]
        x = "same answer after a shift (%)" if narrow else X_LABEL
        return figures.pareto(groups, x, "test accuracy, unshifted (%)", narrow=narrow)

    return Picture(
        name="pareto",
        alt="Accuracy against consistency under shifts",
        caption=f"Large: the mean; thin: {thin(len(rows[0].values['accuracy']))}. Along the grey "
        f"line, no other variant is better in both. The lower axis is stretched towards 100 %. "
        f"{n}.",
        draw=draw,
        seen=f"consistency {extremes(means(rows, 'reference'))}, accuracy "
        f"{extremes(means(rows, 'accuracy'))}.",
    )


def _maps(rows: Sequence[Row], cells: Sequence[Cell], n: str) -> Picture:
    squares = [
        np.mean([shift_map(cell) for cell in cells if cell.variant == row.variant], axis=0)
        for row in rows
    ]
    period = len(squares[0])

    def draw(narrow: bool) -> Any:
        from experiments import figures

        return figures.maps([row.title for row in rows], squares, narrow=narrow)

    return Picture(
        name="maps",
        alt="Which shifts change the answer",
        caption="C(s): the share of the test images that are called the same at shift s as "
        f"unshifted (top left, always 100 %). Shifts repeat after {period} pixels, so "
        f"{period - 1} to the right is 1 to the left. Mean over {n}.",
        draw=draw,
        seen=f"on average, answers stay {extremes(means(rows, 'reference'))}.",
    )


X_LABEL = "reference consistency: same answer after a shift as before (%)"


def _claims(cells: Sequence[Cell]) -> list[Claim]:
    """What the header expects, and what is stored."""
    consistency = {(c.variant, c.seed): trained.measured(c).reference for c in cells}
    orders = [
        ("stride", "max", "avg", "Azulay and Weiss 2019; Zhang 2019"),
        ("max", "softmax", "avg", "so do the poolings themselves"),
        ("max", "lse", "avg", "so do the poolings themselves"),
        ("max", "maxblur3", "max_aps", "Zhang 2019; Chaman and Dokmanic 2021"),
    ]
    ordered = [claim for order in orders for claim in _ordered(consistency, *order)]
    return ordered + _never(cells, _exact(cells))


def _exact(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if VARIANTS[cell.variant].exact]


def _never(cells: Sequence[Cell], adaptive: Sequence[Cell]) -> list[Claim]:
    """What is exact: multiples of the period, and the shifts of adaptive sampling."""
    return [
        *trained.never(
            cells,
            "period_predictions",
            "Shifts by multiples of 8 pixels never change an answer",
            "exact for circular borders and three reductions by 2",
        ),
        *trained.never(
            adaptive,
            "predictions",
            f"No shift ever changes an answer: {titles(cell.variant for cell in adaptive)}",
            "Chaman and Dokmanic 2021",
        ),
    ]


def _ordered(
    consistency: dict[tuple[str, int], float], low: str, middle: str, high: str, source: str
) -> list[Claim]:
    """Whether three variants are in this order on every seed that has all of them."""
    names = (low, middle, high)
    seeds = {seed for _, seed in consistency}
    seeds = [seed for seed in seeds if all((name, seed) in consistency for name in names)]
    if not seeds:
        return []
    triples = [[consistency[name, seed] for name in names] for seed in seeds]
    # What is exact is at 100 %, where others may be, too.
    held = sum(a < b < c or (a < b <= c and VARIANTS[high].exact) for a, b, c in triples)
    expected = " < ".join(VARIANTS[name].title for name in names)
    return [
        Claim(
            f"Reference consistency: {expected}, on every seed",
            f"on {held} of {counted(len(seeds), 'seed')}.",
            held == len(seeds),
            source,
        )
    ]
