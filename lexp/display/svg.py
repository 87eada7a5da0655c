"""Draw a chart as inline SVG: curves with interval bands, complete without the page's script.

The script scales what is drawn here, so everything it moves has a place of its own:

    <g class="move|tick|mark" transform="translate(x y)">    moved, its letters keep their size
    <g clip-path=...><path class="band|line"></g>            stretched
    <path class="pt" transform="translate(x y)" data-at=y>   moved; data-at: place outside the axis
    <g class="end" data-curve=n>            the label at a curve's end, placed anew at every scale
    data-levels    ticks of the y axis as drawn, at each of ZOOMS, and of the whole range
"""

import math
from collections.abc import Iterator, Sequence
from html import escape

from lexp.display.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    PLOT_WIDTHS,
    RIGHT,
    TOP,
    WIDTH,
    ZOOMS,
    Axis,
    label_widths,
    labels,
    signed_axis,
    x_axis,
    x_ticks,
    y_axis,
    y_ticks,
    zoomed_ticks,
)
from lexp.display.document import Chart, Curve, Point
from lexp.display.line_ends import cut, end_of, end_text, ends_early, labelled, spread_out
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
# Between labels at the ends of lines, in pixels; how many fit; left and right of their swatches.
END_GAP = 12
MOST_ENDS = (HEIGHT - TOP - BOTTOM) // END_GAP + 1
END_LEFT, SWATCH = 12, 26


def classes(style: CurveStyle) -> str:
    """Return the CSS classes of a style: .c0 to .c9 colour, .d0 to .d5 line, .f0 to .f2 filling."""
    return f"c{style.colour} d{style.line} f{style.fill}"


def text(value: str) -> str:
    """Escape text from data for HTML, attributes included."""
    return escape(printable(value), quote=True)


def shown(value: float) -> str:
    """Format a y for the tooltip: every digit, `inf`, or `n/d`."""
    if math.isnan(value):
        return "n/d"
    return repr(float(value)) if math.isfinite(value) else str(value)


def draw(chart: Chart, ident: str, styles: CurveStyles) -> str:
    """Return the chart's <svg>. styles: of all charts of the page."""
    points = [point for curve in chart.curves for point in curve.points]
    x, y = axes(chart)
    common = common_xs(chart)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="group"'
        f' tabindex="0" aria-label="{text(chart.title)}: {len(chart.curves)} curves;'
        f' arrow keys go from point to point" data-over="{OVER}" data-under="{UNDER}"'
        f"{_whole(chart, y)}>",
        f'<defs><clipPath id="{ident}-clip"><rect class="clip" x="{LEFT}" y="{TOP}"'
        f' width="{x.end - LEFT:g}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath></defs>',
        *_grid(chart, x, y),
        *_marks(chart, x),
    ]
    for curve in chart.curves:
        opening = _opening(chart, curve, styles, y)
        shape = SHAPES[styles.style(chart, curve).shape]
        parts += [opening, *_curve(curve, shape, [] if curve.own_x else common, ident, x, y)]
    parts += ['<g class="ends" aria-hidden="true">', *_ends(chart, styles, x, y), "</g>"]
    if not points:
        parts.append(_moved("none", WIDTH / 2, HEIGHT / 2, "no data"))
    return "\n".join([*parts, "</svg>"])


def axes(chart: Chart) -> tuple[Axis, Axis]:
    """Return the axes of a chart as drawn, for all curves."""
    xs = [point.x for curve in chart.curves for point in curve.points]
    x = x_axis([*xs, *(at for at, _ in chart.marks)], chart.log_x, _margin(chart))
    if chart.linear_to:
        return x, signed_axis(bounds(chart.curves), chart.linear_to)
    return x, y_axis(chart.y_ends or bounds(chart.curves), chart.log_y)


def _margin(chart: Chart) -> int:
    """Return the room to the right of the plot: for the labels at the ends of lines."""
    texts = [cut(end_text(chart, curve)) for curve in labelled(chart, MOST_ENDS)]
    return END_LEFT + SWATCH + 12 + round(6.6 * max(map(len, texts))) if texts else RIGHT


def whole_axis(chart: Chart) -> Axis:
    """Return the y axis that has every finite value, far ones too."""
    if chart.linear_to:
        return axes(chart)[1]
    return y_axis(chart.y_ends or bounds(chart.curves), chart.log_y, whole=True)


def bounds(curves: Sequence[Curve]) -> list[float]:
    """Return every finite value and interval end of curves."""
    values = [v for c in curves for p in c.points for v in (p.y, p.low, p.high)]
    return [value for value in values if math.isfinite(value)]


def common_xs(chart: Chart) -> list[float]:
    """Return the x at which all curves must have a point, except those with own_x."""
    return sorted({p.x for c in chart.curves if not c.own_x for p in c.points})


def ticks_of(chart: Chart) -> list[float]:
    """Return the ticks of the x axis: the x of points, and the chart's own marks."""
    xs, common = sorted({p.x for c in chart.curves for p in c.points}), common_xs(chart)
    spanned = bool(common) and (common[0], common[-1]) == (xs[0], xs[-1])
    return x_ticks([*(common if spanned else xs), *(at for at, _ in chart.marks)], chart.log_x)


def n_outside(chart: Chart) -> int:
    """Return how many points with a finite value lie outside the axis as drawn."""
    _, y = axes(chart)
    ys = [p.y for c in chart.curves for p in c.points if math.isfinite(p.y)]
    return sum(y.side(value) != 0 for value in ys)


def numbers(chart: Chart) -> str:
    """Return all points of a chart as CSV."""
    heads = ("name", "group", chart.x_label, chart.y_label, "low", "high", "note")
    rows = [
        (c.name, c.group, number_or_none(p.x), shown(p.y), number_or_none(p.low),
         number_or_none(p.high), p.note)
        for c in chart.curves for p in c.points
    ]  # fmt: skip
    return to_csv(Table(chart.title, heads, tuple(tuple(map(TableCell, row)) for row in rows)))


def number_or_none(value: float) -> str:
    """Format every digit of a finite number, integers without a point; "" if it is not finite."""
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def runs(curve: Curve, common: Sequence[float], log_y: bool) -> list[list[Point]]:
    """Return the stretches of a curve between its gaps. common: x at which it must have points."""
    stretches: list[list[Point]] = []
    before: Point | None = None
    for point in sorted(curve.points, key=lambda p: p.x):
        drawn = math.isfinite(point.y) and (point.y > 0 or not log_y)
        left_out = before is not None and any(before.x < at < point.x for at in common)
        if drawn and (before is None or left_out or not stretches):
            stretches.append([])
        if drawn:
            stretches[-1].append(point)
        before = point if drawn else None
    return stretches


def _grid(chart: Chart, x: Axis, y: Axis) -> Iterator[str]:
    right, floor = x.end, HEIGHT - BOTTOM
    yield f'<g class="ticks y" data-levels="{";".join(_levels(chart, y))}">'
    ticks = y_ticks(y)
    for value, label in zip(ticks, labels(ticks), strict=True):
        yield (f'<g class="tick" transform="translate(0 {_py(y.place(value))})">'
               f'<line x1="{LEFT}" x2="{right:g}"/>'
               f'<text x="{LEFT - 8}" dy=".32em">{label}</text></g>')  # fmt: skip
    yield '</g><g class="ticks x">'
    ticks = ticks_of(chart)
    places, texts = [x.place(value) for value in ticks], labels(ticks)
    marked = {n for n, value in enumerate(ticks) if value in [at for at, _ in chart.marks]}
    # Labels that would run into each other are left out, their ticks are not.
    widths = label_widths([_share(place, x) for place in places], texts, marked)
    for place, label, width in zip(places, texts, widths, strict=True):
        kind = ' class="hide"' if width is None else f' data-width="{width}"'
        yield (f'<g class="tick" transform="translate({_px(place)} {floor})"><line y2="5"/>'
               f'<text y="19"{kind}>{label}</text></g>')  # fmt: skip
    yield f'</g><path class="axis" d="M{LEFT} {floor}H{right:g}"/>'
    yield _moved("label x", (LEFT + right) / 2, HEIGHT - 8, chart.x_label)
    yield f'<text class="label y" x="16" y="26">{text(chart.y_label)}</text>'


def _levels(chart: Chart, y: Axis) -> Iterator[str]:
    """Yield the ticks of each zoom, as drawn first and of the whole range last."""
    whole = whole_axis(chart)
    levels = [y_ticks(y), *(zoomed_ticks(y, zoom) for zoom in ZOOMS[1:])]
    for ticks in [*levels, *([] if whole == y else [y_ticks(whole)])]:
        places = [_py(y.place(value)) for value in ticks]
        yield " ".join(map(",".join, zip(labels(ticks), places, strict=True)))


def _whole(chart: Chart, y: Axis) -> str:
    """Return where the whole range begins and ends, in the places of the axis as drawn."""
    whole = whole_axis(chart)
    if whole == y:
        return ""
    scale = (y.end - y.start) / (y.high - y.low)
    top, bottom = (y.start + (end - y.low) * scale for end in (whole.high, whole.low))
    return f' data-whole="{_py(top)} {_py(bottom)}"'


def _moved(kind: str, x: float, y: float, words: str) -> str:
    return (f'<g class="move" transform="translate({_px(x)} {_px(y)})">'
            f'<text class="{kind}">{text(words)}</text></g>')  # fmt: skip


def _marks(chart: Chart, x: Axis) -> Iterator[str]:
    for at, label in chart.marks:
        place = _px(x.place(at))
        # Left of its line where a narrow plot has no room to the right of it.
        left = _share(x.place(at), x) * PLOT_WIDTHS[0] + 4 + 7 * len(label) > PLOT_WIDTHS[0]
        side = 'x="-4" text-anchor="end"' if left else 'x="4" text-anchor="start"'
        yield (f'<g class="mark" transform="translate({place} 0)">'
               f'<line y1="{TOP - 16}" y2="{HEIGHT - BOTTOM}"/>'
               f'<text {side} y="{TOP - 8}">{text(label)}</text></g>')  # fmt: skip


def _share(place: float, x: Axis) -> float:
    """Return where a place on the x axis lies, from 0 at its start to 1 at its end."""
    return (place - x.start) / (x.end - x.start)


def swatch(style: CurveStyle, coloured: bool, line: str, marker: bool) -> str:
    """Draw a piece of a curve. line: "d" for its style, "" for a solid line with filled marker."""
    names = [f"c{style.colour}"] * coloured + [f"d{style.line}", f"f{style.fill}"] * bool(line)
    shape = f'<path class="pt" d="{SHAPES[style.shape]}" transform="translate(13 6)"/>' * marker
    return f'<g class="{" ".join(names)}"><path class="line" d="M0 6H26"/>{shape}</g>'


def _ends(chart: Chart, styles: CurveStyles, x: Axis, y: Axis) -> Iterator[str]:
    """Yield a label for every curve that has an end; those without room are hidden."""
    with_end = [(n, end) for n, c in enumerate(chart.curves) if (end := end_of(c)) is not None]
    if len(chart.curves) < 2:
        return
    shown_ids = {id(curve) for curve in labelled(chart, MOST_ENDS)}
    at = {n: _clamped(y, end.y) for n, end in with_end if id(chart.curves[n]) in shown_ids}
    order = sorted(at, key=lambda n: at[n])
    spread = spread_out([at[n] for n in order], END_GAP, TOP, HEIGHT - BOTTOM)
    places = dict(zip(order, spread, strict=True))
    for n, end in with_end:
        curve, place = chart.curves[n], places.get(n, TOP)
        style = styles.style(chart, curve)
        lead = f"M{_px(x.place(end.x))} {_py(_clamped(y, end.y))}L{_px(x.end + 8)} {_py(place)}"
        # Across the plot it would look like a part of the curve.
        lead = "" if ends_early(chart, curve) else f'<path class="lead" d="{lead}"/>'
        yield (f'<g class="end c{style.colour}{"" if n in places else " hide"}" data-curve="{n}">'
               f'{lead}<g class="to" transform="translate('
               f'{_px(x.end + END_LEFT)} {_py(place - 6)})">{swatch(style, False, "d", True)}'
               f'<text x="{SWATCH + 5}" y="6" dy=".34em">{text(cut(end_text(chart, curve)))}</text>'
               "</g></g>")  # fmt: skip


def _clamped(axis: Axis, value: float) -> float:
    """Return a value's place, moved to the edge if it lies outside the axis."""
    side = axis.side(value)
    return axis.place(value) if side == 0 else axis.end if side > 0 else axis.start


def _opening(chart: Chart, curve: Curve, styles: CurveStyles, y: Axis) -> str:
    style = styles.style(chart, curve)
    return (f'<g class="curve {classes(style)}" data-n="{styles.names[curve.name]}"'
            f' data-g="{styles.groups[curve.group]}" data-shape="{SHAPES[style.shape]}"'
            f' data-note="{text(curve.note)}"{_extent(curve, y)}>')  # fmt: skip


def _extent(curve: Curve, y: Axis) -> str:
    """Return the highest and lowest place of a curve and its band inside the axis."""
    places = [y.end if y.side(v) > 0 else y.start if y.side(v) < 0 else y.place(v)
              for v in bounds([curve])]  # fmt: skip
    return f' data-extent="{_py(min(places))} {_py(max(places))}"' if places else ""


def _curve(
    curve: Curve, shape: str, common: Sequence[float], ident: str, x: Axis, y: Axis
) -> Iterator[str]:
    """Yield the contents of a curve's group, and its closing tag."""
    stretches = runs(curve, common, y.base > 0)
    yield f'<g clip-path="url(#{ident}-clip)">'
    yield f'<path class="band" d="{"".join(_band(s, x, y) for s in stretches)}"/>'
    yield f'<path class="line" d="{"".join(_line(s, x, y) for s in stretches)}"/>'
    yield f"{_dots(curve, x, y)}</g>"
    for point in sorted(curve.points, key=lambda p: p.x):
        yield _point(point, shape, x, y, f"{curve.name} {curve.group}")
    yield "</g>"


def _point(point: Point, shape: str, x: Axis, y: Axis, curve: str) -> str:
    side, at = y.side(point.y), _clamped(y, point.y)
    kind = "" if side == 0 else " over" if side > 0 else " under"
    if not math.isfinite(point.y):
        kind, shape = " failed", FAILED
    elif side:
        shape = OVER if side > 0 else UNDER
    data = {
        "x": number_or_none(point.x), "y": shown(point.y), "low": number_or_none(point.low),
        "high": number_or_none(point.high), "note": text(point.note),
        "at": _py(_true_place(y, point.y)) if side else "",
    }  # fmt: skip
    attributes = "".join(f' data-{key}="{value}"' for key, value in data.items() if value)
    title = f"{curve}, {data['x']}: {data['y']}"
    title += f" ({data['low']} to {data['high']})" if data["low"] and data["high"] else ""
    title += f" {point.note}" if point.note else ""
    return (f'<path class="pt{kind}" d="{shape}" transform="translate({_px(x.place(point.x))}'
            f' {_py(at)})"{attributes}><title>{text(title)}</title></path>')  # fmt: skip


def _true_place(axis: Axis, value: float) -> float:
    """Return where a value lies that is not on the axis; failures lie above everything."""
    if not math.isfinite(value):
        return -math.inf
    return axis.place(value) if value > 0 or not axis.base else math.inf


def _line(stretch: Sequence[Point], x: Axis, y: Axis) -> str:
    return "".join(
        f"{'L' if n else 'M'}{_px(x.place(p.x))} {_py(y.place(p.y))}" for n, p in enumerate(stretch)
    )


def _dots(curve: Curve, x: Axis, y: Axis) -> str:
    """Return a path of lines without a length, whose round ends are dots; "" without values."""
    dots = [(p.x, value) for p in curve.points for value in p.each]
    path = "".join(f"M{_px(x.place(at))} {_py(_reach(y, value))}h0" for at, value in dots)
    return f'<path class="dots" d="{path}"/>' if path else ""


def _band(stretch: Sequence[Point], x: Axis, y: Axis) -> str:
    """Return closed outlines of the intervals; the interval of a lone point is drawn narrow."""
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
            path += "M" + "L".join(f"{_px(at)} {_py(_reach(y, v))}" for at, v in outline) + "Z"
        run = []
    return path


def _reach(axis: Axis, value: float) -> float:
    """Return a place; far below the axis for values <= 0 on a log axis."""
    return axis.place(value) if value > 0 or not axis.base else 2 * axis.start


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _py(value: float) -> str:
    """Return a vertical place, finer than a pixel as the page shows it up to 16 times taller."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return f"{value:.2f}".rstrip("0").removesuffix(".")
