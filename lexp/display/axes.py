"""Map values to places on a chart and choose ticks and labels.

All layout is done here; assets/page.js only scales what was drawn.
"""

import itertools
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

WIDTH, HEIGHT = 860, 420
# RIGHT: without labels at the ends of lines.
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 52, 48
# The page stretches a plot to other widths; labels are chosen for each of these.
PLOT_WIDTHS = (200, 300, 440, 600, 780)
# How much taller than drawn the page shows part of an axis: a level of ticks for each.
ZOOMS = tuple(2 ** (n / 2) for n in range(9))
# Ticks nearer than this are not both labelled, in pixels.
LEAST_GAP = 22


@dataclass(frozen=True)
class Axis:
    """A linear map of transformed values to pixels. base: of the logarithm, 0 if there is none.

    linear_to: where it is not 0, values are transformed by asinh(value / linear_to): nearly linear
    below it and logarithmic above, on both sides of 0.
    """

    base: int
    low: float  # transformed, as high is
    high: float
    start: float  # pixels
    end: float
    linear_to: float = 0.0

    def transform(self, value: float) -> float:
        """Return the logarithm or the value itself; -inf for values <= 0 on a log axis."""
        if self.linear_to:
            return math.asinh(value / self.linear_to)
        if not self.base:
            return value
        return math.log(value, self.base) if value > 0 else -math.inf

    def place(self, value: float) -> float:
        """Return the pixel of a finite value on the axis."""
        share = (self.transform(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def side(self, value: float) -> int:
        """Return -1 below the axis, 0 on it, 1 above it or for a value that is not finite."""
        if not math.isfinite(value):
            return 1
        t = self.transform(value)
        return -1 if t < self.low - 1e-12 else 1 if t > self.high + 1e-12 else 0


def x_axis(values: Sequence[float], log: bool, right: float = RIGHT) -> Axis:
    """Return an axis that holds all values with a little room at both ends; right: the margin."""
    ts = [math.log2(v) if log else v for v in values] or [0.0, 1.0]
    room = 0.03 * (max(ts) - min(ts)) or 0.5
    return Axis(2 if log else 0, min(ts) - room, max(ts) + room, LEFT, WIDTH - right)


def y_axis(values: Sequence[float], log: bool, whole: bool = False) -> Axis:
    """Return an axis for finite values; a few far above the others stay outside, unless `whole`.

    Values outside are drawn at the edge: one diverged model would otherwise flatten all curves.
    """
    ts = sorted(math.log10(v) if log else v for v in values if v > 0 or not log)
    ts = ts or [0.0, 1.0]
    low, high = ts[0], ts[-1]
    most = ts[int(0.95 * (len(ts) - 1))]
    if not whole and len(ts) >= 10 and most > low and high - low > 5 * (most - low):
        high = most + 0.25 * (most - low)
    apart = high - low > 1e-9 * max(1.0, abs(high))
    room = 0.04 * (high - low) if apart else 0.05 if log else max(0.5, abs(low) / 20)
    return Axis(10 if log else 0, low - room, high + room, HEIGHT - BOTTOM, TOP)


def signed_axis(values: Sequence[float], linear_to: float) -> Axis:
    """Return a y axis for values of both signs and many sizes, 0 among them; see Axis."""
    ts = [0.0, *(math.asinh(value / linear_to) for value in values)]
    room = 0.04 * (max(ts) - min(ts)) or 0.5
    return Axis(0, min(ts) - room, max(ts) + room, HEIGHT - BOTTOM, TOP, linear_to)


def y_ticks(axis: Axis) -> list[float]:
    """Return at least four round values: powers of ten on a wide log axis, even steps elsewhere."""
    if axis.linear_to:
        return _signed_ticks(axis)
    return log_ticks(axis.low, axis.high) if axis.base else _steps(axis.low, axis.high)


def zoomed_ticks(axis: Axis, zoom: float) -> list[float]:
    """Return ticks for views that show 1 / zoom of a y axis.

    The axis is cut into parts of that size and each part gets ticks of its own. Ticks nearer than
    LEAST_GAP at that zoom are left out.
    """
    n_parts = math.ceil(zoom)
    size = (axis.high - axis.low) / n_parts
    ends = [axis.low + n * size for n in range(n_parts + 1)]
    parts = [replace(axis, low=low, high=high) for low, high in itertools.pairwise(ends)]
    values = sorted({value for part in parts for value in y_ticks(part)})
    kept: list[float] = []
    for value in values:
        if not kept or zoom * abs(axis.place(value) - axis.place(kept[-1])) >= LEAST_GAP:
            kept.append(value)
    return kept


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values between decimal logarithms: the coarsest set of at least five."""
    span = high - low
    decades = range(math.floor(low), min(math.ceil(high), 307) + 1)
    every = max(1, math.ceil(span / 8))
    for subs in ((1,), *[(1, 3)] * (span > 3.5), (1, 2, 5), (1, 2, 3, 5, 7)):
        places = [(s, n) for n in decades if n % every == 0 for s in subs]
        ticks = [s * 10.0**n for s, n in places if low - 1e-12 <= math.log10(s) + n <= high + 1e-12]
        if len(ticks) >= 5 or every > 1:
            return ticks
    return _steps(10**low, 10**high)


def _signed_ticks(axis: Axis) -> list[float]:
    """Return 0 and 1, 2 or 5 times powers of ten of both signs: the coarsest set of five.

    Even steps where the axis shows too small a part for that.
    """
    low, high = (axis.linear_to * math.sinh(end) for end in (axis.low, axis.high))
    first = math.floor(math.log10(axis.linear_to))
    decades = range(first, max(first, math.ceil(math.log10(max(-low, high)))) + 1)
    for subs in ((1,), (1, 3), (1, 2, 5)):
        sizes = [s * 10.0**n for n in decades for s in subs]
        ticks = [v for v in sorted({0.0, *sizes, *(-size for size in sizes)}) if low <= v <= high]
        if len(ticks) >= 5:
            return ticks
    return _steps(low, high)


def _steps(low: float, high: float) -> list[float]:
    """Return multiples of the largest 5, 2 or 1 x 10^n that has four between the ends."""
    size = 10.0 ** math.floor(math.log10(high - low))
    for step in (size * s for s in (5, 2, 1, 0.5, 0.2)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first >= 3:
            break
    return [n * step for n in range(first, last + 1)]


def x_ticks(values: Sequence[float], log: bool) -> list[float]:
    """Return the values themselves if they are few lengths or counts, otherwise round numbers.

    On a log axis the round numbers are powers of two, if at least three fit.
    """
    few = sorted(set(values))
    whole = log or all(value == round(value) for value in few)
    if whole and len(few) <= 12 and not _crowded(few, log):
        return few
    axis = x_axis(few, log)
    if not log:
        return y_ticks(axis)
    powers = range(math.ceil(axis.low), math.floor(axis.high) + 1)
    if len(powers) < 3:
        return log_ticks(axis.low * math.log10(2), axis.high * math.log10(2))
    every = math.ceil(len(powers) / 12)
    return [2.0**n for n in powers if n % every == 0]


def _crowded(values: Sequence[float], log: bool) -> bool:
    """Return True if fewer than three of the values, and not all, could be labelled."""
    axis = x_axis(values, log)
    # On half the width: pictures have larger letters and wider legends than the page.
    places = [axis.place(value) / 2 for value in values]
    return len(readable(spans(places, labels(values)), ())) < min(3, len(values))


def spans(places: Sequence[float], texts: Sequence[str]) -> list[tuple[float, float]]:
    """Return where centred labels begin and end, in pixels."""
    halves = [3.5 * len(text) + 5 for text in texts]
    return [(at - half, at + half) for at, half in zip(places, halves, strict=True)]


def readable(spans: Sequence[tuple[float, float]], first: Container[int]) -> set[int]:
    """Select labels that do not overlap: those of `first`, then both ends, then the others."""
    ends = 0, len(spans) - 1
    shown: set[int] = set()
    for n in sorted(range(len(spans)), key=lambda n: (n not in first, n not in ends)):
        start, end = spans[n]
        if all(end <= spans[m][0] or start >= spans[m][1] for m in shown):
            shown.add(n)
    return shown


def label_widths(
    shares: Sequence[float], texts: Sequence[str], first: Container[int]
) -> list[int | None]:
    """Return for each x label the least width of the plot at which it is shown, None for never.

    shares: where the labels stand, from 0 at the plot's left to 1. Labels shown at one width are
    shown at all larger ones, so that none appears and disappears while a chart grows.
    """
    least: list[int | None] = [None] * len(shares)
    for width in PLOT_WIDTHS:
        before = {n for n, at in enumerate(least) if at is not None}
        places = [width * share for share in shares]
        for n in readable(spans(places, texts), before or first) - before:
            least[n] = width
    return least


def number(value: float, digits: int = 4) -> str:
    """Format with `digits` significant digits, no trailing zeros; integers below 1e7 in full."""
    rounded = value if value == round(value) else float(f"{value:.{digits}g}")
    if rounded == int(rounded) and abs(rounded) < 1e7:
        return str(int(rounded))
    return f"{rounded:.{digits}g}"


def labels(values: Sequence[float]) -> list[str]:
    """Format values with the fewest digits that tell each from its neighbours."""
    gaps = [b - a for a, b in itertools.pairwise(sorted(set(values)))]
    near = min(gaps, default=math.inf) / 100
    for digits in range(4, 17):
        texts = [number(value, digits) for value in values]
        off = [abs(float(text) - v) for text, v in zip(texts, values, strict=True)]
        if all(d <= max(near, 1e-9 * abs(v)) for d, v in zip(off, values, strict=True)):
            break
    return texts
