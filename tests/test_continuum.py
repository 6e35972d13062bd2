"""From average to max: formulas by brute force, exact statements by damage, and a small run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import continuum, nets, shifts, store, train
from experiments.continuum import FAMILIES, PLACES

WINDOWS = np.random.default_rng(0).random((3, 50, 4)).astype(np.float32)
WINDOWS[:, :5] = 0  # ReLU gives such ones
CONFIG = continuum.cells("smoke")[0]


def fabricated(variant: str, seed: int = 0, right: int = 4, moved: int = 0, **changed):
    """A cell of four images, `right` of which are called right, and `moved` not when shifted."""
    place = PLACES.get(variant)
    value = place.value if place else 0.0
    low, high = WINDOWS.mean(-1), WINDOWS.max(-1)
    pooled = {"avg": low, "max": high}.get(variant)
    if place:
        pooled = FAMILIES[place.family].law(WINDOWS.astype(np.float64), value)
    labels = np.array([0, 1, 2, 3], np.uint8)
    predictions = np.tile(np.where(np.arange(4) < right, labels, 9), (4, 1)).astype(np.uint8)
    predictions[1:, :moved] = 8
    arrays = {
        "shifts": shifts.exhaustive(2),
        "logits": np.eye(10, dtype=np.float32)[predictions[0]],
        "predictions": predictions,
        "top": np.ones((4, 4), np.float32),
        "labels": labels,
        "train_predictions": labels,
        "train_labels": labels,
        "windows": WINDOWS,
        "pooled": pooled.astype(np.float32),
    }
    if place:
        arrays |= {"values": np.full(3, value), "ends": np.stack([low, high], axis=1)}
    config = vars(replace(CONFIG, variant=variant, seed=seed))
    return store.Cell(Path(f"{variant}-{seed}"), config, {}, arrays | changed)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_library_follows_the_formula_and_ends_at_average_and_max(name):
    family = FAMILIES[name]
    for value in (*family.values, *family.near):
        expected = family.law(WINDOWS[0].astype(np.float64), value)
        np.testing.assert_allclose(family.pooled(WINDOWS[0], value), expected, atol=2e-5)
    for end, exact in zip(family.ends, (WINDOWS[0].mean(-1), WINDOWS[0].max(-1)), strict=True):
        np.testing.assert_allclose(family.pooled(WINDOWS[0], end), exact, atol=2e-5)
    along = [family.pooled(WINDOWS[0], value).mean() for value in family.values]
    assert along == sorted(along)


@pytest.mark.parametrize("name", FAMILIES)
def test_learning_starts_where_it_is_told_to(name):
    family = FAMILIES[name]
    for value in family.near:
        net = nets.Net(continuum.VARIANTS[f"{name}-from-{value:g}"], (2, 2))
        params = train.start(net, 0, (8, 8, 1)).params
        found = continuum._parameters(PLACES[f"{name}-from-{value:g}"], params, WINDOWS[:2])
        np.testing.assert_allclose(found["values"], value, rtol=1e-5)
        assert found["ends"].shape == (2, 2, 50)


def test_the_windows_of_a_net_are_those_that_it_pools():
    net = nets.Net(nets.VARIANTS["max"], (2, 3))
    params = train.start(net, 0, (8, 8, 1)).params
    images = np.random.default_rng(1).random((4, 8, 8, 1), np.float32)
    windows, pooled = continuum.features(net, params, images, 30, 0)
    assert windows.shape == (2, 30, 4) and pooled.std() > 0
    np.testing.assert_array_equal(windows.max(-1), pooled)


def test_positions_by_hand():
    assert continuum.numbers(fabricated("avg"))["position"] == pytest.approx(0, abs=1e-6)
    assert continuum.numbers(fabricated("max"))["position"] == pytest.approx(1)
    got = continuum.numbers(fabricated("mixed-0.4", right=3))
    assert [got[f"position_{n}"] for n in (1, 2, 3)] == pytest.approx([0.4] * 3)
    assert got["value_2"] == 0.4 and got["accuracy"] == 0.75 and got["reference"] == 1
    flat = fabricated("avg", windows=np.ones_like(WINDOWS), pooled=np.ones((3, 50), np.float32))
    assert np.isnan(continuum.positions(flat)).all()


def test_the_optimum_lies_where_seeds_drawn_anew_find_it():
    def answer(better: dict[str, str]) -> str:
        found = [
            fabricated(v, seed, 3 if str(seed) in better.get(v, "") else 2)
            for v in ("avg", "mixed-0.4", "max")
            for seed in range(6)
        ]
        return continuum.section(found).answer

    assert "most accurate would lie 40 to 40 % of the way" in answer({"mixed-0.4": "012345"})
    assert "most accurate would lie 40 to 100 % of the way" in answer(
        {"mixed-0.4": "0123", "max": "345"}
    )
    assert "most accurate would lie 0 to 0 % of the way" in answer({})  # all alike: the first


def test_gains_are_of_the_same_seeds_whichever_are_there():
    right = (1, 2, 4)  # by seed, the same for all
    seeds = {"avg": (0, 1, 2), "max": (0, 1, 2), "mixed-0.4": (1, 2)}
    found = [fabricated(v, seed, right[seed]) for v, some in seeds.items() for seed in some]
    _, inner, mixed, *_ = continuum.section(found).claims
    assert "+0.0 points" in inner.observed and not inner.holds
    assert mixed.observed.startswith("+0.0 with") and not mixed.holds
    assert continuum.optimum(continuum.section(found).sheets[0].rows) is None


def test_the_best_of_many_is_tested_as_one_of_many():
    def claim(*tried: str):
        found = [
            fabricated(v, seed, 3 if v == "mixed-0.4" else 2)
            for v in ("avg", "max", "mixed-0.4", *tried)
            for seed in range(7)
        ]
        return continuum.section(found).claims[1]

    few, many = claim("lp-3", "lp-5"), claim("lp-3", "lp-5", "lse-0.1")
    assert few.holds and "the best of 3: +25.0 [+25.0, +25.0] points" in few.observed
    assert few.observed.endswith("p = 0.047, corrected for all 3.")  # 3 * 2^-6
    assert many.holds is None and "; p" not in many.observed  # 4 * 2^-6: seeds too few to say so


def test_only_seeds_with_all_fixed_poolings_are_ranked():
    moved = {"avg": 0, "mixed-0.4": 1, "max": 2}
    found = [fabricated(v, seed, moved=n) for v, n in moved.items() for seed in range(2)]
    falls = continuum.section([*found, fabricated("avg", 2)]).claims[3]
    assert falls.holds and falls.observed.startswith("on 2 of 2;")
    found = [fabricated("avg"), fabricated("mixed-0.4", 1), fabricated("max")]
    assert len(continuum.section(found).claims) == 3


def test_a_learned_mixture_is_a_mixture():
    right = {"mixed-from-0.1": 3, "mixed-0.4": 2}
    found = [fabricated(v, s, right.get(v, 2)) for v in ("avg", "max", *right) for s in range(7)]
    mixed = continuum.section(found).claims[2]
    assert "with alpha = 0.4" in mixed.observed and "learned from 0.1" in mixed.observed


@pytest.mark.parametrize("variant", ["avg", "max", "lp-3", "lse-0.1", "softmax-0.3", "mixed-0.2"])
def test_check_sees_damage(variant):
    cell = fabricated(variant)
    assert continuum.check(cell) == []

    def damaged(name: str, by: float) -> list[str]:
        array = cell.arrays[name].copy()
        array[-1, -1] += by
        return continuum.check(replace(cell, arrays=cell.arrays | {name: array}))

    formula = "a pooled value is not that of its formula"
    assert damaged("pooled", 2) == ["a pooled value is not between average and max", formula]
    assert formula in damaged("pooled", 1e-3)
    assert len(damaged("pooled", np.nan)) == 2
    assert damaged("logits", 2) == ["its unshifted answers are not the largest logits"]
    if variant in PLACES:
        assert damaged("ends", 1e-3) == ["its family does not end at max"]


@pytest.mark.parametrize("narrow", [False, True])
def test_a_report_judges_what_is_stored(narrow):
    import matplotlib.pyplot as plt

    right = {"mixed-0.4": 4, "lp-3": 3, "lp-from-1.2": 2}
    names = ("avg", "max", *right)
    found = [fabricated(v, seed, right.get(v, 2)) for v in names for seed in range(7)]
    section = continuum.section(found)
    assert "mixed, alpha = 0.4 with 100.0 %, 40.0 % of the way" in section.answer
    few = continuum.section([cell for cell in found if cell.seed < 3])
    assert "Were the seeds drawn anew" in section.answer
    assert "Were the seeds drawn anew" not in few.answer  # three are too few
    assert [claim.holds for claim in few.claims[1:3]] == [None, None]
    exact, inner, mixed, falls, learned = section.claims
    assert exact.holds and inner.holds and mixed.holds
    assert not falls.holds  # all are as consistent
    fixed = [fabricated("avg"), fabricated("mixed-0.4", moved=1), fabricated("max", moved=2)]
    assert continuum._rank(fixed) == pytest.approx(-1)
    assert continuum._rank(fixed[:2] + fixed[:1]) < 0 == continuum._rank(fixed[:1])
    assert not learned.holds and learned.observed.startswith("at 1.20 to 1.20")
    assert section.sheets[0].rows[0].variant == "avg"
    assert [row.variant for row in section.sheets[1].rows] == ["lp-from-1.2"]
    for picture in section.pictures:
        figure = picture.draw(narrow)
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.usefixtures("usual_promotion")
def test_continuum_runs_and_is_drawn(command, capsys, tmp_path):
    smoke = ["--preset", "smoke", "--results", tmp_path]
    command("run", "continuum", *smoke)
    command("check", "continuum", "--results", tmp_path)
    assert "hold in all 2 stored cells" in capsys.readouterr().out
    command("report", "continuum", *smoke)
    assert (tmp_path / "report" / "continuum-paths.png").stat().st_size > 5_000
