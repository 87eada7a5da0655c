"""What charts of instruments over positions have in common."""

import math
from collections.abc import Sequence

import numpy as np

from lexp.display.document import Curve, Point
from lexp.instruments.base import LabelledMeasurement


def binned(values: Sequence[float] | np.ndarray) -> list[tuple[float, float]]:
    """Means of values of m = 1 .. n over quarter octaves: (geometric mean of m, mean) pairs."""
    m, y = np.arange(1, len(values) + 1), np.asarray(values, dtype=float)
    bins = np.round(4 * np.log2(m)).astype(int)
    return [
        (math.exp(np.log(m[bins == b]).mean()), float(y[bins == b].mean())) for b in np.unique(bins)
    ]


def points(values: Sequence[float] | np.ndarray) -> tuple[Point, ...]:
    """Positive values as points of a chart: geometric means."""
    logs = np.log(np.maximum(np.asarray(values, dtype=float), 1e-300))
    return tuple(Point(x, math.exp(y)) for x, y in binned(logs))


def root_points(squares: np.ndarray) -> tuple[Point, ...]:
    """Roots of means of squares, which chance may have made negative: 0 there."""
    return tuple(Point(x, math.sqrt(max(0.0, y))) for x, y in binned(squares))


def names(shown: Sequence[LabelledMeasurement]) -> list[tuple[str, str]]:
    """Name and group of each one's curve: the variant, and its state and method."""
    n_seeds, n_methods = len({o.seed for o in shown}), len({o.method for o in shown})
    return [
        (
            one.variant if n_seeds == 1 else f"{one.variant} s{one.seed}",
            one.state if n_methods == 1 else f"{one.state} {one.method}",
        )
        for one in shown
    ]


def curves_of(
    shown: Sequence[LabelledMeasurement], values: Sequence[tuple[Point, ...] | None]
) -> tuple[Curve, ...]:
    """A curve for each that has points."""
    return tuple(
        Curve(*named, own)
        for named, own in zip(names(shown), values, strict=True)
        if own is not None
    )
