"""A chart as inline SVG: curves with interval bands, complete without the page's script."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from lexp.display.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    labels,
    readable,
    spans,
    x_axis,
    x_ticks,
    y_axis,
    y_ticks,
)
from lexp.display.document import Chart, Curve, Point
from lexp.display.style import CurveStyle, CurveStyles
from lexp.display.table import Table, TableCell, printable, to_csv

# Markers around (0, 0), told apart without colour.
SHAPES = (
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z", "M-2.8-2.8h5.6v5.6h-5.6z",
    "M0-3.8L3.6 2.7H-3.6z", "M0-4.1L3.7 0L0 4.1L-3.7 0z", "M0 3.8L3.6-2.7H-3.6z",
    "M-1.2-3.9h2.4v2.7h2.7v2.4h-2.7v2.7h-2.4v-2.7h-2.7v-2.4h2.7z",
)  # fmt: skip
OVER, UNDER, FAILED = (
    "M0-5L4.2 2.4H-4.2z",
    "M0 5L4.2-2.4H-4.2z",
    "M-3.4-3.4L3.4 3.4M-3.4 3.4L3.4-3.4",
)


def classes(look: CurveStyle) -> str:
    """Colour, line and filling as assets/page.css has them: .c0 to .c9, .d0 to .d5, .f0 to .f2."""
    return f"c{look.colour} d{look.style} f{look.fill}"


def text(value: str) -> str:
    """Text from elsewhere as it may stand in HTML, attributes included."""
    return escape(printable(value), quote=True)


def shown(value: float) -> str:
    """A y as the tooltip has it: every digit, `inf`, or `n/d`."""
    if math.isnan(value):
        return "n/d"
    return repr(float(value)) if math.isfinite(value) else str(value)


def draw(chart: Chart, ident: str, looks: CurveStyles) -> str:
    """The chart's <svg>. looks: of all charts of the page."""
    points = [point for curve in chart.curves for point in curve.points]
    x, y = axes(chart)
    common = common_xs(chart)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="group"'
        f' tabindex="0" aria-label="{text(chart.title)}: {len(chart.curves)} curves;'
        f' arrow keys go from point to point">',
        f'<defs><clipPath id="{ident}-clip"><rect class="clip" x="{LEFT}" y="{TOP}"'
        f' width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath></defs>',
        *_grid(chart, x, y),
        *_marks(chart, x),
    ]
    for curve in chart.curves:
        opening = _opening(chart, curve, looks)
        shape = SHAPES[looks.look(chart, curve).shape]
        parts += [opening, *_curve(curve, shape, [] if curve.own_x else common, ident, x, y)]
    if not points:
        parts.append(f'<text class="none" x="{WIDTH // 2}" y="{HEIGHT // 2}">no data</text>')
    return "\n".join([*parts, "</svg>"])


def axes(chart: Chart) -> tuple[Axis, Axis]:
    """The axes as first drawn, for all curves."""
    points = [point for curve in chart.curves for point in curve.points]
    bounds = [v for p in points for v in (p.y, p.low, p.high) if math.isfinite(v)]
    x = x_axis([p.x for p in points] + [at for at, _ in chart.marks], chart.log_x)
    return x, y_axis(bounds, chart.log_y)


def common_xs(chart: Chart) -> list[float]:
    """Where all curves must have a point, but those that were measured at places of their own."""
    return sorted({p.x for c in chart.curves if not c.own_x for p in c.points})


def ticks_of(chart: Chart) -> list[float]:
    """The x that are marked: where curves have their points, and the chart's own marks."""
    xs, common = sorted({p.x for c in chart.curves for p in c.points}), common_xs(chart)
    spanned = bool(common) and (common[0], common[-1]) == (xs[0], xs[-1])
    return x_ticks([*(common if spanned else xs), *(at for at, _ in chart.marks)], chart.log_x)


def outside(chart: Chart) -> str:
    """What is to be said of numbers that lie off the axis, if there are any."""
    _, y = axes(chart)
    ys = [p.y for c in chart.curves for p in c.points if math.isfinite(p.y)]
    n = sum(y.side(value) != 0 for value in ys)
    if n == 1:
        return "1 point lies outside the axis and is drawn as a triangle at its edge."
    return f"{n} points lie outside the axis and are drawn as triangles at its edge." if n else ""


def numbers(chart: Chart) -> str:
    """All points of a chart as CSV."""
    heads = ("name", "group", chart.x_label, chart.y_label, "low", "high", "note")
    rows = [
        (c.name, c.group, number_or_none(p.x), shown(p.y), number_or_none(p.low),
         number_or_none(p.high), p.note)
        for c in chart.curves for p in c.points
    ]  # fmt: skip
    return to_csv(Table(chart.title, heads, tuple(tuple(map(TableCell, row)) for row in rows)))


def number_or_none(value: float) -> str:
    """Every digit of a finite number, whole ones without a point; otherwise nothing."""
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def runs(curve: Curve, common: Sequence[float], log_y: bool) -> list[list[Point]]:
    """The stretches of a curve between its gaps. common: where a curve must have points."""
    found: list[list[Point]] = []
    before: Point | None = None
    for point in sorted(curve.points, key=lambda p: p.x):
        drawn = math.isfinite(point.y) and (point.y > 0 or not log_y)
        left_out = before is not None and any(before.x < at < point.x for at in common)
        if drawn and (before is None or left_out or not found):
            found.append([])
        if drawn:
            found[-1].append(point)
        before = point if drawn else None
    return found


def _grid(chart: Chart, x: Axis, y: Axis) -> Iterator[str]:
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
    yield '<g class="ticks y">'
    ticks = y_ticks(y)
    for value, label in zip(ticks, labels(ticks), strict=True):
        at = _px(y.place(value))
        yield (f'<g class="tick" transform="translate(0 {at})"><line x1="{LEFT}" x2="{right}"/>'
               f'<text x="{LEFT - 8}" dy=".32em">{label}</text></g>')  # fmt: skip
    yield '</g><g class="ticks x">'
    ticks = ticks_of(chart)
    places, texts = [x.place(value) for value in ticks], labels(ticks)
    marked = {n for n, value in enumerate(ticks) if value in [at for at, _ in chart.marks]}
    # Labels that would run into each other are left out, their ticks are not.
    shown = readable(spans(places, texts), marked)
    for n, (value, place, label) in enumerate(zip(ticks, places, texts, strict=True)):
        kind = "" if n in shown else ' class="hide"'
        yield (f'<g class="tick" data-x="{value!r}" transform="translate({_px(place)} {floor})">'
               f'<line y2="5"/><text y="19"{kind}>{label}</text></g>')  # fmt: skip
    yield (
        f'</g><path class="axis" d="M{LEFT} {floor}H{right}"/>'
        f'<text class="label x" x="{(LEFT + right) / 2:g}" y="{HEIGHT - 8}">'
        f"{text(chart.x_label)}</text>"
        f'<text class="label y" x="{LEFT - 46}" y="14">{text(chart.y_label)}</text>'
    )


def _marks(chart: Chart, x: Axis) -> Iterator[str]:
    for at, label in chart.marks:
        place = _px(x.place(at))
        left = x.place(at) + 4 + 7 * len(label) > WIDTH  # of the line, where the right has no room
        side = 'x="-4" text-anchor="end"' if left else 'x="4" text-anchor="start"'
        yield (f'<g class="mark" data-x="{float(at)!r}" transform="translate({place} 0)">'
               f'<line y1="{TOP - 16}" y2="{HEIGHT - BOTTOM}"/>'
               f'<text {side} y="{TOP - 8}">{text(label)}</text></g>')  # fmt: skip


def _opening(chart: Chart, curve: Curve, looks: CurveStyles) -> str:
    look = looks.look(chart, curve)
    return (f'<g class="curve {classes(look)}" data-n="{looks.names[curve.name]}"'
            f' data-g="{looks.groups[curve.group]}" data-shape="{SHAPES[look.shape]}"'
            f' data-note="{text(curve.note)}">')  # fmt: skip


def _curve(
    curve: Curve, shape: str, common: Sequence[float], ident: str, x: Axis, y: Axis
) -> Iterator[str]:
    """What is in a curve's group, and its end."""
    clip = f'clip-path="url(#{ident}-clip)"'
    stretches = runs(curve, common, y.base > 0)
    yield f'<path class="band" {clip} d="{"".join(_band(s, x, y) for s in stretches)}"/>'
    yield f'<path class="line" {clip} d="{"".join(_line(s, x, y) for s in stretches)}"/>'
    part = {id(point): n for n, stretch in enumerate(stretches) for point in stretch}
    for point in sorted(curve.points, key=lambda p: p.x):
        yield _point(point, part.get(id(point)), shape, x, y, f"{curve.name} {curve.group}")
    yield "</g>"


def _point(point: Point, part: int | None, shape: str, x: Axis, y: Axis, whose: str) -> str:
    side = y.side(point.y)
    at = y.place(point.y) if side == 0 else y.end if side > 0 else y.start
    kind = "" if side == 0 else " over" if side > 0 else " under"
    if not math.isfinite(point.y):
        kind, shape = " failed", FAILED
    elif side:
        shape = OVER if side > 0 else UNDER
    data = {
        "x": number_or_none(point.x), "y": shown(point.y), "low": number_or_none(point.low),
        "high": number_or_none(point.high), "note": text(point.note),
        "part": "" if part is None else str(part),
    }  # fmt: skip
    attributes = "".join(f' data-{key}="{value}"' for key, value in data.items() if value)
    said = f"{whose}, {data['x']}: {data['y']}"
    said += f" ({data['low']} to {data['high']})" if data["low"] and data["high"] else ""
    said += f" {point.note}" if point.note else ""
    return (f'<path class="pt{kind}" d="{shape}" transform="translate({_px(x.place(point.x))}'
            f' {_px(at)})"{attributes}><title>{text(said)}</title></path>')  # fmt: skip


def _line(stretch: Sequence[Point], x: Axis, y: Axis) -> str:
    return "".join(
        f"{'L' if n else 'M'}{_px(x.place(p.x))} {_px(y.place(p.y))}" for n, p in enumerate(stretch)
    )


def _band(stretch: Sequence[Point], x: Axis, y: Axis) -> str:
    """Closed outlines around the points that have an interval; a lone point gets a narrow one."""
    path, run = "", []
    for point in [*stretch, None]:
        if point is not None and math.isfinite(point.low) and math.isfinite(point.high):
            run.append(point)
            continue
        if run:
            sides = [
                (x.place(p.x) + d, p) for p in run for d in ((-3, 3) if len(run) == 1 else (0,))
            ]
            outline = [(at, p.high) for at, p in sides] + [(at, p.low) for at, p in sides[::-1]]
            path += "M" + "L".join(f"{_px(at)} {_px(_reach(y, v))}" for at, v in outline) + "Z"
        run = []
    return path


def _reach(axis: Axis, value: float) -> float:
    """A place; far below the axis for what a log axis does not have."""
    return axis.place(value) if value > 0 or not axis.base else 2 * axis.start


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
