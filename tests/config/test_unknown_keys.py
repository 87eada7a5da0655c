"""A key that does not exist: one line with what was meant, in the words of other tools too."""

import functools
from typing import get_args, get_origin, get_type_hints

import pytest

from lexp.cli import main as cli
from lexp.config.comments import commands_with, default_choices, keys, takes_list
from lexp.config.data_settings import DataConfig
from lexp.config.generation import GenerateConfig
from lexp.config.schema import register_schemas
from lexp.config.settings import (
    AnalyzeConfig,
    EvalConfig,
    ExportConfig,
    FinetuneConfig,
    ProbeConfig,
    ReportConfig,
    StatusConfig,
    TrainConfig,
)
from lexp.config.sweep import compose_choices
from lexp.config.unknown_keys import SYNONYMS, suggest
from support import ROOT
from support.config import choices

TOKENS = "tokens (training budget: tokens read in total)"
LENGTH = "train_len (context length in training, in tokens)"
SAID = {
    "train steps=10": TOKENS,
    "train epochs=2": TOKENS,
    "train batch-size=4": "batch_tokens (tokens per optimiser step)",
    "train seq_len=64": LENGTH,
    "train block_size=64": LENGTH,
    "train learning_rate=1": "lr (peak learning rate)",
    "train gpus=2": "parallel (with several ranks (torchrun, srun)",
    "train n_layers=2": "size.n_layers",
    "train n_kv_heads=2": "trunk.n_kv_heads",
    "train num_key_value_heads=2": "trunk.n_kv_heads",
    "train trunk.num_key_value_heads=2": "trunk.n_kv_heads",
    "train size.n_kv_heads=2": "trunk.n_kv_heads",
    "train model.num_key_value_heads=2": "trunk.n_kv_heads",
    "train size.hidden_size=64": "size.d_model",
    "train size.learning_rate=1": "lr (peak learning rate)",
    "train weight_decay=0.1": "optim.weight_decay (of weight matrices)",
    "train modle=xpos": "model",
    "train model=xpos model.position.gama=1": "model.position.gamma",
    "train -m model=xpos,rope model.position.gama=1": "model.position.gamma",
    "train model.positoin.base=1": "model.position.base",
    "eval seq_len=64": "lengths (list of tokens of context, or of lengths of a task's problems;",
    "generate run=x max_tokens=3": "max_new_tokens (tokens to generate; the text ends earlier",
    "generate run=x text=hello": "prompt (the text to continue",
    "finetune steps=3": "epochs (passes over the texts)",
    "export out=x": "to (folder to write: a new one, or an empty one)",
    "finetune bs=3": "batch_size (texts in a step)",
}


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    """What `run` sets in this process is set back."""
    for name in ("HYDRA_FULL_ERROR", "LEXP_SWEEP_JOBS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr("sys.argv", ["lexp"])


def refused(line: str, capsys) -> str:
    """What `lexp LINE` says when it ends with exit code 2: one line."""
    word, *arguments = line.split()
    assert cli.guarded(word, lambda: cli.run(word, arguments), arguments) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    return shown


@functools.cache
def composed(word: str, *choices: str):
    register_schemas()
    return compose_choices(ROOT / "conf", word, list(choices))


def said(line: str) -> str:
    """What is said of the last override of a line, the others being choices."""
    word, *chosen, last = line.split()
    about = {key.name: key.about for key in keys(ROOT / "conf" / f"{word}.yaml")}
    key = last.partition("=")[0]
    having = commands_with(key, ROOT / "conf")
    return suggest(key, composed(word, *chosen), about, [] if word in having else having)


@pytest.mark.parametrize(
    "line",
    [
        "train steps=10", "train -m model=xpos,rope model.pos=1", "eval size=nano",
        "train steps=10,20", "train model=rope,alibi seed=0,1 block_size=64",
    ],
)  # fmt: skip
def test_a_command_says_it_in_a_line(line, capsys):
    assert refused(line, capsys) == f"lexp: {said(line)}"


@pytest.mark.parametrize("line", SAID)
def test_the_key_that_was_meant_is_offered_with_what_it_is(line):
    shown = said(line)
    assert f"; did you mean {SAID[line]}" in shown, shown
    assert "_target_" not in shown and ".name" not in shown


LEVELS = {
    "train dataset=text dataset.zzz=mine": "; there are dataset.",
    "train size.zzz=1": "; there are size.n_layers, size.d_model,",
    "train model.zzz=1": "; there are model.position",
    "train optim.zzz=1": "; there are optim.beta1, optim.beta2,",
    "train dataset.zzz=mine": "; this dataset has no keys; choose another by dataset=NAME of "
    + ", ".join(sorted(choices("dataset"))),
    "train dataset.path=mine": "no key 'dataset.path' in this dataset; it is a key of "
    "dataset=hub (ORG/NAME, or a folder) and dataset=text (a folder, a file, a glob,",
    "train model.position.gamma=1": "no key 'model.position.gamma' in this model; it is a key of "
    "model=xpos (flattens the decay: larger is slower) and model=xpos_decay (",
    "train zzz=full": "; there are model, trunk, objective,",
}
OF_OTHERS = {
    "train attention=[full]": "no key 'attention'; attention is a key of lexp analyze, eval, "
    "generate, harness and probe",
    "train attention.window.window=9": "no key 'attention.window.window'; attention is a key of "
    "lexp analyze, eval, generate, harness and probe",
    "train task=glue/rte": "no key 'task'; task is a key of lexp finetune",
    "eval size=nano": "no key 'size'; size is a key of lexp train",
    "train lengths=[64]": f"no key 'lengths'; did you mean {LENGTH}? lengths is a key of lexp "
    "analyze, eval, harness and probe",
}


@pytest.mark.parametrize("line", OF_OTHERS)
def test_a_key_of_another_command_is_said_to_be_one(line):
    assert said(line) == OF_OTHERS[line]


@pytest.mark.parametrize("line", LEVELS)
def test_without_a_guess_the_keys_of_the_level_are_named(line):
    shown = said(line)
    assert LEVELS[line] in shown and "_target_" not in shown and "dataset.name" not in shown


def test_an_unknown_choice_beside_an_unknown_key_is_a_line_too(capsys):
    assert "xxpos" in refused("train attention=full model=xxpos", capsys)


def test_a_choice_of_a_folder_here_is_found_where_the_folder_was_not_named(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/root_alibi.yaml").write_text("name: root_alibi\n")
    monkeypatch.chdir(tmp_path)
    remedy = "no model 'root_alibi'; mine/model has one: add --config-dir mine"
    for named in ("", " --config-dir mine/model"):
        assert remedy in refused(f"train model=root_alibi{named}", capsys)
    assert "did you mean alibi" in refused("train model=alibbi", capsys)
    assert "there are" in refused("train model=*", capsys)


def test_no_word_is_a_key_of_the_command_that_it_leads_to():
    """Every key to which a word of other tools leads exists in a command."""
    known = {"optim"}
    for path in [*ROOT.glob("conf/*.yaml")]:
        known |= {key.name for key in (*keys(path), *default_choices(path))}
    for group, choice in (("size", "nano"), ("trunk", "gpt")):
        known |= {f"{group}.{key.name}" for key in keys(ROOT / f"conf/{group}/{choice}.yaml")}
    assert set() == set(SYNONYMS) - known


SEVERAL = {
    "train model=rope,alibi seed=0,1": (
        "model=rope,alibi: several values are a sweep; add -m: "
        "lexp train -m model=rope,alibi seed=0,1"
    ),
    "train seed=range(3)": (
        "seed=range(3): several values are a sweep; add -m: lexp train -m 'seed=range(3)'"
    ),
    "train keep=100,200": "keep=100,200: several values are a list; write 'keep=[100,200]'",
    "train dataset=text dataset.test=a,b": (
        "dataset.test=a,b: several values are a list; write 'dataset.test=[a,b]'"
    ),
    "eval lengths=1,2": "lengths=1,2: several values are a list; write 'lengths=[1,2]'",
    "eval attention=full,window": (
        "attention=full,window: several values are a list; write 'attention=[full,window]'"
    ),
    "report name=a,b": (
        "name=a,b: several values; lexp report takes one, repeat the command for each"
    ),
    "eval name=a,b": "name=a,b: several values are a sweep; add -m: lexp eval -m name=a,b",
    "study study=lex +train.seed=0,1": (
        "+train.seed=0,1: several values are a list; write '+train.seed=[0,1]'"
    ),
    "study study=lex,alibi": (
        "study=lex,alibi: several values; lexp study takes one, repeat the command for each"
    ),
}


@pytest.mark.parametrize("line", SEVERAL)
def test_several_values_are_a_list_where_the_key_takes_one_and_need_m_elsewhere(line, capsys):
    assert refused(line, capsys) == f"lexp: {SEVERAL[line]}"


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("train", TrainConfig), ("eval", EvalConfig), ("probe", ProbeConfig),
        ("analyze", AnalyzeConfig), ("report", ReportConfig), ("status", StatusConfig),
        ("finetune", FinetuneConfig), ("export", ExportConfig), ("generate", GenerateConfig),
        ("data", DataConfig),
    ],
)  # fmt: skip
def test_the_keys_that_take_a_list_are_those_whose_setting_holds_several(word, kind):
    hints = get_type_hints(kind)
    single = {
        "train": ["extension"],
        "export": ["extension"],
        "generate": ["extension", "attention", "model", "lengths"],
    }
    for key in ("raw", *single.get(word, [])):
        hints.pop(key, None)  # one choice, which the settings hold by its name
    several = {
        key for key, hint in hints.items()
        if get_origin(hint) is dict or tuple in map(get_origin, (hint, *get_args(hint)))
    }  # fmt: skip
    assert {key for key in hints if takes_list(key, word, ROOT / "conf")} == several
