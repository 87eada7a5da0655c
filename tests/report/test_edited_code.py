"""What the user's own code computed before an edit does not pass for what it computes now."""

import csv
import math
from dataclasses import dataclass

import pytest

from lexp.extension import Extension
from lexp.instruments.base import Instrument
from lexp.instruments.measure import ANALYSES, AnalysisResult
from lexp.pattern import Full, Sinks, Window
from lexp.probes import Copy
from lexp.probes.result import PROBES, ProbeMeasures, ProbeResult
from lexp.report import write_results
from lexp.result_store import Spec, component, component_of, read_newest, write
from lexp.scoring.protocol import Segments
from support.studies import LONGEST, Study, bumpy, run_info


@dataclass(frozen=True)
class OwnPattern(Window):
    """Stands for a class of the user's own: this file is its code."""

    name = "mine"


@dataclass(frozen=True)
class OwnExtension(Extension):
    name = "mine"


@dataclass(frozen=True)
class OwnProbe(Copy):
    name = "mine"


@dataclass(frozen=True)
class OwnInstrument(Instrument):
    name = "mine"


@dataclass(frozen=True)
class OwnProtocol(Segments):
    name = "mine"


@dataclass(frozen=True)
class OwnFull(Full):
    """Keeps the name of lexp's."""


@pytest.fixture
def edit(monkeypatch):
    """Give the classes above other code."""
    monkeypatch.setattr(component, "code_digest", lambda kind: _code(kind, "1"))
    return lambda: monkeypatch.setattr(component, "code_digest", lambda kind: _code(kind, "2"))


def _code(kind: type, version: str) -> str | None:
    return version * 64 if kind.__module__ == __name__ else None


METHODS = {
    "pattern": {"pattern": OwnPattern()},
    "part of a pattern": {"pattern": Sinks(OwnPattern())},
    "extension": {"extension": OwnExtension()},
}


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_edited_code_are_apart(method, edit, tmp_path):
    study = Study(tmp_path)
    runs = [study.run(seed=seed) for seed in (0, 1)]
    for run in runs:
        study.line(run, {64: bumpy(), LONGEST: bumpy()}, name="old", **METHODS[method])
    edit()
    study.line(runs[1], {LONGEST: bumpy() + 1}, name="new", **METHODS[method])
    study.report()
    rows = study.table(f"Perplexity per token, segments-{LONGEST}")
    names = [(row["attention"], row.get("extension", "")) for row in rows]
    assert len(set(names)) == 2
    assert sorted(row["64"] == "" for row in rows) == [False, True]
    assert sum("±" in row[str(LONGEST)] for row in rows) == 1, "an average over unlike seeds"
    write_results(study.folder)
    with (study.folder / "results.csv").open() as file:
        stored = [(r["run"], r["attention"], r["extension"], r["length"])
                  for r in csv.DictReader(file)]  # fmt: skip
    assert len(stored) == len(set(stored)) == 5


def test_what_an_edited_protocol_scores_is_in_a_table_of_its_own(edit, tmp_path):
    study = Study(tmp_path)
    run = study.run()
    study.cell(run, LONGEST, bumpy(), protocol=OwnProtocol())
    study.report()
    assert study.table(f"Perplexity per token, mine-{LONGEST}")[0]["model"] == "rope"
    edit()
    study.cell(run, LONGEST, bumpy() + 1, protocol=OwnProtocol())
    study.report()
    tables = sorted((study.folder / "report").glob("perplexity-per-token-*.csv"))
    numbers = [next(csv.DictReader(path.open()))[str(LONGEST)] for path in tables]
    assert len(tables) == 2 and len(set(numbers)) == 2, tables
    write_results(study.folder)
    with (study.folder / "results.csv").open() as file:
        labels = [row["protocol"] for row in csv.DictReader(file)]
    assert len(set(labels)) == 2 and all(f"mine-{LONGEST} (code " in label for label in labels)


def test_code_that_was_never_edited_stands_in_no_label(edit, tmp_path):
    study = Study(tmp_path)
    study.cell(study.run(), LONGEST, bumpy(), pattern=OwnPattern())
    study.report()
    assert study.table(f"Perplexity per token, segments-{LONGEST}")[0]["attention"] == "mine"


def test_an_own_class_that_keeps_a_name_is_not_taken_for_the_one_of_lexp(edit, tmp_path):
    study, losses = Study(tmp_path), {256: bumpy(), LONGEST: bumpy()}
    run = study.run()
    study.line(run, losses, name="lexp")
    study.line(run, {n: nats + 1 for n, nats in losses.items()}, name="own", pattern=OwnFull())
    study.report()
    methods = [row["attention"] for row in study.table(f"Perplexity per token, segments-{LONGEST}")]
    assert len(methods) == 2 and "full" in methods
    (row,) = study.table(f"Differences of methods at {LONGEST}, segments-{LONGEST}")
    assert row["method"].startswith("full (code ") and row["minus full"].startswith("+1.0000")


def test_probes_and_instruments_of_edited_code_do_not_replace_each_other(edit, tmp_path):
    study = Study(tmp_path)
    run = study.run()
    info = run_info(run.name, run.settings)
    for version in ("old", "new"):
        parts = {"pattern": component_of(Full()), "extension": component_of(Extension())}
        probed = ProbeResult(
            run=info, **parts, probe=component_of(OwnProbe()), length=64, samples=2, probe_seed=0,
            chance=math.nan, measures=ProbeMeasures(*[0.0] * 11), seconds=1.0,
        )  # fmt: skip
        write(run.folder, Spec(PROBES, "mine", {"version": version}), probed)
        measured = AnalysisResult(
            instrument=component_of(OwnInstrument()), run=info, **parts, state="trained", step=1,
            loss=1.0, length=64, n_texts=8, seconds=1.0, rows=({"value": 1.0},),
        )  # fmt: skip
        write(run.folder, Spec(ANALYSES, "mine", {"version": version}), measured)
        edit()
    for kind, part in ((PROBES, "probe"), (ANALYSES, "instrument")):
        labels = {getattr(result, part).label for result in read_newest(study.folder, kind)}
        assert len(labels) == 2 and all(label.startswith("mine (code ") for label in labels)
