"""Several runs of a study evaluated at once, each by a process of its own.

A run is scored whole by one process, so that the files of its cells have one writer. A process that
dies (out of memory, most often) takes the run it was at with it, and no other.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from lexp.commands.load_runs import (
    RunWithData,
    load_subject,
    make_methods,
    open_text,
)
from lexp.commands.select_checkpoints import chosen_checkpoints
from lexp.evaluate import LAST, EvalResult, EvalTargets, Method, evaluate
from lexp.runs.checkpoint import Checkpoint
from lexp.runs.run import Run
from lexp.system import runtime
from lexp.system.errors import Incomplete, LexpError

# Below so many tokens to read, starting processes takes longer than it saves.
WORTH_IT_TOKENS = 5e6
# Models wider than this keep all cores of a machine busy by themselves.
SMALL_D_MODEL = 512


@dataclass(frozen=True)
class Progress:
    """n_tokens were read since; note: what is being done now, if that changed."""

    n_tokens: int
    note: str | None


@dataclass(frozen=True)
class ResultReady:
    """A result is there; is_new: it was computed now."""

    result: EvalResult
    is_new: bool


Event = Progress | ResultReady | LexpError


def choose_workers(asked: int | str, texts: list[RunWithData], n_tokens: int) -> int:
    """How many processes: the number asked for, or what the machine has room for where that pays.

    One per GPU, or one per core of a CPU for small models; never more than runs.
    """
    if isinstance(asked, int):
        return max(1, min(asked, len(texts)))
    if n_tokens < WORTH_IT_TOKENS or len(texts) < 2:
        return 1
    if torch.cuda.is_available():
        return min(torch.cuda.device_count(), len(texts))
    widest = max(text.run.settings["size"]["d_model"] for text in texts)
    return min(os.cpu_count() or 1, len(texts)) if widest <= SMALL_D_MODEL else 1


def events_here(texts: list[RunWithData], settings: dict[str, Any]) -> Iterator[Event]:
    """Score run after run in this process, telling what happens."""
    for text in texts:
        try:
            yield from _events_of(text, settings)
        except LexpError as error:
            yield error


def _events_of(text: RunWithData, settings: dict[str, Any]) -> Iterator[Event]:
    for found in chosen_checkpoints(text.run, settings):
        yield from _events_at(text, found, settings)


def _events_at(
    text: RunWithData, found: Checkpoint | None, settings: dict[str, Any]
) -> Iterator[Event]:
    methods = make_methods(settings)
    tested = load_subject(text, settings, found)
    at = "" if tested.step == LAST else f" step {tested.step}"
    waiting: list[Event] = []
    was_stored: list[bool] = []

    def starting(
        targets: EvalTargets, method: Method, length: int, stored: EvalResult | None
    ) -> None:
        was_stored.append(stored is not None)
        note = f"{text.run.name}{at} {targets.protocol.name} {method.label} {length}"
        waiting.append(Progress(targets.n_read(length) if stored else 0, note))

    def advance(n_tokens: int) -> None:
        waiting.append(Progress(n_tokens, None))

    for targets in text.exams:
        for result in evaluate(tested, targets, methods, starting, advance):
            yield from waiting
            waiting.clear()
            yield ResultReady(result, not all(was_stored))
            was_stored.clear()


@dataclass
class _Worker:
    process: BaseProcess
    run: str | None = field(default=None)


def events_of_workers(
    texts: list[RunWithData], settings: dict[str, Any], n_workers: int
) -> Iterator[Event]:
    """Score runs in n_workers processes at once, telling what happens as it does."""
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    folders = [str(text.run.folder) for text in texts]
    for folder in folders:
        tasks.put(folder)
    left = len(folders)
    n_threads = max(1, (os.cpu_count() or 1) // n_workers)
    workers: dict[int, _Worker] = {}

    def start(number: int) -> None:
        process = context.Process(
            target=_work, args=(number, n_threads, settings, tasks, events), daemon=True
        )
        process.start()
        workers[number] = _Worker(process)

    for number in range(n_workers):
        start(number)
    try:
        while left:
            try:
                number, kind, value = events.get(timeout=0.5)
            except queue.Empty:
                for number, worker in list(workers.items()):
                    if worker.run is None or worker.process.is_alive():
                        continue
                    left -= 1
                    yield Incomplete(f"{Path(worker.run).name}: {_death(worker.process)}")
                    start(number)
                if not any(worker.process.is_alive() for worker in workers.values()):
                    raise Incomplete("the evaluating processes could not be started") from None
                continue
            if kind == "begins":
                workers[number].run = value
            elif kind == "ends":
                workers[number].run = None
                left -= 1
            else:
                yield value
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.process.join()


def _death(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code == -signal.SIGKILL:
        return "its process was killed, most likely for want of memory (workers=1 leaves it more)"
    return f"its process ended with {code}"


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers; nobody would read what they send."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by events_of_workers"
    parent.join()
    os._exit(1)


def _work(number: int, n_threads: int, settings: dict[str, Any], tasks: Any, events: Any) -> None:
    """What a process does: take a run, score it, tell, until no run is left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    n_devices = torch.cuda.device_count()
    if n_devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % n_devices)
    torch.set_num_threads(n_threads)
    runtime.prepare_process()
    while True:
        try:
            folder = tasks.get(timeout=1)
        except queue.Empty:
            return
        events.put((number, "begins", folder))
        try:
            for event in events_here([open_text(Run(Path(folder)), settings)], settings):
                events.put((number, "event", event))
        except LexpError as error:
            events.put((number, "event", error))
        events.put((number, "ends", folder))
