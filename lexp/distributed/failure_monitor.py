"""One failure for all ranks: the rank that fails first publishes why, the others end by it.

torchrun and `srun --kill-on-bad-exit` kill the ranks that remain when one has ended, but cannot say
why it ended. gloo raises an error on the other ranks when a process has died, NCCL when a timeout
has passed; neither names a cause. What is added here, in the store where all ranks meet:

- the first failure, with its exit code, and who has heard of it. A rank that has not was killed.
- a thread in each rank that looks for it, because a rank that waits in a collective of NCCL, or
  hangs in a file system, hears nothing. The thread aborts the collective; if the rank does not
  leave its work even so, the thread ends the process. `srun` by itself would wait for it forever.

Ranks send no heartbeats to each other: killed processes are noticed by gloo or the launcher, dead
machines by the launcher or the timeout of a collective (`WAIT` in group.py).
"""

import contextlib
import json
import os
import threading
import time
from dataclasses import asdict, dataclass, replace

from torch import distributed

from lexp.system import errors
from lexp.system.errors import EXIT_INTERRUPTED, LexpError, RankLost, actionable, first_line
from lexp.system.output import say
from lexp.system.ranks import Rank

LOOK_S = 0.25
# How long all ranks may take to hear of a failure, and a rank that has heard to leave its work.
HEARD_S, LEAVE_S = 5.0, 60.0


@dataclass(frozen=True)
class Failure:
    """The reason why training ended on all ranks.

    rank: the rank that reports it to the user. kind: a class of lexp.system.errors. code: the exit
    code of all ranks.
    """

    rank: int
    kind: str
    text: str
    code: int

    def error(self, own_rank: int) -> LexpError:
        """Return the failure as an exception, marked as reported if another rank reports it."""
        # Of an exception class of a user only the exit code is kept.
        error = getattr(errors, self.kind, LexpError)(self.text)
        error.exit_code, error.reported = self.code, own_rank != self.rank
        return error


def failure_of(rank: int, error: BaseException) -> Failure:
    """Return what a rank publishes of its exception."""
    if is_network(error):
        text = f"a rank cannot be reached ({first_line(error)})"
        return Failure(rank, RankLost.__name__, text, RankLost.exit_code)
    known = actionable(error)
    if known is not None:  # what this rank's machine lacks has an exit code, too
        return Failure(rank, type(known).__name__, str(known), known.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure(rank, LexpError.__name__, f"rank {rank} was interrupted", EXIT_INTERRUPTED)
    text = f"rank {rank}: {type(error).__name__}: {error}"
    return Failure(rank, LexpError.__name__, text, LexpError.exit_code)


def is_network(error: BaseException) -> bool:
    """Return True if an error says only that another rank did not answer.

    NCCL and the store have classes for it; gloo's errors begin with a path of its sources.
    """
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)


def abort_collectives() -> None:
    """End collectives of NCCL that wait; those of gloo end with the process at fault.

    An error of the abort itself must neither hide the failure nor keep this rank from ending.
    """
    world = distributed.distributed_c10d.GroupMember.WORLD
    if world is not None:
        with contextlib.suppress(Exception):
            world.abort()


class FailureMonitor:
    """Publishes this rank's failure and looks for those of others, until `stop`.

    failure: why training ended on all ranks; None while it has not.
    """

    def __init__(self, store: distributed.Store, place: Rank):
        self.failure: Failure | None = None
        self._place = place
        # A connection serves one request at a time: one for the thread, one for the other callers.
        self._store, self._thread_store = store, store.clone()  # type: ignore[attr-defined]
        self._stopped, self._leaving = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="failure monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; called by all ranks together, while the store is still there."""
        self._stopped.set()
        self._thread.join()

    def fail(self, failure: Failure) -> Failure:
        """Publish a failure; return the first one published, by which all ranks end.

        Returns when all ranks have heard of it, or after `HEARD_S`: a process that ends closes its
        connections, and rank 0 may keep the store.
        """
        nested = self._leaving.is_set()
        self._leaving.set()
        if self.failure is not None and (nested or self._place.rank != 0):
            return self.failure
        try:
            text = self._store.compare_set("failure", "", json.dumps(asdict(failure)))
            self.failure = Failure(**json.loads(text))
            killed = self._wait_until_heard()
            if self.failure.kind == RankLost.__name__ and killed:
                self.failure = replace(self.failure, text=_killed(self._place, killed))
        except RuntimeError:  # rank 0 has left already, or was killed before it could publish
            self.failure = self.failure or _store_is_gone(self._place)
        return self.failure

    def _wait_until_heard(self) -> list[int]:
        """Wait until all ranks have heard of the failure; return those that have not in time."""
        end = time.monotonic() + HEARD_S
        while silent := [n for n in range(self._place.size) if not self._store.check([_heard(n)])]:
            if time.monotonic() > end:
                break
            time.sleep(LOOK_S / 10)
        if self._place.rank == 0:  # the others read the same store
            time.sleep(2 * LOOK_S)
        return silent

    def _look(self) -> None:
        """Wait for a failure, acknowledge it, and see to it that this rank ends."""
        store = self._thread_store
        try:
            while not store.check(["failure"]):
                if self._stopped.wait(LOOK_S):
                    return
            failure = Failure(**json.loads(store.get("failure")))
            store.set(_heard(self._place.rank), "yes")
            self.failure = self.failure or failure
        except RuntimeError:
            self.failure = failure = self.failure or _store_is_gone(self._place)
        if self._leaving.wait(HEARD_S):
            return
        abort_collectives()
        if not self._leaving.wait(LEAVE_S):
            if failure.rank == self._place.rank:
                say(f"lexp: {failure.text}")
            os._exit(failure.code)


def _heard(rank: int) -> str:
    """Return the store's key for: this rank has heard of the failure."""
    return f"heard/{rank}"


def _killed(place: Rank, ranks: list[int]) -> str:
    """Return the message about ranks that have ended without publishing a failure."""
    names = f"rank {', '.join(map(str, ranks))} of {place.size}"
    return (
        f"{names} ended without an error message, most likely killed; "
        "the same command resumes from the last checkpoint"
    )


def _store_is_gone(place: Rank) -> Failure:
    """Return the failure of the process that kept the store: torchrun, or else rank 0."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        text = "torchrun has ended; the same command resumes from the last checkpoint"
        return Failure(0, RankLost.__name__, text, RankLost.exit_code)
    return Failure(1, RankLost.__name__, _killed(place, [0]), RankLost.exit_code)
