"""Slides: their numbers by hand, their exact statements by damage, and a small run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import data, figures, shifts, stability, store
from experiments.data import glyphs
from experiments.nets import VARIANTS, Net
from experiments.train import start

# One reduction: the period is 2 pixels and a slide 4, here in halves.
SMALL = replace(stability.cells("smoke")[0], widths=(4,), parts=2, test_images=2)
PERIOD = np.array([[[0.9, 0.8], [0.5, 0.7]], [[0.3, 0.8], [0.7, 0.9]]])
"""Probabilities [pixel, part, image] of one period: .9 .5 .3 .7 and .8 .7 .8 .9."""


def fabricated(variant="max", seed=0, period=PERIOD) -> store.Cell:
    p = np.concatenate([period, period]).astype(np.float32)
    answers = np.where(p >= 0.5, 3, 5).astype(np.uint8)
    labels = np.full(2, 3, np.uint8)
    arrays = {"probabilities": p, "answers": answers, "labels": labels}
    config = vars(replace(SMALL, variant=variant, seed=seed))
    return store.Cell(Path(f"{variant}-{seed}"), config, {}, arrays)


STILL = np.stack([PERIOD[0], PERIOD[0]])
"""What whole pixels do not change."""


def test_numbers_by_hand():
    got = stability.numbers(fabricated())
    assert got["accuracy"] == 1
    # By pixels, from every half: .9 <-> .3 and .5 <-> .7; .8 <-> .8 and .7 <-> .9.
    assert got["pixel"] == pytest.approx(np.mean([0.6, 0.2, 0.0, 0.2]))
    # By halves: .9 .5 .3 .7 and .8 .7 .8 .9, and back to the start.
    assert got["part"] == pytest.approx(np.mean([0.4, 0.2, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1]))
    assert got["pixel_range"] == pytest.approx(np.mean([0.6, 0.2, 0.0, 0.2]))
    assert got["range"] == pytest.approx(np.mean([0.6, 0.2]))
    # Only the .3 of the first image, twice in a slide, is another answer.
    assert got["flips"] == pytest.approx(4 / 2)
    assert got["pixel_flips"] == pytest.approx(np.mean([4, 0, 0, 0]))
    assert got["flip"] == pytest.approx(np.mean([1, 0, 0, 0]))


def damaged(cell: store.Cell, name: str, at: tuple[int, ...], value: float) -> list[str]:
    array = cell.arrays[name].copy()
    array[at] = value
    return stability.check(replace(cell, arrays=cell.arrays | {name: array}))


def test_check_sees_damage():
    cell, still = fabricated(), fabricated("max_aps", period=STILL)
    assert stability.check(cell) == stability.check(still) == []
    assert damaged(cell, "answers", (3, 0, 0), 4) == ["1 answers change with a slide by 2 pixels"]
    moved = ["a probability changes by 0.1 with a slide by 2 pixels"]
    assert damaged(cell, "probabilities", (2, 1, 1), 0.6) == moved
    assert stability.check(fabricated("max_aps")) == [
        "2 answers change with a slide by whole pixels",
        "a probability changes by 0.6 with a slide by whole pixels",
    ]
    (broken, *_) = damaged(cell, "probabilities", (0, 0, 0), np.nan)
    assert broken == "its probabilities are not all between 0 and 1"
    assert damaged(cell, "labels", (1,), 2) == [
        "a class with a probability above 50 % is not the answer"
    ]
    short = {name: cell.arrays[name][1:] for name in ("probabilities", "answers")}
    (broken,) = stability.check(replace(cell, arrays=cell.arrays | short))
    assert broken == "its slides are not of 4 pixels in 2 parts for each test image"


def test_a_report_judges_what_is_stored():
    calm = 0.9 + 0.01 * PERIOD
    cells = [
        *(fabricated(seed=seed) for seed in range(6)),
        *(fabricated("maxblur3", seed, calm) for seed in range(6)),
        fabricated("max_aps", 0, STILL),
    ]
    section = stability.section(cells)
    assert all(claim.holds for claim in section.claims) and len(section.claims) == 5
    zhang = section.claims[-1].observed
    assert (
        zhang == "on 6 of 6; by 24.7 points less on average; p = 0.031, sign flips of paired seeds."
    )
    row = section.sheets[0].rows[0]
    (column,) = [column for column in section.sheets[0].columns if column.key == "range"]
    assert column.show(row.values["range"]) == "40.0 ± 0.0 [40.0, 40.0]"

    worse = [fabricated("maxblur3"), fabricated("max_aps"), fabricated(period=calm)]
    held = [claim.holds for claim in stability.section(worse).claims]
    assert held == [True, False, True, False, False]


def test_traces_are_chosen_by_the_range_with_max():
    cells = [fabricated("maxblur3", period=PERIOD[..., ::-1]), fabricated()]
    ours, judge, chosen = stability._chosen(cells)
    assert [cell.variant for cell in ours] == ["max", "maxblur3"]
    assert judge == "max"
    assert chosen == {"median": 0, "largest": 0}
    three = np.concatenate([PERIOD, PERIOD[..., :1] / 2], axis=-1)
    *_, chosen = stability._chosen([fabricated(period=three)])
    assert chosen == {"median": 2, "largest": 0}  # ranges .6, .2, .3


def test_the_probability_is_that_of_the_class_asked_for():
    net, images = Net(VARIANTS["avg"], (4,)), np.random.default_rng(0).random((3, 4, 4, 1))
    params = start(net, 0, (4, 4, 1)).params
    wanted, none = np.array([1, 2, 3]), np.zeros((1, 2), np.int32)
    found = shifts.measure(net, params, images.astype(np.float32), none, classes=wanted)
    powers = np.exp(found["logits"])
    expected = (powers / powers.sum(-1, keepdims=True))[np.arange(3), wanted]
    np.testing.assert_allclose(found["top"][0], expected, rtol=1e-5)


def letters(count):
    """The first letters of the data `glyphs`; to draw all of them would take seconds."""
    drawn = [glyphs.draw(glyph, data.fonts()) for glyph in glyphs.glyphs(1)[:count]]
    images, index = np.float32(drawn)[..., None] / 255, np.arange(count)
    return data.Split(images, index, images, index, index, classes=26)


@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_a_quarter_moves_the_centre_by_a_quarter(name):
    size = data.known(name).size
    drawn = name == "glyphs"
    split = letters(8) if drawn else data.split(name, size=size, train=0, test=8, seed=0)
    there = stability.nudged(name, split, 0.25)
    assert there.dtype == np.float32 and there.shape == split.test_images.shape

    def centre(images):
        mass = images.sum((1, 3))
        return mass @ np.arange(size) / mass.sum(-1)

    # Letters at the edge may lose a little; the median has not.
    moved = np.median(centre(there) - centre(split.test_images))
    assert moved == pytest.approx(0.25, abs=0.02)
    assert stability.nudged(name, split, 0) is split.test_images


@pytest.mark.usefixtures("usual_promotion")
def test_stability_runs_and_is_drawn(command, capsys, tmp_path):
    smoke = ["--preset", "smoke", "--results", tmp_path]
    command("run", "stability", *smoke, "--variants", "stride")
    command("check", "stability", "--results", tmp_path)
    assert "hold in all 1 stored cells" in capsys.readouterr().out
    command("report", "stability", *smoke)
    assert "2 of 2 cells are missing" in capsys.readouterr().out
    for picture in ("traces", "steps"):
        assert (tmp_path / "report" / f"stability-{picture}.png").stat().st_size > 5_000
    (cell,) = store.cells(tmp_path, "stability")
    assert cell.arrays["probabilities"].shape == (16, 4, 40)
    assert stability.numbers(cell)["part"] > 1e-4  # parts of a pixel are no theorem's


@pytest.mark.parametrize("narrow", [False, True])
def test_the_period_is_seen_in_the_picture_of_traces(narrow):
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgb

    trace = figures.Trace(np.full(65, 0.9), np.full(65, True))
    figure = figures.traces(["a"], {"max": [trace]}, 4, "x", "y", mark=8, narrow=narrow)
    figure.canvas.draw()
    column, row = figure.axes[0].transData.transform((8, 0.25)).round().astype(int)
    seen = np.asarray(figure.canvas.buffer_rgba())[::-1][row, column - 1 : column + 2, :3]
    faint, grid = (np.array(to_rgb(colour)) for colour in (figures.FAINT, "#E6E6E6"))
    assert np.abs(seen / 255 - faint).sum(1).min() < np.abs(seen / 255 - grid).sum(1).min()
    plt.close(figure)
