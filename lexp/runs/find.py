"""The runs of a study, found by the files in their folders."""

import os
import shlex
from pathlib import Path

from lexp.runs.run import Run
from lexp.system.errors import CheckpointError, ConfigError
from lexp.system.links import real_folder, refuse_links
from lexp.system.text import counted

# A run has config.json once its training starts, and status.json from the moment it is queued.
MARKS = ("config.json", "status.json")
FINISHED = "done.json"


def find_folders(study: Path) -> list[Path]:
    """Return the folder of every run of a study, also of one that never started, by name.

    ConfigError lists other studies if there is none, and names the study of a run.
    """
    refuse_links(study, CheckpointError)
    folders = sorted({path.parent for mark in MARKS for path in study.glob(f"*/{mark}")})
    if not folders:
        if any((study / mark).exists() for mark in MARKS):
            run = study.resolve()
            raise ConfigError(f"{run} is a run; give its study, {run.parent}")
        others = sorted({p.parents[1].name for m in MARKS for p in study.parent.glob(f"*/*/{m}")})
        there = f"studies there: {', '.join(others)}" if others else "train one with `lexp train`"
        raise ConfigError(f"no run in {study.resolve()}; {there}")
    return folders


def find_runs(study: Path) -> list[Run]:
    """Return every run of a study whose training has started, by name; ConfigError if none has."""
    folders = find_folders(study)
    runs = [Run(folder) for folder in folders if (folder / MARKS[0]).exists()]
    if not runs:
        command = f"lexp status name={shlex.quote(study.name)}"
        if os.path.relpath(study.parent) != "outputs":
            command += f" outputs={shlex.quote(str(study.parent))}"
        number = counted(len(folders), "run")
        raise ConfigError(
            f"{study.resolve()}: training has not started ({number} queued or failed); "
            f"the reasons: {command}"
        )
    return runs


def folder_to_fill(key: str, folder: str) -> Path:
    """Return a folder to write, that is not there yet or empty; ConfigError for another.

    Links above it are followed, as the user named it; it is none itself.
    """
    path = Path(os.path.normpath(folder))
    path = real_folder(path.parent) / path.name
    if path.is_symlink():
        raise ConfigError(f"{key}={folder}: is a symbolic link; name a folder that is not there")
    above = next(place for place in path.parents if place.exists())
    if not above.is_dir():
        raise ConfigError(f"{key}={folder}: {above} is no folder; name a place elsewhere")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(
            f"{key}={folder}: is there already; name a new or an empty folder, nothing is replaced"
        )
    return path


def refuse_among_runs(key: str, folder: Path) -> None:
    """Raise ConfigError for a folder inside a run or beside runs: its files would count as theirs.

    A model of transformers has a config.json, as a run has.
    """
    inside = next((above for above in folder.parents if (above / FINISHED).exists()), None)
    if inside or any(folder.parent.glob(f"*/{FINISHED}")):
        where = f"inside the run {inside}" if inside else f"among the runs of {folder.parent}"
        raise ConfigError(f"{key}={folder}: is {where}; name a folder elsewhere")


def finished_run(key: str, folder: str) -> Run:
    """Return the run that `key=folder` names; ConfigError if it is not finished."""
    run = Run(real_folder(folder))
    if run.is_done:
        return run
    if run.is_marked and run.problem:
        raise ConfigError(f"{key}={run.folder}: {run.problem}")
    if any((run.folder / mark).exists() for mark in MARKS):
        raise ConfigError(f"{key}={run.folder}: this run is not finished; train it to its end")
    finished = sorted(f"{key}={path.parent}" for path in run.folder.glob(f"*/{FINISHED}"))
    what = f"one of its runs: {', '.join(finished[:4])}" if finished else f"{key}=outputs/NAME/RUN"
    raise ConfigError(f"{key}={run.folder}: not the folder of a finished run; give {what}")
