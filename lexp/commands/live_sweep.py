"""The table of `lexp status`, in place on the terminal while a local sweep runs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group
from rich.live import Live

from lexp.commands.launch import SweepJob, SweepLines, seconds_left
from lexp.commands.status import can_draw, show_live
from lexp.display.terminal import TableConsole, plain
from lexp.record.console import duration
from lexp.system.errors import JobFailed
from lexp.system.output import say


@contextlib.contextmanager
def sweep_display(jobs: list[SweepJob], n_slots: int) -> Iterator[SweepLines]:
    """Yield what reports a local sweep: a live table of runs on a terminal, else lines.

    Jobs that train no run, such as evaluations, are reported in lines.
    """
    console = TableConsole(stderr=True, highlight=False, markup=False, emoji=False)
    folders = [job.folder for job in jobs if job.folder]
    if not can_draw(console) or not folders or len(folders) < len(jobs):
        yield SweepLines(jobs, n_slots)
        return
    say(f"each run writes to log.txt in its folder in {folders[0].parent}")
    with Live(console=console, auto_refresh=False) as live:
        table = LiveSweep(jobs, n_slots, live)
        try:
            yield table
        finally:
            table.look()


class LiveSweep(SweepLines):
    """Progress of a local sweep as a table that is drawn anew in its place."""

    def __init__(self, jobs: list[SweepJob], n_slots: int, live: Live):
        super().__init__(jobs, n_slots)
        self._live = live

    def start(self, job: SweepJob, gpu: str | None, log: Path) -> None:
        """Leave the start of a job to the table."""

    def end(self, job: SweepJob, failure: JobFailed | None, n_running: int) -> None:
        """Print a failure, which has the path of the log, above the table."""
        if failure:
            say(f"lexp: {failure}")
        self.look()

    def look(self) -> None:
        """Draw the table as it is now, with an estimate of the time left."""
        runs = self.runs()
        left_s = seconds_left(runs.values(), self.n_slots)
        parts = [show_live(runs, *self._live.console.size)]
        if left_s is not None:
            parts.append(Group(plain(f"about {duration(left_s)} left")))
        self._live.update(Group(*parts), refresh=True)
