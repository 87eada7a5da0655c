"""`lexp report` against studies of known truth: every number in it is worked out here by hand."""

import csv
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from lexp.commands.report import _write, report
from lexp.display.document import Page, Section
from lexp.display.table import Table, TableCell
from lexp.evaluate import EVALUATIONS
from lexp.extension import PI, Extension
from lexp.instruments.measure import ANALYSES, AnalysisResult
from lexp.pattern import Blockwise, Full, Window
from lexp.report.charts import length_chart, position_chart, published_chart
from lexp.report.claims import claims
from lexp.report.study_results import make_series
from lexp.results import ArrayFile, Component, Spec, component_of, read_newest, write
from lexp.runs.run import variant_notes
from lexp.scoring.losses import read_losses
from lexp.scoring.protocol import Fixed, Prefix
from lexp.system.errors import ConfigError, DataError
from lexp.system.files import read_sealed, sha256, write_sealed
from support.config import compose
from support.forked import completed
from support.studies import DOCUMENTS, LENGTHS, LONGEST, TRAINED, Study, bumpy, flat, run_info

REACH = f"Reach and gain, segments-{LONGEST}"
DIFFERENCES = f"Differences at {LONGEST}, segments-{LONGEST}"
KEYS = f"Long-range tokens, segments-{LONGEST}"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "outputs")


def shifted(base: np.ndarray, **by_length: float) -> dict[int, np.ndarray]:
    """Losses by length: base, plus what stands under `at512` and the like."""
    return {n: base + by_length.get(f"at{n}", 0.0) for n in LENGTHS}


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


# --- reach, gain, window


def test_reach_and_gain_are_those_of_the_losses_by_hand(study):
    base = bumpy()
    truth = {
        "rope": (shifted(base, at512=0.2, at1024=0.2), "256", ""),
        "alibi": (shifted(base, at512=0.03, at1024=0.04), "≥ 1024", "-0.0400"),
        "nope": (shifted(base, at512=-0.125, at1024=0.5), "512", "+0.1250"),
        # Once a length was worse, a longer one that is not does not count.
        "fire": (shifted(base, at512=0.2), "256", ""),
    }
    for model, (losses, *_) in truth.items():
        study.line(study.run(model), losses)
    study.report()
    rows = study.named(REACH)
    for model, (_, length, gain) in truth.items():
        row = rows[model, "full"]
        # No interval has two ends, no model several seeds, and no window was scored.
        assert list(row) == ["model", "method", "reach", "gain"]
        assert row["reach"] == length, model
        assert row["gain"].split(" ")[0] == gain, model
    text = (study.folder / "report" / "report.md").read_text()
    assert "Both ends of every 95 % interval are the reach itself." in text
    study.report("delta=0.25")
    assert study.named(REACH)["rope", "full"]["reach"] == "≥ 1024"
    study.report("delta=0.0")
    assert study.named(REACH)["alibi", "full"]["reach"] == "256"


def test_reach_is_of_the_mean_over_seeds_and_each_seeds_own_stands_beside_it(study):
    base = bumpy()
    study.line(study.run("rope", 0), shifted(base))
    study.line(study.run("rope", 1), shifted(base, at512=0.2, at1024=0.2))  # 0.1 in the mean
    study.line(study.run("rope", 2), {**shifted(base), 512: "no room"}, pattern=Blockwise())
    study.report()
    rows = study.named(REACH)
    assert rows["rope", "full"]["reach"] == "256"
    assert rows["rope", "full"]["each seed"] == "≥ 1024, 256"
    study.report("delta=0.11")
    assert study.named(REACH)["rope", "full"]["reach"] == "≥ 1024"
    assert study.named(REACH)["rope", "full"]["each seed"] == "≥ 1024, 256"


def two_documents(first: float, second: float) -> np.ndarray:
    return np.array([[first], [second]])


def test_the_comparison_with_the_window_is_that_of_the_losses_by_hand(study):
    base = bumpy(2)
    for model, shift in (("rope", (-0.25, -0.25)), ("nope", (-0.125, -0.375)), ("alibi", (1, 1))):
        run = study.run(model)
        study.line(run, shifted(base), pattern=Window())
        study.line(run, {**shifted(base), 1024: base + two_documents(*shift)})
    study.report()
    rows = study.named(REACH)
    assert list(rows["rope", "full"])[:4] == ["model", "method", "verdict", "reach"]
    alike, spread, worse = (rows[m, "full"] for m in ("rope", "nope", "alibi"))
    assert alike["against window"] == "-0.2500 [-0.2500, -0.2500]" and alike["at"] == "1024"
    assert alike["verdict"] == "better than a window"
    # Two documents: the jackknife's error is half their difference, t with one degree 12.7062.
    assert spread["against window"] == "-0.2500 [-1.8383, +1.3383]"
    assert spread["verdict"] == "no better than a window"
    assert worse["verdict"] == "worse than a window" and worse["against window"][:7] == "+1.0000"
    assert rows["rope", "window"]["against window"] == ""  # not with itself


OTHERS = {
    "variant": ({}, ("lr=2e-2",)),
    "text": ({"text": "bbbbbbbb"}, ()),
    "precision": ({"precision": "bfloat16"}, ()),
    "a window of another size": ({"pattern": Window(64)}, ()),
    "an extended window": ({"extension": PI()}, ()),
}


@pytest.mark.parametrize("what", OTHERS)
def test_only_the_same_models_window_of_the_trained_length_counts(study, what):
    labels, overrides = OTHERS[what]
    run, base = study.run(), bumpy()
    study.line(run, shifted(base))
    study.line(study.run("rope", 0, *overrides), shifted(base), **{"pattern": Window(), **labels})
    found = claims(make_series(read_newest(study.folder, EVALUATIONS), {}), 0.05)
    assert len(found) == 2 and all(claim.window is None for claim in found)
    study.line(run, shifted(base, at1024=0.5), pattern=Window(TRAINED))
    made = claims(make_series(read_newest(study.folder, EVALUATIONS), {}), 0.05)
    values = [c.window.difference.value for c in made if c.window and c.series.is_plain]
    assert values == [-0.5]


def test_a_failing_length_ends_the_reach_and_is_shown_everywhere(study):
    base = bumpy()
    why = "needs about 3 GiB, 1 GiB are free"
    study.line(study.run(), {**shifted(base), 512: why})
    study.report()
    (row,) = study.table(REACH)
    assert row["reach"] == "256"
    (row,) = study.table("Cells without a number")
    assert (row["model"], row["method"], row["lengths"]) == ("rope", "full", "512")
    assert row["reason"] == f"out of memory ({why})"
    for metric in ("Perplexity per token", "Bits per byte"):
        (row,) = study.table(f"{metric}, segments-{LONGEST}")
        assert row["512"] == "OOM" and float(row["1024"]) > 0
    (row,) = study.table(f"Perplexity of the last 32 tokens of a window, segments-{LONGEST}")
    assert row["512"] == "out of memory"
    (curve,) = length_chart(make_series(read_newest(study.folder, EVALUATIONS), {})).curves
    points = {int(point.x): point for point in curve.points}
    assert math.isnan(points[512].y) and points[512].note == f"out of memory ({why})"
    assert points[1024].y > 0 and points[1024].note == ""
    page = (study.folder / "report" / "report.html").read_text()
    assert f"512: out of memory ({why})" in (study.folder / "report" / "report.md").read_text()
    assert re.search(r'class="pt failed"[^>]*data-x="512"', page) and why in page


def test_a_seed_that_failed_or_is_missing_is_not_averaged_away(study):
    base = bumpy()
    study.line(study.run("rope", 0), shifted(base))
    study.line(study.run("rope", 1), {64: base, 256: base, 512: "no room"})
    study.report()
    rows = {row["lengths"]: row for row in study.table("Cells without a number")}
    assert rows["512"]["reason"] == "out of memory (no room)"
    assert rows["1024"]["reason"] == "seed 1 was not scored"
    (row,) = study.table(REACH)
    assert row["reach"] == "256" and row["each seed"] == "≥ 1024, 256"


def test_prefixes_have_no_reach_for_their_lengths_score_other_tokens(study):
    study.line(study.run(), shifted(bumpy()), protocol=Prefix())
    folder = study.report()
    names = {path.name for path in folder.glob("*.csv")}
    assert not any("reach" in name or "long-range" in name for name in names)
    assert "perplexity-per-token--prefix-1024.csv" in names
    study.line(study.run(), shifted(bumpy()))
    names = {path.name for path in study.report().glob("*.csv")}
    assert [name for name in sorted(names) if "reach" in name] == [
        "reach-and-gain--segments-1024.csv"
    ]


# --- differences


def test_differences_have_the_right_sign_and_holm_counts_every_comparison(study):
    base = bumpy()
    for model, shift in (("rope", 0.0), ("alibi", 0.25), ("nope", -0.125)):
        study.line(study.run(model), shifted(base + shift))
    for model in ("rope", "alibi"):
        study.line(study.run(model), shifted(base), pattern=Blockwise())
    study.line(study.run("nope"), shifted(base), pattern=Window())  # the baseline has none
    study.report("baseline=rope")
    rows = study.named(DIFFERENCES)
    assert set(rows) == {("alibi", "full"), ("nope", "full"), ("alibi", "blockwise")}
    assert rows["alibi", "full"]["minus rope"] == "+0.2500 [+0.2500, +0.2500]"
    assert rows["nope", "full"]["minus rope"] == "-0.1250 [-0.1250, -0.1250]"
    # All of 6 documents differ alike: 2 of 64 sign patterns are as far, then times 3, 2 and 1.
    assert [rows[key]["p"] for key in sorted(rows)] == ["1.0000", "0.0312", "0.0312"]
    assert {rows[m, "full"]["p (Holm)"] for m in ("alibi", "nope")} == {"0.0938"}
    assert rows["alibi", "blockwise"]["p (Holm)"] == "1.0000"
    markdown = (study.folder / "report" / "report.md").read_text()
    assert "corrected for 3 comparisons" in markdown
    assert "(all 64 flips of the signs of whole documents, so p is at least 0.0312)" in markdown
    study.report("baseline=alibi")
    assert study.named(DIFFERENCES)["rope", "full"]["minus alibi"][:7] == "-0.2500"


def test_the_baseline_may_be_missing_under_one_protocol_or_length(study):
    base = bumpy()
    for model in ("rope", "alibi"):
        study.line(study.run(model), shifted(base))
    study.line(study.run("alibi"), shifted(base), protocol=Fixed(32))
    study.report("baseline=rope")
    assert set(study.named(DIFFERENCES)) == {("alibi", "full")}
    study.cell(study.run("rope"), 1024, "no room")
    study.report("baseline=rope")
    assert not list((study.folder / "report").glob("differences*"))
    with pytest.raises(ConfigError, match="baseline=xpos: there are alibi, rope"):
        study.report("baseline=xpos")


VOCABULARIES = {
    "another tokenizer": ("tokenizer=bpe", 4),
    "the same by name, with other pieces": ("tokenizer.name=bytes", 3),
}


@pytest.mark.parametrize("what", VOCABULARIES)
def test_tokens_of_another_vocabulary_are_not_compared(study, what):
    """Both have the same documents and positions, and still not the same tokens."""
    override, n_bytes = VOCABULARIES[what]
    base = bumpy()
    study.line(study.run(), shifted(base))
    study.line(study.run("alibi"), shifted(base + 0.5))
    study.line(study.run("nope", 0, override), shifted(base + 0.5), n_bytes=n_bytes)
    study.report("baseline=rope", f"judge={study.run().name}")
    assert {row["model"] for row in study.table(DIFFERENCES)} == {"alibi"}
    assert not any(row["model"].startswith("nope") for row in study.table(KEYS))


def test_texts_and_precisions_are_compared_each_with_its_own_baseline(study):
    base = bumpy()
    for labels, far in (({}, 0.5), ({"text": "bbbbbbbb"}, 0.25), ({"precision": "bfloat16"}, 1.0)):
        study.line(study.run(), shifted(base + 7 * far), **labels)
        study.line(study.run("alibi"), shifted(base + 8 * far), **labels)
    study.report("baseline=rope")
    rows = study.named(DIFFERENCES)
    assert {method: row["minus rope"][:7] for (_, method), row in rows.items()} == {
        "full on books aaaaaaaa in float32": "+0.5000",
        "full on books bbbbbbbb in float32": "+0.2500",
        "full on books aaaaaaaa in bfloat16": "+1.0000",
    }


# --- long-range tokens


def picked(places: list[tuple[int, int]], value: float, base: float = 1.0) -> np.ndarray:
    """Losses that are `base`, but for these (document, position)."""
    found = flat(base)
    for document, position in places:
        found[document, position - 1] = value
    return found


# What each seed finds hard without context; (5, 9) falls far, but not to what can be told.
HARD = {0: [(0, 3), (4, 70)], 1: [(1, 5), (2, 200), (3, 1000)]}


def long_range(study: Study, model: str = "rope", seeds: tuple[int, ...] = (0, 1)) -> None:
    for seed in seeds:
        run, other = study.run(model, seed), HARD[1 - seed]
        short = picked(HARD[seed], 4.0)
        short[5, 8] = 9.0
        trained = picked([(5, 9)], 2.5)
        longest = picked(other, 0.25 if seed == 0 else 0.75)
        study.line(run, {64: short, 256: trained, 512: "no room", 1024: longest})


def test_another_seed_chooses_the_tokens(study):
    long_range(study)
    study.report()
    (row,) = study.table(KEYS)
    # Seed 0 is measured on the three tokens of seed 1, and finds none of them hard.
    assert row["tokens"] == "3, 2"
    assert (row["64"], row["256"], row["512"], row["1024"]) == ("1.000", "1.000", "", "0.500")
    markdown = (study.folder / "report" / "report.md").read_text()
    assert "another seed of the variant" in markdown and "judged itself" not in markdown
    study.report("key_alpha=3.5")
    (row,) = study.table(KEYS)
    assert row["tokens"] == "0, 0" and row["64"] == ""


def test_a_run_that_judges_itself_is_flagged(study):
    long_range(study, seeds=(0,))
    study.report()
    (row,) = study.table(KEYS)
    assert (row["tokens"], row["64"]) == ("2", "4.000")
    markdown = (study.folder / "report" / "report.md").read_text()
    assert "A run that judged itself shows a gain where there is none" in markdown


def test_a_named_judge_chooses_for_all(study):
    long_range(study, seeds=(0,))
    long_range(study, "alibi", (1,))
    study.line(study.run("nope"), {64: flat(1.5), 256: flat()}, pattern=Window())
    judge = study.run("alibi", 1).name
    study.report(f"judge={judge}")
    rows = study.named(KEYS)
    assert {key: (row["tokens"], row["64"]) for key, row in rows.items()} == {
        ("rope", "full"): ("3", "1.000"), ("alibi", "full"): ("3", "4.000"),
        ("nope", "window"): ("3", "1.500"),
    }  # fmt: skip
    markdown = (study.folder / "report" / "report.md").read_text()
    assert f"Judge: {judge}" in markdown and "judged itself" in markdown  # alibi was
    with pytest.raises(ConfigError, match=f"judge=me: .* are {judge}, rope"):
        study.report("judge=me")


def test_a_length_scored_without_some_of_the_tokens_has_no_number_on_them(study):
    run = study.run()
    study.line(run, {64: picked([(0, 3), (5, 9)], 4.0), 256: flat(), 512: flat(1, 3)})
    study.report()
    (row,) = study.table(KEYS)
    assert (row["tokens"], row["64"], row["512"]) == ("2", "4.000", "")


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


# --- files, and what is wrong with them


def test_everything_is_written_and_a_second_report_replaces_it(study):
    run = study.run()
    study.line(run, shifted(flat()))
    study.line(study.run("alibi"), shifted(flat()))
    folder = study.report()
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "report.md", "report.tex"} <= names
    assert len([name for name in names if name.endswith(".csv")]) == 7
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


@pytest.fixture
def scored(study) -> Study:
    for model in ("rope", "alibi"):
        study.line(study.run(model), shifted(bumpy()))
    return study


def told(study: Study, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of the command, without the one that says how much is read."""
    result = completed("report", f"outputs={study.outputs}", *arguments, cwd=study.outputs.parent)
    assert "Traceback" not in result.stderr, result.stderr
    lines_ = result.stderr.strip().splitlines()
    if lines_[0].startswith("lexp: reading "):
        lines_ = lines_[1:]
    if result.returncode == 0:
        page = study.folder / "report" / "report.html"
        assert f"open: {page.resolve().as_uri()}" in lines_
    return result.returncode, lines_


BAD = {
    "name=nothing": (2, "no run in", "studies there: default"),
    "baseline=xpos": (2, "baseline=xpos", "there are alibi, rope"),
    "judge=xpos": (2, "judge=xpos", "rope-nano-", "alibi-nano-"),
    "model=xpos": (2, "model=xpos", "has runs of alibi, rope"),
    "delta=-0.1": (2, "delta=-0.1", "from 0"),
    "last_k=0": (2, "last_k=0", "at least 1"),
    "key_alpha=0": (2, "key_alpha=0", "above 0"),
    "show=some": (2, "show=some", "answer or all"),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_its_exit_code(scored, words):
    code, *parts = BAD[words]
    got, said = told(scored, words)
    assert got == code and len(said) == 1 and said[0].startswith("lexp: "), said
    assert all(part in said[0] for part in parts), said
    assert not (scored.folder / "report").exists()


def test_a_study_without_cells_says_what_to_do(study):
    study.run()
    code, said = told(study)
    assert code == 2 and len(said) == 1 and "score some with `lexp eval`" in said[0]


DAMAGED = {
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 64])
    + data[len(data) // 2 + 1 :],
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "gone": None,
    "of another cell": "swapped",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_report_shows_all_but_the_damaged_cell(study, damage):
    run = study.run()
    study.line(run, shifted(bumpy(), **{"64": 0.5, "256": 0.0, "512": 0.25}))
    paths = {int(np.load(p)["length"]): p for p in run.folder.glob("eval/*.npz")}
    path, change = paths[512], DAMAGED[damage]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(
            paths[64].read_bytes() if change == "swapped" else change(path.read_bytes())
        )
    with pytest.warns(UserWarning, match=path.name):
        study.report()
    (row,) = study.table("Perplexity per token, segments-1024")
    assert row["512"] == "damaged" and row["64"] and row["256 (trained)"]
    (failure,) = study.table("Cells without a number")
    assert failure["lengths"] == "512" and str(path) in failure["reason"]
    (reach,) = study.table(REACH)
    assert reach["reach"] == "256"  # not beyond the damaged cell
    assert path.name in (study.folder / "report/report.md").read_text()


def resealed(path: Path, **arrays) -> None:
    """Other arrays in a cell's file, with the digests of one who wants them to be taken."""
    with np.load(path) as stored:
        np.savez(path, **{**dict(stored), **arrays})
    row = read_sealed(path.with_suffix(".json"))
    write_sealed(path.with_suffix(".json"), {**row, "arrays_sha256": sha256(path)})


FOREIGN = {
    "losses": lambda old: {"nats": old["nats"] + np.float32(0.5)},
    "length": lambda old: {"length": np.int64(32)},
    "protocol": lambda old: {"protocol": np.str_("prefix-1024")},
    "fewer": lambda old: {name: old[name][1:] for name in ARRAYS},
}  # fmt: skip
ARRAYS = ("nats", "document", "position", "context", "bytes")


@pytest.mark.parametrize("what", FOREIGN)
def test_losses_that_are_not_those_of_their_record_are_noticed(study, what):
    path = study.cell(study.run(), 64, bumpy()).with_suffix(".npz")
    with np.load(path) as stored:
        changed = FOREIGN[what](dict(stored))
    (result,) = read_newest(study.folder, EVALUATIONS)
    result.check_arrays()
    resealed(path, **changed)
    (result,) = read_newest(study.folder, EVALUATIONS)
    with pytest.raises(DataError, match="another evaluation"):
        result.check_arrays()


def test_any_damage_of_losses_is_found_and_said(study, tmp_path):
    """Cut anywhere, or with any bit of it turned: the same losses, or a line about the file."""
    path = study.cell(study.run(), 64, bumpy(2, 40)).with_suffix(".npz")
    file = ArrayFile(path, sha256(path))
    whole, truth = path.read_bytes(), read_losses(file)
    copy, n_found = tmp_path / "copy.npz", 0
    damaged = [whole[:n] for n in range(0, len(whole), 7)] + [b"", b"\x93NUMPY"]
    for n in range(0, len(whole), 2):
        other = bytearray(whole)
        other[n] ^= 1 << n // 2 % 8
        damaged.append(bytes(other))
    for data in damaged:
        copy.write_bytes(data)
        with pytest.raises(DataError, match="is damaged"):
            read_losses(ArrayFile(copy, file.sha256))
        try:  # with a digest made anew
            found = read_losses(ArrayFile(copy, sha256(copy)))
        except DataError as error:
            assert str(copy) in str(error)
            n_found += 1
        else:
            np.testing.assert_array_equal(found.nats, truth.nats)
    assert n_found > len(damaged) // 2


@pytest.mark.parametrize("column", ["document", "nats", "position"])
def test_arrays_that_are_no_losses_are_refused(study, column):
    path = study.cell(study.run(), 64, bumpy()).with_suffix(".npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    wrong = {"document": arrays["document"] + 1, "nats": arrays["document"],
             "position": arrays["nats"]}  # fmt: skip
    resealed(path, **{column: wrong[column]})
    with pytest.warns(UserWarning, match="is not a file of losses"):
        study.report()
    (row,) = study.table("Perplexity per token, segments-1024")
    assert row["64"] == "damaged"


def test_a_run_whose_folder_lost_its_config_is_named_and_left_out(scored):
    (config,) = scored.folder.glob("alibi*/config.json")
    config.unlink()
    code, said = told(scored)
    assert code == 0 and config.parent.name in said[0] and "left out" in said[0]
    assert {row["model"] for row in scored.table(REACH)} == {"rope"}
    next(scored.folder.glob("rope*/config.json")).unlink()
    code, said = told(scored)
    assert code == 2 and len(said) == 1 and "no run in" in said[0]


@pytest.mark.parametrize("damage", ["not JSON", "[]", "{}", "no settings", "an edited one"])
def test_a_damaged_config_is_exit_code_4(scored, damage):
    (config,) = scored.folder.glob("alibi*/config.json")
    stored = json.loads(config.read_text())
    if damage == "no settings":
        damage = json.dumps({**stored, "settings": {}})
    elif damage == "an edited one":
        stored["settings"]["seed"] = "x"
        damage = json.dumps(stored)
    config.write_text(damage)
    code, said = told(scored)
    assert code == 4 and len(said) == 1 and str(config) in said[0]
    if damage == "[]":
        code, said = told(scored, "model=rope")
        assert code == 0


def test_a_cell_that_is_no_cell_is_like_none(scored):
    before = {p.name: p.read_text() for p in scored.report().glob("*.csv")}
    folder = next(scored.folder.glob("rope*/eval"))
    for name, text in (("x", "{"), ("y", "[]"), ("z", '{"nll": 1}')):
        (folder / f"{name}.json").write_text(text)
    with pytest.warns(UserWarning, match=r"eval/[xyz]\.json is left out"):
        assert {p.name: p.read_text() for p in scored.report().glob("*.csv")} == before


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


def test_methods_are_compared_with_the_same_models_plain_attention(study):
    """BCA half a nat better for one model, a quarter worse for the other; one family of two."""
    base = bumpy()
    for model, shift in (("rope", -0.5), ("alibi", 0.25)):
        run = study.run(model)
        study.line(run, shifted(base))
        study.line(run, shifted(base, at1024=shift), pattern=Blockwise())
    study.report()
    rows = study.named(f"Differences of methods at {LONGEST}, segments-{LONGEST}")
    assert {key: row["minus full"][:7] for key, row in rows.items()} == {
        ("rope", "blockwise"): "-0.5000",
        ("alibi", "blockwise"): "+0.2500",
    }
    # Six documents that all agree: 2 of 64 sign flips, twice that for two comparisons.
    assert {row["p"] for row in rows.values()} == {"0.0312"}
    assert {row["p (Holm)"] for row in rows.values()} == {"0.0625"}


def test_an_instrument_that_is_not_known_here_is_named_and_all_else_is_shown(tmp_path, capsys):
    made = Study(tmp_path)
    run = made.run()
    made.line(run, {64: flat(), 256: flat()})
    analysis = AnalysisResult(
        Component("growth", "growth", {}), run_info(run.name, run.settings), component_of(Full()),
        component_of(Extension()), "trained", -1, math.nan, 64, 8, 1.0,
        ({"layer": 0, "value": 1.0},),
    )  # fmt: skip
    write(run.folder, Spec(ANALYSES, "growth", {}), analysis)
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
