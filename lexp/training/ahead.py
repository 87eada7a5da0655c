"""Batches assembled ahead of the steps, by a thread: reading and cutting take no time of a step."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lexp.runs.heartbeat import BATCHES_THREAD
from lexp.training.batches import BatchSource
from lexp.training.objective import Batch

# Batches that wait: a step rarely takes less time than a batch, but one batch may take more than
# others, as at the start of an epoch.
N_AHEAD = 2


@dataclass(frozen=True)
class _Failed:
    """What ended the thread."""

    error: BaseException


@contextlib.contextmanager
def ahead_of_steps(source: BatchSource, steps: Iterable[int]) -> Iterator[Iterator[Batch]]:
    """Yield the batches of steps in order; the thread that assembles them ends with the block.

    An error is raised where its batch is asked for. A batch follows from its step alone, so what
    was assembled and not asked for leaves no trace.
    """
    ready: queue.Queue[Batch | _Failed] = queue.Queue(N_AHEAD)
    ending = threading.Event()
    thread = threading.Thread(
        target=_assemble, args=(source, steps, ready, ending), name=BATCHES_THREAD, daemon=True
    )
    thread.start()
    try:
        yield _asked_for(ready)
    finally:
        ending.set()
        with contextlib.suppress(queue.Empty):
            while True:
                ready.get_nowait()
        thread.join()


def _assemble(
    source: BatchSource,
    steps: Iterable[int],
    ready: "queue.Queue[Batch | _Failed]",
    ending: threading.Event,
) -> None:
    try:
        for step in steps:
            batch = source.batch(step)
            if ending.is_set():
                return
            ready.put(batch)
    except BaseException as error:  # raised again in the thread that trains
        ready.put(_Failed(error))


def _asked_for(ready: "queue.Queue[Batch | _Failed]") -> Iterator[Batch]:
    while True:
        batch = ready.get()
        if isinstance(batch, _Failed):
            raise batch.error
        yield batch
