"""A study's stages composed and checked whole, before any of them runs."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lexp.commands import analyze, evaluate, probe, report, train
from lexp.commands.load_runs import make_methods, make_protocols
from lexp.commands.study.file import Stage, Study
from lexp.config.messages import explained
from lexp.report.expected import Findings, blocks_of, names_of
from lexp.runs.run import run_name, variant, variant_notes
from lexp.system.errors import ConfigError
from lexp.system.files import config_folder

CHECKS = {
    "train": train.check,
    "eval": evaluate.check,
    "probe": probe.check,
    "analyze": analyze.check,
    "report": report.check,
}


@dataclass(frozen=True)
class StudyJob:
    """A command with its whole config, and the same as checked plain values.

    settings of a training job is all that `lexp.runs.run.variant_notes` asks of a run.
    """

    stage: Stage
    config: Any
    settings: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Of a training job: its run folder."""
        return Path(self.settings["outputs"]) / self.settings["name"] / run_name(self.settings)


def compose_study(study: Study) -> list[StudyJob]:
    """The jobs of every stage, in order; ConfigError names the first bad one.

    A run that several stages train is one job.
    """
    jobs: list[StudyJob] = []
    folders: set[Path] = set()
    with _composing():
        for stage in study.stages:
            for words in stage.jobs():
                try:
                    config = compose(stage.command, overrides=words)
                    job = StudyJob(stage, config, CHECKS[stage.command](config))
                except (HydraException, OmegaConfBaseException) as error:
                    raise ConfigError(f"{_where(stage, words)}: {explained(error)}") from None
                except ConfigError as error:
                    raise ConfigError(f"{_where(stage, words)}: {error}") from None
                if stage.command == "train" and job.folder in folders:
                    continue
                if stage.command == "train":
                    folders.add(job.folder)
                jobs.append(job)
    _check_together(study, jobs)
    return jobs


@contextlib.contextmanager
def _composing() -> Iterator[None]:
    """Within: configs compose, in the application that runs or without one."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


def _where(stage: Stage, words: list[str]) -> str:
    job = f", job {' '.join(words)}" if stage.command == "train" else ""
    return f"stage {stage.number}, lexp {stage.command}{job}"


def names_by_variant(jobs: list[StudyJob]) -> dict[str, str]:
    """The name that tables give each trained variant: the model, and what tells it apart."""
    trained = [job for job in jobs if job.stage.command == "train"]
    notes = variant_notes(trained)  # type: ignore[arg-type]
    return {
        variant(job.settings): " ".join(
            filter(None, (job.settings["model"]["name"], notes[variant(job.settings)]))
        )
        for job in trained
    }


def wanted(job: StudyJob, jobs: list[StudyJob]) -> list[StudyJob]:
    """The training jobs whose runs a job of another command is about."""
    asked = job.settings["model"]
    names = [asked] if isinstance(asked, str) else asked
    trained = [one for one in jobs if one.stage.command == "train"]
    return [one for one in trained if names is None or one.settings["model"]["name"] in names]


# A place in the tables: (name of the row, protocol, length in trained lengths).
Place = tuple[str, str, float]


def places(jobs: list[StudyJob]) -> set[Place]:
    """Every place at which the evaluations of a study put a cell."""
    names = names_by_variant(jobs)
    found: set[Place] = set()
    for job in (one for one in jobs if one.stage.command == "eval"):
        labels = [method.label for method in make_methods(job.settings)]
        protocols = [protocol.name for protocol in make_protocols(job.settings)]
        for run in wanted(job, jobs):
            name = names[variant(run.settings)]
            for length in job.settings["lengths"]:
                at = length / run.settings["train_len"]
                found |= {(f"{name}, {m}", p, at) for m in labels for p in protocols}
    return found


def looked_at(jobs: list[StudyJob]) -> set[tuple[str, str, str]]:
    """Every (instrument, name of the row, state) that the study's analyses look at."""
    names = names_by_variant(jobs)
    return {
        (instrument.name, names[variant(run.settings)], state)
        for job in jobs
        if job.stage.command == "analyze"
        for instrument in analyze.make_instruments(job.settings)
        for run in wanted(job, jobs)
        for state in job.settings["states"]
    }


def _check_together(study: Study, jobs: list[StudyJob]) -> None:
    """ConfigError if a stage or an expected number refers to what no stage makes."""
    trained = {job.settings["model"]["name"] for job in jobs if job.stage.command == "train"}
    for job in jobs:
        asked = job.settings["model"] if job.stage.command != "train" else None
        for name in [asked] if isinstance(asked, str) else asked or ():
            if name not in trained and name != "hf":
                raise ConfigError(
                    f"stage {job.stage.number}, lexp {job.stage.command}: model={name}: the study "
                    f"trains {', '.join(sorted(trained)) or 'none'}"
                )
    cells, looks = places(jobs), looked_at(jobs)
    for block in blocks_of({"expected": study.expected}):
        if isinstance(block, Findings):
            missing = [
                f"{block.instrument} of {model} ({block.state})"
                for model in block.rows
                if (block.instrument, model, block.state) not in looks
            ]
        else:
            missing = [
                f"{name} at {at:g}x under {block.protocol}"
                for name in names_of(block)
                for n, at in enumerate(block.at)
                if (name, block.protocol, at) not in cells and not _is_blank(block, name, n)
            ]
        if missing:
            raise ConfigError(f"expected, {block.source}: no stage makes {missing[0]}")


def _is_blank(block: Any, name: str, n: int) -> bool:
    """Whether nothing is printed at a place of a row."""
    own = block.rows.get(name)
    return isinstance(own, tuple) and own[n] is None
