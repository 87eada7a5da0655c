"""Tables of tasks of a harness: what stands beside what, and what is told apart."""

import math
from dataclasses import replace

from lexp.evaluate import RunInfo
from lexp.evaluate.harness_result import HarnessResult, HarnessValue
from lexp.report.harness import harness_caption, harness_tables, number
from lexp.result_store import FAILED, Component

NAN = math.nan
RUN = RunInfo("rope-0", "rope", "nano", "made", 0, 32, "bytes", "float32", "", "v1", "b")
PLAIN = HarnessValue("mmlu", "none", "acc", 0.5, 0.1, 0.25, True, 5, 40, "2", True)
LEAF = replace(PLAIN, task="mmlu_law", value=0.9, documents=8, is_group=False)


def result(*values: HarnessValue, **changed) -> HarnessResult:
    shown = Component("full", "full", {}), Component("none", "none", {})
    made = HarnessResult(RUN, *shown, "mmlu", 64, -1, 0, "d", "0.4.13", values, 1.0)
    return replace(made, **changed)


def texts(table) -> list[tuple[str, ...]]:
    return [tuple(cell.text for cell in row) for row in table.rows]


def test_a_group_shows_its_own_values_and_a_tag_those_of_its_tasks():
    (table,) = harness_tables([result(PLAIN, LEAF)], {})
    assert table.title == "mmlu: 5-shot, 40 questions, in float32"
    assert table.heads == ("model", "method", "length", "acc", "±", "chance")
    assert texts(table) == [("rope", "full", "64", "0.5000", "0.1000", "0.2500")]
    assert table.rows[0][3].style == "best"  # 0.5 - 1.96 * 0.1 > 0.25
    other = replace(LEAF, task="mmlu_art", stderr=0.4)
    (table,) = harness_tables([result(LEAF, other)], {})
    assert table.heads[3::3] == ("mmlu_law acc", "mmlu_art acc")
    assert [cell.style for cell in table.rows[0][3::3]] == ["best", ""]


def test_seeds_lengths_and_filters_are_told_apart_and_limits_have_tables_of_their_own():
    strict = replace(PLAIN, filter="strict", value=0.0, chance=NAN, stderr=NAN)
    seeds = [
        result(PLAIN, strict, run=replace(RUN, seed=seed, name=f"rope-{seed}"), length=length)
        for seed in (1, 0) for length in (64, 32)
    ]  # fmt: skip
    limited = result(PLAIN, limit=5, shots=3)
    first, second = harness_tables([*seeds, limited], {"v1": "L32"})
    assert first.heads[3::3] == ("acc none", "acc strict")
    assert [row[:3] for row in texts(first)] == [
        ("rope L32 seed 0", "full", "32 (trained)"), ("rope L32 seed 0", "full", "64"),
        ("rope L32 seed 1", "full", "32 (trained)"), ("rope L32 seed 1", "full", "64"),
    ]  # fmt: skip
    assert texts(first)[0][6:] == ("0.0000", "-", "-")
    assert second.title == "mmlu: 5-shot, 40 questions, limit=5, in float32"


def test_failures_stand_beside_what_has_values():
    failed = result(status=FAILED, reason="no network", length=128)
    (table,) = harness_tables([result(PLAIN), failed], {})
    assert texts(table)[1] == ("rope", "full", "128", "failed", "", "")
    assert table.notes == ("failed (rope): no network.",)
    (alone,) = harness_tables([failed], {})
    assert alone.heads[3:] == ("value",) and texts(alone)[0][3:] == ("failed",)
    assert failed.rows()[0]["status"] == FAILED and failed.rows()[0]["task"] == "mmlu"
    assert "lm-evaluation-harness 0.4.13" in harness_caption([failed])[0]


def test_numbers_have_as_many_digits_as_can_be_read():
    given = [0.5, -12.3456, 1234567.0, math.inf, NAN]
    assert [number(x) for x in given] == ["0.5000", "-12.35", "1.23e+06", "inf", "-"]
