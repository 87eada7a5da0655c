"""Extrapolation as training goes on: reach, gain and what length costs, by checkpoint."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lexp.display.document import Chart, Curve, Point
from lexp.display.table import Table, TableCell
from lexp.evaluate import LAST, EvalResult
from lexp.report.claims import Claim, claims
from lexp.report.row_names import row_names
from lexp.report.study_results import ResultSeries, by_protocol, make_series
from lexp.statistics import rank_correlation

TRAINING = (
    "Every number is of one checkpoint of the same runs. Whether extrapolation gets worse with "
    "training is in the sign of the rank correlations: the loss itself falls meanwhile."
)


@dataclass(frozen=True)
class Standing:
    """The extrapolation of a series at a step.

    seeds: of which all numbers are means. rises: by length, nats per token above those at the
    trained length, NaN where a seed has no number.
    """

    seeds: frozenset[int]
    reach: str
    gain: float
    trained: float
    rises: dict[int, float]


@dataclass(frozen=True)
class Course:
    """The standings of a series by step. Only those of all its seeds have numbers that compare."""

    by_step: dict[int, Standing]

    @property
    def seeds(self) -> frozenset[int]:
        """Return the seeds that any step has."""
        return frozenset().union(*(standing.seeds for standing in self.by_step.values()))

    @property
    def whole(self) -> dict[int, Standing]:
        """Return the standings of all seeds."""
        return {step: one for step, one in self.by_step.items() if one.seeds == self.seeds}

    @property
    def length(self) -> int | None:
        """Return the longest length of all steps that have any beyond the trained one, or None."""
        common = [set(standing.rises) for standing in self.whole.values() if standing.rises]
        return max(set.intersection(*common), default=None) if common else None

    def rise(self, step: int) -> float:
        """Return the rise at a step, at the same length as at all others."""
        return self.whole[step].rises.get(self.length or 0, math.nan)


def over_training(
    results: Sequence[EvalResult], last: Mapping[str, int], notes: dict[str, str], delta: float
) -> list[Table | Chart]:
    """Make tables and a chart for each protocol; none where all results are of last checkpoints.

    last: by run, the step of its last checkpoint.
    """
    if all(result.step == LAST for result in results):
        return []
    names = row_names(results)  # of all steps: a course never goes on with other tokens
    by_step: dict[int, list[EvalResult]] = {}
    for result in results:
        step = last[result.run.name] if result.step == LAST else result.step
        by_step.setdefault(step, []).append(result)
    courses: dict[str, dict[tuple[str, str], Course]] = {}
    for step, results_then in sorted(by_step.items()):
        for protocol, all_series in by_protocol(make_series(results_then, notes, names)):
            # Of unpaired protocols there are no claims.
            for claim in claims(all_series, delta):
                key = claim.series.name, claim.series.method
                of_protocol = courses.setdefault(protocol.label, {})
                of_protocol.setdefault(key, Course({})).by_step[step] = _standing(claim)
    items: list[Table | Chart] = []
    for label, of_protocol in courses.items():
        several = {key: c for key, c in of_protocol.items() if len(c.by_step) > 1}
        if several:
            items += _shown(label, several, delta)
    return items


def _standing(claim: Claim) -> Standing:
    series, reach = claim.series, claim.reach
    length = "n/a" if reach.length is None else f"{'≥ ' * reach.censored}{reach.length}"
    trained = _loss(series, series.train_len)
    rises = {n: _loss(series, n) - trained for n in series.lengths if n > series.train_len}
    gained = claim.gain.value if claim.gain else math.nan
    return Standing(frozenset(series.seeds), length, gained, trained, rises)


def _loss(series: ResultSeries, length: int) -> float:
    """Return the mean over seeds, NaN where one has no number."""
    if not series.has_number(length):
        return math.nan
    results = series.results[length].values()
    return sum(result.nll for result in results) / len(results)


def _shown(
    protocol: str, courses: dict[tuple[str, str], Course], delta: float
) -> list[Table | Chart]:
    steps = sorted({step for course in courses.values() for step in course.by_step})
    heads = ("model", "method", *(f"step {step}" for step in steps))
    tables: dict[str, tuple[Callable[[Course, int], str], str]] = {
        "Reach": (
            lambda course, step: course.whole[step].reach,
            f"Longest length up to which the loss is at most {delta:g} nats per token above that "
            "at the trained length of the same checkpoint.",
        ),
        "Gain": (
            lambda course, step: _signed(course.whole[step].gain),
            "Nats per token saved by context beyond the trained length, at the reach.",
        ),
        "Rise": (
            lambda course, step: _signed(course.rise(step)),
            "Nats per token at the longest length of all steps above those at the trained length.",
        ),
        "Loss": (
            lambda course, step: _unsigned(course.whole[step].trained),
            "Nats per token at the trained length.",
        ),
    }
    items: list[Table | Chart] = []
    for name, (text, note) in tables.items():
        rows, ranked = [], name in ("Rise", "Gain")
        for key, course in courses.items():
            fields = [_cell(course, step, text) for step in steps]
            if ranked:
                values = {
                    step: course.rise(step) if name == "Rise" else one.gain
                    for step, one in course.whole.items()
                }
                fields.append(TableCell(_correlation(values)))
            rows.append((*map(TableCell, key), *fields))
        more = ("rank correlation with the step",) if ranked else ()
        words = f"{note} Mean over seeds."
        items.append(
            Table(f"{name} over training, {protocol}", (*heads, *more), tuple(rows), 2, (words,))
        )
    curves = [
        Curve(name, method, tuple(Point(s, course.rise(s)) for s in course.whole), own_x=True)
        for (name, method), course in courses.items()
    ]
    items.append(
        Chart(
            "Cost of length over training",
            "step",
            "nats per token above the trained length",
            True,
            False,
            tuple(curves),
            (),
            "At the longest length that all steps have; mean over seeds.",
            label=protocol,
        )
    )
    return items


def _cell(course: Course, step: int, text: Callable[[Course, int], str]) -> TableCell:
    if step in course.whole:
        return TableCell(text(course, step))
    if step not in course.by_step:
        return TableCell("")
    return TableCell(f"{len(course.by_step[step].seeds)} of {len(course.seeds)} seeds", "failed")


def _correlation(values: dict[int, float]) -> str:
    pairs = [(value, float(step)) for step, value in values.items()]
    correlation = rank_correlation([pair for pair in pairs if math.isfinite(pair[0])])
    return f"{correlation:+.2f}" if math.isfinite(correlation) else ""


def _unsigned(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ""


def _signed(value: float) -> str:
    return f"{value:+.4f}" if math.isfinite(value) else ""
