"""Helpers for the charts of instruments: points by position, names and order of curves."""

import math
from collections.abc import Sequence

import numpy as np

from lexp.display.document import Curve, Point
from lexp.instruments.base import LabelledMeasurement
from lexp.system.text import natural


def binned(values: Sequence[float] | np.ndarray) -> list[tuple[float, float]]:
    """Average values of m = 1 .. n over quarter octaves: pairs (geometric mean of m, mean)."""
    m, y = np.arange(1, len(values) + 1), np.asarray(values, dtype=float)
    bins = np.round(4 * np.log2(m)).astype(int)
    return [
        (math.exp(np.log(m[bins == b]).mean()), float(y[bins == b].mean())) for b in np.unique(bins)
    ]


def points(values: Sequence[float] | np.ndarray) -> tuple[Point, ...]:
    """Return points of positive values at m = 1 .. n: geometric means over quarter octaves."""
    logs = np.log(np.maximum(np.asarray(values, dtype=float), 1e-300))
    return tuple(Point(x, math.exp(y)) for x, y in binned(logs))


def root_points(squares: np.ndarray) -> tuple[Point, ...]:
    """Return points of the root of mean squares; 0 where chance made the mean negative."""
    return tuple(Point(x, math.sqrt(max(0.0, y))) for x, y in binned(squares))


def ordered(results: Sequence[LabelledMeasurement]) -> list[LabelledMeasurement]:
    """Sort results by name, seed, method and length."""
    return sorted(results, key=lambda r: (natural(r.name), r.seed, r.method, r.length))


def name_with_seed(result: LabelledMeasurement, results: Sequence[LabelledMeasurement]) -> str:
    """Return the model's name, with its seed where several results have that name."""
    several = len({other.seed for other in results if other.name == result.name}) > 1
    return f"{result.name} s{result.seed}" if several else result.name


def names(results: Sequence[LabelledMeasurement]) -> list[tuple[str, str]]:
    """Return name and group of each result's curve: the variant, and its state and method."""
    n_seeds = len({result.seed for result in results})
    n_methods = len({result.method for result in results})
    return [
        (
            result.variant if n_seeds == 1 else f"{result.variant} s{result.seed}",
            result.state if n_methods == 1 else f"{result.state} {result.method}",
        )
        for result in results
    ]


def curves_of(
    results: Sequence[LabelledMeasurement], values: Sequence[tuple[Point, ...] | None]
) -> tuple[Curve, ...]:
    """Return a curve for each result that has points."""
    return tuple(
        Curve(*name, points)
        for name, points in zip(names(results), values, strict=True)
        if points is not None
    )
