"""The functions that Hydra calls by name, one per command; each imports its work when called.

Help and tab completion must not wait for torch; and a launcher finds the function of a job by its
name, in another process or on another machine.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from lexp.system.errors import LexpError, actionable
from lexp.system.output import say, say_loading_torch
from lexp.system.ranks import place, refuse_several, report_on_rank_zero
from lexp.system.user_code import UserCodeError, in_user_code


def show(error: LexpError) -> int:
    """Print an error as one line, secrets masked; return its exit code.

    Frames of an error in the user's code are printed above it.
    """
    frames = error.frames if isinstance(error, UserCodeError) else ()
    lines = [line for frame in frames for line in frame.rstrip().split("\n")]
    say(*lines, f"lexp: {' '.join(str(error).split())}")
    return error.exit_code


def _stop_or_go_on(task: Callable[[Any], None], config: Any) -> None:
    """Run a task; a failure ends this process, but not the other jobs of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        task(config)
    except Exception as defect:
        error = actionable(defect) or in_user_code(defect)
        if error is None:
            raise
        code = error.exit_code if error.reported else show(error)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            error.reported = True
            raise error from None
        sys.exit(code)


# The module and function of each command's work; the module also has its `check`.
WORK = {
    "train": ("train", "train"),
    "eval": ("evaluate", "eval_"),
    "probe": ("probe", "probe"),
    "analyze": ("analyze", "analyze"),
    "report": ("report", "report"),
    "status": ("status", "status"),
    "study": ("study.command", "study"),
    "finetune": ("finetune", "finetune_"),
    "export": ("export", "export"),
    "data": ("data", "data"),
    "harness": ("harness", "harness"),
    "generate": ("generate", "generate_"),
}
# Commands that several ranks share; the others would do the same work in one folder.
SHARED = ("train", "finetune")


def refuse_early(word: str, config: Any) -> None:
    """Raise ConfigError for what can be refused before torch is loaded.

    These are settings out of range, a model or run that is not there and, where a command reads
    runs, a study without any.
    """
    from lexp.commands.harness_files import require_harness
    from lexp.commands.study.file import read_study_file
    from lexp.config import validation
    from lexp.config.generation import GenerateConfig, read_generate
    from lexp.config.hf_folder import is_hf_folder, refuse_hub_name
    from lexp.config.settings import (
        HF,
        ExportConfig,
        FinetuneConfig,
        MethodsConfig,
        ReportConfig,
        TrainConfig,
    )
    from lexp.hf.source import find_source
    from lexp.runs.find import find_runs, finished_run, folder_to_fill

    readers: dict[str, Callable[[Any], Any]] = {
        "train": validation.read_composed_train,
        "eval": validation.read_eval,
        "probe": validation.read_probe,
        "harness": validation.read_harness,
        "analyze": validation.read_analyze,
        "report": validation.read_report,
        "finetune": validation.read_finetune,
        "export": validation.read_export,
        "generate": read_generate,
        "data": validation.read_data,
        "study": read_study_file,
    }
    if word == "harness":
        require_harness()
    match readers[word](config) if word in readers else None:
        case GenerateConfig(run=str(folder)) | FinetuneConfig(run=folder):
            finished_run("run", folder)
        case MethodsConfig(model=model, path=str(path)) if model == HF:
            find_source(path)
        case MethodsConfig() | ReportConfig() as settings:
            find_runs(settings.study_folder)
        case TrainConfig(init_from=str(folder)) if not is_hf_folder(folder):
            refuse_hub_name("init_from", folder)
            finished_run("init_from", folder)
        case ExportConfig(run=folder, to=to):
            finished_run("run", folder)
            folder_to_fill("to", to)


def _work(word: str, config: Any, **named: Any) -> None:
    """Refuse what can be refused at once, then load torch and do the work of a command."""

    def task(composed: Any) -> None:
        if word not in SHARED:
            with report_on_rank_zero():
                refuse_several(f"lexp {word}")
        refuse_early(word, composed)
        module, function = WORK[word]
        getattr(_loaded(module), function)(composed, **named)

    _stop_or_go_on(task, config)


def _loaded(module: str) -> Any:
    """Import a module of lexp.commands; rank 0 says so where it loads torch."""
    if module != "status" and place().rank == 0:
        say_loading_torch()
    return import_module(f"lexp.commands.{module}")


def _train(config: Any, texts: Any = None) -> None:
    """Train a run. texts: that the launcher `here` keeps open for all runs of its sweep."""
    _work("train", config, texts=texts)


def _eval(config: Any) -> None:
    _work("eval", config)


def _probe(config: Any) -> None:
    _work("probe", config)


def _harness(config: Any) -> None:
    _work("harness", config)


def _analyze(config: Any) -> None:
    _work("analyze", config)


def _report_study(config: Any) -> None:
    _work("report", config)


def _status(config: Any) -> None:
    _work("status", config)


def _study(config: Any) -> None:
    _work("study", config)


def _finetune(config: Any) -> None:
    _work("finetune", config)


def _export(config: Any) -> None:
    _work("export", config)


def _generate(config: Any, prompt: str | None = None) -> None:
    """Continue a text. prompt: as it was typed, in place of the config's."""
    _work("generate", config, prompt=prompt)


def _data(config: Any) -> None:
    _work("data", config)


def _check(word: str) -> Callable[[Any], None]:
    """Return the check of a command, imported when it is called."""

    def check(config: Any) -> None:
        _loaded(WORK[word][0]).check(config)

    return check


# What Hydra calls for each command, and what checks a config without doing any work.
TASKS = {
    "train": (_train, _check("train")),
    "eval": (_eval, _check("eval")),
    "analyze": (_analyze, _check("analyze")),
    "report": (_report_study, _check("report")),
    "probe": (_probe, _check("probe")),
    "status": (_status, _check("status")),
    "study": (_study, _check("study")),
    "finetune": (_finetune, _check("finetune")),
    "export": (_export, _check("export")),
    "data": (_data, _check("data")),
    "harness": (_harness, _check("harness")),
    "generate": (_generate, _check("generate")),
}
