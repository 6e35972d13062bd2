"""The place of a digit: who can tell it, by a hand computation and in a small run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import leakage, store, trained

SMOKE = replace(leakage.cells("smoke")[0], test_images=3)


def pair(left, right):
    """Logits [place, image, class] from how much "right" is ahead of "left" at both places."""
    ahead = np.array([left, right], np.float32)
    return np.stack([np.zeros_like(ahead), ahead], axis=-1)


SEEN = pair([-1, -1, 2], [1, -0.5, 3])
"""The first digit is told; the second is left twice, the third right twice."""
BLIND = pair([0.3, -0.2, 1e-6], [0.3, -0.2, -2e-6])
"""One answer for each digit, though rounding puts the third on both sides of 0."""


def fabricated(variant="max", seed=0, far=BLIND, near=SEEN, border=SEEN) -> store.Cell:
    arrays = {
        "logits_circular_16": far,
        "logits_circular_13": near,
        "logits_same_16": border,
        "images": np.arange(3) + 10 * seed,
    }
    config = vars(replace(SMOKE, variant=variant, seed=seed))
    return store.Cell(Path(f"{variant}-{seed}"), config, {}, arrays)


def test_what_is_right_by_hand():
    assert leakage.answers(SEEN).tolist() == [[False, False, True], [True, False, True]]
    assert leakage.right(SEEN).tolist() == [[True, True, False], [True, False, True]]
    assert leakage.answers(BLIND).tolist() == 2 * [[True, False, False]]
    assert leakage.right(BLIND).mean() == 0.5


@pytest.mark.parametrize("distance", [13, 16])
def test_a_digit_is_moved_and_nothing_is_cut_off(distance):
    images = np.zeros((1, 32, 32, 1), np.float32)
    images[:, 8:24, 8:24] = np.random.default_rng(0).random((16, 16, 1)) + 1
    left, right = leakage.places(images, distance)
    (start, _), (there, _) = (np.flatnonzero(x.any((0, 1, 3)))[[0, -1]] for x in (left, right))
    assert there - start == distance
    for x, at in ((left, start), (right, there)):
        np.testing.assert_array_equal(x[:, :, at : at + 16], images[:, :, 8:24])


def test_who_cannot_tell():
    widths = (4, 4, 4)
    assert leakage.blind("max", widths, "CIRCULAR", 16)
    assert leakage.blind("max_aps", widths, "CIRCULAR", 13)
    assert not leakage.blind("max", widths, "CIRCULAR", 13)
    assert not leakage.blind("max_aps", widths, "SAME", 16)


def test_check_sees_damage():
    assert leakage.check(fabricated()) == []
    (broken,) = leakage.check(fabricated(far=SEEN))
    assert broken == "its logits tell the places apart (circular padding, 16 pixels), by up to 2"
    (broken,) = leakage.check(fabricated("max_aps"))
    assert broken.startswith("its logits tell the places apart (circular padding, 13 pixels)")
    assert leakage.check(fabricated("max_aps", near=BLIND)) == []
    (broken,) = leakage.check(fabricated(border=SEEN[:1]))
    assert broken.endswith("(zero padding, 16 pixels) are not those of each image at both places")
    (broken,) = leakage.check(fabricated(near=SEEN * np.float32(np.nan)))
    assert broken == "its logits (circular padding, 13 pixels) are not finite"


def test_a_report_counts_failures():
    told = pair([-1, -1, -1], [1, 1, 1])
    cells = [fabricated(seed=seed, near=told, border=told if seed else SEEN) for seed in range(2)]
    cells.append(fabricated("max_aps", near=BLIND, border=told))
    section = leakage.section(cells)
    row = next(row for row in section.sheets[0].rows if row.variant == "max")
    assert row.values["accuracy_circular_16"].tolist() == [0.5, 0.5]
    assert row.values["failures_circular_16"].tolist() == [3, 3]
    assert row.values["accuracy_same_16"].tolist() == pytest.approx([4 / 6, 1])
    (column,) = [c for c in section.sheets[1].columns if c.key == "failures_same_16"]
    assert column.show(row.values[column.key]) == "2 of 6 (4.3 to 78 %)"
    assert trained.failures(20, 20) == "20 of 20 (83 to 100 %)"
    held = {claim.expected: claim.holds for claim in section.claims}
    assert list(held.values()) == [True, True, True, False]
    assert "images that fail in at least one net: 2 of 6" in section.claims[-1].observed
    assert "the least is 66.7 % with max, seed 0" in section.claims[-1].observed
    assert section.claims[-1].source == "this project, after Kayhan and van Gemert 2020"
    assert section.claims[-2].source == "this project, after Azulay and Weiss 2019"
    spread = leakage.spread_of(BLIND)
    assert "logits differ by 3e-06 at most, and their standard deviation over images is" in (
        section.claims[0].observed
    )
    assert section.claims[0].observed.endswith(f" {spread:.0e} at least.")


@pytest.mark.parametrize(("wrong", "held"), [(1, True), (2, False)])
def test_nearly_all_is_99_of_100(wrong, held):
    ahead, told = np.ones(50), pair(-np.ones(50), np.ones(50))
    ahead[:wrong] = -1
    cell = fabricated(far=told, near=told, border=pair(-np.ones(50), ahead))
    cell.arrays["images"] = np.arange(50)
    claim = leakage.section([cell]).claims[-1]
    assert (
        claim.expected == "Zero padding, 16 pixels: at least 99 % for every variant, in every net"
    )
    assert claim.holds is held


@pytest.mark.parametrize("scale", [1, 1e-3, 1e-6, 1e6])
def test_what_is_rounding_depends_on_how_far_logits_spread(scale):
    """Nets that cannot tell have small logits: what one of them tells may be less than 1e-5."""
    tells = fabricated(far=SEEN * np.float32(scale))
    assert len(leakage.check(tells)) == 1 and not leakage.section([tells]).claims[0].holds
    blind = fabricated(far=BLIND * np.float32(scale))
    assert leakage.check(blind) == [] and leakage.section([blind]).claims[0].holds


def test_a_net_that_should_not_tell_is_reported():
    claims = leakage.section([fabricated("max_aps", far=SEEN)]).claims
    assert [claim.holds for claim in claims] == [False, False, False]
    assert claims[0].observed.startswith("1 of 3 images get two answers")


@pytest.mark.usefixtures("usual_promotion")
def test_leakage_runs_and_is_drawn(command, capsys, tmp_path):
    smoke = ["--preset", "smoke", "--results", tmp_path]
    command("run", "leakage", *smoke, "--variants", "stride")
    command("check", "leakage", "--results", tmp_path)
    assert "hold in all 1 stored cells" in capsys.readouterr().out
    command("report", "leakage", *smoke)
    text = capsys.readouterr().out
    assert "zero padding, 16 pixels" in text and "2 of 2 cells are missing" in text
    assert (tmp_path / "report" / "leakage-places.png").stat().st_size > 5_000
    (cell,) = store.cells(tmp_path, "leakage")
    logits = cell.arrays["logits_same_16"]
    # The border is there.
    assert np.abs(logits[1] - logits[0]).max() > leakage.ROUNDING * leakage.spread_of(logits)
