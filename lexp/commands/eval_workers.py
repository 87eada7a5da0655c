"""Several runs of a study evaluated at once, each by a process of its own.

A run is scored whole by one process, so that its files have one writer. A process that
dies (out of memory, most often) takes the run it was at with it, and no other.
"""

import itertools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from lexp.commands.load_runs import RunWithData, load_model_under_test, open_run_with_data
from lexp.commands.run_plan import EvalPlan
from lexp.commands.select_runs import select_checkpoints
from lexp.commands.texts import Key, StorePlace, Texts
from lexp.data.tasks.base import spelled
from lexp.evaluate import (
    EVALUATIONS,
    LAST,
    TASKS,
    EvalResult,
    EvalTargets,
    Method,
    ModelUnderTest,
    TaskCase,
    TaskResult,
    evaluate,
    evaluate_task,
    fit_ahead,
)
from lexp.record import Console, NullLogger
from lexp.result_store import clean_leftovers
from lexp.runs.checkpoint import Checkpoint
from lexp.runs.run import Run
from lexp.system import runtime
from lexp.system.errors import Incomplete, LexpError
from lexp.system.output import make_libraries_plain

# Below so many tokens to read, starting processes takes longer than it saves.
WORTH_IT_TOKENS = 5e6
# Models wider than this keep all cores of a machine busy by themselves.
SMALL_D_MODEL = 512


@dataclass(frozen=True)
class Progress:
    """Progress: n_tokens read since the last report; note: the present work, if it changed."""

    n_tokens: int
    note: str | None


@dataclass(frozen=True)
class ResultReady:
    """A result that is ready; is_new: it was computed in this call."""

    result: EvalResult | TaskResult
    is_new: bool


Event = Progress | ResultReady | LexpError


def choose_workers(workers: int | str, runs: Sequence[RunWithData], n_tokens: int) -> int:
    """Return how many processes score runs; never more than there are runs.

    workers: a number, or auto for as many as the machine has room for where that pays: one per GPU,
    or one per core of a CPU for small models. n_tokens: to be read in all.
    """
    if isinstance(workers, int):
        return max(1, min(workers, len(runs)))
    if n_tokens < WORTH_IT_TOKENS or len(runs) < 2:
        return 1
    if torch.cuda.is_available():
        return min(torch.cuda.device_count(), len(runs))
    widest = max(opened.config.size.d_model for opened in runs)
    return min(os.cpu_count() or 1, len(runs)) if widest <= SMALL_D_MODEL else 1


def events_of(runs: Sequence[RunWithData], plan: EvalPlan, n_workers: int) -> Iterator[Event]:
    """Score runs, in this process or in n_workers others, and yield what happens."""
    return events_here(runs, plan) if n_workers == 1 else events_of_workers(runs, plan, n_workers)


def ready_results(
    events: Iterator[Event], console: Console | NullLogger, problems: list[LexpError]
) -> Iterator[ResultReady]:
    """Yield the results among events; progress is shown, what went wrong is added to `problems`."""
    for event in events:
        if isinstance(event, LexpError):
            problems.append(event)
        elif isinstance(event, Progress):
            console.advance(event.n_tokens, event.note)
        else:
            yield event


def events_here(runs: Sequence[RunWithData], plan: EvalPlan) -> Iterator[Event]:
    """Score run after run in this process, and yield what happens."""
    for opened in runs:
        try:
            clean_leftovers(opened.run.folder, TASKS if opened.task else EVALUATIONS)
            for selected in select_checkpoints(opened.run, plan.checkpoints):
                yield from _events_at(opened, selected, plan)
        except LexpError as error:
            yield error


def _events_at(opened: RunWithData, selected: Checkpoint | None, plan: EvalPlan) -> Iterator[Event]:
    """Score one checkpoint, and yield what happens."""
    tested = load_model_under_test(opened, plan, selected)
    at = "" if tested.step == LAST else f" step {tested.step}"
    waiting: list[Event] = []
    was_stored: list[bool] = []

    def starting(cell: str, n_tokens: int, is_stored: bool) -> None:
        was_stored.append(is_stored)
        waiting.append(Progress(n_tokens if is_stored else 0, f"{opened.run.name}{at} {cell}"))

    def advance(n_tokens: int) -> None:
        waiting.append(Progress(n_tokens, None))

    for words in _fits(opened, tested):
        yield Progress(0, f"{opened.run.name}{at} {words}")
    for result in _results(opened, tested, starting, advance):
        yield from waiting
        waiting.clear()
        yield ResultReady(result, not all(was_stored))
        was_stored.clear()


def _fits(opened: RunWithData, tested: ModelUnderTest) -> Iterator[str]:
    """Fit what the methods of a run need before anything is scored; yield each step in words."""
    for targets, method in itertools.product(opened.targets, opened.methods):
        for length in targets.lengths:
            yield from fit_ahead(tested, method, length)


def _results(
    opened: RunWithData,
    tested: ModelUnderTest,
    starting: Callable[[str, int, bool], None],
    advance: Callable[[int], None],
) -> Iterator[EvalResult | TaskResult]:
    """Yield the results of a model on its texts, or on its task.

    starting: told of each cell in words, its tokens, and whether its result is stored.
    """

    def starting_text(
        targets: EvalTargets, method: Method, length: int, stored: EvalResult | None
    ) -> None:
        words = f"{targets.protocol.name} {method.label} {length}"
        starting(words, targets.n_read(length), stored is not None)

    def starting_case(case: TaskCase, is_stored: bool) -> None:
        words = f"{case.method.label} {spelled(case.length)}"
        starting(words, case.targets.n_read(case.length), is_stored)

    if opened.task:
        yield from evaluate_task(tested, opened.task, opened.methods, starting_case, advance)
    for targets in opened.targets:
        yield from evaluate(tested, targets, opened.methods, starting_text, advance)


@dataclass
class _Worker:
    process: BaseProcess
    run: str | None = field(default=None)


def events_of_workers(
    runs: Sequence[RunWithData], plan: EvalPlan, n_workers: int
) -> Iterator[Event]:
    """Score runs in n_workers processes at once, and yield what happens as it does."""
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    places = runs[0].texts.places
    folders = [str(opened.run.folder) for opened in runs]
    for folder in folders:
        tasks.put(folder)
    left = len(folders)
    n_threads = max(1, (os.cpu_count() or 1) // n_workers)
    workers: dict[int, _Worker] = {}

    def start(number: int) -> None:
        process = context.Process(
            target=_work, args=(number, n_threads, plan, places, tasks, events), daemon=True
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
    """Exit when the parent has gone: nobody would read what this process sends."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by events_of_workers"
    parent.join()
    os._exit(1)


def _work(
    number: int,
    n_threads: int,
    plan: EvalPlan,
    places: dict[Key, StorePlace],
    tasks: Any,
    events: Any,
) -> None:
    """Score runs in a process of its own, one after the other, until none is left.

    places: of the texts, which the parent has verified.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    n_devices = torch.cuda.device_count()
    if n_devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % n_devices)
    torch.set_num_threads(n_threads)
    make_libraries_plain()
    runtime.prepare_process()
    texts = Texts(plan, places)
    while True:
        try:
            folder = tasks.get(timeout=1)
        except queue.Empty:
            return
        events.put((number, "begins", folder))
        try:
            for event in events_here([open_run_with_data(Run(Path(folder)), plan, texts)], plan):
                events.put((number, "event", event))
        except LexpError as error:
            events.put((number, "event", error))
        events.put((number, "ends", folder))
