"""Printed values: as in the papers, and set in relation to their own trained length."""

import math

import pytest

from lexp.instruments.base import CheckpointInfo, LabelledMeasurement, Measurement
from lexp.instruments.expected import measured_table
from lexp.report.expected import Findings
from lexp.report.published import load_published, overlay, parse


def value(source, model, method, length):
    (found,) = [
        row.value for row in load_published()
        if (row.source, row.model, row.method, row.length) == (source, model, method, length)
    ]  # fmt: skip
    return found


def test_spot_values_as_printed():
    assert value("LEX Table 2", "alibi", "full", 256) == 37.66
    assert value("LEX Table 2", "sinusoidal", "unstated", 4096) == 1283.79
    assert value("LEX Table 5", "xpos", "full", 4096) == 28.43
    assert value("LEX Table 5", "rope", "blockwise", 2048) == 25.57
    assert math.isnan(value("ALiBi non-overlapping", "t5", "full", 15512))


def test_every_row_is_of_perplexity_and_says_how_it_was_measured():
    rows = load_published()
    assert len(rows) == len({(row.source, *row.series, row.length) for row in rows}) > 200
    for row in rows:
        assert row.metric == "ppl" and row.dataset and row.protocol and row.note
        assert row.method in ("full", "blockwise", "unstated")
        assert row.value > 1 or math.isnan(row.value)
    assert {row.arxiv for row in rows} == {"2212.10554", "2108.12409", "2205.09921"}


def test_tables_that_print_one_value_twice_agree():
    seen = {}
    for row in load_published():
        assert seen.setdefault((*row.series, row.length), row.value) == row.value or (
            math.isnan(row.value)
        )


def test_overlay_is_relative_to_the_trained_length():
    curves = {(c.name, c.group): c for c in overlay(load_published(), 256)}
    rope = curves["rope", "LEX, full, arXiv, 1024"]
    assert [p.x for p in rope.points] == [0.25, 0.5, 1, 2, 4]
    assert [p.y for p in rope.points][2:] == [1, 73.6 / 25.52, 294.45 / 25.52]
    # Table 5 has no value at 1024; within the trained length blockwise attention changes nothing.
    blockwise = curves["rope", "LEX, blockwise, arXiv, 1024"]
    assert [(p.x, p.y) for p in blockwise.points] == [
        (1, 1),
        (2, 25.57 / 25.52),
        (4, 25.65 / 25.52),
    ]
    for curve in curves.values():
        assert curve.own_x and (1, 1) in [(p.x, p.y) for p in curve.points]
        assert "Not comparable in absolute value" in curve.note
        assert all(point.note for point in curve.points)
    assert "trained at 1024 tokens (ours 256)" in rope.note and "arXiv" in rope.note
    assert "ours" not in overlay(load_published(), 1024)[-1].note.split("trained at")[1]


def test_failures_stay_failures_and_no_baseline_means_no_curve():
    curves = overlay(load_published(), 256)
    t5 = next(c for c in curves if c.name == "t5" and "WikiText-103, 512" in c.group)
    assert math.isnan(t5.points[-1].y) and "failure" in t5.points[-1].note
    alone = [row for row in load_published() if row.source == "LEX Table 5"]
    assert overlay(alone, 256) == ()


def test_columns_are_checked():
    with pytest.raises(ValueError, match="columns"):
        parse("a,b\n1,2\n")


def finding(
    method: str, length: int, values: list[float], step: int = 9, note: str = ""
) -> LabelledMeasurement:
    rows = [{"of": "each head", "resolution": value} for value in values]
    rows.append({"of": "mean of heads", "resolution": 7.0})
    moment = CheckpointInfo("trained", step, 2.0)
    return LabelledMeasurement(
        "rope", method, moment, 0, length, 128, Measurement(tuple(rows)), note
    )


def test_every_method_has_its_row_beside_what_was_printed():
    """The mean over rows and seeds, at the longest length and the last step alone."""
    block = Findings(
        "a table", "", "resolution", "trained", {"of": "each head"}, "resolution",
        {"rope": 0.91, "rope base=500": "?", "xpos": ".98 at 1024"},
    )  # fmt: skip
    found = [
        finding("blockwise", 256, [0.1, 0.2]), finding("full", 256, [0.4, 0.5]),
        finding("full", 256, [0.6, 0.7]), finding("full", 128, [9.0]),
        finding("full", 256, [9.0], step=3), finding("full", 256, [0.3], note="base=500"),
    ]  # fmt: skip
    shown = [tuple(field.text for field in row) for row in measured_table(block, found).rows]
    assert shown == [
        ("rope", "full", "0.91", "0.55", "4", "256"),
        ("rope", "blockwise", "0.91", "0.15", "2", "256"),
        ("rope base=500", "full", "?", "0.3", "1", "256"),
        ("xpos", "", ".98 at 1024", "", "0", ""),
    ]
