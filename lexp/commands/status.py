"""The command `lexp status`."""

import time
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console as Rich
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lexp.config.settings import StatusConfig
from lexp.config.validation import read_status
from lexp.display.terminal import plain, table_console
from lexp.record.console import duration
from lexp.runs.status import (
    DIVERGED,
    DONE,
    FAILED,
    INTERRUPTED,
    LOST,
    MEMORY,
    PREEMPTED,
    QUEUED,
    RUNNING,
    STATES,
    Status,
    judge,
)
from lexp.system.errors import CheckpointError, ConfigError
from lexp.system.links import refuse_links
from lexp.system.text import counted

COLOURS = {
    QUEUED: "blue", RUNNING: "cyan", DONE: "green", PREEMPTED: "yellow", INTERRUPTED: "yellow",
    DIVERGED: "red", MEMORY: "red", FAILED: "red", LOST: "red",
}  # fmt: skip


def check(config: DictConfig) -> StatusConfig:
    """Return the settings; ConfigError if one of them is not allowed."""
    return read_status(config)


def status(config: DictConfig) -> None:
    """Print one table of a study's runs, once or until nothing is under way any more."""
    settings = check(config)
    study = settings.study_folder
    # A pipe or log file has no width: wide enough for any reason is better than a cut one.
    rich = table_console(250)
    runs = look(study)
    if not settings.watch:
        rich.print(show(runs))
        return
    try:
        _watch(study, runs, rich, settings.every)
    except KeyboardInterrupt:
        return  # to stop looking is not to interrupt anything


def look(study: Path) -> dict[str, Status]:
    """Return every run of a study by name; ConfigError lists other studies if it has none."""
    refuse_links(study, CheckpointError)
    marks = ("status.json", "config.json")
    folders = sorted({path.parent for mark in marks for path in study.glob(f"*/{mark}")})
    if not folders:
        others = sorted({p.parents[1].name for m in marks for p in study.parent.glob(f"*/*/{m}")})
        there = f"studies there: {', '.join(others)}" if others else "train one with `lexp train`"
        raise ConfigError(f"no run in {study.resolve()}; {there}")
    now = time.time()
    return {folder.name: judge(folder, now) for folder in folders}


def show(runs: dict[str, Status]) -> Group:
    """Return the table, and a line that sums it up."""
    table = Table(box=None, pad_edge=False)
    # Folded where a terminal is too narrow: a cut number says something else.
    for name in ("run", "state"):
        table.add_column(name, overflow="fold")
    for name in ("step", "tokens/s", "left", "last step", "heartbeat"):
        table.add_column(name, justify="right", overflow="fold")
    for name in ("where", "reason"):
        table.add_column(name, overflow="fold")
    now = time.time()
    for name, run in runs.items():
        table.add_row(plain(name), plain(run.state, COLOURS[run.state]), *_row(run, now))
    return Group(table, plain(summary(runs)))


def _row(run: Status, now: float) -> list[Text]:
    steps = "" if run.n_steps is None else f"{run.step or 0} of {run.n_steps}"
    rate = "" if run.tokens_per_s is None else f"{run.tokens_per_s:,.0f}"
    left = "" if run.seconds_left is None else duration(run.seconds_left)
    moved = _age(run.stepped, now) if run.state == RUNNING else ""
    age = _age(run.updated, now)
    where = [run.host or "", f"job {run.slurm_job}" if run.slurm_job else f"process {run.pid}"]
    shown = " ".join(filter(None, where)) if run.pid or run.slurm_job else ""
    return [plain(cell) for cell in (steps, rate, left, moved, age, shown, run.reason)]


def _age(then: float | None, now: float) -> str:
    return f"{duration(now - then)} ago" if then else ""


def summary(runs: dict[str, Status]) -> str:
    """Return how many runs are in each state, in the order of a run's life."""
    counts = Counter(run.state for run in runs.values())
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    return f"{counted(len(runs), 'run')}: {', '.join(parts)}"


def _watch(study: Path, runs: dict[str, Status], rich: Rich, every_s: float) -> None:
    """Show a live table on a terminal; elsewhere print the summary whenever it changes."""
    if not rich.is_terminal:
        said = ""
        while True:
            if summary(runs) != said:
                said = summary(runs)
                print(said, flush=True)
            if _is_settled(runs):
                return
            time.sleep(every_s)
            runs = look(study)
    with Live(show(runs), console=rich, auto_refresh=False) as live:
        while not _is_settled(runs):
            time.sleep(every_s)
            runs = look(study)
            live.update(show(runs), refresh=True)


def _is_settled(runs: dict[str, Status]) -> bool:
    return not {run.state for run in runs.values()} & {QUEUED, RUNNING}
