"""Shifts, protocols and metrics against loops over small arrays, and against exact statements."""

from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments import metrics, shifts, train
from experiments.config import UserError
from experiments.nets import VARIANTS, Net

RANDOM = np.random.default_rng(0)


def images(*shape: int) -> np.ndarray:
    return RANDOM.random(shape, np.float32)


def moved(x: np.ndarray, shift, family: str, size: int = 0) -> np.ndarray:
    return np.asarray(shifts.move(jnp.asarray(x), jnp.asarray(shift), family, size))


# --- shifting ---


@pytest.mark.parametrize("shift", [(0, 0), (2, -1), (-3, 4), (5, 0), (-9, 9)])
def test_rolls_and_black_borders(shift):
    x = images(2, 5, 6, 3)
    down, right = shift
    rolled, filled = np.empty_like(x), np.zeros_like(x)
    for i, j in product(range(5), range(6)):
        rolled[:, i, j] = x[:, (i - down) % 5, (j - right) % 6]
        if 0 <= i - down < 5 and 0 <= j - right < 6:
            filled[:, i, j] = x[:, i - down, j - right]
    np.testing.assert_array_equal(moved(x, shift, "roll"), rolled)
    np.testing.assert_array_equal(moved(x, shift, "zero_fill"), filled)


def test_a_crop_moves_a_window_against_the_shift():
    x = images(2, 7, 7, 1)
    np.testing.assert_array_equal(moved(x, (0, 0), "crop", 4), x[:, 1:5, 1:5])
    np.testing.assert_array_equal(moved(x, (1, -2), "crop", 4), x[:, 0:4, 3:7])


@pytest.mark.parametrize("size", [5, 6])
def test_a_fractional_shift_is_the_interpolation_by_sines(size):
    x, (down, right) = images(1, size, size, 1), np.float32([0.25, -1.75])
    frequencies = np.fft.fftfreq(size) * size

    def phase(f: float, by: float) -> complex:
        """Half the highest frequency of an even side turns to either side."""
        turn = np.exp(-2j * np.pi * f * by / size)
        return turn.real if 2 * abs(f) == size else turn

    spectrum = np.fft.fft2(x[0, :, :, 0])
    for (i, f), (j, g) in product(enumerate(frequencies), repeat=2):
        spectrum[i, j] *= phase(f, down) * phase(g, right)
    got = moved(x, (down, right), "fractional")
    np.testing.assert_allclose(got[0, :, :, 0], np.fft.ifft2(spectrum).real, atol=1e-6)


@pytest.mark.parametrize("size", [7, 8])
def test_fractional_shifts_of_whole_pixels_and_of_waves(size):
    x = images(2, size, size, 2)
    here = moved(x, np.float32([3, -2]), "fractional")
    np.testing.assert_allclose(here, np.roll(x, (3, -2), (1, 2)), atol=1e-6)

    def wave(down: float) -> np.ndarray:
        rows = np.cos(2 * np.pi * 2 * (np.arange(size) - down) / size)
        return np.broadcast_to(rows[:, None], (1, size, size)).astype(np.float32)[..., None]

    np.testing.assert_allclose(
        moved(wave(0), np.float32([0.3, 0]), "fractional"), wave(0.3), atol=1e-6
    )


# --- protocols ---


@pytest.mark.parametrize(
    ("name", "size", "span", "margin", "title"),
    [
        ("zhang", 224, (-16, 15), 31, "crop 0..31 of 224 pixels, here -16..15 of 224, 2 agree"),
        ("zhang", 32, (-2, 2), 4, "crop 0..31 of 224 pixels, here -2..2 of 32, 2 agree"),
        ("chaman-cifar", 32, (-3, 2), 0, "roll -3..2 of 32 pixels, here -3..2 of 32, 2 agree"),
        ("chaman-cifar", 16, (-2, 1), 0, "roll -3..2 of 32 pixels, here -2..1 of 16, 2 agree"),
        ("chaman-imagenet", 224, (-32, 31), 0, "here -32..31 of 224, 2 agree"),
        ("lps", 32, (-5, 4), 0, "here -5..4 of 32, 2 agree"),
        ("alias-free", 224, (1, 31), 0, "here 1..31 of 224, against the unshifted"),
        ("alias-free", 32, (1, 4), 0, "roll 1..31 of 224 pixels, here 1..4 of 32, against"),
        ("exhaustive", 32, (0, 7), 0, "exhaustive: roll 0..7 of 32, against the unshifted"),
    ],
)
def test_protocols_scale_to_the_image(name, size, span, margin, title):
    protocol = shifts.protocol(name)
    assert protocol.span(size) == span and protocol.margin(size) == margin
    assert title in protocol.title(size)
    grid = protocol.shifts(size)
    low, high = span
    wanted = set(product(range(low, high + 1), repeat=2)) | {(0, 0)}
    assert grid[0].tolist() == [0, 0] and {tuple(shift) for shift in grid.tolist()} == wanted
    assert len(grid) == len(wanted) and grid.dtype == np.int32


def test_a_protocol_says_what_its_draws_would_say_on_average():
    p = RANDOM.integers(0, 3, (7, 11)).astype(np.uint8)
    rows, columns = range(7), range(11)
    pair = np.mean([p[s, i] == p[t, i] for s in rows for t in rows for i in columns])
    assert shifts.protocol("zhang").consistency(p) == pytest.approx(pair)
    drawn = product(rows, repeat=3)
    three = np.mean([len({*p[list(three), i]}) == 1 for three in drawn for i in columns])
    assert shifts.protocol("lps", samples=3).consistency(p) == pytest.approx(three)
    first = [[p[s, i] == p[0, i] for i in columns] for s in rows]
    assert shifts.protocol("exhaustive", period=4).consistency(p) == pytest.approx(np.mean(first))
    assert shifts.protocol("alias-free").consistency(p) == pytest.approx(np.mean(first[1:]))
    outside = replace(shifts.protocol("alias-free"), samples=2)  # the first row is not drawn
    assert outside.consistency(p) == pytest.approx(metrics.pair_consistency(p[1:]))


def test_an_unknown_protocol():
    with pytest.raises(UserError, match="Unknown protocol 'zang': write one of zhang, .*Did you"):
        shifts.protocol("zang")


# --- measuring ---


class Probe(nn.Module):
    """The logits are the first pixels of the first row."""

    @nn.compact
    def __call__(self, x):
        return 4 * x[:, 0, :3, 0]


@pytest.mark.parametrize("family", ["roll", "zero_fill", "crop", "fractional"])
def test_what_is_measured_is_what_the_net_says(family):
    x, size = images(9, 8, 8, 1), 6 if family == "crop" else 8
    kind = np.float32 if family == "fractional" else np.int32
    grid = np.array([[0, 0], [1, 0], [0, -1], [-1, 1]], kind)
    seen = []
    got = shifts.measure(Probe(), {}, x, grid, seen.append, family=family, size=size)
    assert seen == [9] * 4 and {k: v.dtype for k, v in got.items()} == {
        "logits": np.float32, "predictions": np.uint8, "top": np.float32, "distances": np.float32,
    }  # fmt: skip
    unshifted = 4 * moved(x, grid[0], family, size)[:, 0, :3, 0]
    np.testing.assert_allclose(got["logits"], unshifted, rtol=1e-6)
    for s, shift in enumerate(grid):
        z = 4 * moved(x, shift, family, size)[:, 0, :3, 0]
        for i in range(9):
            first = unshifted[i].argmax()
            assert got["predictions"][s, i] == z[i].argmax()
            probability = np.exp(z[i, first]) / np.exp(z[i]).sum()
            assert got["top"][s, i] == pytest.approx(probability, rel=1e-5)
            far = np.sqrt(((z[i] - unshifted[i]) ** 2).sum())
            assert got["distances"][s, i] == pytest.approx(far, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "shift", "size", "sentence"),
    [
        ("rol", [0, 0], 8, "Unknown family of shifts 'rol': write one of roll, zero_fill, frac"),
        ("roll", [0.5, 0], 8, "A roll is by whole pixels: write family='fractional'"),
        ("crop", [2, 0], 6, "go up to 2 pixels, but images of 8x8 have not so much around 6x6"),
        ("crop", [0, -2], 6, "go up to 2 pixels"),
        ("crop", [0, 0], 9, "have not so much around 9x9"),
    ],
)
def test_a_shift_that_cannot_be(family, shift, size, sentence):
    grid = np.array([shift])
    with pytest.raises(UserError, match=sentence):
        shifts.measure(Probe(), {}, images(1, 8, 8, 1), grid, family=family, size=size)


def test_zhang_on_images_with_his_margin():
    protocol = shifts.protocol("zhang")
    x = images(3, 32 + protocol.margin(32), 32 + protocol.margin(32), 1)
    got = shifts.measure(Probe(), {}, x, protocol.shifts(32), family="crop", size=32)
    corners = {x[0, i, j, 0] for i, j in product(range(5), repeat=2)}
    assert got["predictions"].shape == (25, 3) and len(corners) == 25
    np.testing.assert_allclose(got["logits"], 4 * x[:, 2, 2:5, 0])


# --- metrics ---


def test_the_change_of_the_probability():
    top = np.array([[0.5, 0.9], [0.4, 1.0], [0.5, 0.6]])
    assert metrics.probability_change(top) == pytest.approx((0.1 + 0.1 + 0.3) / 6)
    p = np.full((3, 2), 1, np.uint8)
    got = metrics.measure(p, p[0], p[0], p[0], top)
    assert got.probability_change == metrics.probability_change(top)
    assert np.isnan(metrics.measure(p, p[0], p[0], p[0]).probability_change)


def test_probabilities_of_large_logits():
    np.testing.assert_allclose(metrics.probabilities(np.float32([1e4, 1e4, -1e4])), [0.5, 0.5, 0])


def test_sensitivity_is_distance_over_distance_between_images():
    z, far = images(5, 3), images(4, 5)
    between = [np.linalg.norm(z[i] - z[j]) for i in range(5) for j in range(i)]
    expected = [np.mean(row) / np.median(between) for row in far]
    np.testing.assert_allclose(metrics.sensitivity(far, z), expected, rtol=1e-6)


def test_a_radial_profile_is_the_mean_over_a_ring():
    grid = shifts.signed(shifts.exhaustive(4), 4)
    assert sorted({down for down, _ in grid.tolist()}) == [-2, -1, 0, 1]
    values = RANDOM.random(16)
    lengths, means = metrics.radial(grid, values)
    assert lengths.tolist() == [0, 1, 2, 3]
    for length, mean in zip(lengths, means, strict=True):
        ring = [
            v for (i, j), v in zip(grid, values, strict=True) if round(np.hypot(i, j)) == length
        ]
        assert mean == pytest.approx(np.mean(ring))


def test_a_square_profile_is_the_mean_over_a_square_ring():
    grid = shifts.signed(shifts.exhaustive(4), 4)
    values = RANDOM.random(16)
    lengths, means = metrics.radial(grid, values, square=True)
    assert lengths.tolist() == [0, 1, 2]
    for length, mean in zip(lengths, means, strict=True):
        ring = [
            v for by, v in zip(grid.tolist(), values, strict=True) if max(map(abs, by)) == length
        ]
        assert mean == pytest.approx(np.mean(ring))


def test_the_relative_error():
    here, there = np.array([3.0, 4.0]), np.array([3.0, 5.0])
    assert metrics.relative_error(there, here, here) == pytest.approx(1 / 25)
    assert metrics.relative_error(0 * here, 0 * here, 0 * here) == 0


def test_layers_commute_with_what_their_strides_divide():
    net = Net(VARIANTS["avg"], (4, 4))
    params = train.start(net, 0, (16, 16, 1)).params
    x = images(3, 16, 16, 1)
    maps = shifts.layers(net, params, jnp.asarray(x))
    assert {name: y.shape[1:] for name, y in maps.items()} == {
        "Conv_0": (16, 16, 4), "Fixed_0": (8, 8, 4), "Conv_1": (8, 8, 4), "Fixed_1": (4, 4, 4),
    }  # fmt: skip
    assert list(maps) == ["Conv_0", "Fixed_0", "Conv_1", "Fixed_1"]
    by4, by2, by1 = (shifts.equivariance(net, params, x, (0, s)) for s in (4, 2, 1))
    exact = 1e-11  # of squares, in float32
    assert max(by4.values()) < exact and by2["Conv_1"] < exact and by1["Conv_0"] < exact
    assert by2["Fixed_1"] > 1e-4 and by1["Fixed_0"] > 1e-4
    # What the net returns is the rest of the net on its last map.
    weights = jax.tree.map(np.asarray, params["params"]["Dense_0"])
    rest = np.asarray(maps["Fixed_1"]).mean((1, 2)) @ weights["kernel"] + weights["bias"]
    np.testing.assert_allclose(net.apply(params, x), rest, atol=1e-5)
