"""`lexp harness` with a stand-in for the package; tests/peers/test_harness.py runs the package."""

import csv
import functools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lexp.cli.entry_points import refuse_early, show
from lexp.commands import harness as command
from lexp.commands.harness_files import check_task_files
from lexp.commands.report import report
from lexp.evaluate import harness_run, partial_progress
from lexp.evaluate.harness_result import COLUMNS, MEAN, HarnessValue, QuestionValues
from lexp.evaluate.harness_run import HarnessTask, Measured
from lexp.scoring.requests import Completion, Continuation, RequestScorer, WholeText
from lexp.system.errors import ConfigError, DataError, Incomplete
from support.config import compose

# A task with two questions of four answers, and one that cannot be loaded.
WRITTEN = (Completion("question", (), 5), Completion("another one", ("e",), 7))
LENGTHS = (HarnessValue("write", "none", "length", 3.0, 0.1, 0.0, True, 0, 2, "1", False),)
QUESTIONS = tuple(Continuation(f"question {n}:", answer) for n in range(2) for answer in "ABCD")


@dataclass(frozen=True)
class Settings:
    shots: int
    limit: int
    resamples: int


def measure(answers):
    """The mean likelihood as what the package would make of it."""
    nats = -np.array([answer.log_prob for answer in answers])
    values = (
        HarnessValue("choice", "none", "acc", 0.75, 0.1, 0.25, True, 0, 2, "1.0", False),
        HarnessValue("choice", "none", "nats", nats.mean(), float("nan"), float("nan"), False, 0, 2,
                     "1.0", False, MEAN),
    )  # fmt: skip
    return Measured(values, {1: QuestionValues(nats, np.ones(len(nats)), MEAN)})


def broken(answers):
    raise DataError("ZeroDivisionError: in its metric")


TASKS = {
    "choice": HarnessTask("choice", QUESTIONS, "d1", measure),
    "long": HarnessTask("long", (Continuation("a", 40 * "b"),), "d2", measure),
    "away": HarnessTask("away", (), "", broken, "ConnectionError: no network"),
    "write": HarnessTask("write", WRITTEN, "d4", lambda answers: Measured(LENGTHS, {})),
    "broken": HarnessTask("broken", (WholeText("a text"),), "d3", broken),
}


def stand_in(tasks: dict[str, HarnessTask]) -> SimpleNamespace:
    """A module that has these tasks, in the place of the one that imports the package."""
    return SimpleNamespace(
        VERSION="0.0", HarnessSettings=Settings,
        load_tasks=lambda names, folder, settings, say: tuple(tasks[name] for name in names),
    )  # fmt: skip


@pytest.fixture
def ask(trained_once, texts, tmp_path, monkeypatch):
    """Runs `lexp harness` on a finished run and returns the rows of harness.csv."""
    import shutil

    shutil.copytree(trained_once(("rope",)), tmp_path / "outputs")
    monkeypatch.setitem(sys.modules, "lexp.commands.harness_tasks", stand_in(TASKS))

    def run(*overrides: str) -> list[dict[str, str]]:
        base = [f"outputs={tmp_path}/outputs", "device=cpu", "precision=float32"]
        given = {override.partition("=")[0] for override in overrides}
        base += ["lengths=[16,32]"] * ("lengths" not in given)
        command.harness(compose("harness", *base, *overrides))
        with (run.folder / "harness.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    run.folder = tmp_path / "outputs" / "default"
    return run


def test_values_stand_in_tables_and_are_computed_once(ask, capsys, monkeypatch):
    rows = ask("tasks=[choice,long]", "extension=[none,pi]", "attention=[full]")
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 2 * 2 * 2 + 4
    (row,) = (
        r for r in rows if (r["metric"], r["length"], r["extension"]) == ("acc", "16", "none")
    )
    shown = [row[name] for name in ("value", "stderr", "chance", "documents", "harness", "status")]
    assert shown == ["0.75", "0.1", "0.25", "2", "0.0", "ok"]
    # Two answers of 40 tokens: neither length holds them.
    assert {r["status"] for r in rows if r["asked"] == "long"} == {"not defined"}
    out = capsys.readouterr().out
    assert "an answer has 40 tokens, the length is 16" in out
    line, below, _ = (line for line in out.splitlines() if "full pi" in line and "32" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[:6] == ["rope", "full pi", "32", "0.7500", "0.1000", "0.2500"]
    assert cells[6] == f"{float(row_of(rows, 'nats', '32', 'pi')['value']):.4f}"
    assert cells[7:] == ["-", "-"]
    # Of what has values of questions: the difference of the two rows, on the same questions.
    plain, changed = (float(row_of(rows, "nats", "32", name)["value"]) for name in ("none", "pi"))
    assert [cell.strip() for cell in below.strip("│").split("│")][3].startswith(
        f"{changed - plain:+.4f} ["
    )
    assert "choice: minus full attention, paired by question" in out
    assert "acc" in (ask.folder / "harness.md").read_text()

    assert not [*ask.folder.rglob("*.part")]
    monkeypatch.setattr(RequestScorer, "answer", lambda *_: pytest.fail("computed again"))
    again = ask("tasks=[choice]", "extension=[none,pi]", "attention=[full]")
    assert again == rows


@pytest.mark.parametrize("task, kind", [("choice", "continuations"), ("write", "texts")])
def test_the_same_command_goes_on_within_a_cell(ask, monkeypatch, task, kind):
    monkeypatch.setattr(partial_progress, "SAVE_EVERY_S", 0)
    small = functools.partial(RequestScorer, batch_tokens=1)  # a question at a time: 2 passes
    monkeypatch.setattr(harness_run, "RequestScorer", small)
    method, answered, n_passes = "_pass" if task == "choice" else "_grow", [], []
    make_pass = getattr(RequestScorer, method)

    def stopped(self, *arguments):
        n_passes.append(1)
        if len(n_passes) == 4:  # the second of the second start
            raise KeyboardInterrupt
        return make_pass(self, *arguments)

    def measured(answers):
        answered.append(answers)
        return TASKS[task].measure(answers)

    told = {task: replace(TASKS[task], measure=measured)}
    monkeypatch.setattr(RequestScorer, method, stopped)
    monkeypatch.setitem(sys.modules, "lexp.commands.harness_tasks", stand_in(told))
    words = f"tasks=[{task}]", "attention=[full]"
    assert {row["status"] for row in ask(*words, "lengths=[31]")} == {"ok"}
    with pytest.raises(KeyboardInterrupt):
        ask(*words, "lengths=[32]")
    assert len([*ask.folder.rglob(f"*.{kind}.part")]) == 1
    assert {row["status"] for row in ask(*words, "lengths=[32]")} == {"ok"}
    assert len(n_passes) == 5 and not [*ask.folder.rglob("*.part")]
    # No question is longer than either length, so the answers are those of the first start.
    assert len(answered) == 2 and repr(answered[0]) == repr(answered[1])


def row_of(rows, metric, length, extension):
    wanted = metric, length, extension
    (row,) = (r for r in rows if (r["metric"], r["length"], r["extension"]) == wanted)
    return row


def test_likelihoods_of_requests_are_stored(ask):
    """A shorter length cuts the questions, so that their likelihoods differ."""
    ask("tasks=[choice]", "lengths=[8,32]", "attention=[full]")
    short, long = (
        np.load(next(ask.folder.glob(f"rope*/harness/choice-full-{n}-*.npz"))) for n in (8, 32)
    )
    assert short["log_prob"].shape == (8,) and np.isfinite(short["log_prob"]).all()
    assert not np.allclose(short["log_prob"], long["log_prob"])


def test_a_task_that_fails_is_shown_and_tried_again(ask, capsys, monkeypatch):
    with pytest.raises(Incomplete, match="2 tasks of 3 failed: away, broken"):
        ask("tasks=[away,choice,broken]", "attention=[full]", "lengths=[32]")
    out = capsys.readouterr().out
    assert "failed (rope): ConnectionError: no network." in out
    assert "failed (rope): ZeroDivisionError: in its metric." in out
    rows = ask(
        "tasks=[away,choice,broken]", "attention=[full]", "lengths=[32]", "allow_partial=true"
    )
    assert {r["asked"]: r["status"] for r in rows} == {
        "away": "failed", "broken": "failed", "choice": "ok"
    }  # fmt: skip
    monkeypatch.setitem(TASKS, "away", HarnessTask("away", QUESTIONS, "d4", measure))
    whole = (HarnessValue("broken", "none", "nats", 1.0, 0.1, 0.0, False, 0, 1, "1", False),)
    mended = HarnessTask(
        "broken", TASKS["broken"].requests, "d3", lambda answers: Measured(whole, {})
    )
    monkeypatch.setitem(TASKS, "broken", mended)
    rows = ask("tasks=[away,broken]", "attention=[full]", "lengths=[32]")
    assert {r["status"] for r in rows} == {"ok"}


def test_the_report_has_the_tables(ask, tmp_path):
    ask("tasks=[choice,away]", "attention=[full]", "lengths=[32]", "allow_partial=true")
    report(compose("report", f"outputs={tmp_path}/outputs"))
    page = (ask.folder / "report" / "report.md").read_text()
    assert "## Tasks of lm-evaluation-harness" in page
    assert "| rope | full | 32 | **0.7500** | 0.1000 | 0.2500 |" in page
    assert "failed (rope): ConnectionError: no network." in page
    assert "1 of 2 cells without a number (1 failed)" in page


def test_without_the_package_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("lexp.commands.harness_files.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        refuse_early("harness", compose("harness", "tasks=[hellaswag]"))
    assert show(error.value) == 2
    assert "lexp harness needs the extra harness: pip install 'lexp[harness]'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "overrides, said",
    [
        ([], r"tasks=\[\] \(at least one"),
        (["tasks=[a,a]"], r"tasks=\['a', 'a'\] \(each task once\)"),
        (["tasks=[a]", "shots=-1"], r"shots=-1 \(at least 0\)"),
        (["tasks=[a]", "limit=0"], r"limit=0 \(at least 1\)"),
        (["tasks=[a]", "resamples=0"], r"resamples=0 \(from 1 to 100000\)"),
        (["tasks=[a]", f"resamples={10**12}"], r"resamples=1000000000000 \(from 1 to 100000\)"),
        (["tasks=[1]"], r"tasks=\[1\] \(names of tasks\)"),
    ],
)
def test_values_that_are_not_allowed_end_in_one_line(overrides, said):
    with pytest.raises(ConfigError, match=said):
        command.check(compose("harness", *overrides))


PACKAGE = Path("/nowhere/lm_eval")


@pytest.mark.parametrize(
    "text, said",
    [
        ("process_docs: !function helper.clean", "runs helper.clean, code of the module helper"),
        ("process_docs: !function os.system", "export LEXP_ALLOW=mine,os"),
        ("a: [{b: !function helper.clean}]", "runs helper.clean"),
        ("doc_to_text: !!python/name:os.system x", "python/name:os.system"),
        ("a: !other x", "has !other x, which is not allowed"),
        ("use_prompt: ../prompts.yaml:one", "use_prompt reads templates of elsewhere"),
        ("dataset_path: pandas", "dataset_path=pandas reads pickles"),
        ("metric_list: [{metric: ./mine}]", r"metric=./mine is none of the harness; name one of"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]", "hf_evaluate loads code from the hub"),
        # A name that the harness lacks would be loaded from the hub or a folder, as code.
        (
            "metric_list: [{metric: ./mine}]\nprocess_results: null",
            "process_results=null is no function",
        ),
        (
            "metric_list: [{metric: ./mine}]\nmetadata: {process_results: !function mine.f}",
            "metric=./mine is none of the harness",
        ),
        ("include: ../other_yaml", "other_yaml runs helper.clean"),
        ("a: [", "cannot be read"),
    ],
)
def test_task_files_run_no_code_that_nobody_has_allowed(tmp_path, monkeypatch, text, said):
    monkeypatch.setenv("LEXP_ALLOW", "mine")
    folder = tmp_path / "tasks"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "tasks" / "other_yaml").write_text("x: !function helper.clean")
    (folder / "inner" / "task.yaml").write_text(f"task: mine\n{text}\n")
    with pytest.raises(ConfigError, match=said):
        check_task_files(folder, PACKAGE, {"acc"})


def test_includes_are_checked_wherever_the_harness_looks_for_them(tmp_path):
    """A group within an included file: its include stands beside the file that includes."""
    folder = tmp_path / "tasks"
    (folder / "sub").mkdir(parents=True)
    (folder / "task.yaml").write_text("include: sub/base")
    (folder / "sub" / "base").write_text("group: a\ntask: [{group: b, include: part}]")
    (folder / "sub" / "part").write_text("num_fewshot: 0")
    check_task_files(folder, PACKAGE, set())
    (folder / "part").write_text("process_docs: !function helper.clean")
    (tmp_path / "link").symlink_to(folder)
    for given in (folder, tmp_path / "link"):
        with pytest.raises(ConfigError, match="tasks/part runs helper.clean"):
            check_task_files(given, PACKAGE, set())
    # A linked file: beside the link, not beside the file.
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "a.yaml").write_text("group: a\ntask: [{group: b, include: part}]")
    (tmp_path / "away" / "part").write_text("num_fewshot: 0")
    (folder / "task.yaml").unlink()
    (folder / "task.yaml").symlink_to(tmp_path / "away" / "a.yaml")
    with pytest.raises(ConfigError, match="tasks/part runs helper.clean"):
        check_task_files(folder, PACKAGE, set())
    # A group of the package that the folder includes: the same.
    (folder / "task.yaml").unlink()
    (folder / "task.yaml").write_text(f"include: {tmp_path}/away/a.yaml")
    with pytest.raises(ConfigError, match="tasks/part runs helper.clean"):
        check_task_files(folder, (tmp_path / "away").resolve(), set())
    (folder / "part").unlink()
    (folder / "task.yaml").write_text("include: gone")
    with pytest.raises(ConfigError, match="tasks/gone cannot be read: .*No such file"):
        check_task_files(folder, PACKAGE, set())


def test_allowed_code_and_files_of_the_package_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("LEXP_ALLOW", "helper")
    (tmp_path / "own").mkdir()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "base").write_text("process_docs: !function utils.clean")
    (tmp_path / "own" / "a.yaml").write_text(
        "task: a\ninclude: ../package/base\nprocess_results: !function helper.sub.f\n"
        "metric_list: [{metric: mine}]\nhf_evaluate: false"
    )
    (tmp_path / "own" / "b.yaml").write_text(
        "group: b\ntask: [a]\naggregate_metric_list: [{metric: mine}]"
    )
    check_task_files(tmp_path / "own", (tmp_path / "package").resolve(), {"acc"})
    with pytest.raises(ConfigError, match="there is no such folder"):
        check_task_files(tmp_path / "gone", PACKAGE, set())
