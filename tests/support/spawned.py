"""Processes that a command spawns, forked from this warm one in place of starts of Python."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from multiprocessing.synchronize import Barrier
from types import SimpleNamespace
from typing import Any

from lexp.commands import eval_workers

FORK = multiprocessing.get_context("fork")
SHARED = (Queue, Barrier)


class Warm:
    """The context "spawn", as far as it is used; its processes get what pickling leaves of values.

    Forks hold each other's pipes open: of a parent that is killed they hear nothing.
    """

    Barrier, Queue = staticmethod(FORK.Barrier), staticmethod(FORK.Queue)

    def __init__(self, how: str):
        assert how == "spawn"

    def Process(self, target: Callable, args: tuple[Any, ...], daemon: bool):
        target, *args = (
            one if isinstance(one, SHARED) else pickled(one) for one in (target, *args)
        )
        return FORK.Process(target=target, args=tuple(args), daemon=daemon)


def pickled(value: Any) -> Any:
    """What a spawned process would have of it."""
    return ForkingPickler.loads(ForkingPickler.dumps(value))


# In the place of multiprocessing in lexp.commands.eval_workers.
WARM = SimpleNamespace(get_context=Warm, parent_process=multiprocessing.parent_process)


def warm_workers() -> None:
    """In a child that evaluates with workers=N: they are forks of it."""
    eval_workers.multiprocessing = WARM
