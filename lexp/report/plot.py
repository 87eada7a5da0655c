"""Perplexity against length as a picture."""

import io
import math
from pathlib import Path

from lexp.evaluate import Cell
from lexp.files import write_bytes

# Okabe and Ito's palette: told apart by readers of any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")


def plot_curves(cells: list[Cell], path: Path) -> None:
    """Write a PNG: a colour per model, a line style per attention, a band over seeds.

    Cells without a number leave a gap: a curve that ends was not defined or failed from there on.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    models = list(dict.fromkeys(c.model for c in cells))
    attentions = list(dict.fromkeys(c.attention for c in cells))
    lengths = sorted({c.length for c in cells})
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    for model in models:
        colour = COLOURS[models.index(model) % len(COLOURS)]
        for attention in attentions:
            style = STYLES[attentions.index(attention) % len(STYLES)]
            same = [c for c in cells if (c.model, c.attention) == (model, attention)]
            for key in dict.fromkeys((c.size, c.dataset, c.train_len, c.extension) for c in same):
                of_key = [c for c in same if (c.size, c.dataset, c.train_len, c.extension) == key]
                _curve(axes, of_key, lengths, colour, style)
    for train_len in sorted({c.train_len for c in cells}):
        axes.axvline(train_len, color="0.6", linewidth=1, zorder=0)
        axes.annotate(
            "trained", (train_len, 1), (3, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8, color="0.4",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    marks = range(1, 10) if high / low < 5 else (1, 2, 3, 5) if high / low < 200 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=marks, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("inference length (tokens)")
    axes.set_ylabel("perplexity per token")
    axes.grid(True, which="major", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], label=m) for i, m in enumerate(models)
    ]
    handles += [
        Line2D([], [], color="0.3", linestyle=STYLES[i % len(STYLES)], label=a)
        for i, a in enumerate(attentions)
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    pyplot.close(figure)
    write_bytes(path, buffer.getvalue())


def _curve(axes, cells: list[Cell], lengths: list[int], colour: str, style: str) -> None:  # type: ignore[no-untyped-def]
    means, lows, highs = [], [], []
    for length in lengths:
        here = [c for c in cells if c.length == length]
        values = [c.ppl for c in here if c.ok]
        complete = bool(values) and len(values) == len(here)
        means.append(sum(values) / len(values) if complete else math.nan)
        lows.append(min(values) if complete else math.nan)
        highs.append(max(values) if complete else math.nan)
    axes.plot(
        lengths, means, color=colour, linestyle=style, marker="o", markersize=3, linewidth=1.6
    )
    axes.fill_between(lengths, lows, highs, color=colour, alpha=0.15, linewidth=0)
