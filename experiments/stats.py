"""What can be said from a few seeds, and from counts that are nearly all or nothing.

The unit is a *paired seed*: with one seed, all variants start from the same parameters and see the
same images in the same order. So variants are compared seed by seed.

- Mean, standard deviation, and a 95 % bootstrap interval of the mean over seeds.
- A paired difference is tested by flipping signs: were both variants alike, each seed's difference
  could as well have had the other sign. All 2^n flips are looked at, so p is exact, and never
  below 2^(1-n). Several tests are corrected by Holm's method.
- The interval is the expanded percentile interval of Hesterberg, "What teachers should know about
  the bootstrap", 2015. Resampled means of a few values are too close together, and so the plain
  percentiles, which cover too rarely, are moved outwards by as much as Student's t asks for: they
  cover the mean of six normal values in 94 % of the cases, of ten in 95. (Tests draw such values.)
  The mean of skewed ones is covered less often.
- With fewer than FEWEST seeds there is neither interval nor test. A test of five cannot reach
  p = 0.05.
- A share of 0 or 1 has no spread over seeds. It is said as failures, k of n, with the exact
  interval of Clopper and Pearson. What is counted must be independent: images, not images times
  shifts.
- In a factorial design, the share of the variance that each factor explains (eta squared), by the
  jackknife over seeds: less its bias, with an interval of Student's t. (Seeds drawn anew repeat
  each other, and make the rest too small.)
- What is tested and not told from chance is no evidence of the contrary: a verdict is then open,
  None, and so it is where there are too few seeds for the tests of a family.
"""

from collections.abc import Iterable, Mapping, Sequence
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
    def higher(self) -> bool | None:
        """Whether ours is higher, or lower, by more than chance; None where that is open."""
        return None if self.adjusted is None or self.adjusted > 0.05 else self.mean > 0

    @property
    def lower(self) -> bool | None:
        """The contrary of `higher`, or open as well."""
        return None if self.higher is None else not self.higher


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all are true: false if one is, and open if one is and none is false."""
    found = list(verdicts)
    return False if False in found else None if None in found else True


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


def is_testable(n: int, tests: int = 1) -> bool:
    """Whether n seeds can tell something from chance, in one of so many tests: not where the least
    p that they can have is above 0.05 after Holm's correction, nor where there are too few for any
    test or too many for this one."""
    return FEWEST <= n <= MOST and tests * 2.0 ** (1 - n) <= 0.05


def p_value(differences: np.ndarray, tests: int = 1) -> float | None:
    """The p of the sign flips of paired differences, one of so many tests; None where there is
    nothing to test."""
    return sign_flip(differences) if is_testable(len(differences), tests) else None


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
    """A family of differences, whose p are corrected by Holm's method: None where there are too few
    seeds for so many tests."""
    tests = len(found)
    p = {name: each.p if is_testable(each.n, tests) else None for name, each in found.items()}
    adjusted = holm(p)
    return {name: replace(each, p=p[name], adjusted=adjusted[name]) for name, each in found.items()}


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


def variance_shares(values: np.ndarray, factors: Sequence[str]) -> dict[str, Share]:
    """Eta squared of every factor and interaction, of the seeds, and of the rest.

    Args:
      values: one axis for each factor, and a last one for the seeds, all combinations measured.
      factors: the names of the axes but the last; an interaction is called "a x b".
    """
    n = values.shape[-1]
    shares = {name: float(share[0]) for name, share in _shares(values[None], factors).items()}
    if n < FEWEST:
        return {name: Share(share, None) for name, share in shares.items()}
    without = _shares(np.stack([np.delete(values, seed, -1) for seed in range(n)]), factors)
    return {name: _jackknife(share, without[name]) for name, share in shares.items()}


def _jackknife(whole: float, without: np.ndarray) -> Share:
    """A share less its bias, and its interval, from those without each of the seeds."""
    n, mean = len(without), without.mean()
    share = n * whole - (n - 1) * mean
    reach = float(t.ppf(0.975, n - 1) * ((n - 1) / n * np.square(without - mean).sum()) ** 0.5)
    low, at, high = np.clip([share - reach, share, share + reach], 0, 1).tolist()
    return Share(at, (low, high))


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
