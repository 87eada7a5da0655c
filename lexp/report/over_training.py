"""Extrapolation as training goes on: reach, gain and what length costs, by checkpoint."""

import math
from collections.abc import Mapping, Sequence
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

    rise: nats per token at the longest length above those at the trained length, mean over seeds;
    NaN where a seed has no number.
    """

    reach: str
    gain: float
    trained: float
    rise: float


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
    courses: dict[str, dict[tuple[str, str], dict[int, Standing]]] = {}
    for step, results_then in sorted(by_step.items()):
        for protocol, all_series in by_protocol(make_series(results_then, notes, names)):
            # Of unpaired protocols there are no claims.
            for claim in claims(all_series, delta):
                key = claim.series.name, claim.series.method
                of_protocol = courses.setdefault(protocol.label, {})
                of_protocol.setdefault(key, {})[step] = _standing(claim)
    items: list[Table | Chart] = []
    for label, of_protocol in courses.items():
        several = {key: course for key, course in of_protocol.items() if len(course) > 1}
        if several:
            items += _shown(label, several, delta)
    return items


def _standing(claim: Claim) -> Standing:
    series, reach = claim.series, claim.reach
    length = "n/a" if reach.length is None else f"{'≥ ' * reach.censored}{reach.length}"
    trained, longest = _loss(series, series.train_len), max(series.lengths)
    rise = math.nan
    if math.isfinite(trained):
        rise = _loss(series, longest) - trained
    return Standing(length, claim.gain.value if claim.gain else math.nan, trained, rise)


def _loss(series: ResultSeries, length: int) -> float:
    """Return the mean over seeds, NaN where one has no number."""
    if not series.has_number(length):
        return math.nan
    results = series.results[length].values()
    return sum(result.nll for result in results) / len(results)


def _shown(
    protocol: str, courses: dict[tuple[str, str], dict[int, Standing]], delta: float
) -> list[Table | Chart]:
    steps = sorted({step for course in courses.values() for step in course})
    heads = ("model", "method", *(f"step {step}" for step in steps))
    tables = {
        "Reach": (
            lambda m: m.reach,
            f"Longest length up to which the loss is at most {delta:g} nats per token above that "
            "at the trained length of the same checkpoint.",
        ),
        "Gain": (
            lambda m: _signed(m.gain),
            "Nats per token saved by context beyond the trained length, at the reach.",
        ),
        "Rise": (
            lambda m: _signed(m.rise),
            "Nats per token at the longest length above those at the trained length.",
        ),
        "Loss": (lambda m: f"{m.trained:.3f}", "Nats per token at the trained length."),
    }
    items: list[Table | Chart] = []
    for name, (text, note) in tables.items():
        rows, ranked = [], name in ("Rise", "Gain")
        for key, course in courses.items():
            fields = [TableCell(text(course[s]) if s in course else "") for s in steps]
            if ranked:
                fields.append(TableCell(_correlation(course, name.lower())))
            rows.append((*map(TableCell, key), *fields))
        more = ("rank correlation with the step",) if ranked else ()
        words = f"{note} Mean over seeds."
        items.append(
            Table(f"{name} over training, {protocol}", (*heads, *more), tuple(rows), 2, (words,))
        )
    curves = [
        Curve(name, method, tuple(Point(s, m.rise) for s, m in course.items()), own_x=True)
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
            "At the longest length scored; mean over seeds.",
            label=protocol,
        )
    )
    return items


def _correlation(course: dict[int, Standing], name: str) -> str:
    pairs = [(getattr(m, name), float(s)) for s, m in course.items()]
    correlation = rank_correlation([pair for pair in pairs if math.isfinite(pair[0])])
    return f"{correlation:+.2f}" if math.isfinite(correlation) else ""


def _signed(value: float) -> str:
    return f"{value:+.4f}" if math.isfinite(value) else ""
