"""Tasks of lm-evaluation-harness on one trained model, computing only what is missing.

The harness makes the requests and the measures; what lies between, the answers of a model under a
method, is computed here. Nothing here imports the harness.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from lexp.data.tokenizer import Tokenizer
from lexp.evaluate.harness_result import (
    HARNESS,
    HarnessResult,
    HarnessValue,
    QuestionValues,
    arrays_of_questions,
)
from lexp.evaluate.model_under_test import Method, ModelUnderTest, model_spec
from lexp.evaluate.partial_progress import PartialFile
from lexp.evaluate.prepare import prepare
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.result_store import (
    FAILED,
    NOT_FINITE,
    OK,
    Outcome,
    Spec,
    attempt,
    component_of,
    path_of,
    recall,
    write,
)
from lexp.scoring.requests import KINDS, TEXTS, Likelihood, Request, RequestScorer, Response
from lexp.system.errors import LexpError
from lexp.system.files import make_folder, remove_file
from lexp.training.objective import refuse_both_sides


@dataclass(frozen=True)
class Measured:
    """Values of a task, and those of single questions by the number of their value."""

    values: tuple[HarnessValue, ...]
    of_questions: dict[int, QuestionValues]


Measure = Callable[[Sequence[Response]], Measured]


@dataclass(frozen=True)
class HarnessTask:
    """A task, or a group of tasks, and what it asks of a model.

    digest: of the requests and of all that makes values of the answers. measure: makes them; a
    DataError says why it cannot. problem: why there are no requests, or "".
    """

    name: str
    requests: tuple[Request, ...]
    digest: str
    measure: Measure
    problem: str = ""


@dataclass(frozen=True)
class HarnessPlan:
    """The tasks, methods and lengths for every model under test.

    shots, limit: see HarnessResult. harness: version of the package.
    """

    tasks: tuple[HarnessTask, ...]
    methods: tuple[Method, ...]
    lengths: tuple[int, ...]
    shots: int
    limit: int
    harness: str


@dataclass(frozen=True)
class HarnessCase:
    """The subject of one result: a model, a task, a method, and the tokens it reads at most."""

    tested: ModelUnderTest
    plan: HarnessPlan
    task: HarnessTask
    method: Method
    length: int

    @cached_property
    def spec(self) -> Spec[HarnessResult]:
        """Return what the result's numbers depend on."""
        fields = {
            **model_spec(self.tested, self.method, self.length),
            "asked": self.task.name,
            "requests": self.task.digest,
            "shots": self.plan.shots,
            "limit": self.plan.limit,
            "harness": self.plan.harness,
        }
        return Spec(HARNESS, f"{self.task.name}-{self.method.label}-{self.length}", fields)


def run_harness(
    tested: ModelUnderTest,
    tokenizer: Tokenizer,
    plan: HarnessPlan,
    starting: Callable[[HarnessCase, bool], None],
    advance: Callable[[int], None],
) -> Iterator[HarnessResult]:
    """Yield the result of every task, method and length.

    starting: told which case comes next, and whether its result is stored. advance: told of
    requests that are answered.
    """
    for task in plan.tasks:
        for method in plan.methods:
            for length in plan.lengths:
                case = HarnessCase(tested, plan, task, method, length)
                stored = recall(tested.folder, case.spec)
                starting(case, stored is not None)
                result = stored or _compute(case, tokenizer, advance)
                # Names of the run may have changed since; no number depends on them.
                yield replace(result, run=tested.run)


def _compute(
    case: HarnessCase, tokenizer: Tokenizer, advance: Callable[[int], None]
) -> HarnessResult:
    """Answer the requests of a case, have them measured, and store the result."""
    started = time.perf_counter()
    make_folder(path_of(case.tested.folder, case.spec).parent)
    task, plan = case.task, case.plan
    outcome: Outcome[list[Response]] = Outcome(None, FAILED, task.problem)
    if not task.problem:
        outcome = _answers(case, tokenizer, advance)
    answers, status, reason = outcome.value, outcome.status, outcome.reason
    measured = Measured((), {})
    if answers is not None and (bad := _first_not_finite(answers)) is not None:
        status, reason = NOT_FINITE, f"first in request {bad}"
    elif answers is not None:
        try:
            measured = task.measure(answers)
        except LexpError as error:
            status, reason = FAILED, str(error)
    result = HarnessResult(
        run=case.tested.run,
        pattern=component_of(case.method.pattern),
        extension=component_of(case.method.extension),
        asked=task.name,
        length=case.length,
        shots=plan.shots,
        limit=plan.limit,
        requests=task.digest[:8],
        harness=plan.harness,
        values=measured.values,
        seconds=round(time.perf_counter() - started, 3),
        status=status,
        reason=reason,
    )
    arrays = None
    if answers is not None and status == OK:
        arrays = _arrays(answers) | arrays_of_questions(measured.of_questions)
    result = write(case.tested.folder, case.spec, result, arrays)
    for kind in KINDS:
        remove_file(_part(case, kind))
    return result


def _part(case: HarnessCase, kind: str) -> Path:
    """Return the file of what an unfinished start has computed of a kind of requests."""
    return path_of(case.tested.folder, case.spec).with_suffix(f".{kind}.part")


def _answers(
    case: HarnessCase, tokenizer: Tokenizer, advance: Callable[[int], None]
) -> Outcome[list[Response]]:
    """Answer the requests of a case; NotDefined and exhausted memory become statuses."""
    tested, method, n_done = case.tested, case.method, 0

    @lru_cache(maxsize=2)
    def prepared(length: int) -> tuple[Transformer, Pattern]:
        return prepare(tested, method, length)

    def told(n_requests: int) -> None:
        nonlocal n_done
        n_done += n_requests
        advance(n_requests)

    def answers() -> list[Response]:
        """Return the response to each request, by the model as the method runs it."""
        model, pattern = prepared(case.length)
        refuse_both_sides(pattern, "the harness asks causal models")
        follows = method.extension.follows_length
        scorer = RequestScorer(
            # A model that follows the length is another one for each text.
            prepare=lambda size: prepared(size if follows else case.length),
            tokenizer=tokenizer,
            length=case.length,
            is_exact=follows or depends_on_what_follows(model),
            autocast=tested.autocast,
            advance=told,
            make_attend=tested.make_attend,
            partial=lambda kind, n: PartialFile(
                _part(case, kind), case.spec.digest, n, "<i4" if kind == TEXTS else "<f8"
            ),
        )
        return scorer.answer(case.task.requests)

    outcome = attempt(answers)
    advance(len(case.task.requests) - n_done)
    return outcome


def depends_on_what_follows(model: Transformer) -> bool:
    """Return True if a text's tokens are read otherwise when it goes on."""
    return any(p.samples_positions or p.by_length or p.reads_tokens for p in model.schemes)


def _arrays(answers: Sequence[Response]) -> dict[str, np.ndarray]:
    known = [a if isinstance(a, Likelihood) else Likelihood(np.nan, False) for a in answers]
    return {
        "log_prob": np.array([answer.log_prob for answer in known]),
        "greedy": np.array([answer.greedy for answer in known]),
    }


def _first_not_finite(answers: Sequence[Response]) -> int | None:
    """Return the first request whose likelihood is no finite number; None if there is none."""
    return next(
        (
            n
            for n, answer in enumerate(answers)
            if isinstance(answer, Likelihood) and not math.isfinite(answer.log_prob)
        ),
        None,
    )
