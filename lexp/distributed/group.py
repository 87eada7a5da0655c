"""The ranks that train one model: each takes its shard of a batch, and all end in the same way."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from lexp.distributed.failure_monitor import (
    HEARD_S,
    FailureMonitor,
    abort_collectives,
    failure_of,
    is_network,
)
from lexp.system.errors import ConfigError, LexpError, RankLost, first_line
from lexp.system.ranks import Rank
from lexp.system.text import counted

# How long ranks wait for each other at the start, and in a collective. Work that may take longer,
# such as tokenising, is waited for outside of collectives.
MEET, WAIT = timedelta(minutes=10), timedelta(minutes=30)
LOOK_S = 0.05

T = TypeVar("T")


class SingleProcess:
    """One process that trains a model alone: every collective is the identity."""

    rank, size, is_rank_zero = 0, 1, True

    def shard(self, rows: Tensor) -> Tensor:
        """Return the rows of a batch that this rank trains on."""
        return rows

    def mean(self, value: float) -> float:
        """Return the mean of all ranks' values, the same bits on each rank."""
        return value

    def broadcast(self, value: int | None) -> int | None:
        """Return the value of the lowest rank whose value is not None; all ranks must call it."""
        return value

    def after_rank_0(self, action: Callable[[], T]) -> T:
        """Return the result of an action that other ranks start when rank 0 has finished it."""
        return action()

    def fail_together(self) -> AbstractContextManager:
        """Let an exception on one rank inside the block end all ranks; it is reported once."""
        return contextlib.nullcontext()


class ProcessGroup(SingleProcess):
    """This process as one of the ranks that train a model."""

    def __init__(self, place: Rank, store: distributed.Store):
        self.rank, self.size, self.is_rank_zero = place.rank, place.size, place.rank == 0
        self._store, self._monitor = store, FailureMonitor(store, place)

    def connect(self, backend: str) -> None:
        """Make collectives possible, by this backend of torch's."""
        distributed.init_process_group(
            backend,
            store=distributed.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=WAIT,
        )

    def leave(self) -> None:
        """Disconnect when rank 0 has closed its files; no process may end earlier.

        Launchers kill the others when one has ended. Rank 0 leaves last because it may keep the
        store. The ranks meet in the store: torch may deadlock where a group of gloo is destroyed
        just after a collective.
        """
        if self.is_rank_zero:
            self._store.set("closed", "yes")
        self._wait_for_rank_0("closed")
        self._monitor.stop()
        with contextlib.suppress(RuntimeError):
            self._store.add("left", 1)
            end = time.monotonic() + HEARD_S
            while self.is_rank_zero and self._store.add("left", 0) < self.size:
                if time.monotonic() > end:
                    break
                time.sleep(LOOK_S)
        distributed.destroy_process_group()

    def _wait_for_rank_0(self, key: str) -> None:
        """Wait until rank 0 has set a key of the store; raise the failure if there is one."""
        while not self._store.check([key]):
            if self._monitor.failure is not None:
                raise self._monitor.failure.error(self.rank)
            time.sleep(LOOK_S)

    def shard(self, rows: Tensor) -> Tensor:
        """Return this rank's rows of a batch: shards are equal and in the order of ranks."""
        return rows.chunk(self.size)[self.rank]

    def mean(self, value: float) -> float:
        """Return the mean of all ranks' values, the same bits on each rank."""
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.item() / self.size

    def broadcast(self, value: int | None) -> int | None:
        """Return the value of the lowest rank whose value is not None; all ranks must call it.

        Values are not negative.
        """
        values = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(values, torch.tensor(-1 if value is None else value))
        return next((int(other) for other in values if other >= 0), None)

    def after_rank_0(self, action: Callable[[], T]) -> T:
        """Return the result of an action that other ranks start when rank 0 has finished it.

        Rank 0 may take longer than a collective may.
        """
        if self.is_rank_zero:
            result = action()
            self._store.set("first", "yes")
            return result
        self._wait_for_rank_0("first")
        return action()

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:
        """Let an exception on one rank in the block end all ranks by that error, reported once."""
        try:
            yield
        except SystemExit:  # all ranks have agreed to stop for a signal
            raise
        except BaseException as error:
            with contextlib.suppress(ValueError):  # not the main thread
                # Launchers end all ranks when one has ended; this rank must say why before it ends.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            failure = self._monitor.fail(failure_of(self.rank, error))
            abort_collectives()
            if failure.rank != self.rank or is_network(error):
                raise failure.error(self.rank) from None
            if isinstance(error, LexpError):
                error.reported = False
            raise


@contextlib.contextmanager
def joined(place: Rank, device: str) -> Iterator[SingleProcess]:
    """Make this process one of the ranks that train a model, or the only one, in the block.

    device: as in the settings; each rank takes the GPU of its number on its machine. ConfigError if
    that GPU does not exist; RankLost if the other ranks do not connect.
    """
    if place.size == 1:
        yield SingleProcess()
        return
    group = ProcessGroup(place, _meet(place))
    stop = None
    with group.fail_together():
        group.connect(_prepare_device(place, device))
        try:
            yield group
        except SystemExit as error:
            stop = error
        group.leave()
    if stop is not None:
        raise stop


def _meet(place: Rank) -> distributed.Store:
    """Return the store that rank 0, or torchrun, keeps for all ranks."""
    url = f"tcp://{place.address}:{place.port}?rank={place.rank}&world_size={place.size}"
    try:
        store, _, _ = next(rendezvous(url, timeout=MEET))
    except (RuntimeError, ValueError) as error:
        raise RankLost(
            f"rank {place.rank} of {place.size} cannot connect to the others at "
            f"{place.address}:{place.port} (MASTER_ADDR, MASTER_PORT): {first_line(error)}"
        ) from None
    return distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def _prepare_device(place: Rank, device: str) -> str:
    """Take this rank's GPU, or its share of the cores; return the backend for collectives."""
    if device == "mps":
        raise ConfigError(f"device=mps trains in one process, not on {place.size} ranks")
    if device == "cpu" or not torch.cuda.is_available():
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(place.n_threads)
        return "gloo"
    n_gpus = torch.cuda.device_count()
    # SLURM may show each task only its own GPU, as number 0.
    if place.local_rank >= n_gpus > 1:
        raise ConfigError(
            f"rank {place.rank} is number {place.local_rank} on its machine, which shows it "
            f"{counted(n_gpus, 'GPU')}; start at most as many ranks as GPUs"
        )
    torch.cuda.set_device(place.local_rank if n_gpus > 1 else 0)
    return "cpu:gloo,cuda:nccl"
