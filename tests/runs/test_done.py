"""status, train, sweeps, eval and studies agree on whether a run is done."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lexp.commands.evaluate import eval_
from lexp.commands.launch.plan import SweepJob, left_to_do
from lexp.commands.select_runs import final_checkpoint, select_finished
from lexp.commands.train import train
from lexp.runs import status
from lexp.runs.run import Run
from lexp.system.errors import CheckpointError, ConfigError
from support.config import compose


@pytest.fixture
def run(tiny, tmp_path) -> Run:
    train(tiny("model=nope"))
    return Run(next((tmp_path / "outputs/default").glob("*/config.json")).parent)


def lose(run: Run, what: str) -> None:
    if what == "the mark":
        (run.folder / "done.json").unlink()
    elif what == "all checkpoints":
        shutil.rmtree(run.checkpoints)
    elif what == "what is in checkpoints":
        for path in run.checkpoints.iterdir():
            shutil.rmtree(path)


@pytest.mark.parametrize(
    "what", ["nothing", "the mark", "all checkpoints", "what is in checkpoints"]
)
def test_status_sweep_and_eval_agree_on_what_is_done(run, what):
    lose(run, what)
    is_done = what == "nothing"
    judged = status.judge(run.folder)
    left = left_to_do([SweepJob(0, (), run.folder)])
    assert (judged.state == "done") == (not left) == run.is_done == is_done
    assert bool(judged.reason) != is_done
    study = run.folder.parent
    if is_done:
        assert [one.folder for one in select_finished(study, None)] == [run.folder]
    else:
        with pytest.raises(ConfigError, match="no finished run"):
            select_finished(study, None)


def test_a_run_that_is_done_says_how_many_parameters_it_has(run):
    weights = load_file(final_checkpoint(run).path / "model.safetensors")
    assert run.parameters == sum(tensor.numel() for tensor in weights.values())
    for text in ("{}", "[]", "{", '{"parameters": "many"}', '{"parameters": -1}'):
        (run.folder / "done.json").write_text(text)
        assert run.parameters is None


def test_a_run_without_its_mark_is_finished_by_the_same_command(run, tiny):
    before = json.loads((run.folder / "done.json").read_text())
    lose(run, "the mark")
    train(tiny("model=nope"))
    assert run.is_done and status.judge(run.folder).state == "done"
    assert json.loads((run.folder / "done.json").read_text())["step"] == before["step"]


def test_a_run_without_its_checkpoint_is_neither_called_complete_nor_trained_anew(run, tiny):
    lose(run, "all checkpoints")
    with pytest.raises(CheckpointError, match="delete done.json to train it again"):
        train(tiny("model=nope"))
    assert not run.checkpoints.exists()
    (run.folder / "done.json").unlink()
    train(tiny("model=nope"))
    assert run.is_done and final_checkpoint(run).step == 10


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_an_earlier_checkpoint_does_not_stand_for_the_last_one(run, damage, tmp_path):
    (last,) = run.checkpoints.glob("step-00000010")
    if damage == "missing":
        shutil.rmtree(last)
    else:
        (last / "state.json").write_text("{}")
    assert list(run.checkpoints.glob("step-*"))  # an earlier one
    # Its damage is said as well.
    says = pytest.warns(UserWarning) if damage == "damaged" else contextlib.nullcontext()
    with (
        says,
        pytest.raises(CheckpointError, match="its last step 10 is missing or damaged, .* step 8"),
    ):
        eval_(compose("eval", f"outputs={tmp_path}/outputs", "lengths=[8]", "device=cpu"))
    assert not list(Path(run.folder).glob("eval/*"))
