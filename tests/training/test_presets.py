"""+debug=tiny|overfit|profile: values for trying things, with every model."""

import json
from itertools import cycle
from pathlib import Path

import pytest
import torch

from lexp.cli.help import help_page
from lexp.commands.train import check, train
from lexp.runs.run import run_name
from lexp.system.errors import ConfigError
from lexp.system.files import config_folder
from lexp.training.profile import TRACE
from support.config import choices, compose, dataset
from support.training import interrupt_after

PRESETS = {"tiny": 10, "overfit": 200, "profile": 8}


def preset(name: str, texts: Path, tmp_path: Path, *words: str):
    return compose(
        "train", f"+debug={name}", *dataset(texts), f"outputs={tmp_path}", "device=cpu", *words
    )


def losses(outputs: Path) -> list[float]:
    (path,) = outputs.glob("debug/*/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "train"]


# Presets train on texts; two models take their positions from tasks.
OF_TEXTS = [name for name in choices("model") if name not in ("abacus", "coupled")]


@pytest.mark.parametrize(("model", "name"), list(zip(OF_TEXTS, cycle(PRESETS), strict=False)))
def test_every_model_takes_a_preset(model, name):
    settings = check(compose("train", f"+debug={name}", f"model={model}"))
    assert settings.name == "debug" and settings.n_steps == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_values_that_are_typed_override_those_of_a_preset(name):
    typed = ("name=mine", "batch_tokens=1024", "tokens=10240")
    mine = check(compose("train", f"+debug={name}", *typed))
    assert (mine.name, mine.batch_tokens, mine.n_steps) == ("mine", 1024, 10)


def test_what_presets_change_of_the_name_of_a_run():
    """One batch is another run; a profile is not."""

    def name(*words: str) -> str:
        return run_name(check(compose("train", *words)).raw)

    base = name("tokens=40960")
    assert name("tokens=40960", "one_batch=true") != base
    assert name("tokens=40960", "profile_steps=5") == base
    assert name("tokens=40960", "one_batch=false", "profile_steps=null") == base


@pytest.mark.parametrize("model", ["alibi", "pope", "path_fox"])
def test_tiny_trains_to_the_end(texts, tmp_path, model):
    train(preset("tiny", texts, tmp_path, f"model={model}"))
    (done,) = tmp_path.glob("debug/*/done.json")
    assert json.loads(done.read_text())["step"] == 10 and len(losses(tmp_path)) == 10


def test_overfit_learns_its_batch_by_heart(texts, tmp_path):
    small = ("size.n_layers=2", "size.d_model=64", "size.n_heads=2", "size.head_dim=32",
             "size.d_ff=128")  # fmt: skip
    train(preset("overfit", texts, tmp_path, *small))
    found = losses(tmp_path)
    assert found[0] > 5 and found[-1] < 0.1, found[::20]


def test_profile_prints_a_table_and_leaves_a_trace(texts, tmp_path, capfd):
    train(preset("profile", texts, tmp_path, "batch_tokens=256", "tokens=2048",
                 "size.n_layers=1"))  # fmt: skip
    (trace,) = tmp_path.glob(f"debug/*/{TRACE}")
    events = json.loads(trace.read_text())["traceEvents"]
    # Five steps of AdamW, and as many forward passes through one embedding.
    steps = [e for e in events if e.get("name", "").startswith("Optimizer.step")]
    assert len([e for e in steps if e.get("cat") == "user_annotation"]) == 5
    out = capfd.readouterr().out
    rows = [line.split() for line in out.splitlines() if "aten::" in line]
    assert len(rows) >= 5 and str(trace) in out.replace("\n", "")
    shares = [int(row[7].rstrip("%")) for row in rows]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100


def test_a_profile_that_is_cut_off_says_so(texts, tmp_path, capfd, monkeypatch):
    config = preset("profile", texts, tmp_path, "batch_tokens=256", "tokens=2048", "save_every=5")
    with interrupt_after(monkeypatch, 6):
        train(config)
    train(config)  # three steps are left
    assert "profile: training ended before" in capfd.readouterr().err
    assert not list(tmp_path.glob(f"debug/*/{TRACE}"))
    assert not torch.autograd._profiler_enabled()


@pytest.mark.parametrize("n_steps", [0, 7, 100])
def test_more_steps_than_there_are_cannot_be_profiled(n_steps):
    with pytest.raises(ConfigError, match=rf"profile_steps={n_steps} \(from 1 to 6: steps - 2\)"):
        check(compose("train", "+debug=profile", f"profile_steps={n_steps}"))


@pytest.mark.parametrize("width", [40, 80, 100])
def test_help_names_each_preset(width):
    page = help_page(config_folder(), "train", [], [], width)
    for name in PRESETS:
        assert f"  +debug={name} " in page
    assert "+debug" not in help_page(config_folder(), "eval", [], [], width)
    assert choices("debug") == sorted(PRESETS)
