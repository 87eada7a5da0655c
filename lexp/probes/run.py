"""Probes of one trained model by every method at every length, computing only what is missing."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lexp.attention import make_attend
from lexp.evaluate import (
    NOT_DEFINED,
    NOT_FINITE,
    OK,
    OUT_OF_MEMORY,
    Method,
    ModelUnderTest,
    prepare,
)
from lexp.extension import Extension
from lexp.probes.base import Material, Probe, ProbeExample, make_examples
from lexp.probes.cells import MEASURES, ProbeCell, Result, measure, read_result, write_result
from lexp.probes.score import Scores, score_examples
from lexp.system.errors import NotDefined, first_line
from lexp.system.files import digest
from lexp.system.runtime import is_out_of_memory
from lexp.training.objective import refuse_both_sides

# Raised whenever a change of the code changes numbers: cells of another version are not reused.
NUMERICS = 1
LABELS = (
    "run", "model", "size", "dataset", "seed", "train_len", "tokenizer", "precision", "text",
    "variant",
)  # fmt: skip


# Examples of a probe by length: the same for all methods, made when first asked for.
Made = dict[int, list[ProbeExample]]


@dataclass(frozen=True)
class ProbePlan:
    """What is asked of every subject; `seed` draws the examples."""

    probes: list[Probe]
    methods: list[Method]
    lengths: list[int]
    samples: int
    seed: int


@dataclass(frozen=True)
class ProbeCase:
    """A cell's place in a plan."""

    probe: Probe
    method: Method
    length: int

    def n_tokens(self, plan: ProbePlan) -> int:
        """Tokens a model reads for it."""
        return plan.samples * self.probe.n_passes * self.length


def run_probes(
    subject: ModelUnderTest,
    material: Material,
    plan: ProbePlan,
    starting: Callable[[ProbeCase, bool], None],
    advance: Callable[[int], None],
) -> Iterator[Result]:
    """Yield each cell, computing only what is missing.

    starting: told which cell comes next, and whether it is known. advance: told of tokens read.
    """
    for probe in plan.probes:
        made: Made = {}
        for method in plan.methods:
            for length in sorted(plan.lengths):
                place = ProbeCase(probe, method, length)
                path = result_path(subject, place, plan)
                known = read_result(path)
                if known and known.cell.status == OUT_OF_MEMORY:
                    known = None  # the machine may have changed
                starting(place, known is not None)
                if known is None:
                    known = _compute(subject, material, plan, place, made, advance)
                    write_result(path, known)
                yield known


def result_path(subject: ModelUnderTest, place: ProbeCase, plan: ProbePlan) -> Path:
    """Where a cell is kept: a readable name, and a hash of all it depends on."""
    probe, method, length = place.probe, place.method, place.length
    identity: dict[str, Any] = {
        **subject.identity,
        "numerics": NUMERICS,
        "pattern": repr(subject.fit(method.pattern, length)),
        "probe": repr(probe),
        "samples": plan.samples,
        "seed": plan.seed,
        "length": length,
    }
    if type(method.extension) is not Extension:
        identity |= {"extension": repr(method.extension), "longest": method.longest}
    stem = f"{probe.label}-{method.label}-{length}-{digest(identity)[:8]}".replace(" ", "-")
    return subject.folder / "probes" / f"{stem}.json"


def _compute(
    subject: ModelUnderTest,
    material: Material,
    plan: ProbePlan,
    place: ProbeCase,
    made: Made,
    advance: Callable[[int], None],
) -> Result:
    started = time.perf_counter()
    scores, status, reason = _score(subject, material, plan, place, made, advance)
    measures: dict[str, Any] = dict.fromkeys(MEASURES, math.nan)
    if scores is not None and scores.finite:
        measures = {**measure(scores)}
    elif scores is not None:
        bad = ~(np.isfinite(scores.nll) & np.isfinite(scores.control_nll))
        status, reason = NOT_FINITE, f"first in example {scores.example[np.flatnonzero(bad)[0]]}"
    n_candidates = place.probe.n_candidates
    cell = ProbeCell(
        **{key: subject.labels[key] for key in LABELS},
        attention=place.method.pattern.label,
        extension=place.method.extension.label,
        probe=place.probe.label,
        length=place.length,
        samples=plan.samples,
        probe_seed=plan.seed,
        chance=1 / n_candidates if n_candidates > 1 else math.nan,
        **measures,
        seconds=round(time.perf_counter() - started, 3),
        status=status,
    )
    return Result(cell, reason, scores)


def _score(
    subject: ModelUnderTest,
    material: Material,
    plan: ProbePlan,
    place: ProbeCase,
    made: Made,
    advance: Callable[[int], None],
) -> tuple[Scores | None, str, str]:
    """Scores, status and reason of a cell."""
    probe, length, message = place.probe, place.length, None
    try:
        model, pattern = prepare(subject, place.method, length)
        refuse_both_sides(pattern, "probes ask causal models")
        if length not in made:
            made[length] = make_examples(probe, material, length, plan.samples, plan.seed)
        device = next(model.parameters()).device
        attend = make_attend(pattern, length, model.schemes, device)
        scores = score_examples(probe, model, made[length], attend, subject.autocast, advance)
        return scores, OK, ""
    except NotDefined as error:
        advance(place.n_tokens(plan))
        return None, NOT_DEFINED, str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = first_line(error)
    # Outside the except block: the exception's frames would keep the tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, OUT_OF_MEMORY, message
