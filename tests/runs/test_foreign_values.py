"""Values of a run's files that lexp has not written: a line and exit code 4, never a traceback.

Digests do not help: whoever changes a file can make them again.
"""

import copy
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lexp.commands.analyze import analyze
from lexp.commands.evaluate import eval_
from lexp.commands.load_runs import open_run_with_data
from lexp.commands.texts import Texts
from lexp.commands.train import train
from lexp.runs import checkpoint, status
from lexp.runs.run import Run
from lexp.system.errors import CheckpointError, LexpError, StorageError
from lexp.system.files import sha256
from support.config import compose

MISSING = object()
WRONG = (None, "x", -5, 1.5, 10**400, float("nan"), [], {}, True, [None], {"a": 1}, MISSING)


@pytest.fixture
def study(trained_once) -> Path:
    """The outputs of finished runs with two checkpoints each; only read."""
    return trained_once(("rope", "learned"))


@pytest.fixture
def run(study, tmp_path) -> Run:
    """A copy of that run, to be changed."""
    folder = next(study.glob("default/rope-*/config.json")).parent
    return Run(Path(shutil.copytree(folder, tmp_path / "default" / folder.name)))


def keys_of(value, key=()):
    """Yield every key of nested objects, from the outside in."""
    yield key
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from keys_of(inner, (*key, name))


def changed(value, key: tuple[str, ...], new):
    """Return a copy with another value under a key, or without the key."""
    if not key:
        return None if new is MISSING else new
    value = copy.deepcopy(value)
    inner = value
    for name in key[:-1]:
        inner = inner[name]
    if new is MISSING:
        del inner[key[-1]]
    else:
        inner[key[-1]] = new
    return value


def seal(folder: Path) -> None:
    """Make the manifest of a checkpoint again."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        size, digest = (folder / name).stat().st_size, sha256(folder / name)
        manifest["files"][name] = {"bytes": size, "sha256": digest}
    path.write_text(json.dumps(manifest) + "\n")


STATE = ("step", "metrics_bytes", "seconds", "validation")


def test_every_wrong_value_of_a_state_is_a_damaged_checkpoint(run):
    last = sorted(run.checkpoints.glob("step-*"))[-1]
    state = json.loads((last / "state.json").read_text())
    # What a state of another run may hold: seconds, no validation yet, any loss.
    allowed = {("seconds", "1.5"), ("validation", "{}"), ("validation", "{'a': 1}")}
    keys = [key for key in keys_of(state) if not key or key[0] in STATE]
    assert len(keys) == 1 + len(STATE) + len(state["validation"])
    for key in keys:
        for new in WRONG:
            is_loss = len(key) == 2 and (new is MISSING or new in (-5, 1.5))
            if is_loss or (*key, str(new)) in allowed:
                continue
            (last / "state.json").write_text(json.dumps(changed(state, key, new)))
            seal(last)
            with pytest.raises(CheckpointError, match="is incomplete or damaged|holds step"):
                checkpoint.verify(last)
    (last / "state.json").write_text(json.dumps(state))
    seal(last)
    assert checkpoint.verify(last).step == state["step"]


def test_losses_that_were_not_finite_are_read(run):
    last = sorted(run.checkpoints.glob("step-*"))[-1]
    state = json.loads((last / "state.json").read_text())
    state["validation"] = dict.fromkeys(("nll@16", "nll@32"), "nan") | {"nll@64": "inf"}
    (last / "state.json").write_text(json.dumps(state))
    seal(last)
    assert checkpoint.verify(last).state == state


@pytest.mark.parametrize("command", ["analyze", "resume"])
def test_a_damaged_state_ends_a_command_with_its_code(run, tiny, command):
    """Once through whole commands: those that read of a state more than its step."""
    outputs = run.folder.parents[1]
    for path in run.checkpoints.glob("step-*"):
        state = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({**state, "validation": None}))
        seal(path)
    with pytest.raises(LexpError) as error:
        if command == "analyze":
            words = ["lengths=[8]", "instruments=[heads]", "checkpoints=all", "texts=1"]
            analyze(compose("analyze", f"outputs={outputs}", *words, "device=cpu"))
        else:
            (run.folder / "done.json").unlink()
            train(tiny(f"outputs={outputs}", "model=rope"))
    assert error.value.exit_code == 4 and "state.json" in str(error.value)


def test_every_wrong_value_of_a_config_opens_or_is_a_line(run, study):
    """Names and settings of training alone may be anything of their type; the rest ends with 4."""
    from lexp.commands.evaluate import check

    plan = check(compose("eval", f"outputs={study}", "lengths=[8]", "device=cpu"))
    config = json.loads((run.folder / "config.json").read_text())
    texts, n_refused = Texts(plan), 0
    for key in keys_of(config):
        for new in WRONG:
            (run.folder / "config.json").write_text(json.dumps(changed(config, key, new)))
            try:
                open_run_with_data(Run(run.folder), plan, texts)
            except LexpError as error:
                assert error.exit_code in (3, 4), (key, new, error)
                n_refused += 1
    assert n_refused > 300


def test_every_wrong_value_of_a_status_is_a_status_that_failed(run):
    folder = run.folder
    (folder / "done.json").unlink()
    value = json.loads((folder / "status.json").read_text())
    value.update(state="running", pid=1)
    for key in keys_of(value):
        for new in WRONG:
            (folder / "status.json").write_text(json.dumps(changed(value, key, new)))
            now = status.judge(folder)
            assert now.state in status.STATES
            if key and key[0] in ("pid", "step", "n_steps") and new in ("x", -5, 1.5, True):
                assert now.state == status.FAILED and "status.json" in now.reason, (key, new)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ESTALE])
def test_a_checkpoint_that_cannot_be_read_now_is_not_damaged(run, monkeypatch, code):
    """Or an older one would be taken in its place."""

    def fail(path):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(checkpoint, "sha256_own", fail)
    with pytest.raises(StorageError, match=f"cannot read .*: {os.strerror(code)}; "):
        checkpoint.latest(run.checkpoints)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.int8, torch.bfloat16])
def test_weights_of_another_type_are_refused_and_not_converted(run, kind):
    """int8 would become other numbers, float64 lose digits, without a word."""
    last = sorted(run.checkpoints.glob("step-*"))[-1]
    weights = load_file(last / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name].to(kind)}, last / "model.safetensors")
    seal(last)
    outputs = run.folder.parents[1]
    with pytest.raises(CheckpointError, match=f"{name} is {str(kind)[6:]}, and float32"):
        eval_(compose("eval", f"outputs={outputs}", "lengths=[8]", "device=cpu"))
