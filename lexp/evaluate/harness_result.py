"""A stored result of lm-evaluation-harness: how a model did on one of its tasks."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lexp.evaluate.model_under_test import RunInfo
from lexp.extension import method_label
from lexp.result_store import Component, Result, ResultKind

COLUMNS = (
    "run", "model", "size", "dataset", "seed", "train_len", "attention", "extension", "length",
    "asked", "task", "filter", "metric", "value", "stderr", "chance", "higher_is_better", "shots",
    "documents", "limit", "requests", "version", "harness", "seconds", "status", "tokenizer",
    "precision", "text", "variant",
)  # fmt: skip
# `shots` of a result where the task's own file says how many examples stand before a question.
OWN_SHOTS = -1
# What a value is of the values of its questions: their mean, or exp of it (perplexities).
MEAN, EXP_OF_MEAN = "mean", "exp of mean"


@dataclass(frozen=True)
class HarnessValue:
    """One measure of a task, as the harness computes it.

    task, filter, metric: its names; a group has its own values and those of its tasks. stderr: the
    harness's own, NaN where it has none. chance: the value of guessing at random, NaN where nobody
    knows one. shots: examples before each question; OWN_SHOTS of a group whose tasks differ.
    documents: questions. version: of the task. is_group: averaged over tasks. follows: MEAN or
    EXP_OF_MEAN if it follows from values of single questions in that way, or "".
    """

    task: str
    filter: str
    metric: str
    value: float
    stderr: float
    chance: float
    higher_is_better: bool | None
    shots: int
    documents: int
    version: str
    is_group: bool
    follows: str = ""


@dataclass(frozen=True, eq=False)
class QuestionValues:
    """The values of single questions behind a HarnessValue, float64 [n].

    sizes: 1, or a text's words or bytes; a group weighs its tasks with them. The mean is the sum of
    `sums` over that of `sizes`. follows: as in HarnessValue.
    """

    sums: np.ndarray
    sizes: np.ndarray
    follows: str


@dataclass(frozen=True)
class HarnessResult(Result):
    """A model's values on one task, or group of tasks, under one method.

    pattern, extension: as they were asked for. asked: name of the task or group. length: tokens
    read at most. shots: that were asked for, OWN_SHOTS for those of the task's file. limit:
    questions of each task at most, 0: all. requests: digest of what the model was asked, 8 digits.
    harness: version of the package. arrays: `log_prob` and `greedy` of each request [n], NaN and
    False where text was asked for; `sums_K` and `sizes_K` of the questions of value K.
    """

    run: RunInfo
    pattern: Component
    extension: Component
    asked: str
    length: int
    shots: int
    limit: int
    requests: str
    harness: str
    values: tuple[HarnessValue, ...]
    seconds: float

    @property
    def method(self) -> str:
        """Return the name of the method in tables."""
        return method_label(self.pattern.label, self.extension.label)

    def of_questions(self) -> dict[int, QuestionValues]:
        """Read the values of questions, by the number of their value; DataError as for `load`."""
        arrays = {} if self.arrays is None else self.arrays.load()
        return {
            n: QuestionValues(arrays[f"sums_{n}"], arrays[f"sizes_{n}"], value.follows)
            for n, value in enumerate(self.values)
            if value.follows and f"sums_{n}" in arrays and f"sizes_{n}" in arrays
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of harness.csv: one for each value, or one that has none."""
        shared = {
            **self.run.row(), "attention": self.pattern.label, "extension": self.extension.label,
            "length": self.length, "asked": self.asked, "limit": self.limit,
            "requests": self.requests, "harness": self.harness, "seconds": self.seconds,
            "status": self.status,
        }  # fmt: skip
        return [
            {**shared, **{name: field for name, field in vars(value).items() if name in COLUMNS}}
            for value in self.values or (self._no_value(),)
        ]

    def _no_value(self) -> HarnessValue:
        nan = math.nan
        return HarnessValue(self.asked, "", "", nan, nan, nan, None, self.shots, 0, "", False)


def arrays_of_questions(questions: dict[int, QuestionValues]) -> dict[str, np.ndarray]:
    """Return the arrays of a record that `HarnessResult.of_questions` reads."""
    sums = {f"sums_{n}": values.sums for n, values in questions.items()}
    return sums | {f"sizes_{n}": values.sizes for n, values in questions.items()}


HARNESS = ResultKind(
    name="harness",
    folder="harness",
    numerics=2,
    key=(
        "run.name", "pattern.label", "extension.label", "asked", "length", "shots", "limit",
        "run.precision", "pattern.code", "extension.code", "weights",
    ),
    result=HarnessResult,
)  # fmt: skip
