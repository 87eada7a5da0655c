"""Kept checkpoints, and what instruments find at each of them."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from lexp.commands.analyze import analyze
from lexp.commands.evaluate import eval_
from lexp.commands.report import report
from lexp.commands.train import check, train
from lexp.display.document import Chart
from lexp.display.table import Table
from lexp.instruments.base import CheckpointInfo, Instrument, LabelledMeasurement, Measurement
from lexp.instruments.over_training import last_of_each, over_training, shown
from lexp.runs import checkpoint
from lexp.runs.checkpoint import at_steps
from lexp.runs.find import find_runs
from lexp.runs.run import run_name
from lexp.system.errors import CheckpointError, ConfigError
from support.config import compose


def checkpoints_of(config) -> Path:
    return Path(config.outputs) / config.name / run_name(check(config).raw) / "checkpoints"


# The newest two are there in any case; a kept one may be one of them.
@pytest.mark.parametrize(
    ("keep", "steps"),
    [("null", [8, 10]), ("3", [3, 6, 9, 10]), ("[1,2,7]", [1, 2, 7, 8, 10])],
)
def test_kept_checkpoints_stay_and_change_nothing(tiny, tmp_path, keep, steps):
    config, plain = tiny(f"keep={keep}"), tiny(f"outputs={tmp_path}/plain")
    train(config)  # saves every 4 of 10 steps
    train(plain)
    found = at_steps(checkpoints_of(config), None)
    assert [one.step for one in found] == steps
    assert found[-1].model_sha256 == checkpoint.latest(checkpoints_of(plain)).model_sha256
    assert at_steps(checkpoints_of(config), [steps[-1], steps[0]]) == [found[0], found[-1]]
    with pytest.raises(CheckpointError, match=f"no checkpoint of step 5; it has: {steps[0]}, "):
        at_steps(checkpoints_of(config), [5])


def test_a_damaged_kept_checkpoint_is_named(tiny):
    config = tiny("keep=5")
    train(config)
    path = checkpoints_of(config) / "step-00000005" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="step-00000005/model.safetensors is damaged"):
        at_steps(checkpoints_of(config), None)
    assert checkpoint.latest(checkpoints_of(config)).step == 10


@pytest.mark.parametrize("keep", ["0", "[0]", "[2,-1]", "soon", "1.5"])
def test_steps_that_cannot_be_kept(tiny, keep):
    with pytest.raises(ConfigError, match=r"keep=.* \(a whole number from 1, or a list of such\)"):
        check(tiny(f"keep={keep}"))


def test_the_command_follows_training(tiny, tmp_path, capsys):
    for seed in (0, 1):
        train(tiny("model=learned", "keep=[2,5]", f"seed={seed}"))
    base = (
        f"outputs={tmp_path}/outputs",
        "lengths=[16]",
        "texts=2",
        "device=cpu",
        "attention=[full]",
    )
    words = "instruments=[invariance]", "checkpoints=all", "states=[trained,random]"
    analyze(compose("analyze", *base, *words))
    folder = tmp_path / "outputs/default/analysis"
    with (folder / "invariance.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = {(row["state"], row["step"]) for row in rows}
    assert steps == {("random", "0"), *(("trained", step) for step in ("2", "5", "8", "10"))}
    by_step = {row["step"]: float(row["loss"]) for row in rows if row["seed"] == "0"}
    assert math.isnan(by_step["0"])
    run = next((tmp_path / "outputs/default").glob("learned-*-s0-*"))
    for found in at_steps(run / "checkpoints", None):
        assert by_step[str(found.step)] == found.state["validation"]["nll@16"]
    assert len({by_step["2"], by_step["5"], by_step["10"]}) == 3
    said = capsys.readouterr().out
    assert "Toeplitz R² of scores over training" in said
    assert "Toeplitz R² of P Pᵀ over training" in said
    # The table of the instrument itself is of the last checkpoint: one line a model and state.
    first = (folder / "invariance-1.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in first[1:]] == ["learned", "learned (random)"]
    analyze(compose("analyze", *base, "instruments=[invariance]", "checkpoints=[5]"))
    with pytest.raises(CheckpointError, match="no checkpoint of step 7; it has: 2, 5, 8, 10"):
        analyze(compose("analyze", *base, "instruments=[invariance]", "checkpoints=[7]"))


KERNELS = (3, 1, 10)
NAMES = [f"tisa n_kernels={n}" for n in sorted(KERNELS)]


def test_runs_that_differ_in_an_override_alone_are_told_apart_in_every_table(
    tiny, tmp_path, capsys
):
    for n in KERNELS:
        train(tiny("model=tisa", f"model.position.n_kernels={n}", "keep=[5]"))
    where = f"outputs={tmp_path}/outputs"
    base = where, "lengths=[16,32]", "device=cpu", "attention=[full]", "checkpoints=all"
    words = "instruments=[invariance,curves]", "states=[trained,random]", "texts=2"
    analyze(compose("analyze", *base, *words))
    folder = tmp_path / "outputs/default"
    both = [f"{name}{state}" for name in NAMES for state in ("", " (random)")]

    def rows_of(path: Path) -> list[dict[str, str]]:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    table = rows_of(folder / "analysis/invariance-1.csv")
    assert [(row["model"], row["length"]) for row in table] == [
        (name, length) for name in both for length in ("16", "32")
    ]
    spans = rows_of(folder / "analysis/curves-1.csv")
    assert {row["model"] for row in spans} == set(both)
    assert all(len(row["16 tokens"].split()) == 2 for row in spans)  # of two heads, not of six
    assert len(list((folder / "analysis").glob("curves-*.png"))) == len(both)
    said = capsys.readouterr().out
    assert all(f"{name} " in said for name in NAMES) and "│ tisa  " not in said
    # Every number is of its own run.
    of_run = {}
    for row in rows_of(folder / "analysis/invariance.csv"):
        if row["measure"] == "scores" and row["length"] == "16":
            of_run.setdefault((row["run"], row["step"]), []).append(float(row["value"]))
    runs = {f"tisa n_kernels={run.settings['model']['position']['n_kernels']}": run.name
            for run in find_runs(folder)}  # fmt: skip
    courses = next(
        rows_of(path)
        for path in sorted((folder / "analysis").glob("invariance-*.csv"))
        if "step 5" in path.read_text()
    )
    assert [row["model"] for row in courses] == NAMES
    for row in courses:
        for step in ("0", "5", "8", "10"):
            own = of_run[runs[row["model"]], step]
            assert row[f"step {step}"] == f"{sum(own) / len(own):.3f}"
    # The same in the report, and in its tables of losses.
    eval_(compose("eval", *base))
    report(compose("report", where))
    page = folder / "report"
    names = [row["model"] for row in rows_of(page / "translation-invariance--toeplitz-r².csv")]
    assert list(dict.fromkeys(names)) == both
    for title in ("toeplitz-r²-of-scores-over-training", "loss-over-training--segments-32"):
        assert [row["model"] for row in rows_of(page / f"{title}.csv")] == NAMES
    results = rows_of(page / "perplexity-per-token--segments-32.csv")
    assert [f"{row['model']} {row['variant']}" for row in results] == NAMES
    html = (page / "report.html").read_text(encoding="utf-8")
    assert all(f"Bias of {name} by distance" in html for name in both)


@pytest.mark.parametrize("given", ["first", "[]", "[0]", "5"])
def test_checkpoints_that_cannot_be_asked_for(tmp_path, given):
    with pytest.raises(ConfigError, match="checkpoints="):
        analyze(compose("analyze", f"outputs={tmp_path}", f"checkpoints={given}"))


class Number(Instrument):
    """Shows how many findings it was given; its summary is the number in the row."""

    name = "number"

    def show(self, found):
        return [Table(str(len(found)), (), (), 0, ())]

    def summary(self, one):
        return {"number": float(one.measurement.rows[0]["value"])}


def one(
    step: int, value: float, loss: float, seed: int = 0, length: int = 256
) -> LabelledMeasurement:
    state = "trained" if step else "random"
    finding = Measurement(({"value": value},))
    return LabelledMeasurement(
        "nope", "full", CheckpointInfo(state, step, loss), seed, length, 256, finding
    )


VALUES, LOSSES = (0.1, 0.4, 0.3, 0.9), (4.0, 3.0, 2.5, 2.0)


def test_a_course_is_the_mean_over_seeds_and_its_rank_correlation():
    found = [
        one(step, value + seed / 10, loss, seed)
        for seed in (0, 1)
        for step, value, loss in zip((1, 10, 100, 1000), VALUES, LOSSES, strict=True)
    ]
    found += [one(0, 0.0, math.nan), one(1000, 5.0, 2.0, length=1024)]
    table, by_step, by_loss = over_training(Number(), found)
    assert isinstance(table, Table)
    expected = f"{spearmanr(VALUES, LOSSES).statistic:+.2f}"
    texts = [field.text for field in table.rows[0]]
    assert texts == ["nope", "0.000", "0.150", "0.450", "0.350", "0.950", expected]
    assert expected == "-0.80"
    assert isinstance(by_step, Chart) and isinstance(by_loss, Chart)
    points = by_step.curves[0].points
    assert points[0].y == pytest.approx(0.15) and points[0].low == 0.1 and points[0].high == 0.2
    assert [p.x for p in points] == [1, 10, 100, 1000]
    assert [p.x for p in by_loss.curves[0].points] == list(LOSSES)


def test_a_note_is_part_of_the_name_and_of_what_belongs_together():
    found = [
        replace(one(step, value, 2.0), note=note)
        for note, value in (("n_kernels=1", 0.25), ("n_kernels=3", 0.75))
        for step in (0, 5, 10)
    ]
    assert [o.name for o in found[:2]] == ["nope n_kernels=1 (random)", "nope n_kernels=1"]
    assert len(last_of_each(found)) == 4
    table, by_step, by_loss = over_training(Number(), found)
    assert [[f.text for f in row][:3] for row in table.rows] == [
        ["nope n_kernels=1", "0.250", "0.250"], ["nope n_kernels=3", "0.750", "0.750"],
    ]  # fmt: skip
    assert [len(c.points) for c in by_step.curves] == [2, 2] and len(by_loss.curves) == 2


def test_what_an_instrument_shows_is_of_the_last_checkpoint():
    found = [one(step, 1.0, 2.0, seed) for seed in (0, 1) for step in (0, 5, 10)]
    assert sorted((o.state, o.checkpoint.step) for o in last_of_each(found)) == [
        ("random", 0), ("random", 0), ("trained", 10), ("trained", 10),
    ]  # fmt: skip
    assert shown(Number(), found)[0].title == "4"
    assert len(shown(Number(), found)) == 4
    assert len(shown(Number(), [one(10, 1.0, 2.0)])) == 1
    assert shown(Number(), []) == []
