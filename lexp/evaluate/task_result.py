"""A stored evaluation of a task: how a model answers problems of one length."""

import math
from dataclasses import dataclass, fields
from typing import Any

from lexp.data.tasks.base import Length
from lexp.evaluate.model_under_test import LAST, RunInfo
from lexp.extension import method_label
from lexp.result_store import Component, Result, ResultKind
from lexp.scoring.answers import AnswerScores
from lexp.system.errors import DataError

COLUMNS = (
    "run", "model", "size", "dataset", "seed", "train_len", "trained_length", "attention",
    "extension", "task", "length", "second_length", "tokens", "examples", "exact_match", "low",
    "high", "token_accuracy", "nll", "seconds", "status", "tokenizer", "precision", "text",
    "variant",
)  # fmt: skip
ARRAYS = tuple(field.name for field in fields(AnswerScores))


@dataclass(frozen=True)
class TaskMeasures:
    """Averages over the examples of a length, NaN where there is none.

    exact_match: the share of answers that are right in every token, end token included, with its
    95 % interval over examples (Wilson). token_accuracy: of single tokens. nll: nats per token.
    """

    exact_match: float = math.nan
    low: float = math.nan
    high: float = math.nan
    token_accuracy: float = math.nan
    nll: float = math.nan


@dataclass(frozen=True)
class TaskResult(Result):
    """A model's answers to problems of one length under one method.

    trained_length: the longest problem length of training. pattern, extension, task: as they were
    asked for. length, second_length: of the problems; the second 0 where they have one. n_tokens:
    of the longest row. arrays: the fields of lexp.scoring.answers.AnswerScores.
    """

    run: RunInfo
    trained_length: int
    pattern: Component
    extension: Component
    task: Component
    length: int
    second_length: int
    n_tokens: int
    examples: int
    measures: TaskMeasures
    seconds: float
    step: int = LAST

    @property
    def problem_length(self) -> Length:
        """Return the length, or both where the problems have two."""
        return (self.length, self.second_length) if self.second_length else self.length

    @property
    def method(self) -> str:
        """Return the name of the method in tables."""
        return method_label(self.pattern.label, self.extension.label)

    def scores(self) -> AnswerScores:
        """Read the scores of all answer tokens; DataError if the file is missing or damaged."""
        if self.arrays is None:
            raise DataError(f"{self.run.name}: a result of {self.task.label} without scores")
        arrays = self.arrays.load()
        if missing := sorted(set(ARRAYS) - set(arrays)):
            raise DataError(f"{self.arrays.path} is not a file of answers (no {missing[0]})")
        scores = AnswerScores(**{name: arrays[name] for name in ARRAYS})
        if len(scores.exact) != self.examples:
            raise DataError(f"{self.arrays.path} has scores of another result than its record")
        return scores

    def check_arrays(self) -> None:
        """Raise DataError if the scores are not those of this result."""
        if self.arrays is not None:
            self.scores()

    def row(self) -> dict[str, Any]:
        """Return the row of tasks.csv."""
        return {
            **self.run.row(), "trained_length": self.trained_length,
            "attention": self.pattern.label, "extension": self.extension.label,
            "task": self.task.label, "length": self.length, "second_length": self.second_length,
            "tokens": self.n_tokens, "examples": self.examples, **vars(self.measures),
            "seconds": self.seconds, "status": self.status,
        }  # fmt: skip


TASKS = ResultKind(
    name="task",
    folder="tasks",
    numerics=1,
    key=(
        "run.name", "pattern.label", "extension.label", "task.label", "length", "second_length",
        "examples", "run.precision", "step", "pattern.code", "extension.code", "task.code",
        "weights",
    ),
    result=TaskResult,
)  # fmt: skip
