"""The page in a browser: headless Chromium renders it, says nothing, asks for nothing, and reacts.

Every check that finds nothing has a page beside it in which it does find something.
"""

import itertools
import json
import math
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from lexp.commands.report import report
from lexp.display.document import Curve, Page, Point, Section, UnitTables
from lexp.display.html import render
from lexp.display.table import Table, TableCell, printable, to_csv
from support.config import compose
from support.pages import PAYLOADS, Tree, chart, curves, page, plain

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"
    ),
    pytest.mark.slow,
]


@dataclass(frozen=True)
class Visit:
    """What came of opening a page: its elements afterwards, console lines, addresses asked for."""

    dom: str
    console: list[str]
    requests: list[str]

    @property
    def result(self):
        return json.loads(Tree(self.dom).all("html")[0]["data-result"])


def visit(folder: Path, source: str, width: int = 1400) -> Visit:
    path, log = folder / "page.html", folder / "net.json"
    path.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--disable-extensions", f"--user-data-dir={folder / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={log}",
            "--enable-logging=stderr", "--v=0", f"--window-size={width},1000",
            "--virtual-time-budget=5000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, errors="replace", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, console, asked_for(log.read_text()))


def asked_for(log: str) -> list[str]:
    """Addresses of a net log that a page asked for, not the browser on its own account."""
    # Stopped before it has finished the log, Chromium leaves the brackets open.
    try:
        read = json.loads(log)
    except ValueError:
        read = json.loads(log.rstrip().rstrip(",") + "]}")
    start = read["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    found = [e.get("params", {}) for e in read["events"] if e["type"] == start]
    return [p["url"] for p in found if "url" in p and p.get("initiator") != "not an origin"]


def acting(source: str, script: str) -> str:
    """The page with a script of the test's own, which its policy would not let in."""
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    say = "const say = v => document.documentElement.dataset.result = JSON.stringify(v);"
    wait = "const wait = n => new Promise(done => setTimeout(done, n));"
    fig = "const fig = document.querySelector('.chart'), svg = fig?.querySelector('.plot svg');"
    # Nothing is painted in this mode, so that no frame would ever come.
    wait += "window.requestAnimationFrame = f => setTimeout(f, 0);"
    whole = f"(async () => {{ {say} {wait} {fig} await wait(200); {script} }})()"
    return source.replace("</body>", f"<script>{whole}</script></body>")


def narrow(folder: Path, source: str, script: str) -> Visit:
    """Open a page in a frame as wide as a phone: a window of Chromium has at least 500 pixels."""
    inner = acting(source, script).replace(
        "document.documentElement.dataset.result = JSON.stringify(v)",
        "parent.postMessage(JSON.stringify(v), '*')",
    )
    (folder / "inner.html").write_text(inner, encoding="utf-8")
    return visit(folder, (
        "<!DOCTYPE html><html><body><iframe src='inner.html' width=390 height=800></iframe><script>"
        "addEventListener('message', e => { document.documentElement.dataset.result = e.data; });"
        "</script></body></html>"
    ))  # fmt: skip


def small() -> str:
    return render(Page("t", "", (Section("s", "", (chart(curves()),)),)))


def test_it_renders_in_silence_and_asks_for_nothing(tmp_path):
    seen = visit(tmp_path, render(page()))
    assert seen.console == [] and seen.requests == []
    tree = Tree(seen.dom)
    assert tree.all("html")[0]["class"] == "js"  # its script ran, let in by the policy
    assert len(tree.all("g", "curve")) == 2 * len(curves()) + len(PAYLOADS)
    assert len(tree.all("script")) == 1 and len(tree.all("img")) == 1
    labels = {text for tag, text in tree.texts if tag == "span"}
    assert {printable(p) for p in PAYLOADS} <= labels


def test_the_checks_can_fail(tmp_path):
    bad = (
        "<!DOCTYPE html><title>t</title><img src='http://example.invalid/a.png'>"
        "<script>console.error('loud'); fetch('http://127.0.0.1:9/x').catch(() => 0)</script>"
    )
    seen = visit(tmp_path, bad)
    assert any("loud" in line for line in seen.console)
    assert any("example.invalid" in url for url in seen.requests)
    assert any("127.0.0.1:9" in url for url in seen.requests)


def test_the_policy_lets_no_other_script_in(tmp_path):
    extra = "<script>document.documentElement.dataset.result = '1'</script></body>"
    seen = visit(tmp_path, small().replace("</body>", extra))
    assert "data-result" not in Tree(seen.dom).all("html")[0]
    assert any("Content Security Policy" in line for line in seen.console)


def test_scaled_to_the_size_it_was_drawn_at_a_chart_is_the_same(tmp_path):
    source = small()
    seen = visit(tmp_path, acting(source, """
        fig.querySelector('.plot').style.width = '862px';
        window.dispatchEvent(new Event('resize'));
        await wait(500);
        say({width: svg.getAttribute('width')});
    """))  # fmt: skip
    assert seen.result == {"width": "860"} and seen.console == []
    before, after = Tree(source), Tree(seen.dom)
    old, new = ([a for a in t.all("path", "pt") if "data-x" in a] for t in (before, after))
    assert len(old) == len(new) > 0
    for a, b in zip(old, new, strict=True):
        assert (a["d"], a["class"]) == (b["d"], b["class"])
        assert coordinates(a["transform"]) == pytest.approx(coordinates(b["transform"]), abs=0.06)
    for name in ("line", "band"):
        traces = [a for a in after.all("path", name) if a["d"] != "M0 6H26"]
        assert traces and all(a["transform"] == "matrix(1 0 0 1 0 0)" for a in traces)
    edges = [[t for tag, t in tree.texts if tag in ("p", "span")] for tree in (before, after)]
    for texts in edges:
        at = texts.index("Points outside the axis, drawn as triangles at its edge: ")
        assert texts[at + 1] == "2"
    ticks = [[t for tag, t in tree.texts if tag == "text"] for tree in (before, after)]
    assert ticks[0] == ticks[1]
    labels = [tree.all("g", "to") for tree in (before, after)]
    assert len(labels[0]) == len(curves())
    for a, b in zip(*labels, strict=True):
        assert coordinates(a["transform"]) == pytest.approx(coordinates(b["transform"]), abs=0.11)


def coordinates(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?[\d.]+", text)]


# Points, the corners of lines, and ticks, all as pixels of the window.
MEASURE = """
    const origin = () => svg.getBoundingClientRect();
    const corners = path => {
        const m = path.getScreenCTM();
        return [...path.getAttribute('d').matchAll(/[ML]([-\\d.]+) ([-\\d.]+)/g)].map(
            ([, x, y]) => [m.a * x + m.c * y + m.e, m.b * x + m.d * y + m.f]);
    };
    const centre = el => { const m = el.getScreenCTM(); return [m.e, m.f]; };
    const measure = () => {
        const clip = svg.querySelector('.clip').getBoundingClientRect(), o = origin();
        const shown = [...svg.querySelectorAll('.curve:not(.hide)')];
        const c = svg.querySelector('.clip'), m = svg.getScreenCTM(), n = k => +c.getAttribute(k);
        const plot = [m.e + m.a * n('x'), m.f + m.d * n('y'),
                      m.e + m.a * (n('x') + n('width')), m.f + m.d * (n('y') + n('height'))];
        const boxes = [...svg.querySelectorAll('.ticks text:not(.hide)')].filter(
            t => t.textContent).map(t => t.getBoundingClientRect());
        return {
            plot, width: m.a * svg.viewBox.baseVal.width, window: innerWidth,
            points: shown.flatMap(g => [...g.querySelectorAll('.pt')].map(p => [
                g.dataset.n, +p.dataset.x, +p.dataset.y, p.getAttribute('class'), ...centre(p)])),
            corners: shown.flatMap(g => corners(g.querySelector('.line')).map(
                c => [g.dataset.n, ...c])),
            ticks: [...svg.querySelectorAll('.ticks.y .tick')].map(
                t => [+t.textContent, centre(t)[1]]),
            xticks: [...svg.querySelectorAll('.ticks.x .tick')].map(
                t => [+t.textContent, centre(t)[0]]),
            overlaps: boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b =>
                a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom),
            ).length,
            letters: Math.min(...boxes.map(b => b.height)),
        };
    };
"""


def check_places(seen: dict, log: bool = True) -> None:
    """Points, lines and ticks agree with each other about where every value is."""
    left, top, right, bottom = seen["plot"]
    t = math.log if log else float
    inside = [p for p in seen["points"] if p[3].split() in (["pt"], ["pt", "at"])]
    for axis, ticks in ((0, seen["xticks"]), (1, seen["ticks"])):
        low, high = ticks[0], ticks[-1]
        scale = (high[1] - low[1]) / (t(high[0]) - t(low[0]))
        for _, x, y, _, *at in inside:
            value = (x, y)[axis]
            assert at[axis] == pytest.approx(low[1] + scale * (t(value) - t(low[0])), abs=0.3)
        for value, place in ticks:
            assert place == pytest.approx(low[1] + scale * (t(value) - t(low[0])), abs=0.2)
    assert 3 <= len(seen["ticks"]) <= 16 and seen["overlaps"] == 0 and seen["letters"] > 11
    for _, _, _, kind, x, y in seen["points"]:
        assert left - 0.1 <= x <= right + 0.1 and top - 0.1 <= y <= bottom + 0.1
        if "over" in kind or "failed" in kind:
            assert y == pytest.approx(top, abs=0.1)
        if "under" in kind:
            assert y == pytest.approx(bottom, abs=0.1)
    # Every point inside is a corner of its curve's line, and every corner inside is a point.
    places = {(n, round(x), round(y)) for n, _, _, _, x, y in inside}
    corners = [c for c in seen["corners"] if top + 1 < c[2] < bottom - 1]
    assert corners
    for n, x, y in corners:
        near = {(n, round(x) + i, round(y) + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        assert near & places, (n, x, y)
    assert len(corners) >= len([p for p in inside if top + 1 < p[5] < bottom - 1])


@pytest.mark.parametrize("width", [500, 900, 1400])
@pytest.mark.parametrize("log", [True, False])
def test_a_chart_fills_the_window_and_its_letters_keep_their_size(tmp_path, width, log):
    source = render(Page("t", "", (Section("s", "", (chart(curves(), log),)),)))
    seen = visit(tmp_path, acting(source, MEASURE + "say(measure());"), width)
    assert seen.console == [] and len(seen.result["points"]) == 29
    check_places(seen.result, log)
    body = min(seen.result["window"], 1280)
    assert body - 80 < seen.result["width"] < body


def test_the_whole_range_shows_every_finite_value(tmp_path):
    near = tuple(plain(f"a{n}", "g", 5 + n / 9) for n in range(4))
    far = (*near, Curve("far", "g", (Point(64, 6.5), Point(256, 4000.0))))
    source = render(Page("t", "", (Section("s", "", (chart(far),)),)))
    seen = visit(tmp_path, acting(source, MEASURE + """
        const whole = fig.querySelector('.whole input'), edge = fig.querySelector('.edge');
        const found = [measure(), edge.hidden, edge.textContent];
        whole.click(); found.push(measure(), edge.hidden);
        whole.click(); found.push(measure(), edge.hidden);
        say(found);
    """))  # fmt: skip
    before, closed, text, whole, hidden, after, again = seen.result
    assert (closed, hidden, again) == (False, True, False) and text.endswith(": 1")
    assert sum("over" in p[3] for p in before["points"]) == 1 and before == after
    assert all(p[3] == "pt" for p in whole["points"]) and len(whole["points"]) == 26
    for state in (before, whole):
        check_places(state)
    assert max(value for value, _ in whole["ticks"]) >= 1000
    plain_source = render(Page("t", "", (Section("s", "", (chart(near),)),)))
    assert not Tree(plain_source).all("label", "whole")  # nothing lies outside


def test_a_chart_zooms_to_the_curves_shown(tmp_path):
    many = tuple(plain(f"model_{n}", group, 5 + n) for n in range(8) for group in ("a", "b"))
    source = render(Page("t", "", (Section("s", "", (chart(many),)),)))
    for width in (1400, 500):
        seen = visit(tmp_path, acting(source, MEASURE + """
            const found = [measure()];
            for (const n of [0, 3, 7]) {
                fig.querySelectorAll('.legend.n .key')[n].dispatchEvent(new MouseEvent('dblclick'));
                found.push(measure());
            }
            fig.querySelector('.all').click(); found.push(measure());
            say(found);
        """), width)  # fmt: skip
        every, *alone, back = seen.result
        assert every == back and len(every["points"]) == 16 * 6
        for state in (every, *alone):
            check_places(state)
        for state in alone:
            assert len(state["points"]) == 12
            heights = [p[5] for p in state["points"]]
            # Its values fill the plot, but for the band around them and a little room.
            assert max(heights) - min(heights) > 0.6 * (state["plot"][3] - state["plot"][1])


ENDS = """
    const ends = () => [...svg.querySelectorAll('.end:not(.hide)')].map(g => {
        const box = g.querySelector('text').getBoundingClientRect();
        const lead = g.querySelector('.lead'), m = svg.getScreenCTM();
        const from = lead && /^M([-\\d.]+) ([-\\d.]+)/.exec(lead.getAttribute('d')).slice(1);
        return {text: g.textContent.trim(), left: box.left, right: box.right, top: box.top,
                bottom: box.bottom, from: from && m.f + m.d * from[1]};
    });
"""


def test_labels_at_the_ends_of_lines_follow_what_is_shown(tmp_path):
    starts = {"a": 5.0, "b": 5.001, "c": 5.002, "d": 9.0}
    every = tuple(plain(n, g, at + k / 9) for n, at in starts.items() for k, g in enumerate("xy"))
    source = render(Page("t", "", (Section("s", "", (chart(every),)),)))
    seen = visit(tmp_path, acting(source, MEASURE + ENDS + """
        const found = [ends()];
        fig.querySelector('.key[data-g="1"]').click(); found.push(ends());
        found.push(measure().plot, svg.getBoundingClientRect().right);
        say(found);
    """))  # fmt: skip
    both, one, plot, edge = seen.result
    assert [e["text"] for e in sorted(one, key=lambda e: e["top"])] == ["d x", "c x", "b x", "a x"]
    assert len(both) == 8 and len(one) == 4
    for ends in (both, one):
        ends.sort(key=lambda end: end["top"])
        for a, b in itertools.pairwise(ends):
            assert a["top"] + 11.9 < b["top"] and a["from"] <= b["from"] + 0.01
        assert all(plot[2] < end["left"] and end["right"] < edge for end in ends)
    seen = visit(tmp_path, acting(source, ENDS + "say(ends());"), 500)
    assert seen.result == []  # the legend is there


HOVER = """
    const at = (x, y) => [...svg.querySelectorAll('.pt')].find(
        p => p.dataset.x === x && p.dataset.y === y).getBoundingClientRect();
    const hover = (x, y) => {
        const box = at(x, y);
        svg.dispatchEvent(new PointerEvent('pointermove', {
            clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true}));
        return tip.hidden ? '' : [...tip.children].map(e => e.textContent).join(' | ');
    };
    const tip = document.getElementById('tip');
"""


def test_pointing_shows_exact_values(tmp_path):
    seen = visit(tmp_path, acting(small(), HOVER + """
        const said = [hover('128', 'n/d'), hover('1024', 'inf'), hover('512', '123456.789'),
                      hover('256', '6.0'), hover('128', '7.5')];
        fig.dataset.decimals = 2;
        said.push(hover('512', '123456.789'), hover('256', '6.0'));
        svg.dispatchEvent(new PointerEvent('pointerleave'));
        say([...said, tip.hidden]);
    """))  # fmt: skip
    failed, infinite, over, interval, noted, *rounded, hidden = seen.result
    assert "zero · full | 123457 |" in rounded[0] and "| 6.00 |" in rounded[1]
    assert "gaps · full | n/d" in failed and "length (tokens): 128 | why not" in failed
    assert "gaps · full | inf" in infinite and "zero · full | 123456.8" in over
    assert "6" in interval and "missing · full | 7.5" in noted and "of the curve" in noted
    assert hidden and seen.console == []


def test_arrow_keys_go_from_point_to_point(tmp_path):
    seen = visit(tmp_path, acting(small(), """
        const press = key => {
            svg.dispatchEvent(new KeyboardEvent('keydown', {key}));
            return document.getElementById('tip').textContent;
        };
        say([press('ArrowRight'), press('ArrowRight'), press('ArrowDown'), press('Escape') &&
             document.getElementById('tip').hidden]);
    """))  # fmt: skip
    first, second, below, hidden = seen.result
    assert "rope · full5.7" in first and "tokens): 64" in first
    assert "rope · full6.03" in second and "tokens): 128" in second and "tokens): 128" in below
    assert second != below and hidden


def test_curves_can_be_chosen(tmp_path):
    source = render(Page("t", "", (Section("s", "", (chart((
        *(plain(f"model_{n}", group, 5 + n) for n in range(40) for group in ("full", "window")),
    )),)),)))  # fmt: skip
    seen = visit(tmp_path, acting(source, """
        const count = () => svg.querySelectorAll('.curve:not(.hide)').length;
        const ticks = () => [...svg.querySelectorAll('.ticks.y text')].map(t => +t.textContent);
        const filter = fig.querySelector('.filter'), all = fig.querySelector('.all');
        const type = text => { filter.value = text; filter.dispatchEvent(new Event('input')); };
        const found = [count()];
        all.click(); found.push(count());
        fig.querySelectorAll('.legend.n .key')[3].click(); found.push(count());
        fig.querySelectorAll('.legend.n .key')[3].click(); found.push(count());
        fig.querySelectorAll('.legend.n .key')[5].dispatchEvent(new MouseEvent('dblclick'));
        found.push(count(), Math.max(...ticks()), fig.querySelector('.count').textContent);
        all.click(); type('MODEL_1 window'); found.push(count(), all.hidden);
        all.click(); found.push(count(), all.hidden, Math.max(...ticks()) > 30);
        say(found);
    """))  # fmt: skip
    many, every, less, again, alone, top, said, words, open_, back, hidden, high = seen.result
    assert (many, every, less, again, alone) == (40, 80, 78, 80, 2)
    assert 11 < top < 12.5 and said == "2 of 80 curves"
    assert (words, open_) == (11, False) and (back, hidden, high) == (80, True, True)


def test_copying_gives_the_table_as_csv(tmp_path):
    seen = visit(tmp_path, acting(render(page()), """
        let got = null;
        const clipboard = {writeText: async text => { got = text; }};
        Object.defineProperty(navigator, 'clipboard', {value: clipboard});
        document.querySelector('.table .copy').click();
        await wait(100);
        say(got);
    """))  # fmt: skip
    (table,) = [item for item in page().sections[0].items if isinstance(item, Table)]
    assert seen.result == to_csv(table)


SIDEWAYS = """
    const inner = '.scroll, .scroll *, svg *, .key *', root = document.documentElement;
    const wide = [...document.querySelectorAll('body *')].filter(
        e => !e.matches(inner) && e.getBoundingClientRect().right > root.clientWidth + 1);
    say([innerWidth, root.scrollWidth - root.clientWidth, wide.map(e => e.outerHTML)]);
"""


@pytest.mark.parametrize("width", [390, 900, 1400])
def test_only_tables_scroll_sideways(tmp_path, width):
    if width < 500:
        seen = narrow(tmp_path, render(page()), SIDEWAYS)
    else:
        seen = visit(tmp_path, acting(render(page()), SIDEWAYS), width)
    assert seen.result == [width, 0, []]


def results(columns: int) -> str:
    """A page with a table of three models under two methods, and a column for each length."""
    rows = tuple(
        (TableCell(model), TableCell(method), *[TableCell("123.45")] * columns)
        for model in ("rope", "alibi", "xpos") for method in ("full", "blockwise")
    )  # fmt: skip
    heads = ("model", "method", *map(str, range(columns)))
    table = Table("t", heads, rows, 2)
    return render(Page("t", "", (Section("s", "", (table,)),)))


def test_on_a_phone_the_names_of_rows_stay_and_a_shadow_says_that_there_is_more(tmp_path):
    script = """
        const box = document.querySelector('.scroll'), row = box.querySelector('tbody tr');
        const lefts = () => [...row.children].slice(0, 3).map(c => c.getBoundingClientRect().left);
        const width = row.children[0].getBoundingClientRect().width;
        const shadow = () => {
            const style = getComputedStyle(box.parentNode, '::after');
            return style.content === 'none' ? '' : style.backgroundImage;
        };
        const before = lefts(), seen = [shadow()], over = box.scrollWidth - box.clientWidth;
        const to = left => {
            box.scrollLeft = left;
            box.dispatchEvent(new Event('scroll')); // without frames none comes by itself
            seen.push(shadow());
        };
        to(60); const after = lefts(); to(over);
        say({before, after, width, over, seen});
    """
    seen = narrow(tmp_path, results(8), script)
    found = seen.result
    assert seen.console == [] and found["over"] > 60
    (a, b, c), (x, y, z) = found["before"], found["after"]
    assert (x, y, z) == pytest.approx((a, b, c - 60), abs=1)
    assert b - a == pytest.approx(found["width"], abs=1)
    start, middle, end = found["seen"]
    assert "gradient" in start and "gradient" in middle and end == ""
    wide = visit(tmp_path, acting(results(8), """
        const box = document.querySelector('.scroll');
        say([box.scrollWidth - box.clientWidth, box.className]);
    """))  # fmt: skip
    assert wide.result == [0, "scroll"]  # a table that fits has nothing to keep


def test_the_report_of_a_trained_study_renders_in_silence(evaluated, tmp_path):
    report(compose("report", f"outputs={evaluated.parent}"))
    seen = visit(tmp_path, (evaluated / "report" / "report.html").read_text(encoding="utf-8"))
    assert seen.console == [] and seen.requests == []
    tree = Tree(seen.dom)
    assert tree.all("html")[0]["class"] == "js"
    # Both protocols' curves by length, differences and curves by context, two models under two
    # methods each, and printed curves beside ours.
    assert len(tree.all("figure", "chart")) == 7
    assert len(tree.all("g", "curve")) > 4 * 4
    failed = [a for a in tree.all("path", "failed") if a.get("data-x") == "32"]
    assert len(failed) == 2 * 4 and all("Learned ends at 16" in a["data-note"] for a in failed)
    drawn = [a for a in tree.all("path", "line") if a["d"]]
    assert len(drawn) >= 4 * 4
    assert {("p", "segments-32"), ("p", "prefix-32")} <= {*tree.texts}
    assert {("h2", "Failures"), ("h2", "Provenance")} <= {*tree.texts}
    # No conclusion is outside the view, as it was: of 1400 pixels, and of their table.
    seen = visit(tmp_path, acting(seen.dom, """
        const heads = [...document.querySelectorAll('thead th')].filter(
            e => e.textContent === 'verdict');
        say(heads.map(head => {
            const box = head.closest('.scroll').getBoundingClientRect();
            const cells = [...head.closest('table').querySelectorAll('tbody tr')].map(
                row => row.children[head.cellIndex].getBoundingClientRect().right);
            return [head.cellIndex, Math.max(...cells) <= box.right, box.right <= innerWidth];
        }));
    """))  # fmt: skip
    assert seen.result and all(found == [2, True, True] for found in seen.result)


def test_one_unit_of_a_table_shows_at_a_time_also_without_the_script(tmp_path):
    tables = tuple(Table(unit, ("model",), ((TableCell(unit),),)) for unit in ("a", "b"))
    items = (chart(curves()), UnitTables("t", ("a", "b"), tables))
    source = render(Page("t", "", (Section("s", "", items),)))
    source = re.sub(r"(<script>).*?(</script>)", r"\1\2", source, flags=re.DOTALL)
    done = visit(tmp_path, acting(source, """
      const shown = () => [...document.querySelectorAll('.table')].map(f => f.offsetHeight > 0);
      const first = shown();
      document.querySelectorAll('.choice input')[1].click();
      say([first, shown()]);"""))  # fmt: skip
    assert done.result == [[True, False], [False, True]]
