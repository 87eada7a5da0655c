"""The ranks that train one model: each takes its share of a batch, and all end alike."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from lexp.distributed.failure_monitor import FailureMonitor, abort, failure_of
from lexp.system.errors import ConfigError, LexpError, RankLost, first_line
from lexp.system.ranks import Rank

# How long ranks wait for each other at the start, and in a collective. What takes longer than that,
# such as tokenising, is not waited for in a collective.
MEET, WAIT = timedelta(minutes=10), timedelta(minutes=30)
LOOK_S = 0.1

T = TypeVar("T")


class SingleProcess:
    """One process: there is nobody to share with."""

    rank, size, is_rank_zero = 0, 1, True

    def shard(self, rows: Tensor) -> Tensor:
        """All of a batch."""
        return rows

    def mean(self, value: float) -> float:
        """The value."""
        return value

    def broadcast(self, value: int | None) -> int | None:
        """The value."""
        return value

    def after_rank_0(self, action: Callable[[], T]) -> T:
        """Do it."""
        return action()

    def fail_together(self) -> AbstractContextManager:
        """Errors are one's own."""
        return contextlib.nullcontext()


class ProcessGroup(SingleProcess):
    """This process among the ranks that train one model."""

    def __init__(self, place: Rank, store: distributed.Store):
        self.rank, self.size, self.is_rank_zero = place.rank, place.size, place.rank == 0
        self._place, self._store, self._watch = place, store, FailureMonitor(store, place)

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
        """The end of the work on all ranks; raises what failed on rank 0 while it closed its files.

        No rank's process ends before this.
        """
        self._watch.leave()
        if self._watch.failure:
            raise self._watch.failure.error(self.rank)
        distributed.destroy_process_group()

    def shard(self, rows: Tensor) -> Tensor:
        """This rank's part of a batch, the parts being equal and in the order of ranks."""
        return rows.chunk(self.size)[self.rank]

    def mean(self, value: float) -> float:
        """The mean of all ranks' values, the same bits on each."""
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.item() / self.size

    def broadcast(self, value: int | None) -> int | None:
        """The value of the lowest rank that has one. All ranks wait for each other here."""
        values = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(values, torch.tensor(-1 if value is None else value))
        return next((int(found) for found in values if found >= 0), None)

    def after_rank_0(self, action: Callable[[], T]) -> T:
        """Do it when rank 0 has done it, however long that takes."""
        if self.is_rank_zero:
            result = action()
            self._store.set("first", "done")
            return result
        while not self._store.check(["first"]):
            if failure := self._watch.knows(within_s=LOOK_S):
                raise failure.error(self.rank)
        return action()

    @contextlib.contextmanager
    def fail_together(self) -> Iterator[None]:
        """Within: what fails on one rank ends all of them, by the same error, said once."""
        try:
            yield
        except SystemExit:  # all have agreed to stop for a signal
            raise
        except BaseException as error:
            with contextlib.suppress(ValueError):  # not the main thread
                # Launchers end all ranks when one has ended: not before this one has said why.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            own = self._watch.explain(error) if _is_network(error) else error
            failure = failure_of(self.rank, own)
            counts = self._watch.fail(failure)
            abort()
            if counts != failure:
                raise counts.error(self.rank) from None
            if isinstance(own, LexpError):
                own.reported = False
            if own is error:
                raise
            raise own from None


def _is_network(error: BaseException) -> bool:
    """Whether an error says no more than that a rank could not be reached, as far as one can tell.

    NCCL and the store have classes for it; gloo's errors begin with the place in its sources.
    """
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)


@contextlib.contextmanager
def joined(place: Rank, device: str) -> Iterator[SingleProcess]:
    """Within: this process is one of the ranks that train a model, or alone.

    device: as in the settings; each rank takes the GPU of its number on its machine. ConfigError if
    there is none; RankLost if the other ranks do not come.
    """
    if place.size == 1:
        yield SingleProcess()
        return
    group = ProcessGroup(place, _meet(place))
    try:
        with group.fail_together():
            backend = _prepare_device(place, device)
            group.connect(backend)
            yield group
    except SystemExit:
        group.leave()
        raise
    group.leave()


def _meet(place: Rank) -> distributed.Store:
    """The store that rank 0, or torchrun, keeps for all ranks."""
    url = f"tcp://{place.address}:{place.port}?rank={place.rank}&world_size={place.size}"
    try:
        store, _, _ = next(rendezvous(url, timeout=MEET))
    except (RuntimeError, ValueError) as error:
        raise RankLost(
            f"rank {place.rank} of {place.size} does not meet the others at "
            f"{place.address}:{place.port} (MASTER_ADDR, MASTER_PORT): {first_line(error)}"
        ) from None
    return distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def _prepare_device(place: Rank, device: str) -> str:
    """Take this rank's GPU, or its share of the cores; what the ranks talk by."""
    if device == "mps":
        raise ConfigError(f"device=mps trains in one process, here are {place.size} ranks")
    if device == "cpu" or not torch.cuda.is_available():
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(place.n_threads)
        return "gloo"
    n_gpus = torch.cuda.device_count()
    # SLURM may show every task its own GPU alone.
    if place.local_rank >= n_gpus > 1:
        raise ConfigError(
            f"rank {place.rank} is number {place.local_rank} on its machine, which shows it "
            f"{n_gpus} GPUs: start no more ranks than GPUs"
        )
    torch.cuda.set_device(place.local_rank if n_gpus > 1 else 0)
    return "cpu:gloo,cuda:nccl"
