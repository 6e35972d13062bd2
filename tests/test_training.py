"""What experiments ask of training, and how long that goes on: nothing is trained here."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import (
    augmentation,
    consistency,
    continuum,
    equivariance,
    leakage,
    separability,
    shifts,
    stability,
    store,
    train,
    trained,
    transfer,
)


def silent(*_) -> None:
    pass


@pytest.fixture
def asked(monkeypatch) -> list[SimpleNamespace]:
    """What `train.fit` is asked for, by an experiment that gets parameters as they start."""
    calls = []

    def fit(net, images, labels, *, tick, **how):
        calls.append(SimpleNamespace(net=net, images=images, labels=labels, **how))
        return train.start(net, how["seed"], images.shape[1:]).params, [0.0]

    monkeypatch.setattr(train, "fit", fit)
    return calls


@pytest.mark.parametrize(
    ("module", "variant"),
    [
        (consistency, "max"),
        (leakage, "max"),
        (augmentation, "avg-zero-shifted"),
        (continuum, "avg"),
        (stability, "max"),
        (transfer, "stride@flat"),
    ],
)
def test_a_cell_is_trained_as_its_configuration_says(asked, module, variant):
    settings = {"learning_rate": 0.007, "target_loss": 0.4, "epochs": 5}
    found = []
    for seed in (0, 1, 1):
        (config,) = module.cells("smoke", variants=(variant,))[:1]
        config = replace(config, seed=seed, **settings)
        found.append(module.run(config, silent)[0])
        (*_, call) = asked
        assert (call.seed, call.target, call.epochs) == (seed, 0.4, 5)
        assert (call.learning_rate, call.batch) == (0.007, config.batch)
    one, two, again = (of["images"] for of in found)
    assert np.any(one != two)
    np.testing.assert_array_equal(two, again)


def test_poolings_of_one_seed_see_the_same_images(asked):
    for variant in ("max", "max_aps"):
        (config,) = stability.cells("smoke", variants=(variant,))
        stability.run(config, silent)
    np.testing.assert_array_equal(asked[0].images, asked[1].images)
    np.testing.assert_array_equal(asked[0].labels, asked[1].labels)


def test_what_nets_of_leakage_learn_is_the_place(asked):
    (config,) = leakage.cells("smoke", variants=("max",))
    leakage.run(config, silent)
    assert len(asked) == len(config.settings)
    for call, (padding, distance) in zip(asked, config.settings, strict=True):
        left, right = np.split(call.images, 2)
        np.testing.assert_array_equal(np.roll(left, distance, axis=2), right)
        np.testing.assert_array_equal(*map(np.unique, (call.labels, [0, 1])))
        assert not np.any(call.labels[: len(left)]) and np.all(call.labels[len(left) :])
        assert call.net.padding == padding


@pytest.mark.parametrize("variant", ["avg-zero-plain", "avg-zero-shifted"])
def test_images_are_shifted_in_training_where_they_are_to_be(asked, variant):
    (config,) = augmentation.cells("smoke", variants=(variant,))
    augmentation.run(config, silent)
    border = augmentation.BORDERS["zero"]
    (call,) = asked
    assert call.net.padding == border.padding
    if variant == "avg-zero-plain":
        assert call.change is None
    else:
        assert call.change is augmentation.jitter(border.family, config.near)


def test_pooling_learns_at_a_rate_of_its_own(asked):
    (config,) = continuum.cells("smoke", variants=("mixed-from-0.1",))
    continuum.run(config, silent)
    assert asked[0].pool_rate == config.pool_rate > 1


def test_stability_is_of_the_class_that_is_shown(asked, monkeypatch):
    given, measure = [], shifts.measure

    def recorded(*args, classes=None, **how):
        given.extend([classes] if classes is not None else [])  # answers alone need none
        return measure(*args, classes=classes, **how)

    monkeypatch.setattr(shifts, "measure", recorded)
    (config,) = stability.cells("smoke", variants=("max",))
    labels = stability.run(config, silent)[0]["labels"]
    assert len(given) == config.parts
    for classes in given:
        np.testing.assert_array_equal(classes, labels)


@pytest.mark.parametrize(("module", "variant"), [(equivariance, "max"), (separability, "max")])
def test_what_is_drawn_follows_the_seed(module, variant):
    (config,) = module.cells("smoke", variants=(variant,))[:1]
    one, two, again = (module.run(replace(config, seed=seed), silent)[0] for seed in (0, 1, 1))
    assert any(np.any(one[name] != two[name]) for name in one)
    for name, values in two.items():
        np.testing.assert_array_equal(values, again[name])


def test_deformations_follow_the_seed():
    (config,) = transfer.cells("smoke", variants=("max@circular",))[:1]
    images = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    one, two, again = (transfer._bent(images, replace(config, seed=seed)) for seed in (0, 1, 1))
    assert np.any(one != two)
    np.testing.assert_array_equal(two, again)


# --- how long ---


def lengths(monkeypatch, losses: list[float], **how) -> tuple[int, list[float]]:
    """How many epochs there are where each has such a loss, and the rates at their starts."""
    rates = []

    def step(net, change, state, images, labels, chosen, rate, *, pool_rate):
        rates.append(float(rate))
        return state, np.float32(losses[len(rates) - 1])

    monkeypatch.setattr(train, "start", lambda *_: SimpleNamespace(params=None))
    monkeypatch.setattr(train, "step", step)
    images, labels = np.zeros((4, 2, 2, 1), np.float32), np.zeros(4, np.int32)
    how = {"epochs": len(losses), "batch": 4, "learning_rate": 1.0, "seed": 0, "tick": silent} | how
    _, history = train.fit(None, images, labels, **how)
    np.testing.assert_allclose(history, losses[: len(history)])
    return len(history), rates


def test_training_ends_two_epochs_after_the_loss_is_low(monkeypatch):
    found, rates = lengths(monkeypatch, [1.0, 0.3, 0.9, 0.9, 0.0, 0.0], target=0.4)
    assert found == 2 + train.DOWN
    np.testing.assert_allclose(rates, [1, 1, 1, 0.5])


def test_training_that_stays_above_ends_with_its_epochs(monkeypatch):
    found, rates = lengths(monkeypatch, [1.0] * 5, target=0.4)
    assert found == 5
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 0.5])


def test_without_a_target_all_epochs_are_on_the_way_down(monkeypatch):
    found, rates = lengths(monkeypatch, [0.1] * 4)
    assert found == 4
    np.testing.assert_allclose(rates, (1 + np.cos(np.pi * np.arange(4) / 4)) / 2)


def test_nets_that_ran_out_of_epochs_are_counted():
    config = {"target_loss": 0.4}
    cells = [
        store.Cell(Path(), config, {"losses": losses}, {})
        for losses in ([0.5, 0.4, 0.3, 0.2], [0.9, 0.8, 0.3, 0.2], [0.3, 0.3])
    ]
    assert "2 of 3 nets ran out of epochs before" in trained.length(cells)
