"""Checkpoints: complete or absent, verified by digests, and without anything that can run code.

    checkpoints/step-00000300/model.safetensors   parameters
                              optim.safetensors   moments and step counts, by parameter name
                              state.json          step and other state of the training loop
                              manifest.json       size and SHA-256 of each file; written last
                              kept                present if later saves must not delete it

Neither safetensors nor torch's own format notices a flipped bit, so each load checks the digests.
"""

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from lexp.system.errors import CheckpointError, StorageError, refuse_shortage
from lexp.system.files import (
    make_folder,
    new_folder,
    open_new,
    publish,
    remove_folder,
    sha256_own,
    storage,
    sync_file,
    write_json,
)
from lexp.system.links import refuse_links
from lexp.system.output import warn
from lexp.system.reading import read_own

KEEP = 2  # the newest checkpoint, and the one before in case the newest is damaged
KEPT = "kept"
FILES = ("model.safetensors", "optim.safetensors", "state.json")
MANIFEST = "manifest.json"
FORMAT = 2
MAX_NUMBER = 2**62
# What the optimisers keep of each parameter.
MOMENTS: dict[type[Optimizer], tuple[str, ...]] = {
    AdamW: ("exp_avg", "exp_avg_sq", "step"),
    Muon: ("momentum_buffer",),
}
NOT_FINITE = ("nan", "inf", "-inf")  # losses as JSON has no number for them


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose digests were verified."""

    path: Path
    state: dict[str, Any]
    model_sha256: str

    @property
    def step(self) -> int:
        """Return the number of finished optimiser steps."""
        return self.state["step"]


class Tensors(NamedTuple):
    """The tensors of a checkpoint: parameters and buffers, and `moment/parameter`."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def tensors(model: nn.Module, optimizers: Sequence[Optimizer]) -> Tensors:
    """Return the tensors of a model and its optimisers, by name."""
    optimizer_of = _optimizer_of(optimizers)
    moments = {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer_of[parameter].state[parameter].items()
    }
    return Tensors(_tensors(model), moments)


def save(root: Path, tensors: Tensors, state: dict[str, Any], keep: bool = False) -> Path:
    """Write the checkpoint of `state["step"]`; then delete all but the newest two.

    keep: mark this checkpoint so that later saves never delete it. StorageError if it cannot be
    written.
    """
    path = root / f"step-{state['step']:08d}"
    with storage(path):
        if not root.is_dir() and root.parent.is_dir():
            make_folder(root)  # not its parents: a run folder that was deleted must not come back
    try:
        with new_folder(path) as temporary:
            if keep:
                open_new(temporary / KEPT).close()
            _write(temporary, path, tensors, state)
    except SafetensorError as error:  # safetensors raises this when the disk is full
        raise StorageError(f"cannot write {path}: {error}") from None
    return path


def _write(temporary: Path, path: Path, tensors: Tensors, state: dict[str, Any]) -> None:
    root = path.parent
    with storage(path):
        save_file(tensors.model, temporary / FILES[0])
        save_file(tensors.optimizer, temporary / FILES[1])
        write_json(temporary / FILES[2], state)
        for name in FILES[:2]:
            sync_file(temporary / name, like=temporary / FILES[2])
        files = {
            name: {
                "bytes": (temporary / name).stat().st_size,
                "sha256": sha256_own(temporary / name),
            }
            for name in FILES
        }
        manifest = {"format": FORMAT, "run": root.resolve().parent.name, "files": files}
        write_json(temporary / MANIFEST, manifest)
        remove_folder(path)  # a damaged checkpoint of the same step
        publish(temporary, path)
        for old in _steps(root)[:-KEEP]:
            if not (old / KEPT).exists():
                remove_folder(old)


def at_steps(root: Path, steps: list[int] | None) -> list[Checkpoint]:
    """Return the checkpoints of these steps (None: of all steps), oldest first.

    CheckpointError if one of them is damaged or missing; it lists the steps that exist.
    """
    paths = {int(path.name.removeprefix("step-")): path for path in _steps(root)}
    missing = sorted(set(steps or ()) - set(paths))
    if missing:
        shown = ", ".join(map(str, paths)) or "none"
        raise CheckpointError(f"{root} has no checkpoint of step {missing[0]}; it has: {shown}")
    return [verify(paths[step]) for step in (sorted(paths) if steps is None else sorted(steps))]


def latest(root: Path) -> Checkpoint | None:
    """Return the newest undamaged checkpoint, or None if there is no checkpoint.

    Damaged checkpoints are skipped with a warning. CheckpointError if all are damaged: to start
    afresh without a word would throw the run away.
    """
    problems = []
    for path in reversed(_steps(root)):
        try:
            checkpoint = verify(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"{problem}; using {path.name} instead", stacklevel=2)
        return checkpoint
    if problems:
        raise CheckpointError("no usable checkpoint: " + "; ".join(problems))
    return None


def verify(path: Path) -> Checkpoint:
    """Check each file against the manifest; CheckpointError names the file that differs."""
    try:
        manifest = _manifest(path)
        for name in FILES:
            expected = manifest[name]
            if (path / name).stat().st_size != expected["bytes"]:
                raise CheckpointError(f"{path / name} is not the file that was saved")
            if sha256_own(path / name) != expected["sha256"]:
                raise CheckpointError(f"{path / name} is damaged (digest differs)")
        state = json.loads(read_own(path / "state.json"))
        _check_state(state)
        if path.name != f"step-{state['step']:08d}":
            raise CheckpointError(f"{path} holds step {state['step']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        refuse_shortage(path, error)
        raise CheckpointError(f"{path} is incomplete or damaged ({error})") from None
    return Checkpoint(path, state, manifest["model.safetensors"]["sha256"])


def _check_state(state: dict[str, Any]) -> None:
    """Raise ValueError or KeyError for a state that no training loop has written.

    Digests do not protect from it: whoever writes a state can write them too.
    """
    for name, kind in (("step", int), ("metrics_bytes", int), ("seconds", float)):
        value = state[name]
        if type(value) not in (int, kind) or not 0 <= value <= MAX_NUMBER:
            raise ValueError(f"state.json: {name} is {str(value)[:40]}, no number that was saved")
    losses = state["validation"]
    is_known = isinstance(losses, dict) and all(
        (type(loss) in (int, float) and abs(loss) <= MAX_NUMBER) or loss in NOT_FINITE
        for loss in losses.values()
    )
    if not is_known:
        raise ValueError(f"state.json: validation is {str(losses)[:40]}, no losses by length")


def _manifest(path: Path) -> dict[str, Any]:
    """Return the files of a manifest; CheckpointError if it has another format or run.

    A manifest names the run, so that a checkpoint copied from another run is noticed.
    """
    text = read_own(path / MANIFEST).decode()
    manifest = json.loads(text)
    is_manifest = set(manifest) == {"format", "run", "files"} and manifest["format"] == FORMAT
    if not is_manifest or not text.endswith("}\n"):
        raise CheckpointError(f"{path / MANIFEST} is not a manifest of format {FORMAT}")
    run = path.resolve().parents[1].name
    if manifest["run"] != run:
        raise CheckpointError(f"{path} was saved by the run {manifest['run']}, not by {run}")
    return manifest["files"]


def load_model(checkpoint: Checkpoint, model: nn.Module, fresh: Collection[str] = ()) -> None:
    """Copy the parameters into the model; CheckpointError if a name or shape differs.

    fresh: submodules by name whose parameters, wherever they are, keep their initialisation.
    """
    fill(model, _read(checkpoint, FILES[0]), checkpoint.path / FILES[0], fresh)


def fill(
    model: nn.Module, tensors: dict[str, Tensor], path: Path, fresh: Collection[str] = ()
) -> None:
    """Do the same with tensors by name. path: of their file, for messages."""
    target, stored = (
        {name: tensor for name, tensor in named.items() if not set(name.split(".")) & set(fresh)}
        for named in (_tensors(model), tensors)
    )
    _fill(target, stored, path)


def load_optimizer(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    place: Callable[[Tensor, nn.Parameter], Tensor],
) -> None:
    """Load the optimisers' moments and step counts. place: moves one to its parameter's device."""
    stored = _read(checkpoint, FILES[1])
    optimizer_of = _optimizer_of(optimizers)
    for name, parameter in model.named_parameters():
        optimizer = optimizer_of[parameter]
        moments = {key: stored.pop(f"{key}/{name}", None) for key in MOMENTS[type(optimizer)]}
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


def _optimizer_of(optimizers: Sequence[Optimizer]) -> dict[nn.Parameter, Optimizer]:
    """Return the optimiser of each parameter."""
    return {p: o for o in optimizers for group in o.param_groups for p in group["params"]}


def clean(root: Path) -> None:
    """Delete files that killed saves left behind; the caller must hold the run's lock."""
    for leftover in root.glob(".step-*"):
        remove_folder(leftover)


def _steps(root: Path) -> list[Path]:
    refuse_links(root, CheckpointError)
    # By step number, never by file time.
    steps = sorted(p for p in root.glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))
    for path in steps:
        refuse_links(path, CheckpointError)
    return steps


def second_names(model: nn.Module) -> set[str]:
    """Return all names but the first of parameters that several layers share."""
    first = {name for name, _ in model.named_parameters()}
    return {name for name, _ in model.named_parameters(remove_duplicate=False)} - first


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; parameters that layers share appear once."""
    repeated = second_names(model)
    state = model.state_dict()
    return {name: tensor.detach() for name, tensor in state.items() if name not in repeated}


def _read(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    try:
        return load_file(checkpoint.path / name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{checkpoint.path / name} cannot be read ({error})") from None


def _fill(target: dict[str, Tensor], stored: dict[str, Tensor], path: Path) -> None:
    names = sorted(set(target) ^ set(stored))
    shapes = [n for n in target if n in stored and target[n].shape != stored[n].shape]
    if names or shapes:
        raise CheckpointError(f"{path} does not fit the model: {(names + shapes)[:3]} differ")
    for name, tensor in target.items():
        if stored[name].dtype != tensor.dtype:
            raise CheckpointError(
                f"{path}: {name} is {str(stored[name].dtype).removeprefix('torch.')}, and "
                f"{str(tensor.dtype).removeprefix('torch.')} in the model; it is not converted"
            )
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(stored[name])
