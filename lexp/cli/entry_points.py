"""The functions that Hydra calls by name, one per command; each imports its work when called.

Help and tab completion must not wait for torch; and a launcher finds the function of a job by its
name, in another process or on another machine.
"""

import sys
from collections.abc import Callable
from functools import partial
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


def _in_one_process(task: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a task that refuses several ranks: they would do the same work in one folder."""

    def alone(config: Any) -> None:
        with report_on_rank_zero():
            refuse_several(f"lexp {task.__name__.strip('_')}")
        task(config)

    return alone


def _say_loading() -> None:
    """Print on rank 0 that the command loads torch, before it does."""
    if place().rank == 0:
        say_loading_torch()


def _train(config: Any, texts: Any = None) -> None:
    """Train a run. texts: that the launcher `here` keeps open for all runs of its sweep."""
    _say_loading()
    from lexp.commands.train import train

    _stop_or_go_on(partial(train, texts=texts), config)


def _eval(config: Any) -> None:
    _say_loading()
    from lexp.commands.evaluate import eval_

    _stop_or_go_on(_in_one_process(eval_), config)


def _probe(config: Any) -> None:
    _say_loading()
    from lexp.commands.probe import probe

    _stop_or_go_on(_in_one_process(probe), config)


def _analyze(config: Any) -> None:
    _say_loading()
    from lexp.commands.analyze import analyze

    _stop_or_go_on(_in_one_process(analyze), config)


def _report_study(config: Any) -> None:
    _say_loading()
    from lexp.commands.report import report

    _stop_or_go_on(_in_one_process(report), config)


def _status(config: Any) -> None:
    from lexp.commands.status import status

    _stop_or_go_on(_in_one_process(status), config)


def _study(config: Any) -> None:
    _say_loading()
    from lexp.commands.study.command import study

    _stop_or_go_on(_in_one_process(study), config)


def _finetune(config: Any) -> None:
    _say_loading()
    from lexp.commands.finetune import finetune_

    _stop_or_go_on(finetune_, config)


def _check(module: str) -> Callable[[Any], None]:
    """Return the check of a command, imported when it is called."""

    def check(config: Any) -> None:
        if module != "status":
            _say_loading()
        import_module(f"lexp.commands.{module}").check(config)

    return check


# What Hydra calls for each command, and what checks a config without doing any work.
TASKS = {
    "train": (_train, _check("train")),
    "eval": (_eval, _check("evaluate")),
    "analyze": (_analyze, _check("analyze")),
    "report": (_report_study, _check("report")),
    "probe": (_probe, _check("probe")),
    "status": (_status, _check("status")),
    "study": (_study, _check("study.command")),
    "finetune": (_finetune, _check("finetune")),
}
