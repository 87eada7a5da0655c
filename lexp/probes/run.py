"""Probes of one trained model by every method at every length, computing only what is missing."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from lexp.attention import make_attend
from lexp.evaluate import Method, ModelUnderTest, model_spec, prepare
from lexp.probes.base import Material, Probe, ProbeExample, make_examples
from lexp.probes.measures import NO_MEASURES, measure
from lexp.probes.result import PROBES, ProbeResult
from lexp.probes.score import ARRAYS, Scores, score_examples
from lexp.result_store import (
    NOT_DEFINED,
    NOT_FINITE,
    Outcome,
    Spec,
    attempt,
    component_of,
    component_spec,
    recall,
    write,
)
from lexp.training.objective import refuse_both_sides

# Examples of a probe by length: the same for all methods, made when first asked for.
ExamplesByLength = dict[int, list[ProbeExample]]


@dataclass(frozen=True)
class ProbePlan:
    """The probes, methods and lengths for every model under test; `seed` draws the examples."""

    probes: tuple[Probe, ...]
    methods: tuple[Method, ...]
    lengths: tuple[int, ...]
    samples: int
    seed: int


@dataclass(frozen=True)
class ProbeCase:
    """The subject of one result of a plan."""

    probe: Probe
    method: Method
    length: int

    def n_tokens(self, plan: ProbePlan) -> int:
        """Count the tokens that a model reads for the result."""
        return plan.samples * self.probe.n_passes * self.length


def run_probes(
    tested: ModelUnderTest,
    material: Material,
    plan: ProbePlan,
    starting: Callable[[ProbeCase, bool], None],
    advance: Callable[[int], None],
) -> Iterator[ProbeResult]:
    """Yield the result of every case, computing only what is missing.

    starting: told which case comes next, and whether its result is stored already. advance: told of
    tokens read.
    """
    for probe in plan.probes:
        examples: ExamplesByLength = {}
        for method in plan.methods:
            for length in sorted(plan.lengths):
                case = ProbeCase(probe, method, length)
                result = recall(tested.folder, probe_spec(tested, case, plan))
                starting(case, result is not None)
                if result is None:
                    result = _compute(tested, material, plan, case, examples, advance)
                # Names of the run may have changed since; no number depends on them.
                yield replace(result, run=tested.run)


def probe_spec(tested: ModelUnderTest, case: ProbeCase, plan: ProbePlan) -> Spec[ProbeResult]:
    """Return what a result's numbers depend on."""
    fields = {
        **model_spec(tested, case.method, case.length),
        "probe": component_spec(case.probe),
        "samples": plan.samples,
        "seed": plan.seed,
    }
    return Spec(PROBES, f"{case.probe.label}-{case.method.label}-{case.length}", fields)


def _compute(
    tested: ModelUnderTest,
    material: Material,
    plan: ProbePlan,
    case: ProbeCase,
    examples: ExamplesByLength,
    advance: Callable[[int], None],
) -> ProbeResult:
    """Score the examples of a case and store the result."""
    started = time.perf_counter()
    outcome = _score(tested, material, plan, case, examples, advance)
    scores, status, reason, measures = outcome.value, outcome.status, outcome.reason, NO_MEASURES
    if scores is not None and scores.finite:
        measures = measure(scores)
    elif scores is not None:
        bad = ~(np.isfinite(scores.nll) & np.isfinite(scores.control_nll))
        status, reason = NOT_FINITE, f"first in example {scores.example[np.flatnonzero(bad)[0]]}"
    n_candidates = case.probe.n_candidates
    result = ProbeResult(
        run=tested.run,
        pattern=component_of(case.method.pattern),
        extension=component_of(case.method.extension),
        probe=component_of(case.probe),
        length=case.length,
        samples=plan.samples,
        probe_seed=plan.seed,
        chance=1 / n_candidates if n_candidates > 1 else math.nan,
        measures=measures,
        seconds=round(time.perf_counter() - started, 3),
        status=status,
        reason=reason,
    )
    arrays = {name: getattr(scores, name) for name in ARRAYS} if scores else None
    return write(tested.folder, probe_spec(tested, case, plan), result, arrays)


def _score(
    tested: ModelUnderTest,
    material: Material,
    plan: ProbePlan,
    case: ProbeCase,
    examples: ExamplesByLength,
    advance: Callable[[int], None],
) -> Outcome[Scores]:
    """Score the examples of a case; NotDefined and exhausted memory become statuses."""
    probe, length = case.probe, case.length

    def scores() -> Scores:
        model, pattern = prepare(tested, case.method, length)
        refuse_both_sides(pattern, "probes ask causal models")
        if length not in examples:
            examples[length] = make_examples(probe, material, length, plan.samples, plan.seed)
        device = next(model.parameters()).device
        attend = make_attend(pattern, length, model.schemes, device)
        return score_examples(probe, model, examples[length], attend, tested.autocast, advance)

    outcome = attempt(scores)
    if outcome.status == NOT_DEFINED:
        advance(case.n_tokens(plan))
    return outcome
