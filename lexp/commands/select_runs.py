"""The selection of a study's runs for a command, their checked settings and checkpoints."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lexp.config.settings import HF, HfRunConfig, RunConfig, TrainConfig
from lexp.config.validation import read_hf_run, read_train
from lexp.runs import checkpoint
from lexp.runs.find import find_runs
from lexp.runs.run import Run
from lexp.runs.usual import NO_EXTENSION
from lexp.system.errors import CheckpointError, ConfigError
from lexp.system.output import say


def select_runs(study: Path, model: str | tuple[str, ...] | None) -> list[Run]:
    """Return the runs of a study, or those of some models; ConfigError for a model without runs."""
    runs = find_runs(study)
    if model is None:
        return runs
    names = (model,) if isinstance(model, str) else model
    available = sorted({_model_name(run) for run in runs})
    unknown = sorted(set(names) - set(available))
    if unknown:
        raise ConfigError(f"model={','.join(unknown)}: {study} has runs of {', '.join(available)}")
    return [run for run in runs if _model_name(run) in names]


def select_finished(study: Path, model: str | tuple[str, ...] | None) -> list[Run]:
    """Return the selected runs that are finished, naming the others; ConfigError if none is."""
    runs = select_runs(study, model)
    unfinished = [run.name for run in runs if not run.is_done]
    if unfinished:
        say(f"not finished, left out: {', '.join(unfinished)}")
    finished = [run for run in runs if run.is_done]
    if not finished:
        raise ConfigError(f"no finished run in {study}")
    return finished


def _model_name(run: Run) -> str:
    """Return the name of a run's model, from a config that is still to be checked."""
    try:
        model = run.settings.get("model")
    except CheckpointError:
        return "?"
    return str(model.get("name")) if isinstance(model, dict) else "?"


def read_config(run: Run) -> TrainConfig | HfRunConfig:
    """Return the settings in a run's config.json, which may be edited or somebody else's.

    CheckpointError says what in them is not allowed.
    """
    try:
        if run.kind == HF:
            return read_hf_run(run.settings)
        config = replace(read_train(run.settings), extended_from=run.extended_from)
    except ConfigError as error:
        raise CheckpointError(f"{run.folder}/config.json: {error}") from None
    if (NO_EXTENSION in config.extension) != (config.extended_from is None):
        raise CheckpointError(
            f"{run.folder}/config.json: extension={next(iter(config.extension))} with "
            f"extended_from={config.extended_from}: an extension has a length to start from, and "
            "no other run has; restore the file"
        )
    return config


def last_step(config: RunConfig) -> int | None:
    """Return the step of a finished run's last checkpoint; None where training was elsewhere."""
    return config.n_steps if isinstance(config, TrainConfig) else None


def final_checkpoint(run: Run) -> checkpoint.Checkpoint:
    """Return the checkpoint that training ended with; CheckpointError if it is not there.

    An earlier one would give numbers of other weights under the run's name.
    """
    latest = checkpoint.latest(run.checkpoints)
    step = last_step(read_config(run))
    if latest is None or latest.step != step:
        found = "none is there" if latest is None else f"the last one is of step {latest.step}"
        raise CheckpointError(
            f"{run.folder}: the checkpoint of its last step {step} is missing or damaged, {found}; "
            "delete done.json and repeat lexp train to make it again"
        )
    return latest


def select_checkpoints(
    run: Run, selection: str | tuple[int, ...]
) -> Sequence[checkpoint.Checkpoint | None]:
    """Return the selected checkpoints of a run, oldest first; None for a model from elsewhere.

    selection: last, all, or steps.
    """
    if run.kind == HF:
        return [None]
    if selection == "last":
        return [final_checkpoint(run)]
    return checkpoint.at_steps(
        run.checkpoints, None if isinstance(selection, str) else list(selection)
    )


def count_checkpoints(run: Run, selection: str | tuple[int, ...]) -> int:
    """Return how many checkpoints of a run are selected, without opening them."""
    if selection == "last" or run.kind == HF:
        return 1
    steps = list(run.checkpoints.glob("step-*")) if isinstance(selection, str) else selection
    return len(steps)
