"""Perplexity against length as a picture."""

import io
import math
from pathlib import Path
from typing import Any

from lexp.evaluate import LAST, Cell
from lexp.files import write_bytes

# Okabe and Ito's palette: told apart by readers of any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D")  # change when the colours have been used up
Style = str | tuple[int, tuple[int, ...]]
STYLES: tuple[Style, ...] = (
    "-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)), (0, (3, 1, 1, 1)),
)  # fmt: skip


def method_of(cell: Cell) -> str:
    """How a cell's model was run, in a legend."""
    return " ".join([cell.attention] + [cell.extension] * (cell.extension != "none"))


def plot_curves(cells: list[Cell], notes: dict[str, str], path: Path) -> None:
    """Write a PNG: a colour per variant of a model, a line style per attention, a band over seeds.

    Cells without a number leave a gap: a curve that ends was not defined or failed from there on.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    attentions = list(dict.fromkeys(method_of(c) for c in cells))
    lengths = sorted({c.length for c in cells})
    several_texts = len({c.text for c in cells}) > 1
    curves: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        name = " ".join(filter(None, (cell.model, notes.get(cell.variant))))
        name += "" if cell.step == LAST else f" step {cell.step}"
        name += f" on {cell.dataset} {cell.text}" if several_texts else ""
        curves.setdefault(name, {}).setdefault(method_of(cell), []).append(cell)
    looks: dict[str, dict[str, Any]] = {
        name: {
            "color": COLOURS[n % len(COLOURS)],
            "marker": MARKERS[n // len(COLOURS) % len(MARKERS)],
        }
        for n, name in enumerate(curves)
    }
    styles = {name: STYLES[n % len(STYLES)] for n, name in enumerate(attentions)}
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    for name, by_attention in curves.items():
        for attention, found in by_attention.items():
            _curve(axes, found, lengths, {**looks[name], "linestyle": styles[attention]})
    for train_len in sorted({c.train_len for c in cells}):
        axes.axvline(train_len, color="0.6", linewidth=1, zorder=0)
        axes.annotate(
            "trained", (train_len, 1), (3, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8, color="0.4",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    if any(cell.ok for cell in cells):  # an empty log axis cannot be drawn
        axes.set_yscale("log")
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    low = max(low, 1e-9)
    marks = range(1, 10) if high / low < 5 else (1, 2, 3, 5) if high / low < 200 else (1,)
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=marks, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("inference length (tokens)")
    axes.set_ylabel("perplexity per token")
    axes.grid(True, which="major", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], label=name, markersize=4, **look) for name, look in looks.items()]
    handles += [Line2D([], [], color="0.3", linestyle=styles[a], label=a) for a in attentions]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    pyplot.close(figure)
    write_bytes(path, buffer.getvalue())


def _curve(axes: Any, cells: list[Cell], lengths: list[int], look: dict[str, Any]) -> None:
    means, lows, highs = [], [], []
    for length in lengths:
        here = [c for c in cells if c.length == length]
        values = [c.ppl for c in here if c.ok]
        complete = bool(values) and len(values) == len(here)
        means.append(sum(values) / len(values) if complete else math.nan)
        lows.append(min(values) if complete else math.nan)
        highs.append(max(values) if complete else math.nan)
    axes.plot(lengths, means, markersize=3, linewidth=1.6, **look)
    axes.fill_between(lengths, lows, highs, color=look["color"], alpha=0.15, linewidth=0)
