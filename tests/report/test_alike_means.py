"""Means over other seeds, and numbers at other lengths or on other texts, are not compared."""

import pytest

from lexp.evaluate import EVALUATIONS
from lexp.extension import UniformScale
from lexp.pattern import Blockwise
from lexp.report.answer import answer
from lexp.report.claims import claims
from lexp.report.differences import against_baseline, against_plain
from lexp.report.differences_chart import differences_chart
from lexp.report.over_training import over_training
from lexp.report.ratio_map import MANY_MODELS, results_picture
from lexp.report.scales import scale_tables
from lexp.report.study_results import make_series
from lexp.result_store import read_newest
from lexp.scoring.protocol import Prefix, Segments
from support.studies import LONGEST, Study, bumpy


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path)


def series(study: Study) -> list:
    return make_series(read_newest(study.folder, EVALUATIONS), {})


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["other seeds", "the same seeds"])
def test_methods_of_a_model_are_compared_over_the_same_seeds(study, seeds):
    """A seed of high loss that only one of two methods has would pass for the method's."""
    for seed in (0, 1):
        study.cell(study.run(seed=seed), LONGEST, bumpy() + seed)
    for seed in seeds:
        study.cell(study.run(seed=seed), LONGEST, bumpy() + seed + 0.25, pattern=Blockwise())
    family = against_plain(series(study), LONGEST)
    chart = differences_chart(series(study), "rope")
    if len(seeds) == 1:
        assert family.differences == () and family.unlike == ("rope blockwise",)
        assert isinstance(chart, str)
    else:
        assert [round(one.estimate.value, 6) for one in family.differences] == [0.25]
        assert chart.curves[1].points[0].y == pytest.approx(0.25)


def test_models_are_compared_over_the_seeds_that_they_have(study):
    for seed in (0, 1):
        study.cell(study.run(seed=seed), LONGEST, bumpy())
    study.cell(study.run("alibi"), LONGEST, bumpy() + 0.5)
    (one,) = against_baseline(series(study), LONGEST, "rope").differences
    assert one.estimate.value == pytest.approx(0.5)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["other seeds", "the same seeds"])
def test_the_best_scale_is_over_the_same_seeds(study, seeds):
    for seed in (0, 1):
        study.cell(study.run(seed=seed), 512, bumpy() + 0.5)
        study.cell(study.run(seed=seed), 512, bumpy(), extension=UniformScale(1.2))
    for seed in seeds:
        study.cell(study.run(seed=seed), 512, bumpy(), extension=UniformScale(1.5))
    assert bool(scale_tables(series(study))) == (len(seeds) == 2)


def over(study: Study, step: int, losses: dict[int, float], seed: int = 0) -> None:
    for length, value in losses.items():
        study.cell(study.run(seed=seed), length, bumpy() + value, step=step)


def shown(study: Study, table: str) -> list[str]:
    """The cells of a row, over steps 4, 8 and 12."""
    results = read_newest(study.folder, EVALUATIONS)
    items = over_training(results, {result.run.name: 99 for result in results}, {}, 0.05)
    (found,) = [item for item in items if item.title.startswith(f"{table} over training")]
    (row,) = found.rows
    return [cell.text for cell in row[2:]]


def test_a_rise_over_training_is_at_one_length(study):
    over(study, 4, {256: 0.5, 512: 0.625})
    over(study, 8, {256: 0.25, 512: 0.5, 1024: 4.0})
    over(study, 12, {256: 0.0, 512: 0.5, 1024: 4.0})
    assert shown(study, "Rise") == ["+0.1250", "+0.2500", "+0.5000", "+1.00"]


def test_a_rise_over_training_at_no_common_length_is_none(study):
    over(study, 4, {256: 0.5, 512: 0.625})
    over(study, 8, {256: 0.25, 1024: 4.0})
    assert shown(study, "Rise") == ["", "", ""]


def test_steps_of_fewer_seeds_are_not_compared_with_the_others(study):
    for seed in (0, 1):
        over(study, 4, {256: seed, 512: seed + 0.25}, seed)
        over(study, 12, {256: seed, 512: seed + 0.5}, seed)
    over(study, 8, {256: 0.0, 512: 4.0})
    assert shown(study, "Rise") == ["+0.2500", "1 of 2 seeds", "+0.5000", ""]
    assert shown(study, "Loss")[1] == shown(study, "Reach")[1] == "1 of 2 seeds"


def test_a_loss_over_training_without_a_number_is_empty(study):
    over(study, 4, {512: 0.5, 1024: 0.5})
    over(study, 8, {256: 0.5, 1024: 0.5})
    assert [bool(text) for text in shown(study, "Loss")] == [False, True]


def test_what_gains_most_is_said_for_each_text_alone(study):
    for text, gain in (("aaaaaaaa", 0.5), ("bbbbbbbb", 0.25)):
        for model, less in (("rope", 0.125), ("alibi", 0)):
            for length, value in ((64, 0.5), (256, 0.0), (512, less - gain)):
                study.cell(study.run(model), length, bumpy() + value, text=text)
    found = " ".join(answer(claims(series(study), 0.05), against_baseline([], 1, "rope"), 1))
    assert (
        "Gains most from texts longer than 256 tokens: alibi full on books bbbbbbbb, 0.2500 nats "
        "per token at 512; alibi full on books aaaaaaaa, 0.5000 nats per token at 512; its window"
    ) in found


@pytest.mark.parametrize("protocol", [Segments(), Prefix()])
def test_no_ratio_is_shown_of_lengths_that_score_tokens_of_their_own(study, protocol):
    for number in range(MANY_MODELS):
        run = study.run("rope", 0, f"lr={number + 1}e-3")
        study.line(run, {256: bumpy(), 512: bumpy()}, protocol=protocol)
    results = read_newest(study.folder, EVALUATIONS)
    notes = {result.run.variant: result.run.variant for result in results}
    picture = results_picture(results, notes)
    assert picture.title.startswith(
        "Perplexity relative" if protocol.paired else "Perplexity by context length"
    )
