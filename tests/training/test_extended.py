"""Training with an extension: what it computes, what is recorded, how it is evaluated."""

import csv
import json
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lexp.commands.evaluate import eval_
from lexp.commands.run_parts import make_model
from lexp.commands.select_runs import read_config
from lexp.commands.train import check, train
from lexp.runs.checkpoint import latest, load_model
from lexp.runs.run import Run
from lexp.system.errors import CheckpointError, ConfigError
from support.by_hand import by_hand
from support.config import compose, compose_tiny
from support.texts import make_text
from support.training import Killed, folder_of, result_of, stop_after

L, LONGER = 16, 64  # train_len of the source and of the run that goes on with it


@pytest.fixture(scope="module")
def one_window(tmp_path_factory) -> Path:
    """Texts of one document each, the same in all splits: LONGER inputs and the token after."""
    root = tmp_path_factory.mktemp("window")
    for split in ("train", "validation", "test"):
        (root / split).mkdir()
        (root / split / "0.txt").write_text(make_text(3, 40)[: LONGER + 1])
    return root


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("extended") / "outputs"


@pytest.fixture(scope="module")
def go_on(one_window, outputs):
    """Composes a run on the window: go_on(source, override, ...)."""

    def compose_run(source: Path, *overrides: str):
        usual = [f"train_len={LONGER}", "tokens=64", f"init_from={source}"]
        given = {override.split("=")[0] for override in overrides}
        kept = [word for word in usual if word.split("=")[0] not in given]
        return compose_tiny(one_window, outputs, *kept, *overrides)

    return compose_run


@pytest.fixture(scope="module")
def source(one_window, outputs):
    """The folder of a finished run of a model: source("rope")."""
    made: dict[str, Path] = {}

    def folder(model: str) -> Path:
        if model not in made:
            config = compose_tiny(one_window, outputs, f"model={model}", "lr=0.1", "tokens=1280")
            train(config)
            made[model] = folder_of(config)
        return made[model]

    return folder


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    saved = latest(folder / "checkpoints")
    assert saved is not None
    return load_file(saved.path / "model.safetensors")


@pytest.fixture(scope="module")
def evaluated(go_on, source, outputs):
    """Rows of results.csv, of the source and of runs that went on with it, and their folders."""
    rope = source("rope")
    folders = {"none": rope}
    for extension in ("yarn", "pi"):
        config = go_on(rope, "model=rope", f"extension={extension}", "lr=1e-30")
        train(config)
        folders[extension] = folder_of(config)
    eval_(compose(
        "eval", f"outputs={outputs}", f"lengths=[{LONGER}]", "extension=[none,yarn,pi,log_n]",
        "attention=[full]", "model=rope", "device=cpu", "precision=float32",
    ))  # fmt: skip
    with (outputs / "default" / "results.csv").open(newline="") as file:
        rows = {(row["run"], row["extension"]): row for row in csv.DictReader(file)}
    return folders, lambda run, extension: rows[folders[run].name, extension]


@pytest.mark.parametrize("extension", ["yarn", "pi"])
def test_the_first_loss_is_that_of_the_evaluator_with_the_extension(evaluated, extension):
    """The evaluator's extension of the source at this length is tested against its paper."""
    folders, row = evaluated
    (first,) = losses(folders[extension])
    wanted = float(row("none", extension)["nll"])
    assert first == pytest.approx(wanted, abs=2e-6)
    assert abs(float(row("none", "none")["nll"]) - wanted) > 1e-3, "it changes too little to see"


@pytest.mark.parametrize("extension", ["yarn", "pi"])
def test_the_run_is_evaluated_as_it_was_trained(evaluated, extension):
    """Its weights are the source's (lr=1e-30): extension=[none] is the source with its own."""
    _, row = evaluated
    wanted = float(row("none", extension)["nll"])
    assert float(row(extension, "none")["nll"]) == pytest.approx(wanted, abs=2e-6)


def test_a_second_extension_only_scales(evaluated, outputs):
    folders, row = evaluated
    assert [row("yarn", other)["status"] for other in ("yarn", "pi", "log_n")] == [
        "not defined", "not defined", "ok",
    ]  # fmt: skip
    page = (outputs / "default" / "results.md").read_text()
    assert "pi is for a scheme as first trained, this model was trained with yarn" in page
    assert re.search(rf"extension=yarn, init_from={folders['none'].name}, .*train_len=64", page)


def test_the_frequencies_are_the_papers_with_the_length_of_the_source(go_on, source):
    """YaRN, equations 11 to 13 and 22 with L = 16 and s = 4; ramp in turns, as in the paper."""
    config = go_on(source("rope"), "model=rope", "extension=yarn", "extension.yarn.ramp=turns",
                   "extension.yarn.alpha=0.01", "extension.yarn.beta=2")  # fmt: skip
    train(config)
    run = Run(folder_of(config))
    assert run.data["extended_from"] == L
    position = make_model(read_config(run), 256).position
    one = torch.ones(1, dtype=torch.float64)
    (factors,) = position.rotary_factors(one, one, 1)[0]
    wanted = []
    for c in range(4):  # channel pairs of head_dim 8
        theta = 10000.0 ** (-2 * c / 8)
        turns = L * theta / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - 0.01) / (2 - 0.01)))
        wanted.append((1 - kept) * theta / 4 + kept * theta)
    assert factors.angle().tolist() == pytest.approx(wanted)
    assert factors.abs().tolist() == pytest.approx([0.1 * math.log(4) + 1] * 4)


@pytest.mark.parametrize(
    ("model", "length"), [("rope", ""), ("learned", "max_len"), ("fire", "train_len")]
)
def test_a_second_stage_goes_on_from_the_first_and_its_length(go_on, source, model, length):
    """As YaRN's model for s = 32 from the one for s = 16: the factor is of the first length."""
    same = [f"model={model}", *([f"model.position.{length}={L}"] if length else [])]
    first = go_on(source(model), *same, "extension=pi", "train_len=32", "tokens=128")
    train(first)
    second = go_on(folder_of(first), *same, "extension=pi", "lr=1e-30")
    train(second)
    assert Run(folder_of(second)).data["extended_from"] == L
    before, after = weights(folder_of(first)), weights(folder_of(second))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-7)


def test_under_a_reading_for_longer_texts_the_factor_is_that_of_its_positions(
    go_on, source, capsys
):
    """PoSE (Zhu et al. 2023): windows of the source's length, PI with target_len / length."""
    config = go_on(source("rope"), "model=rope", "extension=pi", f"train_len={L}", "reading=pose",
                   f"reading.target_len={LONGER}", "batch_tokens=16", "tokens=16")  # fmt: skip
    train(config)
    assert "extension=pi: from 16 to 64 tokens with factor 4\n" in capsys.readouterr().err
    position = make_model(read_config(Run(folder_of(config))), 256).position
    one = torch.ones(1, dtype=torch.float64)
    (factors,) = position.rotary_factors(one, one, 1)[0]
    wanted = [10000.0 ** (-2 * c / 8) / 4 for c in range(4)]
    assert factors.angle().tolist() == pytest.approx(wanted)


def test_a_run_with_an_extension_resumes_bit_equal(go_on, source, monkeypatch, tmp_path):
    words = ("model=learned", f"model.position.max_len={L}", "extension=pi", "tokens=640")
    whole, broken = (
        go_on(source("learned"), *words, f"outputs={tmp_path}/{name}") for name in ("a", "b")
    )
    train(whole)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 7)
        train(broken)
    assert latest(folder_of(broken) / "checkpoints").step == 4
    train(broken)
    assert result_of(folder_of(broken)) == result_of(folder_of(whole))


def test_the_extension_is_part_of_the_name_and_none_is_not(go_on, source):
    rope = source("rope")
    assert rope.name == "rope-nano-text-L16-s0-" + rope.name[-6:]
    words = [(), ("extension=yarn",), ("extension=pi",), ("extension=pi", "extension.pi.factor=8")]
    names = [folder_of(go_on(rope, "model=rope", *more)).name for more in words]
    assert len(set(names)) == 4
    starts = ["rope-nano", "rope-yarn-nano", "rope-pi-nano", "rope-pi-nano"]
    assert [name.split("-text-L64-s0-")[0] for name in names] == starts


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ("", ["extension=yarn"], "extension=yarn: extends a trained model; name its folder with"),
        ("rope", ["extension=yarn", "train_len=16"],
         "extension=yarn: train_len=16 is not longer than the 16 tokens of init_from="),
        ("rope", ["extension=yarn", "train_len=8"], "train_len=8 is not longer than the 16 tokens"),
        ("rope", ["extension=yarn", "extension.yarn.factor=length"],
         "one factor for all lengths, as pi, ntk, ntk_by_parts, yarn and longrope have it unless"),
        ("rope", ["extension=dynamic_ntk"], "extension=dynamic_ntk: is for evaluation; models are"),
        ("rope", ["extension=log_n"], "extension=log_n: is for evaluation"),
        ("rope", ["extension=longrope"], "extension.longrope: longrope needs divisors=[...]"),
        ("rope", ["extension=longrope", "extension.longrope.divisors=[2,2]"],
         "extension=longrope: longrope was given 2 divisors for 4 channel pairs"),
        ("rope", ["extension=pi", "model.position.base=500"],
         "which has model.position.base=10000.0, here 500; give the same model"),
        ("rope", ["extension=pi", "model=xpos"], "which has model.name=rope, here xpos; give the"),
        ("rope", ["extension=pi", "reading=pose", "reading.target_len=32"],
         "reading: target_len=32 is less than train_len=64"),
        ("nope", ["extension=yarn", "model=nope"],
         "extension=yarn: yarn changes rotary frequencies, NoPE has none"),
    ],
)  # fmt: skip
def test_an_extension_without_meaning_is_refused_before_anything_is_built(
    model, words, said, go_on, source, one_window, outputs, monkeypatch
):
    start = source(model) if model else None
    monkeypatch.setattr("lexp.commands.run_parts.Transformer", None)  # nothing builds one
    if not any(word.startswith("model=") for word in words):
        words = ["model=rope", *words]
    make = partial(go_on, start) if start else partial(compose_tiny, one_window, outputs)
    with pytest.raises(ConfigError) as error:
        check(make(*words))
    line = str(error.value)
    assert said in line and "\n" not in line


def test_drope_drops_positions_norms_queries_and_keys_and_sharpens(
    go_on, source, one_window, outputs, capsys
):
    """Gelberg et al. 2025: no positions, QK-norm, scores times 1 + 0.412 ln(length / train_len).

    The weights are the source's (lr=1e-30), of a model with rotary positions and without QK-norm.
    """
    norm = "trunk.qk_norm={_target_: lexp.model.trunk.RMSNorm, eps: 1e-3}"
    words = f"train_len={L}", "batch_tokens=16", "tokens=16", "lr=1e-30"
    config = go_on(source("rope"), "model=nope", norm, *words)
    train(config)
    run = folder_of(config)
    assert "has no QK-norm; here it starts with weights of 1\n" in capsys.readouterr().err
    eval_(compose(
        "eval", f"outputs={outputs}", f"lengths=[{LONGER}]", "extension=[none,drope]",
        "attention=[full]", "model=nope", "device=cpu", "precision=float32",
    ))  # fmt: skip
    with (outputs / "default" / "results.csv").open(newline="") as file:
        rows = {
            r["extension"]: float(r["nll"]) for r in csv.DictReader(file) if r["run"] == run.name
        }
    model = make_model(read_config(Run(source("rope"))), 256)
    load_model(latest(source("rope") / "checkpoints"), model)
    tokens = list((one_window / "test" / "0.txt").read_bytes())
    for name, scale in (("none", 1.0), ("drope", 1 + 0.412 * math.log(LONGER / L))):
        scales = torch.full((1, 2), scale, dtype=torch.float64)
        with torch.no_grad():
            wanted = by_hand(model, tokens, scales, qk_eps=1e-3).item()
        assert rows[name] == pytest.approx(wanted, rel=1e-5)
        with torch.no_grad():
            assert abs(by_hand(model, tokens, scales).item() - wanted) > 1e-3, "the norm shows"
    assert abs(rows["none"] - rows["drope"]) > 1e-4


@pytest.mark.parametrize("trunk", ["trunk=llama", "+trunk.norm.eps=1e-3"])
def test_of_another_trunk_only_a_qk_norm_may_be_added(trunk, go_on, source):
    with pytest.raises(ConfigError, match=r"choose the same \(only trunk.qk_norm may be added\)"):
        check(go_on(source("rope"), "model=nope", trunk))


def test_an_extended_run_does_not_go_on_without_its_extension(evaluated, go_on):
    folders, _ = evaluated
    with pytest.raises(ConfigError, match="with extension=yarn; give extension=yarn, or"):
        check(go_on(folders["yarn"], "model=rope", "train_len=64"))
    check(go_on(folders["yarn"], "model=nope"))  # another scheme, which starts afresh


def test_a_config_that_lost_the_length_is_refused(evaluated, tmp_path):
    folders, _ = evaluated
    config = json.loads((folders["yarn"] / "config.json").read_text())
    for value in (None, 0, "16"):
        (tmp_path / "config.json").write_text(
            json.dumps({**config, "data": {**config["data"], "extended_from": value}})
        )
        with pytest.raises(CheckpointError, match="config"):
            read_config(Run(tmp_path))
    del config["data"]["extended_from"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="extension=yarn with extended_from=None"):
        read_config(Run(tmp_path))
