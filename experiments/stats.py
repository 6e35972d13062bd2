"""What can be said from a few seeds, and from counts that are nearly all or nothing.

The unit is a *paired seed*: with one seed, all variants start from the same parameters and see the
same images in the same order. So variants are compared seed by seed.

- Mean, standard deviation, and a 95 % bootstrap interval of the mean over seeds.
- A paired difference is tested by flipping signs: were both variants alike, each seed's difference
  could as well have had the other sign. All 2^n flips are looked at, so p is exact, and never
  below 2^(1-n). Several tests are corrected by Holm's method.
- The interval is the expanded percentile interval of Hesterberg, "What teachers should know about
  the bootstrap", 2015. Resampled means of a few values are too close together, and so the plain
  percentiles, which cover the mean of six normal values in 86 % of the cases and of ten in 91, are
  moved outwards by as much as Student's t asks for: 94 and 95 %. Skewed values are covered less
  often, exponential ones in 89 and 90 %.
- With fewer than FEWEST seeds there is neither interval nor test. A test of five cannot reach
  p = 0.05.
- A share of 0 or 1 has no spread over seeds. It is said as failures, k of n, with the exact
  interval of Clopper and Pearson. What is counted must be independent: images, not images times
  shifts.
- In a factorial design, the share of the variance that each factor explains (eta squared).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.stats import binomtest, bootstrap, norm, t

FEWEST, MOST = 6, 24
"""Seeds that a test needs, and seeds whose sign flips can all be looked at."""


@dataclass(frozen=True)
class Summary:
    """Over n seeds; the interval is None where there are too few, and `why` says so."""

    n: int
    mean: float
    sd: float
    interval: tuple[float, float] | None
    why: str


@dataclass(frozen=True)
class Difference(Summary):
    """Of paired seeds; `p` of the sign-flip test, and `adjusted` for all tests of a family."""

    p: float | None
    adjusted: float | None

    @property
    def higher(self) -> bool:
        """Whether ours is higher, by more than chance where that could be tested."""
        return self.mean > 0 and self._told

    @property
    def lower(self) -> bool:
        """Whether ours is lower, by more than chance where that could be tested."""
        return self.mean < 0 and self._told

    @property
    def _told(self) -> bool:
        return self.adjusted is None or self.adjusted <= 0.05


@dataclass(frozen=True)
class Share:
    """A share between 0 and 1, and its interval, if there is one."""

    share: float
    interval: tuple[float, float] | None


def _why(n: int) -> str:
    """Why n seeds allow neither test nor interval; nothing if they do."""
    if n < FEWEST:
        return f"{n} seed{'s' * (n != 1)} of at least {FEWEST} that an interval or a test needs"
    return ""


def summary(values: Sequence[float] | np.ndarray) -> Summary:
    """Describe one value per seed. What is not finite counts as not measured."""
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if not x.size:
        return Summary(0, np.nan, np.nan, None, _why(0))
    sd = float(x.std(ddof=1)) if x.size > 1 else np.nan
    why = _why(x.size)
    return Summary(x.size, float(x.mean()), sd, None if why else _interval(x), why)


def tail(n: int) -> float:
    """The share of the resamples of n values that lies beyond either end of a 95 % interval.

    Normal values resampled spread by sqrt((n - 1) / n) of the standard error, and t(n - 1) of these
    are asked for.
    """
    return float(norm.cdf(t.ppf(0.025, n - 1) * (n / (n - 1)) ** 0.5))


def _interval(x: np.ndarray) -> tuple[float, float]:
    inside, random = 1 - 2 * tail(x.size), np.random.default_rng(0)
    found = bootstrap((x,), np.mean, method="percentile", confidence_level=inside, rng=random)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def sign_flip(differences: Sequence[float] | np.ndarray) -> float:
    """The exact two-sided p: the share of all sign flips whose sum is at least as far from 0."""
    x = np.asarray(differences, np.float64)
    sums = x[:1]  # the first sign stays: a flip of all signs is as far from 0
    for value in x[1:]:
        sums = np.concatenate([sums + value, sums - value])
    rounding = 1e-9 * np.abs(x).sum()
    return float(np.mean(np.abs(sums) >= abs(x.sum()) - rounding))


def p_value(differences: np.ndarray, tests: int = 1) -> float | None:
    """The p of the sign flips of paired differences, one of so many tests.

    None where the least p that so few seeds can have, after Holm's correction, is above 0.05, and
    where there are too few seeds for any test, or too many for this one.
    """
    n = len(differences)
    possible = FEWEST <= n <= MOST and tests * 2.0 ** (1 - n) <= 0.05
    return sign_flip(differences) if possible else None


def paired(ours: Mapping[int, float], base: Mapping[int, float]) -> np.ndarray:
    """Ours minus base, of each seed that both have."""
    return np.array([ours[seed] - base[seed] for seed in sorted(ours.keys() & base.keys())])


def difference(ours: Mapping[int, float], base: Mapping[int, float]) -> Difference:
    """Ours minus base, over the seeds that both have."""
    pairs = paired(ours, base)
    pairs = pairs[np.isfinite(pairs)]
    found = summary(pairs)
    why = found.why or (f"{found.n} seeds: more than {MOST}" if found.n > MOST else "")
    p = p_value(pairs)
    return Difference(found.n, found.mean, found.sd, found.interval, why, p, p)


def holm(p: Mapping[str, float | None]) -> dict[str, float | None]:
    """Correct the p values of several tests; what was not tested does not count as one."""
    tested = sorted((value, name) for name, value in p.items() if value is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p)
    least = 0.0
    for rank, (value, name) in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - rank) * value))
        adjusted[name] = least
    return adjusted


def corrected(found: Mapping[str, Difference]) -> dict[str, Difference]:
    """A family of differences, whose p are corrected by Holm's method."""
    adjusted = holm({name: each.p for name, each in found.items()})
    return {name: replace(each, adjusted=adjusted[name]) for name, each in found.items()}


def against(values: Mapping[str, Mapping[int, float]], base: str = "max") -> dict[str, Difference]:
    """Compare every variant with one of them, corrected by Holm's method.

    Args:
      values: variant -> seed -> value.
      base: the variant that the others are compared with.
    """
    return corrected(
        {name: difference(x, values[base]) for name, x in values.items() if name != base}
    )


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share of which k of n independent trials were seen."""
    bounds = binomtest(k, n).proportion_ci(confidence, method="exact")
    return float(bounds.low), float(bounds.high)


def variance_shares(
    values: np.ndarray, factors: Sequence[str], resamples: int = 5000
) -> dict[str, Share]:
    """Eta squared of every factor and interaction, of the seeds, and of the rest.

    Args:
      values: one axis for each factor, and a last one for the seeds, all combinations measured.
      factors: the names of the axes but the last; an interaction is called "a x b".
      resamples: how often the seeds are drawn anew for the 95 % intervals.
    """
    seeds = values.shape[-1]
    shares = _shares(values[None], factors)
    if seeds < FEWEST:
        return {name: Share(float(share[0]), None) for name, share in shares.items()}
    drawn = np.random.default_rng(0).integers(0, seeds, (resamples, seeds))
    again = _shares(np.moveaxis(values[..., drawn], -2, 0), factors)
    beyond = tail(seeds)
    ends = {name: np.quantile(share, [beyond, 1 - beyond]) for name, share in again.items()}
    return {
        name: Share(float(share[0]), (float(ends[name][0]), float(ends[name][1])))
        for name, share in shares.items()
    }


def _shares(values: np.ndarray, factors: Sequence[str]) -> dict[str, np.ndarray]:
    """The same for a batch of designs, along the first axis.

    The effect of a set of factors is what its means add to those of all smaller sets.
    """
    axes = tuple(range(1, values.ndim))

    def mean(kept: tuple[int, ...]) -> np.ndarray:
        return values.mean(axis=tuple(a for a in axes if a not in kept), keepdims=True)

    def square(effect: np.ndarray) -> np.ndarray:
        return np.square(np.broadcast_to(effect, values.shape)).mean(axis=axes)

    def effect(kept: tuple[int, ...]) -> np.ndarray:
        smaller = (part for n in range(len(kept)) for part in combinations(kept, n))
        return mean(kept) - sum(effect(part) for part in smaller)

    whole = square(values - mean(()))
    sets = (kept for n in range(1, len(axes)) for kept in combinations(axes[:-1], n))
    names = {" x ".join(factors[axis - 1] for axis in kept): kept for kept in sets}
    names["seed"] = axes[-1:]
    shares = {
        name: np.divide(square(effect(kept)), whole, out=np.zeros_like(whole), where=whole > 0)
        for name, kept in names.items()
    }
    rest = np.where(whole > 0, 1 - np.sum(list(shares.values()), axis=0), 0)
    return shares | {"rest": np.maximum(rest, 0)}
