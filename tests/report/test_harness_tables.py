"""Tables of tasks of a harness: what stands beside what, and what is told apart."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lexp.evaluate import RunInfo
from lexp.evaluate.harness_result import (
    EXP_OF_MEAN,
    MEAN,
    OWN_SHOTS,
    HarnessResult,
    HarnessValue,
    QuestionValues,
    arrays_of_questions,
)
from lexp.report.harness import harness_caption, harness_tables, number
from lexp.result_store import FAILED, Component
from lexp.result_store.arrays import write_arrays

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


def test_the_title_names_the_examples_of_every_task_of_a_group():
    """The harness itself counts none of a group; earlier results have 0 there."""
    group, tasks = replace(PLAIN, shots=0), [replace(LEAF, task=f"t{n}", shots=n) for n in (2, 0)]
    for own in (0, OWN_SHOTS):
        (table,) = harness_tables([result(replace(group, shots=own), *tasks)], {})
        assert table.title == "mmlu: 0-shot and 2-shot, 40 questions, in float32"
    (table,) = harness_tables([result(group, LEAF)], {})
    assert table.title.startswith("mmlu: 5-shot, ")
    (table,) = harness_tables([result(replace(PLAIN, shots=OWN_SHOTS))], {})
    assert table.title == "mmlu: 40 questions, in float32"


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


# Right answers of plain attention and of a window, question by question; and log-perplexities.
PLAIN_RIGHT = np.array([1, 0, 0, 1, 0, 0, 1, 0, 0, 0], dtype=float)
WINDOW_RIGHT = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 1], dtype=float)
WORDS = np.arange(1.0, 11.0)
NATS = np.linspace(3, 40, 10)


def with_questions(path, right, nats, words=WORDS, **changed) -> HarnessResult:
    acc = replace(PLAIN, value=right.mean(), follows=MEAN, is_group=False, task="mmlu")
    ppl = replace(acc, metric="ppl", higher_is_better=False, follows=EXP_OF_MEAN,
                  value=math.exp(nats.sum() / words.sum()))  # fmt: skip
    of_questions = {0: QuestionValues(right, np.ones(10), MEAN),
                    1: QuestionValues(nats, words, EXP_OF_MEAN)}  # fmt: skip
    arrays = write_arrays(path, arrays_of_questions(of_questions))
    return result(acc, ppl, arrays=arrays, **changed)


def test_methods_are_compared_question_by_question(tmp_path):
    window = {"pattern": Component("window", "window", {})}
    plain = with_questions(tmp_path / "a.npz", PLAIN_RIGHT, NATS)
    changed = with_questions(tmp_path / "b.npz", WINDOW_RIGHT, NATS + WORDS / 2, **window)
    _, table = harness_tables([changed, plain], {})
    assert table.title == "mmlu: minus full attention, paired by question"
    assert table.heads == ("model", "method", "length", "acc", "p (Holm)", "log ppl", "p (Holm)")
    ((*labels, acc, p, log_ppl, zero),) = texts(table)
    assert labels == ["rope", "window", "64"]
    t = stats.ttest_rel(WINDOW_RIGHT, PLAIN_RIGHT)
    low, high = t.confidence_interval()
    assert acc == f"{0.6:+.4f} [{low:+.4f}, {high:+.4f}]"
    # Half a nat more for every word, without any spread; so the other p is doubled at most.
    assert log_ppl == "+0.5000 [+0.5000, +0.5000]" and zero == "< 0.0001"
    assert p == f"{t.pvalue:.4f}"
    assert [cell.style for cell in table.rows[0][3::2]] == ["best", ""]


@pytest.mark.parametrize(
    "changed", [{"requests": "e"}, {"harness": "0.5"}, {"length": 32}, {"status": FAILED}]
)
def test_nothing_else_is_compared(tmp_path, changed):
    window = {"pattern": Component("window", "window", {}), **changed}
    plain = with_questions(tmp_path / "a.npz", PLAIN_RIGHT, NATS)
    other = with_questions(tmp_path / "b.npz", WINDOW_RIGHT, NATS, **window)
    assert len(harness_tables([plain, other], {})) == 1


def test_other_texts_than_those_of_plain_attention_are_left_out(tmp_path):
    window = {"pattern": Component("window", "window", {})}
    plain = with_questions(tmp_path / "a.npz", PLAIN_RIGHT, NATS)
    other = with_questions(tmp_path / "b.npz", WINDOW_RIGHT, NATS, WORDS + 1, **window)
    _, table = harness_tables([plain, other], {})
    assert table.heads[3:] == ("acc", "p (Holm)")
    # A run that was never asked with full attention is compared with attention as trained.
    trained = replace(plain, pattern=Component("trained", "trained", {}))
    _, table = harness_tables([trained, other], {})
    assert table.title == "mmlu: minus trained attention, paired by question"
