"""Every study file composes, refers to what exists, and plans; what it prints is what papers do."""

import re
from functools import cache
from unittest.mock import patch

import pytest
import yaml

from lexp.commands.run_parts import make_entries
from lexp.commands.run_plan import EvalPlan
from lexp.commands.study import cost as study_weight
from lexp.commands.study import jobs as study_jobs
from lexp.commands.study.command import check, study
from lexp.commands.study.jobs import places, training_runs
from lexp.config.job_configs import JobConfigs
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.display.terminal import TableConsole
from lexp.extension import HeadScale
from lexp.model.layers import in_turns
from lexp.pattern import Blockwise, Full, Trained, Window
from lexp.report.expected import Perplexities, blocks_of, split_name
from lexp.report.expected_tasks import Answers, Ranks
from lexp.report.published import load_published
from lexp.runs.run import variant
from support import ROOT
from support.config import compose
from support.study_files import EACH, NAMES, SCALES

CONF = ROOT / "conf"


SHARED: dict[str, JobConfigs] = {}  # by command


def job_configs(loader, word: str) -> JobConfigs:
    """Share what is composed among all studies: their jobs differ mostly in values."""
    if word not in SHARED:
        SHARED[word] = JobConfigs(loader, word)
    return SHARED[word]


@cache
def checked(name: str, scale: str):
    """Settings, study and jobs; composing takes a while and changes nothing."""
    with patch.object(study_jobs, "JobConfigs", job_configs):
        return check(compose("study", f"study={name}", f"scale={scale}", "outputs=nowhere"))


def test_the_studies_of_the_issue_are_there():
    assert sorted([
        "lex", "nope_variance", "tisa", "kerple", "alibi", "nope_length", "context_extension",
        "training_dynamics", "zoo", "tisa_mlm", "hybrid", "mixers", "pe_length_generalisation",
        "carry", "randomized", "robust_addition", "reference", "content_decay",
    ]) == NAMES  # fmt: skip


@pytest.mark.parametrize(("name", "scale"), EACH)
def test_every_file_composes_and_is_planned(name, scale, monkeypatch, capsys):
    """In one test, as composing a study takes seconds and each process of the tests does it anew.

    All models, methods and instruments exist; `check` refuses a number that no stage makes.
    """
    settings, chosen, jobs = checked(name, scale)
    commands = [stage.command for stage in chosen.stages]
    assert {"train", "eval", "report"} <= set(commands) and commands[-1] == "report"
    assert chosen.claim and chosen.source and chosen.deviations and chosen.time
    assert (chosen.flops is None) == (scale == "mini")
    sizes = {run.size.name for run in training_runs(jobs)}
    assert sizes <= ({"nano"} if scale == "mini" else {"small", "medium"})
    monkeypatch.setattr(study_weight, "pilot", lambda settings, weight: 1e11)
    study_weight.print_cost(chosen, jobs, settings, TableConsole(width=200))
    shown = capsys.readouterr().out
    for head in ("jobs", "done", "tokens", "FLOPs", "time", "hours", "disk"):
        assert head in shown
    total = next(line for line in shown.splitlines() if "│ all" in line).split("│")
    hours = float(total[7])
    assert hours > 0
    if scale == "mini":
        # At 1e11 FLOPs a second: nano trains so on one idle core.
        assert hours < {"reference": 4, "zoo": 1, "content_decay": 1}.get(name, 20 / 60)
    if scale == "small":
        assert hours < 1


@pytest.mark.parametrize("name", NAMES)
def test_every_file_opens_with_claim_command_time_expected_and_deviations(name):
    text = (CONF / "study" / f"{name}.yaml").read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    for word in ("claim", "command", "time", "expected", "deviations"):
        assert any(re.match(rf"#   {word} ", line) for line in head), word
    assert f"lexp study study={name} scale=mini" in "".join(head)
    assert yaml.safe_load(text)["name"] == name


def test_plan_trains_nothing_and_measures_here_what_it_is_not_told(capsys, tmp_path):
    outputs = tmp_path / "outputs"
    more = ["plan=true", f"outputs={outputs}", "device=cpu"]
    study(compose("study", "study=nope_variance", "scale=mini", *more))
    measured = capsys.readouterr().out
    assert "what a few training steps took on this machine" in measured and "?" not in measured
    study(compose("study", "study=nope_variance", "scale=mini", "flops=1e9", *more))
    told = capsys.readouterr().out
    # 4 runs of 244 steps of 4096 tokens: 6 P + 6 layers inner (L + 1) FLOPs each.
    parameters = 4 * (4 * 128 * 128 + 2 * 128 * 512 + 2 * 128) + 128 + 256 * 128
    flops = 4 * 244 * 4096 * (6 * parameters + 6 * 4 * 128 * 129)
    row = next(line for line in told.splitlines() if "1 train" in line).split("│")
    assert float(row[5]) == pytest.approx(flops, rel=5e-3)
    assert float(row[7]) == pytest.approx(flops / 1e9 / 3600, rel=5e-3)
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("model", "method", "keys"),
    [
        # Four layers at length 64, trained at 16 tokens: windows of 4 and full attention, (64 + 1)
        # / 2 keys on average; BCA sees the block of 8 before and (8 + 1) / 2 keys of its own.
        ("rope", Full(), 4 * 32.5),
        ("rope", Trained(), 4 * 32.5),
        ("rope", Window(), 4 * 16),
        ("swan", Trained(), 3 * 4 + 32.5),
        ("swan", Blockwise(), 3 * 4 + 8 + 4.5),
        ("qwen3_next", Full(), 32.5),
        ("gemma3", Trained(), 4 * 4),
        ("gla", Trained(), 0),
        ("gla", Full(), None),  # not defined
    ],
)
def test_reading_costs_what_each_layer_sees(model, method, keys):
    overrides = [f"model={model}", "train_len=16", "size.n_layers=4"]
    weight = study_weight.weigh(read_train(plain(compose("train", *overrides))), 1e9)
    expected = 0 if keys is None else 2 * weight.n_active + 4 * 128 * keys  # 4 heads of 32
    assert weight.forward(64, method) == pytest.approx(expected, rel=1e-9)


def test_a_fit_costs_its_steps_once():
    """HeadScale at four lengths: 200 steps of 8 windows, of NoPE and RoPE with two seeds each.

    A backward pass through frozen weights costs as much again as the forward pass in products with
    weights (2 FLOPs a parameter), and twice that in attention (4 a layer, channel and key).
    """
    _, _, jobs = checked("nope_length", "mini")
    (plan,) = [
        job.plan for job in jobs if isinstance(job.plan, EvalPlan)
        and any(isinstance(method.extension, HeadScale) for method in job.plan.methods)
    ]  # fmt: skip
    runs = training_runs(jobs)
    weighed = [(run, study_weight.weigh(run, 1e9)) for run in runs]
    need, counted = study_weight.StageCost("eval"), set()
    study_weight._add_fits(need, plan, weighed, counted)
    lengths = (128, 256, 512, 1024)
    assert need.n_tokens == 4 * 200 * 8 * sum(lengths) == 12_288_000
    active = weighed[0][1].n_active
    inner = 4 * 128  # 4 layers of 4 heads of 32
    each = [200 * 8 * n * (4 * active + 12 * inner * (n + 1) / 2) for n in lengths]
    assert need.flops == pytest.approx(4 * sum(each))
    assert need.seconds == pytest.approx(need.flops / 1e9)
    study_weight._add_fits(need, plan, weighed, counted)  # another stage with the same fits
    assert need.n_tokens == 12_288_000


def test_lengths_of_a_task_are_problems_where_its_cost_is_counted():
    _, _, jobs = checked("pe_length_generalisation", "mini")
    (evaluation,) = [job.plan for job in jobs if isinstance(job.plan, EvalPlan)]
    copying = [run for run in training_runs(jobs) if run.dataset.name == "copy"]
    weighed = [(run, study_weight.weigh(run, 1e9)) for run in copying]
    need = study_weight.StageCost("eval")
    study_weight._add_reading(need, evaluation, weighed)
    # 15 runs read 512 problems of each length, of 2 length + 2 tokens each.
    rows = sum(2 * length + 2 for length in evaluation.lengths)
    assert need.n_tokens == 15 * 512 * rows
    assert study_weight._tokens(evaluation, 22, is_task=True) == (512 * 11, 512 * 22)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (Ranks("p", "", {"nope": 0.7, "tisa": 0.5}), ["tisa beyond its trained length"]),
        (Answers("p", "", "copy", 2, {"rope": 98, "alibi": "-"}), []),
        (Answers("p", "", "copy", 2.5, {"rope": 98}), ["rope on copy at 2.5x"]),
        (Answers("p", "", "addition", 2, {"rope": 98}), ["rope on addition at 2x"]),
    ],
)
def test_numbers_of_tasks_refer_to_what_is_asked(block, words):
    _, _, jobs = checked("pe_length_generalisation", "mini")
    assert study_jobs._not_made(block, jobs) == words


def test_content_decay_shares_runs_and_cells_with_reference():
    """Rows of one results file serve both studies: its runs are told by settings and seed alone."""
    _, ours, jobs = checked("content_decay", "mini")
    _, other, reference = checked("reference", "mini")
    assert ours.results == other.results
    theirs = {(variant(run.raw), run.seed) for run in training_runs(reference)}
    own = [r for r in training_runs(jobs) if (variant(r.raw), r.seed) not in theirs]
    assert sorted(run.model.name for run in own) == ["cable", "selective_rope", "wall"]
    shared = {"rope", "alibi", "fox", "path"}
    cells = [
        {place for place in places(study) if place[0].split(",")[0] in shared}
        for study in (jobs, reference)
    ]
    assert cells[0] == cells[1]


def test_the_zoo_has_every_scheme():
    _, _, jobs = checked("zoo", "mini")
    models = [run.model.name for run in training_runs(jobs)]
    # Two take their positions from tasks; the zoo has texts.
    expected = {path.stem for path in (CONF / "model").glob("*.yaml")} - {"abacus", "coupled"}
    assert set(models) == expected
    # Five seeds of three say which differences between the others may be read.
    seeds = {name: models.count(name) for name in expected if models.count(name) > 1}
    assert seeds == {"rope": 5, "alibi": 5, "nope": 5}


def test_the_zoo_has_every_method_that_needs_no_fit():
    _, _, jobs = checked("zoo", "mini")
    plans = [job.plan for job in jobs if isinstance(job.plan, EvalPlan)]
    patterns = {name for plan in plans for name in plan.config.attention}
    extensions = {name for plan in plans for name in plan.config.extension}
    both_ways = {"bidirectional", "bidirectional_blockwise", "bidirectional_window"}
    fitted = {"longrope", "head_scale", "fitted_scale"}
    assert patterns == {path.stem for path in (CONF / "attention").glob("*.yaml")} - both_ways
    assert extensions == {path.stem for path in (CONF / "extension").glob("*.yaml")} - fitted


@pytest.mark.parametrize("scale", SCALES)
def test_training_dynamics_has_a_plain_window_beside_every_gain(scale):
    """Without one nobody can tell longer context from fewer early tokens."""
    _, _, jobs = checked("training_dynamics", scale)
    patterns = [set(job.plan.config.attention) for job in jobs if isinstance(job.plan, EvalPlan)]
    assert patterns == [{"full", "blockwise", "window"}]


# Layers of eight that see every earlier key in training.
GLOBAL = {
    "rope": range(8), "nope": range(8), "rope_local": (), "gemma3": (5,),
    "swan": (3, 7), "rnope_swa": (3, 7), "irope": (3, 7),
}  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
def test_every_hybrid_has_its_global_layers(scale):
    runs = training_runs(checked("hybrid", scale)[2])
    assert sorted(run.model.name for run in runs) == sorted([*GLOBAL, "irope"])
    for run in runs:
        patterns = in_turns([entry.pattern for entry in make_entries(run)], run.size.n_layers)
        is_global = tuple(n for n, pattern in enumerate(patterns) if isinstance(pattern, Full))
        assert {n for n in is_global if n < 8} == set(GLOBAL[run.model.name]), run.model.name
        assert run.size.n_layers >= 8


@pytest.mark.parametrize("scale", SCALES)
def test_a_temperature_is_compared_with_none(scale):
    """iRoPE is trained with its own and without; the others are read with log n and without."""
    _, _, jobs = checked("hybrid", scale)
    strengths = {
        run.model.layers[3].position.values["strength"]
        for run in training_runs(jobs)
        if run.model.name == "irope"
    }
    assert strengths == {0.0, 0.1}
    read = {name for name, _, _ in places(jobs)}
    for model in ("rope", "nope", "swan", "rnope_swa", "gemma3"):
        assert {f"{model}, full", f"{model}, full log_n"} <= read


@pytest.mark.parametrize("name", ["hybrid", "mixers"])
@pytest.mark.parametrize("scale", SCALES)
def test_the_baseline_is_named_and_read_in_blocks_and_in_a_window_of_the_trained_length(
    name, scale
):
    _, chosen, jobs = checked(name, scale)
    read = places(jobs)
    farthest = max(at for _, _, at in read)
    assert farthest >= 8
    as_trained = "full" if name == "hybrid" else "trained"
    for method in (as_trained, "blockwise", "window"):
        assert {at for row, _, at in read if row == f"rope, {method}"} >= {1, farthest}
    for job in jobs:
        if isinstance(job.plan, EvalPlan):
            of_rope = "rope" in job.plan.config.model or job.plan.config.model == "rope"
            windows = [m.pattern for m in job.plan.methods if m.label == "window" and of_rope]
            assert all(pattern == Window() for pattern in windows)  # of the trained length
            assert [protocol.name for protocol in job.plan.protocols] == ["fixed"]
    assert chosen.stages[-1].values["baseline"] == "rope"
    assert "the baseline" in " ".join(chosen.deviations) and "`rope, window`" in str(
        chosen.deviations
    )


@pytest.mark.parametrize("name", ["hybrid", "mixers"])
@pytest.mark.parametrize("scale", SCALES)
def test_models_are_compared_at_one_budget(name, scale):
    """Parameters to 0.5 %, as the deviations of the study say, and the same tokens and steps."""
    runs = training_runs(checked(name, scale)[2])
    budgets = {
        (r.tokens, r.n_steps, r.batch_tokens, r.train_len, r.lr, r.size.n_layers) for r in runs
    }
    assert len(budgets) == 1
    n_tokens = 256 if scale == "mini" else 50257
    counts = {run.model.name: study_weight.n_parameters(run, n_tokens) for run in runs}
    for model, count in counts.items():
        assert count == pytest.approx(counts["rope"], rel=5e-3), model


# Where a study's numbers were printed: arXiv number, trained length, and lengths that the paper
# prints beside those that stand for them in the study file.
PRINTED = {
    "lex": ("2212.10554", 1024, {}),
    "kerple": ("2205.09921", 512, {}),
    "zoo": ("2205.09921", 512, {}),
    "alibi": ("2108.12409", 512, {1024: 1012, 2560: 2512}),
}


@pytest.mark.parametrize("name", PRINTED)
def test_printed_perplexities_are_those_of_the_published_tables(name):
    """Against lexp/report/published/*.csv, which were typed in from the papers at another time."""
    arxiv, train_len, other = PRINTED[name]
    known: dict[tuple, set[float]] = {}
    for row in load_published():
        if (row.arxiv, row.train_len) == (arxiv, train_len):
            sliding, text = row.protocol.startswith("sliding"), row.dataset.split(" ")[0]
            if text in ("OpenWebText2", "WikiText-103", "arXiv"):
                key = row.model, row.method, row.length, sliding
                known.setdefault(key, set()).add(row.value)
    node = yaml.safe_load((CONF / "study" / f"{name}.yaml").read_text())
    n_compared = 0
    for block in blocks_of(node):
        if not isinstance(block, Perplexities) or "Table 4" in block.source:
            continue
        sliding = block.protocol == "sliding"
        for row, values in block.rows.items():
            model, method = split_name(row)
            for at, value in zip(block.at, values, strict=True):
                length = int(at * train_len)
                length = length if sliding else other.get(length, length)
                for given in (method, "full") if at <= 1 else (method, "unstated"):
                    printed = known.get((model, given, length, sliding), set())
                    assert not printed or value in printed, (row, at, value, printed)
                    n_compared += bool(printed)
    assert n_compared >= 15


def test_parameters_are_counted_as_they_are_made():
    """For every scheme, and for sizes whose head width is not theirs over the number of heads."""
    from lexp.commands.run_parts import make_model
    from lexp.config.validation import read_composed_train

    for path in sorted((CONF / "model").glob("*.yaml")):
        of_task = "task: null" in path.read_text(encoding="utf-8")
        where = ("dataset=addition", "dataset.task.reverse=true") if of_task else ("train_len=32",)
        settings = read_composed_train(compose(
            "train", f"model={path.stem}", "size.d_ff=96", *where,
            "batch_tokens=4096", "size.head_dim=16",
        ))  # fmt: skip
        made = sum(p.numel() for p in make_model(settings, 300).parameters())
        assert study_weight.n_parameters(settings, 300) == made, path.stem
