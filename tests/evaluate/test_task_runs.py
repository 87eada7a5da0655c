"""`lexp eval` of runs that were trained on tasks: exact match, tables, files, refusals."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from lexp.attention import make_attend
from lexp.commands import eval_workers
from lexp.commands.analyze import analyze
from lexp.commands.evaluate import eval_
from lexp.commands.probe import probe
from lexp.commands.report import report
from lexp.commands.train import check, train
from lexp.data.tasks.copy import CopyWord
from lexp.data.tasks.dataset import TaskDataset, held_out_examples
from lexp.data.tasks.lego import Lego
from lexp.data.tasks.rows import END, make_rows
from lexp.data.tasks.scan import Scan
from lexp.evaluate import TASKS
from lexp.record import NullLogger
from lexp.result_store import read_newest
from lexp.runs import checkpoint
from lexp.runs.find import find_runs
from lexp.runs.run import Run
from lexp.scoring.answers import score_answers
from lexp.statistics.shares import wilson
from lexp.system.errors import ConfigError
from support.config import compose
from support.spawned import WARM

TRAIN = (
    "dataset=copy", "dataset.task.n_letters=2", "dataset.max_length=2", "size.n_layers=2",
    "size.d_model=32", "size.n_heads=2", "size.head_dim=16", "size.d_ff=64", "batch_tokens=192",
    "tokens=38400", "save_every=500", "eval_every=500", "eval_tokens=64", "precision=float32",
    "device=cpu", "lr=1e-2",
)  # fmt: skip
EVAL = ("device=cpu", "precision=float32", "examples=40", "attention=[full,window]")


@pytest.fixture(scope="session")
def task_runs_once(tmp_path_factory):
    """Copying runs of two models, learned at lengths 1 and 2, and one that learned nothing."""
    outputs = tmp_path_factory.mktemp("tasks") / "outputs"
    for overrides in (
        ["model=rope"],
        ["model=rope", "seed=1"],
        ["model=learned", "model.position.max_len=8", "tokens=1920"],
    ):
        train(compose("train", *TRAIN, f"outputs={outputs}", *overrides))
    return outputs


@pytest.fixture
def task_runs(task_runs_once, tmp_path):
    shutil.copytree(task_runs_once, tmp_path / "outputs")
    return tmp_path / "outputs"


def load(run: Run):
    from lexp.commands.run_parts import make_model
    from lexp.commands.select_runs import read_config

    model = make_model(read_config(run), 256).eval()
    checkpoint.load_model(checkpoint.latest(run.checkpoints), model)
    return model.double()


def greedy(model, prompt: str, most: int) -> str:
    """Generate token by token until the end token; the text without it, None if there is none."""
    tokens = [*prompt.encode()]
    for _ in range(most):
        attend = make_attend(full(), len(tokens), model.schemes, torch.device("cpu"))
        with torch.inference_mode():
            hidden = model.hidden(torch.tensor([tokens]), attend)
            tokens.append(int(model.head(hidden[0, -1]).argmax()))
        if tokens[-1] == END:
            return bytes(tokens[len(prompt) : -1]).decode(errors="replace")
    return None


def full():
    from lexp.pattern import Full

    return Full()


def test_exact_match_is_what_greedy_decoding_gives(task_runs):
    run = next(run for run in find_runs(task_runs / "default") if "rope" in run.name)
    model, task = load(run), CopyWord(n_letters=2)
    outcomes = []
    for length in (1, 2, 3, 4):
        examples = held_out_examples(task, length, 12, 0)
        rows = make_rows(examples, 2 * length + 3)
        attend = make_attend(full(), 2 * length + 2, model.schemes, torch.device("cpu"))
        scores = score_answers(model, rows, attend, torch.autocast("cpu", enabled=False))
        decoded = [greedy(model, e.prompt, length + 2) == e.answer for e in examples]
        assert scores.exact.tolist() == decoded
        assert scores.place[scores.example == 0].tolist() == [*range(length + 1)]
        outcomes += decoded
    assert 10 < sum(outcomes) < len(outcomes)  # both occur, or nothing was shown


def test_equally_likely_tokens_are_not_right(task_runs):
    run = next(iter(find_runs(task_runs / "default")))
    model = load(run)
    model.head.weight.data.zero_()
    rows = make_rows(held_out_examples(CopyWord(n_letters=2), 2, 5, 0), 7)
    attend = make_attend(full(), 6, model.schemes, torch.device("cpu"))
    scores = score_answers(model, rows, attend, torch.autocast("cpu", enabled=False))
    assert not scores.right.any() and np.allclose(scores.nats, np.log(256))


def test_eval_prints_a_row_per_method_and_stores_every_result(task_runs, capsys):
    eval_(compose("eval", f"outputs={task_runs}", "lengths=[1,2,5]", *EVAL))
    out = capsys.readouterr().out
    assert "copy-n_letters=2: exact match in % by problem length" in out
    assert "2 (trained)" in out and "2 of 2" in out
    study = task_runs / "default"
    rows = list(csv.DictReader((study / "tasks.csv").open()))
    assert len(rows) == 3 * 2 * 3
    by_place = {(r["model"], r["seed"], r["attention"], r["length"]): r for r in rows}
    best = by_place["rope", "0", "full", "2"]
    assert float(best["exact_match"]) == 1 and best["trained_length"] == "2"
    assert (float(best["low"]), float(best["high"])) == wilson(40, 40)
    # Sizes are counted in tokens: train_len is 6, so rows of 12 tokens are beyond it.
    assert best["train_len"] == best["tokens"] == "6" and "window" in out
    assert by_place["rope", "0", "full", "5"]["tokens"] == "12"
    beyond = by_place["learned", "0", "full", "5"]
    assert beyond["status"] == "not defined" and "learned" in out
    tokens = "single answer tokens right in %, by problem length"
    assert tokens in (study / "tasks.md").read_text() and tokens not in " ".join(out.split())
    for name in ("tasks.md", "tasks-copy-n_letters=2.png"):
        assert (study / name).stat().st_size
    # Nothing is computed twice, and no result of other examples is taken for it.
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/tasks/*.json")}
    eval_(compose("eval", f"outputs={task_runs}", "lengths=[2,5]", *EVAL))
    assert {p: p.stat().st_mtime_ns for p in study.glob("*/tasks/*.json")} == before
    eval_(compose("eval", f"outputs={task_runs}", "lengths=[2,5]", *EVAL, "examples=30"))
    assert len([*study.glob("*/tasks/*.json")]) == len(before) + 3 * 2 * 2


@pytest.mark.slow
def test_two_processes_answer_as_one_does(task_runs, capsys, monkeypatch):
    monkeypatch.setattr(eval_workers, "multiprocessing", WARM)
    study = task_runs / "default"
    shown, tables = [], []
    for workers in (1, 2):
        words = ("lengths=[1,2]", "attention=[full]", *EVAL[:3], f"workers={workers}")
        eval_(compose("eval", f"outputs={task_runs}", *words))
        printed = capsys.readouterr()
        shown.append(printed.out)
        assert ("6 cells of 3 runs, 2 at once" in printed.err) is (workers == 2)
        rows = csv.DictReader((study / "tasks.csv").open())
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
        for path in study.glob("*/tasks/*"):
            path.unlink()
    assert len(tables[0]) == 6 and tables[1] == tables[0] and shown[1] == shown[0]


def test_a_plan_says_what_there_is_to_do_and_does_nothing(task_runs, capsys):
    eval_(
        compose(
            "eval", f"outputs={task_runs}", "lengths=[2,5]", "plan=true", *EVAL, "examples=4000"
        )
    )
    # Rows of 6 and 12 tokens: 3 runs, 2 methods, 4000 problems.
    tokens = f"{3 * 2 * 4000 * (6 + 12) / 1e6:.2f}M"
    assert capsys.readouterr().err.endswith(f"12 cells of 3 runs, {tokens} tokens to read\n")
    assert not [*task_runs.glob("default/*/tasks/*")]


def test_without_lengths_a_task_is_asked_at_those_usual_for_it(task_runs, capsys):
    eval_(compose("eval", f"outputs={task_runs}", "plan=true", *EVAL))
    # A quarter, a half, once, one and a half times and twice 2; rows of 4, 6, 8 and 10 tokens.
    assert capsys.readouterr().err.splitlines() == [
        "problems of copy-n_letters=2 at lengths=[1,2,3,4], as training had lengths to 2; give "
        "lengths= for others",
        f"24 cells of 3 runs, {3 * 2 * 40 * (4 + 6 + 8 + 10) / 1e6:.2f}M tokens to read",
    ]
    eval_(compose("eval", f"outputs={task_runs}", "plan=true", "dataset=sort", *EVAL))
    assert capsys.readouterr().err.startswith(
        "runs trained on copy-n_letters=2 are asked problems of sort, another task; leave "
    )
    eval_(compose("eval", f"outputs={task_runs}", "plan=true", *EVAL, "lengths=[2]",
                  "protocol=[segments,fixed,sliding]"))  # fmt: skip
    (line, _) = capsys.readouterr().err.splitlines()
    assert line == "protocol=fixed,sliding: is for texts; answers of tasks are scored whole"
    task = TaskDataset(Lego(), max_length=6)  # LEGO has no chain of one variable
    assert task.usual_lengths() == (3, 6, 9, 12)
    assert TaskDataset(Lego(), max_length=4).usual_lengths() == (2, 4, 6, 8)
    assert TaskDataset(Scan(), max_length=22).usual_lengths() == (5, 11, 22, 33)


def test_instruments_too_read_problems_of_usual_lengths(task_runs, capsys):
    analyze(compose("analyze", f"outputs={task_runs}", "model=rope", "texts=1",
                    "instruments=[heads,sample]", "attention=[full]", "device=cpu"))  # fmt: skip
    printed = capsys.readouterr()
    assert "problems of copy-n_letters=2 at lengths=[1,2,3,4], as training" in printed.err
    assert "sample not defined for rope: samples continue texts, and this run was" in printed.out
    with (task_runs / "default" / "analysis" / "heads.csv").open(newline="") as file:
        lengths = {row["length"] for row in csv.DictReader(file)}
    assert lengths == {"4", "6", "8", "10"}  # rows of problems of 1 to 4 letters, in tokens


def test_a_method_is_sized_in_tokens(task_runs):
    """The window of a run is its trained row, 6 tokens, not its longest problem, 2."""
    words = ("model=rope", "lengths=[2,5]", *EVAL[:3])
    eval_(compose("eval", f"outputs={task_runs}", *words, "attention=[window]"))
    eval_(compose("eval", f"outputs={task_runs}", *words, "attention=[window]",
                  "attention.window.window=6"))  # fmt: skip
    found = {}
    for result in read_newest(task_runs / "default", TASKS):
        key = result.run.seed, result.length, result.pattern.label
        found[key] = result.measures
    for seed in (0, 1):
        for length in (2, 5):
            assert found[seed, length, "window"] == found[seed, length, "window-6"]


def test_damaged_answers_are_computed_again(task_runs):
    words = ("model=rope", "lengths=[2]", "attention=[full]", *EVAL[:3])
    eval_(compose("eval", f"outputs={task_runs}", *words))
    (first, *_) = sorted((task_runs / "default").glob("*/tasks/*.npz"))
    whole = first.read_bytes()
    first.write_bytes(whole[:-5])
    with pytest.warns(UserWarning, match="damaged|digest|not"):
        eval_(compose("eval", f"outputs={task_runs}", *words))
    assert first.read_bytes() == whole


def test_tasks_and_texts_are_not_mixed_up(task_runs, capsys):
    with pytest.raises(ConfigError, match="was trained on a task, this is texts"):
        eval_(compose("eval", f"outputs={task_runs}", "dataset=stdlib", "lengths=[4]", *EVAL))
    with pytest.raises(ConfigError, match="was trained on a task; probes plant information"):
        probe(compose("probe", f"outputs={task_runs}", "lengths=[64]", "device=cpu"))
    assert "to read" not in capsys.readouterr().err


def test_a_length_that_no_problem_has_is_named(tmp_path):
    words = [word for word in TRAIN if not word.startswith("dataset.task")]
    words += ["dataset=lego", "tokens=400", f"outputs={tmp_path}"]
    train(compose("train", *words))
    with pytest.raises(ConfigError, match="^lengths: dataset=lego: lego: length=60"):
        eval_(compose("eval", f"outputs={tmp_path}", "lengths=[2,60]", *EVAL))


class Recorder(NullLogger):
    """A logger that keeps what it is given."""

    def __init__(self):
        self.tables, self.charts = {}, {}

    def table(self, name, columns, rows):
        self.tables[name] = [dict(zip(columns, row, strict=True)) for row in rows]

    def chart(self, name, x_name, lines):
        self.charts[name] = x_name, [(line.name, line.xs, line.ys) for line in lines]


def test_a_grid_asks_each_pair_of_operand_lengths(tmp_path, capsys, monkeypatch):
    words = [word for word in TRAIN if not word.startswith("dataset")] + ["model=nope"]
    words += [f"outputs={tmp_path}", "dataset.max_length=2", "tokens=960"]
    train(compose("train", "dataset=addition", *words))
    asked = (f"outputs={tmp_path}", *EVAL[:2], "examples=8", "attention=[full]")
    logged = Recorder()
    monkeypatch.setattr("lexp.commands.evaluate.start_wandb", lambda *_: logged)
    eval_(compose("eval", *asked, "lengths=[2]", "grid=[3,1]"))
    study = tmp_path / "default"
    rows = list(csv.DictReader((study / "tasks.csv").open()))
    found = [(int(r["length"]), int(r["second_length"]), int(r["tokens"])) for r in rows]
    # Digits of both, of the sum, `+`, `=` and the end token.
    assert found == [(1, 1, 7), (1, 3, 11), (2, 0, 10), (3, 1, 11), (3, 3, 13)]
    values = {(r["length"], r["second_length"]): r["exact_match"] for r in logged.tables["tasks"]}
    assert values == {
        (int(r["length"]), int(r["second_length"])): float(r["exact_match"]) for r in rows
    }
    assert logged.charts == {
        "addition: exact match by problem length": (
            "problem length", [("nope full", [2], [100 * values[2, 0]])],
        )
    }  # fmt: skip
    out = capsys.readouterr()
    assert "validation exact match by problem length: " in out.err
    shown = " ".join(out.out.split())
    assert "by both lengths, n x m" in shown and "m=3" in shown
    assert "both up to 2" in shown and "5 cells of 1 run" in out.err
    assert (study / "tasks-addition-grid.png").stat().st_size
    assert "m=3" in (study / "tasks.md").read_text()
    assert "single answer tokens right in %, by problem length" in shown  # no answer is right
    report(compose("report", f"outputs={tmp_path}"))
    assert "of addition (bytes) in rows of 10 tokens; one seed" in capsys.readouterr().out
    assert "by both lengths, n x m" in (study / "report" / "report.html").read_text()
    # Other tasks have one length; an own task in their place is refused where it is the only one.
    with pytest.raises(ConfigError, match=r"^grid=\[1, 3\]: problems of copy have no two operands"):
        eval_(compose("eval", *asked, "lengths=[2]", "grid=[3,1]", "dataset=copy"))
    with pytest.raises(ConfigError, match=r"^grid: dataset=addition: addition: .* for 3 operands"):
        eval_(compose("eval", *asked, "lengths=[2]", "grid=[3]", "dataset=addition",
                      "dataset.task.operands=3"))  # fmt: skip
    with pytest.raises(ConfigError, match=r"^not allowed: grid: 0, 1.5, 5x5 \(whole numbers"):
        eval_(compose("eval", *asked, "lengths=[2]", "grid=[0,1.5,5x5]"))


def test_a_study_of_both_has_two_tables(task_runs, tiny, capsys):
    train(tiny())
    eval_(compose("eval", f"outputs={task_runs}", "lengths=[2,8]", "model=rope", *EVAL))
    out = capsys.readouterr().out
    assert "exact match in % by problem length" in out and "erplexity" in out
    report(compose("report", f"outputs={task_runs}"))
    out = " ".join(capsys.readouterr().out.split())
    assert "On copy-n_letters=2, trained to length 2, holds to: rope" in out and "Holds to:" in out
    page = (task_runs / "default" / "report" / "report.html").read_text()
    assert "Exact match by problem length: copy-n_letters=2" in page


def test_a_row_of_a_task_has_facts_of_its_run(task_runs):
    (run, *_) = find_runs(task_runs / "default")
    done = json.loads((run.folder / "done.json").read_text())
    assert "exact_match@2" in done["validation"]
    assert check(compose("train", *TRAIN)).train_len == 6
