"""What one rank's failure means to the others: a thread in each looks, as collectives cannot.

A rank that waits for others in a collective does not hear that one of them has failed: kernels of
NCCL wait for a timeout, and no launcher can say why. So whoever fails first says so in the store
that all ranks meet at. Every rank beats there too: one whose beat stops has been killed.
"""

import contextlib
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass

from torch import distributed

from lexp.system import errors
from lexp.system.errors import EXIT_INTERRUPTED, LexpError, RankLost, first_line
from lexp.system.ranks import Rank
from lexp.system.text import printable

LOOK_S = 0.25
# Looks, not seconds: a job that was suspended as a whole finds others as silent as it was itself.
SILENT_LOOKS = 240
# How long all may take to hear of a failure, and a rank that has heard to come out of its work.
HEARD_S, LEAVE_S = 5.0, 60.0


@dataclass(frozen=True)
class Failure:
    """How training ended for all ranks.

    rank: who says so to the user. kind: a class of lexp.system.errors. code: all ranks' exit code.
    """

    rank: int
    kind: str
    text: str
    code: int

    def error(self, own_rank: int) -> LexpError:
        """As an exception of a rank, already reported if another one says it."""
        error = getattr(errors, self.kind)(self.text)
        error.exit_code, error.reported = self.code, own_rank != self.rank
        return error


def failure_of(rank: int, error: BaseException) -> Failure:
    """What the others are told of an exception on a rank."""
    if isinstance(error, LexpError):
        return Failure(rank, type(error).__name__, str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure(rank, LexpError.__name__, f"rank {rank} was interrupted", EXIT_INTERRUPTED)
    text = f"rank {rank}: {type(error).__name__}: {error}"
    return Failure(rank, LexpError.__name__, text, LexpError.exit_code)


def lost_rank(place: Rank, ranks: list[int], reason: str = "") -> RankLost:
    """That ranks have been killed, or hang."""
    who = f"rank {', '.join(map(str, ranks))}" if ranks else "a rank"
    how = "has ended without a word, most likely killed" if ranks else f"does not answer ({reason})"
    return RankLost(f"{who} of {place.size} {how}; the same command goes on from the last save")


def store_is_gone(place: Rank) -> Failure:
    """The end of whoever keeps the store: of rank 0, or of torchrun on its machine."""
    elsewhere = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if elsewhere:
        lost = RankLost("torchrun has ended; the same command goes on from the last save")
    else:
        lost = lost_rank(place, [0])
    return failure_of(0 if elsewhere else 1, lost)


def abort() -> None:
    """End NCCL's collectives; gloo's end when the process at fault does."""
    world = distributed.distributed_c10d.GroupMember.WORLD
    if world is not None:
        world.abort()


class FailureMonitor:
    """Looks for failures of other ranks, and for the silence of the next one, until it is over.

    failure: how training ended for all, once that is known.
    """

    def __init__(self, store: distributed.Store, place: Rank):
        self.failure: Failure | None = None
        self._place = place
        # A connection waits for one answer at a time: one for the thread, one for everybody else.
        self._store, self._looking = store, store.clone()  # type: ignore[attr-defined]
        self._over, self._known, self._coming_out = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def fail(self, failure: Failure) -> Failure:
        """End all ranks by this failure, unless another was first; the one that counts.

        Returns when every rank knows it, or has had the time to: a process that ends closes
        connections, and may be who keeps the store.
        """
        if self._coming_out.is_set():  # asked before
            return self.failure or failure
        self._coming_out.set()
        if self.failure is not None and self._place.rank != 0:
            return self.failure
        try:
            said = self._store.compare_set("failure", "", json.dumps(asdict(failure)))
            self._learn(Failure(**json.loads(said)))
            self._wait_for("heard", HEARD_S)
        except RuntimeError:  # the store is gone, which the thread finds too
            self._known.wait(HEARD_S)
        return self.failure or failure

    def knows(self, within_s: float) -> Failure | None:
        """How training ended, if that becomes known in this time."""
        self._known.wait(within_s)
        return self.failure

    def leave(self) -> None:
        """An orderly end: nobody goes before rank 0 has closed what it writes.

        Launchers end all processes when one has ended, and rank 0 may be who keeps the store.
        """
        is_rank_zero = self._place.rank == 0
        with contextlib.suppress(RuntimeError):
            if is_rank_zero:
                self._store.set("closed", "1")
            while self.failure is None and not self._store.check(["closed"]):
                time.sleep(LOOK_S / 10)
        self._over.set()
        self._thread.join()
        with contextlib.suppress(RuntimeError):
            self._store.add("left", 1)
            if is_rank_zero:
                self._wait_for("left", HEARD_S)

    def explain(self, error: BaseException) -> LexpError:
        """What is behind an error that says only that another rank does not answer.

        Either that rank has said what failed, or it does not beat any more.
        """
        try:
            before = self._beats()
            self._known.wait(8 * LOOK_S)
            if self.failure is None:
                after = self._beats()
                silent = [rank for rank, beat in enumerate(before) if after[rank] == beat]
                return lost_rank(self._place, silent, first_line(error))
        except RuntimeError:
            self._known.wait(HEARD_S)
        return (self.failure or store_is_gone(self._place)).error(self._place.rank)

    def _beats(self) -> list[bytes]:
        """The last beat of every rank; empty of one that was killed before its first."""
        names = [f"beat/{rank}" for rank in range(self._place.size)]
        return [self._store.get(name) if self._store.check([name]) else b"" for name in names]

    def _learn(self, failure: Failure) -> None:
        self.failure = self.failure or failure
        self._known.set()

    def _wait_for(self, counter: str, limit_s: float) -> None:
        """Until all ranks have counted."""
        end = time.monotonic() + limit_s
        while self._store.add(counter, 0) < self._place.size and time.monotonic() < end:
            time.sleep(LOOK_S / 10)

    def _run(self) -> None:
        n_looks = n_silent = 0
        rank, other, last = self._place.rank, (self._place.rank + 1) % self._place.size, b""
        store = self._looking
        try:
            while not self._over.wait(LOOK_S):
                n_looks += 1
                store.set(f"beat/{rank}", str(n_looks))
                if store.check(["failure"]):
                    self._learn(Failure(**json.loads(store.get("failure"))))
                    store.add("heard", 1)
                    break
                beat = store.get(f"beat/{other}") if store.check([f"beat/{other}"]) else b""
                n_silent, last = n_silent + 1 if beat == last else 0, beat
                if n_silent == SILENT_LOOKS:
                    lost = lost_rank(self._place, [other])
                    store.compare_set("failure", "", json.dumps(asdict(failure_of(rank, lost))))
        except RuntimeError:
            self._learn(store_is_gone(self._place))
        if self.failure is not None:
            self._end(self.failure)

    def _end(self, failure: Failure) -> None:
        """Make the rank come out of the collective that it waits in, or end without it."""
        if self._coming_out.wait(HEARD_S):
            return
        with contextlib.suppress(Exception):
            abort()
        if not self._coming_out.wait(LEAVE_S):
            if failure.rank == self._place.rank:
                print(f"lexp: {printable(failure.text)}", file=sys.stderr, flush=True)
            os._exit(failure.code)
