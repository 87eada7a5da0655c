"""A page with everything that can go wrong in it, for the tests of pages and of browsers."""

import base64
import math
from html.parser import HTMLParser

from lexp.display.document import Chart, Curve, Page, Picture, Point, Section, UnitTables
from lexp.display.table import Table, TableCell

PAYLOADS = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)",
    "</title><script>alert(2)</script>", "</script><b>", "&lt;i&gt; &amp;", "-->", "]]>",
    "javascript:alert(1)", "\x00\x1b\u202e", "a\nb", "W" * 150,
)  # fmt: skip
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LENGTHS = (64, 128, 256, 512, 1024, 2048)


def plain(name: str, group: str, start: float) -> Curve:
    """A curve without a gap, with intervals."""
    points = [
        Point(n, start + k / 3, start + k / 3 - 0.2, start + k / 3 + 0.1)
        for k, n in enumerate(LENGTHS)
    ]
    return Curve(name, group, tuple(points))


def curves() -> tuple[Curve, ...]:
    """Gaps, failures of every kind, values off the axis, an interval alone, places of one's own."""
    nan, inf = math.nan, math.inf
    gaps = [(64, 5.5), (128, nan), (256, 5.25), (512, 5.125), (1024, inf), (2048, 5.0)]
    zero = [(64, 5.5), (128, 0.0), (256, 6.0), (512, 123456.789), (1024, 6.5)]
    missing = [(64, 7.0), (128, 7.5), (512, 8.0)]
    return (
        plain("rope", "full", 5.7),
        plain("rope", "blockwise", 5.5),
        Curve("gaps", "full", tuple(Point(x, y, note="why not" * (y != y)) for x, y in gaps)),
        Curve("zero", "full", tuple(Point(x, y) for x, y in zero)),
        Curve("missing", "full", tuple(Point(x, y) for x, y in missing), note="of the curve"),
        Curve("one", "full", (Point(256, 6.0, 5.5, 6.5),)),
        Curve("elsewhere", "full", (Point(100, 6.2), Point(1500, 6.4)), own_x=True),
    )


def hostile() -> tuple[Curve, ...]:
    """A curve per payload, which is in every text a curve has."""
    return tuple(
        Curve(p, p, (Point(64, 5.0 + k, note=p), Point(128, 6.0 + k)), note=p)
        for k, p in enumerate(PAYLOADS)
    )


def chart(curves_: tuple[Curve, ...], log: bool = True, title: str = "A chart") -> Chart:
    """A chart with one mark."""
    return Chart(title, "length (tokens)", "ppl", log, log, curves_, ((256, "trained"),), "note")


def page() -> Page:
    """Every kind of item, and every payload in every kind of text."""
    every = "\n\n".join(PAYLOADS)
    rows = tuple(
        (TableCell(p), TableCell("1.5", "best"), TableCell("OOM", "failed")) for p in PAYLOADS
    )
    items = (
        chart(curves()),
        chart(curves(), log=False),
        chart(hostile(), title=PAYLOADS[1]),
        chart(()),
        Table(PAYLOADS[0], ("model", PAYLOADS[1], "512"), rows, 1, PAYLOADS),
        Picture(PAYLOADS[1], PNG, PAYLOADS[0]),
        UnitTables(PAYLOADS[0], PAYLOADS[:2], (Table("a", ("x",), ()), Table("b", ("x",), ()))),
    )
    provenance = {p: {"nested": {p: p}, "list": [p, {"inner": p}]} for p in PAYLOADS}
    sections = (Section("Things", every, items, every), Section(PAYLOADS[1], every))
    return Page(PAYLOADS[3], every, sections, provenance, every)


VOID = {"meta", "img", "input", "br", "hr", "link"}


class Tree(HTMLParser):
    """Elements with their attributes and texts; fails on a tag that is not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs), [t for t, _ in self.open]))
        if tag not in VOID:
            self.open.append((tag, self.getpos()))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append((self.open[-1][0] if self.open else "", data))

    def all(self, tag, name=None):
        found = [attrs for t, attrs, _ in self.elements if t == tag]
        return [a for a in found if name in (a.get("class") or "").split()] if name else found
