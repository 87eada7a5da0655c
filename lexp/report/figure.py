"""Charts and heat maps as PNG files."""

import io
import math
from collections.abc import Sequence

import numpy as np

from lexp.report.page import Chart, Picture
from lexp.report.plot import COLOURS, MARKERS, STYLES


def chart_png(chart: Chart) -> bytes:
    """A chart as the page shows it, for papers and slides: a colour per name, a style per group."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(curve.name for curve in chart.curves))
    groups = list(dict.fromkeys(curve.group for curve in chart.curves))
    # All curves of a chart have markers, or none, however short one of them is.
    size = 3 if max((len(curve.points) for curve in chart.curves), default=0) <= 40 else 0
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for curve in chart.curves:
        n = names.index(curve.name)
        look = {
            "color": COLOURS[n % len(COLOURS)],
            "marker": MARKERS[n // len(COLOURS) % len(MARKERS)],
            "linestyle": STYLES[groups.index(curve.group) % len(STYLES)],
        }
        xs = [point.x for point in curve.points]
        ys = [point.y if math.isfinite(point.y) else math.nan for point in curve.points]
        label = " ".join(filter(None, (curve.name, curve.group if len(groups) > 1 else "")))
        axes.plot(xs, ys, markersize=size, linewidth=1.5, label=label, **look)
        axes.fill_between(
            xs, [p.low for p in curve.points], [p.high for p in curve.points],
            color=look["color"], alpha=0.15, linewidth=0,
        )  # fmt: skip
    for x, label in chart.marks:
        axes.axvline(x, color="0.6", linewidth=1, zorder=0)
        axes.annotate(
            label, (x, 1), (3, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8, color="0.4",
        )  # fmt: skip
    if chart.log_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if chart.log_y:
        axes.set_yscale("log")
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.grid(True, which="major", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    if chart.curves:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return _png(figure)


def heat_maps(
    title: str,
    panels: Sequence[tuple[str, np.ndarray]],
    x_label: str,
    y_label: str,
    note: str = "",
    extent: tuple[float, float, float, float] | None = None,
    symmetric: bool = False,
) -> Picture:
    """Matrices side by side on one colour scale; symmetric: around 0.

    panels: title and [rows, columns] each; extent: left, right, bottom, top in the axes' units.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

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
        axes.set_title(name, fontsize=9)
        if place + columns >= len(panels):  # nothing below that would carry the shared labels
            axes.tick_params(labelbottom=True)
    figure.supxlabel(x_label, fontsize=10)
    figure.supylabel(y_label, fontsize=10)
    figure.suptitle(title, fontsize=11)
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.8)
    return Picture(title, _png(figure), note)


def _png(figure) -> bytes:  # type: ignore[no-untyped-def]
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    pyplot.close(figure)
    return buffer.getvalue()
