"""Choose which curves are labelled at their ends, in which order, and where the labels stand."""

import math
from collections.abc import Sequence

from lexp.display.axes import number
from lexp.display.document import Chart, Curve, Point

# Letters of a label on the page. Longer ones are cut in their middle: variants differ at the end.
LONGEST = 26


def end_of(curve: Curve) -> Point | None:
    """Return the last point with a number, None if there is none."""
    finite = [point for point in curve.points if math.isfinite(point.y)]
    return max(finite, key=lambda point: point.x, default=None)


def ranked(chart: Chart) -> list[Curve]:
    """Return the curves by their last value, lowest first; those that end early come after."""

    def place(curve: Curve) -> tuple[float, float]:
        end = end_of(curve)
        if end is None:
            return math.inf, math.inf
        return (0.0 if curve.own_x else -end.x), end.y

    return sorted(chart.curves, key=place)


def ranked_names(chart: Chart) -> list[str]:
    """Return each name once, by the rank of its best curve."""
    return list(dict.fromkeys(curve.name for curve in ranked(chart)))


def labelled(chart: Chart, most: int) -> list[Curve]:
    """Return the curves that have a label, in the order of the chart: at most `most`.

    All if they fit, else the lowest of each name, else none. One curve alone needs none.
    """
    curves = [curve for curve in chart.curves if end_of(curve) is not None]
    if len(chart.curves) < 2:
        return []
    if len(curves) <= most:
        return curves
    best: dict[str, Curve] = {}
    for curve in ranked(chart):
        if end_of(curve) is not None:
            best.setdefault(curve.name, curve)
    kept = {id(curve) for curve in best.values()} if len(best) <= most else set()
    return [curve for curve in curves if id(curve) in kept]


def ends_early(chart: Chart, curve: Curve) -> bool:
    """Return True if other curves go on where this one has no number any more."""
    end = end_of(curve)
    xs = [point.x for other in chart.curves if not other.own_x for point in other.points]
    return end is not None and not curve.own_x and end.x < max(xs)


def end_text(chart: Chart, curve: Curve) -> str:
    """Return the label: what tells the curve from the others, and where it ends, if early."""
    several_names = len({other.name for other in chart.curves}) > 1
    several_groups = len({other.group for other in chart.curves}) > 1
    words = [curve.name] * several_names + [curve.group] * several_groups
    end = end_of(curve)
    if end is not None and ends_early(chart, curve):
        words.append(f"to {number(end.x)}")
    return " ".join(filter(None, words)) or curve.name


def cut(label: str, longest: int = LONGEST) -> str:
    """Return a label of at most `longest` letters."""
    if len(label) <= longest:
        return label
    half = (longest - 1) // 2
    return f"{label[: longest - 1 - half]}…{label[-half:]}"


def spread_out(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move ascending places as little as possible so that they are `gap` apart, low to high.

    The least squares solution: labels that would collide stand around their common mean.
    """
    blocks: list[tuple[float, int]] = []  # sum and number of labels that stand together
    for n, place in enumerate(places):
        total, size = place - n * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / size:
            before, n_before = blocks.pop()
            total, size = total + before, size + n_before
        blocks.append((total, size))
    most = high - (len(places) - 1) * gap
    firsts = [min(max(total / size, low), most) for total, size in blocks for _ in range(size)]
    return [first + n * gap for n, first in enumerate(firsts)]
