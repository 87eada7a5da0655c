"""Results of weights that are no longer a run's: left out of every table, and said."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from lexp.evaluate import LAST
from lexp.result_store import Result
from lexp.runs.run import Run
from lexp.system.output import warn
from lexp.system.text import counted

T = TypeVar("T", bound=Result)


def of_present_weights(
    study: Path, results: Sequence[T], place: Callable[[T], tuple[str, int]]
) -> list[T]:
    """Return results but for those of a checkpoint that was trained again with other bits.

    place: name of a result's run, and the step of its checkpoint. Where a checkpoint is gone, its
    results stay: nothing contradicts them.
    """

    @cache
    def weights(run: str, step: int) -> str:
        return Run(study / run).weights(None if step == LAST else step)

    left_out: Counter[str] = Counter()
    kept = []
    for result in results:
        run, step = place(result)
        known = weights(run, step) if result.weights else ""
        if known in ("", result.weights):
            kept.append(result)
        else:
            left_out[run] += 1
    for run, n in sorted(left_out.items()):
        warn(
            f"{run} was trained again since: {counted(n, 'result')} of its weights before left "
            "out; repeat the commands that made them",
            stacklevel=2,
        )
    return kept
