"""The first items of a report's section: curves or a heat map, and paired differences."""

import math
from dataclasses import replace

import pytest

from lexp.display.document import Chart
from lexp.display.table import Table
from lexp.evaluate import EVALUATIONS, EvalResult
from lexp.pattern import Window
from lexp.report.charts import length_items
from lexp.report.differences_chart import differences_chart
from lexp.report.ratio_map import MANY_MODELS, ratio_map, results_picture
from lexp.report.study_results import make_series
from lexp.result_store import component_of, read_all
from support.studies import LENGTHS, Study, bumpy

WINDOW = Window()


def series_of(study: Study):
    return make_series(read_all(study.folder, EVALUATIONS), {})


def test_differences_are_paired_and_have_the_right_values(tmp_path):
    study, base = Study(tmp_path / "outputs"), bumpy()
    rope, alibi, xpos = (study.run(model) for model in ("rope", "alibi", "xpos"))
    study.line(rope, dict.fromkeys(LENGTHS, base))
    study.line(rope, dict.fromkeys(LENGTHS, base + 0.5), pattern=WINDOW, name="w")
    # Documents differ by whole nats, differences to the baseline not at all: a band of no width.
    study.line(alibi, {n: base + n / 1024 for n in LENGTHS})
    study.line(alibi, dict.fromkeys(LENGTHS, base + 0.25), pattern=WINDOW, name="w")
    study.line(xpos, {64: base, 256: base, 512: base - 0.125, 1024: "out"})
    chart = differences_chart(series_of(study), "rope")
    assert isinstance(chart, Chart) and not chart.absolute
    found = {(c.name, c.group): {p.x: p for p in c.points} for c in chart.curves}
    assert list(found) == [
        ("rope", "baseline"), ("alibi", "full"), ("xpos", "full"), ("alibi", "window"),
    ]  # fmt: skip
    assert all(point.y == 0 for point in found["rope", "baseline"].values())
    for n in LENGTHS:
        assert found["alibi", "full"][n].y == pytest.approx(n / 1024, abs=1e-6)
        assert found["alibi", "window"][n].y == pytest.approx(-0.25, abs=1e-6)
        point = found["alibi", "full"][n]
        assert point.high - point.low < 1e-5 and point.low <= point.y <= point.high
    assert found["xpos", "full"][512].y == pytest.approx(-0.125, abs=1e-6)
    failed = found["xpos", "full"][1024]
    assert math.isnan(failed.y) and "out of memory" in failed.note
    assert chart.title == "Difference to rope, method by method, on the same tokens"


def test_one_model_alone_is_compared_with_its_plain_attention(tmp_path):
    study, base = Study(tmp_path / "outputs"), bumpy()
    rope = study.run("rope")
    study.line(rope, dict.fromkeys(LENGTHS, base))
    alone = differences_chart(series_of(study), "rope")
    assert alone == (
        "No differences are drawn: only plain attention was scored, and one model alone."
    )
    study.line(rope, dict.fromkeys(LENGTHS, base - 0.25), pattern=WINDOW, name="w")
    chart = differences_chart(series_of(study), "rope")
    assert isinstance(chart, Chart)
    assert [(c.name, c.group, c.points[0].y) for c in chart.curves] == [
        ("rope", "full", 0.0), ("rope", "window", -0.25),
    ]  # fmt: skip


def test_without_a_baseline_or_on_other_texts_there_is_no_chart_and_a_reason(tmp_path):
    study, base = Study(tmp_path / "outputs"), bumpy()
    study.line(study.run("rope"), dict.fromkeys(LENGTHS, base))
    study.line(study.run("alibi"), dict.fromkeys(LENGTHS, base), text="bbbbbbbb")
    study.line(study.run("xpos"), dict.fromkeys(LENGTHS, base), pattern=WINDOW, name="w")
    all_series = series_of(study)
    reason = differences_chart(all_series, "rope")
    assert reason == (
        "No differences are drawn: nothing was scored under the same method on the same tokens as "
        "rope."
    )
    assert "as nope." in differences_chart(all_series, "nope")
    (chart,) = length_items(all_series, "rope")
    assert isinstance(chart, Chart) and chart.note.endswith(reason)


NAMES = ["rope", "alibi", "xpos", "nope", "t5", "fire", "tisa", "cope", "fox", "kerple_log"]
FACTORS = {name: 1.5 ** (4 - k) for k, name in enumerate(NAMES)}


def many_models(study: Study, n: int) -> list[EvalResult]:
    """Models whose perplexity grows by their factor at four times the trained length."""
    run = study.run("rope")
    study.line(run, {256: bumpy(), 1024: bumpy()})
    study.cell(run, 1024, "too large", name="out")
    trained, longest, failed = sorted(
        read_all(study.folder, EVALUATIONS), key=lambda r: (r.length, not r.ok)
    )
    results = []
    for name in NAMES[:n]:
        grown = replace(longest, ppl=longest.ppl * FACTORS[name])
        for result in (trained, failed if name == "t5" else grown):
            results.append(replace(result, run=replace(result.run, model=name, variant=name)))
    return results


def under_a_window(result: EvalResult, ppl: float) -> EvalResult:
    return replace(result, ppl=ppl, pattern=component_of(WINDOW))


def test_from_ten_models_on_a_heat_map_shows_the_ratios_best_first(tmp_path):
    results = many_models(Study(tmp_path / "outputs"), MANY_MODELS)
    table = ratio_map(results, {})
    assert table is not None and table.heads == ("model", "method", "256 (trained)", "1024")
    rows = {row[0].text: row for row in table.rows}
    order = sorted((n for n in NAMES if n != "t5"), key=FACTORS.__getitem__)
    assert [*rows] == [*order, "t5"]
    for name in order:
        assert float(rows[name][3].text) == pytest.approx(FACTORS[name], abs=0.005)
        assert (rows[name][2].text, rows[name][2].style) == ("1.00", "heat2")
    assert (rows["t5"][3].text, rows["t5"][3].style) == ("OOM", "failed")
    assert rows["rope"][3].style == "heat7" and rows["kerple_log"][3].style == "heat0"
    first, *rest = length_items(make_series(results, {}), "rope")
    assert isinstance(first, Table) and first.rows == table.rows and len(rest) == 1
    picture = results_picture(results, {})
    assert isinstance(picture, Table)
    assert picture.title == (
        "Perplexity relative to the trained length - nano, trained at 256 tokens, books, "
        "full attention"
    )


def test_methods_are_held_against_plain_attention_at_the_trained_length(tmp_path):
    results = many_models(Study(tmp_path / "outputs"), MANY_MODELS)
    rope, far = (r for r in results if r.run.model == "rope")
    table = ratio_map(
        [*results, under_a_window(rope, 2 * rope.ppl), under_a_window(far, 3 * rope.ppl)], {}
    )
    (row,) = [r for r in table.rows if r[1].text == "window"]
    assert [cell.text for cell in row[2:]] == ["2.00", "3.00"]
    # Where that was not scored, the row stands for itself; without either there is no number.
    alibi, far = (r for r in results if r.run.model == "alibi")
    others = [r for r in results if r.run.model not in ("rope", "alibi")]
    own = [under_a_window(alibi, 8.0), under_a_window(far, 4.0), replace(rope, length=512)]
    rows = {row[0].text: row for row in ratio_map([*others, *own], {}).rows}
    assert [cell.text for cell in rows["alibi"][2:]] == ["1.00", "", "0.50"]
    assert [cell.text for cell in rows["rope"][2:]] == ["", "no trained length", ""]


def test_fewer_models_are_curves_and_a_map_without_any_trained_length_is_none(tmp_path):
    results = many_models(Study(tmp_path / "outputs"), MANY_MODELS)
    fewer = [r for r in results if r.run.model != "rope"]
    assert ratio_map(fewer, {}) is None and isinstance(results_picture(fewer, {}), Chart)
    assert ratio_map([r for r in results if r.length != 256], {}) is None
