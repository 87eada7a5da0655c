"""Which checkpoints of a run are looked at or scored."""

from collections.abc import Sequence
from typing import Any

from lexp.commands.hf_run import KIND
from lexp.runs import checkpoint
from lexp.runs.run import Run
from lexp.system.errors import CheckpointError


def is_external(run: Run) -> bool:
    """Whether a run's model was trained elsewhere."""
    return run.kind == KIND


def final(run: Run) -> checkpoint.Checkpoint:
    """The last checkpoint of a finished run."""
    found = checkpoint.latest(run.checkpoints)
    if found is None:
        raise CheckpointError(f"{run.folder} is marked as done and has no checkpoint")
    return found


def chosen_checkpoints(
    run: Run, settings: dict[str, Any]
) -> Sequence[checkpoint.Checkpoint | None]:
    """The checkpoints of a run that are asked for, oldest first; None: from elsewhere."""
    if is_external(run):
        return [None]
    asked = settings["checkpoints"]
    if asked == "last":
        return [final(run)]
    return checkpoint.at_steps(run.checkpoints, None if asked == "all" else asked)


def n_checkpoints(run: Run, settings: dict[str, Any]) -> int:
    """How many checkpoints of a run are asked for, without opening them."""
    asked = settings["checkpoints"]
    if asked == "last" or is_external(run):
        return 1
    return len(list(run.checkpoints.glob("step-*")) if asked == "all" else asked)


def n_steps(run: Run) -> int:
    """The step of a finished run's last checkpoint."""
    return int(run.settings["tokens"]) // run.settings["batch_tokens"]
