"""Batches are assembled ahead of the steps, by a thread that leaves nothing behind."""

import threading
import time

import pytest
import torch

from lexp.runs.heartbeat import BATCHES_THREAD, hangs_in
from lexp.system.errors import DataError
from lexp.training import ahead
from lexp.training.ahead import ahead_of_steps
from lexp.training.objective import Batch


class Source:
    """Batches that are their step; steps from `broken` on raise."""

    def __init__(self, broken: int | None = None):
        self.made: list[int] = []
        self._broken = broken

    def batch(self, step: int) -> Batch:
        if step == self._broken:
            raise DataError(f"no batch {step}")
        self.made.append(step)
        return Batch((torch.tensor([[step]]),), 1)


def first(batch: Batch) -> int:
    return int(batch.tensors[0])


def wait_for(source: Source, n: int) -> None:
    until = time.monotonic() + 10
    while len(source.made) < n and time.monotonic() < until:
        time.sleep(0.001)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == BATCHES_THREAD]


def wait_until(is_over: threading.Event) -> None:
    while not is_over.is_set():
        time.sleep(0.001)  # two lines below `def`


def test_batches_come_in_order_and_a_few_ahead():
    source = Source()
    with ahead_of_steps(source, range(3, 40)) as batches:
        wait_for(source, ahead.N_AHEAD + 1)
        time.sleep(0.05)
        assert source.made == [3, 4, 5]  # two wait, and one is held that has no room
        assert [first(next(batches)) for _ in range(37)] == list(range(3, 40))
    assert threads() == []


def test_an_error_is_raised_at_its_own_step():
    with ahead_of_steps(Source(broken=2), range(9)) as batches:
        assert [first(next(batches)), first(next(batches))] == [0, 1]
        with pytest.raises(DataError, match="no batch 2"):
            next(batches)
    assert threads() == []


@pytest.mark.parametrize("n_read", [0, 1, 5])
def test_training_that_stops_ends_the_thread(n_read):
    source = Source()
    with pytest.raises(SystemExit), ahead_of_steps(source, range(10**9)) as batches:
        for _ in range(n_read):
            next(batches)
        raise SystemExit(75)
    assert threads() == [] and len(source.made) <= n_read + 4


def hanging_there(is_over: threading.Event) -> tuple[threading.Thread, list[bool]]:
    """Watch until `hangs_in` names the line of `wait_until`, for 2 s at most, then end the wait."""
    place = f"test_ahead.py, line {wait_until.__code__.co_firstlineno + 2}"
    seen = []

    def watch():
        end = time.monotonic() + 2
        while hangs_in() != place and time.monotonic() < end:
            pass
        seen.append(time.monotonic() < end)
        is_over.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    return watcher, seen


def test_a_step_that_hangs_for_its_batch_names_the_place_where_the_batch_hangs():
    source, is_over = Source(), threading.Event()
    source.batch = lambda step: wait_until(is_over)
    with ahead_of_steps(source, range(1)) as batches:
        watcher, seen = hanging_there(is_over)
        next(batches)
    watcher.join()
    assert seen == [True]


def test_a_step_that_hangs_itself_names_its_own_place():
    is_over = threading.Event()
    with ahead_of_steps(Source(), range(9)) as batches:
        next(batches)
        watcher, seen = hanging_there(is_over)
        wait_until(is_over)
    watcher.join()
    assert seen == [True]
