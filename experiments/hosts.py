"""Several processes, on as many hosts or on one, that share the cells of a run.

Cell i belongs to process i modulo their number, whatever is finished already. All of them write to
one folder of results, which the hosts share. They meet once, through `jax.distributed`, to be
numbered and counted, and then part: what still is together is terminated as a whole when one
process dies, and nobody's work here needs another's. What a dead process has not finished, the same
command does later, with as many processes as there are then.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.config import Config, UserError, at_least


@dataclass(frozen=True)
class Hosts:
    """Which process this is; the names are those of `jax.distributed.initialize`."""

    distributed: bool = False
    """This is one of several processes. What is not said below comes from Slurm or Open MPI."""

    coordinator_address: str | None = None
    """The host of process 0, and a free port there: host:port."""

    num_processes: int | None = None
    """How many processes there are."""

    process_id: int | None = None
    """Which one this is, from 0."""

    def join(self) -> "Share":
        """Meet the others, if there are any, and learn what to do."""
        named = (self.coordinator_address, self.num_processes, self.process_id)
        if not self.distributed and named == (None, None, None):
            return Share()
        self._possible()
        import jax

        print("Waiting for the other processes. All must come within 5 minutes.", file=sys.stderr)
        try:
            jax.distributed.initialize(*named)
        except ValueError as error:
            raise UserError(
                "Nothing here says which of the processes this is: write --coordinator-address, "
                "--num-processes and --process-id."
            ) from error
        share = Share(jax.process_index(), jax.process_count())
        jax.distributed.shutdown()
        return share

    def _possible(self) -> None:
        """Refuse what the others would wait for in vain."""
        address, number, index = self.coordinator_address, self.num_processes, self.process_id
        host, _, port = (address or "here:0").rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(f"--coordinator-address is {address}, without a port: write host:port.")
        if number is not None:
            at_least("--num-processes", number, 1)
        if index is not None:
            at_least("--process-id", index, 0)
        if number is not None and index is not None and index >= number:
            raise UserError(
                f"--process-id is {index}, but {number} processes count from 0 to {number - 1}."
            )


ALONE = Hosts()


@dataclass(frozen=True)
class Share:
    """The part of one process of several."""

    index: int = 0
    count: int = 1

    def of(self, cells: Sequence[Config]) -> Sequence[Config]:
        """Every so many, beginning with the index."""
        return cells[self.index :: self.count]

    def __str__(self) -> str:
        return f"Process {self.index} of {self.count}: " if self.count > 1 else ""
