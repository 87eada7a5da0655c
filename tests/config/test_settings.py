"""Settings as typed objects: as the schemas are, complete, from a command line or from a disk."""

import inspect
import pickle
import re
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module

import pytest
import yaml

from lexp.commands import analyze, evaluate, probe
from lexp.commands.select_runs import read_config
from lexp.config import schema, settings
from lexp.config.generation import read_generate
from lexp.config.schema import plain
from lexp.config.settings import Node, TrainConfig
from lexp.config.typed import read_settings
from lexp.config.validation import (
    read_analyze,
    read_data,
    read_eval,
    read_export,
    read_finetune,
    read_harness,
    read_probe,
    read_report,
    read_status,
    read_study,
    read_train,
)
from lexp.pattern import Blockwise, Pattern
from lexp.runs.run import Run, open_run, run_folder
from lexp.system.errors import CheckpointError, ConfigError
from lexp.system.files import config_folder
from support.config import compose, refusal

TYPED = {
    schema.TrainSchema: settings.TrainConfig,
    schema.EvalSchema: settings.EvalConfig,
    schema.ProbeSchema: settings.ProbeConfig,
    schema.AnalyzeSchema: settings.AnalyzeConfig,
    schema.ReportSchema: settings.ReportConfig,
    schema.StatusSchema: settings.StatusConfig,
    schema.FinetuneSchema: settings.FinetuneConfig,
    schema.StudySchema: settings.StudyConfig,
    schema.OptimSchema: settings.OptimConfig,
}


@pytest.mark.parametrize("composed", TYPED, ids=lambda kind: kind.__name__)
def test_what_hydra_composes_is_what_commands_read(composed):
    # What is no key: all values together, what is known from the run to start from, and whether
    # a key has a value.
    others = {"raw", "extended_from", "chooses_lengths"}
    names = {item.name for item in fields(TYPED[composed])} - others
    assert names == {item.name for item in fields(composed)}
    assert TYPED[composed].__dataclass_params__.frozen  # type: ignore[attr-defined]


GIVEN = {"finetune": ("run=a", "task=glue/rte"), "harness": ("tasks=[a]",),
         "export": ("run=a", "to=b"), "study": ("study=lex",)}  # fmt: skip
READ = {
    "train": lambda config: read_train(plain(config)), "eval": read_eval, "probe": read_probe,
    "analyze": read_analyze, "harness": read_harness, "report": read_report, "status": read_status,
    "finetune": read_finetune, "export": read_export, "generate": read_generate,
    "data": read_data, "study": read_study,
}  # fmt: skip


def booleans(values: dict, where: str = "") -> list[str]:
    """The keys of true and false in a composed config."""
    inner = {f"{where}{key}": value for key, value in values.items()}
    return [key for key, value in inner.items() if isinstance(value, bool)] + [
        key
        for above, value in inner.items()
        if isinstance(value, dict)
        for key in booleans(value, f"{above}.")
    ]


@pytest.mark.parametrize("word", READ)
def test_a_yes_or_no_is_true_or_false(word):
    """What OmegaConf would take as one of them is refused too."""
    given = GIVEN.get(word, ())
    keys = booleans(plain(compose(word, *given)))
    assert keys or word in ("report", "finetune", "export", "generate")
    for key in keys:
        for value in ("3", "on"):
            said = refusal(READ[word], word, *given, f"{key}={value}")
            assert re.fullmatch(rf"not allowed: {key}=\S+ \(true or false\)", said)


@pytest.mark.parametrize(
    ("word", "given"),
    [
        ("generate", "top_p=0"), ("generate", "model=rope"), ("generate", "model=hf"),
        ("train", "tokens=inf"), ("eval", "lengths=[0,0]"),
    ],
)  # fmt: skip
def test_a_message_names_a_key_once(word, given):
    key = given.partition("=")[0]
    run = ("run=x",) * (word == "generate")
    said = refusal(READ[word], word, *run, given)
    assert len(re.findall(rf"\b{key}[=:]", said)) == 1, said


def parts(value) -> Iterator[dict]:
    """Every node with a class in a config file."""
    if isinstance(value, dict) and "_target_" in value:
        yield value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from parts(inner)


def test_a_yes_or_no_of_a_part_is_declared_as_one():
    """So `build` refuses any other value."""
    n_found = 0
    files = [p for p in config_folder().rglob("*.yaml") if p.parent.name != "launcher"]
    for node in (
        node for path in files for node in parts(yaml.safe_load(path.read_text(encoding="utf-8")))
    ):
        for key in (key for key, value in node.items() if isinstance(value, bool)):
            module, _, kind = node["_target_"].rpartition(".")
            hint = inspect.signature(getattr(import_module(module), kind)).parameters[key]
            assert hint.annotation is bool or set(hint.annotation.__args__) == {bool, str}, node
            n_found += 1
    assert n_found >= 15


def test_values_are_read_with_their_types():
    config = read_train(plain(compose("train", "tokens=20000", "keep=[4,8]", "model=tisa")))
    assert type(config.tokens) is float and config.keep == (4, 8)
    assert config.optim.beta2 == 0.98 and config.size.name == "nano"
    assert config.model.name == "tisa" and isinstance(config.model.position, Node)
    assert config.n_steps == 20000 // config.batch_tokens and config.kept_steps == {4}
    assert config.raw["tokens"] == 20000 and config.init_from is None


def test_a_missing_value_is_named():
    raw = plain(compose("train"))
    for key in ("optim", "seed", "stall_min"):
        with pytest.raises(ConfigError, match=f"no value for {key}"):
            read_settings(TrainConfig, {k: v for k, v in raw.items() if k != key})
    with pytest.raises(ConfigError, match="no value for optim.eps"):
        optim = {key: value for key, value in raw["optim"].items() if key != "eps"}
        read_settings(TrainConfig, {**raw, "optim": optim})
    with pytest.raises(ConfigError, match="model.position: expected a node with _target_, got 3"):
        read_settings(
            TrainConfig, {**raw, "model": {"name": "x", "position": 3}}
        ).model.position.build(Pattern, "model.position")


def test_the_settings_of_a_run_pass_the_same_door(tmp_path):
    raw = plain(compose("train", f"outputs={tmp_path}"))
    data = {"fingerprint": "f", "tokenizer": "t"}
    run = open_run(run_folder(tmp_path / "default", raw), raw, data, "float32")
    assert read_config(run) == read_train(raw)
    path = run.folder / "config.json"
    text = path.read_text()
    for damage, words in {
        '"train_len": 0': "not allowed: train_len=0",
        '"train_len": "many"': "train_len",
        '"surprise": 1': "surprise",
    }.items():
        path.write_text(text.replace('"train_len": 128', damage))
        with pytest.raises(CheckpointError, match=f"config.json: .*{words}"):
            read_config(Run(run.folder))


def test_a_plan_is_built_once_and_can_be_sent_to_another_process():
    plan = evaluate.check(
        compose("eval", "attention=[full,blockwise]", "protocol=[fixed]", "lengths=[64,16]")
    )
    assert plan.lengths == (16, 64) and plan.max_tokens == 65536
    assert evaluate.check(compose("eval")).lengths == (64, 128, 256, 512, 1024, 2048)
    assert [method.label for method in plan.methods] == ["full", "blockwise"]
    assert plan.protocols[0].label(plan.lengths) == "fixed-by-8-64"
    sent = pickle.loads(pickle.dumps(plan))
    assert sent == plan and sent.methods[1].pattern == Blockwise()
    asked = probe.check(compose("probe", "lengths=[64,32]"))
    assert asked.probes.lengths == (32, 64) and asked.methods is asked.probes.methods


@pytest.mark.parametrize(
    ("command", "group", "target"),
    [
        ("eval", "attention", "lexp.pattern.Window"),
        ("eval", "extension", "lexp.extension.YaRN"),
        ("eval", "protocol", "lexp.scoring.protocol.Segments"),
        ("probe", "probes", "lexp.probes.Copy"),
        ("analyze", "instruments", "lexp.instruments.curves.Curves"),
    ],
)
def test_two_parts_of_one_name_are_refused(command, group, target):
    """Tables would average them as if they were seeds."""
    check = {"eval": evaluate.check, "probe": probe.check, "analyze": analyze.check}[command]
    twice = [f"+{group}.{key}={{_target_: {target}}}" for key in ("one", "other")]
    with pytest.raises(ConfigError, match=rf"{group}.one and {group}.other are both"):
        check(compose(command, f"{group}=[]", *twice))


READERS = {
    "train": lambda config: read_train(plain(config)), "eval": read_eval, "probe": read_probe,
    "analyze": read_analyze, "report": read_report, "status": read_status, "study": read_study,
    "finetune": read_finetune,
}  # fmt: skip
NAMES_IN_PATHS = (
    "train name", "train model.name", "train size.name", "train dataset.name",
    "train tokenizer.name", "train objective.name", "eval name", "probe name", "analyze name",
    "report name", "status name", "study name", "finetune name", "finetune task.name",
)  # fmt: skip


@pytest.mark.parametrize("place", NAMES_IN_PATHS)
def test_names_that_become_paths_are_words(place):
    command, key = place.split(" ")
    more = {
        "finetune": ["run=x", "task.train=a", "task.validation=b"], "study": ["study=lex"],
    }.get(command, [])  # fmt: skip
    read = READERS[command]
    read(compose(command, *more, f"{key}=a-1.B_c"))
    for name in ("../a", "a/b", "", ".a", "..", "a b", "-a", "ä", "a\\nb", "x" * 101, "~"):
        with pytest.raises(ConfigError, match=f"{key}='"):
            read(compose(command, *more, f"{key}='{name}'"))
