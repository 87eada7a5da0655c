"""wandb as a mirror: optional, in a thread of its own, unable to fail or slow a run.

A study is a group, training and evaluation are its job types. The id follows from the study and the
run's name, which ends in the hash of its settings: a resumed run goes on as the same run of wandb,
and `wandb sync` puts the pieces of one that was offline together.
"""

import os
import queue
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lexp.system.errors import first_line
from lexp.system.files import digest

# Longest wait for the server at the start of a run (in the background) and at its end.
INIT_TIMEOUT_S = 10
FINISH_TIMEOUT_S = 30


@dataclass(frozen=True)
class RunLabel:
    """What a run of wandb is called and where it belongs. job_type: train or eval."""

    study: str
    name: str
    job_type: str

    @property
    def id(self) -> str:
        """The same whenever the same run is started again; another one in another study."""
        return digest([self.study, self.job_type, self.name])[:16]


@dataclass(frozen=True)
class ChartLine:
    """A line of a chart: its name, and its points."""

    name: str
    xs: list[float]
    ys: list[float]


class Mirror(Protocol):
    """Takes the numbers that go into metrics.jsonl."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Pass numbers on; returns at once."""
        ...

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Pass a table on; returns at once."""
        ...

    def chart(self, name: str, x_name: str, lines: list[ChartLine]) -> None:
        """Pass a chart of lines on; returns at once."""
        ...

    def finish(self) -> None:
        """Wait a bounded time for what is still on its way."""
        ...


class NoMirror:
    """wandb=off."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Nothing."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Nothing."""

    def chart(self, name: str, x_name: str, lines: list[ChartLine]) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class WandbMirror:
    """wandb=offline|online; every failure of it is one warning and an end to the mirroring.

    An online run that the server does not answer in time goes on offline (`wandb sync` sends it).
    """

    def __init__(self, mode: str, folder: Path, label: RunLabel, config: dict[str, Any]):
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(maxsize=100_000)
        self._settings = (mode, folder, label, config)
        self._dropped = self._left_behind = False
        self._thread = threading.Thread(target=self._run, name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Queue the numbers; dropped with a warning if the queue is full."""
        self._put(lambda run: run.log(values, step=step))

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Queue a table."""

        def show(run: Any) -> None:
            import wandb

            run.log({name: wandb.Table(columns=columns, data=rows)})

        self._put(show)

    def chart(self, name: str, x_name: str, lines: list[ChartLine]) -> None:
        """Queue a chart."""

        def show(run: Any) -> None:
            import wandb

            series = {"xs": [x.xs for x in lines], "ys": [x.ys for x in lines]}
            keys = [line.name for line in lines]
            run.log({name: wandb.plot.line_series(**series, keys=keys, title=name, xname=x_name)})

        self._put(show)

    def _put(self, item: Callable[[Any], None]) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            if not self._dropped:
                warnings.warn("wandb is too slow: numbers are missing there", stacklevel=3)
            self._dropped = True

    def finish(self) -> None:
        """Give the server a bounded time."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(FINISH_TIMEOUT_S)
        if self._thread.is_alive():
            self._left_behind = True
            warnings.warn("wandb does not answer; left behind (try `wandb sync`)", stacklevel=2)

    def _run(self) -> None:
        try:
            run = self._start()
            while (item := self._queue.get()) is not None:
                item(run)
            run.finish()
        except Exception as error:
            if not self._left_behind:  # what it makes of the process's end need not be said
                reason = first_line(error)
                warnings.warn(f"wandb is off for this run: {reason}", stacklevel=2)

    def _start(self) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        # Its reports about itself wait for a server that does not answer, at the process's end.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode, folder, label, config = self._settings
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
                reason = first_line(error)
                warnings.warn(f"wandb goes on offline: {reason}", stacklevel=2)
                wandb.teardown()  # it holds the id of the run that could not be begun
        return wandb.init(mode="offline", **options)


def start_mirror(mode: str, folder: Path, label: RunLabel, config: dict[str, Any]) -> Mirror:
    """The mirror for wandb=off|offline|online. folder: where what is not sent yet is kept."""
    return NoMirror() if mode == "off" else WandbMirror(mode, folder, label, config)
