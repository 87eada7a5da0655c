"""SIGKILL at every file-system call of every save, and before what was written is all there."""

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from lexp.commands.train import train
from lexp.runs import checkpoint
from lexp.system import files
from support.children import assert_whole, run
from support.faults.calls import CUTS, counted, cut, die, is_file, watch
from support.training import folder_of, result_of

# scripts/faults.sh dies at each point; the fast part at every other, others at each save.
EVERY = 1 if "LEXP_FAULTS_KILLS" in os.environ else 2


def points_of(save, tmp_path: Path) -> list[tuple[int, str, str]]:
    """Every place to die in a save: number and name of the call, and what to leave of its file."""
    found: list[tuple[int, str, str]] = []

    def note(number, name, arguments):
        found.append((number, name, ""))
        if name == "os.fsync" and is_file(arguments[0]):
            found.extend((number, name, share) for share in CUTS)

    def action():
        watch(counted(note))
        save()
        os.write(1, json.dumps(found).encode())

    ended = run(action, tmp_path / "points")
    assert ended.code == 0, ended.said
    return [tuple(point) for point in json.loads(ended.said)] + [(10**9, "the end", "")]


def kill_at(point, save) -> None:
    """Run a save and die at its point; at the end if it is not met."""
    wanted, _, share = point

    def act(number, name, arguments):
        if number == wanted:
            if share:
                cut(arguments[0], share)
            die()

    watch(counted(act))
    save()
    die()


def copied(source: Path, target: Path) -> None:
    """Copy a tree that a heartbeat goes on writing its status to, by way of a passing file."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".status.json.*"))


class KilledSave(NamedTuple):
    """Outputs in which a save was killed. step: of the checkpoint that was whole before it."""

    what: str
    outputs: Path
    step: int


def branches(config, patch, tmp_path: Path, save) -> list[KilledSave]:
    """Train once; at every save, for points of it, a copy of the outputs with one killed."""
    found: list[KilledSave] = []
    outputs = Path(config.outputs)
    saves = itertools.count()

    def branching(root, tensors, state, keep=False):
        before = checkpoint.latest(root)
        kept = before.step if before else 0

        def in_copy(copy):
            return lambda: save(copy / root.relative_to(outputs), tensors, state, keep)

        trial = tmp_path / f"trial-{state['step']}"
        copied(outputs, trial)
        for point in points_of(in_copy(trial), tmp_path)[next(saves) % EVERY :: EVERY]:
            copy = tmp_path / f"copy-{len(found)}"
            copied(outputs, copy)
            ended = run(lambda p=point, c=copy: kill_at(p, in_copy(c)), tmp_path / "log")
            assert ended.code == -9, ended.said
            found.append(KilledSave(f"save of step {state['step']}, {point}", copy, kept))
        return save(root, tensors, state, keep)

    with patch.context() as inner:
        inner.setattr(checkpoint, "save", branching)
        train(config)
    return found


def failures(tiny, found, whole) -> list[str]:
    """The copies that lost a checkpoint, or cannot be resumed to the same bits."""
    failed = []
    for what, outputs, step in found:
        config = tiny(f"outputs={outputs}")
        try:
            left = checkpoint.latest(folder_of(config) / "checkpoints")
            assert (left.step if left else 0) >= step
            train(config)
            assert_whole(folder_of(config), whole)
        except Exception as error:
            failed.append(f"{what}: {type(error).__name__} {str(error)[:200]}")
    return failed


def test_sigkill_at_every_call_of_every_save(tiny, monkeypatch, tmp_path):
    """First save (steps 4), one between (8), the last, which drops the first (10)."""
    config = tiny(f"outputs={tmp_path}/whole")
    found = branches(config, monkeypatch, tmp_path, checkpoint.save)
    assert len(found) >= 126 // EVERY, len(found)
    print(f"RESULT kills at every call of a save: {len(found)}")
    assert failures(tiny, found, result_of(folder_of(config))) == []


def save_in_place(root, tensors, state, keep=False):
    """What others do: straight into the folder that is read, the manifest with the rest."""
    path = files.make_folder(root) / f"step-{state['step']:08d}"
    path.mkdir(exist_ok=True)
    checkpoint.save_file(tensors.model, path / "model.safetensors")
    checkpoint.save_file(tensors.optimizer, path / "optim.safetensors")
    (path / "state.json").write_text(json.dumps(state))
    for old in checkpoint._steps(root)[:-1]:
        shutil.rmtree(old)


def test_control_a_save_in_place_does_not_survive(tiny, monkeypatch, tmp_path):
    """The negative control: the same kills find what is wrong with a save in place."""

    def trusting(path):
        state = json.loads((path / "state.json").read_text())
        return checkpoint.Checkpoint(path, state, "")

    monkeypatch.setattr(checkpoint, "verify", trusting)
    config = tiny(f"outputs={tmp_path}/whole", "tokens=512")
    found = branches(config, monkeypatch, tmp_path, save_in_place)
    failed = failures(tiny, found, result_of(folder_of(config)))
    assert failed, "kills inside a save in place went unnoticed"
