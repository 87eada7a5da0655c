"""What charts of instruments over positions have in common."""

import math
from collections.abc import Sequence

import numpy as np

from lexp.analyze.base import Labelled
from lexp.report.page import Curve, Point


def binned(values: Sequence[float] | np.ndarray) -> list[tuple[float, float]]:
    """Values of m = 1 .. n as geometric means over quarter octaves: (m, value) pairs."""
    m, y = np.arange(1, len(values) + 1), np.maximum(np.asarray(values, dtype=float), 1e-300)
    bins = np.round(4 * np.log2(m)).astype(int)
    pairs = [(np.log(m[bins == b]).mean(), np.log(y[bins == b]).mean()) for b in np.unique(bins)]
    return [(math.exp(x), math.exp(v)) for x, v in pairs]


def points(values: Sequence[float] | np.ndarray) -> tuple[Point, ...]:
    """The same as points of a chart."""
    return tuple(Point(x, y) for x, y in binned(values))


def names(shown: Sequence[Labelled]) -> list[tuple[str, str]]:
    """Name and group of each one's curve: a colour for a model, a line for its state and method."""
    n_seeds, n_methods = len({o.seed for o in shown}), len({o.method for o in shown})
    return [
        (
            one.model if n_seeds == 1 else f"{one.model} s{one.seed}",
            one.state if n_methods == 1 else f"{one.state} {one.method}",
        )
        for one in shown
    ]


def curves_of(shown: Sequence[Labelled], values: Sequence[np.ndarray | None]) -> tuple[Curve, ...]:
    """A curve for each that has values of m = 1 .. n."""
    return tuple(
        Curve(*named, points(own))
        for named, own in zip(names(shown), values, strict=True)
        if own is not None
    )


def marks(shown: Sequence[Labelled]) -> tuple[tuple[float, str], ...]:
    """Where training ended."""
    return tuple((float(n), "trained") for n in sorted({o.train_len for o in shown}))
