"""Every scheme trains: the loss falls, and every learned position parameter moves."""

import math

import pytest
import torch

from lexp.commands.run_parts import make_model
from lexp.commands.train import train
from lexp.config.validation import read_composed_train
from lexp.record.metrics import read
from lexp.runs import checkpoint
from lexp.runs.run import run_folder
from support.config import TINY, compose
from support.schemes import SCHEMES

# Models whose positions follow from a task, whose longest row has the 16 tokens of TINY.
OF_TASKS = ("abacus", "coupled")
TASK = ("dataset=addition", "dataset.task.reverse=true", "dataset.max_length=4")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_short_training_lowers_the_loss_and_moves_every_position_parameter(
    tiny, scheme, tmp_path
):
    words = (f"model={scheme}", "tokens=5120", "eval_every=80", "save_every=80")
    if scheme in OF_TASKS:
        config = compose("train", *TINY, *TASK, *words, f"outputs={tmp_path}")
    else:
        config = tiny(*words)
    train(config)
    settings = read_composed_train(config)
    folder = run_folder(settings.study_folder, settings.raw)
    lines = [x for x in read(folder / "metrics.jsonl") if x["event"] == "train"]
    assert lines[0]["loss"] == pytest.approx(math.log(256), abs=0.1)
    assert sum(x["loss"] for x in lines[-10:]) / 10 < 3.6

    torch.manual_seed(settings.seed)
    start = dict(make_model(settings, 256).positions.named_parameters())
    trained = make_model(settings, 256)
    checkpoint.load_model(checkpoint.latest(folder / "checkpoints"), trained)
    for name, parameter in trained.positions.named_parameters():
        assert not torch.equal(parameter, start[name]), name
        assert parameter.isfinite().all(), name
