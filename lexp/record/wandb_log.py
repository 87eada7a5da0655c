"""Optional logging to wandb, which can neither fail nor slow a run.

A study is a wandb group; training and evaluation are its job types. A run's id follows from the
study and the run's name, which ends in the hash of its settings. A resumed run therefore continues
the same wandb run, and `wandb sync` joins the pieces of a run that was offline.

wandb itself queues what its server has not received, writes it to disk and sends it from a process
of its own. Two of its calls wait for the server: `wandb.init`, and `finish` at the end. A daemon
thread makes all calls, so that training does not wait for the first, and waits a bounded time for
the second.
"""

import math
import os
import queue
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexp.record.null import NullLogger
from lexp.system.errors import ConfigError, first_line
from lexp.system.files import digest
from lexp.system.links import refuse_links
from lexp.system.output import say, warn

# Longest wait for the server at the start of a run (in the background) and at its end.
INIT_TIMEOUT_S = 10
FINISH_TIMEOUT_S = 30


@dataclass(frozen=True)
class RunLabel:
    """The name of a wandb run and its group. job_type: train or eval."""

    study: str
    name: str
    job_type: str

    @property
    def id(self) -> str:
        """Return an id that is the same at every start of this run and differs between studies."""
        return digest([self.study, self.job_type, self.name])[:16]


@dataclass(frozen=True)
class ChartLine:
    """A line of a chart: its name and its points."""

    name: str
    xs: list[float]
    ys: list[float]


class WandbLogger:
    """wandb=offline|online. Any failure of wandb is one warning, after which nothing is logged.

    If the server does not answer the start of an online run in time, the run continues offline.
    At the end of an offline run one line says where it is and which command uploads it.
    """

    def __init__(self, mode: str, folder: Path, label: RunLabel, config: dict[str, Any]):
        # Calls to make with the run and the module; None ends the run.
        self._calls: queue.SimpleQueue[Callable[[Any, Any], None] | None] = queue.SimpleQueue()
        self._timed_out = False
        self._offline: Path | None = None  # the folder of a run that is offline
        run = (mode, folder, label, config)
        self._thread = threading.Thread(target=self._work, args=run, name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Log the numbers of a step; return at once."""
        self._call(lambda run, wandb: run.log(values, step=step))

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Log a table; return at once."""
        self._call(lambda run, wandb: run.log({name: wandb.Table(columns=columns, data=rows)}))

    def chart(self, name: str, x_name: str, lines: list[ChartLine]) -> None:
        """Log a line chart; return at once."""
        xs, ys, keys = ([getattr(line, key) for line in lines] for key in ("xs", "ys", "name"))
        self._call(
            lambda run, wandb: run.log(
                {name: wandb.plot.line_series(xs, ys, keys=keys, title=name, xname=x_name)}
            )
        )

    def finish(self) -> None:
        """Wait a bounded time until everything is uploaded, or written to disk."""
        self._calls.put(None)
        self._thread.join(FINISH_TIMEOUT_S)
        if self._thread.is_alive():
            self._timed_out = True
            warn(
                f"wandb did not finish within {FINISH_TIMEOUT_S} s; "
                "`wandb sync` uploads what is missing",
                stacklevel=2,
            )
        elif self._offline:
            say(f"wandb: offline in {self._offline}; upload it with: {sync_command(self._offline)}")

    def _call(self, call: Callable[[Any, Any], None]) -> None:
        if self._thread.is_alive():  # otherwise wandb has failed, and nobody empties the queue
            self._calls.put(call)

    def _work(self, mode: str, folder: Path, label: RunLabel, config: dict[str, Any]) -> None:
        try:
            os.environ.setdefault("WANDB_SILENT", "true")
            # wandb's error reports wait for a server that does not answer when the process ends.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            import wandb

            run = _start(wandb, mode, folder, label, config)
            folder_of_run = Path(run.sync_dir) if run.offline else None
            while (call := self._calls.get()) is not None:
                call(run, wandb)
            run.finish()
            self._offline = folder_of_run
        except Exception as error:
            if not self._timed_out:  # one warning is enough
                warn(f"wandb is off for this run: {first_line(error)}", stacklevel=2)


def log_rows(
    wandb: "WandbLogger | NullLogger",
    name: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Log rows of a CSV table; numbers that are not finite as None: wandb has no sign for them."""
    lines = [[_number_or_none(row[column]) for column in columns] for row in rows]
    wandb.table(name, list(columns), lines)


def _number_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _start(wandb: Any, mode: str, folder: Path, label: RunLabel, config: dict[str, Any]) -> Any:
    """Return the new or continued wandb run, offline if the server does not answer."""
    options: dict[str, Any] = {
        "dir": str(folder.resolve()), "id": label.id, "resume": "allow", "name": label.name,
        "project": os.environ.get("WANDB_PROJECT") or label.study, "group": label.study,
        "job_type": label.job_type, "config": config,
    }  # fmt: skip
    if mode == "online":
        try:
            settings = wandb.Settings(init_timeout=INIT_TIMEOUT_S)
            return wandb.init(mode="online", settings=settings, **options)
        except Exception as error:
            warn(f"wandb continues offline: {first_line(error)}", stacklevel=2)
            wandb.teardown()  # otherwise wandb still holds the id of the run that did not start
    return wandb.init(mode="offline", **options)


def _refuse_settings(path: Path, mode: str) -> None:
    """Raise ConfigError for a file of the current folder that says where wandb sends the key."""
    if os.path.lexists(path):
        raise ConfigError(
            f"wandb={mode}: wandb would take the server that gets your key from {path} in the "
            "current folder; remove it, and name a server in the environment (WANDB_BASE_URL)"
        )


def sync_command(piece: Path) -> str:
    """Return the command that uploads an offline run, whose pieces of earlier starts come first."""
    of_this_run = f"offline-run-*-{piece.name.rsplit('-', 1)[-1]}"
    if len(list(piece.parent.glob(of_this_run))) == 1:
        return f"wandb sync {shlex.quote(str(piece))}"
    return f"wandb sync {shlex.quote(str(piece.parent))}/{of_this_run}"


def start_wandb(
    mode: str, folder: Path, label: RunLabel, config: dict[str, Any]
) -> WandbLogger | NullLogger:
    """Return the logger for wandb=off|offline|online.

    folder: where wandb keeps what is not uploaded yet. ConfigError or StorageError if that folder
    or the current one, which may be somebody else's, would make wandb write or send elsewhere.
    """
    if mode == "off":
        return NullLogger()
    for name in ("wandb", ".wandb"):  # it writes to one of these
        refuse_links(folder / name)
        _refuse_settings(Path(name) / "settings", mode)
    return WandbLogger(mode, folder, label, config)
