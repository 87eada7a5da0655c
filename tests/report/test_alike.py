"""What is not alike is never compared, averaged or marked as best, and tables say why."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lexp.display.table import Table
from lexp.evaluate import (
    EVALUATIONS,
    EvalTargets,
    Method,
    ModelIdentity,
    ModelUnderTest,
    RunInfo,
)
from lexp.extension import Extension, UniformScale
from lexp.instruments.base import CheckpointInfo, Instrument, Measurement
from lexp.instruments.measure import (
    ANALYSES,
    COLUMNS,
    AnalysisResult,
    labelled,
    measure,
    write_measurements,
)
from lexp.pattern import Blockwise, Full, Window
from lexp.position import RoPE
from lexp.probes.result import PROBES, ProbeMeasures, ProbeResult
from lexp.report.charts import published_chart
from lexp.report.expected import expected_table, parse_expected
from lexp.report.over_training import over_training
from lexp.report.perplexity_chart import length_curves
from lexp.report.perplexity_table import unit_tables
from lexp.report.probes import probe_tables, probes_caption
from lexp.report.scales import scale_tables
from lexp.report.study_results import make_series
from lexp.result_store import NOT_DEFINED, OK, Component, Spec, component_of, read_newest, write
from lexp.scoring.protocol import Prefix, Segments
from lexp.system.errors import ConfigError
from support.evaluation import tiny_model, tokens_of
from support.studies import LONGEST, Study, bumpy, run_info

TOKENS, BYTES = (
    f"{name}, segments-{LONGEST}" for name in ("Perplexity per token", "Bits per byte")
)


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path)


def tables(study: Study) -> dict[str, Table]:
    """Return the tables by length in both units, by title."""
    results = read_newest(study.folder, EVALUATIONS)
    return {table.title: table for table in unit_tables(results, {}, ()).tables}


def bold(study: Study, metric: str) -> set[tuple[str, str]]:
    """Return model and length of each value that is marked as best."""
    table = tables(study)[metric]
    return {
        (row[0].text, head.split(" (")[0])
        for row in table.rows
        for head, cell in zip(table.heads, row, strict=True)
        if cell.style == "best"
    }


SHORT = {"nats": bumpy(6, 512) - 0.5}
# What one of two rows has otherwise; whether both metrics, or which, still compare; what is said.
OTHERWISE = {
    "nothing": ({}, {TOKENS, BYTES}, None),
    "fewer tokens of the same documents": (SHORT, set(), "tokens"),
    "fewer documents": ({"nats": bumpy(2) - 0.5}, set(), "documents and tokens"),
    "a text": ({"text": "bbbbbbbb"}, set(), "text"),
    "a precision": ({"precision": "bfloat16"}, set(), "precision"),
    "a vocabulary": ({"n_bytes": 4}, {BYTES}, "vocabulary"),
    "a vocabulary and documents": ({"n_bytes": 4, "nats": bumpy(2) - 0.5}, set(), "documents"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_only_alike_rows_have_a_best_one_and_the_table_says_why(study, what):
    changed, compared, said = OTHERWISE[what]
    study.cell(study.run(), 256, bumpy())
    changed = {"nats": bumpy() - 0.5, **changed}
    study.cell(study.run("alibi"), 256, changed.pop("nats"), **changed)
    for metric in (TOKENS, BYTES):
        assert bold(study, metric) == ({("alibi", "256")} if metric in compared else set())
    notes = " ".join(note for table in tables(study).values() for note in table.notes)
    if said:
        assert f"Nothing is bold at 256: rows differ in {said}, so" in notes
    else:
        assert not notes


# What a second command scored otherwise than 6 documents of 1024 tokens, and the names of the rows.
REQUESTS = {
    "fewer tokens": (bumpy(6, 512), ("6,144 tokens", "3,072 tokens")),
    "fewer documents": (bumpy(2), ("6,144 tokens", "2,048 tokens")),
    "as many tokens of fewer documents": (
        bumpy(3, 2048), ("6,144 tokens of 6 documents", "6,144 tokens of 3 documents"),
    ),
    "one document": (bumpy(1, 1), ("6,144 tokens", "1 token")),
}  # fmt: skip


@pytest.mark.parametrize("what", REQUESTS)
def test_what_two_commands_scored_on_other_tokens_are_two_rows(study, what):
    """As two values of max_tokens leave it: no length of one stands beside lengths of the other."""
    nats, names = REQUESTS[what]
    run = study.run()
    study.line(run, {64: bumpy(), 256: bumpy(), 512: bumpy()})
    study.line(run, {256: nats, 512: nats})
    assert bold(study, TOKENS) == set()
    study.report()
    rows = study.table(TOKENS)
    lengths = {row["scored"]: [n for n in row if n[0].isdigit() and row[n]] for row in rows}
    assert lengths == {names[0]: ["64", "256 (trained)", "512"], names[1]: ["256 (trained)", "512"]}
    series = make_series(read_newest(study.folder, EVALUATIONS), {})
    methods = {f"full on {name}" for name in names}
    assert {one.method for one in series} == methods
    for title in ("Reach and gain", "Cost", "Perplexity of the last 32 tokens of a window"):
        assert {row["method"] for row in study.table(f"{title}, segments-{LONGEST}")} == methods
    curves = length_curves(read_newest(study.folder, EVALUATIONS), {})
    assert {curve.name: len(curve.points) for curve, _ in curves} == {
        f"rope on {names[0]}": 3, f"rope on {names[1]}": 2,
    }  # fmt: skip


def test_rows_of_one_request_have_no_name_for_it(study):
    """Neither other lengths of it, nor another text or vocabulary beside it."""
    study.line(study.run(), {64: bumpy(), 256: bumpy()})
    study.cell(study.run(), 512, bumpy())
    study.cell(study.run(), 256, bumpy(2), text="bbbbbbbb")
    study.cell(study.run("alibi"), 256, bumpy(2), n_bytes=4)
    results = read_newest(study.folder, EVALUATIONS)
    assert "scored" not in tables(study)[TOKENS].heads
    assert {result.method for result in results} == {"full"}
    assert {one.where for one in make_series(results, {})} == {
        "on books aaaaaaaa", "on books bbbbbbbb",
    }  # fmt: skip


def test_requests_of_prefixes_are_named_by_their_documents(study):
    for nats in (bumpy(6), bumpy(2)):
        study.line(study.run(), {64: nats, 256: nats}, protocol=Prefix())
    found = make_series(read_newest(study.folder, EVALUATIONS), {})
    assert {one.where for one in found} == {"on 6 documents", "on 2 documents"}


def test_requests_of_as_many_tokens_are_told_apart_by_their_digests(study):
    for nats in (bumpy(6), bumpy(6)):
        study.cell(study.run(), 256, nats)
    same = read_newest(study.folder, EVALUATIONS)
    (result,) = same
    other = replace(result, scored=replace(result.scored, targets="00000001"))
    assert {one.where for one in make_series([result, other], {})} == {
        "on 6,144 tokens (00061024)", "on 6,144 tokens (00000001)",
    }  # fmt: skip


def test_one_unit_is_shown_first_and_it_is_one_that_compares(study):
    study.cell(study.run(), 256, bumpy())
    assert list(tables(study)) == [TOKENS, BYTES]
    folder = study.report()
    text = (folder / "report.md").read_text()
    assert f"**{TOKENS}**" in text and BYTES not in text
    study.cell(study.run("alibi"), 256, bumpy(), n_bytes=4)
    assert list(tables(study)) == [BYTES, TOKENS]
    study.report()
    text = (folder / "report.md").read_text()
    assert f"**{BYTES}**" in text and TOKENS not in text
    for name in ("report.tex", "report.html"):
        text = (folder / name).read_text().replace("{}", "")
        assert TOKENS in text and BYTES in text
    assert study.table(TOKENS)[0]["256 (trained)"] and study.table(BYTES)[0]["256 (trained)"]


def test_a_column_of_alike_rows_keeps_its_best_beside_one_of_unlike_rows(study):
    study.line(study.run(), {64: bumpy(), 256: bumpy()})
    study.line(study.run("alibi"), {64: bumpy() - 0.5})
    study.line(study.run("alibi"), {256: bumpy(6, 512) - 0.5})
    assert bold(study, TOKENS) == {("alibi", "64")}
    assert (
        tables(study)[TOKENS].notes[0].startswith("Nothing is bold at 256: rows differ in tokens")
    )


def test_two_rows_of_other_tokens_are_not_hidden_by_a_third_of_another_vocabulary(study):
    """In which the same targets, by number, are other stretches of the text."""
    study.cell(study.run(), 256, bumpy())
    study.cell(study.run("alibi"), 256, bumpy(6, 512) - 0.5)
    study.cell(study.run("nope"), 256, bumpy() - 1, n_bytes=4)
    assert bold(study, TOKENS) == bold(study, BYTES) == set()


def test_a_failed_row_does_not_keep_the_others_from_being_compared(study):
    study.cell(study.run(), 256, "no room", text="bbbbbbbb")
    study.cell(study.run("alibi"), 256, bumpy())
    assert bold(study, TOKENS) == set()  # a lone number is not the best of anything
    study.cell(study.run("nope"), 256, bumpy() + 1)
    assert bold(study, TOKENS) == {("alibi", "256")}


def test_each_group_of_alike_rows_has_a_best_one_and_the_note_says_so(study):
    study.cell(study.run(), 256, bumpy())
    study.cell(study.run("alibi"), 256, bumpy() - 0.5)
    study.cell(study.run("nope"), 256, bumpy() - 2, text="bbbbbbbb")
    assert bold(study, TOKENS) == {("alibi", "256")}
    study.cell(study.run("xpos"), 256, bumpy() - 1, text="bbbbbbbb")
    assert bold(study, TOKENS) == {("alibi", "256"), ("nope", "256")}
    assert tables(study)[TOKENS].notes[0] == (
        "Rows differ in text at 256: bold is the best of those that have it in common."
    )


@pytest.mark.parametrize("other", [bumpy(6, 512), bumpy(2)], ids=["tokens", "documents"])
def test_seeds_scored_on_other_tokens_are_not_averaged(study, other):
    study.cell(study.run(seed=0), 256, bumpy())
    study.cell(study.run(seed=1), 256, other)
    study.report()
    shown = {row["256 (trained)"] for row in study.table(TOKENS)}
    assert shown == {f"{math.exp(nats.mean()):.2f}" for nats in (bumpy(), other)}


@pytest.mark.parametrize("missing", [256, LONGEST])
def test_a_mean_over_fewer_seeds_than_its_row_has_says_so_and_is_not_the_best(study, missing):
    """A seed of high loss that is missing at one length would pass for extrapolation."""
    lengths = {256: bumpy(), LONGEST: bumpy()}
    study.line(study.run(seed=0), lengths)
    (other,) = set(lengths) - {missing}
    study.line(study.run(seed=1), {other: bumpy() + 1})
    study.line(study.run("alibi"), {n: nats + 0.5 for n, nats in lengths.items()})
    study.line(study.run("nope"), {n: nats + 2 for n, nats in lengths.items()})
    study.report()
    (row,) = (row for row in study.table(TOKENS) if row["model"] == "rope")
    heads = {256: "256 (trained)", LONGEST: str(LONGEST)}
    assert row[heads[missing]].endswith(" (1 of 2 seeds)")
    assert "seeds" not in row[heads[other]]
    assert ("alibi", str(missing)) in bold(study, TOKENS)


def test_the_caption_counts_what_was_scored_and_what_was_left_out_over_all_rows(study):
    study.cell(study.run(), 256, bumpy(8, 128))
    study.cell(study.run("alibi"), 256, bumpy(3, 128), too_short=5)
    study.report()
    text = (study.folder / "report/report.md").read_text()
    assert "384 to 1024 tokens of 3 to 8 of 8 books documents scored (0 to 5 too short)" in text


@pytest.mark.parametrize("protocol", [Segments(), Prefix()])
@pytest.mark.parametrize(("max_tokens", "scored"), [(None, 3), (20, 1)])
def test_a_result_knows_how_many_documents_were_left_out_and_why(protocol, max_tokens, scored):
    tokens = tokens_of(21, 40, 20, 5, 33, 3, 12, 20)
    spans = protocol.spans(tokens, [10, 20], max_tokens)
    targets = EvalTargets(protocol, (10, 20), spans)
    text = targets.scored_text(tokens)
    assert (targets.n_documents, text.of, text.too_short) == (scored, 8, 5)
    others = [EvalTargets(protocol, (10, 20), spans[:-1]), EvalTargets(protocol, (10, 20), spans)]
    fewer, same = (other.scored_text(tokens) for other in others)
    assert same == text
    assert fewer.targets != text.targets


def test_methods_are_compared_within_one_precision(study):
    run = study.run()
    for precision, far in (("float32", 0.5), ("bfloat16", 0.25)):
        study.cell(run, LONGEST, bumpy(), precision=precision)
        study.cell(run, LONGEST, bumpy() + far, precision=precision, pattern=Blockwise())
    study.report()
    rows = study.named(f"Differences of methods at {LONGEST}, segments-{LONGEST}")
    assert {method: row["minus full"][:7] for (_, method), row in rows.items()} == {
        "blockwise in float32": "+0.5000", "blockwise in bfloat16": "+0.2500",
    }  # fmt: skip


def test_what_was_scored_on_other_tokens_is_named_beside_the_differences(study):
    study.cell(study.run(), LONGEST, bumpy())
    study.cell(study.run("alibi"), LONGEST, bumpy() + 0.5)
    study.cell(study.run("nope"), LONGEST, bumpy(6, 512) + 0.5)
    study.cell(study.run("fire"), LONGEST, bumpy() + 0.5, n_bytes=3)
    study.report("baseline=rope")
    rows = study.table(f"Differences at {LONGEST}, segments-{LONGEST}")
    assert [row["model"] for row in rows] == ["alibi"]
    text = (study.folder / "report/report.md").read_text()
    assert (
        "Not compared, because text, tokens, vocabulary, precision or seeds differ: "
        "fire full on 6,144 tokens, nope full on 3,072 tokens." in text
    )


def test_a_rise_over_training_is_of_the_same_tokens(study):
    run = study.run()
    for step, far in ((4, bumpy(6, 512)), (8, bumpy())):
        study.cell(run, 256, bumpy(), step=step)
        study.cell(run, 512, far + 0.5, step=step)
    study.cell(run, 256, bumpy(6, 512), step=8)
    items = over_training(read_newest(study.folder, EVALUATIONS), {run.name: 9}, {}, 0.05)
    (rise,) = [item for item in items if item.title.startswith("Rise")]
    shown = {row[1].text: [cell.text for cell in row[2:4]] for row in rise.rows}
    assert shown == {
        "full on 6,144 tokens": ["", "+0.5000"], "full on 3,072 tokens": ["", ""],
    }  # fmt: skip


def test_published_curves_stand_beside_points_of_the_same_tokens(study):
    study.line(study.run(), {256: bumpy(), 1024: bumpy()})
    study.cell(study.run(), 512, bumpy(6, 512))
    chart = published_chart(make_series(read_newest(study.folder, EVALUATIONS), {}))
    assert [point.x for point in chart.curves[0].points] == [1, 4]


@pytest.mark.parametrize("other", [bumpy(), bumpy(6, 512)], ids=["alike", "unlike"])
def test_the_best_scale_is_of_the_same_tokens(study, other):
    run = study.run()
    for scale, nats in ((1.2, bumpy()), (1.5, other)):
        study.cell(run, 512, nats, extension=UniformScale(scale))
    study.cell(run, 512, bumpy() + 0.5)
    tables = scale_tables(make_series(read_newest(study.folder, EVALUATIONS), {}))
    assert bool(tables) == (other.shape == bumpy().shape)


def expected(study: Study) -> list[str]:
    block = parse_expected({
        "source": "s", "perplexity": {"rope, full": [3.0, 6.0]}, "at": [1, 4],
    })  # fmt: skip
    table = expected_table(block, make_series(read_newest(study.folder, EVALUATIONS), {}))
    return [cell.text for cell in table.rows[1][3:]]


def test_printed_ratios_stand_beside_ratios_of_the_same_tokens(study):
    study.cell(study.run(), 256, bumpy())
    study.cell(study.run(), 1024, bumpy())
    assert [text.split()[1] for text in expected(study)] == ["(1)", "(1)"]
    study.cell(study.run(), 1024, bumpy(), text="bbbbbbbb")
    assert expected(study)[1] == "several rows"


def test_no_printed_ratio_stands_beside_one_of_other_tokens(study):
    study.cell(study.run(), 256, bumpy())
    study.cell(study.run(), 1024, bumpy(6, 512))
    assert [len(text.split()) for text in expected(study)] == [2, 1]
    study.cell(study.run(), 256, bumpy(6, 512))
    assert [len(text.split()) for text in expected(study)] == [2, 2]


# --- probes and instruments


def probe(study: Study, **changes) -> ProbeResult:
    run = study.run()
    told = {"samples": 20, "probe_seed": 0, **changes}
    info = run_info(run.name, run.settings, **{
        key: told.pop(key) for key in ("text", "precision") if key in told
    })  # fmt: skip
    result = ProbeResult(
        run=info, pattern=component_of(Full()), extension=component_of(Extension()),
        probe=Component("copy", "copy", {}), length=64, chance=math.nan,
        measures=ProbeMeasures(*[0.5] * 11), seconds=1.0, status=NOT_DEFINED, **told,
    )  # fmt: skip
    return write(run.folder, Spec(PROBES, "copy", changes), result)


OTHER_PROBES = {
    "samples": ({"samples": 50}, "50 examples"),
    "seed": ({"probe_seed": 1}, "of seed 1"),
    "text": ({"text": "bbbbbbbb"}, "on books bbbbbbbb"),
    "precision": ({"precision": "bfloat16"}, "in bfloat16"),
}


@pytest.mark.parametrize("what", OTHER_PROBES)
def test_probes_that_differ_are_rows_of_their_own_and_say_in_what(study, what):
    changes, said = OTHER_PROBES[what]
    probe(study)
    probe(study, **changes)
    found = read_newest(study.folder, PROBES)
    assert len(found) == 2
    rows = probe_tables(found, {})[0].rows
    methods = {row[1].text for row in rows}
    assert len(methods) == 2 and f"full {said}" in methods
    assert "the same for all rows" not in " ".join(probes_caption(found))
    probe(study, **changes)  # made again: the newest of its key alone
    assert len(read_newest(study.folder, PROBES)) == 2


def test_a_mean_of_probes_over_fewer_seeds_than_its_row_has_says_so(study, monkeypatch):
    scores = SimpleNamespace(example_gain=np.ones(20))
    monkeypatch.setattr(ProbeResult, "scores", lambda self: scores)
    probe(study)
    (one,) = read_newest(study.folder, PROBES)
    ok = replace(one, status=OK)
    other = replace(ok, run=replace(one.run, seed=1))
    for table in probe_tables([ok, other, replace(ok, length=128)], {}):
        said = [cell.text.endswith(" (1 of 2 seeds)") for cell in table.rows[0][2:]]
        assert said == [False, True]


def test_a_report_completes_the_table_of_killed_probes(study):
    probe(study)
    study.report()
    assert len((study.folder / "probes.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("what", [{"text": "bbbbbbbb"}, {"precision": "bfloat16"}])
def test_measurements_of_other_texts_and_precisions_do_not_replace_each_other(study, what):
    run = study.run()
    for changes in ({}, what):
        analysis = AnalysisResult(
            Component("growth", "growth", {}), run_info(run.name, run.settings, **changes),
            component_of(Window()), component_of(Extension()), "trained", -1, math.nan, 64, 8, 1.0,
            ({"layer": 0, "value": 1.0},),
        )  # fmt: skip
        write(run.folder, Spec(ANALYSES, "growth", changes), analysis)
    found = read_newest(study.folder, ANALYSES)
    methods = {measurement.method for measurement in labelled(found, {})}
    assert len(found) == len(methods) == 2 and all(m.startswith("window ") for m in methods)
    assert np.all([next(iter(what.values())) in " ".join(methods)])


def test_measurements_of_more_texts_are_rows_of_their_own(study):
    run = study.run()
    for n_texts in (1, 8):
        analysis = AnalysisResult(
            Component("growth", "growth", {}), run_info(run.name, run.settings),
            component_of(Window()), component_of(Extension()), "trained", -1, math.nan, 64,
            n_texts, 1.0, ({"layer": 0, "value": 1.0},),
        )  # fmt: skip
        write(run.folder, Spec(ANALYSES, "growth", {"texts": n_texts}), analysis)
    found = labelled(read_newest(study.folder, ANALYSES), {})
    assert [m.method.split(" of ")[1] for m in found] == ["1 text", "8 texts"]


def test_rows_of_an_instrument_say_which_text_and_precision_they_are_of(study, tmp_path):
    run, results = study.run(), []
    for changes in ({}, {"text": "bbbbbbbb"}, {"precision": "bfloat16"}):
        results.append(AnalysisResult(
            Component("growth", "growth", {}), run_info(run.name, run.settings, **changes),
            component_of(Window()), component_of(Extension()), "trained", -1, math.nan, 64, 8, 1.0,
            ({"layer": 0, "value": 1.0},),
        ))  # fmt: skip
    write_measurements(tmp_path / "growth.csv", results)
    rows = (tmp_path / "growth.csv").read_text().splitlines()
    assert len(set(rows)) == 4 and rows[0].endswith(",layer,value,text,precision,variant,texts")


@dataclass(frozen=True)
class Growth(Instrument):
    """An instrument whose rows have one value."""

    key: str
    name = "growth"

    def measure(self, inputs):
        return Measurement(({"layer": 0, self.key: 1.0},))


@pytest.mark.parametrize("key", [*COLUMNS, "value"])
def test_a_row_that_names_a_column_of_every_instrument_is_refused(key, tmp_path):
    tested = ModelUnderTest(
        tmp_path, RunInfo("r", "m", "s", "d", 0, 8, "bytes", "float32", "t", "v", "t"),
        ModelIdentity({}, {}, "c", "f", "t", "float32", {}), tiny_model(RoPE(8)), tokens_of(9),
        nullcontext(), lambda n, length: None, Full(),
    )  # fmt: skip
    texts = torch.zeros((1, 8), dtype=torch.int64)
    arguments = (tested, Growth(key), Method(Full(), Extension(), 8), texts,
                 CheckpointInfo("trained", 1, 1.0))  # fmt: skip
    if key == "value":
        assert measure(*arguments).rows == ({"layer": 0, "value": 1.0},)
        return
    with pytest.raises(ConfigError, match=f"instrument growth: its rows have a value '{key}'"):
        measure(*arguments)
    assert not list(tmp_path.rglob("*.json"))
