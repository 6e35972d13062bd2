"""When is max pooling better than average pooling?

Command:  python -m experiments run separability
Time:     under 1 minute on 2 cores
Result:   how well two classes are told apart by one pooled feature, over the number P of pooled
          elements, measured and in closed form; the P at which each pooling is best

The model of Boureau, Ponce, LeCun, "A theoretical analysis of feature pooling in visual
recognition", 2010: a feature is 1 or 0 at each of P places, independently, and 1 with probability a
in one class, b in the other. Pooling makes one number of the P. How far apart its means are, in
units of its spread, is how well it tells the classes apart:

    separability = |m(a) - m(b)| / (s(a) + s(b))

Every pooling here depends on the P elements through the number K of ones alone, K is binomial, and
so mean and spread are finite sums: for the average m = a and s^2 = a(1 - a)/P, for the maximum
m = 1 - (1 - a)^P and s^2 = m(1 - m). The library pools features that were drawn, and is held to
these sums.

Expected:

- The separability of the average grows as sqrt(P), without end: it estimates a. That of the maximum
  rises and falls: once P is large enough, both classes have a 1 somewhere.
- So dense features want the average. Max is better where a feature is rare in one class and hardly
  ever seen in the other, for some P between 1/a and 1/b (the paper, section 2).
- Lp, log-sum-exp, softmax and mixed pooling lie between. Stochastic pooling in testing is max here:
  its weights are the elements themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from experiments import config as configs
from experiments.poolings import POOLINGS
from experiments.report import Claim, Column, Picture, Row, Section, Sheet, of_variant, seeds_of
from experiments.store import Cell

NAME = "separability"
QUESTION = "When is max pooling better than average pooling?"

FEATURES = {"dense": (0.4, 0.2), "sparse": (0.01, 0.005), "rare": (0.01, 0.0001)}
"""The probability of a 1 in the two classes."""

Law = Callable[[np.ndarray, int], np.ndarray]


def _power(p: float) -> Law:
    return lambda k, n: (k / n) ** (1 / p)


def _lse(temperature: float) -> Law:
    return lambda k, n: temperature * np.log1p(np.expm1(1 / temperature) * k / n)


def _softmax(temperature: float) -> Law:
    return lambda k, n: k / (k + (n - k) * np.exp(-1 / temperature))


LAWS: dict[str, Law] = {
    "max": lambda k, n: np.sign(k),
    "avg": lambda k, n: k / n,
    "min": lambda k, n: k // n,
    "l2": _power(2),
    "l3": _power(3),
    "gem": _power(3),
    "lse": _lse(1),
    "lse_cold": _lse(0.1),
    "softmax": _softmax(1),
    "softmax_cold": _softmax(0.1),
    "mixed": lambda k, n: (np.sign(k) + k / n) / 2,
    "stochastic": lambda k, n: np.sign(k),
}
"""What each pooling makes of k ones among n elements, the rest of which are 0."""

VARIANTS = [name for name in POOLINGS if name in LAWS]
TWO_VALUED = ("max", "min", "stochastic")


@dataclass(frozen=True, kw_only=True)
class Config(configs.Config):
    """All that one measurement depends on.

    Of windows of each of these sides as many are drawn as hold `elements` together, but no more
    than `windows`.
    """

    experiment: str = NAME
    elements: int
    windows: int = 2**15
    sides: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45)
    features: tuple[tuple[float, float], ...] = tuple(FEATURES.values())


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How much to draw."""

    about: str
    elements: int
    seeds: int = 1
    sides: tuple[int, ...] = Config.sides
    variants: tuple[str, ...] = tuple(VARIANTS)


PRESETS = {
    "smoke": Preset(
        about="seconds: does everything run?",
        elements=2**16,
        sides=(1, 4, 16),
        variants=("max", "avg", "l3", "stochastic"),
    ),
    "quick": Preset(about="under 1 minute on 2 cores", elements=2**20),
    "full": Preset(about="10 seeds of four times as much, 15 minutes", elements=2**22, seeds=10),
}


def cells(
    preset: str,
    data_name: str | None = None,
    seeds: int | None = None,
    variants: Sequence[str] = (),
) -> list[Config]:
    """One cell for each pooling and seed; one seed draws the same features for all poolings."""
    chosen = PRESETS[configs.choose("preset", preset, PRESETS)]
    name = configs.choose("data", data_name or "bernoulli", ["bernoulli"])
    return configs.cells(Config, chosen, VARIANTS, data=name, seeds=seeds, variants=variants)


# ---- what is drawn ----


def work(config: Config) -> int:
    """Sides to pool at."""
    return len(config.sides)


def run(config: Config, tick: Callable[[int, float | None], None]) -> tuple[dict, dict]:
    """Draw and pool: for each side pooled values and numbers of ones, [windows, features, classes].

    All poolings see the same draws.
    """
    chances, arrays = np.asarray(config.features, np.float32), {}
    for side in config.sides:
        windows = min(config.elements // side**2, config.windows)
        random = np.random.default_rng([config.seed, side])
        drawn = random.random((windows, side, side, chances.size), np.float32)
        x = (drawn < chances.ravel()).astype(np.float32)
        shape = (windows, *chances.shape)
        arrays[f"values_{side}"] = np.asarray(_pooled(config.variant, side, x)).reshape(shape)
        arrays[f"ones_{side}"] = x.sum((1, 2)).astype(np.uint16).reshape(shape)
        tick(1, None)
    return arrays, {}


@partial(jax.jit, static_argnums=(0, 1))
def _pooled(variant: str, side: int, x: jax.Array) -> jax.Array:
    return POOLINGS[variant].pool(x, side, side, "VALID")


# ---- the closed form ----


@dataclass(frozen=True)
class Moments:
    """Of a pooled feature: mean, standard deviation, and the fourth moment about the mean."""

    mean: float
    spread: float
    fourth: float


@cache
def moments(variant: str, n: int, chance: float) -> Moments:
    """The moments of a pooling of n elements that are 1 with this chance.

    They are sums over the number of ones: mean = sum_k C(n, k) a^k (1 - a)^(n - k) f(k, n).
    """
    weight, value = _binomial(n, chance), LAWS[variant](np.arange(n + 1), n)
    mean = float(weight @ value)
    square, fourth = (float(weight @ (value - mean) ** power) for power in (2, 4))
    return Moments(mean, square**0.5, fourth)


RESOLUTION = 1e-6
"""Of float32 at values up to 1: a smaller spread is rounding."""


@cache
def _binomial(n: int, chance: float) -> np.ndarray:
    from scipy.stats import binom

    return binom.pmf(np.arange(n + 1), n, chance)


def separability(one: Moments, other: Moments) -> float:
    """|m1 - m2| / (s1 + s2); 0 where nothing varies, since then both classes look alike."""
    spread = one.spread + other.spread
    return abs(one.mean - other.mean) / spread if spread > RESOLUTION else 0.0


def law(variant: str, n: int, feature: tuple[float, float]) -> float:
    """The separability of a feature, pooled over n elements."""
    one, other = (moments(variant, n, chance) for chance in feature)
    return separability(one, other)


def farthest(feature: tuple[float, float]) -> float:
    """The P at which the means of max are farthest apart: where P -> (1-b)^P - (1-a)^P is flat."""
    one, other = (np.log1p(-chance) for chance in feature)
    return float(np.log(one / other) / (other - one))


SIZES = np.unique(np.geomspace(1, 4096, 120).astype(int))
"""The numbers of elements at which the closed form is drawn and its best is sought."""


def best(variant: str, feature: tuple[float, float]) -> int:
    """The P of the largest separability, up to 4,096."""
    return int(max(SIZES, key=lambda n: law(variant, int(n), feature)))


# ---- the numbers ----


def seen(values: np.ndarray) -> Moments:
    """The moments of what was drawn."""
    exact = values.astype(np.float64)
    mean = exact.mean()
    return Moments(float(mean), float(exact.std()), float(((exact - mean) ** 4).mean()))


def measured(cell: Cell) -> np.ndarray:
    """The separability that was measured, [sides, features]."""
    sides = [cell.arrays[f"values_{side}"] for side in cell.config["sides"]]
    return np.array([[_between(pair.T) for pair in values.swapaxes(0, 1)] for values in sides])


def _between(pair: np.ndarray) -> float:
    one, other = map(seen, pair)
    return separability(one, other)


def check(cell: Cell) -> list[str]:
    """What a stored cell breaks: each value, mean and spread is that of the closed form."""
    return [
        sentence
        for side in cell.config["sides"]
        for sentence in _check(cell, side**2, *(cell.arrays[f"{of}_{side}"] for of in READ))
    ]


READ = ("values", "ones")


def _check(cell: Cell, n: int, values: np.ndarray, ones: np.ndarray) -> list[str]:
    """What the windows of n elements break."""
    broken = []
    wrong = np.abs(values - LAWS[cell.variant](ones.astype(int), n)).max()
    if not wrong <= TOLERANCE:
        broken.append(f"a value at P={n} is {wrong:.1g} off that of as many ones")
    for feature, drawn in zip(cell.config["features"], values.swapaxes(0, 1), strict=True):
        for chance, value in zip(feature, drawn.T, strict=True):
            if not _is_of(value.astype(float), moments(cell.variant, n, chance), cell.variant):
                broken.append(
                    f"mean and spread at P={n}, where a 1 has probability {chance}, are more than "
                    "4 standard errors off the closed form"
                )
    return broken


TOLERANCE = 1e-5
"""Of float32 at values up to 1; cube roots and logarithms at T = 0.1 lose some digits."""
BEYOND = 6.3e-5
"""What a normal distribution has beyond 4 standard errors."""


def _is_of(values: np.ndarray, expected: Moments, variant: str) -> bool:
    """Whether these were drawn from what is expected, at 4 standard errors."""
    n = len(values)
    if variant in TWO_VALUED:  # a count, so Clopper and Pearson's interval says all
        from experiments.stats import clopper_pearson

        low, high = clopper_pearson(round(values.sum()), n, 1 - BEYOND)
        return bool(low - TOLERANCE <= expected.mean <= high + TOLERANCE)
    square = expected.spread**2
    apart = (values - expected.mean) ** 2
    return _near(values.mean(), expected.mean, expected.spread, n) and _near(
        apart.mean(), square, max(expected.fourth - square**2, 0) ** 0.5, n
    )


def _near(mean: float, expected: float, spread: float, n: int) -> bool:
    """4 standard errors, and what Bernstein's inequality adds to them for values within 0 to 1.

    The central limit theorem alone is too strict on a mean that few rare values decide.
    """
    return bool(abs(mean - expected) <= 4 * spread / n**0.5 + 8 / (3 * n) + TOLERANCE)


# ---- the report ----


def _plain(values: np.ndarray) -> str:
    return f"{np.mean(values):.2f}"


def _count(values: np.ndarray) -> str:
    return f"{np.mean(values):,.0f}"


def _columns(sizes: Sequence[int]) -> list[Column]:
    return [
        *(
            Column(
                f"P={n}",
                f"P = {n:,}",
                f"Separability of {n:,} pooled elements, measured.",
                show=_plain,
            )
            for n in sizes
        ),
        Column(
            "best_size",
            "best P",
            f"The number of pooled elements, up to {SIZES[-1]:,}, with the largest separability in "
            "closed form.",
            show=_count,
        ),
        Column("best", "best", "The separability there, in closed form.", show=_plain),
    ]


METHOD = (
    "A feature is 1 or 0 at each of P places, independently. In dense features it is 1 with "
    "probability 0.4 in one class and 0.2 in the other, in sparse ones 0.01 and 0.005, in rare "
    "ones 0.01 and 0.0001. Windows of P elements are drawn and pooled by the library, the same "
    "ones for every pooling.",
    "Separability is the distance of the means of the two classes over the sum of their standard "
    "deviations. Each mean and each standard deviation is compared with the closed form, a sum "
    "over the binomial number of ones: within 4 standard errors and 8/3 of a window, which rare "
    "values need (Bernstein's inequality), for poolings that give 0 or 1 "
    "within the interval of Clopper and Pearson at the same level. And each pooled value is "
    "compared with what the formula gives for its number of ones.",
    "The model has limits: places are independent, and the two probabilities are known constants. "
    "Neighbours in an image are alike, so an average over them gains less than the square root. "
    "And a closed form counts what is too rare to be drawn: a softmax at T = 0.1 is 0 in a window "
    "without a 1 and nearly 1 in all others, so one such window in a million decides its spread.",
)


def section(found: Sequence[Cell]) -> Section:
    """A table and a panel for each kind of feature."""
    config = found[0].config
    sizes = [side**2 for side in config["sides"]]
    rows = {name: _rows(found, sizes, i) for i, name in enumerate(FEATURES)}
    titles = {
        name: f"{name.capitalize()} features, {a} and {b}" for name, (a, b) in FEATURES.items()
    }
    return Section(
        question=QUESTION,
        answer=_answer(),
        pictures=[_lines(found, sizes, titles)],
        sheets=[
            Sheet(name, titles[name], _columns(sizes), rows[name], unit="separability")
            for name in FEATURES
        ],
        size=f"For each P and class windows of {config['elements']:,} elements together, but at "
        f"most {config['windows']:,} of them; {seeds_of(found)}.",
        claims=_claims(found, sizes),
        method=METHOD,
    )


def _rows(found: Sequence[Cell], sizes: Sequence[int], feature: int) -> list[Row]:
    pair = list(FEATURES.values())[feature]
    rows = []
    for variant in VARIANTS:
        cells = of_variant(found, variant)
        of = [measured(cell)[:, feature] for cell in cells]
        if of:
            at = best(variant, pair)
            values = {f"P={n}": column for n, column in zip(sizes, np.transpose(of), strict=True)}
            values["best_size"] = np.full(len(of), at)
            values["best"] = np.full(len(of), law(variant, at, pair))
            rows.append(Row(variant, POOLINGS[variant].title, values, [c.seed for c in cells]))
    return rows


def _ahead(feature: tuple[float, float]) -> np.ndarray:
    """The numbers of elements at which max tells the classes apart better than the average."""
    n, rates = np.arange(1, SIZES[-1] + 1), np.array(feature)[:, None]
    seen = -np.expm1(n * np.log1p(-rates))  # the probability of a 1
    spread = np.sqrt(seen * (1 - seen)).sum(0)  # 0 where both classes have a 1 for sure
    top = np.divide(abs(np.subtract(*seen)), spread, out=np.zeros(n.shape), where=spread > 0)
    mean = abs(np.subtract(*rates)) / np.sqrt(rates * (1 - rates) / n).sum(0)
    return n[top > mean * (1 + 1e-9)]  # at P = 1 both are the same


def _answer() -> str:
    """A sentence for each kind of feature, from the closed form."""
    return "In closed form, " + "; ".join(map(_verdict, FEATURES)) + "."


def _verdict(name: str) -> str:
    """Who is better, and where."""
    feature = FEATURES[name]
    ahead, at = _ahead(feature), best("max", feature)
    of = f"{name} features ({feature[0]} in one class, {feature[1]} in the other)"
    if not ahead.size:
        return f"{of} are never told apart better by max than by the average"
    return (
        f"{of} are told apart better by max for {ahead[0]:,} to {ahead[-1]:,} pooled elements: its "
        f"separability is {law('max', at, feature):.1f} at P = {at:,}, its best, against "
        f"{law('avg', at, feature):.1f} of the average"
    )


def _claims(found: Sequence[Cell], sizes: Sequence[int]) -> list[Claim]:
    """What the header expects, and what is stored."""
    by = {name: [measured(c) for c in found if c.variant == name] for name in VARIANTS}
    broken = [sentence for cell in found for sentence in check(cell)]
    held = len(found) * len(sizes) * 2 * len(FEATURES)
    claims = [
        Claim(
            "Mean and spread of every pooled feature are those of the closed form",
            f"{held - len(broken):,} of {held:,} as near as chance allows.",
            not broken,
            "Boureau, Ponce, LeCun 2010, section 2, for max and average",
        )
    ]
    if by["max"] and by["avg"]:
        top, mean = (np.mean(by[name], axis=0) for name in ("max", "avg"))
        claims += [_growth(mean, sizes), *_winners(top, mean, sizes)]
    pairs = [
        [measured(c) for c in found if c.seed == seed and c.variant in ("stochastic", "max")]
        for seed in {cell.seed for cell in found}
    ]
    if pairs := [pair for pair in pairs if len(pair) == 2]:
        same = all(np.allclose(one, other) for one, other in pairs)
        claims.append(
            Claim(
                "Stochastic pooling in testing is max on features of 0 and 1",
                "the same numbers." if same else "other numbers.",
                same,
                "sum of a*a / sum of a, Zeiler and Fergus 2013",
            )
        )
    return claims


def _growth(mean: np.ndarray, sizes: Sequence[int]) -> Claim:
    """The slope of the average's separability, fitted where a class of rare features is seen."""
    slopes = [np.polyfit(np.log(sizes[-4:]), np.log(column[-4:]), 1)[0] for column in mean.T]
    return Claim(
        "The separability of the average grows as the square root of P",
        f"as P to the power {', '.join(f'{slope:.2f}' for slope in slopes)} "
        f"({', '.join(FEATURES)}; P from {sizes[-4:][0]:,}).",
        all(abs(slope - 0.5) < 0.05 for slope in slopes),
        "standard deviation of a mean",
    )


def _winners(top: np.ndarray, mean: np.ndarray, sizes: Sequence[int]) -> list[Claim]:
    """Who is ahead: of P = 1, where all are the same, nothing is said."""
    dense, _, rare = (column[1:] for column in (top / mean).T)
    a, b = FEATURES["rare"]
    inside = np.array([1 / a < n < 1 / b for n in sizes[1:]])
    source = "Boureau, Ponce, LeCun 2010, section 2"
    top_at = sizes[int(np.argmax(top[:, 2]))]
    return [
        Claim(
            "Dense features: the average is better at every P > 1",
            f"max has {100 * dense.max():.0f} % of its separability, at most.",
            bool((dense < 1).all()),
            source,
        ),
        Claim(
            f"Rare features: max is better for some P between 1/{a} and 1/{b}",
            "it has "
            + ", ".join(
                f"{100 * ratio:.0f} % at P = {n:,}"
                for n, ratio in zip(np.array(sizes[1:])[inside], rare[inside], strict=True)
            )
            + " of the average's separability.",
            bool((rare[inside] > 1).any()),
            source,
        ),
        Claim(
            f"Rare features: max is best between P = 1/{a} and 1/{b}",
            f"measured, at P = {top_at:,}; in closed form, at {best('max', (a, b)):,}; its means "
            f"are farthest apart at {farthest((a, b)):,.0f}.",
            bool(1 / a <= top_at <= 1 / b),
            source,
        ),
    ]


PICTURED = ("avg", "max", "min", "l3", "lse_cold", "softmax_cold", "mixed")


def _lines(found: Sequence[Cell], sizes: Sequence[int], titles: dict[str, str]) -> Picture:
    means = {
        variant: np.mean([measured(c) for c in found if c.variant == variant], axis=0)
        for variant in PICTURED
        if any(cell.variant == variant for cell in found)
    }
    least = 0.02

    def draw(narrow: bool) -> Any:
        from experiments import figures

        panels = {
            titles[name]: {
                POOLINGS[variant].title: figures.Curve(
                    line=(SIZES, [law(variant, int(n), pair) for n in SIZES]),
                    dots=(sizes, mean[:, i]),
                    style=PICTURED.index(variant),
                )
                for variant, mean in means.items()
            }
            for i, (name, pair) in enumerate(FEATURES.items())
        }
        return figures.curves(
            panels, "pooled elements P", "separability", least=least, log_x=True, narrow=narrow
        )

    return Picture(
        "curves",
        "How well two classes are told apart, over the number of pooled elements",
        "Lines: closed form; dots: measured. The two numbers are the probabilities of a 1 in the "
        f"two classes. Both axes are logarithmic; what is below {least} is not shown.",
        draw,
    )
