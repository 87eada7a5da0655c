"""Draw a table of coloured cells as a PNG file, in blocks of rows next to each other."""

import math
import textwrap
from typing import Any

from lexp.display.heat import COLOURS, HeatScale, scale_of
from lexp.display.png import figure_png, own_style
from lexp.display.table import Table, TableCell

# Rows of a block, unless blocks next to each other are wider than MOST_WIDTH. In inches: that,
# height of a row, least width of a column, width of a letter.
MOST_ROWS, MOST_WIDTH, ROW, COLUMN, LETTER = 40, 20.0, 0.21, 0.5, 0.068
MARGIN, GAP, LINE = 0.25, 0.45, 0.15
FAILED_GROUND, FAILED_INK, FRAME = "#e9e9e9", "#444444", "#c8500a"


def heat_map_png(table: Table) -> bytes:
    """Return a table as PNG; its cells have the colours of their styles."""
    import matplotlib

    matplotlib.use("Agg")
    with own_style():
        return figure_png(heat_map_figure(table))


def heat_map_figure(table: Table) -> Any:
    """Return a table as a figure of matplotlib."""
    from matplotlib import pyplot

    widths = _widths(table)
    block = sum(widths) + GAP
    n_blocks = max(1, min(math.ceil(len(table.rows) / MOST_ROWS), int(MOST_WIDTH / block)))
    n_rows = math.ceil(len(table.rows) / n_blocks)
    width = max(n_blocks * block - GAP + 2 * MARGIN, 7.5)
    title = textwrap.wrap(table.title, int((width - 2 * MARGIN) / 0.095))
    below = textwrap.wrap(" ".join(table.notes), int((width - 2 * MARGIN) / 0.062))
    top = MARGIN + 0.24 * len(title) + 0.1
    head = _head_height(table)
    height = top + head + n_rows * ROW + 0.5 + 0.16 * len(below) + MARGIN
    figure = pyplot.figure(figsize=(width, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for n, line in enumerate(title):
        axes.text(MARGIN, MARGIN + 0.24 * n, line, fontsize=11, va="top")
    for n in range(n_blocks):
        rows = table.rows[n * n_rows : (n + 1) * n_rows]
        _draw_block(axes, table, rows, widths, MARGIN + n * block, top)
    at = top + head + n_rows * ROW + 0.15
    if scale := scale_of({cell.style for row in table.rows for cell in row}):
        _draw_scale(axes, at, scale)
    for n, line in enumerate(below):
        axes.text(MARGIN, at + 0.35 + 0.16 * n, line, fontsize=7.5, va="top", color="0.3")
    return figure


def _head_height(table: Table) -> float:
    return 0.15 + LINE * max(head.count("\n") + 1 for head in table.heads)


def _widths(table: Table) -> list[float]:
    widths = []
    for n, head in enumerate(table.heads):
        texts = [*head.split("\n"), *(row[n].text for row in table.rows)]
        letters = max(map(len, texts))
        widths.append(max(COLUMN, LETTER * letters + 0.12))
    return widths


def _draw_block(
    axes: Any,
    table: Table,
    rows: tuple[tuple[TableCell, ...], ...],
    widths: list[float],
    left: float,
    top: float,
) -> None:
    from matplotlib.patches import Rectangle

    head_height = _head_height(table)
    starts = [left + sum(widths[:n]) for n in range(len(widths))]
    for n, head in enumerate(table.heads):
        is_label = n < table.n_labels
        at = starts[n] if is_label else starts[n] + widths[n] / 2
        axes.text(
            at, top + head_height - 0.07, head, fontsize=8, color="0.3", va="bottom",
            ha="left" if is_label else "center",
        )  # fmt: skip
    for r, row in enumerate(rows):
        middle = top + head_height + (r + 0.5) * ROW
        for n, cell in enumerate(row):
            if n < table.n_labels:
                axes.text(starts[n], middle, cell.text, fontsize=8, va="center")
                continue
            ground, ink = _colours(cell)
            corner = starts[n], middle - ROW / 2
            size = widths[n] - 0.02, ROW - 0.02
            line = 1.2 if cell.framed else 0
            axes.add_patch(
                Rectangle(corner, *size, facecolor=ground, edgecolor=FRAME, linewidth=line)
            )
            axes.text(
                starts[n] + widths[n] / 2, middle, cell.text, fontsize=8, color=ink,
                ha="center", va="center_baseline",
                style="italic" if cell.style == "failed" else "normal",
            )  # fmt: skip


def _draw_scale(axes: Any, top: float, scale: HeatScale) -> None:
    """Draw what the colours stand for."""
    from matplotlib.patches import Rectangle

    left = MARGIN
    for style, words in scale.words():
        ground, ink = COLOURS[style]
        width = 0.062 * len(words) + 0.14
        axes.add_patch(Rectangle((left, top), width, ROW, facecolor=ground, linewidth=0))
        axes.text(
            left + width / 2, top + ROW / 2, words, fontsize=7.5, color=ink, ha="center",
            va="center_baseline",
        )  # fmt: skip
        left += width + 0.03


def _colours(cell: TableCell) -> tuple[str, str]:
    """Return the ground and the letters of a cell."""
    if cell.style in COLOURS:
        return COLOURS[cell.style]
    return (FAILED_GROUND, FAILED_INK) if cell.style == "failed" else ("#ffffff", "#000000")
