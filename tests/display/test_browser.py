"""The page in a browser: headless Chromium renders it, says nothing, asks for nothing, and reacts.

Every check that finds nothing has a page beside it in which it does find something.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_html import Tree

from lexp.commands.report import report
from lexp.display.document import Page, Section
from lexp.display.html import render
from lexp.display.table import Table, printable, to_csv
from support.config import compose
from support.pages import PAYLOADS, chart, curves, page, plain

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
    fig = "const fig = document.querySelector('.chart'), svg = fig.querySelector('.plot svg');"
    # Nothing is painted in this mode, so that no frame would ever come.
    wait += "window.requestAnimationFrame = f => setTimeout(f, 0);"
    whole = f"(async () => {{ {say} {wait} {fig} await wait(200); {script} }})()"
    return source.replace("</body>", f"<script>{whole}</script></body>")


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


def test_drawn_again_at_the_same_size_a_chart_is_the_same(tmp_path):
    source = small()
    seen = visit(tmp_path, acting(source, """
        fig.querySelector('.plot').style.width = '862px';
        window.dispatchEvent(new Event('resize'));
        await wait(500);
        say({width: svg.getAttribute('width')});
    """))  # fmt: skip
    assert seen.result == {"width": "860"} and seen.console == []
    before, after = Tree(source), Tree(seen.dom)
    for name in ("pt", "line", "band"):
        old, new = ([a for a in t.all("path", name) if "clip-path" in a or "data-x" in a]
                    for t in (before, after))  # fmt: skip
        assert len(old) == len(new) > 0
        for a, b in zip(old, new, strict=True):
            assert shape(a["d"]) == shape(b["d"])
            places = zip(coordinates(a), coordinates(b), strict=True)
            assert all(abs(p - q) < 0.11 for p, q in places), (a, b)
            assert a.get("class") == b.get("class")
    edges = [
        [t for t in tree.texts if "triangle" in t[1] and t[0] == "p"] for tree in (before, after)
    ]
    assert edges[0] == edges[1] and "2 points lie outside" in edges[0][0][1]
    ticks = [[t for tag, t in tree.texts if tag == "text"] for tree in (before, after)]
    assert ticks[0] == ticks[1]


def shape(path: str) -> str:
    return re.sub(r"[-\d. ]", "", path)


def coordinates(attrs: dict) -> list[float]:
    return [float(n) for n in re.findall(r"-?[\d.]+", attrs.get("transform", "") + attrs["d"])]


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
        svg.dispatchEvent(new PointerEvent('pointerleave'));
        say([...said, tip.hidden]);
    """))  # fmt: skip
    failed, infinite, over, interval, noted, hidden = seen.result
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
        fig.querySelector('.key[data-n="3"]').click(); found.push(count());
        fig.querySelector('.key[data-n="3"]').click(); found.push(count());
        fig.querySelector('.key[data-n="5"]').dispatchEvent(new MouseEvent('dblclick'));
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
        document.querySelector('.sheet .copy').click();
        await wait(100);
        say(got);
    """))  # fmt: skip
    (sheet,) = [item for item in page().sections[0].items if isinstance(item, Table)]
    assert seen.result == to_csv(sheet)


@pytest.mark.parametrize("width", [500, 900, 1400])
def test_only_tables_scroll_sideways(tmp_path, width):
    seen = visit(tmp_path, acting(render(page()), """
        const inner = '.scroll, .scroll *, svg *, .key *', root = document.documentElement;
        const wide = [...document.querySelectorAll('body *')].filter(
            e => !e.matches(inner) && e.getBoundingClientRect().right > root.clientWidth + 1);
        say([root.scrollWidth - root.clientWidth, wide.map(e => e.outerHTML)]);
    """), width)  # fmt: skip
    assert seen.result == [0, []]


def test_the_report_of_a_trained_study_renders_in_silence(evaluated, tmp_path):
    report(compose("report", f"outputs={evaluated.parent}"))
    seen = visit(tmp_path, (evaluated / "report" / "report.html").read_text(encoding="utf-8"))
    assert seen.console == [] and seen.requests == []
    tree = Tree(seen.dom)
    assert tree.all("html")[0]["class"] == "js"
    # Both protocols' curves by length and by context, two models under two methods each, and
    # printed curves beside ours.
    assert len(tree.all("figure", "chart")) == 5
    assert len(tree.all("g", "curve")) > 4 * 4
    failed = [a for a in tree.all("path", "failed") if a.get("data-x") == "32"]
    assert len(failed) == 4 and all("Learned ends at 16" in a["data-note"] for a in failed)
    drawn = [a for a in tree.all("path", "line") if a["d"]]
    assert len(drawn) >= 4 * 4
    for title in ("segments-32", "prefix-32", "Failures", "Provenance"):
        assert any(tag == "h2" and text == title for tag, text in tree.texts)
