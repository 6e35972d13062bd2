"""The experiments: metrics by brute force, storage that survives a kill, mistakes answered."""

import contextlib
import ctypes
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

import jaxpool
from experiments import (
    consistency,
    contenders,
    interrupts,
    metrics,
    quiet,
    runner,
    shifts,
    speed,
    steps,
    store,
    train,
    trained,
)
from experiments.__main__ import main
from experiments.config import Interrupted, UserError, canonical, choose, digest, study
from experiments.nets import VARIANTS, Net
from experiments.report import (
    Shown,
    chance,
    differences,
    interval,
    number,
    percent,
    render,
    spread,
    study_of,
)
from experiments.stats import Summary, summary

ROOT = Path(__file__).parent.parent
CONFIG = consistency.cells("smoke")[0]


def random_predictions(seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    predictions = random.integers(0, classes, (9, 30)).astype(np.uint8)
    labels = random.integers(0, classes, 30).astype(np.uint8)
    predictions[:, ::3] = predictions[0, ::3]  # some images with one answer
    labels[::6] = predictions[0, ::6]
    return predictions, labels


# --- metrics: the sums of the definitions, written as loops ---


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_their_definitions(seed):
    p, y = random_predictions(seed)
    shifts_, images = map(range, p.shape)
    pairs = [p[s, i] == p[t, i] for i in images for s in shifts_ for t in shifts_]
    chance = [
        p[s, i] == p[t, j] for s, t in product(shifts_, shifts_) for i in images for j in images
    ]
    same = [p[s, i] == p[0, i] for s in shifts_ for i in images]
    when_right = [p[s, i] == p[0, i] for s in shifts_ for i in images if p[0, i] == y[i]]
    got = metrics.measure(p, y, y[:5], y[:5])
    assert got.pair == pytest.approx(np.mean(pairs))
    assert got.reference == pytest.approx(np.mean(same))
    assert got.stable == pytest.approx(np.mean([len(set(p[:, i])) == 1 for i in images]))
    assert got.worst_case == pytest.approx(np.mean([set(p[:, i]) == {y[i]} for i in images]))
    assert got.accuracy == pytest.approx(np.mean([p[0, i] == y[i] for i in images]))
    assert got.shifted_accuracy == pytest.approx(
        np.mean([p[s, i] == y[i] for s in shifts_ for i in images])
    )
    assert got.reference_when_right == pytest.approx(np.mean(when_right))
    expected = np.mean(chance)
    assert got.kappa == pytest.approx((np.mean(pairs) - expected) / (1 - expected))
    assert got.train_accuracy == 1


def test_a_constant_classifier_is_consistent_and_has_no_kappa():
    p, y = np.full((9, 30), 3, np.uint8), np.arange(30, dtype=np.uint8) % 10
    got = metrics.measure(p, y, y, y)
    assert got.pair == got.reference == got.stable == 1
    assert got.kappa == 0
    assert got.accuracy == got.worst_case == pytest.approx(0.1)


def test_consistency_where_right_is_nan_where_nothing_is_right():
    p, y = np.zeros((4, 5), np.uint8), np.ones(5, np.uint8)
    assert np.isnan(metrics.measure(p, y, y, y).reference_when_right)


def test_agreement_is_a_map_over_shifts():
    p = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [3, 2, 1, 0]], np.uint8)
    np.testing.assert_allclose(metrics.agreement(p), [1, 0.75, 0])


def test_percent_shows_a_spread_only_where_there_is_one():
    assert percent(np.array([0.5])) == "50.0"
    assert percent(np.array([0.4, 0.5, 0.6])) == "50.0 ± 10.0"


# --- shifts and nets ---


def test_the_shifts_of_one_period_and_their_multiples():
    grid = shifts.exhaustive(8)
    assert grid.shape == (64, 2) and grid[0].tolist() == [0, 0] and grid[9].tolist() == [1, 1]
    assert len({tuple(shift) for shift in grid}) == 64
    far = shifts.multiples(8, 32)
    assert len(far) == 15 and not (far % 8).any() and far.any(axis=1).all()
    everything = {tuple((a + b) % 32) for a in grid for b in np.vstack([far, [[0, 0]]])}
    assert len(everything) == 32 * 32


def test_every_variant_starts_from_the_same_parameters():
    nets = [train.start(Net(v, (4, 4)), 7, (8, 8, 1)).params["params"] for v in VARIANTS.values()]
    for net in nets[1:]:
        shared = {name: net[name] for name in nets[0]}
        jax.tree.map(np.testing.assert_array_equal, nets[0], shared)


@pytest.mark.parametrize("variant", ["stride", "softmax"])
def test_an_untrained_net_depends_on_the_shift_modulo_the_period(variant):
    net = Net(VARIANTS[variant], (4, 4))
    params = train.start(net, 0, (16, 16, 1)).params
    images = np.random.default_rng(0).random((5, 16, 16, 1), np.float32)
    here = shifts.logits(net, params, images)
    assert here.shape == (5, 10)
    for down, right in shifts.multiples(4, 16)[::4]:
        there = shifts.logits(net, params, np.roll(images, (down, right), (1, 2)))
        np.testing.assert_allclose(there, here, atol=1e-5)
    moved = shifts.logits(net, params, np.roll(images, (1, 2), (1, 2)))
    assert np.abs(moved - here).max() > 1e-4
    answers = shifts.predictions(net, params, images, np.array([[0, 0], [1, 2]], np.int32))
    np.testing.assert_array_equal(answers, [here.argmax(-1), moved.argmax(-1)])


@pytest.mark.parametrize("variant", [name for name, v in VARIANTS.items() if v.exact])
def test_an_exact_variant_does_not_depend_on_the_shift(variant):
    net = Net(VARIANTS[variant], (4, 4))
    params = train.start(net, 0, (16, 16, 1)).params
    images = np.random.default_rng(0).random((5, 16, 16, 1), np.float32)
    here = shifts.logits(net, params, images)
    for shift in shifts.exhaustive(4):
        there = shifts.logits(net, params, np.roll(images, shift, (1, 2)))
        np.testing.assert_allclose(there, here, atol=1e-5)


def test_the_data_order_is_one_permutation_per_epoch():
    order = train.batches(70, batch=32, epochs=3, seed=5)
    assert order.shape == (3, 2, 32)
    for epoch in order.reshape(3, -1):
        assert len(set(epoch.tolist())) == 64
    np.testing.assert_array_equal(order, train.batches(70, batch=32, epochs=3, seed=5))
    assert (order != train.batches(70, batch=32, epochs=3, seed=6)).any()
    assert (order[0] != order[1]).any()


# --- configuration ---


def test_the_hash_of_a_configuration_never_changes():
    config = consistency.Config(
        data="mnist5k", variant="max", seed=1, size=32, train_images=4000, test_images=256, epochs=4
    )
    assert canonical(config) == (
        '{"batch":128,"data":"mnist5k","epochs":4,"experiment":"consistency","learning_rate":0.003,'
        '"probe_images":512,"seed":1,"shifts":"exhaustive","size":32,"target_loss":0.0,"test_images":256,"train_images":4000,'
        '"variant":"max","widths":[16,32,64]}'
    )
    assert digest(config) == "4a17a939"
    assert digest(replace(config, epochs=5)) != digest(config)


def test_cells_of_a_study_differ_in_variant_and_seed_only():
    cells = consistency.cells("quick")
    assert len(cells) == len({digest(cell) for cell in cells}) == 3 * len(consistency.FEW)
    assert len({study(asdict(cell)) for cell in cells}) == 1
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert study(asdict(cells[0])) != study(asdict(replace(cells[0], epochs=1)))


def test_choose_suggests_what_is_close():
    with pytest.raises(
        UserError, match="Unknown variant 'maxx': write one of avg, max. Did you mean"
    ):
        choose("variant", "maxx", ["avg", "max"])


def test_a_canvas_that_the_strides_do_not_divide():
    with pytest.raises(UserError, match="size=28 is not a multiple of 8.*pad to 32"):
        consistency.work(replace(CONFIG, size=28))


# --- storage ---

ARRAYS = {"predictions": np.arange(6, dtype=np.uint8).reshape(2, 3)}


def test_a_cell_comes_back_as_it_was_stored(tmp_path):
    target = store.save(tmp_path, CONFIG, {"losses": [1.5]}, ARRAYS)
    name = f"consistency/digits/stride/seed=0-{digest(CONFIG)}.json"
    assert target.relative_to(tmp_path).as_posix() == name
    cell = store.load(target)
    assert cell is not None
    assert cell.config == json.loads(canonical(CONFIG)) and cell.facts == {"losses": [1.5]}
    np.testing.assert_array_equal(cell.arrays["predictions"], ARRAYS["predictions"])
    assert len(list(target.parent.iterdir())) == 2  # no drafts
    assert [c.path for c in store.cells(tmp_path, "consistency")] == [target]


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_torn_file_is_no_result(tmp_path, suffix, keep):
    target = store.save(tmp_path, CONFIG, {}, ARRAYS)
    torn = target.with_suffix(suffix)
    content = torn.read_bytes()
    torn.write_bytes(content[: int(keep * len(content))])
    assert store.load(target) is None
    assert list(store.cells(tmp_path, "consistency")) == []


def test_predictions_of_another_run_are_no_result(tmp_path):
    target = store.save(tmp_path, CONFIG, {}, ARRAYS)
    other = store.save(tmp_path / "other", CONFIG, {}, {"predictions": ARRAYS["predictions"] + 1})
    target.with_suffix(".npz").write_bytes(other.with_suffix(".npz").read_bytes())
    assert store.load(target) is None


def test_stopped_between_the_two_files(tmp_path, monkeypatch):
    write = store.write

    def stops_before_json(target, content):
        if target.suffix == ".json":
            raise KeyboardInterrupt
        write(target, content)

    monkeypatch.setattr(store, "write", stops_before_json)
    with pytest.raises(KeyboardInterrupt):
        store.save(tmp_path, CONFIG, {}, ARRAYS)
    assert store.load(store.path(tmp_path, CONFIG)) is None


def test_a_draft_left_behind_is_swept(tmp_path):
    target = store.path(tmp_path, CONFIG)
    target.parent.mkdir(parents=True)
    stopped = subprocess.Popen([sys.executable, "-c", ""])
    stopped.wait()
    left, at_work, elsewhere = (
        target.parent / f".{target.name}.{owner}"
        for owner in (f"{store.HOST}.{stopped.pid}", f"{store.HOST}.{os.getppid()}", "host.a.12345")
    )
    for draft in (left, at_work, elsewhere):
        draft.write_bytes(b"half")
    store.save(tmp_path, CONFIG, {}, ARRAYS)
    assert not left.exists() and at_work.exists() and elsewhere.exists()
    for draft in (at_work, elsewhere):
        os.utime(draft, (0, 0))  # too old to be at work
    store.save(tmp_path, CONFIG, {}, ARRAYS)
    assert len(list(target.parent.iterdir())) == 2


def test_results_of_another_version_are_refused(tmp_path):
    target = store.save(tmp_path, CONFIG, {}, ARRAYS)
    record = json.loads(target.read_text())
    target.write_text(json.dumps(record | {"format": 0}))
    with pytest.raises(UserError, match=r"another version \(format 0, this one reads 1\)"):
        store.load(target)
    target.write_text('{"no": "format"}')
    with pytest.raises(UserError, match=r"another version \(format None.*Nothing was overwritten"):
        runner.run(fake(lambda *_: pytest.fail("ran")), [CONFIG], root=tmp_path)
    assert target.read_text() == '{"no": "format"}'


@pytest.mark.parametrize("damage", ["another seed", "no arrays", "torn arrays", "no sum"])
def test_damaged_cells_are_counted_and_measured_again(tmp_path, capfd, damage):
    store.save(tmp_path, replace(CONFIG, seed=1), {}, ARRAYS)
    target = store.save(tmp_path, CONFIG, {}, ARRAYS)
    record, packed = json.loads(target.read_text()), target.with_suffix(".npz")
    if damage == "another seed":
        record["config"]["seed"] = 7
    elif damage == "no arrays":
        packed.unlink()
    elif damage == "torn arrays":
        packed.write_bytes(packed.read_bytes()[:-10])
    else:
        del record["sha256"]
    target.write_text(json.dumps(record))
    assert store.load(target) is None
    assert [cell.seed for cell in store.cells(tmp_path, "consistency")] == [1]
    said = capfd.readouterr().err
    assert said.startswith("1 of the cells in ") and f"{target} is the first" in said


def test_other_settings_are_of_another_version_and_left_out(tmp_path, monkeypatch, capfd):
    target = store.save(tmp_path, CONFIG, {}, ARRAYS)
    record = json.loads(target.read_text())
    del record["config"]["probe_images"]
    theirs = target.with_name(f"seed=0-{digest(record['config'])}.json")
    target.with_suffix(".npz").rename(theirs.with_suffix(".npz"))
    target = target.rename(theirs)
    target.write_text(json.dumps(record))
    before = target.read_bytes()
    said = "Another version wrote 1 of the cells in .*consistency.* stay as they are"
    for command in ["check"], ["report", "--preset", "smoke"]:
        monkeypatch.setattr("sys.argv", ["x", *command, "--results", str(tmp_path)])
        with pytest.raises(SystemExit):
            main()
        errors = capfd.readouterr().err
        assert re.search(said, errors) and "There is no finished cell" in errors
    assert target.read_bytes() == before


# --- a full disk ---


@pytest.fixture
def full_disk(monkeypatch):
    """Writing takes some bytes, and then no more."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def test_a_full_disk_is_said_and_tears_nothing(tmp_path, monkeypatch, request):
    cells = [replace(CONFIG, seed=seed) for seed in range(3)]

    def run(config, tick):
        if config.seed == 1:
            while not store.path(tmp_path, cells[0]).exists():  # which another thread writes
                time.sleep(0.01)
            request.getfixturevalue("full_disk")
        return ARRAYS, {"losses": [0.5]}

    said = "There is no space left to write .*seed=[12]-.* goes on"
    with pytest.raises(UserError, match=said):
        runner.run(fake(run), cells, root=tmp_path, workers=1)
    assert [cell.seed for cell in store.cells(tmp_path, "consistency")] == [0]
    assert len(list(store.path(tmp_path, CONFIG).parent.iterdir())) == 2  # of seed 0, no drafts


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_keeps_what_was_there(tmp_path):
    report = tmp_path / "consistency.html"
    report.write_text("before")
    with pytest.raises(UserError, match="no space left to write .*consistency.html"):
        store.write(report, b"after")
    assert report.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_a_disk_without_room_for_a_folder(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(UserError, match="no space left to write .*seed=0"):
        store.save(tmp_path, CONFIG, {}, ARRAYS)


# --- the runner, with an experiment that does nothing ---


def fake(run):
    module = types.ModuleType("fake")
    vars(module).update(work=lambda config: 1, run=run)
    return module


def test_an_experiment_prepares_before_there_are_threads(tmp_path):
    threads = []
    experiment = fake(lambda *_: threads.append(threading.active_count()) or (ARRAYS, {}))
    experiment.prepare = lambda: threads.append(threading.active_count())
    before = threading.active_count()
    runner.run(experiment, [CONFIG], root=tmp_path, workers=1)
    prepared, ran = threads
    assert prepared == before < ran


def test_ctrl_c_keeps_what_is_finished(tmp_path, request):
    import _thread

    # In a background job of a shell, Ctrl-C is ignored unless one listens.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def run(config, tick):
        tick(1, 0.5)
        if config.seed == 1:
            _thread.interrupt_main()
            for _ in range(1000):
                time.sleep(0.01)
                tick(0, None)
        return ARRAYS, {"losses": [0.5]}

    cells = [replace(CONFIG, seed=seed) for seed in range(4)]
    with pytest.raises(Interrupted, match="1 of 4 cells are finished and kept"):
        runner.run(fake(run), cells, root=tmp_path, workers=1)
    assert [cell.seed for cell in store.cells(tmp_path, "consistency")] == [0]


@pytest.fixture
def listens():
    """Ctrl-C is heard, as in a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallowed() -> None:
    """Ctrl-C, in a place that answers every exception."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("listens")
def test_ctrl_c_stops_a_run_whatever_became_of_it(tmp_path):
    cells = [replace(CONFIG, seed=seed) for seed in range(2)]

    def run(config, tick):
        for _ in range(1000):
            time.sleep(0.01)
            tick(0, None)
        pytest.fail("went on")

    with interrupts.remembered():
        swallowed()
        with pytest.raises(Interrupted, match="0 of 2 cells are finished and kept"):
            runner.run(fake(run), cells, root=tmp_path, workers=1)
    interrupts.answer()  # another command knows nothing of it
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("listens")
def test_ctrl_c_waits_for_the_end_of_an_import_but_only_once():
    ended = []

    def importing():
        with interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
            ended.append(True)

    with interrupts.remembered(), pytest.raises(KeyboardInterrupt):
        importing()
    assert ended
    with interrupts.remembered(), interrupts.deferred():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts._seen.clear()


def test_ctrl_c_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.remembered():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
            interrupts.answer()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("two_experiments", "listens")
@pytest.mark.parametrize("error", [None, ImportError, SystemError])
@pytest.mark.parametrize("line", ["run one --preset small", "run all --preset small", "check two"])
def test_ctrl_c_while_an_experiment_is_imported(monkeypatch, capfd, tmp_path, line, error):
    def importing(name):
        swallowed()
        if error:
            raise error("of an interrupt")
        return sys.modules[name]

    monkeypatch.setattr("experiments.__main__.import_module", importing)
    with pytest.raises(SystemExit) as stopped:
        ran(monkeypatch, tmp_path, line)
    said = capfd.readouterr().err
    assert stopped.value.code == 130 and "Stopped. " in said and "the same command goes on" in said
    assert not list(store.cells(tmp_path, "one"))


def test_finished_cells_are_skipped_and_a_failure_is_raised(tmp_path):
    cells = [replace(CONFIG, seed=seed) for seed in range(3)]

    def fails(config, tick):
        if config.seed == 1:
            raise UserError("no")
        return ARRAYS, {"losses": [0.5]}

    with pytest.raises(UserError, match="no"):
        runner.run(fake(fails), cells, root=tmp_path, workers=1)
    done = runner.run(fake(lambda *_: (ARRAYS, {"losses": [0.5]})), cells, root=tmp_path, workers=2)
    assert done.found >= 1 and done.ran + done.found == 3
    again = runner.run(fake(lambda *_: pytest.fail("ran again")), cells, root=tmp_path)
    assert (again.ran, again.found) == (0, 3)


def test_durations_for_people():
    assert [runner.duration(s) for s in (0.4, 59, 61, 3725)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 02 min",
    ]


# --- the command line ---

MISTAKES = [
    (
        "run consistancy",
        "Unknown experiment 'consistancy': write one of consistency, equivariance,",
    ),
    ("run consistency --preset fast", "Unknown preset 'fast': write one of smoke, quick, full."),
    ("run consistency --data mnist", "or hf:name of Hugging Face. Did you mean 'mnist5k'?"),
    ("run consistency --data no/such", "There is no file or folder no/such."),
    ("run consistency --data . --image-size 0", "--image-size is 0, but must be at least 1."),
    ("run consistency --data .", "There are no images in .: I looked for IDX files"),
    ("run consistency --variants maximum", "Unknown variant 'maximum': write one of stride, max,"),
    ("run consistency --seeds 0", "--seeds is 0, but must be at least 1."),
    ("run consistency --workers 0", "--workers is 0, but must be at least 1."),
    ("run consistency --data digits", "has 1,797 images, but the preset asks for 4,000"),
    ("run al", "Unknown experiment 'al': write one of consistency, equivariance,"),
    ("run all --preset fast", "Unknown preset 'fast': write one of smoke, quick, full."),
    ("run all --variants max --data digits", "--data and --variants cannot be given for all"),
    ("run all --skip-damaged", "--skip-damaged cannot be given for all"),
    ("run all --protocol zhang", "--protocol cannot be given for all"),
    (
        "run consistency --protocol zang",
        "Unknown protocol 'zang': write one of zhang, chaman-cifar",
    ),
    ("run transfer --protocol zhang", "--protocol says how consistency is measured, and transfer"),
    ("report all --protocol zhang", "--protocol says how consistency is measured, and all is no"),
    (
        "report consistency --protocol lps",
        "run `python -m experiments run consistency --preset quick --data mnist5k --protocol lps`",
    ),
    ("run consistency --image-size 16", "are for images of your own: write --data PATH, too."),
    ("report --preset quick", "first run `python -m experiments run consistency --preset quick"),
    ("check", "first run `python -m experiments run consistency`."),
]


@pytest.mark.parametrize(("line", "sentence"), MISTAKES)
def test_a_mistake_is_answered_by_one_sentence(monkeypatch, capfd, tmp_path, line, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["experiments", *line.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    errors = capfd.readouterr().err
    assert stopped.value.code == 2
    assert sentence in errors and len(errors.strip().splitlines()) == 1


def test_a_report_says_which_presets_there_are(monkeypatch, capfd, tmp_path):
    cell = answered("max", 0, 6, 4)
    config = consistency.Config(**cell.config)
    store.save(tmp_path / "results", config, cell.facts, cell.arrays)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["experiments", "report", "consistency"])
    with pytest.raises(SystemExit):
        main()
    there = "or show what there is by `python -m experiments report consistency --preset smoke"
    assert there in capfd.readouterr().err


def test_a_folder_that_cannot_be_written(monkeypatch, capfd, tmp_path):
    (tmp_path / "file").write_text("")
    line = ["run", "equivariance", "--preset", "smoke", "--variants", "max", "--results"]
    monkeypatch.setattr("sys.argv", ["experiments", *line, str(tmp_path / "file" / "inside")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capfd.readouterr().err
    assert "The results cannot be read or written: " in said and str(tmp_path / "file") in said
    assert "Traceback" not in said


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_folder_is_tried_before_anything_is_measured(tmp_path, monkeypatch, what):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    owner, name = (Path, "mkdir") if what == "folder" else (store.tempfile, "TemporaryFile")
    monkeypatch.setattr(owner, name, refused)
    folder = re.escape(str(store.path(tmp_path, CONFIG).parent))
    said = f"The results cannot be read or written: {folder}: Permission denied. Name another"
    with pytest.raises(UserError, match=said):
        runner.run(fake(lambda *_: pytest.fail("ran")), [CONFIG], root=tmp_path)


def test_a_folder_that_was_tried_is_empty(tmp_path):
    store.probe(tmp_path / "new")
    assert (tmp_path / "new").is_dir() and not list((tmp_path / "new").iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "report.html"
    with pytest.raises(UserError, match=f"cannot be read or written: {target}: File exists"):
        store.write(target, b"")


def test_list_names_everything(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["experiments", "list"])
    main()
    text = capsys.readouterr().out
    for name in ("consistency", "quick", "mnist5k", *VARIANTS):
        assert name in text


# --- all experiments at once ---


@pytest.fixture
def two_experiments(monkeypatch):
    """Two experiments that do nothing, of which the second has no large preset."""
    found = {}
    for name, presets in (("one", ("small", "large")), ("two", ("small",))):
        module = fake(lambda config, tick: (ARRAYS, {}))
        vars(module).update(
            NAME=name,
            PRESETS=dict.fromkeys(presets),
            Config=consistency.Config,
            cells=lambda preset, data=None, seeds=None, variants=(), name=name: [
                replace(CONFIG, experiment=name, seed=seed) for seed in range(seeds or 2)
            ],
            check=lambda cell: ["it is odd"] if cell.seed == 2 else [],
        )
        monkeypatch.setitem(sys.modules, f"experiments_{name}", module)
        found[name] = f"experiments_{name}"
    monkeypatch.setattr("experiments.__main__.EXPERIMENTS", found)


def ran(monkeypatch, results: Path, line: str) -> None:
    monkeypatch.setattr("sys.argv", ["experiments", *line.split(), "--results", str(results)])
    main()


@pytest.mark.usefixtures("two_experiments")
def test_all_experiments_run_one_after_the_other_and_resume(monkeypatch, capsys, tmp_path):
    ran(monkeypatch, tmp_path, "run all --preset small")
    said = capsys.readouterr().out
    assert "[1/2] one: 2 cells, 2 now (0 s), 0 before\n" in said
    assert "[2/2] two: 2 cells, 2 now (0 s), 0 before\n" in said
    assert f"All 2 experiments are finished in {tmp_path}: 4 cells, 4 now" in said
    assert said.endswith(f"Now: python -m experiments check all --results {tmp_path}\n")
    ran(monkeypatch, tmp_path, "run all --preset large --seeds 3")
    said = capsys.readouterr().out
    assert "two has no preset large: it runs in its largest, small.\n" in said
    assert "6 cells, 2 now (0 s), 4 before" in said


@pytest.mark.usefixtures("two_experiments")
def test_all_stored_cells_are_checked(monkeypatch, capfd, tmp_path):
    with pytest.raises(SystemExit):
        ran(monkeypatch, tmp_path, "check all")
    said = capfd.readouterr().err
    assert f"any experiment in {tmp_path}: first run `python -m experiments run all --res" in said
    ran(monkeypatch, tmp_path, "run two --preset small")
    ran(monkeypatch, tmp_path, "check all")
    said = capfd.readouterr().out
    assert "There is no finished cell of one.\n" in said and "all 2 stored cells of two" in said
    ran(monkeypatch, tmp_path, "run all --preset small --seeds 3")
    with pytest.raises(SystemExit) as stopped:
        ran(monkeypatch, tmp_path, "check all")
    broken = capfd.readouterr().err.splitlines()
    assert stopped.value.code == 1 and len(broken) == 2
    assert all("seed=2" in line and line.endswith("it is odd.") for line in broken)


# --- the whole, in processes that are killed ---


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "experiments", *map(str, words)]


def process(cache: Path, *words: object) -> subprocess.Popen:
    """A run; what one has compiled, the next finds in the cache."""
    seconds = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
    return subprocess.Popen(
        command(*words),
        cwd=ROOT,
        text=True,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), seconds: "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(run: subprocess.Popen) -> str:
    output, errors = run.communicate()
    assert run.returncode == 0, errors
    return output


def finished(results: Path) -> dict[str, dict[str, np.ndarray]]:
    cells = store.cells(results, "consistency")
    return {str(c.path.relative_to(results)): c.arrays for c in cells}


@pytest.fixture(scope="module")
def study_killed_once(tmp_path_factory):
    """Results of an undisturbed run, of one that was killed and resumed, and what was seen."""
    killed, whole, cache = map(tmp_path_factory.mktemp, ("killed", "whole", "cache"))
    smoke = ("run", "consistency", "--preset", "smoke", "--variants", "stride", "max")
    finish(process(cache, *smoke, "--results", whole))
    run = process(cache, *smoke, "--results", killed, "--workers", 1)
    while not finished(killed) and run.poll() is None:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    after_kill = finished(killed)
    said = finish(process(cache, *smoke, "--results", killed))
    return types.SimpleNamespace(killed=killed, whole=whole, after_kill=after_kill, said=said)


def test_a_killed_run_loses_no_finished_cell(study_killed_once):
    seen = study_killed_once
    assert 0 < len(seen.after_kill) < 4
    killed, whole = finished(seen.killed), finished(seen.whole)
    assert killed.keys() == whole.keys() and len(whole) == 4
    for name, arrays in whole.items():
        for key, value in arrays.items():
            np.testing.assert_array_equal(killed[name][key], value, err_msg=f"{name}: {key}")
    assert f"{4 - len(seen.after_kill)} now" in seen.said
    assert f"{len(seen.after_kill)} before" in seen.said


def test_the_nets_learn_and_repeat_after_eight_pixels(study_killed_once):
    for cell in store.cells(study_killed_once.whole, "consistency"):
        assert consistency.check(cell) == []
        assert cell.arrays["predictions"].shape == (64, 100)
        same = cell.arrays["period_predictions"] == cell.arrays["predictions"][0]
        assert same.all()
        assert cell.facts["losses"][-1] < cell.facts["losses"][0]
        assert consistency.shift_map(cell)[0, 0] == 1


def test_a_second_run_and_a_report_only_draw(study_killed_once, monkeypatch, capsys, tmp_path):
    results = study_killed_once.whole
    smoke = ["--preset", "smoke", "--results", str(results)]
    monkeypatch.setattr("sys.argv", ["x", "run", "consistency", *smoke, "--variants", "max"])
    main()
    said = capsys.readouterr().out
    assert "0 now (0 s), 2 before" in said
    report = f"report consistency --preset smoke --data digits --results {results}"
    assert said.endswith(f" {report}\n")
    monkeypatch.setattr("sys.argv", ["x", "report", *smoke, "--out", str(tmp_path)])
    main()
    text = capsys.readouterr().out
    assert "2 of 6 cells are missing" in text
    assert "strided" in text and "2 seeds" in text
    names = {path.name for path in tmp_path.iterdir()}
    stems = ("consistency-pareto", "consistency-maps")
    assert names == {f"consistency.{kind}" for kind in ("html", "md", "csv")} | {
        f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")
    }
    page = (tmp_path / "consistency.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "http" not in page
    lines = (tmp_path / "consistency.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[0].startswith("data,variant,seed,accuracy,")


def test_check_names_the_cell_that_breaks_a_statement(
    study_killed_once, monkeypatch, capfd, tmp_path
):
    cell = next(store.cells(study_killed_once.whole, "consistency"))
    config = consistency.Config(**cell.config | {"widths": tuple(cell.config["widths"])})
    store.save(tmp_path, config, cell.facts, cell.arrays)
    monkeypatch.setattr("sys.argv", ["x", "check", "--results", str(tmp_path)])
    main()
    assert "hold in all 1 stored cells" in capfd.readouterr().out
    wrong = cell.arrays["period_predictions"].copy()
    wrong[1, 2] = (wrong[1, 2] + 1) % 10
    store.save(tmp_path, config, cell.facts, cell.arrays | {"period_predictions": wrong})
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    error = capfd.readouterr().err
    assert str(store.path(tmp_path, config)) in error
    assert "1 answers change at shifts by multiples of the period" in error
    answers = cell.arrays["predictions"].copy()
    answers[1:, 0] = (answers[0, 0] + 1) % 10
    exact = replace(config, variant="max_aps")
    store.save(tmp_path, exact, cell.facts, cell.arrays | {"predictions": answers})
    with pytest.raises(SystemExit):
        main()
    assert "answers change with the shift, though none may" in capfd.readouterr().err


def answered(variant: str, seed: int, right: int, moved: int) -> store.Cell:
    """A cell of eight images: so many are right, and so many are called otherwise when shifted."""
    config = replace(consistency.cells("smoke")[0], variant=variant, seed=seed)
    grid, periods = consistency._protocol(config)
    labels = np.arange(8, dtype=np.uint8)
    predictions = np.tile(np.where(labels < right, labels, 9).astype(np.uint8), (len(grid), 1))
    arrays = {
        "shifts": grid,
        "logits": np.eye(10, dtype=np.float32)[predictions[0]],
        "top": np.ones((len(grid), 8), np.float32),
        "period_shifts": periods,
        "period_predictions": np.tile(predictions[0], (len(periods), 1)),
        "labels": labels,
        "images": np.arange(8) + 10 * (seed % 5),
        "train_predictions": labels,
        "train_labels": labels,
    }
    predictions[1:, :moved] = 8
    return store.Cell(Path(variant), vars(config), {}, arrays | {"predictions": predictions})


def test_the_most_consistent_at_no_cost_is_named_once_there_are_seeds_enough():
    def section(seeds: int, of_blur: tuple[int, int], of_avg: tuple[int, int] = (4, 0)):
        kinds = {"max": (6, 4), "avg": of_avg, "maxblur3": of_blur}
        found = [answered(name, seed, *kinds[name]) for name in kinds for seed in range(seeds)]
        return consistency.section(found)

    few, many, worse = section(5, (7, 2)), section(7, (7, 2)), section(7, (5, 2))
    assert "is max-blur 3 pooling: +24.6 [+24.6, +24.6] points of consistency and +12.5" in (
        many.answer
    )
    assert many.answer.endswith(
        " Of those that are more consistent still, accuracy is lost (the interval lies below 0) "
        "with average."
    )
    assert "None that is more consistent than max is seen to cost no accuracy" in worse.answer
    assert worse.answer.endswith(
        ": accuracy is lost (the interval lies below 0) with average and max-blur 3."
    )
    assert "Nothing measured is more consistent than max" in section(7, (7, 5), (4, 4)).answer
    compared = many.sheets[1]
    assert [row.variant for row in compared.rows] == ["avg", "maxblur3"]
    assert compared.rows[0].values["accuracy"] == pytest.approx(np.full(7, -0.25))
    assert compared.rows[0].values["p_accuracy"][0] == 2 * 2**-6  # of two tests
    shown = compared.columns[-1]
    assert [shown.show(row.values[shown.key]) for row in compared.rows] == ["yes", "no"]
    assert len(few.sheets) == 1 and "most accurate is max-blur 3 pooling: 88 %" in few.answer


def test_what_no_test_sees_is_no_evidence_that_nothing_is_lost():
    """Six tests could not see this loss, and that it is less than a point is not seen either."""
    right = {seed: 5 if seed < 5 else 6 for seed in range(9)}
    found = [answered("max", seed, 6, 4) for seed in range(9)]
    found += [answered("maxblur3", seed, right[seed], 0) for seed in range(9)]
    found += [answered("avg", seed, 4, 2) for seed in range(9)]
    section = consistency.section(found)
    lost = summary(section.sheets[1].rows[0].values["accuracy"])
    assert lost.mean < 0 and section.sheets[1].rows[0].values["p_accuracy"][0] > 0.05
    assert section.answer.endswith(
        ": accuracy is lost (the interval lies below 0) with max-blur 3 and average."
    )
    right[4] = right[3] = right[2] = 6
    found = [cell for cell in found if cell.variant != "maxblur3"]
    found += [answered("maxblur3", seed, right[seed], 0) for seed in range(9)]
    answer = consistency.section(found).answer
    assert answer.endswith(" with average; it is open whether accuracy is lost with max-blur 3.")
    few = [cell for cell in found if cell.seed < 6 and (cell.variant != "max" or cell.seed < 3)]
    assert "Too few seeds have max" in consistency.section(few).answer


@pytest.mark.parametrize(
    ("low", "high", "cost"),
    [
        (-0.009, 0.02, False),
        (-0.009, -0.001, False),  # lost, but less than a point
        (-0.011, -0.001, True),
        (-0.011, 0.02, None),
        (0.001, 0.02, False),
    ],
)
def test_a_cost_is_judged_by_the_interval_and_a_margin(monkeypatch, low, high, cost):
    monkeypatch.setattr(consistency, "summary", lambda _: Summary(10, 0, 0, (low, high), ""))
    assert consistency.costs(np.zeros(10)) is cost


def test_five_seeds_do_not_say_what_costs_accuracy():
    assert consistency.costs(np.full(5, 0.5)) is None


def test_what_rounds_to_zero_has_no_sign():
    assert spread(1)(np.array([-0.01, -0.02])) == "0.0 ± 0.0"
    assert interval(np.array([-0.01, -0.02]), scale=1) == "+0.0"
    assert number(-0.004, 2, "+") == "+0.00" and number(-0.0) == "0.0"


def test_an_interval_that_ends_beside_zero_says_on_which_side():
    low = np.array([-0.04] * 8)
    assert interval(low, scale=1) == "+0.0 [-0.04, -0.04]"
    assert spread(1)(-low / 10) == "0.0 ± 0.0 [0.004, 0.004]"
    assert interval(0 * low, scale=1) == "+0.0 [+0.0, +0.0]"
    assert interval(1e-17 * low, scale=1) == "+0.0 [+0.0, +0.0]"  # rounding of the mean


def test_a_seed_that_is_missing_does_not_count():
    kinds = {"max": (6, 4), "avg": (4, 0), "maxblur3": (6, 2)}
    found = [answered(name, seed, *kinds[name]) for name in kinds for seed in range(8)]
    section = consistency.section([*found[1:], answered("max_aps", 6, 1, 0)])  # max lacks one
    assert "max-blur 3 pooling: +24.6" in section.answer  # and what has one seed does not count
    assert "(mean of 1 to 8 seeds)" in section.answer and "1 to 8 seeds, 100 test" in section.size
    assert "100 % of the cases with average pooling" in section.answer  # of two, the more accurate


def test_an_image_counts_once_whichever_nets_and_seeds_see_it():
    cells = [
        answered(name, seed, 6, moved)
        for name, moved in (("max", 4), ("avg", 3))
        for seed in (0, 1, 5)  # of which the last one has the images of the first
    ]
    (claim,) = trained.never(cells, "predictions", "never", "nobody")
    assert claim.observed.endswith(
        "images with one that did in at least one net: 8 of 16 (25 to 75 %)."
    )


@pytest.mark.usefixtures("usual_promotion")
@pytest.mark.parametrize(
    ("protocol", "count"), [("zhang", 9), ("chaman-cifar", 16), ("alias-free", 5)]
)
def test_a_paper_s_protocol_has_a_command(command, capsys, tmp_path, protocol, count):
    smoke = ["--preset", "smoke", "--protocol", protocol, "--results", tmp_path]
    command("run", "consistency", *smoke, "--seeds", 1, "--variants", "max_aps")
    said = capsys.readouterr().out
    assert f"--preset smoke --data digits --protocol {protocol} --results" in said
    command("check", "consistency", "--results", tmp_path)
    (cell,) = store.cells(tmp_path, "consistency")
    by, found = cell.arrays["shifts"], cell.arrays["predictions"]
    how = shifts.protocol(protocol)
    np.testing.assert_array_equal(by, how.shifts(16))
    assert found.shape == (count, 100)
    assert consistency.check(cell) == []
    (broken,) = consistency.check(replace(cell, arrays=cell.arrays | {"shifts": by[::-1]}))
    assert broken == f"its shifts are not those of the protocol {protocol}"
    command("report", "consistency", *smoke)
    said = capsys.readouterr().out
    assert f"By the protocol of {how.source}, consistency is" in said
    text = (tmp_path / "report" / f"consistency-{protocol}.csv").read_text()
    assert f"digits,max_aps,0,{how.consistency(found):.6f}," in text
    assert not (tmp_path / "report" / "consistency.csv").exists()


def test_crops_may_change_an_answer_that_rolls_may_not():
    config = replace(CONFIG, variant="max_aps", shifts="zhang")
    grid, periods = consistency._protocol(config)
    predictions = np.zeros((len(grid), 8), np.uint8)
    predictions[1] = 1
    arrays = {
        "shifts": grid,
        "predictions": predictions,
        "logits": np.eye(10, dtype=np.float32)[predictions[0]],
        "period_shifts": periods,
        "period_predictions": np.zeros((len(periods), 8), np.uint8),
    }
    cell = store.Cell(Path(), vars(config), {}, arrays)
    assert consistency.check(cell) == []
    rolled = replace(config, shifts="chaman-cifar")
    arrays["shifts"] = consistency._protocol(rolled)[0]
    assert consistency.check(store.Cell(Path(), vars(rolled), {}, arrays)) == [
        "8 answers change with the shift, though none may"
    ]


def test_more_seeds_than_those_of_the_preset_are_part_of_the_study():
    stored = [answered("max", seed, 6, 4) for seed in (0, 4)]
    found = study_of(consistency, "smoke", None, stored)
    assert found.command("run").endswith(" --seeds 5") and "seeds" not in found.command("report")
    assert (len(found.wanted), found.missing) == (15, 13)
    assert study_of(consistency, "smoke", None, stored[:1]).seeds is None


def test_differences_know_what_the_base_lacks():
    ours, base = {seed: {"x": 1.0 + seed} for seed in range(7)}, {0: {"x": 0.0}, 2: {"x": 5.0}}
    (row,) = differences({"a": ("A", ours, base)}, ["x"])
    np.testing.assert_array_equal(row.values["x"][:3], [1, np.nan, -2])
    assert chance(row.values["p_x"]) == "not tested"  # two seeds are too few
    assert interval(row.values["x"], scale=1) == "-0.5"


@pytest.mark.usefixtures("usual_promotion")
@pytest.mark.parametrize("pool_rate", [1.0, 10.0])
def test_poolings_learn_at_a_rate_of_their_own(pool_rate):
    net = Net(VARIANTS["gem"], (2,), 2)
    images = np.random.default_rng(0).random((4, 4, 4, 1), np.float32)
    labels = np.array([0, 1, 0, 1])
    before = train.start(net, 0, (4, 4, 1)).params["params"]
    after, _ = train.fit(
        net,
        images,
        labels,
        epochs=1,
        batch=4,
        learning_rate=0.01,
        seed=0,
        tick=lambda *_: None,
        pool_rate=pool_rate,
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after["params"], before)
    # The first step of Adam is the rate, whatever the gradient is.
    assert moved["Dense_0"]["bias"] == pytest.approx(0.01, rel=1e-2)
    (pool,) = jax.tree.leaves(moved["GeMPool_0"])
    assert pool == pytest.approx(0.01 * pool_rate, rel=1e-2)


# --- speed ---


@pytest.mark.usefixtures("usual_promotion")
def test_speed_is_measured_and_drawn(monkeypatch, capsys, tmp_path):
    small = ["--preset", "smoke", "--results", str(tmp_path)]
    some = ["--variants", "max@image", "softmax@image", "max@adaptive-13-7", "blur@vgg"]
    some += ["step@lenet"]
    monkeypatch.setattr("sys.argv", ["x", "run", "speed", *small, *some])
    main()
    monkeypatch.setattr("sys.argv", ["x", "check", "speed", "--results", str(tmp_path)])
    main()
    for cell in store.cells(tmp_path, "speed"):
        if cell.variant == "step@lenet":
            assert min(speed.milliseconds(cell).values()) > 0
            continue
        seen = speed.numbers(cell)
        assert seen["value_ms"] > 0 and seen["gradient_to_floor"] > 0 and seen["compile_s"] > 0
        assert seen["compile_sum"] > 0
        assert (cell.variant != "max@image") == np.isnan(seen["gradient_to_flax"])
        assert ("adaptive" in cell.variant) == (seen["gradient_to_uniform"] > 0)
        assert ("softmax" in cell.variant) == (seen["gradient_to_max"] > 0)
        assert ("blur" in cell.variant) == (seen["gradient_to_avg"] > 0)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["x", "report", "speed", *small])
    main()
    assert "1 of 4 cells are missing" in capsys.readouterr().out
    report = tmp_path / "report"
    assert (report / "speed-bars.png").stat().st_size > 5_000
    text = (report / "speed.md").read_text()
    assert "| LeNet |" in text and "| max, 13x13 to 7x7 |" in text


LIBRARIES = {
    "flax": 40.0,
    "equinox": 30.0,
    "torch, channels first": 9.0,
    "torch, channels last": 4.0,
}


def fabricated(variant: str, libraries=tuple(LIBRARIES), times=None, **facts) -> store.Cell:
    """A cell with round numbers: jaxpool takes 2 ms and the floor 1."""
    op, name = variant.split("@")
    if op == "step":
        ms = {
            "jaxpool/step": 10.0,
            "flax/step": 15.0,
            "none, second/step": 9.0,
            "none, quarter/step": 8.0,
        }
        if steps.STEPS[name].twin and "torch, channels last" in libraries:
            ms |= {"torch, channels first/step": 20.0, "torch, channels last/step": 12.5}
    else:
        case = speed.EVERY[name]
        known = [library for library in libraries if library.split(",")[0] in case.against]
        known = known if op in ("max", "avg") else []
        took = {
            "jaxpool": 2.0,
            "floor": 1.0,
            "max": 1.0,
            "avg": 1.0,
            "uniform": 1.6,
            "unmasked": 1.6,
            "short": 1.6,
        } | {x: LIBRARIES[x] for x in known}
        ms = {f"{x}/{kind}": t for x, t in took.items() for kind in ("value", "gradient")}
    arrays = {x.replace("/", "|"): np.array([t, 9 * t, t]) for x, t in (ms | (times or {})).items()}
    known = {"input_bytes": 1000, "kept_bytes": 0, "temporary_bytes": 1500, "pulse": 1.0}
    compiled = {"compile_seconds": 1.0, "compile_sum_seconds": 1.0}
    config = {"data": "random", "variant": variant, "seed": 0, "one_example": False}
    return store.Cell(Path(), config, compiled | known | facts, arrays)


def claims(cells) -> dict[str, tuple[bool, str]]:
    return {claim.expected: (claim.holds, claim.observed) for claim in speed.section(cells).claims}


def test_the_aims_of_speed_are_judged_by_what_is_stored():
    cells = {variant: fabricated(variant) for variant in speed.VARIANTS}
    said = claims(cells.values())
    assert said["max and avg with gradient: at most 0.6 of PyTorch's time"] == (
        True,
        "0.50, the geometric mean of 12.",
    )
    assert said["max with gradient: at most 0.1 of Flax's time"][1].startswith("0.05")
    aim = "max and avg alone, windows up to 3x3: at most 1.5 times the floor"
    assert said[aim] == (False, "at worst 2.00 (max, stem 3x3 s2); 14 of 14 are above.")
    assert said["log-sum-exp and softmax with gradient: at most 4 times max"][0]
    window = "a 1-D window of 1,024, alone: at most 3 times one of 16"
    assert said[window] == (True, "at worst 1.25 (max, 1024 s1); 0 of 2 are above.")
    step = "a training step of LeNet is 1.3 times faster than with Flax's pooling"
    assert said[step] == (True, "1.50 times; 1.88 if pooling took no time.")
    assert [expected for expected, (held, _) in said.items() if not held] == [aim]

    worse = {
        "max@vgg": fabricated("max@vgg", times={"jaxpool/gradient": 5.0}),
        "avg@1d-1024": fabricated("avg@1d-1024", times={"jaxpool/value": 7.0}),
        "softmax@audio": fabricated("softmax@audio", temporary_bytes=4500, compile_seconds=2.5),
        "step@lenet": fabricated("step@lenet", times={"flax/step": 12.0}),
        "avg@adaptive-224-7": fabricated(
            "avg@adaptive-224-7", times={"jaxpool/gradient": 4.0}, kept_bytes=900
        ),
        "lse@adaptive-37-29": fabricated("lse@adaptive-37-29", times={"jaxpool/value": 8.0}),
        "avg@tokens-masked": fabricated("avg@tokens-masked", times={"jaxpool/value": 8.0}),
        "sum@pyramid": fabricated("sum@pyramid", compile_sum_seconds=13.0),
    }
    said = claims((cells | worse).values())
    broken = {expected: observed for expected, (held, observed) in said.items() if not held}
    torch = "max and avg with gradient: never slower than PyTorch"
    assert broken[torch] == "at worst 1.25 (max, VGG 2x2 s2); 1 of 12 are above."
    assert broken[window] == "at worst 4.38 (avg, 1024 s1); 1 of 2 are above."
    compiled = broken["value and gradient compile in 2 seconds"]
    assert compiled.startswith("at worst 2.50 (softmax, audio 400 s160); 1 of ")
    summed = broken["the gradient of a sum compiles in at most 3 times that"]
    assert summed.startswith("at worst 13.00 (sum, ")
    memory = "log-sum-exp and softmax: at most 4 bytes temporary per input byte"
    assert broken[memory] == "at worst 4.50 (softmax, audio 400 s160); 1 of 34 are above."
    assert broken["with a mask, alone: at most 1.5 times without one"] == (
        "at worst 5.00 (avg, 197 tokens, masked); 1 of 20 are above."
    )
    assert broken[step] == "1.20 times; 1.50 if pooling took no time."
    adaptive = {expected: seen for expected, seen in broken.items() if "adaptive" in expected}
    assert adaptive == {
        "adaptive, output divides, with gradient: at most 1.5 times uniform windows": (
            "at worst 2.50 (avg, 224x224 to 7x7); 1 of 8 are above."
        ),
        "adaptive, elsewhere, alone: at most 4 times uniform windows": (
            "at worst 5.00 (lse, 37x53 to 29x31); 1 of 12 are above."
        ),
    }


def test_speed_without_the_others():
    cells = [fabricated(variant, libraries=("flax",)) for variant in speed.VARIANTS]
    section = speed.section(cells)
    assert "PyTorch" not in section.answer and "Flax" in section.answer
    assert not [claim for claim in section.claims if "PyTorch" in claim.expected]
    assert speed.section(cells[:1]).pictures and speed.section(cells[-1:]).claims


def test_a_page_without_pictures():
    section = speed.section([fabricated("max@adaptive-13-7")])
    study = study_of(speed, "quick", None, [])
    page = render("report.html.j2", shown=Shown(study, section, [], []))
    assert b"max, 13x13 to 7x7" in page and b"<figure>" not in page


def test_a_missing_library_is_left_out(monkeypatch):
    for name in ("torch", "equinox", "equinox.nn"):
        monkeypatch.setitem(sys.modules, name, None)
    case = replace(speed.EVERY["image"], shape=(1, 8, 8, 3))
    x = np.zeros(case.shape, np.float32)
    runs, _ = contenders.contenders("max", case, x)
    assert {name.split("/")[0] for name in runs} == {"floor", "jaxpool", "flax"}


@pytest.mark.parametrize(
    ("variant", "facts", "sentence"),
    [
        ("max@stem", {"kept_bytes": 300}, "0.30 bytes are kept per input byte, more than 0.25"),
        ("min@inception", {"kept_bytes": 600}, "0.60 bytes are kept per input byte, more than 0.5"),
        ("avg@stem", {"kept_bytes": 10}, "0.01 bytes are kept per input byte, more than 0.0"),
        ("sum@vgg", {"temporary_bytes": 2000}, "2.00 bytes are temporary per input byte, more"),
        ("lse@pyramid", {"temporary_bytes": 5000}, "5.00 bytes are temporary per input byte, more"),
    ],
)
def test_check_holds_speed_to_its_memory(variant, facts, sentence):
    assert speed.check(fabricated(variant)) == []
    (broken,) = speed.check(fabricated(variant, **facts))
    assert broken.startswith(sentence)
    assert speed.check(fabricated("max@stem-float16", kept_bytes=600)) == []


def test_large_arrays_are_timed_in_calls_that_do_not_wait():
    config, *others = speed.cells("quick", "large", variants=["max@image"])
    assert not others and len(speed.cells("quick", "large")) == len(speed.OPS) * len(speed.CASES)
    case = speed.EVERY["image"].large()
    assert case.together == contenders.TOGETHER and case.shape[1:] == (128, 128, 3)
    assert contenders.FILL <= 4 * np.prod(case.shape) < contenders.FILL + 4 * 32 * 128 * 128 * 3
    said = []
    contenders.Placed(
        lambda: said.append("call"), (), lambda a: a, lambda _: said.append("wait"), case.together
    )()
    assert said == ["call"] * case.together + ["wait"]

    arrays, facts = speed.run(
        replace(config, one_example=True, blocks=1, least=0.0, patience=0.0), lambda *_: None
    )
    assert {"floor|value", "flax|gradient", "jaxpool|gradient"} <= arrays.keys()
    cell = replace(fabricated("max@image"), arrays=arrays, facts=facts)
    cell = replace(cell, config=asdict(config))
    # What is promised about memory, and aimed at, is about CPUs.
    assert speed.check(replace(cell, facts=facts | {"kept_bytes": 10**9})) == []
    section = speed.section([cell])
    assert section.answer and section.pictures and not section.claims


@pytest.mark.parametrize("case", speed.ADAPTIVE.values())
def test_adaptive_pooling_is_timed_beside_windows_of_as_many_outputs(case):
    def shape(case):
        pool, arguments, _ = case.call("max")
        x = jax.ShapeDtypeStruct(case.shape, np.float32)
        return jax.eval_shape(lambda x: getattr(jaxpool, pool)(x, *arguments), x).shape

    uniform = replace(case, bins=())
    assert shape(case) == shape(uniform) == (case.shape[0], *case.bins, case.shape[-1])
    assert case.divides == (case.window == case.strides)


@pytest.mark.parametrize("size", [4, 1000, contenders.PIECE, contenders.PIECE + 4, 10**8])
def test_the_floor_moves_all_bytes_in_small_pieces(size):
    pieces = contenders.pieces(size)
    assert size <= 4 * sum(pieces) < size + 4 * len(pieces)
    assert 4 * max(pieces) <= contenders.PIECE and len(set(pieces)) == 1


def test_a_slow_contender_sits_out():
    calls = {"endless": 0, "slow": 0, "fast": 0}

    def once(name: str, seconds: float):
        calls[name] += 1
        time.sleep(seconds)

    runs = {
        "endless": lambda: once("endless", 0.2),
        "slow": lambda: once("slow", 0.05),
        "fast": lambda: once("fast", 0),
    }
    config = replace(speed.cells("quick")[0], blocks=3, least=0.0)
    times = speed._times(runs, config, 0.1, lambda: None, lambda *_: None)
    assert {name: len(ms) for name, ms in times.items()} == {"endless": 1, "slow": 1, "fast": 3}
    assert calls == {"endless": 1, "slow": 3, "fast": 13} and min(times["slow"]) >= 50


def test_every_block_finds_its_arguments_elsewhere():
    case = replace(speed.EVERY["image-masked"], shape=(1, 8, 8, 3))
    runs, _ = contenders.contenders("max", case, np.ones(case.shape, np.float32))
    assert all(isinstance(run, contenders.Placed) for run in runs.values())
    for run in runs.values():
        before, given = run.call(*run.arguments), run.arguments
        run.move()
        for old, new in zip(jax.tree.leaves(given), jax.tree.leaves(run.arguments), strict=True):
            assert old.unsafe_buffer_pointer() != new.unsafe_buffer_pointer()
        chex.assert_trees_all_equal(run.call(*run.arguments), before)

    seen = []
    run = contenders.Placed(seen.append, [0], lambda number: number + 1, lambda _: None)
    config = replace(speed.cells("quick")[0], blocks=3, least=0.0)
    speed._times({"moved": run}, config, 100, lambda: None, lambda *_: None)
    assert seen == [0] + [1] * 4 + [2] * 4 + [3] * 4


def test_noisy_moments_are_measured_again(monkeypatch):
    # Twice a computation takes twice its least, or more; the third time the machine is quiet.
    config = replace(speed.cells("quick")[0], blocks=1)
    pulses = iter([2.5, 2.0, 1.1, 9.0])
    times, ticks = iter(range(9)), []

    def measured(runs, config, seconds, wait, tick):
        wait()
        tick(1, None)
        return {"jaxpool/value": next(times)}

    monkeypatch.setattr(speed, "_times", measured)
    monkeypatch.setattr(quiet.Pulse, "wait", lambda pulse: pulse.seen.append(next(pulses)))

    def quietest(config):
        return speed._quietest({}, config, 1, lambda work, _: ticks.append(work))

    assert quietest(config) == (1.1, {"jaxpool/value": 2}) and ticks == [1, 0, 0]
    pulses = iter([2.5, 2.0, 2.2, 9.0])
    assert quietest(config) == (2.0, {"jaxpool/value": 4})
    assert next(pulses) == 9.0


def test_times_are_of_one_commit(monkeypatch, tmp_path):
    config, *_ = speed.cells("smoke")
    other = replace(config, seed=1)
    store.save(tmp_path, config, {"commit": "0f079bf"}, {})
    monkeypatch.setattr(runner, "stamp", lambda: {"commit": "1584420"})
    monkeypatch.setattr(speed, "prepare", lambda: None)  # changes how this process gets memory
    with pytest.raises(UserError, match="speed holds results of commit 0f079bf, .*1584420"):
        runner.run(speed, [config, other], root=tmp_path)
    assert runner.run(speed, [config], root=tmp_path) == runner.Summary(0, 1, 0.0)


def test_a_short_call_is_made_until_it_is_at_its_best(monkeypatch):
    took = iter([9.0, 9.0, 3.0, 3.0, 3.0, 2.0, 1.0, 3.0])  # seconds: two to warm up, then a block
    monkeypatch.setattr(speed, "_clock", lambda once: next(took))
    config = replace(speed.cells("quick")[0], blocks=1, least=12.0)
    times = speed._times({"late": lambda: None}, config, 100, lambda: None, lambda *_: None)
    assert times == {"late": [1000.0]} and next(took) == 3.0


def test_a_block_waits_for_a_quiet_moment(monkeypatch):
    now, slept = [0.0], []

    def clock() -> float:
        return now[0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def beat() -> None:  # someone else works from the first second to the second
        now[0] += 2e-3 if 1 < now[0] < 2 else 1e-3

    monkeypatch.setattr(quiet.Pulse, "least", np.inf)
    monkeypatch.setattr(quiet.time, "perf_counter", clock)
    monkeypatch.setattr(quiet.time, "sleep", sleep)
    pulse = quiet.Pulse(patience=5, beat=beat)
    pulse.wait()
    assert not slept
    now[0] = 1.5
    pulse.wait()
    assert now[0] > 2 and pulse.patience == pytest.approx(5 - sum(slept))
    now[0], pulse.patience = 1.5, 0
    pulse.wait()
    assert np.round(pulse.seen, 3).tolist() == [1, 1, 2]


@pytest.mark.parametrize("name", speed.STEPS)
def test_steps_differ_in_their_pooling_alone(name):
    step = steps.STEPS[name]
    x = jax.ShapeDtypeStruct(step.shape, np.float32)

    def init(pool):
        return jax.eval_shape(step.net(pool).init_with_output, jax.random.key(0), x)

    ours, *others = map(init, steps.pools(step).values())
    assert ours[0].shape == (step.shape[0], 10) and others == 3 * [ours]


def test_images_per_second():
    small, lenet = (fabricated(f"step@{name}") for name in ("small", "lenet"))
    seen = speed.step_numbers(small)
    assert seen["images"] == pytest.approx(12_800) and seen["to_torch"] == pytest.approx(0.8)
    assert seen["images_torch"] == pytest.approx(10_240)
    assert np.isnan(speed.step_numbers(lenet)["to_torch"])
    alone = replace(small, config=small.config | {"one_example": True})
    assert speed.step_numbers(alone)["images"] == pytest.approx(100)
    section = speed.section([small, lenet])
    said = "the net of the experiments is 1.50 times as fast as with Flax's, and 1.25 times as fast"
    assert f"{said} as in PyTorch." in section.answer and section.answer.count("PyTorch") == 1
    (sheet,) = section.sheets
    shown = {column.key: column.show(sheet.rows[1].values[column.key]) for column in sheet.columns}
    assert shown["images_torch"] == "10,240" and shown["to_torch"] == "0.80"


@pytest.mark.usefixtures("usual_promotion")
def test_the_twin_in_pytorch_learns_the_same():
    pytest.importorskip("torch")
    step = steps.STEPS["small"]
    net = step.net(steps.pools(step)["jaxpool"])
    x = np.random.default_rng(0).random((12, 8, 8, 1), np.float32)
    params = train.start(net, 0, x.shape[1:]).params["params"]
    runs = [steps._run(net, x), *(steps._twin(params, x, channels_last=c) for c in (False, True))]
    ours, *theirs = [[float(run()) for _ in range(8)] for run in runs]
    assert ours[-1] < ours[0] - 0.01
    for losses in theirs:
        np.testing.assert_allclose(losses, ours, rtol=1e-5)


# --- pictures ---


@pytest.mark.parametrize("narrow", [False, True])
def test_numbers_beside_bars_do_not_overlap(narrow):
    import matplotlib.pyplot as plt

    section = speed.section([fabricated(variant) for variant in speed.VARIANTS])
    assert [picture.name for picture in section.pictures] == ["bars", "smooth", "sweep"]
    for picture in section.pictures:
        figure = picture.draw(narrow)
        figure.canvas.draw()
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            assert all(axes.bbox.x1 >= box.x1 for box in boxes)
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        plt.close(figure)


def test_the_front_holds_what_nothing_beats():
    from experiments.figures import front

    points = [(1.0, 3.0), (2.0, 2.0), (1.5, 1.0), (3.0, 1.0)]
    assert front(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("seeds", [3, 10])
def test_labels_do_not_overlap(narrow, seeds):
    import matplotlib.pyplot as plt

    from experiments.figures import Group, pareto

    random = np.random.default_rng(0)
    groups = [
        Group(v.title, *random.normal(80, 5, (2, 1)) + random.normal(0, 2, (2, seeds)), style=i)
        for i, v in enumerate(VARIANTS.values())
    ]
    figure = pareto(groups, "x", "y", narrow=narrow)
    titles = [t for t in figure.axes[0].texts if t.get_text() in {g.title for g in groups}]
    boxes = [t.get_window_extent() for t in titles]
    assert len(boxes) == len(groups)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    plt.close(figure)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="is of glibc")
@pytest.mark.parametrize("kept", [True, False])
def test_memory_is_kept_for_the_next_result_in_every_thread(kept: bool):
    # A result of 100 MB, made three times in a thread: are its pages fetched the third time?
    script = """if True:
        import resource, sys, threading
        import numpy as np
        from experiments import speed

        if sys.argv[1] == "True":
            speed.prepare()

        def fetched():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(25_000_000, np.float32)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        counts = []
        thread = threading.Thread(target=lambda: counts.extend(fetched() for _ in range(3)))
        thread.start()
        thread.join()
        print(counts[-1])
    """
    call = [sys.executable, "-c", script, str(kept)]
    done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT)
    assert (int(done.stdout) < 100) == kept
