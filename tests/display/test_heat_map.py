"""Heat maps: the right colours for ratios, numbers that can be read, the same as a picture."""

import itertools
import re
from dataclasses import replace
from importlib import resources

from matplotlib import colors, pyplot
from matplotlib.patches import Rectangle

from lexp.display.document import Page, Section
from lexp.display.heat import GAINS, RATIOS, SCALES, SHARES
from lexp.display.heat_png import MOST_ROWS, heat_map_figure
from lexp.display.html import render
from lexp.display.table import Table, TableCell
from support.pages import PAYLOADS, Tree


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colors.to_rgb(colour)
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def contrast(a: str, b: str) -> float:
    low, high = sorted(map(luminance, (a, b)))
    return (high + 0.05) / (low + 0.05)


def heat_table(n_rows: int = 3) -> Table:
    ratios = (0.5, 0.9, 1.0, 1.05, 1.2, 1.5, 3.0, 10.0, 50.0)
    cells = tuple(TableCell(f"{ratio:g}", RATIOS.style(ratio)) for ratio in ratios)
    rows = tuple(
        (TableCell(f"model_{n}"), *cells[: 8 - n % 2], *[TableCell("OOM", "failed")] * (1 + n % 2))
        for n in range(n_rows)
    )
    heads = ("model", *map(str, range(len(ratios))))
    return Table("Ratios of things", heads, rows, 1, ("a note",))


def test_numbers_can_be_read_on_every_colour_of_the_page_and_of_pictures():
    css = (resources.files("lexp.display") / "assets" / "page.css").read_text(encoding="utf-8")
    for scale in SCALES:
        rules = re.findall(
            rf"\.({scale.name}\d), tr:hover > \.\1 \{{ background: (\S+); color: (\S+); \}}", css
        )
        assert [(ground, ink) for _, ground, ink in rules] == [*scale.colours]
        assert [style for style, _, _ in rules] == [*scale.styles]
        assert min(contrast(ground, ink) for ground, ink in scale.colours) >= 4.5
    for colours in (SHARES.colours, GAINS.colours[1:]):
        grounds = [luminance(ground) for ground, _ in colours]
        assert grounds == sorted(grounds, reverse=True)  # the more right or gained, the darker
    # Away from 1 the colours get darker on both sides: it is not the hue alone that says it.
    levels = [luminance(ground) for ground, _ in RATIOS.colours]
    middle = RATIOS.styles.index(RATIOS.style(1.0))
    assert levels[: middle + 1] == sorted(levels[: middle + 1])
    assert levels[middle:] == sorted(levels[middle:], reverse=True)
    figure = heat_map_figure(heat_table())
    pyplot.close(figure)
    (axes,) = figure.axes
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    read = 0
    for box in boxes:
        x, y = box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2
        inside = [t for t in axes.texts if abs(t.get_position()[0] - x) < 0.02
                  and abs(t.get_position()[1] - y) < 0.02]  # fmt: skip
        (number,) = inside
        assert contrast(box.get_facecolor(), number.get_color()) >= 4.5
        read += 1
    assert read == 3 * 9 + len(RATIOS.colours)


def test_a_ratio_has_the_colour_whose_ends_hold_it():
    assert RATIOS.style(1.0) == RATIOS.style(0.951) == RATIOS.style(1.019) == "heat2"
    assert [RATIOS.style(edge - 1e-9) for edge in RATIOS.edges] == [*RATIOS.styles[:-1]]
    assert [RATIOS.style(edge) for edge in RATIOS.edges] == [*RATIOS.styles[1:]]
    words = dict(RATIOS.words())
    assert words["heat0"] == "below 0.8" and words["heat8"] == "20 and more"
    assert words["heat2"] == "0.95 to 1.02"


def test_the_page_shows_the_map_and_its_scale_and_no_name_acts():
    tree = Tree(render(Page("t", "", (Section("s", "", (heat_table(),)),))))
    cells = [a["class"].split() for a in tree.all("td")]
    assert [c[1] for c in cells[:8]] == [*RATIOS.styles[:8]] and cells[8] == ["num", "failed"]
    assert len(tree.all("ul", "scale")) == 1
    assert [text for tag, text in tree.texts if tag == "li"][:9] == [w for _, w in RATIOS.words()]
    rows = tuple((TableCell(p), TableCell("1.00", "heat2")) for p in PAYLOADS)
    nasty = Table(PAYLOADS[0], ("model", "512"), rows, 1, (PAYLOADS[1],))
    assert len(Tree(render(Page("t", "", (Section("s", "", (nasty,)),)))).all("script")) == 1
    plain = Table("t", ("model", "512"), ((TableCell("a"), TableCell("1")),))
    assert not Tree(render(Page("t", "", (Section("s", "", (plain,)),)))).all("ul", "scale")


def test_many_rows_stand_beside_each_other_and_nothing_overlaps():
    table = heat_table(2 * MOST_ROWS + 5)
    table = replace(table, heads=table.heads[:3], rows=tuple(row[:3] for row in table.rows))
    figure = heat_map_figure(table)
    figure.draw_without_rendering()
    pyplot.close(figure)
    (axes,) = figure.axes
    names = [t for t in axes.texts if t.get_text().startswith("model_")]
    assert [t.get_text() for t in names] == [row[0].text for row in table.rows]
    assert len({t.get_position()[0] for t in names}) == 3
    wide = replace(table, heads=("model", *map(str, range(40))),
                   rows=tuple((row[0], *row[1:2] * 40) for row in table.rows))  # fmt: skip
    in_one = heat_map_figure(wide)
    pyplot.close(in_one)
    shown = [t for t in in_one.axes[0].texts if t.get_text().startswith("model_")]
    assert len({t.get_position()[0] for t in shown}) == 1  # two blocks would be too wide
    whole = figure.get_window_extent()
    boxes = [t.get_window_extent() for t in axes.texts]
    assert all(whole.x0 < b.x0 and b.x1 < whole.x1 and whole.y0 < b.y0 and b.y1 < whole.y1
               for b in boxes)  # fmt: skip
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes[:60], 2))
