"""Perplexity by inference length, each result stored as soon as it is known.

A result has the losses of all its tokens beside it (lexp.scoring.losses): any other average can be
taken later. Failures are results too; nothing is dropped.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lexp.evaluate.model_under_test import Method, ModelUnderTest
from lexp.evaluate.partial_progress import PartialFile
from lexp.evaluate.prepare import prepare
from lexp.evaluate.result import EvalResult, eval_spec
from lexp.evaluate.targets import EvalTargets
from lexp.result_store import (
    NOT_DEFINED,
    NOT_FINITE,
    Outcome,
    Spec,
    attempt,
    component_of,
    path_of,
    recall,
    write,
)
from lexp.scoring.losses import Losses, collect
from lexp.scoring.memory import available_bytes, needed_bytes, spelled
from lexp.scoring.protocol import TextWindow
from lexp.scoring.scorer import Scorer
from lexp.system.files import make_folder

Starting = Callable[[EvalTargets, Method, int, EvalResult | None], None]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class EvalCase:
    """The subject of one result: a model, targets, a method and a length."""

    tested: ModelUnderTest
    targets: EvalTargets
    method: Method
    length: int

    @property
    def spec(self) -> Spec[EvalResult]:
        """Return the facts that the result's numbers depend on."""
        return eval_spec(self.tested, self.targets, self.method, self.length)


def evaluate(
    tested: ModelUnderTest,
    targets: EvalTargets,
    methods: Sequence[Method],
    starting: Starting,
    advance: Advance,
) -> Iterator[EvalResult]:
    """Yield the result of every method and length, computing only what is missing.

    Lengths ascend, so that what runs out of memory comes last. starting: told which result comes
    next, and the result itself if it is stored already. advance: told of tokens read.
    """
    for method in methods:
        if targets.protocol.nested and not depends_on_length(tested, targets, method):
            yield from _nested(tested, targets, method, starting, advance)
            continue
        for length in sorted(targets.lengths):
            case = EvalCase(tested, targets, method, length)
            stored = _find(case)
            starting(targets, method, length, stored)
            yield stored or _compute(case, advance)


def depends_on_length(tested: ModelUnderTest, targets: EvalTargets, method: Method) -> bool:
    """Return True if a text's beginning is read otherwise when more of it follows."""
    patterns = {repr(tested.fit(method.pattern, length)) for length in targets.lengths}
    schemes = tested.model.schemes
    depends = any(scheme.samples_positions or scheme.by_length for scheme in schemes)
    return len(patterns) > 1 or depends or method.extension.follows_length


def _nested(
    tested: ModelUnderTest,
    targets: EvalTargets,
    method: Method,
    starting: Starting,
    advance: Advance,
) -> Iterator[EvalResult]:
    """Yield all lengths' results from one pass at the longest length that succeeds."""
    results: dict[int, EvalResult] = {}
    longest: Losses | None = None
    for length in sorted(targets.lengths, reverse=True):
        case = EvalCase(tested, targets, method, length)
        result = _find(case)
        starting(targets, method, length, result)
        if result is None and longest is not None:
            advance(targets.n_read(length))
            beginning = longest.only(longest.context <= length, length)
            result = _store(case, Outcome(beginning), 0.0)
        results[length] = result or _compute(case, advance)
        if longest is None and results[length].ok:
            longest = results[length].losses()
    for length in sorted(results):
        yield results[length]


def _find(case: EvalCase) -> EvalResult | None:
    """Return a case's stored result under the run's present names, on which no number depends."""
    stored = recall(case.tested.folder, case.spec)
    return stored and replace(stored, run=case.tested.run)


def _compute(case: EvalCase, advance: Advance) -> EvalResult:
    """Score a case, keeping progress meanwhile, and store its result."""
    path = path_of(case.tested.folder, case.spec)
    make_folder(path.parent)
    n_targets = sum(window.n_scored for window in case.targets.windows(case.length))
    started = time.perf_counter()
    partial = PartialFile(path.with_suffix(".part"), case.spec.digest, n_targets)
    outcome = _score(case, advance, partial)
    result = _store(case, outcome, round(time.perf_counter() - started, 3))
    partial.remove()
    return result


def _score(case: EvalCase, advance: Advance, partial: PartialFile) -> Outcome[Losses]:
    """Score the targets of a case; NotDefined and exhausted memory become statuses."""
    tested, targets, length = case.tested, case.targets, case.length
    windows = targets.windows(length)

    def losses() -> Losses:
        model, pattern = prepare(tested, case.method, length)
        scorer = tested.objective.scorer(
            model, pattern, tested.autocast, targets.protocol, tested.make_attend
        )
        if missing := _too_little_memory(scorer, windows, tested.run.precision):
            advance(targets.n_read(length))
            raise MemoryError(missing)
        nats = scorer.score(tested.tokens, windows, advance, partial)
        context = targets.protocol.contexts(windows)
        return collect(tested.tokens, windows, context, nats, length, targets.label)

    outcome = attempt(losses)
    if outcome.status == NOT_DEFINED:
        advance(targets.n_read(length))
    return outcome


def _too_little_memory(scorer: Scorer, windows: list[TextWindow], precision: str) -> str:
    """Say why a pass cannot fit, or "": the system kills a process without a word."""
    free = available_bytes(scorer.device)
    size = max(piece.size for piece in scorer.pieces(windows))
    n_tokens = max(size, min(scorer.batch_tokens, size * len(windows)))
    item = 2 if precision == "bfloat16" else 4
    needed = needed_bytes(scorer.model, scorer.pattern, n_tokens, size, item)
    if free is None or needed <= free:
        return ""
    return f"needs about {spelled(needed)}, {spelled(free)} are free"


def _store(case: EvalCase, outcome: Outcome[Losses], seconds: float) -> EvalResult:
    """Store a result; a loss that is not finite is a failure with its place."""
    tested, targets, method = case.tested, case.targets, case.method
    losses, status, reason = outcome.value, outcome.status, outcome.reason
    if losses is not None and not math.isfinite(losses.nll):
        status = NOT_FINITE
        reason = f"first at context {losses.context[~np.isfinite(losses.nats)].min()}"
    result = EvalResult(
        run=tested.run,
        pattern=component_of(method.pattern),
        extension=component_of(method.extension),
        protocol=targets.protocol.info(targets.lengths),
        length=case.length,
        documents=targets.n_documents,
        tokens=sum(window.n_scored for window in targets.windows(case.length)),
        scored=targets.scored_text(tested.tokens),
        nll=math.nan if losses is None else losses.nll,
        ppl=math.nan if losses is None else losses.ppl,
        bpb=math.nan if losses is None else losses.bits_per_byte,
        seconds=seconds,
        step=tested.step,
        status=status,
        reason=reason,
    )
    return write(tested.folder, case.spec, result, losses.arrays() if losses else None)
