"""Results of tasks as an evaluation would store them, for tables and sentences."""

import math

from lexp.evaluate import RunInfo
from lexp.evaluate.task_result import TaskMeasures, TaskResult
from lexp.result_store import Component
from lexp.statistics.shares import wilson


def result(model, seed, length, share, method="full", extension="none", **values) -> TaskResult:
    run = RunInfo(f"{model}-{seed}", model, "nano", "copy", seed, 42, "bytes", "float32", "t",
                  f"v-{model}", "bytes")  # fmt: skip
    low, high = wilson(round(100 * share), 100) if share == share else (math.nan, math.nan)
    return TaskResult(
        run, 20, Component(method, method, {}), Component(extension, extension, {}),
        Component("copy", "copy", {}), length, 0, 2 * length + 2, 100,
        TaskMeasures(share, low, high, share, 0.1), 1.0, **values,
    )  # fmt: skip


def study(**models) -> list[TaskResult]:
    """Return results: shares of each model by length, one for each seed."""
    return [
        result(model, seed, length, share)
        for model, by_length in models.items()
        for length, shares in by_length.items()
        for seed, share in enumerate(shares)
    ]
