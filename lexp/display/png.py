"""Draw charts and heat maps as PNG files."""

import contextlib
import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lexp.display.axes import Axis, labels, readable, y_ticks
from lexp.display.document import Chart, Curve, Picture
from lexp.display.line_ends import (
    end_of,
    end_text,
    ends_early,
    labelled,
    ranked,
    ranked_names,
    spread_out,
)
from lexp.display.style import COLOURS, CurveStyle, CurveStyles, groups_of
from lexp.display.svg import common_xs, runs, ticks_of

# The same as in assets/page.css and svg.py. A filling is the share of the colour in the marker.
STYLES: tuple[Any, ...] = (
    "-", (0, (4, 1.8)), (0, (1, 1.6)), (0, (6, 1.6, 1, 1.6)), (0, (9, 2.2)),
    (0, (5, 1.4, 1, 1.4, 1, 1.4)),
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P")
FILLS = (1.0, 0.0, 0.4)
# Curves of more points than this have a marker at some of them, legends of more keys more columns.
MOST_MARKERS, MOST_KEYS = 40, 20
TITLE_COLUMNS = 90
LABEL_COLUMNS, LABEL_LINES = 36, 4
# Labels at the ends of lines: size of type, and how many fit the height of a picture.
END_SIZE, MOST_ENDS = 8, 24
# Width of a letter of these labels in inches, and how many letters of one do not ask for a legend.
LETTER, LONGEST = 0.065, 48


def chart_png(chart: Chart, styles: CurveStyles | None = None) -> bytes:
    """Return a chart as PNG, for papers and slides. styles: of all charts beside it."""
    import matplotlib

    matplotlib.use("Agg")
    with own_style():
        return figure_png(chart_figure(chart, styles or CurveStyles.of([chart])))


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draw by matplotlib's defaults while the block runs.

    matplotlib takes a matplotlibrc from the current folder, which may be somebody else's and have
    LaTeX run.
    """
    from matplotlib import style

    with style.context("default"):
        yield


def chart_figure(chart: Chart, styles: CurveStyles) -> Any:
    """Return a chart as a figure of matplotlib."""
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    ends = labelled(chart, MOST_ENDS)
    texts = [end_text(chart, curve) for curve in ends]
    if any(len(text) > LONGEST for text in texts):
        ends, texts = [], []  # names this long are for the legend, which has lines
    is_labelled = len(ends) == len(chart.curves) > 0
    keys = [] if is_labelled else _keys(chart, styles)
    columns = math.ceil(len(keys) / MOST_KEYS)
    wider = max(0, columns - 1) * 1.7 + LETTER * max(0, max(map(len, texts), default=0) - 18)
    figure, axes = pyplot.subplots(figsize=(8 + wider, 5.2 if keys else 4.8), layout="constrained")
    longest = max((len(curve.points) for curve in chart.curves), default=0)
    every = 1 if longest <= MOST_MARKERS else 0.08  # of the axes' diagonal
    faint = min(0.15, 1.5 / max(1, len(chart.curves)))
    for curve in chart.curves:
        style = _properties(styles.style(chart, curve))
        xs, ys, lows, highs = _columns(chart, curve)
        axes.plot(xs, ys, markevery=every, **style)
        dots = [(point.x, value) for point in curve.points for value in point.each]
        if dots:
            axes.plot(*zip(*dots, strict=True), "o", color=style["color"], alpha=0.35, markersize=4,
                      markeredgewidth=0)  # fmt: skip
        if not chart.absolute:
            axes.fill_between(xs, lows, highs, color=style["color"], alpha=faint, linewidth=0)
    for x, label in chart.marks:
        axes.axvline(x, color="0.6", linewidth=1, zorder=0)
        axes.annotate(  # above the frame, where no curve is
            label, (x, 1), (0, 4), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="bottom", fontsize=8, color="0.4",
        )  # fmt: skip
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    # Above everything: a legend stands below it.
    title = textwrap.fill(chart.title, TITLE_COLUMNS)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    if chart.label:
        axes.annotate(
            chart.label, (0, 1), (0, 18 if chart.marks else 6), xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8, color="0.4",
        )  # fmt: skip
    axes.set_axisbelow(True)
    axes.grid(True, which="major", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    if keys:
        handles = [Line2D([], [], label=_in_lines(label), **style) for label, style in keys]
        figure.legend(
            handles=handles, loc="outside right lower", frameon=False, ncols=columns,
            fontsize=10 if columns == 1 else 8, handlelength=4,
        )  # fmt: skip
    _scale(axes, chart)
    _label_ends(axes, chart, ends, styles)
    figure.draw_without_rendering()  # before it is laid out, no label has a place
    _leave_out_ticks(axes, chart)
    return figure


def _label_ends(axes: Any, chart: Chart, curves: Sequence[Curve], styles: CurveStyles) -> None:
    """Draw a piece of each curve and its label to the right of the axes, joined to its end.

    All places are shares of the axes, so that they hold when the labels make the axes narrower.
    """
    from matplotlib.lines import Line2D

    to_axes = axes.transData + axes.transAxes.inverted()
    ends = {}
    for n, curve in enumerate(curves):
        end = end_of(curve)
        if end is not None and (end.y > 0 or axes.get_yscale() == "linear"):
            ends[n] = to_axes.transform((end.x, end.y))
    order = sorted(ends, key=lambda n: ends[n][1])
    gap = 1 / (MOST_ENDS - 1)
    places = spread_out([float(ends[n][1]) for n in order], gap, 0.0, 1.0)
    for n, place in zip(order, places, strict=True):
        style = _properties(styles.style(chart, curves[n]))
        thin = {"color": style["color"], "linewidth": 0.6, "alpha": 0.6}
        lead = [ends[n][0], 1.02], [ends[n][1], place]
        if not ends_early(chart, curves[n]):  # across the axes it would look like a part of it
            axes.add_artist(Line2D(*lead, transform=axes.transAxes, clip_on=False, **thin))
        piece = [1.03, 1.06, 1.09], [place] * 3
        axes.add_artist(
            Line2D(*piece, transform=axes.transAxes, clip_on=False, markevery=[1], **style)
        )
        axes.text(
            1.1, place, end_text(chart, curves[n]), transform=axes.transAxes,
            fontsize=END_SIZE, va="center_baseline", color="0.1",
        )  # fmt: skip


def _in_lines(label: str) -> str:
    """Return a legend's label in few short lines: long ones would leave no room for the curves."""
    lines = textwrap.wrap(label, LABEL_COLUMNS, break_on_hyphens=False)
    if len(lines) > LABEL_LINES:
        lines = [*lines[: LABEL_LINES - 2], "…", lines[-1]]
    return "\n".join(lines)


def _properties(style: CurveStyle) -> dict[str, Any]:
    """Translate a style into matplotlib's properties of a line."""
    from matplotlib.colors import to_rgb

    colour, fill = COLOURS[style.colour], FILLS[style.fill]
    return {
        "color": colour, "linestyle": STYLES[style.line], "linewidth": 1.6,
        "marker": MARKERS[style.shape], "markersize": 4, "markeredgewidth": 1,
        "markerfacecolor": tuple(1 - fill * (1 - part) for part in to_rgb(colour)),
    }  # fmt: skip


def _columns(chart: Chart, curve: Curve) -> tuple[list[float], ...]:
    """Return x, y and interval of a curve's points, with NaN where the line has a gap."""
    gap = (math.nan,) * 4
    rows: list[tuple[float, ...]] = []
    for stretch in runs(curve, [] if curve.own_x else common_xs(chart), chart.log_y):
        rows += [(p.x, p.y, p.low, p.high) for p in stretch] + [gap]
    return tuple(list(column) for column in zip(*(rows or [gap]), strict=True))


def _keys(chart: Chart, styles: CurveStyles) -> list[tuple[str, dict[str, Any]]]:
    """Return the legend by rank: every curve, or every name and every group if that is shorter."""
    names, groups = ranked_names(chart), groups_of(chart)
    drawn = [(curve, styles.style(chart, curve)) for curve in ranked(chart)]
    if len(drawn) <= len(names) + len(groups):
        whole = {
            f"{curve.name} {curve.group if len(groups) > 1 else ''}".strip(): _properties(style)
            for curve, style in drawn
        }
        return [*whole.items()]
    solid = {"linestyle": "-", "markerfacecolor": None}
    of_names = {curve.name: {**_properties(style), **solid} for curve, style in drawn}
    # Markers tell groups apart where there are more of them than lines.
    marker = "o" if any(style.fill for _, style in drawn) else ""
    of_groups = {}
    for group, style in {g: s for g in groups for c, s in drawn if c.group == g}.items():
        white = str(1 - 0.7 * FILLS[style.fill])
        grey = {"color": "0.3", "markerfacecolor": white, "marker": marker}
        of_groups[group or "(other)"] = {**_properties(style), **grey}
    return [*of_names.items(), *of_groups.items()]


def _scale(axes: Any, chart: Chart) -> None:
    """Set log axes where the chart has them, and ticks with labels."""
    from matplotlib.ticker import NullLocator

    drawn = [p.y for c in chart.curves for p in c.points if math.isfinite(p.y)]
    if chart.log_x:
        axes.set_xscale("log", base=2)
    log_y = chart.log_y and any(y > 0 for y in drawn)  # an empty log axis cannot be drawn
    if log_y:
        axes.set_yscale("log")
    if chart.linear_to:
        axes.set_yscale("asinh", linear_width=chart.linear_to)
    if chart.y_ends:
        low, high = chart.y_ends
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    scale = Axis(10 * log_y, 0, 1, 0, 1, chart.linear_to)
    low, high = (scale.transform(end) for end in axes.get_ylim())
    for axis, ticks in (
        (axes.xaxis, ticks_of(chart)),
        (axes.yaxis, y_ticks(replace(scale, low=low, high=high))),
    ):
        axis.set_ticks(ticks, labels(ticks))
        axis.set_minor_locator(NullLocator())


def _leave_out_ticks(axes: Any, chart: Chart) -> None:
    """Hide labels of the x axis that would run into each other; those of marks stay."""
    marked = {n for n, x in enumerate(ticks_of(chart)) if x in [at for at, _ in chart.marks]}
    texts = axes.xaxis.get_ticklabels()
    places = [text.get_window_extent() for text in texts]
    shown = readable([(place.x0 - 4, place.x1 + 4) for place in places], marked)
    for n, text in enumerate(texts):
        text.set_visible(n in shown)


@own_style()
def heat_maps(
    title: str,
    panels: Sequence[tuple[str, np.ndarray]],
    x_label: str,
    y_label: str,
    note: str = "",
    extent: tuple[float, float, float, float] | None = None,
    symmetric: bool = False,
) -> Picture:
    """Draw matrices side by side on one colour scale. symmetric: around 0.

    panels: title and [rows, columns] each; extent: left, right, bottom, top in the axes' units.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    rows = math.ceil(len(panels) / 4)
    columns = math.ceil(len(panels) / rows)
    finite = np.concatenate([panel[np.isfinite(panel)].ravel() for _, panel in panels])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if symmetric:
        high = max(abs(low), abs(high))
        low = -high
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(2.7 * columns + 0.8, 2.6 * rows + 0.5), squeeze=False,
        layout="constrained", sharex=True, sharey=True,
    )  # fmt: skip
    image = None
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        name, panel = panels[place]
        image = axes.imshow(
            panel, vmin=low, vmax=high, cmap="RdBu_r" if symmetric else "viridis",
            extent=extent, aspect="auto", interpolation="nearest",
        )  # fmt: skip
        axes.set_title(textwrap.fill(name, 32), fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if place + columns >= len(panels):  # nothing below that would carry the shared labels
            axes.tick_params(labelbottom=True)
    figure.supxlabel(x_label, fontsize=10)
    figure.supylabel(y_label, fontsize=10)
    figure.suptitle(title, fontsize=11)
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.8)
    return Picture(title, figure_png(figure), note)


def figure_png(figure) -> bytes:  # type: ignore[no-untyped-def]
    """Return a figure as PNG, and close it."""
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    pyplot.close(figure)
    return buffer.getvalue()
