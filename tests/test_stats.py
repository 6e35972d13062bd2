"""The statistics against cases computed by hand, and against loops."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from experiments import stats
from experiments.report import SPREAD


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


# --- paired seeds ---


@pytest.mark.parametrize(
    ("differences", "flips"),
    [
        ([1, 2, 3], 2 / 8),  # all signs alike
        ([2, 2, 2, 2, 2, 2], 2 / 64),
        ([1, 1, 1, 1, 1, -1], 14 / 64),  # a sum of 4: at most one sign against the others
        ([1, -1, 1, -1, 1, -1], 1),
        ([0, 0, 0, 0, 0, 0], 1),
        ([0.1, 0.2, 0.3, 0.3, 0.2, 0.1], 2 / 64),  # whatever the order of the sum
    ],
)
def test_sign_flips_by_hand(differences, flips):
    assert stats.sign_flip(differences) == flips


def test_sign_flips_are_the_permutation_test():
    x = np.random.default_rng(0).normal(0.4, 1, 9)
    exact = permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip(x) == pytest.approx(exact.pvalue)
    assert 2 ** (1 - 9) < stats.sign_flip(x) < 1


def test_a_summary():
    got = stats.summary([1, 2, 3, 4, 5, 9])
    assert (got.n, got.mean, got.why) == (6, 4, "")
    assert got.sd == pytest.approx(np.sqrt((9 + 4 + 1 + 0 + 1 + 25) / 5))
    low, high = got.interval
    assert 1 < low < 3 and 5 < high < 9 and got == stats.summary([1, 2, 3, 4, 5, 9])
    assert stats.summary([0.5] * 6).interval == (0.5, 0.5)
    means = np.random.default_rng(1).choice([1, 2, 3, 4, 5, 9], (100_000, 6)).mean(1)
    beyond = 0.00243  # Student's t of 5 degrees, 2.571, times sqrt(6 / 5), of a normal distribution
    np.testing.assert_allclose([low, high], np.quantile(means, [beyond, 1 - beyond]), atol=0.17)


@pytest.mark.parametrize(("seeds", "covered"), [(6, 0.94), (10, 0.95)])
def test_intervals_cover_as_often_as_they_say(seeds, covered):
    drawn = np.random.default_rng(0).normal(size=(400, seeds))
    ends = np.array([stats.summary(x).interval for x in drawn])
    found = np.mean((ends[:, 0] <= 0) & (0 <= ends[:, 1]))
    assert (
        abs(found - covered) < 0.03
    )  # 400 draws spread by 0.011; of plain percentiles, 0.86, 0.91
    assert "95 % bootstrap interval" in SPREAD


def test_few_seeds_are_only_described():
    got = stats.summary([1.0, np.nan, 3.0])
    assert (got.n, got.mean, got.interval) == (2, 2, None) and got.sd == pytest.approx(np.sqrt(2))
    assert got.why == "2 seeds of at least 6 that an interval or a test needs"
    five = stats.difference(seeds(1, 2, 3, 4, 5), seeds(0, 0, 0, 0, 0))
    assert (five.n, five.mean, five.p, five.interval) == (5, 3, None, None)
    assert five.why.startswith("5 seeds of at least 6")
    assert stats.summary([]).why.startswith("0 seeds") and stats.summary([1.0]).n == 1
    many = stats.difference(dict.fromkeys(range(25), 1.0), dict.fromkeys(range(25), 0.0))
    assert many.p is None and many.why == "25 seeds: more than 24" and many.interval == (1, 1)


def test_differences_are_of_the_same_seed():
    ours = {9: 10.0, 1: 1.0, 2: 3.0, 3: 5.0, 4: 7.0, 5: 9.0, 6: 11.0}
    base = {6: 10.0, 5: 8.0, 4: 6.0, 3: 4.0, 2: 2.0, 1: 0.0, 7: 99.0}
    got = stats.difference(ours, base)
    assert (got.n, got.mean, got.sd, got.p) == (6, 1, 0, 2 / 64)


def test_holm_by_hand():
    got = stats.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert got == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": None})
    assert stats.holm({"a": 0.6, "b": 0.5}) == {"a": 1, "b": 1}
    assert stats.holm({}) == {}


def test_nothing_is_tested_that_could_not_be_found():
    ones = np.ones(24)
    assert stats.p_value(ones[:5]) is None and stats.p_value(ones[:6]) == 2**-5
    assert stats.p_value(ones[:6], tests=2) is None  # at least 2/32, corrected
    assert stats.p_value(ones[:7], tests=2) == 2**-6
    assert stats.p_value(np.ones(25)) is None  # too many flips to look at


def test_all_against_max():
    values = {"max": seeds(*range(6)), "avg": seeds(*range(1, 7)), "min": seeds(*range(6)),
              "few": seeds(3, 3)}  # fmt: skip
    got = stats.against(values)
    assert list(got) == ["avg", "min", "few"]
    # Three tests of six seeds: 3 * 2^-5 could not be below 0.05.
    assert (got["avg"].mean, got["avg"].p, got["avg"].adjusted) == (1, None, None)
    more = {
        name: seeds(*range(ahead, 8 + ahead))
        for name, ahead in (("max", 0), ("avg", 1), ("min", 0))
    }
    got = stats.against(more)
    assert (got["avg"].p, got["avg"].adjusted, got["avg"].higher) == (2**-7, 2**-6, True)
    assert got["min"].adjusted == 1 and got["min"].higher is None


@pytest.mark.parametrize(
    ("mean", "adjusted", "higher", "lower"),
    [
        (1, 0.05, True, False),
        (-1, 0.05, False, True),
        (1, 0.06, None, None),
        (-1, None, None, None),
    ],
)
def test_differences_are_told_from_chance_or_open(mean, adjusted, higher, lower):
    found = stats.Difference(6, mean, 1, None, "", adjusted and 0.01, adjusted)
    assert (found.higher, found.lower) == (higher, lower)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [([True, True], True), ([True, False], False), ([True, None], None), ([None, False], False)],
)
def test_every_verdict_counts(verdicts, expected):
    assert stats.every(verdicts) is expected


# --- counts ---


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1),
        (3, 10, 0.0667, 0.6525),
        (0, 1280, 0, 1 - 0.025 ** (1 / 1280)),
    ],
)
def test_failures_have_the_interval_of_clopper_and_pearson(k, n, low, high):
    assert stats.clopper_pearson(k, n) == pytest.approx((low, high), abs=1e-4)


# --- factorial designs ---


def only(shares: dict, **expected: float) -> None:
    got = {name: share.share for name, share in shares.items()}
    assert got == pytest.approx({**dict.fromkeys(got, 0), **expected}, abs=1e-12)


def test_shares_of_one_cause_each():
    i, j, s = np.meshgrid(range(2), range(3), range(4), indexing="ij")
    only(stats.variance_shares(1.0 * i, ["a", "b"]), a=1)
    only(stats.variance_shares(1.0 * s, ["a", "b"]), seed=1)
    only(stats.variance_shares(3.0 * i + 0 * j, ["a", "b"]), a=1)
    only(stats.variance_shares(0.0 * i, ["a", "b"]))
    # 3 i has variance 9/4; 4 j over 0, 1, 2 has 32/3; their sum has no interaction.
    both = 9 / 4 + 32 / 3
    only(stats.variance_shares(3.0 * i + 4 * j, ["a", "b"]), a=9 / 4 / both, b=32 / 3 / both)
    signs = (-1.0) ** (i + j) * (j < 2)
    only(stats.variance_shares(signs, ["a", "b"]), **{"a x b": 1})
    only(stats.variance_shares((2 * i - 1) * (s - 1.5), ["a", "b"]), rest=1)


def test_shares_are_sums_of_squares():
    x = np.random.default_rng(0).normal(size=(2, 3, 7))
    levels, grand = [range(n) for n in x.shape], x.mean()
    ss = {"a": 0.0, "b": 0.0, "a x b": 0.0, "seed": 0.0, "rest": 0.0}
    for i, j, s in product(*levels):
        a, b, c = x[i].mean() - grand, x[:, j].mean() - grand, x[..., s].mean() - grand
        ab = x[i, j].mean() - grand - a - b
        for name, effect in zip(
            ss, (a, b, ab, c, x[i, j, s] - grand - a - b - ab - c), strict=True
        ):
            ss[name] += effect**2
    total = ((x - grand) ** 2).sum()
    plain = {k: v[0] for k, v in stats._shares(x[None], ["a", "b"]).items()}
    assert plain == pytest.approx({k: v / total for k, v in ss.items()})


def test_shares_are_those_of_the_jackknife():
    x = np.random.default_rng(0).normal(size=(2, 3, 7)) + np.arange(2)[:, None, None]
    whole = stats._shares(x[None], ["a", "b"])["a"][0]
    left = [stats._shares(np.delete(x, s, -1)[None], ["a", "b"])["a"][0] for s in range(7)]
    pseudo = 7 * whole - 6 * np.array(left)
    got = stats.variance_shares(x, ["a", "b"])["a"]
    reach = 2.4469 * pseudo.std(ddof=1) / 7**0.5  # Student's t of 6 degrees
    assert got.share == pytest.approx(pseudo.mean())
    assert got.interval == pytest.approx((pseudo.mean() - reach, pseudo.mean() + reach), rel=1e-4)


def test_three_factors_and_the_intervals_of_few_seeds():
    got = stats.variance_shares(np.random.default_rng(0).normal(size=(2, 2, 2, 3)), ["a", "b", "c"])
    assert list(got) == ["a", "b", "c", "a x b", "a x c", "b x c", "a x b x c", "seed", "rest"]
    assert sum(share.share for share in got.values()) == pytest.approx(1)
    assert all(share.interval is None for share in got.values())
