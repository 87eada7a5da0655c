"""Render a page as one self-contained HTML file: no network, no fonts, no library.

The Content-Security-Policy admits style and script by their digests alone. Everything that comes
from data is escaped text or an escaped attribute, never part of the script.
"""

import base64
import hashlib
import textwrap
from collections.abc import Mapping
from importlib import resources
from typing import Any

from lexp.display.document import Chart, Item, Page, Picture, Section, UnitTables
from lexp.display.heat import scale_of
from lexp.display.line_ends import ranked_names
from lexp.display.style import CurveStyles, is_alone
from lexp.display.svg import axes, draw, n_outside, numbers, swatch, text, whole_axis
from lexp.display.table import Table, TableCell, printable, to_csv

# Charts of more curves than this get a filter.
FEW = 8
# Letters of the description that search engines and messengers show.
LONGEST = 300
# Two curves, of which one breaks: the page's sign in a browser's tab.
ICON = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgBAMAAACBVGfHAAAAElBMVEX6+/fmz2c7c7AeYbMdYbMSWrQrlFIXAAAA"
    "10lEQVR42pWRPU7EQAxGn2eHErIj0UYRmz57BJq9NidYgXKBhGR7kpnpiSlGCIcCCXf+9OzPP3JhH47/CesvQZ/i"
    "XshvDd4CD9dDtSPuGRpL5AGJhtB64pQMkT5wXTKE9BxmY6s1PGNs84CrzKRaT7SzJTbokiFyz91sttV6ooGfkjzg"
    "zumb0HWltASPRiSEzytdKkI+sfXjhosC4LV+HQFoIyBHDyV3ZwEWPITi80JAfeVRe/NHHLL/i5fbBX1HI4CCpxoh"
    "IC0Ai3gkwApLudqx7BL+ePYX0plGYeFrO1MAAAAASUVORK5CYII="
)


def render(page: Page) -> str:
    """Return the page as HTML, to be written in UTF-8."""
    assets = resources.files("lexp.display") / "assets"
    style = (assets / "page.css").read_text(encoding="utf-8")
    script = (assets / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    charts = [item for s in page.sections for item in s.items if isinstance(item, Chart)]
    styles = CurveStyles.of(charts)
    titles = [section.title for section in page.sections]
    titles += ["Provenance"] if page.provenance else []
    contents = [f'<li><a href="#s{n}">{text(title)}</a></li>' for n, title in enumerate(titles)]
    body = [_section(s, f"s{n}", styles) for n, s in enumerate(page.sections)]
    if page.provenance:
        body.append(
            f'<section id="s{len(page.sections)}"><h2>Provenance</h2>'
            f"{_details(page.provenance)}</section>"
        )
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{text(page.title)}</title>",
        f'<meta name="description" content="{text(_beginning(page.summary))}">',
        f'<link rel="icon" href="{ICON}">',
        f"<style>{style}</style>\n</head>\n<body>",
        f"<header><h1>{text(page.title)}</h1>{_paragraphs(page.summary)}"
        f"{_small('facts', page.facts)}</header>",
        f'<nav aria-label="Contents"><ol>{"".join(contents)}</ol></nav>' if contents else "",
        f"<main>{''.join(body)}</main>",
        '<div id="tip" role="status" hidden></div>',
        f"<script>{script}</script>\n</body>\n</html>\n",
    ])  # fmt: skip


def _beginning(value: str) -> str:
    """Return the first sentences of a text, at most LONGEST letters."""
    return textwrap.shorten(printable(value), LONGEST, placeholder=" …")


def _digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _paragraphs(value: str) -> str:
    paragraphs = [paragraph.strip() for paragraph in value.split("\n\n")]
    return "".join(f"<p>{text(paragraph)}</p>" for paragraph in paragraphs if paragraph)


def _small(name: str, value: str) -> str:
    return f'<p class="{name}">{text(value)}</p>' if value else ""


def _section(section: Section, ident: str, styles: CurveStyles) -> str:
    items = [_item(item, f"{ident}-{n}", styles) for n, item in enumerate(section.items)]
    return (
        f'\n<section id="{ident}"><h2>{text(section.title)}</h2>{_small("label", section.label)}'
        f"{_paragraphs(section.text)}{''.join(items)}</section>"
    )


def _item(item: Item, ident: str, styles: CurveStyles) -> str:
    if isinstance(item, Chart):
        return _chart(item, ident, styles)
    if isinstance(item, UnitTables):
        return _unit_tables(item, ident)
    return _table(item) if isinstance(item, Table) else _picture(item)


def _unit_tables(item: UnitTables, ident: str) -> str:
    """Return the tables below a choice of the unit, which works without a script."""
    if len(item.tables) == 1:
        return _table(item.tables[0])
    choices = [
        f'<label><input type="radio" name="{ident}-unit"{" checked" * (n == 0)}> {text(unit)}'
        "</label>"
        for n, unit in enumerate(item.units)
    ]
    tables = "".join(map(_table, item.tables))
    return (
        f'\n<div class="units"><div class="choice" role="radiogroup"'
        f' aria-label="unit of {text(item.title)}">{"".join(choices)}</div>{tables}</div>'
    )


def _copy(csv: str) -> str:
    return f'<button type="button" class="copy" data-csv="{_verbatim(csv)}">Copy as CSV</button>'


def _verbatim(csv: str) -> str:
    # Line ends would be read as they are written, but a formatter of HTML may not keep them.
    return "&#10;".join(text(line) for line in csv.split("\n"))


def _table(table: Table) -> str:
    places = [_place(table, n) for n in range(len(table.heads))]
    heads = [
        _cell("th", TableCell(h), at, "col") for h, at in zip(table.heads, places, strict=True)
    ]
    rows = []
    for r, row in enumerate(table.rows):
        kinds = [
            ("th", "row") if n == 0 and table.n_labels else ("td", "") for n in range(len(row))
        ]
        cells = [_cell(kinds[n][0], cell, places[n], kinds[n][1]) for n, cell in enumerate(row)]
        rows.append(f"<tr{' class=group' * table.begins_group(r)}>{''.join(cells)}</tr>")
    notes = "".join(f"<li>{text(note)}</li>" for note in table.notes)
    return (
        f'\n<figure class="table"><figcaption><h3>{text(table.title)}</h3>{_copy(to_csv(table))}'
        f'</figcaption><div class="frame"><div class="scroll" tabindex="0" role="region"'
        f' aria-label="{text(table.title)}"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div></div>"
        f"{_scale(table)}{f'<ul class=notes>{notes}</ul>' if notes else ''}</figure>"
    )


def _scale(table: Table) -> str:
    """Return what the colours of a heat map stand for."""
    scale = scale_of({cell.style for row in table.rows for cell in row})
    if scale is None:
        return ""
    keys = "".join(f'<li class="{style}">{text(words)}</li>' for style, words in scale.words())
    return f'<ul class="scale" aria-label="colours">{keys}</ul>'


def _place(table: Table, n: int) -> str:
    """Return the class of a column: "num" for numbers, "second" for the second name of a row."""
    if n < table.n_labels:
        return "second" if n == 1 else ""
    texts = [row[n].text for row in table.rows if row[n].text and row[n].style != "failed"]
    is_words = texts and not any(letter.isdigit() for text in texts for letter in text)
    return "" if is_words else "num"


def _cell(tag: str, cell: TableCell, place: str, scope: str) -> str:
    classes = [name for name in (place, cell.style, "framed" * cell.framed) if name]
    attributes = f' class="{" ".join(classes)}"' if classes else ""
    attributes += f' scope="{scope}"' if scope else ""
    return f"<{tag}{attributes}>{text(cell.text)}</{tag}>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    note = f'<p class="note">{text(picture.note)}</p>' if picture.note else ""
    return (
        f'\n<figure class="picture"><figcaption><h3>{text(picture.title)}</h3></figcaption>'
        f'<img alt="{text(picture.title)}" src="data:image/png;base64,{data}">{note}</figure>'
    )


def _chart(chart: Chart, ident: str, styles: CurveStyles) -> str:
    tools = _copy(numbers(chart))
    if whole_axis(chart) != axes(chart)[1]:
        tools = '<label class="whole"><input type="checkbox"> whole range</label>' + tools
    if len(chart.curves) > 1:
        tools = (
            '<span class="count"></span>'
            '<button type="button" class="all" hidden>Show all</button>' + tools
        )
    if len(chart.curves) > FEW:
        tools = (
            '<input type="search" class="filter" placeholder="filter curves"'
            ' aria-label="Show only curves whose name has these words">' + tools
        )
    keys = _legends(chart, styles)
    note = f'<p class="note">{text(chart.note)}</p>' if chart.note else ""
    # Many bands would cover each other: then only that of the curve pointed at is drawn.
    kind = "chart" if chart.absolute or len(chart.curves) > FEW else "chart bands"
    n = n_outside(chart)
    decimals = "" if chart.decimals is None else f' data-decimals="{chart.decimals}"'
    return (
        f'\n<figure class="{kind}" data-x="{text(chart.x_label)}" data-y="{text(chart.y_label)}"'
        f"{decimals}>"
        f'<figcaption><h3>{text(chart.title)}</h3><div class="tools">{tools}</div></figcaption>'
        f"{_small('label', chart.label)}"
        f'<div class="plot">{draw(chart, ident, styles)}</div>'
        f'<p class="edge"{"" if n else " hidden"}>Points outside the axis, drawn as triangles at'
        f" its edge: <span>{n}</span></p>{keys}{note}</figure>"
    )


def _legends(chart: Chart, styles: CurveStyles) -> str:
    """Return the legends: one of groups, if there are several, and one of names by rank.

    Colours stand in the legend of names, or of groups where one name has all curves.
    """
    drawn = [(curve, styles.style(chart, curve)) for curve in chart.curves]
    groups = {curve.group: style for curve, style in drawn}
    names = {curve.name: style for curve, style in drawn}
    alone = is_alone(chart)
    # Markers tell groups apart where there are more of them than lines.
    filled = any(style.fill for style in groups.values())
    if len(groups) < 2:
        keys = ""
    else:
        keys = _legend("g", [
            (styles.groups[g], g, swatch(style, alone, "d", filled)) for g, style in groups.items()
        ])  # fmt: skip
    return keys + _legend("n", [
        (styles.names[n], n, swatch(names[n], not alone, "", True)) for n in ranked_names(chart)
    ])  # fmt: skip


def _legend(kind: str, keys: list[tuple[int, str, str]]) -> str:
    buttons = [
        f'<button type="button" class="key" aria-pressed="true" data-{kind}="{n}">'
        f'<svg viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{swatch}</svg>'
        f"<span>{text(label)}</span></button>"
        for n, label, swatch in keys
    ]
    what = "line style" if kind == "g" else "colour and marker"
    return f'<div class="legend {kind}" role="group" aria-label="{what}">{"".join(buttons)}</div>'


def _details(value: Mapping[str, Any]) -> str:
    """Render nested mappings as folded lists; the top level stays open."""
    parts = []
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            parts.append(f"<details><summary>{text(str(key))}</summary>{_details(inner)}</details>")
        elif isinstance(inner, list | tuple) and any(isinstance(v, Mapping) for v in inner):
            listed = {str(n): v for n, v in enumerate(inner, 1)}
            parts.append(
                f"<details><summary>{text(str(key))}</summary>{_details(listed)}</details>"
            )
        else:
            parts.append(f"<dl><dt>{text(str(key))}</dt><dd>{text(_plain(inner))}</dd></dl>")
    return "".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
