"""Tasks in tables and sentences: seeds as they are, nothing said of models that learned nothing."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import pyplot

from lexp.commands.report import StudyContents, next_commands
from lexp.commands.train import check
from lexp.config.validation import read_report
from lexp.display.document import Page, Section
from lexp.display.html import render
from lexp.display.png import chart_figure
from lexp.display.style import CurveStyles
from lexp.display.svg import axes, draw, n_outside
from lexp.evaluate.task_result import TaskResult
from lexp.report.task_answer import task_answer
from lexp.report.task_grid import task_grid
from lexp.report.task_tokens import place_chart, token_table
from lexp.report.tasks import by_task, task_chart, task_table, tasks_caption
from lexp.result_store import Component
from lexp.runs.run import variant
from lexp.statistics.shares import wilson
from support.config import compose
from support.task_results import result, study

NOTES: dict[str, str] = {}


BIMODAL = study(
    alibi={10: (1, 1, 1), 20: (1, 0.99, 1), 40: (0, 0.95, 1), 80: (0, 0.02, 0.9)},
    rope={10: (1, 1, 1), 20: (0.98, 1, 0.97), 40: (0, 0, 0.1), 80: (0, 0, 0)},
    fire={10: (0.5, 0.6, 1), 20: (0.2, 0.3, 0.99), 40: (0, 0, 0.97), 80: (0, 0, 0)},
)


def cells(table) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_a_cell_is_the_median_seed_the_best_one_and_how_many_hold():
    table = task_table(BIMODAL, NOTES)
    assert table.heads == (
        "model", "method", "learned", "reach", "10", "20 (trained)", "40", "80",
    )  # fmt: skip
    rows = cells(table)
    assert rows["alibi"][2] == "40"
    assert rows["alibi"][5:] == ["95.0 (100; 2/3)", "2.0 (90.0; 1/3)"]
    assert rows["rope"][1:5] == ["3 of 3", "20", "100 (100; 3/3)", "98.0 (100; 3/3)"]
    # Learned: the mean of the lengths up to 20, at least 95 %; FIRE's third seed alone has it.
    assert rows["fire"][1:3] == ["1 of 3", "-"]
    styles = {row[0].text: [cell.style for cell in row] for row in table.rows}
    assert styles["fire"][2] == "failed" and styles["alibi"][6] == "best"


def test_the_report_of_tasks_goes_on_with_an_analysis_at_their_lengths():
    contents = StudyContents([], [], BIMODAL, [], [], [], 0, [])
    settings = read_report(compose("report", "name=mine"))
    assert next_commands(contents, settings) == [
        "tables: lexp report name=mine show=all",
        "next: lexp analyze name=mine 'lengths=[10,20,40,80]'",
    ]
    analysed = replace(contents, analyses=[SimpleNamespace()])
    assert len(next_commands(analysed, settings)) == 1


def test_the_report_of_texts_goes_on_with_samples_at_lengths_that_were_scored():
    settings = read_report(compose("report", "show=all"))
    run = SimpleNamespace(train_len=128)
    for longest, asked in [(2048, " 'lengths=[128,1024]'"), (512, " 'lengths=[128]'"), (64, "")]:
        scored = [SimpleNamespace(run=run, length=n) for n in (64, longest)]
        contents = StudyContents([], scored, [], [SimpleNamespace()], [], [], 0, [])
        assert next_commands(contents, settings) == [
            f"next: lexp analyze 'instruments=[heads,sample]'{asked}"
        ]


def test_one_seed_is_shown_as_it_is_and_never_rounded_to_all_or_nothing():
    table = task_table(study(rope={20: (0.9999,), 40: (0.0001,), 80: (0.0,)}), NOTES)
    assert cells(table)["rope"] == ["full", "yes", "20", "99.9", "0.1", "0"]


def test_single_tokens_are_shown_where_no_answer_is_right():
    results = [
        replace(one, measures=replace(one.measures, token_accuracy=accuracy))
        for one, accuracy in zip(study(rope={20: (0, 0, 0)}), (0.25, 0.5, 0.375), strict=True)
    ]
    failed = result("rope", 0, 20, math.nan, "blockwise", status="not defined", reason="why")
    table = token_table([*results, failed], NOTES)
    assert table.heads == ("model", "method", "20 (trained)")
    rows = [[cell.text for cell in row] for row in table.rows]
    assert rows == [["rope", "full", "37.5 (50.0)"], ["rope", "blockwise", "n/d"]]


def answers(*right: str) -> SimpleNamespace:
    """Scores of answers as an evaluation stores them; 1 for a right token, 0 for a wrong one."""
    marks = np.array([mark == "1" for answer in right for mark in answer])
    lengths = [len(answer) for answer in right]
    arrays = {
        "example": np.repeat(np.arange(len(right)), lengths),
        "place": np.concatenate([np.arange(n) for n in lengths]),
        "right": marks,
        "nats": np.zeros(len(marks)),
    }
    return SimpleNamespace(load=lambda: arrays, path="answers.npz")


def test_right_tokens_by_place_are_those_of_the_first_length_beyond_training():
    # 25 answers of three tokens, and one that is longer: its last place is left out.
    first = answers(*["110"] * 15, *["100"] * 10, "1111")
    second = answers(*["111"] * 25, "0111")
    results = [
        replace(result("rope", seed, length, 0.0), examples=26, arrays=arrays)
        for seed, arrays in enumerate((first, second))
        for length in (20, 30, 40)
    ]
    results.append(result("rope", 0, 30, 0.0, "blockwise"))  # as trained alone is drawn
    chart = place_chart(results, NOTES)
    assert chart.title == "copy: right tokens by place in the answer, problems of length 30"
    (curve,) = chart.curves
    expected = [(1, (100, 2500 / 26)), (2, (1600 / 26, 100)), (3, (100 / 26, 100))]
    assert [point.x for point in curve.points] == [place for place, _ in expected]
    for point, (_, shares) in zip(curve.points, expected, strict=True):
        found = (point.y, point.low, point.high)
        assert found == pytest.approx((sum(shares) / 2, min(shares), max(shares)))
    assert place_chart(BIMODAL, NOTES) is None  # no stored answers


def test_no_sentence_says_how_far_a_model_goes_that_has_not_learned():
    first, second = task_answer(BIMODAL, NOTES)
    assert first == (
        "On copy, trained to length 20, holds to: alibi 40; rope 20 (the median seed answers at "
        "least 90 %)."
    )
    assert second.endswith("nothing is said of longer ones): fire.")
    nothing = study(fire={20: (0.2,), 40: (1.0,)})
    (sentence,) = task_answer(nothing, NOTES)
    assert sentence.startswith("Not learned on copy (half of the seeds") and "fire" in sentence


def test_the_longest_length_asked_is_a_bound():
    (sentence,) = task_answer(study(alibi={20: (1.0,), 40: (1.0,)}, rope={20: (1.0,), 40: (0,)}),
                              NOTES)  # fmt: skip
    assert "holds to: alibi at least 40; rope 20 (" in sentence


def test_not_known_whether_learned_is_not_learned():
    (sentence,) = task_answer(study(rope={40: (1.0,)}), NOTES)
    assert sentence.startswith("On copy: not known how far models generalise; score lengths up to")
    assert cells(task_table(study(rope={40: (1.0,)}), NOTES))["rope"][1] == "not known"
    # What a method answers says nothing about what the model learned.
    with_window = [result("rope", 0, 20, 1.0, method="window"), result("rope", 0, 40, 1.0)]
    assert "not known" in task_answer(with_window, NOTES)[0]


def test_a_model_without_full_attention_is_judged_as_it_was_trained():
    results = [result("gla", 0, n, 1.0, method="trained") for n in (20, 40)]
    assert "holds to: gla at least 40" in task_answer(results, NOTES)[0]
    # Where there is full attention, as trained is a method like any other.
    results += [result("gla", 0, 20, 0.2)]
    assert "holds" not in task_answer(results, NOTES)[0]


def test_methods_that_go_further_are_named():
    results = study(rope={20: (1.0,), 40: (0.1,), 80: (0.0,)})
    results += [result("rope", 0, n, s, "blockwise") for n, s in ((20, 1), (40, 0.93), (80, 0))]
    results += [result("rope", 0, n, s, "full", "log_n") for n, s in ((20, 1), (40, 0), (80, 0))]
    assert task_answer(results, NOTES)[1] == "Further with a method: blockwise (rope) 40."
    assert task_answer(results[:3] + results[6:], NOTES)[1] == "No method goes further."


def test_other_numbers_of_problems_are_rows_of_their_own():
    results = study(rope={20: (1.0,)})
    results += [replace(result("rope", 0, 20, 0.5), examples=30)]
    methods = [row[1].text for row in task_table(results, NOTES).rows]
    assert methods == ["full of 100 problems", "full of 30 problems"]
    assert ". 30 to 100 problems a cell, " in tasks_caption(results)[0]
    assert ". 1 problem a cell, " in tasks_caption([replace(results[0], examples=1)])[0]


def test_failures_are_shown_and_give_no_median():
    results = study(rope={20: (1.0, 1.0), 40: (0.95, 0.96)})
    results[-1] = result("rope", 1, 40, math.nan, status="out of memory", reason="too long")
    rows = cells(task_table(results, NOTES))["rope"]
    assert (rows[2], rows[-1]) == ("20", "OOM 1/2")
    assert task_table(results, NOTES).notes == ("OOM (rope): too long.",)
    points = task_chart(results, NOTES).curves[0].points
    assert points[0].y == 100 and math.isnan(points[1].y)


def test_the_chart_has_the_median_with_every_seed_named():
    chart = task_chart(BIMODAL, NOTES)
    alibi = next(curve for curve in chart.curves if curve.name == "alibi")
    at_40 = next(point for point in alibi.points if point.x == 40)
    assert (at_40.y, at_40.low, at_40.high, at_40.note) == (95, 0, 100, "0, 95.0, 100")
    assert chart.marks == ((20.0, "trained to 20"),)


def test_every_seed_is_a_dot_in_both_pictures():
    chart = task_chart(BIMODAL, NOTES)
    x, y = axes(chart)
    n_seeds = sum(len(point.each) for curve in chart.curves for point in curve.points)
    assert n_seeds > 0
    svg = draw(chart, "c", CurveStyles.of([chart]))
    paths = re.findall(r'class="dots" d="([^"]*)"', svg)
    dots = [
        tuple(map(float, dot.split())) for path in paths for dot in re.findall(r"M([^h]*)h0", path)
    ]
    assert len(dots) == n_seeds
    alibi = next(curve for curve in chart.curves if curve.name == "alibi")
    assert next(point.each for point in alibi.points if point.x == 40) == (0, 95, 100)
    for share in (0, 95, 100):
        at = min(dots, key=lambda dot: abs(dot[0] - x.place(40)) + abs(dot[1] - y.place(share)))
        assert at == pytest.approx((x.place(40), y.place(share)), abs=0.1)
    figure = chart_figure(chart, CurveStyles.of([chart]))
    lines = [line for line in figure.axes[0].lines if line.get_alpha() == 0.35]
    assert sum(len(line.get_xdata()) for line in lines) == n_seeds
    pyplot.close(figure)
    one_seed = task_chart([r for r in BIMODAL if r.run.seed == 0], NOTES)
    assert 'class="dots"' not in draw(one_seed, "c", CurveStyles.of([one_seed]))


def test_the_axis_has_all_shares_and_one_good_seed_is_not_cut_off():
    shares = {f"m{n}": {20: (0.0,), 40: (0.0,)} for n in range(20)}
    for results in (study(**shares), study(**shares, rope={20: (1.0,), 40: (0.0,)})):
        chart = task_chart(results, NOTES)
        _, y = axes(chart)
        assert -5 < y.low <= 0 and 100 <= y.high < 105 and n_outside(chart) == 0
        figure = chart_figure(chart, CurveStyles.of([chart]))
        assert figure.axes[0].get_ylim() == pytest.approx((-4, 104))
        pyplot.close(figure)


def test_what_a_picture_says_of_the_trained_length_is_above_all_curves():
    chart = replace(
        task_chart(BIMODAL, NOTES), label="a protocol", marks=((10.0, "trained to 10"),)
    )
    figure = chart_figure(chart, CurveStyles.of([chart]))
    (axes_of_chart,) = figure.axes
    boxes = [text.get_window_extent() for text in axes_of_chart.texts
             if text.get_text() in ("trained to 10", "a protocol")]  # fmt: skip
    assert len(boxes) == 2 and not boxes[0].overlaps(boxes[1])
    assert all(box.y0 >= axes_of_chart.bbox.y1 for box in boxes)
    pyplot.close(figure)


def pairs(model, seed, shares) -> list[TaskResult]:
    """Return results at pairs of lengths."""
    return [
        replace(result(model, seed, first, share), second_length=second)
        for (first, second), share in shares.items()
    ]


def test_pairs_of_lengths_are_a_map_of_median_seeds_with_the_trained_square_framed():
    asked = [(10, 10), (10, 40), (20, 10), (20, 40), (40, 10)]
    results = study(rope={20: (1.0, 1.0, 0.2)})
    for seed, shares in enumerate([(1, 0.2, 0.95, 0, 0.4), (1, 0.1, 1, 0, 0.6), (0, 0.3, 0, 0, 1)]):
        results += pairs("rope", seed, dict(zip(asked, shares, strict=True)))
    grid = task_grid(results, NOTES)
    assert grid.heads == ("model", "method", "first", "m=10", "m=40")
    assert [row[2].text for row in grid.rows] == ["n=10", "n=20 (trained)", "n=40"]
    assert grid.rows[0][0].text == "rope (not learned)"  # the third seed, at length 20
    assert [[c.text for c in row[3:]] for row in grid.rows] == [
        ["100", "20.0"], ["95.0", "0"], ["60.0", ""],
    ]  # fmt: skip
    assert [[c.style for c in row[3:]] for row in grid.rows] == [
        ["share4", "share1"], ["share3", "share0"], ["share2", ""],
    ]  # fmt: skip
    assert [[c.framed for c in row[3:]] for row in grid.rows] == [
        [True, False], [True, False], [False, False],
    ]  # fmt: skip
    assert "both up to 20" in grid.notes[0] and "median seed" in grid.notes[0]
    # Pairs are in no other table, curve or sentence.
    assert task_table(results, NOTES).heads == (
        "model",
        "method",
        "learned",
        "reach",
        "20 (trained)",
    )
    assert [point.x for point in task_chart(results, NOTES).curves[0].points] == [20]
    assert task_answer(results, NOTES) == task_answer(results[:3], NOTES)
    assert task_grid(BIMODAL, NOTES) is None


def test_a_failure_is_shown_in_the_map():
    results = pairs("rope", 0, {(10, 10): 1.0})
    results += [replace(results[0], second_length=40, status="not defined", reason="ends")]
    grid = task_grid(results, NOTES)
    assert [(c.text, c.style) for c in grid.rows[0][3:]] == [("100", "share4"), ("n/d", "failed")]
    html = render(Page("t", "", (Section("s", "", (grid,)),)))
    assert html.count('class="num share4 framed"') == 1 and "99 and more" in html


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Brown, Cai, DasGupta 2001: the bounds solve (share - p)^2 = z^2 p (1 - p) / n.
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (5, 10, 0.23659, 0.76341)],
)
def test_wilson_intervals(right, n, low, high):
    found = wilson(right, n)
    assert found == pytest.approx((low, high), abs=1e-5)
    for bound in found:
        if 0 < bound < 1:
            z = 1.959963984540054
            assert (right / n - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / n)


def test_a_variant_is_told_from_others_of_its_task_alone():
    results, runs = [], []
    for number, (dataset, lr) in enumerate((("copy", 1e-3), ("sort", 1e-3), ("sort", 2e-3))):
        made_of = check(compose("train", f"dataset={dataset}", f"lr={lr}")).raw
        runs.append(SimpleNamespace(name=f"rope-{number}", made_of=made_of))
        one = result("rope", number, 20, 1.0)
        run = replace(one.run, variant=variant(made_of))
        results.append(replace(one, run=run, task=Component(dataset, dataset, {})))
    tables = [task_table(same, notes) for same, notes in by_task(results, runs)]
    assert [table.title.split(":")[0] for table in tables] == ["copy", "sort"]
    rows = [[row[0].text for row in table.rows] for table in tables]
    assert rows == [["rope"], ["rope lr=0.001", "rope lr=0.002"]]
