"""Runs that are killed at any moment, on several devices, and on several hosts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy

from experiments import store
from experiments.config import UserError
from experiments.hosts import ALONE, Hosts, Share

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}


def python(*words: object, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT | options.pop("env", {}),
        **options,
    )


def hosts(index: int, port: int) -> str:
    """Which of two processes."""
    return f"--coordinator-address 127.0.0.1:{port} --num-processes 2 --process-id {index}"


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# --- an experiment that only writes, on a slow disk; see `toy` ---


class Nursery:
    """A process that forks the command line."""

    def __init__(self):
        self.process = python("-m", "toy")

    def _asked(self, *words: object) -> int:
        print(*words, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def run(self, results: Path, words: str = "--preset many", rest: float = 0.02) -> int:
        """Start a run, and return its process."""
        return self._asked(rest, "run toy --results", results, words)

    def ended(self, process: int) -> int:
        return self._asked("wait", process)


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    with nursery.process:
        yield nursery


def until(happened, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def files(results: Path) -> set[Path]:
    return set(results.glob("toy/random/*/*"))


def contents(results: Path) -> dict[str, bytes]:
    return {str(path.relative_to(results)): path.read_bytes() for path in files(results)}


def finished(results: Path) -> dict[str, bytes]:
    """The files of finished cells: of all whose record is there, for a draft has another name."""
    there = contents(results)
    records = [name for name in there if name.endswith(".json")]
    assert all(store.load(results / name) for name in records)
    return {name: there[name] for r in records for name in (r, r.replace(".json", ".npz"))}


def lasting(record: bytes) -> dict:
    """What a cell's record says but for the times of its making."""
    found = json.loads(record)
    for fact in ("wall_seconds", "process_cpu_seconds", "finished"):
        del found["facts"][fact]
    return found


def test_twenty_kills_lose_nothing_and_leave_nothing_torn(nursery, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    random = np.random.default_rng(0)
    kept: dict[str, bytes] = {}
    drafts = 0
    for _ in range(20):
        before = files(killed)
        process = nursery.run(killed)
        until(lambda before=before: files(killed) != before)
        time.sleep(random.uniform(0, 0.25))
        os.kill(process, signal.SIGKILL)
        assert nursery.ended(process) == -signal.SIGKILL
        there = finished(killed)
        assert kept.items() <= there.items()
        kept = there
        drafts += any(path.name.startswith(".") for path in files(killed))
    total = len(toy.cells("many"))
    assert drafts > 10 and 20 < len(kept) < 2 * total  # most were killed while they wrote
    for results in killed, whole:
        assert nursery.ended(nursery.run(results, rest=0)) == 0
    resumed, once = contents(killed), contents(whole)
    assert kept.items() <= resumed.items()
    assert resumed.keys() == once.keys() and len(once) == 2 * total
    for name in once:
        what = lasting if name.endswith(".json") else bytes
        assert what(resumed[name]) == what(once[name]), name


# --- several hosts ---


@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_host_loses_its_unfinished_cells_and_no_others(nursery, tmp_path, port, dead):
    cells = toy.cells("few")
    paths = [store.path(tmp_path, cell) for cell in cells]
    processes = [nursery.run(tmp_path, f"--preset few {hosts(index, port)}") for index in range(2)]
    until(lambda: all(any(path.exists() for path in paths[index::2]) for index in range(2)))
    os.kill(processes[dead], signal.SIGKILL)
    assert nursery.ended(processes[dead]) == -signal.SIGKILL
    assert nursery.ended(processes[1 - dead]) == 0
    before = finished(tmp_path)
    assert all(path.exists() for path in paths[1 - dead :: 2])
    assert 0 < sum(path.exists() for path in paths[dead::2]) < len(cells) / 2
    assert nursery.ended(nursery.run(tmp_path, "--preset few")) == 0
    after = contents(tmp_path)
    assert before.items() <= after.items() and len(after) == 2 * len(cells)


def test_every_cell_belongs_to_one_process():
    cells = list(range(7))
    shares = [Share(index, 3).of(cells) for index in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]] and Share().of(cells) == cells
    assert ALONE.join() == Share()


@pytest.mark.parametrize(
    ("hosts", "sentence"),
    [
        (Hosts(coordinator_address="here"), "--coordinator-address is here, without a port: write"),
        (Hosts(coordinator_address="1234"), "--coordinator-address is 1234, without a port"),
        (Hosts(num_processes=0), "--num-processes is 0, but must be at least 1"),
        (Hosts(process_id=-1), "--process-id is -1, but must be at least 0"),
        (Hosts(num_processes=2, process_id=2), "--process-id is 2, but 2 processes count from 0"),
        (Hosts(distributed=True), "Nothing here says which of the processes this is: write --coor"),
        (Hosts(process_id=0), "Nothing here says which of the processes this is"),
    ],
)
def test_hosts_that_cannot_meet(monkeypatch, hosts, sentence):
    monkeypatch.setattr("jax.distributed.initialize", nobody)
    with pytest.raises(UserError, match=sentence):
        hosts.join()


def nobody(*named):
    raise ValueError("coordinator_address should be defined.")


# --- a trained experiment: on one device, on eight, and on two hosts ---

TINY = """
import sys
from dataclasses import replace
from experiments import consistency, shifts
from experiments.__main__ import main

tiny = dict(train_images=256, test_images=40, epochs=1, widths=(4, 4, 4), variants=("max",))
consistency.PRESETS["tiny"] = replace(consistency.PRESETS["smoke"], **tiny)
logits, devices = shifts._logits, set()

def spied(*arguments):
    found = logits(*arguments)
    devices.add(len(found.sharding.device_set))
    return found

shifts._logits = spied
for line in sys.stdin:
    sys.argv = ["experiments", *line.split()]
    devices.clear()
    main()
    print("devices", devices)
"""


def tiny(results: Path, words: str = "") -> str:
    return f"run consistency --preset tiny --results {results} {words}\n"


def same_answers(results: Path, expected: Path) -> None:
    for cell in store.cells(expected, "consistency"):
        found = store.load(results / cell.path.relative_to(expected))
        for name, values in cell.arrays.items():
            np.testing.assert_allclose(found.arrays[name], values, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def one_and_eight(tmp_path_factory):
    """The results of one device and of eight, what is compiled, and what was said."""
    one, eight, compiled = map(tmp_path_factory.mktemp, ("one", "eight", "compiled"))
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    many = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = python("-c", TINY, env=cache | many)
    said, _ = run.communicate(tiny(one) + tiny(eight, "--mesh"))
    assert run.returncode == 0
    return one, eight, cache, said


def test_shifts_spread_over_devices_change_no_answer(one_and_eight):
    one, eight, _, said = one_and_eight
    assert said.index("devices {1}") < said.index("devices {8}")
    same_answers(eight, one)


def test_two_hosts_share_the_cells(one_and_eight, tmp_path, port):
    one, _, cache, _ = one_and_eight
    runs = [python("-c", TINY, env=cache) for _ in range(2)]
    for index, run in enumerate(runs):
        run.stdin.write(tiny(tmp_path, hosts(index, port)))
        run.stdin.close()
    for index, run in enumerate(runs):
        with run:
            said = run.stdout.read()
        assert run.returncode == 0
        assert f"Process {index} of 2: 1 of 1 cells are finished" in said and "1 now" in said
    assert len(list(store.cells(tmp_path, "consistency"))) == 2
    same_answers(tmp_path, one)
