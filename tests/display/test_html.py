"""The page as text: well-formed, on its own, every value in its place, no name that acts."""

import base64
import math
import re
from dataclasses import replace
from importlib import resources

import pytest

from lexp.display.axes import number, x_axis, x_ticks, y_axis, y_ticks
from lexp.display.document import Chart, Curve, Page, Point, Section
from lexp.display.html import render
from lexp.display.svg import numbers, runs
from lexp.display.table import Table, TableCell, printable
from support.pages import LENGTHS, PAYLOADS, Tree, chart, curves, page


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(render(page()))


def drawn(curves_, log=True) -> Tree:
    return Tree(render(Page("t", "", (Section("s", "", (chart(curves_, log),)),))))


def test_a_heading_has_its_label_and_a_page_its_facts_below():
    tree = Tree(render(Page("t", "", (Section("s", "", (), "short name"),), {}, "made of")))
    assert [text for tag, text in tree.texts if tag == "p"] == ["made of", "short name"]
    assert [a["class"] for a in tree.all("p")] == ["facts", "label"]
    assert not Tree(render(Page("t", "", (Section("s"),)))).all("p")


def test_a_chart_says_with_how_many_decimals_its_values_are_shown():
    charts = (chart(curves()), replace(chart(curves()), decimals=2))
    figures = Tree(render(Page("t", "", (Section("s", "", charts),)))).all("figure", "chart")
    assert [figure.get("data-decimals") for figure in figures] == [None, "2"]


def lines(tree: Tree) -> list[dict]:
    """The lines of curves, without those of the legend."""
    return [a for a in tree.all("path", "line") if a["d"] != "M0 6H26"]


def test_the_page_needs_nothing_else():
    source = render(page())
    assert not re.search(r"https?:", source), "an address in a page that is to need none"
    tree = Tree(source)
    for tag, attrs, _ in tree.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,")), (tag, value)
        assert not [name for name in attrs if name.startswith("on") or name == "style"], attrs
    assert not {"iframe", "object", "embed", "base"} & {t for t, _, _ in tree.elements}
    assert [a["rel"] for a in tree.all("link")] == ["icon"]  # data too, as the loop above has seen
    css = next(text for tag, text in tree.texts if tag == "style")
    assert "url(" not in css and "@import" not in css
    (policy,) = [a["content"] for a in tree.all("meta") if a.get("http-equiv")]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert len(source) < 200_000


def test_the_page_says_what_it_is_about():
    for words in ("Holds to: rope 1x. " + "More. " * 100, PAYLOADS[0], PAYLOADS[1]):
        tree = Tree(render(Page("t", words, ())))
        (said,) = [a["content"] for a in tree.all("meta") if a.get("name") == "description"]
        beginning = " ".join(printable(words).split())
        assert said.removesuffix(" …") == beginning[: len(said.removesuffix(" …"))]
        assert 20 < len(said) <= 300 and len(tree.all("script")) == 1
    icon = base64.b64decode(tree.all("link")[0]["href"].removeprefix("data:image/png;base64,"))
    assert icon[:8] == b"\x89PNG\r\n\x1a\n" and icon[-8:-4] == b"IEND"


def test_a_chart_says_what_its_numbers_are_called_elsewhere():
    labelled = replace(chart(curves()), label="segments-2048 <b>")
    tree = Tree(render(Page("t", "", (Section("s", "", (labelled, chart(curves()))),))))
    assert len(tree.all("p", "label")) == 1 and ("p", "segments-2048 <b>") in tree.texts


def test_numbers_stand_at_the_right_and_words_at_the_left():
    rows = (
        (
            TableCell("a"),
            TableCell("full"),
            TableCell("no better"),
            TableCell("1.5"),
            TableCell(""),
        ),
        (
            TableCell("b"),
            TableCell("full"),
            TableCell(""),
            TableCell("n/d", "failed"),
            TableCell(""),
        ),
        (TableCell("c"), TableCell("full"), TableCell("worse"), TableCell("OOM"), TableCell("")),
    )
    table = Table("t", ("model", "method", "verdict", "512", "1024"), rows, 2)
    tree = Tree(render(Page("t", "", (Section("s", "", (table,)),))))
    cells = [a.get("class", "") for a in tree.all("td")]
    assert cells[:4] == ["second", "", "num", "num"] and cells[4:8] == [
        "second",
        "",
        "num failed",
        "num",
    ]
    assert [a.get("class", "") for a in tree.all("th")][:5] == ["", "second", "", "num", "num"]


def test_tables_and_headings_are_whole_on_paper():
    css = (resources.files("lexp.display") / "assets" / "page.css").read_text(encoding="utf-8")
    printed = css[css.index("@media print") :]
    assert re.search(r"@page \{ margin: \d+mm \d+mm; \}", printed)
    (kept,) = re.findall(r"([^}]*)\{ break-inside: avoid; \}", printed)
    assert {"figure", "tr", "h2", "h3"} <= {part.strip() for part in kept.split(",")}
    assert "display: table-header-group" in printed and "break-after: avoid" in printed
    # What made the numbers stays folded: 30 runs would be 30 pages.
    script = (resources.files("lexp.display") / "assets" / "page.js").read_text(encoding="utf-8")
    assert "beforeprint" not in script


def test_names_stay_text(tree):
    tags = {tag for tag, _, _ in tree.elements}
    assert len(tree.all("script")) == 1 and len(tree.all("img")) == 1 and not {"b", "i"} & tags
    texts = [text for tag, text in tree.texts if tag not in ("script", "style")]
    script = next(text for tag, text in tree.texts if tag == "script")
    for payload in map(printable, PAYLOADS):
        assert sum(payload in text for text in texts) >= 10, payload
        assert payload not in script
        assert any(a.get("data-note") == payload for a in tree.all("path", "pt"))
    heads = [text for tag, text in tree.texts if tag == "title"]
    assert heads[0] == printable(PAYLOADS[3])


def test_contents_lead_to_sections(tree):
    links = [a["href"] for a in tree.all("a")]
    assert links == [f"#{a['id']}" for a in tree.all("section")] and len(links) == 3
    ids = [a["id"] for _, a, _ in tree.elements if "id" in a]
    assert len(set(ids)) == len(ids)


def test_every_point_is_drawn_with_its_exact_values():
    tree = drawn(curves())
    points = tree.all("path", "pt")
    given = [p for c in curves() for p in sorted(c.points, key=lambda p: p.x)]
    in_plot = [a for a in points if "data-x" in a]
    assert len(in_plot) == len(given)
    for attrs, point in zip(in_plot, given, strict=True):
        assert float(attrs["data-x"]) == point.x
        if math.isfinite(point.y):
            assert float(attrs["data-y"]) == point.y
        else:
            assert attrs["data-y"] == ("n/d" if math.isnan(point.y) else "inf")
            assert "failed" in attrs["class"]
        if math.isfinite(point.low):
            assert (float(attrs["data-low"]), float(attrs["data-high"])) == (point.low, point.high)
        else:
            assert "data-low" not in attrs
    titles = [text for tag, text in tree.texts if tag == "title"]
    assert "gaps full, 128: n/d why not" in titles and "zero full, 512: 123456.789" in titles


def test_gaps_are_where_points_are_missing_or_failed():
    strokes = [a["d"].count("M") for a in lines(drawn(curves()))]
    #          rope, rope, gaps, zero, missing, one, elsewhere
    assert strokes == [1, 1, 3, 2, 2, 1, 1]
    segments = [a["d"].count("L") for a in lines(drawn(curves()))]
    assert segments == [5, 5, 1, 2, 1, 0, 1]
    linear = [a["d"].count("M") for a in lines(drawn(curves(), False))]
    assert linear[3] == 1  # a linear axis has a zero


def test_a_failure_ends_a_run_even_where_no_other_curve_has_a_point():
    curve = Curve("a", "", (Point(1, 1), Point(2, math.nan), Point(4, 1)), own_x=True)
    assert [len(run) for run in runs(curve, [], True)] == [1, 1]


def test_failures_and_values_off_the_axis_stand_at_its_edge():
    points = [a for a in drawn(curves()).all("path", "pt") if "data-x" in a]
    at = {(a["data-x"], a["data-y"]): a for a in points}
    top = [float(a["transform"].split()[1].rstrip(")")) for a in points if "failed" in a["class"]]
    assert len(top) == 2 and len(set(top)) == 1
    over, under = at["512", "123456.789"], at["128", "0.0"]
    assert "over" in over["class"] and over["transform"].endswith(f" {top[0]:g})")
    assert "under" in under["class"]
    inside = [a for a in points if a["class"] == "pt"]
    assert all(float(a["transform"].split()[1].rstrip(")")) > top[0] for a in inside)


def test_bands_go_around_the_interval():
    bands = [a["d"] for a in drawn(curves()).all("path", "band")]
    assert [band.count("Z") for band in bands] == [1, 1, 0, 0, 0, 1, 0]
    assert bands[0].count("L") == 2 * len(LENGTHS) - 1


def test_chart_numbers_as_csv():
    lines = numbers(chart(curves())).splitlines()
    assert lines[0] == "name,group,length (tokens),ppl,low,high,note"
    assert "gaps,full,128,n/d,,,why not" in lines and "zero,full,512,123456.789,,," in lines


@pytest.mark.parametrize("log", [True, False])
def test_a_chart_of_nothing_but_failures_is_drawn(log):
    for ys in ([], [math.nan], [math.inf, -math.inf], [0.0], [3.0], [1e300, 1e-300]):
        points = tuple(Point(2.0**n, y) for n, y in enumerate(ys))
        assert len([a for a in drawn((Curve("a", "b", points),), log).all("path", "pt")
                    if "data-x" in a]) == len(ys)  # fmt: skip


def test_axes():
    axis = y_axis([5.0] * 20 + [6.0] * 20 + [1e6], True)
    assert 10**axis.high < 10 and axis.side(1e6) == 1 and axis.side(5.5) == 0
    assert axis.side(0.0) == -1 and axis.side(math.nan) == 1
    assert [number(v) for v in y_ticks(y_axis([1, 900], True))][:4] == ["1", "2", "5", "10"]
    assert [number(v) for v in y_ticks(y_axis([5.4, 6.2], True))] == [
        "5.4",
        "5.6",
        "5.8",
        "6",
        "6.2",
    ]
    assert x_ticks([128, 256, 512], True) == [128, 256, 512]
    assert x_ticks([1, 1.01, 32], True) == [1, 2, 4, 8, 16, 32]
    assert x_axis([256], True).place(256) == pytest.approx((58 + 842) / 2)
    assert (number(1e7), number(0.1 + 0.2), number(12345.6)) == ("1e+07", "0.3", "12350")


def test_an_x_without_a_place_is_refused():
    with pytest.raises(ValueError, match="must be finite, and positive"):
        Chart("t", "x", "y", True, True, (Curve("a", "b", (Point(0, 1),)),))


def test_forty_models_and_six_methods_stay_small():
    many = tuple(
        Curve(f"model_{m}", f"method_{k}", tuple(Point(x, 5 + m / 9 + k / 50) for x in LENGTHS))
        for m in range(40) for k in range(6)
    )  # fmt: skip
    source = render(Page("t", "", (Section("s", "", (chart(many),)),)))
    assert len(Tree(source).all("button", "key")) == 46 and len(source) < 700_000
