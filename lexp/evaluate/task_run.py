"""Exact match by problem length, each result stored as soon as it is known."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lexp.data.tasks.base import Length, spelled
from lexp.data.tasks.dataset import TaskDataset, held_out_examples
from lexp.data.tasks.rows import make_rows
from lexp.evaluate.model_under_test import Method, ModelUnderTest, model_spec
from lexp.evaluate.prepare import prepare
from lexp.evaluate.task_result import ARRAYS, TASKS, TaskMeasures, TaskResult
from lexp.result_store import (
    NOT_FINITE,
    Outcome,
    Spec,
    attempt,
    component_of,
    component_spec,
    recall,
    write,
)
from lexp.scoring.answers import AnswerScores, score_answers

# The seed of test examples: all runs and all commands ask the same ones.
SEED = 0


@dataclass(frozen=True)
class TaskTargets:
    """A task at the lengths of an evaluation, each with as many examples.

    dataset: what the run was trained on. The examples follow from its task, the length and their
    number alone.
    """

    dataset: TaskDataset
    lengths: tuple[Length, ...]
    n_examples: int

    @property
    def longest(self) -> int:
        """Return the tokens of the longest row of the evaluation."""
        return max(self.dataset.row_len(length) for length in self.lengths)

    def n_read(self, length: Length) -> int:
        """Count the tokens that the model reads at a length."""
        return self.n_examples * self.dataset.row_len(length)


@dataclass(frozen=True)
class TaskCase:
    """The subject of one result: a model, a task, a method and a problem length.

    method: with the longest row of the evaluation, in tokens.
    """

    tested: ModelUnderTest
    targets: TaskTargets
    method: Method
    length: Length

    @property
    def n_tokens(self) -> int:
        """Return the tokens of a row: what methods and extensions know of the length."""
        return self.targets.dataset.row_len(self.length)

    @property
    def spec(self) -> Spec[TaskResult]:
        """Return what the result's numbers depend on."""
        task, length = self.targets.dataset.task, self.length
        fields = {
            **model_spec(self.tested, self.method, self.n_tokens),
            "task": component_spec(task),
            "problem_length": list(length) if isinstance(length, tuple) else length,
            "examples": self.targets.n_examples,
            "seed": SEED,
        }
        return Spec(TASKS, f"{self.method.label}-{task.name}-{spelled(length)}", fields)


def evaluate_task(
    tested: ModelUnderTest,
    targets: TaskTargets,
    methods: Sequence[Method],
    starting: Callable[[TaskCase, bool], None],
    advance: Callable[[int], None],
) -> Iterator[TaskResult]:
    """Yield the result of every method and length, computing only what is missing.

    starting: told which case comes next, and whether its result is stored. advance: told of tokens.
    """
    for method in methods:
        for length in targets.lengths:
            case = TaskCase(tested, targets, method, length)
            stored = recall(tested.folder, case.spec)
            starting(case, stored is not None)
            result = stored or _compute(case, advance)
            # Names of the run may have changed since; no number depends on them.
            yield replace(result, run=tested.run)


def _compute(case: TaskCase, advance: Callable[[int], None]) -> TaskResult:
    """Score the examples of a case and store the result."""
    started = time.perf_counter()
    outcome = _score(case, advance)
    scores, status, reason, measures = outcome.value, outcome.status, outcome.reason, TaskMeasures()
    if scores is not None and np.isfinite(scores.nats).all():
        measures = measure(scores)
    elif scores is not None:
        status = NOT_FINITE
        reason = f"first in example {scores.example[~np.isfinite(scores.nats)].min()}"
    tested, targets, method, length = case.tested, case.targets, case.method, case.length
    first, second = length if isinstance(length, tuple) else (length, 0)
    task = targets.dataset.task
    result = TaskResult(
        run=tested.run,
        trained_length=targets.dataset.max_length,
        pattern=component_of(method.pattern),
        extension=component_of(method.extension),
        task=component_of(task),
        length=first,
        second_length=second,
        n_tokens=case.n_tokens,
        examples=targets.n_examples,
        measures=measures,
        seconds=round(time.perf_counter() - started, 3),
        step=tested.step,
        status=status,
        reason=reason,
    )
    arrays = {name: getattr(scores, name) for name in ARRAYS} if scores else None
    return write(tested.folder, case.spec, result, arrays)


def _score(case: TaskCase, advance: Callable[[int], None]) -> Outcome[AnswerScores]:
    """Answer the examples of a case; NotDefined and exhausted memory become statuses."""
    tested, targets, n_tokens = case.tested, case.targets, case.n_tokens

    def scores() -> AnswerScores:
        model, pattern = prepare(tested, case.method, n_tokens)
        examples = held_out_examples(targets.dataset.task, case.length, targets.n_examples, SEED)
        device = next(model.parameters()).device
        attend = tested.make_attend(pattern, n_tokens, model.schemes, device)
        return score_answers(model, make_rows(examples, n_tokens + 1), attend, tested.autocast)

    outcome = attempt(scores)
    advance(targets.n_read(case.length))
    return outcome


def measure(scores: AnswerScores) -> TaskMeasures:
    """Average over examples and their answer tokens."""
    # Its package loads SciPy, for which a training would wait.
    from lexp.statistics.shares import wilson

    n, n_right = len(scores.exact), int(scores.exact.sum())
    low, high = wilson(n_right, n)
    return TaskMeasures(
        n_right / n, low, high, float(scores.right.mean()), float(scores.nats.mean())
    )
