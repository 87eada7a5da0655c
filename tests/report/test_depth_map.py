"""Maps of depth and length: each cell is the mean of the examples whose needle stands there."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lexp.display.document import Page, Section
from lexp.display.heat import GAINS, SHARES
from lexp.display.html import render
from lexp.display.table import TableCell, to_markdown
from lexp.evaluate import RunInfo
from lexp.probes.result import ProbeMeasures, ProbeResult
from lexp.probes.score import Scores
from lexp.report.depth_map import depth_maps
from lexp.result_store import NOT_DEFINED, OK, Component
from support.pages import PAYLOADS, Tree

RUN = RunInfo(
    "rope-0", "rope", "s", "books", 0, 128, "bytes", "float32", "aaaaaaaa", "v", "cccccccc"
)
FULL, NONE = Component("full", "full", {}), Component("none", "none", {})
# Two answer tokens an example. Depths at both ends of a row, and a row (40-60 %) without any.
DEPTHS = (0.0, 0.199, 0.2, 0.61, 0.8, 0.95)
GAINED = ((1.0, 3.0), (-1.0, -3.0), (0.5, 0.0), (0.0, -0.002), (4.0, 5.0), (2.0, 1.0))
RIGHT = (True, False, True, False, True, True)


def scores(depths=DEPTHS, gained=GAINED, right=RIGHT) -> Scores:
    gain, nothing = np.ravel(gained), np.zeros(2 * len(depths))
    return Scores(
        np.array(depths), np.array(right), np.zeros(0), np.repeat(np.arange(len(depths)), 2),
        nothing, nothing, gain, gain, nothing, nothing,
    )  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """Make results whose scores are given by hand."""
    by_identity: dict[str, Scores] = {}
    monkeypatch.setattr(ProbeResult, "scores", lambda self: by_identity[self.reason])

    def make(found: Scores | None, length: int, method=FULL, run=RUN, gain=0.0) -> ProbeResult:
        key = str(len(by_identity))
        by_identity[key] = found
        measures = ProbeMeasures(*[math.nan] * 8, gain, math.nan, math.nan)
        return ProbeResult(
            run=run, pattern=method, extension=NONE, probe=Component("passkey", "passkey", {}),
            length=length, samples=6, probe_seed=0, chance=0.1, measures=measures, seconds=1.0,
            status=NOT_DEFINED if found is None else OK, reason=key,
        )  # fmt: skip

    return make


def test_a_cell_is_the_mean_of_its_depth_and_lengths_seen_in_training_are_framed(made):
    other = scores(gained=((9.0, 9.0), *GAINED[1:]), right=(False, *RIGHT[1:]))
    results = [
        made(scores(), 128),
        made(scores(), 512), made(other, 512, run=replace(RUN, name="rope-1", seed=1)),
        made(None, 64),
    ]  # fmt: skip
    (drawn,) = depth_maps(results, {})
    assert drawn.title == "passkey by depth and length: rope, full"
    gains, right = drawn.tables
    assert gains.heads == right.heads == ("depth", "64", "128 (trained)", "512")
    words = ["0-20 %", "20-40 %", "40-60 %", "60-80 %", "80-100 %"]
    assert [row[0].text for row in gains.rows] == [row[0].text for row in right.rows] == words
    failed = TableCell("n/d", "failed")
    assert {row[1] for row in (*gains.rows, *right.rows)} == {failed}
    # By hand: (2 - 2) / 2, .25, -.001, (4.5 + 1.5) / 2; with the other seed (2 - 2 + 9 - 2) / 4.
    assert [row[2] for row in gains.rows] == [
        TableCell("0.00", "gain1", True), TableCell("0.25", "gain2", True), TableCell(""),
        TableCell("0.00", "gain1", True), TableCell("3.00", "gain5", True),
    ]  # fmt: skip
    assert gains.rows[0][3] == TableCell("1.75", "gain4")
    assert [row[2].text for row in right.rows] == ["50", "100", "", "0", "100"]
    assert right.rows[0][3] == TableCell("25", SHARES.style(25))
    assert "Framed: lengths seen in training." in gains.notes[0] and len(gains.notes) == 1
    assert gains.secondary and right.secondary  # nine tables more would bury the terminal's


def test_a_probe_that_plants_at_the_beginning_or_has_no_number_has_no_map(made):
    copy = replace(made(scores(), 512), probe=Component("copy", "copy cue=4", {}))
    assert depth_maps([copy], {}) == depth_maps([made(None, 64)], {}) == []
    titles = [m.title for m in depth_maps([copy, made(scores(), 512), made(None, 64)], {})]
    assert titles == ["passkey by depth and length: rope, full"]


def test_the_usual_method_and_the_three_best_beyond_training_have_a_map(made):
    results = []
    for n, (near, far) in enumerate([(0, 0), (9, 0.1), (0, 3), (0, 0.2), (0, 2), (9, -1)]):
        method = Component("window", f"window_{n}", {}) if n != 5 else FULL
        results += [made(scores(), 128, method, gain=near), made(scores(), 512, method, gain=far)]
    maps = depth_maps(results, {})
    shown = [drawn.title.split(", ")[1] for drawn in maps]
    assert shown == ["full", "window_2", "window_4", "window_3"]
    assert maps[0].tables[0].notes[1].startswith("2 more of this probe have no map")


def test_colours_of_gains_say_which_side_of_zero():
    assert GAINS.style(0.0) == GAINS.style(0.099) == GAINS.style(-0.1) == "gain1"
    assert (GAINS.style(-0.2), GAINS.style(0.1), GAINS.style(2.0)) == ("gain0", "gain2", "gain5")


def test_the_page_shows_one_unit_at_a_time_with_its_colours_and_no_name_acts(made):
    for payload in PAYLOADS:
        run = replace(RUN, model=payload)
        (drawn,) = depth_maps([made(scores(), 512, run=run)], {})
        tree = Tree(render(Page("t", "", (Section("s", "", (drawn,)),))))
        assert len(tree.all("script")) == 1 and not tree.all("img") and not tree.all("i")
        assert [a["class"] for a in tree.all("td")][:2] == ["num gain1", "num gain2"]
        assert len(tree.all("ul", "scale")) == 2 and len(tree.all("input")) == 2
        assert "<script>" not in to_markdown(drawn.tables[0])
