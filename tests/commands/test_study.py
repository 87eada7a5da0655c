"""`lexp study`: a whole study from one file, run, resumed, failing, refused, planned."""

import csv
import json
import math
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy import stats

from lexp.commands import run_plan
from lexp.commands.evaluate import eval_
from lexp.commands.run_plan import EvalPlan
from lexp.commands.study import command as study_task
from lexp.commands.study.command import check, study
from lexp.commands.study.file import parse_study, spelled
from lexp.commands.study.jobs import training_runs
from lexp.commands.train import train
from lexp.config.schema import plain
from lexp.config.settings import StudyConfig
from lexp.config.sweep import check_jobs
from lexp.evaluate import EVALUATIONS
from lexp.extension import Extension, UniformScale
from lexp.report.expected import parse_expected
from lexp.report.paired import paired_table
from lexp.report.scales import best_scale, fit
from lexp.report.study_results import make_series
from lexp.result_store import read_newest
from lexp.runs import checkpoint
from lexp.runs.run import Run, run_folder
from lexp.system.errors import CheckpointError, ConfigError, LexpError
from lexp.system.files import config_folder
from support.cli import lexp
from support.config import TINY, compose
from support.forked import completed
from support.studies import DOCUMENTS, LENGTHS, Study, bumpy, flat

SIZES = dict(word.split("=") for word in TINY if not word.startswith(("precision", "device")))
TRAIN = {"model": ["rope", "alibi"], "seed": [0, 1], "keep": [[4]], **SIZES}
FILE = {
    "name": "tiny", "claim": "small models run", "source": "this test",
    "deviations": ["everything"],
    "expected": [
        {"source": "a paper", "at": [1, 2], "perplexity": {"rope, full": [10, 30],
                                                             "alibi, full": [10, "OOM"]}},
        {"source": "Table 4", "at": [1], "ratio_to": "rope, full",
         "perplexity": {"rope, full": [20], "alibi, window": [30]}},
        {"source": "its cost", "at": [1], "cost": {"alibi, full": 1.06}, "against": "rope, full"},
        {"source": "why", "instrument": "invariance", "where": {"measure": "scores"},
         "values": {"rope": 0.5}},
    ],
    "scales": {"mini": {
        "train": [TRAIN],
        "eval": [{"lengths": [8, 16, 32], "attention": ["full", "window"]}],
        "analyze": [{"instruments": ["invariance"], "lengths": [16], "texts": 1}],
    }},
}  # fmt: skip


@pytest.fixture
def made(tmp_path: Path, texts: Path):
    """Composes a study from a file that a test makes: made(change to it, override ...)."""

    def make(change=None, *overrides: str):
        node = json.loads(json.dumps(FILE))
        for key, value in (change or {}).items():
            inner = node
            *path, last = key.split("/")
            for part in path:
                inner = inner[int(part) if isinstance(inner, list) else part]
            inner[last] = value
        folder = tmp_path / "conf" / "study"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(node, sort_keys=False))
        data = [f"dataset.{s}='{texts}/{s}/*.txt'" for s in ("train", "validation", "test")]
        return compose(
            "study", f"hydra.searchpath=[file://{tmp_path}/conf]", "study=tiny", "dataset=text",
            *data, "device=cpu", "precision=float32", f"outputs={tmp_path}/outputs", *overrides,
        )  # fmt: skip

    return make


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_runs_end_to_end_and_again_does_nothing(made, tmp_path, capsys):
    study(made())
    folder = tmp_path / "outputs" / "tiny-mini"
    runs = [Run(path.parent) for path in sorted(folder.glob("*/config.json"))]
    assert len(runs) == 4 and all(run.is_done for run in runs)
    assert {run.settings["dataset"]["name"] for run in runs} == {"text"}
    assert "stage 2 of 4: lexp eval" in capsys.readouterr().err
    page = (folder / "report" / "report.md").read_text()
    assert page.index("Claim: small models run") < page.index("Perplexity per token")
    assert "Deviations: (1) everything" in page

    cells = rows_of(folder / "results.csv")
    assert "step" not in cells[0]

    def ppl(model: str, method: str, length: int) -> float:
        key = model, method, str(length)
        own = [float(c["ppl"]) for c in cells if key == (c["model"], c["attention"], c["length"])]
        assert len(own) == 2
        return sum(own) / 2

    def shown(stem: str) -> dict[tuple, dict[str, str]]:
        return {(r["model"], r["method"], r[""]): r for r in rows_of(folder / "report" / stem)}

    first = shown("perplexity--printed-and-ours--a-paper.csv")
    assert first["rope", "full", "printed"]["2x"] == "30.00 (3)"
    assert first["alibi", "full", "printed"]["2x"] == "OOM"
    for model in ("rope", "alibi"):
        base, value = ppl(model, "full", 16), ppl(model, "full", 32)
        ours = first[model, "full", "ours"]
        assert ours["1x"] == f"{base:.2f} (1)" and ours["2x"] == f"{value:.2f} ({value / base:.3g})"
    fourth = shown("perplexity--printed-and-ours--table-4.csv")
    assert fourth["alibi", "window", "printed"]["1x"] == "30.00 (1.5)"
    ratio = ppl("alibi", "window", 16) / ppl("rope", "full", 16)
    assert fourth["alibi", "window", "ours"]["1x"].endswith(f"({ratio:.3g})")
    assert shown("cost--printed-and-ours--its-cost.csv")["alibi", "full", "ours"]["1x"]
    why = rows_of(folder / "report" / "invariance--expected-and-ours--why.csv")[0]
    found = [float(r["value"]) for r in rows_of(folder / "analysis" / "invariance.csv")
             if (r["model"], r["measure"]) == ("rope", "scores")
             and r["method"] == "full"]  # fmt: skip
    assert float(why["ours"]) == pytest.approx(np.mean(found), rel=1e-3) and found

    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/*/**/*.safetensors")}
    before |= {p: p.stat().st_mtime_ns for p in folder.glob("*/eval/*")}
    assert len(before) > 20
    study(made())
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert capsys.readouterr().err.count("is complete, nothing to do") == 4


def test_a_failing_stage_is_shown_and_the_others_go_on(made, tmp_path, capsys):
    diverging = {**TRAIN, "model": "nope", "seed": 0, "lr": 1e30}
    with pytest.raises(LexpError, match="1 failed in .*, the first: ") as caught:
        study(made({"scales/mini/train": [diverging, TRAIN], "expected": []}))
    assert caught.value.exit_code == 6
    shown = capsys.readouterr().err
    assert "lexp: stage 1, lexp train: " in shown and "Traceback" not in shown
    assert (tmp_path / "outputs" / "tiny-mini" / "report" / "report.html").exists()


REFUSED = {
    "stage": ({"scales/mini/eval": [{"lengts": [8]}]}, ["stage 2, lexp eval", "lengts"]),
    "value": ({"scales/mini/eval": [{"lengths": [0]}]}, ["lengths: 0 (whole numbers from 1"]),
    "choice": ({"scales/mini/eval": [{"attention": ["fool"]}]}, ["fool", "full"]),
    "train": ({"scales/mini/train": [{"lr": [1e-3, -1.0]}]}, ["stage 1", "lr=-1.0"]),
    "empty": ({"scales/mini/train": [{"seed": []}]}, ["seed=[] (at least one value)"]),
    "untrained": ({"scales/mini/eval/0/model": "xpos"}, ["model=xpos", "alibi, rope"]),
    "length": ({"expected/0/at": [1, 4]}, ["a paper", "rope, full at 4x under segments"]),
    "method": (
        {"expected/0/perplexity": {"rope, blockwise": [1, 2]}}, ["rope, blockwise at 1x"],
    ),
    "values": ({"expected/0/at": [1]}, ["rope, full has 2 values, at has 1"]),
    "kind": ({"expected": [{"source": "x"}]}, ["perplexity, cost, instrument"]),
    "key": ({"expected/0/when": 1}, ["'when'", "ratio_to"]),
    "instrument": ({"expected/3/instrument": "heads"}, ["no stage makes heads of rope (trained)"]),
    "scale key": ({"scales/mini/evall": []}, ["'evall'", "eval, probe"]),
    "file key": ({"claims": ""}, ["'claims'", "claim"]),
}  # fmt: skip


OTHER_TYPES = {
    "expected": 5, "deviations": 7, "expected ": {"a": 1}, "deviations ": [{"a": 1}],
    "scales": 5, "scales ": [], "scales  ": {}, "scales   ": {1: {}}, "scales/mini": 5,
    "scales/mini ": [], "scales/mini/train": 5, "scales/mini/eval": {"a": 1},
    "scales/mini/probe": "x", "scales/mini/analyze": [1], "scales/mini/flops": "x",
    "scales/mini/flops ": -1, "scales/mini/flops  ": float("nan"), "scales/mini/flops   ": True,
    "scales/mini/results": 5, "scales/mini/results ": "x.txt",
    "scales/mini/expected": "x", "scales/mini/deviations": [[]],
}  # fmt: skip


def of_study(node):
    return StudyConfig(
        name="s", outputs="o", raw={}, dataset=None, tokenizer=None, scale="mini", plan=False,
        flops=None, train={}, eval={}, probe={}, analyze={}, report={}, device="cpu",
        precision="auto", study={"name": "s", "claim": "", "source": "", **node},
    )  # fmt: skip


@pytest.mark.parametrize("key", OTHER_TYPES)
def test_a_value_of_another_type_is_named(key):
    node = {"scales": {"mini": {}}}
    *above, last = key.strip().split("/")
    place = node
    for part in above:
        place = place[part]
    place[last] = OTHER_TYPES[key]
    with pytest.raises(ConfigError, match=f"study s.*{last}|scale=mini: study s has"):
        parse_study(of_study(node))


ROWS = [5, [1], {"a": 5}, {"a": [[1], 2]}, {"a": {"b": 1}}, {1: [1, 2]}, {"a": [10**400, 1]}, None]
COSTS = [5, [1], {"a": [1]}, {"a": {}}, {"a": "x"}, {"a": None}, {1: 1}]
BLOCKS = [
    *({"perplexity": rows, "at": [1, 2]} for rows in ROWS),
    *({"cost": rows, "at": [1], "against": "a"} for rows in COSTS),
    *({"instrument": "heads", "values": rows} for rows in (5, [1], {"a": [1]}, {"a": None})),
    *({"instrument": "heads", "where": where} for where in (5, "x", {"a": []}, {1: "x"})),
    *({"perplexity": {}, "at": at} for at in (5, "12", {1: 2}, [], ["1"], [0], [10**400], [True])),
    "text",
    5,
    [],
    {},
    {"source": 5, "cost": {}},
]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_an_expected_block_of_another_type_is_named(block):
    if isinstance(block, dict):
        block = {"source": "a paper", **block}
    with pytest.raises(ConfigError, match=r"^expected"):
        parse_expected(block)


ELSEWHERE = [
    *("outputs", "+outputs", "++outputs", "~outputs", "name", "++name"),
    *("hydra.sweep.dir", "hydra.verbose", "hydra/launcher", "+hydra.launcher.setup"),
    *("dataset@_global_", "+dataset@outputs", "dataset@x:outputs", "+dataset@hydra.launcher"),
    *("seed=0 outputs", "outputs ", "'outputs'", "", 1, True),
]


REFUSES_A_KEY = "(train|eval|probe|analyze|report): .*(cannot be set by a stage|is no key)"


@pytest.mark.parametrize("key", ELSEWHERE)
@pytest.mark.parametrize("command", ["train", "eval", "probe", "analyze", "report"])
def test_no_stage_says_where_is_written(command, key):
    stages = [{"model": "rope"}, {key: "/victim"}]
    settings = of_study({"scales": {"mini": {command: stages}}})
    with pytest.raises(ConfigError, match=REFUSES_A_KEY):
        parse_study(settings)
    typed = replace(settings, study=_without_stages(settings), **{command: {key: "/victim"}})
    with pytest.raises(ConfigError, match=REFUSES_A_KEY):
        parse_study(typed)


def _without_stages(settings):
    command = next(iter(settings.study["scales"]["mini"]))
    return {**settings.study, "scales": {"mini": {command: [{}]}}}


@pytest.mark.parametrize("case", REFUSED)
def test_a_study_file_that_is_wrong_is_refused_before_any_work(case, made, tmp_path):
    change, words = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        study(made(change))
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "outputs").exists()


COMMANDS = {
    "study": ["study= is missing; there are alibi, ", " context_extension, "],
    "study study=lexx": ["no study 'lexx'", "lex"],
    "study study=lex scale=huge": ["scale=huge", "mini, small, paper"],
    "study study=lex sacle=mini": ["no key 'sacle'", "did you mean scale"],
    "study study=lex +train.tokens=0": ["stage 1", "tokens=0"],
    "study study=lex flops=-1": ["flops=-1.0"],
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_wrong_command_ends_in_one_line(line, tmp_path):
    result = completed(*line.split(), cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("lexp: ")
    for word in COMMANDS[line]:
        assert word in result.stderr


def test_what_the_command_line_adds_reaches_every_stage(made):
    more = "+train.tokens=1280", "+train.seed=[3]", "+eval.lengths=[16,32]", "name=other"
    _, chosen, jobs = check(made({}, *more))
    trained = training_runs(jobs)
    assert {(run.tokens, run.seed, run.name) for run in trained} == {(1280.0, 3, "other")}
    assert len(trained) == 2
    (scored,) = [job.plan.config for job in jobs if isinstance(job.plan, EvalPlan)]
    assert scored.lengths == (16, 32) and scored.device == "cpu"
    assert chosen.stages[0].values["keep"] == [[4]]


def test_a_study_plans_each_job_once_and_hands_the_plans_on(made, monkeypatch):
    planned, done = [], []
    original = run_plan.make_methods

    def counted(config):
        planned.append(config)
        return original(config)

    monkeypatch.setattr(run_plan, "make_methods", counted)
    for name in ("train_run", "evaluate_runs", "probe_runs", "analyze_runs", "write_report"):
        monkeypatch.setattr(study_task, name, lambda plan, *texts: done.append(plan))
    study(made())
    evaluations = [plan for plan in done if isinstance(plan, EvalPlan)]
    assert len(evaluations) == 1 and [plan.config for plan in evaluations] == planned
    assert [type(plan).__name__ for plan in done if plan not in evaluations] == [
        *["TrainConfig"] * 4, "AnalysisPlan", "ReportConfig",
    ]  # fmt: skip


VALUES = [None, True, 3, 2.5e-7, "word", "a b", "it's", "x/*.txt", "a,b", "[x]", "true", "1e3", "",
          ["a", 1, ["b,c"]], {"k": "v w"}, "ünï=1", 1e15]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_values_are_spelled_as_hydra_reads_them(value):
    override = OverridesParser.create().parse_override(f"key={spelled(value)}")
    assert not override.is_sweep_override() and override.value() == value
    assert type(override.value()) is type(value)


def test_another_launcher_gets_the_same_jobs_as_one_sweep(made, monkeypatch, capsys):
    """What is handed to `lexp train -m` is read back as the jobs that would have run here."""
    _, chosen, jobs = check(made())
    trained = [job for job in jobs if job.stage.command == "train"]
    asked = []

    def run(command, env):
        asked.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(study_task.subprocess, "run", run)
    problems = study_task._launch(chosen.stages[0], trained, ["hydra/launcher=slurm"])
    (command,) = asked
    command.remove("-P")
    assert command[1:5] == ["-m", "lexp", "train", "-m"] and command[-1] == "hydra/launcher=slurm"
    found = []
    check_jobs(config_folder(), "train", command[5:], lambda c: found.append(plain(c)))
    assert sorted(map(str, found)) == sorted(str(job.plan.raw) for job in trained)
    assert [error.exit_code for error in problems] == [7]
    for job in trained:  # nothing is launched where nothing is left
        folder = run_folder(job.plan.study_folder, job.plan.raw)
        (folder / "checkpoints/step-00000010").mkdir(parents=True)
        (folder / "done.json").write_text("{}")
    assert study_task._launch(chosen.stages[0], trained, []) == [] and len(asked) == 1


def test_the_commands_it_names_can_be_typed(made, capsys):
    study(made({"scales/mini/analyze": [], "expected": []}))
    shown = capsys.readouterr().err
    (line,) = [one for one in shown.splitlines() if "stage 2 of 3: " in one]
    words = shlex.split(line.split("stage 2 of 3: ")[1])
    assert words[:2] == ["lexp", "eval"] and "lengths=[8,16,32]" in words
    assert lexp(*words[1:], "--cfg", "job").returncode == 0


@pytest.mark.parametrize("damage", ["{", "[]", '{"name": 1}', "[" * 100_000])
def test_a_damaged_record_is_named(damage, evaluated):
    from lexp.commands.report import report

    (evaluated / "study.json").write_text(damage)
    with pytest.raises(CheckpointError, match="study.json is not what `lexp study` writes"):
        report(compose("report", f"outputs={evaluated.parent}"))


# Checkpoints of several steps.


def test_kept_checkpoints_are_scored_each_with_its_own_weights(tiny, tmp_path):
    train(tiny("keep=4"))
    where = [f"outputs={tmp_path}/outputs", "device=cpu", "precision=float32", "lengths=[8,16,32]"]
    folder = tmp_path / "outputs" / "default"
    eval_(compose("eval", *where, "attention=[full]"))
    plain_table = (folder / "results.md").read_text()
    assert "step" not in rows_of(folder / "results.csv")[0]
    eval_(compose("eval", *where, "attention=[full]", "checkpoints=all"))
    rows = rows_of(folder / "results.csv")
    assert {row["step"] for row in rows} == {"4", "8", "-1"} and len(rows) == 9
    run = Run(next(folder.glob("*/config.json")).parent)
    by_step = {}
    for row in rows:
        by_step.setdefault(row["step"], {})[row["length"]] = float(row["nll"])
    probes = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert probes and len({tuple(v.items()) for v in by_step.values()}) == 3
    # A run stopped at step 4 has the same weights there, and is scored by the unchanged path.
    found = checkpoint.at_steps(run.checkpoints, [4])[0]
    alone = tmp_path / "alone" / "default" / run.name
    alone.mkdir(parents=True)
    config = {**run.config, "settings": {**run.settings, "tokens": 4 * 64}}
    (alone / "config.json").write_text(json.dumps(config))
    (alone / "done.json").write_bytes((run.folder / "done.json").read_bytes())
    (alone / "checkpoints").mkdir()
    found.path.rename(alone / "checkpoints" / found.path.name)
    eval_(compose("eval", f"outputs={tmp_path}/alone", *where[1:], "attention=[full]"))
    for row in rows_of(tmp_path / "alone" / "default" / "results.csv"):
        assert float(row["nll"]) == by_step["4"][row["length"]]
    eval_(compose("eval", *where, "attention=[full]"))  # as before, though more is there
    assert (folder / "results.md").read_text() == plain_table
    with pytest.raises(CheckpointError, match="no checkpoint of step 5; it has: 8, 10"):
        eval_(compose("eval", *where, "checkpoints=[5]"))
    with pytest.raises(ConfigError, match=r"checkpoints=first \(last, all, or a list of steps\)"):
        eval_(compose("eval", *where, "checkpoints=first"))


def test_reach_and_rise_over_training_are_those_of_each_checkpoint(tmp_path):
    """Loss 2 at the trained length; past it 0, 0.1 or 0.3 nats more: the last step is the worst."""
    made = Study(tmp_path)
    steps, rises = (1, 5, -1), (0.0, 0.1, 0.3)
    for seed in (0, 1):
        run = made.run("rope", seed, "batch_tokens=256", "tokens=2560")
        for step, rise in zip(steps, rises, strict=True):
            for length in LENGTHS:
                nats = flat(2.0 + rise * (length > 256))
                made.cell(run, length, nats, step=step)
    folder = made.report()
    named = {key: made.named(f"{key} over training, segments-1024")["rope", "full"]
             for key in ("Reach", "Rise", "Gain")}  # fmt: skip
    assert [named["Reach"][f"step {n}"] for n in (1, 5, 10)] == ["≥ 1024", "256", "256"]
    assert [float(named["Rise"][f"step {n}"]) for n in (1, 5, 10)] == [0.0, 0.1, 0.3]
    assert named["Rise"]["rank correlation with the step"] == "+1.00"
    ordinary = made.table("Perplexity per token, segments-1024")
    assert len(ordinary) == 1 and ordinary[0]["1024"].startswith(f"{math.exp(2.3):.2f}")
    assert (folder / "report.html").exists()


# What studies add to a report.


def test_the_paired_t_test_is_scipys(tmp_path):
    made, rng = Study(tmp_path), np.random.default_rng(0)
    shifts = {"rope": rng.normal(0, 0.02, 5), "alibi": rng.normal(-0.03, 0.02, 5)}
    for model, own in shifts.items():
        for seed, shift in enumerate(own):
            made.line(made.run(model, seed), {256: bumpy() + shift, 512: bumpy() + shift / 2})
    found = make_series(read_newest(made.folder, EVALUATIONS), {})
    table = paired_table(found, "rope")
    assert table is not None and len(table.rows) == 1
    expected = stats.ttest_rel(shifts["alibi"], shifts["rope"]).pvalue
    difference = float(np.mean(shifts["alibi"] - shifts["rope"]))
    text = table.rows[0][2].text
    value, p = text.rstrip(")").split(" (p ")
    assert float(value) == pytest.approx(difference, abs=1e-4)
    assert float(p) == pytest.approx(expected, rel=0.06)
    assert table.rows[0][3].text.split(" ")[0] == f"{difference / 2:+.4f}"
    assert DOCUMENTS > 1 and paired_table(found, "nope") is None
    few = make_series(read_newest(made.folder, EVALUATIONS), {})
    for series in few:
        for by_seed in series.results.values():
            for seed in (2, 3, 4):
                del by_seed[seed]
    assert paired_table(few, "rope") is None  # two seeds


def test_the_best_scale_is_the_vertex_and_the_fit_recovers_its_slope():
    grid = [1.0, 1.2, 1.5, 1.8, 2.2]
    for wanted in (1.3, 1.61, 1.75):
        scale, _, inside = best_scale({s: 4 + (s - wanted) ** 2 for s in grid})
        assert inside and scale == pytest.approx(wanted)
    assert best_scale({s: s for s in grid}) == (1.0, 1.0, False)
    assert best_scale({s: -s for s in grid}) == (2.2, -2.2, False)
    c, r2 = fit({x: 1 + 0.3973 * math.log(x) for x in (2, 4, 8)})
    assert c == pytest.approx(0.3973) and r2 == pytest.approx(1)
    noisy = {2: 1.2, 4: 1.5, 8: 1.8}
    x, s = np.log(list(noisy)), np.array(list(noisy.values()))
    assert fit(noisy)[0] == pytest.approx(np.linalg.lstsq(x[:, None], s - 1, rcond=None)[0][0])


def test_scales_of_a_model_become_a_table_with_the_fit(tmp_path):
    made = Study(tmp_path)
    run = made.run("nope")
    truth = {512: 1 + 0.5 * math.log(2), 1024: 1 + 0.5 * math.log(4)}
    for scale in (1.0, 1.2, 1.5, 2.0):
        extension = Extension() if scale == 1 else UniformScale(scale)
        for length, best in truth.items():
            made.cell(run, length, flat(3 + (scale - best) ** 2), extension=extension)
        made.cell(run, 256, flat(3 + (scale - 1) ** 2), extension=extension)
    made.report()
    rows = made.table("Best uniform scale, nope, segments-1024")
    assert [row["length"] for row in rows] == ["512", "1024"]
    assert [float(row["best s"]) for row in rows] == pytest.approx(list(truth.values()), abs=2e-3)
    assert [float(row["fit"]) for row in rows] == pytest.approx(list(truth.values()), abs=2e-3)
    page = (made.folder / "report" / "report.md").read_text()
    assert "s = 1 + 0.5000 ln(N / L), R² 1.000" in page
