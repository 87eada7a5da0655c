"""wandb as a mirror: optional, in a thread of its own, unable to fail or slow a run."""

import os
import queue
import threading
import warnings
from pathlib import Path
from typing import Any, Protocol

# Longest wait for the server at the start of a run (in the background) and at its end.
INIT_TIMEOUT_S = 20
FINISH_TIMEOUT_S = 20


class Mirror(Protocol):
    """Takes the numbers that go into metrics.jsonl."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Pass numbers on; returns at once."""
        ...

    def finish(self) -> None:
        """Wait a bounded time for what is still on its way."""
        ...


class NoMirror:
    """wandb=off."""

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class WandbMirror:
    """wandb=offline|online; every failure of it is one warning and an end to the mirroring.

    An online run that the server does not answer in time goes on offline (`wandb sync` sends it).
    """

    def __init__(self, mode: str, folder: Path, project: str, name: str, config: dict[str, Any]):
        self._queue: queue.Queue[tuple[int, dict[str, Any]] | None] = queue.Queue(maxsize=100_000)
        self._settings = (mode, folder, project, name, config)
        self._dropped = False
        self._thread = threading.Thread(target=self._run, name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Queue the numbers; dropped with a warning if the queue is full."""
        try:
            self._queue.put_nowait((step, values))
        except queue.Full:
            if not self._dropped:
                warnings.warn("wandb is too slow: numbers are missing there", stacklevel=2)
            self._dropped = True

    def finish(self) -> None:
        """Give the server a bounded time."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(FINISH_TIMEOUT_S)
        if self._thread.is_alive():
            warnings.warn("wandb does not answer; left behind (try `wandb sync`)", stacklevel=2)

    def _run(self) -> None:
        try:
            run = self._start()
            while (item := self._queue.get()) is not None:
                step, values = item
                run.log(values, step=step)
            run.finish()
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"wandb is off for this run: {reason}", stacklevel=2)

    def _start(self) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        mode, folder, project, name, config = self._settings
        options: dict[str, Any] = {
            "dir": str(folder.resolve()), "project": project, "name": name, "group": project,
            "job_type": "train", "config": config,
        }  # fmt: skip
        if mode == "online":
            try:
                settings = wandb.Settings(init_timeout=INIT_TIMEOUT_S)
                return wandb.init(mode="online", settings=settings, **options)
            except Exception as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                warnings.warn(f"wandb goes on offline: {reason}", stacklevel=2)
        return wandb.init(mode="offline", **options)


def start_mirror(
    mode: str, folder: Path, project: str, name: str, config: dict[str, Any]
) -> Mirror:
    """The mirror for wandb=off|offline|online."""
    if mode == "off":
        return NoMirror()
    return WandbMirror(mode, folder, project, name, config)
