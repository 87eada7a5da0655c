"""What a user sees of a local sweep: a table in its place on a terminal, lines elsewhere."""

import io
import os
import re
import socket
from pathlib import Path

import pytest

from lexp.commands.launch import SweepJob, SweepLines, seconds_left, sweep_lines
from lexp.commands.live_sweep import LiveSweep, sweep_display
from lexp.commands.status import show_live
from lexp.display.terminal import TableConsole
from lexp.runs import status
from lexp.runs.status import Status
from lexp.system.errors import JobFailed

HERE = {"pid": os.getpid(), "host": socket.gethostname()}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch) -> Terminal:
    """Standard error as a terminal of 80 columns; called in the test, after pytest took it."""
    shown = Terminal()
    for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", shown)
    return shown


@pytest.fixture
def jobs(tmp_path) -> list[SweepJob]:
    """A run that is half done, at 10 s a half, and one that waits."""
    made = [SweepJob(n, (), tmp_path / name, 10) for n, name in enumerate(("a-run", "b-run"))]
    for job in made:
        job.folder.mkdir()
    status.write(made[0].folder, Status("running", 5, 10, 100.0, 10.0, **HERE))
    status.write(made[1].folder, Status("queued", n_steps=10, **HERE))
    return made


def frames(text: str) -> list[list[str]]:
    """The tables that were drawn over each other, by line."""
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text).replace("\r", "\n")
    return [part.splitlines() for part in re.split(r"(?m)^(?=run  )", plain)[1:]]


def test_a_terminal_shows_each_run_in_its_place_until_all_are_done(jobs, tmp_path, monkeypatch):
    terminal = on_terminal(monkeypatch)
    with sweep_display(jobs, 1) as shown:
        shown.start(jobs[0], None, tmp_path / "a-run/log.txt")
        shown.look()
        status.write(jobs[0].folder, Status("failed", 5, 10, reason="killed"))
        shown.end(jobs[0], JobFailed("a-run: killed; log: a-run/log.txt"), 0)
        status.write(jobs[1].folder, Status("running", 0, 10, **HERE))
        shown.look()
    assert f"log.txt in its folder in {tmp_path}" in terminal.getvalue()
    first, *_, last = frames(terminal.getvalue())
    assert [line.split()[:2] for line in first[1:3]] == [["a-run", "running"], ["b-run", "queued"]]
    # 10 s for the rest of the first, and 20 s for the whole of the second.
    assert first[3:5] == ["2 runs: 1 queued, 1 running", "about 30 s left"]
    assert [line.split()[:2] for line in last[1:3]] == [["a-run", "failed"], ["b-run", "running"]]
    assert "killed" in last[1] and last[3] == "2 runs: 1 running, 1 failed"
    assert "lexp: a-run: killed; log: a-run/log.txt" in terminal.getvalue()
    assert "started" not in terminal.getvalue()


def test_a_pipe_gets_a_line_for_each_start_and_end_and_the_time_once(jobs, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sweep_lines.time, "monotonic", lambda: now[0])
    with sweep_display(jobs, 2) as shown:
        assert type(shown) is SweepLines
        shown.start(jobs[0], "3", Path("log.txt"))
        for now[0] in (0.5, 4.0, 8.0):
            shown.refresh()
        shown.end(jobs[0], JobFailed("a-run: killed"), 1)
        shown.end(jobs[1], None, 0)
    assert capsys.readouterr().err.splitlines() == [
        "started a-run on GPU 3: log.txt",
        "the sweep takes about 24 s in all",  # at 4 s, 20 s for the run that waits: the longer
        "lexp: a-run: killed",
        "done b-run, 0 left",
    ]


def test_evaluations_and_terminals_without_a_cursor_get_lines(jobs, monkeypatch):
    on_terminal(monkeypatch)
    with sweep_display([*jobs, SweepJob(9, ("lengths=[8]",), None)], 2) as shown:
        assert type(shown) is SweepLines
    with sweep_display(jobs, 2) as shown:
        assert type(shown) is LiveSweep
    monkeypatch.setenv("TERM", "dumb")
    with sweep_display(jobs, 2) as shown:
        assert type(shown) is SweepLines


def test_the_time_left_is_that_of_the_runs_by_the_speed_of_those_that_run():
    running = Status("running", 25, 100, seconds_left=30.0)  # 40 s as a whole
    slow = Status("running", 10, 100, seconds_left=180.0)  # 200 s
    waiting, begun, done = Status("queued"), Status("running"), Status("done", 10, 10)
    assert seconds_left([waiting, begun, done], 2) is None
    assert seconds_left([running, done], 2) == pytest.approx(30)
    assert seconds_left([running, waiting, begun], 2) == pytest.approx((30 + 40 + 40) / 2)
    assert seconds_left([running, slow, waiting], 2) == pytest.approx(180)  # no less than one run
    assert seconds_left([running, slow, waiting], 1) == pytest.approx(30 + 180 + 120)


def test_a_live_table_is_no_higher_than_its_terminal_and_shows_what_runs():
    runs = {f"r{n:02}": Status("done") for n in range(30)}
    runs |= {"s1": Status("queued"), "s2": Status("failed", reason="why"), "s3": Status("running")}
    console = TableConsole(width=60, file=io.StringIO())
    console.print(show_live(runs, 60, 10))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert len(lines) < 10
    assert [line.split()[0] for line in lines[1:-2]] == ["r00", "r01", "s1", "s2", "s3"]
    assert lines[-2:] == [
        "28 more: lexp status",
        "33 runs: 1 queued, 1 running, 30 done, 1 failed",
    ]
