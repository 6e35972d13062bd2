"""Where between average and max should one pool?

Command:  python -m experiments run continuum --preset quick
Time:     about 15 minutes on 2 cores (54 nets)
Result:   accuracy and consistency of four families of poolings along their way from average to
          max; where their parameters end, if they are learned from near the one or the other

Each family leads from average to max by one parameter: the power mean of x >= 0 by p from 1 to
inf, log-sum-exp and softmax by a temperature T from large to small, mixed pooling by alpha from 0
to 1. Parameters of different families cannot be compared. So a net's place is measured: of windows
of its own features, as the trained net sees them,

    position = sum (pooled - average) / sum (max - average)

which is 0 for the average and 1 for max. Nets are trained as in `experiments.consistency`.

Expected:

- The best is between average and max, and depends on how much is pooled: Boureau, Ponce, LeCun, "A
  theoretical analysis of feature pooling in visual recognition", 2010.
- Learned, p goes to values of about 2 to 4: Gulcehre, Cho, Pascanu, Bengio, "Learned-norm pooling
  for deep feedforward and recurrent neural networks", 2014; Radenovic, Tolias, Chum, "Fine-tuning
  CNN image retrieval with no human annotation", 2018.
- Mixed pooling is better than either end: Lee, Gallagher, Tu, "Generalizing pooling functions in
  convolutional neural networks: mixed, gated, and tree", 2016.
- Consistency falls from average to max: Azulay and Weiss, "Why do deep convolutional networks
  generalize so poorly to small image transformations?", 2019.
- Exactly: the ends of each family are average and max, and average <= pooled <= max. `check` holds
  stored features to it, and each pooled value to its formula.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from scipy.special import expit, logsumexp, softmax
from scipy.stats import spearmanr

import jaxpool
import jaxpool.linen as jpl
from experiments import config as configs
from experiments import data, nets, shifts, stats, trained
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
    interval,
    means,
    seeds_of,
    spread,
    thin,
)
from experiments.stats import FEWEST, paired
from experiments.store import Cell

NAME = "continuum"
QUESTION = "Where between average and max should one pool?"

WINDOW = 2
"""The side of what is pooled."""


# ---- the families ----


@dataclass(frozen=True)
class Family:
    """Poolings from average to max by one parameter.

    `law(x, value)` is the formula, over the last axis. `parameter` is how the module calls what it
    learns, and `read` makes the value of it. Learning starts near the average or near max.
    """

    title: str
    symbol: str
    kind: Callable[..., nn.Module]
    pool: Callable[..., jax.Array]
    law: Callable[[np.ndarray, float], np.ndarray]
    values: tuple[float, ...]
    ends: tuple[float, float]
    near: tuple[float, float]
    parameter: str
    read: Callable[[np.ndarray], np.ndarray]
    field: str
    options: tuple[tuple[str, Any], ...] = ()

    def variant(self, value: float, **learn: str) -> nets.Variant:
        """The pooling with this value, or one that starts to learn there."""
        what = f"{self.title}, {self.symbol} = {value:g}"
        title = f"{self.title}, learned from {self.symbol} = {value:g}" if learn else what
        options: dict[str, Any] = {**dict(self.options), self.field: value, **learn}
        return nets.learned(title, self.kind, **options)

    def pooled(self, windows: np.ndarray, value: float) -> np.ndarray:
        """What the library makes of windows [n, elements]."""
        options = {k: v for k, v in self.options if k != "deterministic"} | {self.field: value}
        return np.asarray(self.pool(windows[..., None], (windows.shape[1],), **options))[:, 0, 0]


def _power_mean(x: np.ndarray, p: float) -> np.ndarray:
    top = np.maximum(x.max(-1, keepdims=True), np.finfo(np.float64).tiny)
    return top[..., 0] * np.mean((x / top) ** p, -1) ** (1 / p)


FAMILIES = {
    "lp": Family(
        "power mean",
        "p",
        jpl.LpPool,
        jaxpool.lp_pool,
        _power_mean,
        (2.0, 3.0, 5.0, 10.0),
        (1.0, float("inf")),
        (1.2, 8.0),
        "raw_p",
        lambda raw: 1 + np.logaddexp(0, raw),
        "p",
        (("normalize", True),),
    ),
    "lse": Family(
        "log-sum-exp",
        "T",
        jpl.LSEPool,
        jaxpool.lse_pool,
        lambda x, t: t * (logsumexp(x / t, -1) - np.log(x.shape[-1])),
        (1.0, 0.3, 0.1, 0.03),
        (1e6, 1e-6),
        (3.0, 0.03),
        "log_temperature",
        np.exp,
        "temperature",
    ),
    "softmax": Family(
        "softmax",
        "T",
        jpl.SoftmaxPool,
        jaxpool.softmax_pool,
        lambda x, t: np.sum(x * softmax(x / t, -1), -1),
        (1.0, 0.3, 0.1, 0.03),
        (1e6, 1e-6),
        (3.0, 0.03),
        "log_temperature",
        np.exp,
        "temperature",
    ),
    "mixed": Family(
        "mixed",
        "alpha",
        jpl.MixedPool,
        jaxpool.mixed_pool,
        lambda x, alpha: alpha * x.max(-1) + (1 - alpha) * x.mean(-1),
        (0.2, 0.4, 0.6, 0.8),
        (0.0, 1.0),
        (0.1, 0.9),
        "logit_alpha",
        expit,
        "alpha",
        (("deterministic", True),),
    ),
}


@dataclass(frozen=True)
class Place:
    """Where a net pools: a family and its value, fixed or the start of learning; or an end."""

    family: str
    value: float
    learned: bool = False


ENDS = ("avg", "max")
PLACES = {
    f"{name}-{'from-' if learned else ''}{value:g}": Place(name, value, learned)
    for name, family in FAMILIES.items()
    for learned, values in ((False, family.values), (True, family.near))
    for value in values
}
VARIANTS = {name: nets.VARIANTS[name] for name in ENDS} | {
    name: FAMILIES[place.family].variant(
        place.value, **({"learn": "layer"} if place.learned else {})
    )
    for name, place in PLACES.items()
}
"""Made once: a compiled step is found again by the identity of its variant."""

SMALL = tuple(
    name
    for name, place in PLACES.items()
    if place.learned or place.value in FAMILIES[place.family].values[:3:2]
)


@dataclass(frozen=True, kw_only=True)
class Config(trained.Config):
    """All that one net and its measurement depend on.

    Positions are measured on `windows` windows of every layer, of the first `probe_images` of the
    training images. What a pooling learns, it learns `pool_rate` times as fast as weights.
    """

    experiment: str = NAME
    size: int
    probe_images: int = 128
    windows: int = 1024
    pool_rate: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Preset(trained.Preset):
    """How large a study is: everything but the variant and the seed."""

    variants: tuple[str, ...] = tuple(VARIANTS)


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
        variants=("avg", "mixed-from-0.1"),
    ),
    "quick": Preset(
        about="about 15 minutes on 2 cores: 2 values of each family, 3 seeds, to the same loss",
        data="mnist5k",
        seeds=3,
        train_images=4000,
        test_images=256,
        epochs=16,
        target_loss=0.4,
        variants=(*ENDS, *SMALL),
    ),
    "full": Preset(
        about="hours on 2 cores: all values, 10 seeds, trained to the same loss",
        data="mnist5k",
        seeds=10,
        train_images=4000,
        test_images=256,
        epochs=16,
        target_loss=0.4,
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


def work(config: Config) -> int:
    """How long a cell takes, in images passed through the net; training counts three times."""
    measured = len(shifts.exhaustive(2 ** len(config.widths))) * config.test_images
    return trained.work(config) + measured


def run(config: Config, tick: trained.Tick) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train and measure one net: arrays to store, and facts about them."""
    split = trained.split(config, config.size)
    net = nets.Net(VARIANTS[config.variant], config.widths, split.classes)
    params, losses = trained.fit(
        config, net, split.train_images, split.train_labels, tick, pool_rate=config.pool_rate
    )
    grid, probe = shifts.exhaustive(net.period), split.train_images[: config.probe_images]
    windows, pooled = features(net, params, probe, config.windows, config.seed)
    none = np.zeros((1, 2), np.int32)
    arrays = {
        "shifts": grid,
        **shifts.measure(net, params, split.test_images, grid, lambda count: tick(count, None)),
        "labels": split.test_labels.astype(np.uint8),
        "images": split.test_index.astype(np.int32),
        "train_predictions": shifts.predictions(net, params, probe, none)[0],
        "train_labels": split.train_labels[: config.probe_images].astype(np.uint8),
        "windows": windows,
        "pooled": pooled,
    }
    if config.variant in PLACES:
        arrays |= _parameters(PLACES[config.variant], params, windows)
    return arrays, {"losses": losses}


def features(
    net: nets.Net, params: Any, images: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Windows that the poolings of a net see, [layers, n, elements], and what they make of them."""
    maps = shifts.layers(net, params, jnp.asarray(images))
    before = [np.asarray(x) for name, x in maps.items() if name.startswith("Conv_")]
    after = [np.asarray(x) for name, x in maps.items() if not name.startswith("Conv_")]
    random = np.random.default_rng([seed, 2])
    windows, pooled = [], []
    for x, y in zip(before, after, strict=True):
        n, height, width, channels = x.shape
        shape = n, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels
        each = np.maximum(x, 0).reshape(shape).transpose(0, 1, 3, 5, 2, 4)
        chosen = random.integers(0, y.size, count)
        windows.append(each.reshape(-1, WINDOW**2)[chosen])
        pooled.append(y.reshape(-1)[chosen])
    return np.stack(windows), np.stack(pooled)


def _parameters(place: Place, params: Any, windows: np.ndarray) -> dict[str, np.ndarray]:
    """The value in every layer, and what the library makes of the windows at the family's ends."""
    family = FAMILIES[place.family]
    values = np.full(len(windows), place.value)
    if place.learned:
        modules = (f"{family.kind.__name__}_{layer}" for layer in range(len(windows)))
        raw = [params["params"][name][family.parameter] for name in modules]
        values = family.read(np.asarray(raw, np.float64))
    ends = [[family.pooled(each, end) for end in family.ends] for each in windows]
    return {"values": values, "ends": np.asarray(ends)}


# ---- the numbers ----


def between(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Average and maximum of the stored windows, [layers, n]."""
    windows = cell.arrays["windows"].astype(np.float64)
    return windows.mean(-1), windows.max(-1)


def positions(cell: Cell) -> np.ndarray:
    """Where each layer pools: 0 at the average, 1 at the maximum; NaN where these are the same."""
    low, high = between(cell)
    way = (high - low).sum(-1)
    gone = (cell.arrays["pooled"] - low).sum(-1)
    return np.divide(gone, way, out=np.full(len(way), np.nan), where=way > 0)


def numbers(cell: Cell) -> dict[str, float]:
    """What a stored cell says, from its raw predictions and features."""
    found = trained.measured(cell).row()
    each = positions(cell)
    values = cell.arrays.get("values", np.full(len(each), np.nan))
    found |= {f"position_{layer + 1}": float(at) for layer, at in enumerate(each)}
    found |= {f"value_{layer + 1}": float(value) for layer, value in enumerate(values)}
    return found | {"position": float(each.mean())}


TOLERANCE = 2e-5
"""Of float32, as a share of the largest element of a layer: log-sum-exp loses some digits."""


def check(cell: Cell) -> list[str]:
    """The exact statements that a stored cell breaks, as sentences; none if all is well."""
    arrays, broken = cell.arrays, []
    pooled, (low, high) = arrays["pooled"].astype(np.float64), between(cell)
    slack = TOLERANCE * np.maximum(arrays["windows"].max((1, 2)), 1)[:, None]
    if not ((low - slack <= pooled) & (pooled <= high + slack)).all():
        broken.append("a pooled value is not between average and max")
    if cell.variant in PLACES:
        ends, law = arrays["ends"], FAMILIES[PLACES[cell.variant].family].law
        for name, end, exact in zip(ENDS, ends.swapaxes(0, 1), (low, high), strict=True):
            if not (np.abs(end - exact) <= slack).all():
                broken.append(f"its family does not end at {name}")
        layers = zip(arrays["windows"].astype(np.float64), arrays["values"], strict=True)
        expected = np.stack([law(x, float(value)) for x, value in layers])
    else:
        expected = dict(zip(ENDS, (low, high), strict=True))[cell.variant]
    if not (np.abs(pooled - expected) <= slack).all():
        broken.append("a pooled value is not that of its formula")
    return broken + trained.unsound(arrays)


# ---- the report ----

COLUMNS = [
    Column(key, title, meaning, show=spread(100))
    for key, title, meaning in (
        ("accuracy", "accuracy", "Test images, unshifted, that are called right."),
        ("train_accuracy", "train", "Training images (the first 128) that are called right."),
        ("reference", "consistency", "Shifted images that are called the same as unshifted."),
        ("position", "position", "From 0, the average, to 100, max; mean of the layers."),
    )
]
LAYERS = 3
LEARNED = [
    *(
        Column(f"value_{n}", f"layer {n}", "The value at the end of training.", show=spread(1, 2))
        for n in range(1, LAYERS + 1)
    ),
    *(
        Column(f"position_{n}", f"position {n}", "From 0, the average, to 100.", show=spread(100))
        for n in range(1, LAYERS + 1)
    ),
]

METHOD = (
    f"{trained.NETS} All borders are circular, and the 64 shifts measured stand for all.",
    "A position is measured on windows of features of the trained net: the sum of pooled minus "
    "average over the sum of max minus average, for each layer, then the mean of the layers. A net "
    "may scale its features and so move along a family whose parameter is a temperature.",
    "A learned parameter is one number for each layer, trained with the weights from two starts. "
    "Adam moves a number by no more than about its rate in a step, so in a short training it is "
    "given ten times the rate of the weights, as the code of Radenovic et al. does. "
    "Where both starts still end near where they were, that is no evidence against a value "
    "between.",
    "Where the optimum lies: seeds are drawn anew from those measured, and that fixed pooling, the "
    "ends included, is taken which is the most accurate on average. Where several are about "
    "equally accurate, the range covers all of them.",
)


def section(found: Sequence[Cell]) -> Section:
    """What a study shows."""
    shown, config = _rows(found), found[0].config
    n = f"{config['test_images']} test images, {seeds_of(found)}"
    sheets = [Sheet("", "The numbers, from average to max", COLUMNS, shown)]
    if learned := [row for row in shown if _is_learned(row.variant)]:
        title = "Learned values at the end of training"
        sheets.append(Sheet("learned", title, LEARNED, learned, unit="value; position in %"))
    return Section(
        question=QUESTION,
        answer=_answer(shown, data.SOURCES[config["data"]].name, n),
        pictures=[_paths(shown, n)],
        sheets=sheets,
        size=f"{n}; {trained.size(config)}. {SPREAD}",
        claims=_claims(shown, found),
        method=(*METHOD, trained.length(found)),
    )


def _is_learned(variant: str) -> bool:
    return variant in PLACES and PLACES[variant].learned


def _rows(found: Sequence[Cell]) -> list[Row]:
    """From average to max."""
    titles = {name: variant.title for name, variant in VARIANTS.items()}
    return sorted(by_variant(found, titles, numbers), key=lambda row: row.values["position"].mean())


def _answer(rows: Sequence[Row], name: str, n: str) -> str:
    """Two sentences, from the numbers: who is most accurate, and how consistency goes along."""

    def said(row: Row, key: str) -> str:
        return f"{100 * row.values[key].mean():.1f} %"

    fixed = [row for row in rows if not _is_learned(row.variant)]
    if not fixed:
        return "Only learned poolings are measured, and there is nothing to compare them with."
    best = max(fixed, key=lambda row: row.values["accuracy"].mean())
    ends = [row for row in fixed if row.variant in ENDS]
    others = ", ".join(f"{row.title} {said(row, 'accuracy')}" for row in ends if row is not best)
    first, last = fixed[0], fixed[-1]
    start = (
        f"On {name}, the most accurate fixed pooling is {best.title} with "
        f"{said(best, 'accuracy')}, {said(best, 'position')} of the way from average to max"
        f"{f' ({others})' if others else ''}; mean over {n}. {_within(fixed)}"
    )
    if first is last:
        return start + "It is the only one measured."
    return start + (
        f"Consistency is {said(first, 'reference')} with {first.title} and "
        f"{said(last, 'reference')} with {last.title}."
    )


def optimum(fixed: Sequence[Row]) -> tuple[float, float] | None:
    """Between which positions the most accurate of these poolings lies, in 95 % of 2,000 draws of
    the seeds; None with too few seeds, or where seeds are missing."""
    seeds = len(fixed[0].seeds)
    if seeds < FEWEST or any(row.seeds != fixed[0].seeds for row in fixed):
        return None
    accuracy, position = (
        np.array([row.values[k] for row in fixed]) for k in ("accuracy", "position")
    )
    drawn = np.random.default_rng(0).integers(0, seeds, (2000, seeds))
    best = accuracy[:, drawn].mean(-1).argmax(0)
    low, high = np.quantile(position.mean(1)[best], [0.025, 0.975])
    return float(low), float(high)


def _within(fixed: Sequence[Row]) -> str:
    """A sentence on where the optimum lies; nothing with too few seeds."""
    if (found := optimum(fixed)) is None:
        return ""
    low, high = found
    return (
        f"Were the seeds drawn anew, the most accurate would lie {100 * low:.0f} to "
        f"{100 * high:.0f} % of the way (95 % of 2,000 draws). "
    )


def _paths(rows: Sequence[Row], n: str) -> Picture:
    def draw(narrow: bool) -> Any:
        from experiments import figures

        ends = [row for row in rows if row.variant in ENDS]
        panels = {}
        for key, title in (("accuracy", "accuracy (%)"), ("reference", "consistency (%)")):
            paths = {}
            for style, (name, family) in enumerate(FAMILIES.items()):
                ours = [row for row in rows if row.variant in PLACES]
                ours = [row for row in ours if PLACES[row.variant].family == name]
                fixed = [row for row in ours if not _is_learned(row.variant)]
                learned = [row for row in ours if _is_learned(row.variant)]
                if ours:
                    line = sorted(ends + fixed, key=lambda row: row.values["position"].mean())
                    points = [_group(row, key, style) for row in line]
                    stars = [_group(row, key, style) for row in learned]
                    paths[family.title] = figures.Path(points, stars)
            panels[title] = paths
        x = "position (%): 0 is the average, 100 is max"
        return figures.paths(panels, x, narrow=narrow)

    few = thin(len(rows[0].values["accuracy"]))
    return Picture(
        "paths",
        "Accuracy and consistency from average to max",
        "Lines lead through the means of fixed values, from average to max; hollow marks are "
        f"learned values. Thin: {few}. {n}.",
        draw,
        f"accuracy {extremes(means(rows, 'accuracy'))}, consistency "
        f"{extremes(means(rows, 'reference'))}.",
    )


def _group(row: Row, key: str, style: int) -> Any:
    from experiments import figures

    return figures.Group(
        row.title, 100 * row.values["position"], 100 * row.values[key], style=style
    )


def _claims(rows: Sequence[Row], found: Sequence[Cell]) -> list[Claim]:
    """What the header expects, and what is stored."""
    by = {row.variant: row for row in rows}
    broken = sum(bool(check(cell)) for cell in found)
    claims = [
        Claim(
            "Average <= pooled <= max, by the formula, with average and max at the ends",
            f"broken in {broken} of {len(found)} nets.",
            not broken,
            "exact for features >= 0",
        )
    ]
    if all(end in by for end in ENDS):
        claims += _inner(rows, found)
    powers = [row for row in rows if _is_learned(row.variant) and row.variant.startswith("lp-")]
    if powers:
        values = np.array(
            [row.values[f"value_{n}"] for row in powers for n in range(1, LAYERS + 1)]
        )
        means = values.mean(-1)
        claims.append(
            Claim(
                "A learned p ends between 2 and 4",
                f"at {means.min():.2f} to {means.max():.2f}, from layer to layer and start to "
                f"start; {((values > 2) & (values < 4)).sum()} of {values.size} are between.",
                bool((means > 2).all() and (means < 4).all()),
                "Gulcehre et al. 2014; Radenovic et al. 2018",
            )
        )
    return claims


def _inner(rows: Sequence[Row], found: Sequence[Cell]) -> list[Claim]:
    """Accuracy and consistency between the ends, against the ends."""
    fixed = [row for row in rows if row.variant in PLACES and not _is_learned(row.variant)]
    if not fixed:
        return []
    ends = [row for row in rows if row.variant in ENDS]
    end = max(ends, key=lambda row: row.values["accuracy"].mean())
    best = max(fixed, key=lambda row: row.values["accuracy"].mean())
    accuracies = {row.variant: row.by_seed("accuracy") for row in [end, *fixed]}
    gained = stats.against(accuracies, end.variant)[best.variant]
    tested = f"; p = {gained.adjusted:.2g}, corrected for all {len(fixed)}" if gained.p else ""
    claims = [
        Claim(
            "The most accurate fixed value is between average and max",
            f"{best.title}, the best of {len(fixed)}: {_gain(best, end)} points against "
            f"{end.variant}, the better end{tested}.",
            gained.higher,
            "Boureau et al. 2010",
        )
    ]
    if mixed := [row for row in rows if row.variant.startswith("mixed-")]:
        accuracies = {row.variant: row.by_seed("accuracy") for row in [end, *mixed]}
        gains = stats.against(accuracies, end.variant)
        each = ", ".join(f"{_gain(row, end)} with {_alpha(row)}" for row in mixed)
        claims.append(
            Claim(
                "Mixed pooling is more accurate than either end",
                f"{each}, in points against {end.variant}, the better end.",
                stats.every(gain.higher for gain in gains.values()),
                "Lee, Gallagher, Tu 2016",
            )
        )
    all_fixed = {row.variant for row in [*ends, *fixed]}
    nets = {seed: [c for c in found if c.seed == seed] for seed in {c.seed for c in found}}
    whole = [of for of in nets.values() if all_fixed <= {cell.variant for cell in of}]
    ranks = list(map(_rank, whole))
    if not ranks:
        return claims
    claims.append(
        Claim(
            "The nearer to max, the less consistent (rank correlation below 0), on every seed",
            f"on {sum(rank < 0 for rank in ranks)} of {len(ranks)}; rank correlation of position "
            f"and consistency {min(ranks):.2f} to {max(ranks):.2f}, over {len(all_fixed)} fixed "
            "poolings.",
            max(ranks) < 0,
            "Azulay and Weiss 2019",
        )
    )
    return claims


def _gain(row: Row, end: Row) -> str:
    """By how much it is more accurate than an end."""
    return interval(paired(row.by_seed("accuracy"), end.by_seed("accuracy")))


def _alpha(row: Row) -> str:
    place = PLACES[row.variant]
    return f"alpha {'learned from' if place.learned else '='} {place.value:g}"


def _rank(found: Sequence[Cell]) -> float:
    """Spearman's correlation of position and consistency over fixed poolings; 0 where all agree."""
    each = [numbers(cell) for cell in found if not _is_learned(cell.variant)]
    x, y = (np.array([row[key] for row in each]) for key in ("position", "reference"))
    if len(each) < 2 or not np.ptp(x) or not np.ptp(y):
        return 0.0
    return float(spearmanr(x, y).statistic)
