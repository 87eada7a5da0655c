"""Measurements of several seeds, put together."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lexp.display.document import Curve, Point
from lexp.instruments.base import LabelledMeasurement
from lexp.system.text import natural


class Kind(NamedTuple):
    """The key shared by measurements of several seeds; length in tokens."""

    name: str
    method: str
    length: int


def in_order(kind: Kind) -> tuple[list[str | float], str, int]:
    """Return a key to sort by: names with numbers in them by value."""
    return natural(kind.name), kind.method, kind.length


def by_kind(results: Sequence[LabelledMeasurement]) -> dict[Kind, list[LabelledMeasurement]]:
    """Group the measurements of all seeds, in the order of models and lengths."""
    kinds: dict[Kind, list[LabelledMeasurement]] = {}
    for result in sorted(results, key=lambda r: (natural(r.name), r.length)):
        kinds.setdefault(Kind(result.name, result.method, result.length), []).append(result)
    return kinds


def longest_of_each(
    kinds: dict[Kind, list[LabelledMeasurement]],
) -> dict[Kind, list[LabelledMeasurement]]:
    """Keep the measurements of every model and method at its own longest length."""
    return {
        kind: results
        for kind, results in kinds.items()
        if kind.length == max(k.length for k in kinds if k[:2] == kind[:2])
    }


def finite_mean(values: Sequence[float]) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def over_seeds(x: float, values: Sequence[float]) -> Point:
    """Return the mean over seeds as a point, with their range as its band."""
    band = (min(values), max(values)) if len(values) > 1 else (math.nan, math.nan)
    return Point(x, finite_mean(values), *band)


def against_length(
    results: Sequence[LabelledMeasurement], value: Callable[[LabelledMeasurement], float]
) -> tuple[Curve, ...]:
    """Draw a curve for each model and method: the mean over seeds, with their range as band."""
    curves: dict[tuple[str, str], list[Point]] = {}
    for kind, of_kind in by_kind(results).items():
        point = over_seeds(kind.length, [value(result) for result in of_kind])
        curves.setdefault((kind.name, kind.method), []).append(point)
    return tuple(
        Curve(*key, tuple(points))
        for key, points in curves.items()
        if any(math.isfinite(point.y) for point in points)
    )


def trained_marks(results: Sequence[LabelledMeasurement]) -> tuple[tuple[float, str], ...]:
    """Return the marks of a chart at trained lengths."""
    return tuple((float(n), "trained") for n in sorted({result.train_len for result in results}))
