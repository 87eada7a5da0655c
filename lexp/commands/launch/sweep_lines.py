"""What a user reads of a local sweep while it runs: a line for each start and end."""

import time
from collections.abc import Iterable
from pathlib import Path

from lexp.commands.launch.plan import SweepJob
from lexp.record.console import duration
from lexp.runs.status import QUEUED, RUNNING, Status, judge
from lexp.system.errors import JobFailed
from lexp.system.output import say

REFRESH_EVERY_S = 1.0


class SweepLines:
    """Progress of a local sweep in lines on standard error. n_slots: jobs that run at once."""

    def __init__(self, jobs: list[SweepJob], n_slots: int):
        self.jobs, self.n_slots = jobs, n_slots
        self._begin = self._refreshed = time.monotonic()
        self._n_ended, self._estimated = 0, False

    def start(self, job: SweepJob, gpu: str | None, log: Path) -> None:
        """Report the start of a job."""
        say(f"started {job.name}{f' on GPU {gpu}' if gpu else ''}: {log}")

    def end(self, job: SweepJob, failure: JobFailed | None, n_running: int) -> None:
        """Report the end of a job. n_running: of the sweep's other jobs."""
        self._n_ended += 1
        n_left = len(self.jobs) - self._n_ended
        if failure:
            say(f"lexp: {failure}")
            return
        # Jobs that started together end together: those running count as done.
        share = (self._n_ended + n_running) / len(self.jobs)
        in_all = f", about {duration(self._elapsed_s() / share)} in all"
        say(f"done {job.name}, {n_left} left" + in_all * (n_left > 0))
        self._estimated = True

    def refresh(self) -> None:
        """Report how far the sweep is, if it is time to."""
        if time.monotonic() - self._refreshed >= REFRESH_EVERY_S:
            self._refreshed = time.monotonic()
            self.look()

    def look(self) -> None:
        """Print once, when the first runs can tell, how long the sweep will take."""
        if self._estimated:
            return
        left_s = seconds_left(self.runs().values(), self.n_slots)
        if left_s is not None:
            say(f"the sweep takes about {duration(self._elapsed_s() + left_s)} in all")
            self._estimated = True

    def runs(self) -> dict[str, Status]:
        """Return the status of each run of the sweep by name."""
        folders = [job.folder for job in self.jobs if job.folder and job.folder.is_dir()]
        return {folder.name: judge(folder) for folder in folders}

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._begin


def seconds_left(runs: Iterable[Status], n_slots: int) -> float | None:
    """Estimate when all runs are done, from the speed of those running; None before one can tell.

    Queued runs are taken to last as long as the mean of those running.
    """
    runs = list(runs)
    left_s, whole_s = [], []
    for run in runs:
        if run.state == RUNNING and run.seconds_left is not None and run.step and run.n_steps:
            left_s.append(run.seconds_left)
            whole_s.append(run.seconds_left / max(1 - run.step / run.n_steps, 0.01))
    if not left_s:
        return None
    n_unknown = sum(run.state in (QUEUED, RUNNING) for run in runs) - len(left_s)
    unknown_s = [sum(whole_s) / len(whole_s)] * n_unknown
    return max(*left_s, *unknown_s, (sum(left_s) + sum(unknown_s)) / n_slots)
