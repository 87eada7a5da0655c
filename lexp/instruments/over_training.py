"""Measurements over training: against steps, and against the loss.

There are some only where several checkpoints of a run were measured (`keep=` of training,
`checkpoints=` of analyses). They are taken at the length nearest to the trained one, under the
first method.
"""

import math
from collections.abc import Sequence

from lexp.display.document import Chart, Curve, Picture
from lexp.display.table import Table, TableCell
from lexp.instruments.base import Instrument, LabelledMeasurement
from lexp.instruments.over_seeds import finite_mean, over_seeds
from lexp.statistics import rank_correlation

# The measurements of a variant by step, one for each seed.
Course = dict[int, list[LabelledMeasurement]]


def shown(
    instrument: Instrument, results: Sequence[LabelledMeasurement]
) -> list[Table | Chart | Picture]:
    """Show the measurements of last checkpoints, and the instrument's summary over training."""
    if not results:
        return []
    return [*instrument.show(last_of_each(results)), *over_training(instrument, results)]


def last_of_each(results: Sequence[LabelledMeasurement]) -> list[LabelledMeasurement]:
    """Keep the measurement at the highest step of every variant, seed, state, method, length."""
    last: dict[tuple, LabelledMeasurement] = {}
    for r in results:
        key = r.variant, r.seed, r.train_len, r.state, r.method, r.length
        if key not in last or r.checkpoint.step > last[key].checkpoint.step:
            last[key] = r
    return list(last.values())


def over_training(
    instrument: Instrument, results: Sequence[LabelledMeasurement]
) -> list[Table | Chart]:
    """Make a table and two charts of each quantity of the summary; none if there is one step."""
    courses = courses_of(results)
    if not any(len([s for s in course if s]) > 1 for course in courses.values()):
        return []
    quantities = list(dict.fromkeys(q for result in results for q in instrument.summary(result)))
    items: list[Table | Chart] = []
    for quantity in quantities:
        items += _quantity(instrument, quantity, courses)
    return items


def courses_of(results: Sequence[LabelledMeasurement]) -> dict[str, Course]:
    """Group the measurements of each variant by step; the random state is at step 0."""
    nearest = min((abs(math.log(r.length / r.train_len)), r.length) for r in results)[1]
    courses: dict[str, Course] = {}
    for r in results:
        if r.method == results[0].method and r.length == nearest and r.checkpoint.step >= 0:
            courses.setdefault(r.variant, {}).setdefault(r.checkpoint.step, []).append(r)
    return {name: dict(sorted(course.items())) for name, course in courses.items()}


def _quantity(
    instrument: Instrument, quantity: str, courses: dict[str, Course]
) -> list[Table | Chart]:
    by_step, by_loss, rows = [], [], []
    for name, course in courses.items():
        values = {
            step: [instrument.summary(result).get(quantity, math.nan) for result in seeds]
            for step, seeds in course.items()
        }
        if not any(math.isfinite(value) for seeds in values.values() for value in seeds):
            continue
        losses = {
            step: finite_mean([result.checkpoint.loss for result in seeds])
            for step, seeds in course.items()
        }
        points = tuple(over_seeds(step, seeds) for step, seeds in values.items() if step)
        by_step.append(Curve(name, "", points, own_x=True))
        # From the highest loss to the lowest, as training goes.
        measured = [step for step in course if math.isfinite(losses[step])]
        points = tuple(over_seeds(losses[step], values[step]) for step in measured)
        by_loss.append(Curve(name, "", points, own_x=True))
        rows.append(_row(name, values, losses))
    first = next(seeds[0] for course in courses.values() for seeds in course.values())
    title = f"{quantity} over training"
    note = f"At {first.length} tokens under {first.method} attention; mean over seeds, their range."
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
    means = {step: finite_mean(seeds) for step, seeds in values.items()}
    texts = {step: f"{mean:.3f}" for step, mean in means.items()}
    correlation = rank_correlation([(mean, losses[step]) for step, mean in means.items()])
    return name, texts, f"{correlation:+.2f}" if math.isfinite(correlation) else ""
