"""`lexp report` against studies of known truth: every number in it is worked out here by hand."""

import csv
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

from lexp.commands.report import _write, report
from lexp.display.document import Page, Section
from lexp.display.table import Table, TableCell
from lexp.evaluate import EVALUATIONS
from lexp.extension import PI
from lexp.pattern import Window
from lexp.report.charts import length_chart, position_chart, published_chart
from lexp.report.study_results import make_series
from lexp.result_store import read_newest
from lexp.runs.run import variant_notes
from lexp.scoring.protocol import Fixed
from support.config import compose
from support.studies import (
    DOCUMENTS,
    LENGTHS,
    LONGEST,
    Study,
    bumpy,
    flat,
    shifted,
    two_documents,
)

REACH = f"Reach and gain, segments-{LONGEST}"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "outputs")


# --- which cells, and which belong together


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_the_newest_cell_of_a_key_counts_whatever_its_name(study, first, second):
    run = study.run()
    study.cell(run, 256, flat(1.0), name=first, age=100)
    new = study.cell(run, 256, flat(2.0), name=second)
    (result,) = read_newest(study.folder, EVALUATIONS)
    assert result.arrays.path == new.with_suffix(".npz") and result.nll == 2.0
    study.report()
    assert study.table(f"Perplexity per token, segments-{LONGEST}")[0]["256 (trained)"] == "7.39"


def test_lines_group_seeds_and_mix_nothing_else(study):
    runs = {
        ("rope", "0.01", 0): study.run(),
        ("rope", "0.01", 1): study.run("rope", 1),
        ("rope", "0.02", 0): study.run("rope", 0, "lr=2e-2"),
    }
    for run in runs.values():
        for length in LENGTHS:
            study.cell(run, length, bumpy())
    first = runs["rope", "0.01", 0]
    unlike = [
        {"text": "bbbbbbbb"}, {"precision": "bfloat16"}, {"protocol": Fixed(32)},
        {"pattern": Window()}, {"extension": PI()},
    ]  # fmt: skip
    for labels in unlike:
        study.cell(first, 256, bumpy(), **labels)
    found = make_series(read_newest(study.folder, EVALUATIONS), {})
    whole = [series for series in found if len(series.lengths) == len(LENGTHS)]
    assert sorted(tuple(series.seeds) for series in whole) == [(0,), (0, 1)]
    alone = [series for series in found if series.lengths == [256]]
    assert len(found) == 2 + len(unlike) and len(alone) == len(unlike)
    for series in found:
        rows = [result.row() for result in series.every_result]
        for key in ("variant", "text", "precision", "protocol", "attention", "extension"):
            assert len({row[key] for row in rows}) == 1
    # What is apart can be told apart, in every table.
    names = [(series.protocol.label, series.name, series.method) for series in found]
    results = read_newest(study.folder, EVALUATIONS)
    with_notes = [
        (series.protocol.label, series.name, series.method)
        for series in make_series(results, variant_notes(run.made_of for run in runs.values()))
    ]
    assert len(set(with_notes)) == len(with_notes) == len(names)
    study.report()
    rows = study.table(f"Perplexity per token, segments-{LONGEST}")
    keys = ("model", "attention", "extension", "variant", "text", "precision")
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows) == 6
    assert {row["text"] for row in rows} == {"books aaaaaaaa", "books bbbbbbbb"}


def test_means_of_seeds_stand_in_the_grid(study):
    for seed, value in ((0, 1.0), (1, 2.0)):
        study.line(study.run("rope", seed), dict.fromkeys(LENGTHS, flat(value)))
    study.report()
    (row,) = study.table(f"Perplexity per token, segments-{LONGEST}")
    # (e + e^2) / 2, and half of e^2 - e.
    assert row["512"] == "5.05 ±2.34" and row["256 (trained)"] == row["512"]
    (row,) = study.table(f"Seeds at {LONGEST}, segments-{LONGEST}")
    assert (row["mean"], row["each seed"]) == ("1.5000", "0: 1.0000, 1: 2.0000")
    # Student's t of two values: their half difference times 12.7062.
    assert row["95 % over seeds"] == "-4.8531 to 7.8531"
    assert row["95 % over documents"] == "1.5000 to 1.5000"


def test_a_longer_length_scored_on_other_tokens_gives_no_reach(study):
    run = study.run()
    study.line(run, {64: bumpy(), 256: bumpy(), 512: bumpy(3), 1024: bumpy(3)})
    study.line(run, shifted(bumpy(3)), pattern=Window())
    study.report()
    rows = study.named(REACH)
    assert {method: (row["reach"], row["at"]) for (_, method), row in rows.items()} == {
        "full on 6,144 tokens": ("≥ 256", ""), "full on 3,072 tokens": ("n/a", "1024"),
        "window on 3,072 tokens": ("≥ 1024", ""),
    }  # fmt: skip


# --- the other tables


def by_context(length: int, short: float, far: float, beyond: int, n: int = LONGEST) -> np.ndarray:
    """Losses that are `far` where a target has more than `beyond` tokens before it."""
    context = np.arange(n) % length + 1
    return np.tile(np.where(context > beyond, far, short), (DOCUMENTS, 1))


def test_the_last_k_are_those_with_the_most_context(study):
    losses = {n: by_context(n, 1.0, 2.0, n - 100) for n in (256, 512, 1024)}
    study.line(study.run(), {64: flat(3.0), **losses})
    study.report("last_k=100")
    (row,) = study.table(f"Perplexity of the last 100 tokens of a window, segments-{LONGEST}")
    assert [row[str(n)] for n in LENGTHS] == ["", "7.39", "7.39", "7.39"]  # e^2; 64 is too short
    study.report("last_k=200")
    (row,) = study.table(f"Perplexity of the last 200 tokens of a window, segments-{LONGEST}")
    assert [row[str(n)] for n in LENGTHS] == ["", "4.48", "4.48", "4.48"]  # e^1.5
    study.report()
    (row,) = study.table(f"Perplexity of the last 32 tokens of a window, segments-{LONGEST}")
    assert row["64"] == "20.09" and row["256"] == "7.39"


def test_secondary_tables_are_on_the_page_and_not_in_the_terminal(study, capsys):
    for seed in (0, 1):
        study.line(study.run("rope", seed), dict.fromkeys(LENGTHS, flat(seed + 1.0)))
    study.report("show=all")
    printed = capsys.readouterr().out
    assert "Perplexity per token" in printed and "Bits per byte" not in printed
    for title in (f"Cost, segments-{LONGEST}", f"Seeds at {LONGEST}, segments-{LONGEST}"):
        assert study.table(title) and title not in printed


def test_cost_is_seconds_and_microseconds_per_scored_token(study):
    run = study.run()
    for length, seconds in ((64, 3.0), (256, 0.0), (512, 1.5)):
        study.cell(run, length, flat(), seconds=seconds)
    study.cell(run, 1024, "no room", seconds=0.5)
    study.report()
    (row,) = study.table(f"Cost, segments-{LONGEST}")
    assert row["seconds"] == "5.0"
    # 3 s for 6 * 1024 tokens; one given by another pass has no cost of its own.
    given = [row[str(n)] for n in LENGTHS]
    assert given == ["488", "", "244", ""]


def test_the_charts_show_the_values_of_the_losses(study):
    base = bumpy(2)
    losses = {n: base + two_documents(0.0, 0.25) * (n == 512) for n in LENGTHS}
    for seed in (0, 1):
        study.line(study.run("rope", seed), {n: v + seed for n, v in losses.items()})
    study.line(study.run("cope"), losses)
    found = make_series(read_newest(study.folder, EVALUATIONS), {})
    chart = length_chart(found)
    cope, rope = chart.curves
    assert (cope.name, rope.name, rope.group) == ("cope", "rope", "full")
    assert chart.marks == ((256.0, "trained"),)
    for curve, seeds in ((cope, [0]), (rope, [0, 1])):
        assert [point.x for point in curve.points] == list(LENGTHS)
        for point in curve.points:
            nats = losses[int(point.x)] + np.mean(seeds)
            half = abs(nats[0].mean() - nats[1].mean()) / 2 * 12.706204736
            centre = nats.mean()
            assert point.y == pytest.approx(math.exp(centre), rel=1e-6)
            assert point.low == pytest.approx(math.exp(centre - half), rel=1e-6)
            assert point.high == pytest.approx(math.exp(centre + half), rel=1e-6)
    at = rope.points[0]
    own = [math.exp(losses[64].mean() + seed) for seed in (0, 1)]
    assert at.note == f"seeds 0: {own[0]:.2f}, 1: {own[1]:.2f}"
    chart = published_chart(found)
    ours = [curve for curve in chart.curves if curve.group.startswith("ours")]
    assert [point.x for point in ours[0].points] == [0.25, 1.0, 2.0, 4.0]
    values = [math.exp(losses[n].mean() - losses[256].mean()) for n in LENGTHS]
    assert [point.y for point in ours[0].points] == pytest.approx(values, rel=1e-6)
    assert len(chart.curves) > len(ours)  # beside printed ones


def test_loss_by_context_is_that_of_targets_with_as_much_context(study):
    nats = {n: bumpy() + by_context(n, 0.0, 1.0, 100) for n in LENGTHS}
    for seed in (0, 1):
        study.line(study.run("rope", seed), {n: v + seed for n, v in nats.items()})
    (curve,) = position_chart(make_series(read_newest(study.folder, EVALUATIONS), {})).curves
    assert curve.group == "full at 1024"
    assert len(curve.points) > 20
    covered = []
    for point in curve.points:
        first, end = map(int, re.fullmatch(r"context (\d+) to (\d+)", point.note).groups())
        covered += range(first, end + 1)
        expected = nats[1024][:, first - 1 : end].mean() + 0.5
        assert point.y == pytest.approx(expected, rel=1e-6)
        assert point.x == pytest.approx(math.sqrt(first * end))
    assert covered == list(range(1, 1025))


# --- files


def test_everything_is_written_and_a_second_report_replaces_it(study):
    run = study.run()
    study.line(run, shifted(flat()))
    study.line(study.run("alibi"), shifted(flat()))
    folder = study.report()
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "report.md", "report.tex"} <= names
    assert len([name for name in names if name.endswith(".csv")]) == 6
    before = {path.name: path.read_text() for path in folder.iterdir()}
    for kind in ("html", "md", "tex"):
        assert re.search(r"(?<![\d.])2\.72(?!\d)", before[f"report.{kind}"])
    study.line(run, shifted(flat(2.0)))
    (folder / "notes.txt").write_text("mine")
    study.report("model=rope")
    after = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(after) == {name for name in before if not name.startswith("differences")} | {
        "notes.txt"
    }
    for kind in ("html", "md", "tex"):
        text = after[f"report.{kind}"]
        assert "7.39" in text and "alibi" not in text
        assert not re.search(r"(?<![\d.])2\.72(?!\d)", text)  # 122.72 may be a place in a chart
    with (folder / "perplexity-per-token--segments-1024.csv").open(newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["rope"]


# --- a study that was really trained


def test_the_report_of_a_trained_study_has_the_evaluations_numbers(evaluated):
    with (evaluated / "results.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    report(compose("report", f"outputs={evaluated.parent}"))
    for protocol in ("segments-32", "prefix-32"):
        path = evaluated / "report" / f"perplexity-per-token--{protocol}.csv"
        with path.open(newline="") as file:
            rows = {(row["model"], row["attention"]): row for row in csv.DictReader(file)}
        assert set(rows) == set(itertools.product(("learned", "rope"), ("full", "window")))
        for (model, attention), row in rows.items():
            for length, head in ((8, "8"), (16, "16 (trained)"), (32, "32")):
                own = [
                    float(c["ppl"] or "nan") for c in cells
                    if (c["model"], c["attention"], c["protocol"]) == (model, attention, protocol)
                    and c["length"] == str(length)
                ]  # fmt: skip
                assert len(own) == 2
                expected = f"{sum(own) / 2:.2f} ±{(max(own) - min(own)) / 2:.2f}"
                failed = model == "learned" and length == 32
                assert row[head] == ("n/d" if failed else expected)
    names = {path.name for path in (evaluated / "report").iterdir()}
    assert "reach-and-gain--segments-32.csv" in names
    assert "reach-and-gain--prefix-32.csv" not in names
    text = (evaluated / "report" / "report.html").read_text()
    assert "Learned ends at 16 tokens" in text


def test_an_instrument_that_is_not_known_here_is_named_and_all_else_is_shown(tmp_path, capsys):
    made = Study(tmp_path)
    run = made.run()
    made.line(run, {64: flat(), 256: flat()})
    made.analysis(run)
    page = (made.report() / "report.md").read_text()
    assert "Instrument: growth" in page and "its file is found with --config-dir DIR" in page
    assert "Perplexity per token" in page
    assert "lexp: instrument growth: Not known here" in capsys.readouterr().err


@pytest.mark.parametrize("title", ["of {}", "of {}" + "x" * 300], ids=["alike", "long"])
def test_every_table_has_a_csv_of_its_own(tmp_path, title):
    """Titles that differ in punctuation alone have one name of a file."""
    words = [title.format(mark) for mark in "+-*"]
    tables = tuple(Table(word, ("a",), ((TableCell(word),),), 1) for word in words)
    _write(tmp_path, Page("page", "", (Section("all", "", tables),), {}))
    texts = [path.read_text() for path in (tmp_path / "report").glob("*.csv")]
    assert sorted(text.splitlines()[1].lstrip("'") for text in texts) == sorted(words)
