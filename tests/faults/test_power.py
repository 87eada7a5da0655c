"""Power loss at any moment of a run: what was not synced is gone, torn or zero."""

import os
import shutil
import warnings
from pathlib import Path

from lexp.commands.train import train
from lexp.runs import checkpoint
from lexp.system import files
from support.children import assert_whole, run
from support.faults.calls import watch
from support.faults.disk import KINDS, Record, Recorder
from support.training import folder_of, result_of


def records_of(config) -> list[Record]:
    """A run of this process, recorded; os.fsync and save_file are given back."""
    outputs = Path(config.outputs)
    outputs.mkdir(parents=True)
    recorder = Recorder(outputs)
    fsync, save_file = os.fsync, checkpoint.save_file
    switched = [True]

    def act(name, arguments):
        if switched[0]:
            recorder.act(name, arguments)

    watch(act)
    try:
        train(config)
    finally:
        switched[0] = False
        os.fsync, checkpoint.save_file = fsync, save_file
    return recorder.records


def losses(records: list[Record], config, target: Path) -> tuple[int, list[str], list[Path]]:
    """States after a power loss: how many, what is wrong, and one of each kind of what is there.

    Wrong is a state in which a checkpoint that `save` had come back from is not there whole, or
    in which metrics are shorter than the checkpoint knew.
    """
    n_states, wrong = 0, []
    unlike: dict[tuple, Path] = {}
    saved = 0
    folder = folder_of(config)
    for number, record in enumerate(records):
        for kind in KINDS:
            place = target / f"{number}-{kind}"
            record.make(kind, place)
            n_states += 1
            inside = place / folder.relative_to(config.outputs)
            root = inside / "checkpoints"
            try:
                with warnings.catch_warnings(action="error"):
                    found = checkpoint.latest(root)
                step = found.step if found else 0
                metrics = inside / "metrics.jsonl"
                size = metrics.stat().st_size if metrics.exists() else 0
                if found and size < found.state["metrics_bytes"]:
                    wrong.append(f"{record.call} {kind}: metrics are shorter than step {step}")
                elif found and b"\0" in metrics.read_bytes()[: found.state["metrics_bytes"]]:
                    wrong.append(f"{record.call} {kind}: metrics are torn before step {step}")
                if step < saved:
                    wrong.append(f"{record.call} {kind}: step {step} where {saved} was saved")
                if kind == "names":
                    saved = max(saved, step)
                what = (step, size > 0, (inside / "config.json").exists(), kind)
                if unlike.setdefault(what, place) is place:
                    continue
            except Exception as error:
                wrong.append(f"{record.call} {kind}: {error}")
            shutil.rmtree(place)
    return n_states, wrong, list(unlike.values())


def test_power_loss_at_any_moment_of_a_run(tiny, tmp_path):
    whole = tiny(f"outputs={tmp_path}/whole")
    train(whole)
    result = result_of(folder_of(whole))
    config = tiny(f"outputs={tmp_path}/run/outputs")

    def action():
        records = records_of(config)
        n_states, wrong, unlike = losses(records, config, tmp_path / "states")
        print(f"RESULT power-loss states: {n_states}, of which {len(unlike)} resumed")
        assert wrong == [], wrong[:5]
        for place in unlike:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                resumed = tiny(f"outputs={place}")
                train(resumed)
            assert_whole(folder_of(resumed), result)

    ended = run(action, tmp_path / "log")
    assert ended.code == 0, ended.said[-3000:]
    print(*(line for line in ended.said.splitlines() if line.startswith("RESULT")))


def test_control_a_save_without_fsync_loses_checkpoints(tiny, tmp_path, monkeypatch):
    """The negative control: with fsync left out, the same states are found to be wrong."""
    config = tiny(f"outputs={tmp_path}/run/outputs")

    def action():
        files.os = _Unsynced(os)
        _, wrong, _ = losses(records_of(config), config, tmp_path / "states")
        assert wrong, "what was never synced went unnoticed"

    ended = run(action, tmp_path / "log")
    assert ended.code == 0, ended.said[-3000:]


class _Unsynced:
    """`os`, whose fsync does nothing and is not seen."""

    def __init__(self, own):
        self._own = own

    def fsync(self, handle):
        pass

    def __getattr__(self, name):
        return getattr(self._own, name)
