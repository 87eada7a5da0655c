"""What an instrument finds as training goes on: against steps, and against the loss.

Only where several checkpoints of a run were looked at (`keep=` of training, `checkpoints=` here).
Followed at the length nearest to the trained one, under the first method.
"""

import math
from collections.abc import Sequence

from lexp.display.document import Chart, Curve, Picture
from lexp.display.table import Table, TableCell
from lexp.instruments.base import Instrument, LabelledMeasurement
from lexp.instruments.over_seeds import finite_mean, over_seeds
from lexp.statistics import rank_correlation

# Of a variant: what was found in each seed, by step.
Course = dict[int, list[LabelledMeasurement]]


def shown(
    instrument: Instrument, found: Sequence[LabelledMeasurement]
) -> list[Table | Chart | Picture]:
    """What an instrument shows of the last checkpoints, and its summary over training."""
    if not found:
        return []
    return [*instrument.show(last_of_each(found)), *over_training(instrument, found)]


def last_of_each(found: Sequence[LabelledMeasurement]) -> list[LabelledMeasurement]:
    """Of every variant, seed, place and state the finding at the highest step."""
    last: dict[tuple, LabelledMeasurement] = {}
    for one in found:
        key = one.variant, one.seed, one.train_len, one.state, one.method, one.length
        if key not in last or one.checkpoint.step > last[key].checkpoint.step:
            last[key] = one
    return list(last.values())


def over_training(
    instrument: Instrument, found: Sequence[LabelledMeasurement]
) -> list[Table | Chart]:
    """For each quantity of the summary two charts and a table; nothing if there is one step."""
    courses = courses_of(found)
    if not any(len([s for s in course if s]) > 1 for course in courses.values()):
        return []
    quantities = list(dict.fromkeys(q for one in found for q in instrument.summary(one)))
    items: list[Table | Chart] = []
    for quantity in quantities:
        items += _quantity(instrument, quantity, courses)
    return items


def courses_of(found: Sequence[LabelledMeasurement]) -> dict[str, Course]:
    """Findings of each variant by step, the random state at step 0."""
    nearest = min((abs(math.log(o.length / o.train_len)), o.length) for o in found)[1]
    courses: dict[str, Course] = {}
    for one in found:
        if one.method == found[0].method and one.length == nearest and one.checkpoint.step >= 0:
            courses.setdefault(one.variant, {}).setdefault(one.checkpoint.step, []).append(one)
    return {name: dict(sorted(course.items())) for name, course in courses.items()}


def _quantity(
    instrument: Instrument, quantity: str, courses: dict[str, Course]
) -> list[Table | Chart]:
    by_step, by_loss, rows = [], [], []
    for name, course in courses.items():
        values = {
            step: [instrument.summary(one).get(quantity, math.nan) for one in ones]
            for step, ones in course.items()
        }
        if not any(math.isfinite(v) for own in values.values() for v in own):
            continue
        losses = {s: finite_mean([o.checkpoint.loss for o in ones]) for s, ones in course.items()}
        by_step.append(
            Curve(name, "", tuple(over_seeds(s, own) for s, own in values.items() if s), own_x=True)
        )
        # From the highest loss to the lowest, as training goes.
        known = [s for s in course if math.isfinite(losses[s])]
        by_loss.append(
            Curve(name, "", tuple(over_seeds(losses[s], values[s]) for s in known), own_x=True)
        )
        rows.append(_row(name, values, losses))
    where = next(one for course in courses.values() for ones in course.values() for one in ones)
    title = f"{quantity} over training"
    note = f"At {where.length} tokens under {where.method} attention; mean over seeds, their range."
    steps = sorted({step for course in courses.values() for step in course})
    return [
        Table(
            title,
            ("model", *[f"step {s}" for s in steps], "rank correlation with the loss"),
            tuple(
                tuple(map(TableCell, (name, *[texts.get(s, "") for s in steps], correlation)))
                for name, texts, correlation in rows
            ),
            1,
            (
                note,
                "Step 0: the model as initialised (states=random). Rank correlation: Spearman's "
                "over checkpoints, of means over seeds; -1: it grew whenever the loss fell.",
            ),
        ),
        Chart(title, "step", quantity, True, False, tuple(by_step), (), note),
        Chart(
            f"{quantity} against validation loss",
            "validation loss (nats per token)", quantity, False, False, tuple(by_loss), (), note,
        ),
    ]  # fmt: skip


def _row(
    name: str, values: dict[int, list[float]], losses: dict[int, float]
) -> tuple[str, dict[int, str], str]:
    texts = {step: f"{finite_mean(own):.3f}" for step, own in values.items()}
    correlation = rank_correlation([(finite_mean(own), losses[s]) for s, own in values.items()])
    return name, texts, f"{correlation:+.2f}" if math.isfinite(correlation) else ""
