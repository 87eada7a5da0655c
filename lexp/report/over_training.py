"""Extrapolation as training goes on: reach, gain and what length costs, by checkpoint."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lexp.display.document import Chart, Curve, Point
from lexp.display.table import Table, TableCell
from lexp.evaluate import LAST
from lexp.report.claims import UNPAIRED, Claim, claims
from lexp.report.study_results import ResultSeries, StoredResult, lines, protocols
from lexp.statistics import rank_correlation

TRAINING = (
    "Every number is of one checkpoint of the same runs. Whether extrapolation gets worse with "
    "training is in the sign of the rank correlations: the loss itself falls meanwhile."
)


@dataclass(frozen=True)
class Standing:
    """What a line amounts to at a step. rise: nats per token at the longest length above those at
    the trained one, mean over seeds; NaN where one of them has no number.
    """

    reach: str
    gain: float
    trained: float
    rise: float


def over_training(
    known: Sequence[StoredResult], last: Mapping[str, int], notes: dict[str, str], delta: float
) -> list[Table | Chart]:
    """Tables and a chart for each protocol; nothing where all cells are of last checkpoints.

    last: by run, the step of its last checkpoint.
    """
    if all(one.cell.step == LAST for one in known):
        return []
    by_step: dict[int, list[StoredResult]] = {}
    for one in known:
        step = last[one.cell.run] if one.cell.step == LAST else one.cell.step
        by_step.setdefault(step, []).append(one)
    courses: dict[str, dict[tuple[str, str], dict[int, Standing]]] = {}
    for step, own in sorted(by_step.items()):
        for protocol, found in protocols(lines(own, notes)):
            if not protocol.startswith(UNPAIRED):
                for claim in claims(found, delta):
                    key = claim.line.name, claim.line.method
                    courses.setdefault(protocol, {}).setdefault(key, {})[step] = _standing(claim)
    items: list[Table | Chart] = []
    for protocol, own_courses in courses.items():
        several = {key: course for key, course in own_courses.items() if len(course) > 1}
        if several:
            items += _shown(protocol, several, delta)
    return items


def _standing(claim: Claim) -> Standing:
    line, reach = claim.line, claim.reach
    length = "n/a" if reach.length is None else f"{'≥ ' * reach.censored}{reach.length}"
    trained = _loss(line, line.train_len)
    rise = _loss(line, max(line.lengths)) - trained
    return Standing(length, claim.gain.value if claim.gain else math.nan, trained, rise)


def _loss(line: ResultSeries, length: int) -> float:
    """Mean over seeds, NaN where one has no number."""
    if length not in line.cells or line.failure(length):
        return math.nan
    cells = [known.cell for known in line.cells[length].values()]
    return sum(cell.nll for cell in cells) / len(cells)


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
            lambda m: _number(m.gain),
            "Nats per token saved by context beyond the trained length, at the reach.",
        ),
        "Rise": (
            lambda m: _number(m.rise),
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
            f"What length costs over training, {protocol}",
            "step",
            "nats per token above the trained length",
            True,
            False,
            tuple(curves),
            (),
            "At the longest length scored; mean over seeds.",
        )
    )
    return items


def _correlation(course: dict[int, Standing], name: str) -> str:
    pairs = [(getattr(m, name), float(s)) for s, m in course.items()]
    found = rank_correlation([pair for pair in pairs if math.isfinite(pair[0])])
    return f"{found:+.2f}" if math.isfinite(found) else ""


def _number(value: float) -> str:
    return f"{value:+.4f}" if math.isfinite(value) else ""
