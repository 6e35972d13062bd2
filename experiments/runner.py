"""Run the cells that are not finished yet, and show how it goes.

Two cells run at a time, in threads of one process: a step of these small nets does not fill two
cores, two steps do, and each variant is still compiled once. Results do not depend on it.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from experiments import interrupts, store
from experiments.config import Config, Interrupted, UserError
from experiments.stamp import stamp


class Stopped(Exception):
    """Raised inside a cell when the run was interrupted."""


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    ran: int
    found: int
    seconds: float

    def __add__(self, other: "Summary") -> "Summary":
        """What two runs did."""
        seconds = self.seconds + other.seconds
        return Summary(self.ran + other.ran, self.found + other.found, seconds)


def duration(seconds: float) -> str:
    """A time for people: 12 s, 3 min 05 s, 2 h 10 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Clock:
    """How much of the work is done, and how long the rest takes at the same pace."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start = total, 0, time.monotonic()
        self._lock = threading.Lock()

    def add(self, work: int) -> None:
        with self._lock:
            self.done += work

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def left(self) -> str:
        """The time left, in words; unknown until something is done."""
        if not self.done:
            return "estimating time left"
        return f"{duration(self.elapsed * (self.total - self.done) / self.done)} left"


class _TimeLeft(ProgressColumn):
    """The time left for all cells, behind the line of the whole run."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def render(self, task: Any) -> Text:
        return Text(self.clock.left() if task.fields["whole"] else task.fields["loss"])


def label(config: Config) -> str:
    """A cell in words."""
    return f"{config.variant}, seed {config.seed}"


class Board(AbstractContextManager):
    """The progress on the terminal: one line for all, one for each cell at work.

    A finished cell leaves one printed line, so a log file shows the same.
    """

    def __init__(self, console: Console, cells: int, clock: Clock) -> None:
        self.console, self.cells, self.clock, self.finished = console, cells, clock, 0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            _TimeLeft(clock),
            console=console,
            transient=True,
        )
        self.whole = self.progress.add_task(
            f"{cells} cells", total=clock.total, whole=True, loss=""
        )

    def __enter__(self) -> "Board":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def open(self, config: Config, work: int) -> Any:
        """A new line for a cell."""
        return self.progress.add_task(f"  {label(config)}", total=work, whole=False, loss="")

    def add(self, line: Any, work: int, loss: float | None) -> None:
        """Move a cell's line on."""
        self.clock.add(work)
        self.progress.advance(line, work)
        self.progress.advance(self.whole, work)
        if loss is not None:
            self.progress.update(line, loss=f"loss {loss:.3f}")

    def close(self, line: Any, config: Config, facts: dict[str, Any]) -> None:
        """Replace a cell's line by a printed one."""
        self.progress.remove_task(line)
        self.finished += 1
        loss = f"loss {facts['losses'][-1]:.3f}, " if "losses" in facts else ""
        self.console.print(
            f"[{self.finished}/{self.cells}] {label(config)}: {loss}"
            f"{duration(facts['wall_seconds'])}; {self.clock.left()}",
            markup=False,
            highlight=False,
        )


class _Run:
    """The cells of one run, and the flag that stops them."""

    def __init__(self, experiment: ModuleType, root: Path, workers: int, board: Board) -> None:
        self.experiment, self.root, self.workers, self.board = experiment, root, workers, board
        self.stop = threading.Event()

    def cell(self, config: Config) -> None:
        """Measure one cell and store it."""
        if self.stop.is_set():
            return
        line = self.board.open(config, self.experiment.work(config))

        def tick(work: int, loss: float | None) -> None:
            if self.stop.is_set():
                raise Stopped
            self.board.add(line, work, loss)

        wall, cpu = time.monotonic(), time.process_time()
        arrays, facts = self.experiment.run(config, tick)
        facts |= {
            "wall_seconds": round(time.monotonic() - wall, 2),
            # Of the whole process: with two workers, of two cells.
            "process_cpu_seconds": round(time.process_time() - cpu, 2),
            "workers": self.workers,
            **stamp(),
        }
        store.save(self.root, config, facts, arrays)
        self.board.close(line, config, facts)

    def all(self, todo: Sequence[Config]) -> None:
        """Run the cells; the first failure, or Ctrl-C, stops the others at their next step."""
        with ThreadPoolExecutor(self.workers) as pool:
            waiting: set[Future[None]] = {pool.submit(self.cell, config) for config in todo}
            try:
                while waiting:
                    # In short waits, so that Ctrl-C is seen at once.
                    done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                    interrupts.answer()
                    for future in done:
                        future.result()
            except BaseException:
                self.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _of_this_commit(folder: Path, found: Sequence[store.Cell]) -> None:
    """Refuse to measure beside what was measured with other code."""
    now = stamp()["commit"]
    others = sorted({str(cell.facts["commit"]) for cell in found} - {str(now)})
    if others:
        raise UserError(
            f"{folder} holds results of commit {', '.join(others)}, and this is {now}: what is "
            "compared must be of one. Move them away, or name another folder with --results."
        )


def run(
    experiment: ModuleType,
    cells: Sequence[Config],
    *,
    root: Path,
    workers: int = 2,
    console: Console | None = None,
) -> Summary:
    """Run what is not finished yet.

    Args:
      experiment: the module; its `work(config)` estimates a cell and its `run(config, tick)`
        measures one. Its `prepare()`, if it has one, is called first, before there are threads.
      cells: the configurations, in the order in which they are to run.
      root: the results folder.
      workers: how many cells run at a time.
      console: where to show progress.
    """
    getattr(experiment, "prepare", lambda: None)()
    found = [store.load(store.path(root, config)) for config in cells]
    todo = [config for config, cell in zip(cells, found, strict=True) if cell is None]
    if todo and getattr(experiment, "OF_ONE_COMMIT", False):
        _of_this_commit(root / experiment.NAME, [cell for cell in found if cell])
    for folder in {store.path(root, config).parent: None for config in todo}:
        store.probe(folder)
    clock = Clock(sum(map(experiment.work, todo)))
    if not todo:
        return Summary(0, len(cells), 0.0)
    with Board(console or Console(), len(todo), clock) as board:
        try:
            _Run(experiment, root, workers, board).all(todo)
        except KeyboardInterrupt:
            kept = len(cells) - len(todo) + board.finished
            raise Interrupted(
                f"Stopped. {kept} of {len(cells)} cells are finished and kept in {root}; "
                "the same command goes on with the others."
            ) from None
    return Summary(len(todo), len(cells) - len(todo), clock.elapsed)
