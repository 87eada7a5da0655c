"""What Hydra calls for each command: light functions, found by name, that import the work.

Help and tab completion must not wait for torch; and a launcher finds the function of a job by its
name, in another process or on another machine.
"""

import sys
from collections.abc import Callable
from typing import Any

from lexp.errors import LexpError
from lexp.printable import printable
from lexp.secrets import masked


def show(error: LexpError) -> int:
    """Say in one line what a user can act on; its exit code."""
    line = masked(printable(" ".join(str(error).split())))
    print(f"lexp: {line}", file=sys.stderr, flush=True)
    return error.exit_code


def _stop_or_go_on(task: Callable[[Any], None], config: Any) -> None:
    """Run a task; its failure ends this process, but in a sweep not the other jobs."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        task(config)
    except LexpError as error:
        code = show(error)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            error.reported = True
            raise
        sys.exit(code)


def _train(config: Any) -> None:
    from lexp.tasks.train import train

    _stop_or_go_on(train, config)


def _eval(config: Any) -> None:
    from lexp.tasks.evaluate import eval_

    _stop_or_go_on(eval_, config)


def _probe(config: Any) -> None:
    from lexp.tasks.probe import probe

    _stop_or_go_on(probe, config)


def _analyze(config: Any) -> None:
    from lexp.tasks.analyze import analyze

    _stop_or_go_on(analyze, config)


def _report_study(config: Any) -> None:
    from lexp.tasks.report import report

    _stop_or_go_on(report, config)


def _status(config: Any) -> None:
    from lexp.tasks.status import status

    _stop_or_go_on(status, config)


def _check_train(config: Any) -> None:
    from lexp.tasks.train import check

    check(config)


def _check_eval(config: Any) -> None:
    from lexp.tasks.evaluate import check

    check(config)


def _check_probe(config: Any) -> None:
    from lexp.tasks.probe import check

    check(config)


def _check_analyze(config: Any) -> None:
    from lexp.tasks.analyze import check

    check(config)


def _check_report(config: Any) -> None:
    from lexp.tasks.report import check

    check(config)


def _check_status(config: Any) -> None:
    from lexp.tasks.status import check

    check(config)


# What Hydra calls for each command, and what checks a config without doing any work.
TASKS = {
    "train": (_train, _check_train),
    "eval": (_eval, _check_eval),
    "analyze": (_analyze, _check_analyze),
    "report": (_report_study, _check_report),
    "probe": (_probe, _check_probe),
    "status": (_status, _check_status),
}
