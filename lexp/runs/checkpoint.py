"""Checkpoints: complete or absent, digested, and free of anything that could run code.

    checkpoints/step-00000300/model.safetensors   parameters
                              optim.safetensors   AdamW's moments and step counts, by parameter name
                              state.json          step and what else resumes
                              manifest.json       size and SHA-256 of each file; written last
                              kept                there if later saves are to leave it alone

Neither safetensors nor torch's own format notices a flipped bit, so the digests are checked at
every load.
"""

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from lexp.system.errors import CheckpointError, StorageError
from lexp.system.files import sha256, storage, sync_folder, write_json

KEEP = 2  # the newest, and the one before in case the newest is found damaged
KEPT = "kept"
FILES = ("model.safetensors", "optim.safetensors", "state.json")
FORMAT = 2  # 1 did not name the run


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose digests were verified."""

    path: Path
    state: dict[str, Any]
    model_sha256: str

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.state["step"]


class Tensors(NamedTuple):
    """What a checkpoint holds: parameters and buffers, and `moment/parameter` of the optimiser."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def tensors(model: nn.Module, optimizer: Optimizer) -> Tensors:
    """Those of a model and its optimiser, by name."""
    moments = {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    return Tensors(_tensors(model), moments)


def save(root: Path, tensors: Tensors, state: dict[str, Any], keep: bool = False) -> Path:
    """Write a checkpoint of `state["step"]` beside the others, then drop all but the newest two.

    keep: never drop this one.
    """
    path = root / f"step-{state['step']:08d}"
    with storage(path):
        if not root.is_dir():
            root.mkdir()  # not its parents: a run folder that has vanished is not made up again
            sync_folder(root.parent)
        temporary = Path(tempfile.mkdtemp(dir=root, prefix=f".{path.name}."))
    try:
        if keep:
            (temporary / KEPT).touch()
        _write(temporary, path, tensors, state)
    except SafetensorError as error:  # how that library reports a full disk
        raise StorageError(f"cannot write {path}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # renamed away, unless something failed
    return path


def _write(temporary: Path, path: Path, tensors: Tensors, state: dict[str, Any]) -> None:
    root = path.parent
    with storage(path):
        save_file(tensors.model, temporary / FILES[0])
        save_file(tensors.optimizer, temporary / FILES[1])
        for name in FILES[:2]:
            with (temporary / name).open("rb") as file:
                os.fsync(file.fileno())
        write_json(temporary / FILES[2], state)
        files = {
            name: {"bytes": (temporary / name).stat().st_size, "sha256": sha256(temporary / name)}
            for name in FILES
        }
        manifest = {"format": FORMAT, "run": root.resolve().parent.name, "files": files}
        write_json(temporary / "manifest.json", manifest)
        shutil.rmtree(path, ignore_errors=True)  # a damaged one of the same step
        os.chmod(temporary, 0o755)
        os.rename(temporary, path)
        sync_folder(root)
        for old in _steps(root)[:-KEEP]:
            if not (old / KEPT).exists():
                shutil.rmtree(old, ignore_errors=True)


def at_steps(root: Path, steps: list[int] | None) -> list[Checkpoint]:
    """The checkpoints of these steps, or all, oldest first.

    CheckpointError if one is damaged, or is not there, with those that are.
    """
    there = {int(path.name.removeprefix("step-")): path for path in _steps(root)}
    missing = sorted(set(steps or ()) - set(there))
    if missing:
        shown = ", ".join(map(str, there)) or "none"
        raise CheckpointError(f"{root} has no checkpoint of step {missing[0]}, of {shown}")
    return [verify(there[step]) for step in (sorted(there) if steps is None else sorted(steps))]


def latest(root: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None if there is none at all.

    A damaged one is passed over with a warning; CheckpointError if all are damaged, because a
    silent fresh start would throw the run away.
    """
    problems = []
    for path in reversed(_steps(root)):
        try:
            checkpoint = verify(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; using {path.name} instead", stacklevel=2)
        return checkpoint
    if problems:
        raise CheckpointError("no usable checkpoint: " + "; ".join(problems))
    return None


def verify(path: Path) -> Checkpoint:
    """Check every file against the manifest; CheckpointError names the file that differs."""
    try:
        manifest = _manifest(path)
        for name in FILES:
            expected = manifest[name]
            if (path / name).is_symlink() or (path / name).stat().st_size != expected["bytes"]:
                raise CheckpointError(f"{path / name} is not the file that was saved")
            if sha256(path / name) != expected["sha256"]:
                raise CheckpointError(f"{path / name} is damaged (digest differs)")
        state = json.loads((path / "state.json").read_text())
        if path.name != f"step-{state['step']:08d}":
            raise CheckpointError(f"{path} holds step {state['step']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is incomplete or damaged ({error})") from None
    return Checkpoint(path, state, manifest["model.safetensors"]["sha256"])


def _manifest(path: Path) -> dict[str, Any]:
    """The files of a checkpoint's manifest; CheckpointError if it is of other kind or another run.

    A run folder keeps its name, so that a checkpoint moved from one run to another is noticed.
    """
    text = (path / "manifest.json").read_text()
    manifest = json.loads(text)
    wanted = {1: {"format", "files"}, FORMAT: {"format", "run", "files"}}
    if set(manifest) != wanted.get(manifest.get("format")) or not text.endswith("}\n"):
        raise CheckpointError(f"{path / 'manifest.json'} is not a manifest of format 1 or {FORMAT}")
    run = path.resolve().parents[1].name
    if manifest.get("run", run) != run:
        raise CheckpointError(f"{path} was saved by the run {manifest['run']}, not by {run}")
    return manifest["files"]


def load_model(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Fill the model; CheckpointError if names or shapes differ in any way."""
    _fill(_tensors(model), _read(checkpoint, FILES[0]), checkpoint.path / FILES[0])


def load_trunk(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Fill everything but the position scheme, which keeps its initialisation.

    CheckpointError if anything else differs in name or shape.
    """
    own, stored = (
        {name: tensor for name, tensor in tensors.items() if not name.startswith("positions.")}
        for tensors in (_tensors(model), _read(checkpoint, FILES[0]))
    )
    _fill(own, stored, checkpoint.path / FILES[0])


def load_optimizer(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: Optimizer,
    place: Callable[[Tensor, nn.Parameter], Tensor],
) -> None:
    """Fill the optimiser's moments and step counts; place: puts one where its parameter is."""
    stored = _read(checkpoint, FILES[1])
    for name, parameter in model.named_parameters():
        moments = {
            key: stored.pop(f"{key}/{name}", None) for key in ("exp_avg", "exp_avg_sq", "step")
        }
        missing = [key for key, value in moments.items() if value is None]
        if missing:
            raise CheckpointError(f"{checkpoint.path / FILES[1]} lacks {missing} of {name}")
        optimizer.state[parameter] = {
            key: value.to(parameter.device) if key == "step" else place(value, parameter)
            for key, value in moments.items()
            if value is not None
        }
    if stored:
        raise CheckpointError(f"{checkpoint.path / FILES[1]} has unknown {sorted(stored)[:3]}")


def clean(root: Path) -> None:
    """Remove what killed saves left behind; only for the holder of the run's lock."""
    for leftover in root.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _steps(root: Path) -> list[Path]:
    # By step number, never by file time.
    return sorted(p for p in root.glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))


def second_names(model: nn.Module) -> set[str]:
    """Names but the first of parameters that several layers share."""
    first = {name for name, _ in model.named_parameters()}
    return {name for name, _ in model.named_parameters(remove_duplicate=False)} - first


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """By name; what several layers share is there once."""
    again = second_names(model)
    state = model.state_dict()
    return {name: tensor.detach() for name, tensor in state.items() if name not in again}


def _read(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    try:
        return load_file(checkpoint.path / name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{checkpoint.path / name} cannot be read ({error})") from None


def _fill(own: dict[str, Tensor], stored: dict[str, Tensor], path: Path) -> None:
    names = sorted(set(own) ^ set(stored))
    shapes = [name for name in own if name in stored and own[name].shape != stored[name].shape]
    if names or shapes:
        raise CheckpointError(f"{path} does not fit the model: {(names + shapes)[:3]} differ")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(stored[name])
