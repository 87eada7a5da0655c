"""From values to places on a chart; assets/page.js has the same rules, to redraw by."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 44, 48


@dataclass(frozen=True)
class Axis:
    """A linear map of transformed values to pixels. base: of the logarithm, 0 if there is none."""

    base: int
    low: float  # transformed, as high is
    high: float
    start: float  # pixels
    end: float

    def transform(self, value: float) -> float:
        """Logarithm or the value itself; minus infinity for what a log axis does not have."""
        if not self.base:
            return value
        return math.log(value, self.base) if value > 0 else -math.inf

    def place(self, value: float) -> float:
        """Pixels; of a finite value on the axis."""
        share = (self.transform(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def side(self, value: float) -> int:
        """-1 below the axis, 0 on it, 1 above it or no finite number."""
        if not math.isfinite(value):
            return 1
        t = self.transform(value)
        return -1 if t < self.low - 1e-12 else 1 if t > self.high + 1e-12 else 0


def x_axis(values: Sequence[float], log: bool) -> Axis:
    """An axis that holds all values with a little room at both ends."""
    ts = [math.log2(v) if log else v for v in values] or [0.0, 1.0]
    room = 0.03 * (max(ts) - min(ts)) or 0.5
    return Axis(2 if log else 0, min(ts) - room, max(ts) + room, LEFT, WIDTH - RIGHT)


def y_axis(values: Sequence[float], log: bool) -> Axis:
    """An axis for finite values; few that lie far above the others are left outside its top.

    They are drawn at the edge: a single model that exploded would else make one line of all others.
    """
    ts = sorted(math.log10(v) if log else v for v in values if v > 0 or not log)
    ts = ts or [0.0, 1.0]
    low, high = ts[0], ts[-1]
    most = ts[int(0.95 * (len(ts) - 1))]
    if len(ts) >= 10 and most > low and high - low > 5 * (most - low):
        high = most + 0.25 * (most - low)
    room = 0.04 * (high - low) or (0.05 if log else max(0.5, abs(low) / 20))
    return Axis(10 if log else 0, low - room, high + room, HEIGHT - BOTTOM, TOP)


def y_ticks(axis: Axis) -> list[float]:
    """Round values: 1, 2, 5 of every decade over a wide log axis, even steps elsewhere."""
    if axis.base and axis.high - axis.low > math.log10(4):
        span = axis.high - axis.low
        subs = (1, 2, 3, 5, 7) if span < 1 else (1, 2, 5) if span < 3.5 else (1,)
        decades = range(math.floor(axis.low), min(math.ceil(axis.high), 307) + 1)
        every = max(1, math.ceil(span / 8)) if span >= 3.5 else 1
        found = [s * 10.0**n for n in decades if n % every == 0 for s in subs]
        return [v for v in found if axis.side(v) == 0]
    low, high = (10**axis.low, 10**axis.high) if axis.base else (axis.low, axis.high)
    raw = (high - low) / 6
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(s * size for s in (1, 2, 5, 10) if s * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def x_ticks(values: Sequence[float], log: bool) -> list[float]:
    """The values themselves if they are few, otherwise powers of two or round numbers."""
    few = sorted(set(values))
    if len(few) <= 12 and not _crowded(few, log):
        return few
    axis = x_axis(few, log)
    if not log:
        return y_ticks(axis)
    return [2.0**n for n in range(math.ceil(axis.low), math.floor(axis.high) + 1)]


def _crowded(values: Sequence[float], log: bool) -> bool:
    """Whether labels at these places would not all be read."""
    axis = x_axis(values, log)
    places = [axis.place(value) for value in values]
    return any(b - a < 30 for a, b in itertools.pairwise(places))


def number(value: float) -> str:
    """Four significant digits without trailing zeros."""
    rounded = float(f"{value:.4g}")
    if rounded == int(rounded) and abs(rounded) < 1e7:
        return str(int(rounded))
    return f"{rounded:g}"
