"""The command `lexp status`."""

import shlex
import time
from collections import Counter
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig
from rich.console import Console as Rich
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lexp.config.settings import StatusConfig
from lexp.config.validation import read_status
from lexp.display.terminal import ENDLESS, plain, table_console
from lexp.record.console import duration
from lexp.runs.find import find_folders
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
from lexp.system.output import say
from lexp.system.text import counted

COLOURS = {
    QUEUED: "blue", RUNNING: "cyan", DONE: "green", PREEMPTED: "yellow", INTERRUPTED: "yellow",
    DIVERGED: "red", MEMORY: "red", FAILED: "red", LOST: "red",
}  # fmt: skip

HEADS = ("run", "state", "step", "tokens/s", "left", "last step", "heartbeat", "where", "reason")
# What a narrow terminal does without, the first first: run, state and reason always stay.
DROPPED = ("where", "last step", "heartbeat", "tokens/s", "left", "step")
REASON_WIDTH = 24  # room for a reason, which has several lines if it is longer
# Lines of a live table that are no runs: heads, two below, the time left, the cursor.
N_OTHER_LINES = 5
# Which runs a live table shows where not all have room, the first first.
SHOWN = (RUNNING, FAILED, DIVERGED, MEMORY, LOST, PREEMPTED, INTERRUPTED, QUEUED, DONE)


def check(config: DictConfig) -> StatusConfig:
    """Return the settings; ConfigError if one of them is not allowed."""
    return read_status(config)


def status(config: DictConfig) -> None:
    """Print one table of a study's runs, once or until nothing is under way any more."""
    settings = check(config)
    study = settings.study_folder
    rich = table_console(ENDLESS)  # in a pipe or a file as wide as it has to be
    runs = look(study)
    if not settings.watch:
        rich.print(show(runs, rich.width))
        say(*next_command(settings, runs))
        return
    try:
        _watch(study, runs, rich, settings.every)
    except KeyboardInterrupt:
        return  # to stop looking is not to interrupt anything


def next_command(settings: StatusConfig, runs: dict[str, Status]) -> list[str]:
    """Return the line with the next command; none while runs are under way or if none is done."""
    states = {run.state for run in runs.values()}
    if DONE not in states or states & {QUEUED, RUNNING}:
        return []
    values = {"name": settings.name, "outputs": settings.outputs}
    usual = {"name": "default", "outputs": "outputs"}
    words = [shlex.quote(f"{key}={v}") for key, v in values.items() if v != usual[key]]
    has_results = any((settings.study_folder / f).is_file() for f in ("results.csv", "tasks.csv"))
    return [f"next: {' '.join(['lexp', 'report' if has_results else 'eval', *words])}"]


def look(study: Path) -> dict[str, Status]:
    """Return every run of a study by name; ConfigError lists other studies if it has none."""
    now = time.time()
    return {folder.name: judge(folder, now) for folder in find_folders(study)}


def show_live(runs: dict[str, Status], width: int, height: int) -> Group:
    """Return the table with no more rows than a terminal has: a live one cannot scroll.

    Runs are left out by the order of SHOWN; the line below counts all of them.
    """
    most = max(1, height - N_OTHER_LINES)
    kept = sorted(runs, key=lambda name: SHOWN.index(runs[name].state))[:most]
    rows = {name: run for name, run in runs.items() if name in kept}
    parts: list[RenderableType] = [_table(rows, width)] if rows else []
    if len(rows) < len(runs):
        parts.append(plain(f"{len(runs) - len(rows)} more: lexp status"))
    return Group(*parts, plain(summary(runs)))


def show(runs: dict[str, Status], width: int) -> Group:
    """Return the table for a terminal of `width` columns, and a line that sums it up."""
    return Group(_table(runs, width), plain(summary(runs)))


def _table(runs: dict[str, Status], width: int) -> Table:
    """Return the table of runs.

    Columns without a word are left out, and those of DROPPED, in turn, while there is no room.
    """
    now = time.time()
    rows = [
        [plain(name), plain(run.state, COLOURS[run.state]), *_row(run, now)]
        for name, run in runs.items()
    ]
    columns = dict(zip(HEADS, zip(*rows, strict=True), strict=True))
    widths = {
        head: max(len(head), *(cell.cell_len for cell in cells)) for head, cells in columns.items()
    }
    needed = {**widths, "reason": min(widths["reason"], REASON_WIDTH)}
    kept = [head for head in HEADS if any(cell.plain for cell in columns[head])]
    for head in (head for head in DROPPED if head in kept):
        if sum(needed[name] for name in kept) + 2 * (len(kept) - 1) > width:
            kept.remove(head)
    table = Table(box=None, pad_edge=False)
    for head in kept:
        if head in ("run", "reason"):  # folded where even these have no room
            table.add_column(head, overflow="fold")
        else:
            side: Literal["left", "right"] = "left" if head in ("state", "where") else "right"
            table.add_column(head, justify=side, no_wrap=True, min_width=widths[head])
    for cells in zip(*(columns[head] for head in kept), strict=True):
        table.add_row(*cells)
    return table


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
    if not can_draw(rich):
        said = ""
        while True:
            if summary(runs) != said:
                said = summary(runs)
                print(said, flush=True)
            if _is_settled(runs):
                return
            time.sleep(every_s)
            runs = look(study)
    with Live(show_live(runs, *rich.size), console=rich, auto_refresh=False) as live:
        while not _is_settled(runs):
            time.sleep(every_s)
            runs = look(study)
            live.update(show_live(runs, *rich.size), refresh=True)


def can_draw(rich: Rich) -> bool:
    """Return True if a console is a terminal on which a table can be drawn in place."""
    return rich.is_terminal and not rich.is_dumb_terminal


def _is_settled(runs: dict[str, Status]) -> bool:
    return not {run.state for run in runs.values()} & {QUEUED, RUNNING}
