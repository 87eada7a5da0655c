"""Every scheme trains: the loss falls, and every learned position parameter moves."""

import math

import pytest
import torch

from lexp.commands.run_parts import make_model
from lexp.commands.train import train
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.record.metrics import read
from lexp.runs import checkpoint
from support.schemes import SCHEMES
from support.training import folder_of


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_short_training_lowers_the_loss_and_moves_every_position_parameter(tiny, scheme):
    config = tiny(f"model={scheme}", "tokens=5120", "eval_every=80", "save_every=80")
    train(config)
    lines = [x for x in read(folder_of(config) / "metrics.jsonl") if x["event"] == "train"]
    assert lines[0]["loss"] == pytest.approx(math.log(256), abs=0.1)
    assert sum(x["loss"] for x in lines[-10:]) / 10 < 3.6

    settings = read_train(plain(config))
    torch.manual_seed(settings.seed)
    start = dict(make_model(settings, 256).positions.named_parameters())
    trained = make_model(settings, 256)
    checkpoint.load_model(checkpoint.latest(folder_of(config) / "checkpoints"), trained)
    for name, parameter in trained.positions.named_parameters():
        assert not torch.equal(parameter, start[name]), name
        assert parameter.isfinite().all(), name
