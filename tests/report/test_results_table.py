"""results.csv follows each result at a cost that does not grow with the study."""

import csv
import shutil

import pytest

from lexp.evaluate import EVALUATIONS
from lexp.report import append_results, write_results
from lexp.report import results as tables
from lexp.result_store import ArrayFile, read_newest
from support.studies import Study, bumpy, flat


@pytest.fixture
def study(tmp_path) -> Study:
    made = Study(tmp_path)
    made.line(made.run(), {64: bumpy(), 256: bumpy()})
    write_results(made.folder)
    return made


def rows(study: Study) -> list[dict[str, str]]:
    with (study.folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def append(study: Study, monkeypatch, anew: bool, **changes) -> list[dict[str, str]]:
    """Append a new cell; anew: whether the table has to be made of all of them."""
    study.cell(study.run("alibi"), 512, bumpy(), **changes)
    new = [r for r in read_newest(study.folder, EVALUATIONS) if r.run.model == "alibi"]
    n_read = []
    original = tables.read_all
    monkeypatch.setattr(tables, "read_all", lambda *a: (n_read.append(1), original(*a))[1])
    append_results(study.folder, new)
    assert bool(n_read) == anew
    return rows(study)


def test_a_new_result_is_appended_and_the_others_are_not_read(study, monkeypatch):
    before = rows(study)
    now = append(study, monkeypatch, anew=False)
    assert now[:-1] == before and now[-1]["model"] == "alibi" and now[-1]["length"] == "512"
    write_results(study.folder)
    assert rows(study) == [now[-1], *before]  # in order again


def test_a_copied_run_folder_repeats_no_row(study):
    """Its results name the run that they are of."""
    before = rows(study)
    (run,) = (path.parent for path in study.folder.glob("*/config.json"))
    shutil.copytree(run, run.with_name("copy"))
    write_results(study.folder)
    assert rows(study) == before and len(before) == 2


DAMAGED = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_text(""),
    "half a line": lambda path: path.write_text(path.read_text()[:-9]),
    "half a head": lambda path: path.write_text(path.read_text()[:9]),
    "other columns": lambda path: path.write_text("run,model\n" + path.read_text()),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_table_is_written_anew(study, damage, monkeypatch):
    whole = rows(study)
    DAMAGED[damage](study.folder / "results.csv")
    now = append(study, monkeypatch, anew=True)
    assert now[1:] == whole and now[0]["model"] == "alibi"


@pytest.mark.parametrize("left", ["rows", "nothing", "half a line"])
def test_a_report_completes_the_table_of_a_killed_evaluation(study, left):
    """Killed after a result was stored and before, or while, it was appended."""
    table = study.folder / "results.csv"
    study.cell(study.run("alibi"), 512, bumpy())
    if left == "nothing":
        table.unlink()
    elif left == "half a line":
        table.write_text(table.read_text()[:-9])
    study.report()
    found = [(row["model"], row["length"]) for row in rows(study)]
    assert found == [("alibi", "512"), ("rope", "64"), ("rope", "256")]
    assert not (study.folder / "probes.csv").exists()


def test_a_result_of_a_step_needs_its_column(study, monkeypatch):
    assert "step" not in rows(study)[0]
    assert {row["step"] for row in append(study, monkeypatch, anew=True, step=4)} == {"4", "-1"}
    monkeypatch.undo()
    study.cell(study.run("nope"), 512, bumpy())
    new = [r for r in read_newest(study.folder, EVALUATIONS) if r.run.model == "nope"]
    monkeypatch.setattr(tables, "read_all", None)
    append_results(study.folder, new)  # which stays for the others
    assert rows(study)[-1]["model"] == "nope" and rows(study)[-1]["step"] == "-1"


def test_a_formula_in_an_appended_row_is_none(study, monkeypatch):
    study.cell(study.run("alibi"), 512, flat())
    (new,) = [r for r in read_newest(study.folder, EVALUATIONS) if r.run.model == "alibi"]
    object.__setattr__(new.run, "model", "=1+1")
    append_results(study.folder, [new])
    assert not rows(study)[-1]["model"].startswith("=")


def test_a_report_reads_the_losses_of_each_cell_once(study, monkeypatch):
    study.line(study.run("alibi"), {64: bumpy(), 256: bumpy()})
    loaded = []
    original = ArrayFile.load
    monkeypatch.setattr(
        ArrayFile, "load", lambda self, *a: (loaded.append(self.path), original(self, *a))[1]
    )
    study.report()
    assert sorted(loaded) == sorted(study.folder.glob("*/eval/*.npz"))
    loaded.clear()
    monkeypatch.setattr("lexp.report.study_results.KEPT_BYTES", 0)  # more than memory may hold
    before = (study.folder / "report/report.md").read_text()
    study.report()
    assert len(loaded) > 4 and (study.folder / "report/report.md").read_text() == before
