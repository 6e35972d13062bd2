"""The experiments that train nothing: their mathematics by brute force, their checks by damage."""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import equivariance, figures, periodic, separability, shifts, store
from experiments.config import UserError
from experiments.poolings import FAMILIES, POOLINGS

RANDOM = np.random.default_rng(0)


# --- the table ---


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_reduces_by_its_stride(name):
    pooling, x = POOLINGS[name], jnp.asarray(RANDOM.random((2, 6, 6, 1), np.float32))
    assert pooling.family in FAMILIES
    for padding in ("CIRCULAR", "SAME"):
        y = jax.eval_shape(partial(pooling.pool, k=3, s=3, padding=padding), x)
        assert y.shape == (2, 2, 2, 1) and y.dtype == x.dtype
    if pooling.whole is not None and not name.endswith("_cold"):
        everything = pooling.pool(x, 6, 6, "VALID")[:, 0, 0]
        np.testing.assert_allclose(pooling.whole(x), everything, rtol=1e-5)


# --- periodic maps ---


@pytest.mark.parametrize("size", [7, 8])
def test_whole_shifts_of_a_fourier_series_move_pixels(size):
    x = RANDOM.random((2, size, size))
    np.testing.assert_allclose(periodic.moved(x, 2, -3), periodic.rolled(x, (2, -3)), atol=1e-12)
    there = periodic.moved(periodic.moved(x, 0.25, 0), 0, 0.75)
    np.testing.assert_allclose(periodic.moved(x, 0.25, 0.75), there, atol=1e-12)


def test_a_wave_moves_by_fractions_of_a_pixel():
    phase = 2 * np.pi * 3 / 16
    at = np.arange(16.0)
    wave, there = (np.cos(phase * (at - by))[None] * np.ones((16, 1)) for by in (0, 0.3))
    np.testing.assert_allclose(periodic.moved(wave, 0.7, 0.3), there, atol=1e-12)
    np.testing.assert_allclose(periodic.moved(wave.T, 0.3, 0), there.T, atol=1e-12)


def test_a_low_pass_keeps_what_is_low():
    x = RANDOM.random((2, 12, 12))
    n = np.arange(12)
    waves = np.exp(-2j * np.pi * n[:, None] * n / 12)
    low = periodic.low_pass(x, 3)
    assert low.min() == 0 and low.max() == 1
    spectrum = waves @ low @ waves.T
    kept = np.minimum(n, 12 - n) <= 3
    assert np.abs(spectrum[:, ~kept]).max() < 1e-10 and np.abs(spectrum[..., ~kept]).max() < 1e-10
    before = (waves @ x @ waves.T)[:, kept][..., kept].reshape(2, -1)[:, 1:]
    after = spectrum[:, kept][..., kept].reshape(2, -1)[:, 1:]
    scale = after / before  # one real number per map, but for the mean
    np.testing.assert_allclose(scale, scale[:, :1].real * np.ones_like(scale), rtol=1e-8)
    assert periodic.low_pass(x, 0) is x
    assert not periodic.normal(np.full((1, 4, 4), 3.0)).any()


def test_the_best_whole_shift_is_the_best_of_all():
    here, noise = RANDOM.random((3, 5, 5)), 0.1 * RANDOM.random((3, 5, 5))
    there = periodic.rolled(here, (2, 4)) + noise
    every = [periodic.rolled(here, by) for by in shifts.exhaustive(5)]
    best = np.min([periodic.distance(there, one) for one in every], axis=0)
    found = periodic.distance(there, periodic.best_whole(there, here))
    np.testing.assert_array_equal(found, best)
    exact = periodic.rolled(here, (1, 3))
    assert not periodic.distance(exact, periodic.best_whole(exact, here)).any()


# --- equivariance ---

CONFIG = replace(equivariance.cells("smoke", variants=["avg"])[0], strides=(1, 2, 4))


def measured(variant: str) -> store.Cell:
    config = replace(CONFIG, variant=variant)
    arrays, facts = equivariance.run(config, lambda *_: None)
    return store.Cell(Path(), vars(config), facts, arrays)


@pytest.fixture(scope="module")
def cells():
    return {name: measured(name) for name in ("avg", "max")}


def test_exact_statements_hold(cells):
    assert [equivariance.check(cell) for cell in cells.values()] == 2 * [[]]
    assert not any(cell.arrays["border_2"].any() for cell in cells.values())
    for cell in cells.values():
        assert [len(cell.arrays[f"differing_{s}"]) for s in (1, 2, 4)] == [256, 64, 16]


def test_errors_are_their_definition(cells):
    """Averages of one shift and stride, with matrices in the place of a Fourier transform."""
    cell, n, s = cells["avg"], 16, 4
    x = equivariance.maps(CONFIG)

    def pool(x):
        return x.reshape(-1, n // s, s, n // s, s).mean((2, 4))

    def shift(size, by):
        """x -> x moved by this much, as a matrix: the sum of all waves, Nyquist's as its mean."""
        k, at = np.arange(size) - size // 2, np.arange(size)
        wave = np.exp(2j * np.pi * k * (at[:, None, None] - at[:, None] - by) / size)
        wave[..., 0] = wave[..., 0].real
        return wave.sum(-1).real / size

    by = (1, 3)
    down, right = (shift(n // s, each / s) for each in by)
    expected = ((pool(np.roll(x, by, (1, 2))) - down @ pool(x) @ right.T) ** 2).sum((1, 2))
    number = shifts.exhaustive(s)[1:].tolist().index([*by])
    np.testing.assert_allclose(cell.arrays["error_4"][0, number], expected, rtol=1e-4)
    np.testing.assert_allclose(cell.arrays["energy_4"][0], (pool(x) ** 2).sum((1, 2)), rtol=1e-5)
    images = slice(CONFIG.images)
    share = expected[images].sum() / (pool(x)[images] ** 2).sum()
    assert equivariance.relative(cell, 4)[0, number] == pytest.approx(share, rel=1e-4)
    slide = cell.arrays["slide_2"]
    assert slide[0].max() < 1e-20 < slide[1:].min()


def test_frequencies_above_those_of_the_result_alias(cells):
    """Bands of 3 periods lie below Nyquist of the result of stride 2, bands of 5 do not."""
    low, high = (CONFIG.bands.index(band) for band in (3, 5))
    linear, other = (equivariance.relative(cells[name], 2) for name in ("avg", "max"))
    assert linear[low].max() < 1e-10 < linear[high].min() and other[low].min() > 1e-6
    four = equivariance.relative(cells["avg"], 4)
    assert four[low].min() > 1e-6  # they are above Nyquist of the result of stride 4


def test_responses_in_closed_form():
    w = np.arange(9) * 2 * np.pi / 16
    for size in (1, 2, 3, 5):
        taps = equivariance.binomial(size)
        assert taps.sum() == 1
        np.testing.assert_allclose(
            equivariance.response(taps, 16), np.abs(np.cos(w / 2)) ** (size - 1), atol=1e-12
        )


DAMAGE = {
    "differing_4": "values differ after shifts by multiples of stride 4 (largest: 1, allowed: 0)",
    "net": "logits change after shifts by multiples of 8",
    "whole": "the global pooling changes with a shift",
    "superposition": "a sum of maps is not pooled to the sum",
    "constant": "a constant is changed",
    "gains": "a wave has another gain than |H|",
    "error_2": "maps below 1/2 of Nyquist alias",
    "blur2": "a blur of 2 is another average",
}


@pytest.mark.parametrize(("name", "sentence"), DAMAGE.items())
def test_check_sees_damage(cells, name, sentence):
    cell, low = cells["avg"], CONFIG.bands.index(3)
    damaged = cell.arrays[name].copy()
    damaged[low if name == "error_2" else -1] += 1
    broken = equivariance.check(replace(cell, arrays=cell.arrays | {name: damaged}))
    assert len(broken) == 1 and broken[0].startswith(sentence)
    damaged[low if name == "error_2" else -1] = np.nan if name != "differing_4" else 1
    assert len(equivariance.check(replace(cell, arrays=cell.arrays | {name: damaged}))) == 1


def test_equivariance_runs_and_is_drawn(command, capsys, tmp_path):
    smoke = ["--preset", "smoke", "--results", tmp_path]
    command("run", "equivariance", *smoke, "--variants", "maxblur3")
    command("check", "equivariance", "--results", tmp_path)
    assert "hold in all 1 stored cells" in capsys.readouterr().out
    command("report", "equivariance", *smoke)
    text = capsys.readouterr().out
    assert "bit for bit" in text and "cells are missing" in text
    for picture in ("slide", "bandwidth"):
        assert (tmp_path / "report" / f"equivariance-{picture}.png").stat().st_size > 5_000
    (cell,) = store.cells(tmp_path, "equivariance")
    assert cell.arrays["border_2"].any()  # its windows reach over it
    lines = (tmp_path / "report" / "equivariance.csv").read_text().splitlines()
    assert lines[0].startswith("data,variant,seed,differing,error,") and len(lines) == 2


def test_a_net_is_judged_by_the_shifts_that_no_theorem_is_about(cells):
    net, by = (cells["max"].arrays[name].astype(float) for name in ("net", "net_shifts"))
    change = [((z - net[0]) ** 2).mean() for z, s in zip(net, by, strict=True) if (s % 8).any()]
    assert len(change) == 63 < len(net)
    got = equivariance.metrics(cells["max"])["net"]
    assert got == pytest.approx(np.mean(change) / net.var(axis=1).mean())


@pytest.mark.parametrize("narrow", [False, True])
def test_errors_are_in_percent_in_the_text_and_in_the_pictures(cells, narrow):
    import matplotlib.pyplot as plt

    section = equivariance.section(list(cells.values()))
    assert "as a share of the squared norm" in section.answer
    assert "||P(T x) - T P(x)||^2 as a share of the squared norm ||P(x)||^2" in section.size
    assert "count" in section.sheets[0].columns[0].title  # under the heading %
    for picture in section.pictures:
        figure = picture.draw(narrow)
        assert "%" in figure.get_supylabel() and "0.001 %" in picture.caption
        plt.close(figure)
    read = equivariance.sliding(cells["max"])
    (slide, _) = section.pictures
    figure = slide.draw(narrow)
    drawn = [line.get_ydata() for axes in figure.axes for line in axes.get_lines()]
    assert any(len(y) == len(read) and np.allclose(y[1:], 100 * read[1:]) for y in drawn)
    plt.close(figure)


def test_images_must_be_as_large_as_the_maps():
    with pytest.raises(UserError, match="'digits' have 16 pixels a side, but the preset 'quick'"):
        equivariance.cells("quick", "digits")


# --- separability ---

DEFINITIONS = {
    "max": np.max,
    "avg": np.mean,
    "min": np.min,
    "l2": lambda x: np.mean(x**2) ** (1 / 2),
    "l3": lambda x: np.mean(x**3) ** (1 / 3),
    "gem": lambda x: np.mean(x**3) ** (1 / 3),
    "lse": lambda x: np.log(np.mean(np.exp(x))),
    "lse_cold": lambda x: 0.1 * np.log(np.mean(np.exp(x / 0.1))),
    "softmax": lambda x: np.exp(x) @ x / np.exp(x).sum(),
    "softmax_cold": lambda x: np.exp(x / 0.1) @ x / np.exp(x / 0.1).sum(),
    "mixed": lambda x: (np.max(x) + np.mean(x)) / 2,
    "stochastic": lambda x: x @ x / max(x.sum(), 1),
}


@pytest.mark.parametrize("name", separability.LAWS)
def test_moments_are_sums_over_all_patterns(name):
    n, chance = 6, 0.3
    patterns = np.array(list(product((0.0, 1.0), repeat=n)))
    weight = np.prod(np.where(patterns == 1, chance, 1 - chance), axis=1)
    value = np.array([DEFINITIONS[name](x) for x in patterns])
    mean = weight @ value
    got = separability.moments(name, n, chance)
    assert got.mean == pytest.approx(mean)
    assert got.spread == pytest.approx(np.sqrt(weight @ (value - mean) ** 2))
    assert got.fourth == pytest.approx(weight @ (value - mean) ** 4)


def test_max_and_average_in_closed_form():
    a, b, n = 0.4, 0.2, 9
    top, low = 1 - (1 - a) ** n, 1 - (1 - b) ** n
    spread = np.sqrt(top * (1 - top)) + np.sqrt(low * (1 - low))
    assert separability.law("max", n, (a, b)) == pytest.approx((top - low) / spread)
    spread = np.sqrt(a * (1 - a) / n) + np.sqrt(b * (1 - b) / n)
    assert separability.law("avg", n, (a, b)) == pytest.approx((a - b) / spread)
    assert separability.law("min", 1024, (a, b)) == 0


@pytest.mark.parametrize("feature", separability.FEATURES.values())
def test_where_the_means_of_max_are_farthest_apart(feature):
    a, b = feature
    n = np.geomspace(1, 1e4, 100_000)
    assert separability.farthest(feature) == pytest.approx(
        n[np.argmax((1 - b) ** n - (1 - a) ** n)], rel=1e-3
    )


SMALL = replace(separability.cells("smoke")[0], sides=(1, 4), elements=2**13)


@pytest.mark.parametrize("variant", ["max", "avg", "lse_cold", "stochastic"])
def test_what_is_drawn_follows_the_closed_form(variant):
    config = replace(SMALL, variant=variant)
    arrays, facts = separability.run(config, lambda *_: None)
    cell = store.Cell(Path(), vars(config), facts, arrays)
    assert separability.check(cell) == []
    got = separability.measured(cell)
    assert got.shape == (2, 3)
    dense = separability.FEATURES["dense"]
    assert got[1, 0] == pytest.approx(separability.law(variant, 16, dense), rel=0.3)

    def damaged(name, values):
        return separability.check(replace(cell, arrays=arrays | {name: values}))

    values = arrays["values_4"].copy()
    values[3, 1, 0] += 1e-3
    (broken,) = damaged("values_4", values)
    assert broken == "a value at P=16 is 0.001 off that of as many ones"
    # The other class in the place of one: right values, wrong chances.
    swapped = {name: arrays[name][..., ::-1] for name in ("values_4", "ones_4")}
    broken = separability.check(replace(cell, arrays=arrays | swapped))
    assert "mean and spread at P=16, where a 1 has probability 0.4, are more than" in broken[0]


def test_max_is_judged_at_every_number_of_elements_that_was_measured():
    sizes, mean = [1, 64, 256, 2025], np.ones((4, 3))
    top = np.array([[1, 1, 1], [0.7, 0.8, 0.5], [0.7, 0.8, 1.2], [0.7, 0.8, 0.6]])
    dense, better, _ = separability._winners(top, mean, sizes)
    assert dense.holds and better.holds
    said = "it has 120 % at P = 256, 60 % at P = 2,025 of the average's separability."
    assert better.observed == said
    assert not separability._winners(np.where(top == 1.2, 0.9, top), mean, sizes)[1].holds


def test_the_answer_is_that_of_the_closed_form():
    rare = separability.FEATURES["rare"]
    ahead = separability._ahead(rare)
    for n in (1, 2, 3, 1059, 1060):
        better = separability.law("max", n, rare) > separability.law("avg", n, rare) * (1 + 1e-9)
        assert (n in ahead) == better
    said = separability._answer().split("; ")
    assert [kind for kind in said if "never told apart better by max" in kind] == said[:2]
    assert "better by max for 2 to 1,059 pooled elements" in said[2]


def test_separability_runs_and_is_drawn(command, capsys, tmp_path):
    smoke = ["--preset", "smoke", "--results", tmp_path]
    command("run", "separability", *smoke, "--variants", "max", "avg")
    command("check", "separability", "--results", tmp_path)
    assert "hold in all 2 stored cells" in capsys.readouterr().out
    command("report", "separability", *smoke)
    text = (tmp_path / "report" / "separability.md").read_text()
    assert "**no**" not in text.split("## Dense")[0].split("average is better")[0]
    assert (tmp_path / "report" / "separability-curves.png").stat().st_size > 5_000
    capsys.readouterr()


# --- the picture ---


@pytest.mark.parametrize("narrow", [False, True])
def test_names_beside_lines_do_not_overlap(narrow):
    import matplotlib.pyplot as plt

    x = np.arange(1.0, 6)
    lines = {f"line {i}": figures.Curve((x, x * 1.01**i), (x, x), i) for i in range(9)}
    low = {"low": figures.Curve((x, 0 * x), (x, 0 * x), 0), **dict(list(lines.items())[:2])}
    figure = figures.curves(
        {"many": lines, "few": low}, "x", "y", least=0.1, zero="0", mark=2, narrow=narrow
    )
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert all(figure.bbox.x1 >= box.x1 for box in boxes)
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    (name,) = [text for text in figure.axes[1].texts if text.get_text() == "low"]
    assert name.get_position()[1] == pytest.approx(0, abs=0.02)
    plt.close(figure)
