"""How far a model reads and what it gains, against losses of known truth worked out by hand."""

import math
import re
from pathlib import Path

import pytest

from lexp.evaluate import EVALUATIONS
from lexp.extension import PI
from lexp.pattern import Blockwise, Window
from lexp.report.charts import length_chart
from lexp.report.claims import claims
from lexp.report.study_results import make_series
from lexp.result_store import read_newest
from lexp.scoring.protocol import Prefix
from support.studies import LONGEST, TRAINED, Study, bumpy, shifted, two_documents

REACH = f"Reach and gain, segments-{LONGEST}"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "outputs")


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
