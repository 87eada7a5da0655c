"""Findings of the same thing from several seeds, put together."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lexp.display.document import Curve, Point
from lexp.instruments.base import LabelledMeasurement
from lexp.system.text import natural


class Kind(NamedTuple):
    """What findings of several seeds have in common; length in tokens."""

    name: str
    method: str
    length: int


def in_order(kind: Kind) -> tuple[list[str | float], str, int]:
    """A key to sort by."""
    return natural(kind.name), kind.method, kind.length


def by_kind(found: Sequence[LabelledMeasurement]) -> dict[Kind, list[LabelledMeasurement]]:
    """Findings of all seeds under what they are of, in the order of models and lengths."""
    kinds: dict[Kind, list[LabelledMeasurement]] = {}
    for one in sorted(found, key=lambda one: (natural(one.name), one.length)):
        kinds.setdefault(Kind(one.name, one.method, one.length), []).append(one)
    return kinds


def longest_of_each(
    kinds: dict[Kind, list[LabelledMeasurement]],
) -> dict[Kind, list[LabelledMeasurement]]:
    """Of every model and method the findings at its own longest length."""
    return {
        kind: ones
        for kind, ones in kinds.items()
        if kind.length == max(k.length for k in kinds if k[:2] == kind[:2])
    }


def finite_mean(values: Sequence[float]) -> float:
    """The mean of what is a number; NaN if nothing is."""
    numbers = [value for value in values if math.isfinite(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def over_seeds(x: float, values: Sequence[float]) -> Point:
    """The mean over seeds, and their range as the band."""
    band = (min(values), max(values)) if len(values) > 1 else (math.nan, math.nan)
    return Point(x, finite_mean(values), *band)


def against_length(
    found: Sequence[LabelledMeasurement], value: Callable[[LabelledMeasurement], float]
) -> tuple[Curve, ...]:
    """A curve for each model and method: the mean over seeds, the band their range."""
    curves: dict[tuple[str, str], list[Point]] = {}
    for kind, ones in by_kind(found).items():
        point = over_seeds(kind.length, [value(one) for one in ones])
        curves.setdefault((kind.name, kind.method), []).append(point)
    return tuple(
        Curve(*key, tuple(points))
        for key, points in curves.items()
        if any(math.isfinite(point.y) for point in points)
    )


def trained_marks(found: Sequence[LabelledMeasurement]) -> tuple[tuple[float, str], ...]:
    """Vertical lines at trained lengths."""
    return tuple((float(n), "trained") for n in sorted({one.train_len for one in found}))
