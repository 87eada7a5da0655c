"""Configs: every YAML composes and builds; what is not allowed is named before any work."""

from pathlib import Path

import pytest
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from lexp.commands import evaluate as eval_task
from lexp.commands import train as train_task
from lexp.config import sweep
from lexp.config.instantiate import build
from lexp.config.schema import TrainSchema, _convert, check_types, is_as_declared, plain
from lexp.config.sweep import check_jobs
from lexp.pattern import Blockwise, Pattern
from lexp.position import Position, RoPE, XPos
from lexp.runs.run import Run, open_run, run_name, run_notes, variant, variant_notes
from lexp.system.errors import ConfigError
from support import ROOT
from support.config import choices, compose, refusal

CONF = ROOT / "conf"
NEEDS = {
    ("model", "abacus"): ["dataset=addition", "dataset.task.reverse=true"],
    ("model", "coupled"): ["dataset=addition", "dataset.task.reverse=true"],
    ("dataset", "hub"): ["dataset.path=some/set"],
    ("dataset", "text"): ["dataset.path=some"],
    ("tokenizer", "file"): ["tokenizer.path=tokenizer.json"],
}


@pytest.mark.parametrize(
    ("group", "choice"),
    [(g, c) for g in ("model", "trunk", "size", "dataset", "tokenizer") for c in choices(g)],
)
def test_every_choice_of_lexp_train_composes_builds_and_is_named_as_its_file(group, choice):
    config = compose("train", f"{group}={choice}", *NEEDS.get((group, choice), []))
    settings = train_task.check(config)
    assert getattr(settings, group).name == choice
    assert choice in run_name(settings.raw) or group == "tokenizer" or choice == "gpt"


@pytest.mark.parametrize("choice", choices("attention"))
def test_every_attention_of_lexp_eval_composes_and_builds(choice):
    plan = eval_task.check(compose("eval", f"attention=[{choice}]"))
    assert list(plan.config.attention) == [choice]
    (method,) = plan.methods
    assert method.pattern.label == choice


@pytest.mark.parametrize("choice", choices("extension"))
def test_every_extension_of_lexp_eval_composes_and_builds(choice):
    needs = ["extension.longrope.divisors=[1,2.5]"] if choice == "longrope" else []
    plan = eval_task.check(compose("eval", "attention=[full]", f"extension=[{choice}]", *needs))
    (method,) = plan.methods
    assert method.extension.name == choice


def test_eval_takes_several_patterns_and_their_sizes():
    config = compose("eval", "attention=[full,blockwise]", "attention.blockwise.block=32")
    node = plain(config)["attention"]["blockwise"]
    assert build(node, Pattern, "attention.blockwise") == Blockwise(32)


def test_values_live_in_yaml_only_every_key_has_one():
    for word in ("train", "eval"):
        config = compose(word)
        missing = OmegaConf.missing_keys(config)
        assert missing == set(), f"{word}: {missing}"


TRAIN_REFUSED = {
    "lr=nan": "lr=nan",
    "lr=1e400": "lr=inf",
    "lr=0": "lr=0.0",
    "tokens=0": "tokens=0.0",
    "tokens=100": "tokens=100 (at least batch_tokens=",
    "batch_tokens=100": "multiple of train_len * accumulation = 128: 128)",
    "train_len=0": "train_len=0",
    "train_len=100000000": "at most",
    "accumulation=0": "accumulation=0",
    "seed=-1": "seed=-1",
    "seed=99999999999999999999": "seed=",
    "optim.beta1=1.5": "optim.beta1=1.5 (from 0 to below 1)",
    "optim.clip=-1": "optim.clip=-1.0",
    "optim.schedule=sawtooth": "optim.schedule=sawtooth (one of cosine, linear",
    "precision=fp7": "precision=fp7 (one of auto, float32, bfloat16)",
    "device=tpu": "device=tpu (one of",
    "stall_min=0": "stall_min=0.0 (a finite number above 0)",
    "wandb=on": "wandb=on (one of off, offline, online)",
    "name=../x": "name='../x'",
    "name=''": "name=''",
    "model.position.base=abc": "model.position.base='abc': expected float",
    "model.position.head_dim=7": "as size.head_dim=32, which it follows",
    "model.position.head_dim=true": "model.position.head_dim=True: expected int",
    "+model.position.foo=1": "RoPE takes head_dim, base; unknown: foo",
    "~model.position.head_dim": "missing: head_dim",
    "model.position.base=nan": "model.position.base=nan",
    "model.position.base=0": "base above 0",
    "size.n_layers=0": "size: model sizes must be at least 1",
    "optim.matrices=sgd": "optim.matrices=sgd (one of adamw, muon)",
    "optim.matrix_lr=0": "optim.matrix_lr=0.0 (a finite number above 0)",
    "optim.momentum=1": "optim.momentum=1.0 (from 0 to below 1)",
    "optim.decay=2": "optim.decay=2.0 (from 0 to 1)",
    "recompute_layers=5": "recompute_layers=5 (auto, or from 0 to size.n_layers=4)",
    "recompute_layers=some": "recompute_layers=some (auto",
    "optim.beta2=1": "optim.beta2=1.0 (from 0 to below 1)",
    "model.name=../../elsewhere": "model.name='../../elsewhere'",
    "model.name=a/b": "model.name='a/b'",
    "dataset.name=null": "dataset.name=None",
    "+foo=1": "foo",
    "+size.foo=1": "foo",
    "+optim.foo=1": "foo",
}


@pytest.mark.parametrize("override", TRAIN_REFUSED)
def test_values_lexp_train_refuses(override):
    assert TRAIN_REFUSED[override] in refusal(train_task.check, "train", override)


GIVEN = {
    "export": ("run=a", "to=b"), "finetune": ("run=a", "task=glue/rte"), "harness": ("tasks=[a]",),
}  # fmt: skip


@pytest.mark.parametrize(
    "word",
    ["train", "eval", "probe", "analyze", "harness", "report", "status", "finetune", "export",
     "generate", "data"],
)  # fmt: skip
def test_a_key_that_is_added_is_refused_by_every_command(word):
    with pytest.raises(ConfigError, match="no key 'foo'; there are .*(outputs|run)"):
        plain(compose(word, *GIVEN.get(word, ()), "+foo=1"))


EVAL_REFUSED = {
    "lengths=[0,-5,abc]": ["0, -5, abc", "whole numbers from 1"],
    "lengths=[]": ["lengths=[]"],
    "lengths=[64,64]": ["64 (each once)"],
    "lengths=[1.5]": ["1.5"],
    "lengths=[1000000000000]": ["1000000000000"],
    "lengths=[true]": ["True"],
    "lengths=[64\t128]": ["with commas: 'lengths=[64,128]'"],
    "protocol=[]": ["protocol=[] (at least one of its choices)"],
    "protocol=[sliding] protocol.sliding.stride=65": ["stride=65 is more than the shortest"],
    "protocol=[fixed] protocol.fixed.block=0": ["protocol.fixed: block must be at least 1, got 0"],
    "workers=0": ["workers=0 (auto, or a whole number from 1)"],
    "workers=some": ["workers=some"],
    "max_tokens=0": ["max_tokens=0"],
    "max_tokens=inf": ["max_tokens=inf"],
    "model=7": ["model=7"],
    "model=[]": ["model=[]"],
    "attention.blockwise.block=0": ["attention.blockwise: block must be at least 1, got 0"],
    "attention.blockwise.block=1.5": ["attention.blockwise.block=1.5"],
    "name=a/b": ["name='a/b'"],
}


@pytest.mark.parametrize("override", EVAL_REFUSED)
def test_values_lexp_eval_refuses(override):
    said = refusal(eval_task.check, "eval", *override.split(" "))
    assert all(part in said for part in EVAL_REFUSED[override]), said


@pytest.mark.parametrize("word", ["eval", "probe", "analyze", "report"])
def test_model_names_runs_where_a_command_selects_them(word):
    assert compose(word)["model"] is None
    assert compose(word, "model=xpos")["model"] == "xpos"
    assert compose(word, "model=[xpos,of_my_own]")["model"] == ["xpos", "of_my_own"]
    assert compose("train", "model=xpos")["model"]["name"] == "xpos"
    jobs = []
    check_jobs(CONF, word, ["-m", "model=xpos,of_my_own"], lambda job: jobs.append(job["model"]))
    assert jobs == ["xpos", "of_my_own"]


def test_all_problems_are_named_at_once():
    with pytest.raises(ConfigError, match=r"lr=-1.0 .*, tokens=0.0 .*, wandb=maybe"):
        train_task.check(compose("train", "lr=-1", "tokens=0", "wandb=maybe"))


# --- the builder

REFUSED_TARGETS = [
    "os.system", "subprocess.run", "builtins.eval", "torch.load", "numpy.load", "lexpress.Thing",
    "lexp_evil.Thing", "pickle.loads", "lexp.system.errors.os", "lexp.position.NotThere",
    "lexp.nothing.There", "lexp.runs.checkpoint.clean", "lexp.pattern.Full", "lexp", "", "RoPE",
]  # fmt: skip


@pytest.mark.parametrize("target", REFUSED_TARGETS)
def test_only_classes_of_lexp_and_of_the_expected_kind_are_built(target):
    with pytest.raises(ConfigError, match="model.position"):
        build({"_target_": target}, Position, "model.position")


def test_a_module_the_user_allows_is_built_and_one_a_config_asks_for_is_not(tmp_path, monkeypatch):
    (tmp_path / "my_scheme.py").write_text(
        "from lexp.position import Position\nclass Mine(Position):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "my_scheme.Mine"}
    monkeypatch.delenv("LEXP_ALLOW", raising=False)
    only = r"my_scheme.Mine: only classes under lexp are built \(if you trust this one: "
    with pytest.raises(ConfigError, match=only + r"export LEXP_ALLOW=my_scheme\)"):
        build(node, Position, "model.position")
    monkeypatch.setenv("LEXP_ALLOW", "my_scheme")
    assert type(build(node, Position, "model.position")).__name__ == "Mine"
    # A module that fails to import says why, not that the class is missing.
    (tmp_path / "broken_scheme.py").write_text("import torchh\n")
    monkeypatch.setenv("LEXP_ALLOW", "broken_scheme")
    with pytest.raises(ConfigError, match=r"No module named 'torchh'$"):
        build({"_target_": "broken_scheme.Mine"}, Position, "model.position")
    # One that is not found at all most likely lies in the current folder.
    monkeypatch.setenv("LEXP_ALLOW", "no_scheme")
    with pytest.raises(ConfigError, match=r"No module named 'no_scheme' \(.*PYTHONPATH=\.\)$"):
        build({"_target_": "no_scheme.Mine"}, Position, "model.position")


@pytest.mark.parametrize("node", [None, 3, "lexp.position.RoPE", [], {}, {"_target_": 3}])
def test_a_node_that_is_none_is_named(node):
    with pytest.raises(ConfigError, match="model.position: expected a node"):
        build(node, Position, "model.position")


def test_ints_fit_floats_and_nothing_is_called_with_what_does_not_fit():
    position = build(
        {"_target_": "lexp.position.RoPE", "head_dim": 4, "base": 100}, Position, "model.position"
    )
    assert isinstance(position, RoPE)
    with pytest.raises(ConfigError, match="xpos needs gamma, scale_base > 0"):
        build({"_target_": "lexp.position.XPos", "head_dim": 4, "gamma": 0}, XPos, "model.position")


# --- what a run is called


class WithoutAnnotations:
    def __init__(self, n_heads, inner):
        self.n_heads, self.inner = n_heads, inner


@pytest.mark.parametrize("value", [4, 0.5, True, "four", None, [1, 2], {"a": 1}])
def test_an_argument_without_annotation_takes_any_value(monkeypatch, value):
    monkeypatch.setenv("LEXP_ALLOW", __name__)
    inner = {"_target_": "lexp.position.RoPE", "head_dim": 4, "base": 10.0}
    node = {"_target_": f"{__name__}.WithoutAnnotations", "n_heads": value, "inner": inner}
    built = build(node, WithoutAnnotations, "model.position")
    assert built.n_heads == value and isinstance(built.inner, RoPE)
    with pytest.raises(ConfigError, match="model.position.inner.head_dim='x': expected int"):
        build({**node, "inner": {**inner, "head_dim": "x"}}, WithoutAnnotations, "model.position")


def test_the_same_choices_are_the_same_folder_and_others_another():
    def name(*overrides: str) -> str:
        return run_name(train_task.check(compose("train", *overrides)).raw)

    base = name()
    assert base.startswith("rope-nano-stdlib-L128-s0-")
    assert name("train_len=128", "seed=0") == base
    # What does not touch the result does not move the run.
    assert name("tensorboard=true") == base
    assert name("wandb=offline", "save_every=7", "outputs=/elsewhere", "name=other") == base
    others = {name(o) for o in ("lr=1e-2", "optim.clip=2", "model.position.base=500", "tokens=1e7")}
    assert len(others | {base}) == 5


def test_settings_from_a_run_folder_are_checked_and_never_interpolated():
    settings = train_task.check(compose("train")).raw
    check_types({**settings, "model": {"name": "${oc.env:HOME}", "position": {}}})
    with pytest.raises(ConfigError, match="n_layers"):
        check_types({**settings, "size": {**settings["size"], "n_layers": "many"}})
    with pytest.raises(ConfigError, match="surprise"):
        check_types({**settings, "surprise": 1})


ODD = (None, "x", "5", "???", "${name}", "${", True, 0, -5, 1.5, 10**400, float("nan"), [], {},
       [None], {"a": 1}, {"a": ["${"]})  # fmt: skip


@pytest.mark.parametrize(
    "key",
    ["seed", "lr", "name", "compile", "stall_min", "init_from", "keep", "length_warmup", "model"],
)
def test_what_is_taken_as_it_is_omegaconf_would_not_change(key):
    """Every run that is opened is judged so, 50 times sooner; settings of lexp's own are all."""
    settings = train_task.check(compose("train")).raw
    assert is_as_declared(settings, TrainSchema)
    for value in ODD:
        changed = {**settings, key: value}
        if is_as_declared(changed, TrainSchema):
            _convert(changed)
            merged = OmegaConf.merge(OmegaConf.structured(TrainSchema), {key: value})
            as_number = key in ("lr", "stall_min") and type(value) is int
            wanted = float(value) if as_number else value
            assert repr(OmegaConf.to_container(merged)[key]) == repr(wanted)


def test_a_dataset_that_does_not_exist_is_refused_by_eval_too():
    with pytest.raises(MissingConfigException, match="dataset/stdlb"):
        compose("eval", "dataset=stdlb")
    assert compose("eval").dataset is None


def run_in(folder: Path, *overrides: str) -> Run:
    settings = train_task.check(compose("train", *overrides)).raw
    data = {"fingerprint": "f", "tokenizer": "bytes"}
    return open_run(folder / run_name(settings), settings, data, "float32")


def test_variants_of_a_model_are_told_apart_by_what_differs(tmp_path):
    def run(*overrides: str) -> Run:
        return run_in(tmp_path, *overrides)

    runs = [
        run("model=xpos"),
        run("model=xpos", "seed=1"),
        run("model=xpos", "model.position.gamma=0.1"),
        run("model=xpos", "tokenizer=bpe"),
        run("model=xpos", "size=mini"),
        run("model=rope"),
    ]
    names = [variant(r.settings) for r in runs]
    assert names[0] == names[1] and len(set(names)) == 5
    notes = variant_notes(run.settings for run in runs)
    assert "gamma=0.1" in notes[names[2]] and "tokenizer=bpe" in notes[names[3]]
    assert notes[names[4]].startswith("size=mini") and notes[names[5]] == ""


def test_variants_of_a_list_of_layers_are_told_apart_by_the_values_in_it(tmp_path):
    """What follows the size, or the trained length, does not stand beside it."""
    changes = (), ("size=mini",), ("model.layers.1.pattern.window=8",)
    runs = [run_in(tmp_path, "model=swan", *given) for given in changes]
    assert list(run_notes(runs[:2]).values()) == ["size=nano", "size=mini"]
    assert list(run_notes([runs[0], runs[2]]).values()) == ["", "window=8"]


def test_a_reading_is_told_apart_by_its_name(tmp_path):
    changes = (), ("reading=packed",), ("reading=packed", "reading.mask=document")
    runs = [run_in(tmp_path, "model=xpos", *given) for given in changes]
    assert list(run_notes(runs[:2]).values()) == ["reading=documents", "reading=packed"]
    assert list(run_notes(runs[1:]).values()) == ["", "mask=document"]


def test_no_two_variants_of_a_model_have_the_same_note(tmp_path):
    changes = {
        "size=nano": (),
        "size=mini": ("size=mini",),
        # A size's name stands for what it sets, but not where that was changed.
        "size=nano, d_ff=256": ("size.d_ff=256",),
        "size=nano, d_ff=256, seed=1": ("size.d_ff=256", "seed=1"),
    }
    runs = [run_in(tmp_path, "model=xpos", *given) for given in changes.values()]
    notes = run_notes(runs)
    assert [notes[run.name] for run in runs] == [
        "size=nano, d_ff=512", "size=mini", "size=nano, d_ff=256", "size=nano, d_ff=256",
    ]  # fmt: skip
    assert len(set(variant_notes(run.settings for run in runs).values())) == 3
    # Where it takes one word, it stays one.
    assert list(run_notes(runs[:2]).values()) == ["size=nano", "size=mini"]


def test_the_check_of_many_jobs_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(sweep, "MANY", 2)
    check_jobs(CONF, "train", ["-m", "seed=0"], lambda job: None)
    assert capsys.readouterr().err == ""
    check_jobs(CONF, "train", ["-m", "seed=0,1"], lambda job: None)
    assert capsys.readouterr().err == "checking 2 jobs\n"
