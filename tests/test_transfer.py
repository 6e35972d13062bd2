"""The experiment of transfer: its deformations and numbers by hand, its check by damage."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from experiments import shifts, store, transfer
from experiments.config import UserError
from experiments.nets import VARIANTS, Net

RANDOM = np.random.default_rng(0)


# --- pictures ---


def test_a_field_is_of_few_waves_and_moves_nothing_as_a_whole():
    field = transfer.field(np.random.default_rng(1), 12, 2, 1.5)
    assert np.sqrt((field[0] ** 2 + field[1] ** 2).mean()) == pytest.approx(1.5)
    n = np.arange(12)
    waves = np.exp(-2j * np.pi * n[:, None] * n / 12)
    spectrum = np.abs(waves @ field @ waves.T)
    high = np.minimum(n, 12 - n) > 2
    assert spectrum[:, high].max() < 1e-10 and spectrum[..., high].max() < 1e-10
    assert spectrum[:, 0, 0].max() < 1e-10 and spectrum[:, 1, 2].min() > 1e-3


def test_a_constant_field_moves_pixels_and_half_of_one_is_the_mean_of_two():
    images = RANDOM.random((2, 6, 6, 3), np.float32)
    whole = np.zeros((2, 2, 6, 6))
    whole[:, 0], whole[:, 1] = 1, -2
    np.testing.assert_allclose(
        transfer.deformed(images, whole), np.roll(images, (-1, 2), (1, 2)), atol=1e-6
    )
    half = np.zeros((2, 2, 6, 6))
    half[1, 1] = 0.5
    got = transfer.deformed(images, half)
    np.testing.assert_allclose(got[0], images[0], atol=1e-6)
    mean = (images[1] + np.roll(images[1], -1, 1)) / 2
    np.testing.assert_allclose(got[1], mean, atol=1e-6)


def test_a_shrunk_picture_is_of_means():
    images = RANDOM.random((2, 6, 6, 1))
    got = transfer.shrunk(images, 3)
    assert got.shape == (2, 2, 2, 1)
    assert got[1, 1, 0, 0] == pytest.approx(images[1, 3:, :3].mean())


def test_places_begin_at_home():
    grid = transfer.places(24, 16, 4)
    assert grid.tolist() == [[a, b] for a in (0, 4, 8) for b in (0, 4, 8)]


@pytest.mark.parametrize("preset", ["quick", "full"])
def test_every_place_is_tested(preset):
    """Places that are all even would leave the first reduction nothing to do wrong."""
    config = transfer.cells(preset)[0]
    grid = transfer.places(config.size, config.side, config.step)
    assert {*map(tuple, grid.tolist())} == {(a, b) for a in range(17) for b in range(17)}


# --- layers and distances ---


def test_cosine_distances_are_of_angles():
    a, b = np.array([[1.0, 0], [2, 0], [1, 1]]), np.array([[0.0, 3], [5, 0], [-1, -1]])
    np.testing.assert_allclose(transfer.cosine_distance(a, b), [1, 0, 2], atol=1e-12)
    assert transfer.cosine_distance(0 * a, b).tolist() == [1, 1, 1]


def test_layers_end_behind_the_reduction(monkeypatch):
    """Where there is no pooling, that is the convolution, which the ReLU follows."""
    sides = {"Conv_0": 8, "Fixed_0": 4, "Conv_1": 4, "Fixed_1": 2, "Fixed_1/inner": 2, "Conv_2": 1}
    maps = {name: RANDOM.normal(size=(2, n, n, 3)) for name, n in sides.items()}
    monkeypatch.setattr(shifts, "layers", lambda *_: maps)
    images = RANDOM.random((2, 8, 8, 1))
    got = transfer.layers(Net(VARIANTS["max"]), {}, images)
    blocks = [np.maximum(maps[name], 0) for name in ("Fixed_0", "Fixed_1", "Conv_2")]
    expected = [images, *blocks, blocks[-1].mean((1, 2))]
    for layer, x in zip(got, expected, strict=True):
        np.testing.assert_array_equal(layer, x.reshape(2, -1))


# --- numbers, by hand ---

CONFIG = replace(transfer.cells("smoke", variants=["max@circular"])[0], test_images=4)


def cell(variant: str = "max@circular", seed: int = 0, **arrays: np.ndarray) -> store.Cell:
    """4 images at 9 places: the first two right everywhere, the third at home and 8 pixels away."""
    grid = transfer.places(24, 16, 4)
    labels = np.arange(4, dtype=np.uint8)
    predictions = np.tile(np.array([0, 1, 2, 9], np.uint8), (9, 1))
    predictions[(grid % 8).any(1), 2] = 5
    moved = np.zeros((3, 5, 4), np.float32) + np.array([0.1, 0.2, 0.3, 0.9], np.float32)
    stored = {
        "places": grid,
        "labels": labels,
        "images": np.arange(4) + 10 * seed,
        "predictions": predictions,
        "logits": np.eye(10, dtype=np.float32)[predictions[0]],
        "train_predictions": labels,
        "train_labels": np.array([0, 1, 2, 0], np.uint8),
        "moved": moved,
        "apart": np.full_like(moved, 0.5),
    }
    config = asdict(replace(CONFIG, variant=variant, seed=seed))
    return store.Cell(Path(), config, {}, stored | arrays)


def test_numbers_are_their_definitions():
    got = transfer.numbers(cell())
    assert got["home"] == got["train"] == 0.75
    assert got["elsewhere"] == pytest.approx(0.5)  # not at multiples of 8, where it is 0.75
    assert got["worst"] == 0.5
    assert got["kept"] == pytest.approx((0.5 - 0.1) / (0.75 - 0.1))  # of ten classes
    assert np.isnan(transfer.numbers(cell(labels=np.array([9, 9, 9, 0], np.uint8)))["kept"])
    assert got["same"] == pytest.approx(3 / 4)
    assert got["before block 3"] == pytest.approx(0.25 / 0.5)  # medians
    assert transfer.accuracy_map(cell()).tolist()[0] == [0.75, 0.5, 0.75]
    assert transfer.stability(cell()).shape == (3, 5)


@pytest.mark.parametrize("kind", transfer.KINDS)
def test_what_the_theorem_says_does_not_count_as_elsewhere(kind):
    at = ~(transfer.places(24, 16, 4) % 8).any(1)
    lost = cell().arrays["predictions"].copy()
    lost[at] = 9
    lost[0] = cell().arrays["predictions"][0]
    got, usual = (
        transfer.numbers(cell(f"max@{kind}", predictions=x))
        for x in (lost, cell().arrays["predictions"])
    )
    assert at.sum() == 4 and got == usual


def claims(*cells: store.Cell) -> dict[str, tuple[bool, str]]:
    return {c.expected: (c.holds, c.observed) for c in transfer.section(cells).claims}


def test_claims_are_judged_by_what_is_stored():
    lost = np.full((9, 4), 9, np.uint8)
    lost[0] = cell().arrays["predictions"][0]
    same = np.tile(lost[0], (9, 1))
    moved = cell().arrays["moved"]
    slow, fast = moved / 2, moved.copy()
    slow[-1], fast[-1] = 2 * moved[-1], moved[-1] / 2
    said = claims(
        *(cell("stride@circular", seed, moved=moved) for seed in range(7)),
        *(cell(seed=seed, moved=slow) for seed in range(7)),
        *(cell("avg@circular", seed, moved=fast) for seed in range(7)),
        *(cell("max_aps@circular", seed, moved=3 * fast, predictions=same) for seed in range(7)),
        cell("max@zero", predictions=lost),
        cell("max@flat", predictions=lost),
    )
    (flat,) = [seen for expected, seen in said.items() if "less than half" in expected]
    assert flat == (True, "-15 % to -15 %.")  # worse than a guess: (0 - 0.1) / (0.75 - 0.1)
    (zero,) = [
        seen for expected, seen in said.items() if expected.startswith("Zeros outside, global")
    ]
    assert not zero[0]
    (borders,) = [seen for expected, seen in said.items() if expected.startswith("More carries")]
    section = transfer.section([cell(), cell("max@zero")])
    sources = [c.source for c in section.claims if "home, beyond" in c.expected]
    sources += [c.source for c in section.claims if c.expected.startswith("More carries")]
    assert len(sources) == 3 and all(s.startswith("this project, after ") for s in sources)
    assert borders == (True, "in 1 of 1 pairs of nets.")
    before, after = [seen for expected, seen in said.items() if "is more stable" in expected][:2]
    base = "strided convolution 0.50 ± 0.00; from there max"  # polyphase sampling is not judged
    assert before == (None, f"{base} -0.25 (p = 0.031), average +0.00 (p = 1).")
    shrinks, _ = [seen for expected, seen in said.items() if "training takes" in expected]
    assert shrinks == (
        True,
        "max 0.50 to 2.00 (p = 0.016) times the effect with strided convolution.",
    )
    assert after == (False, f"{base} +0.50 (p = 0.031), average -0.25 (p = 0.031).")
    (exact,) = [seen for expected, seen in said.items() if "with APS at every" in expected]
    assert exact[0] and exact[1].startswith("0 of 28 (0 to 12 %) images")


def test_nets_are_compared_seed_by_seed_whichever_are_there():
    moved = cell().arrays["moved"]
    by_seed = [moved, 2 * moved, 3 * moved]
    stride = [cell("stride@circular", seed, moved=by_seed[seed]) for seed in (0, 1, 2)]
    some = [cell("max@circular", seed, moved=by_seed[seed]) for seed in (1, 2)]
    observed = [seen for what, (_, seen) in claims(*stride, *some).items() if "is more sta" in what]
    assert all(seen.endswith("from there max +0.00.") for seen in observed)


def test_what_training_takes_is_a_share_of_what_is_left():
    """All effects shrink in training, so a difference does, though pooling gains as a share."""
    moved = cell().arrays["moved"]
    stride, pooled = moved.copy(), moved / 2
    stride[-1], pooled[-1] = moved[-1] / 5, moved[-1] / 20
    said = claims(
        *(cell("stride@circular", seed, moved=stride) for seed in range(6)),
        *(cell(seed=seed, moved=pooled) for seed in range(6)),
    )
    taken, _ = [seen for expected, seen in said.items() if "training takes" in expected]
    assert taken == (
        False,
        "max 0.50 to 0.25 (p = 0.031) times the effect with strided convolution.",
    )
    equal = claims(cell("stride@circular"), cell())  # nothing is more stable, nothing is taken
    assert not [expected for expected in equal if "training takes" in expected]


def test_poolings_that_end_less_stable_are_as_expected():
    moved = cell().arrays["moved"]
    both = {"stride": moved, "max": 2 * moved}

    def verdicts(seeds: int) -> list:
        found = [cell(f"{v}@circular", s, moved=x) for v, x in both.items() for s in range(seeds)]
        return [seen[0] for what, seen in claims(*found).items() if "is more stable" in what]

    assert verdicts(6) == 2 * [False, True]  # at two layers
    assert verdicts(5) == 4 * [None]  # too few to say so


def test_six_seeds_are_tested():
    six = [
        cell(f"{name}@circular", seed, moved=cell().arrays["moved"] * (1 + seed / 10 + more))
        for seed in range(6)
        for name, more in (("stride", 0.5), ("max", 0))
    ]
    before, _ = [seen for expected, seen in claims(*six).items() if "before training" in expected]
    assert before[0] and "(p = 0.031)" in before[1]


def test_a_net_that_guesses_at_home_keeps_nothing_that_is_known():
    guess = cell("avg@flat", labels=np.array([9, 9, 9, 0], np.uint8))
    for found in ([cell("max@flat"), guess], [guess, cell("max@flat")]):
        (flat,) = [seen for what, seen in claims(*found).items() if "less than half" in what]
        assert flat == (False, "some nets are no better than a guess at home.")
    known = cell(
        "max@flat", predictions=np.where(np.arange(9)[:, None], 9, cell().arrays["predictions"][0])
    )
    (flat,) = [seen for what, seen in claims(known, guess).items() if "less than half" in what]
    assert flat[0] is None


@pytest.mark.parametrize("narrow", [False, True])
def test_poolings_that_are_not_among_the_pictured_are_drawn_alone(narrow):
    import matplotlib.pyplot as plt

    for picture in transfer.section([cell("avg@circular"), cell("l3@zero")]).pictures:
        plt.close(picture.draw(narrow))


# --- what is exact, by damage ---


def changed(name: str, at: tuple[int, ...], value: float) -> np.ndarray:
    array = cell().arrays[name].copy()
    array[at] = value
    return array


DAMAGE = [
    ("predictions", (2, 0), 7, "1 images are called otherwise at places where they must not be"),
    ("places", (1, 0), 3, "its places are not those of the grid"),
    ("logits", (0, 0), np.nan, "its logits are not finite"),
    ("logits", (0, 4), 2, "its answers at home are not the largest logits"),
    ("apart", (0, 4, 3), -0.5, "its distances are not those of angles"),
    ("moved", (1, 0, 0), np.nan, "its distances are not those of angles"),
]


@pytest.mark.parametrize(("name", "at", "value", "sentence"), DAMAGE)
def test_check_sees_damage(name, at, value, sentence):
    assert transfer.check(cell()) == []
    assert transfer.check(cell(**{name: changed(name, at, value)})) == [sentence]


def test_answers_may_change_where_nothing_is_exact():
    predictions = changed("predictions", (2, 0), 7)
    assert transfer.check(cell("max@zero", predictions=predictions)) == []
    # The third image changes at places that are no multiples of 8: not with APS.
    assert transfer.check(cell("max_aps@circular"))[0].startswith("1 images are called otherwise")
    assert transfer.check(cell("max_aps@zero")) == []


# --- the whole ---


@pytest.mark.usefixtures("usual_promotion")
def test_transfer_runs_and_is_drawn(command, capsys, tmp_path):
    smoke = ["--preset", "smoke", "--results", tmp_path]
    command("run", "transfer", *smoke, "--variants", "max@circular")
    command("check", "transfer", "--results", tmp_path)
    assert "hold in all 1 stored cells" in capsys.readouterr().out
    (stored,) = store.cells(tmp_path, "transfer")
    assert stored.arrays["predictions"].shape == (9, 64)
    moved = stored.arrays["moved"]
    assert moved.shape == (3, 5, 64) and (moved[0] != moved[-1])[1:].any()
    command("report", "transfer", *smoke)
    for picture in ("maps", "layers", "epochs"):
        assert (tmp_path / "report" / f"transfer-{picture}.png").stat().st_size > 5_000
    lines = (tmp_path / "report" / "transfer-circular.csv").read_text().splitlines()
    assert lines[0].startswith("data,variant,seed,home,train,elsewhere,") and len(lines) == 2
    capsys.readouterr()


def test_an_unknown_kind_of_net():
    with pytest.raises(UserError, match=r"Unknown variant 'max@zeros': .* Did you mean 'max@zero'"):
        transfer.cells("smoke", variants=["max@zeros"])
