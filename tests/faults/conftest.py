"""Runs that nothing happens to, for comparison with those that something happens to."""

import pytest

from lexp.commands.train import train
from support.training import folder_of, result_of


@pytest.fixture
def whole(tiny, tmp_path):
    config = tiny(f"outputs={tmp_path}/whole")
    train(config)
    return result_of(folder_of(config))
