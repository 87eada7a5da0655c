"""Logs: metrics.jsonl is the record of a run; wandb shows it and can do no harm."""

import io
import itertools
import math
import re
import sys
import threading
import time
import types
import warnings
from pathlib import Path

import pytest

from lexp.record import Metrics, RunLabel, start_wandb
from lexp.record.console import Console, clock, duration
from lexp.record.metrics import read


def test_metrics_are_cut_back_to_what_the_checkpoint_knew(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.log(step=1, loss=0.1 + 0.2)
    size = metrics.sync()
    metrics.log(step=2, loss=math.nan)
    metrics.close()
    assert read(path) == [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": "nan"}]
    metrics = Metrics(path, resume_at=size)
    metrics.log(step=2, loss=1.0)
    metrics.close()
    assert [line["step"] for line in read(path)] == [1, 2] and read(path)[1]["loss"] == 1.0


def test_durations_as_people_say_them():
    assert [duration(s) for s in (4.4, 65, 3600 * 2 + 600)] == ["4 s", "1 min 05 s", "2 h 10 min"]


def test_times_as_clocks_show_them():
    assert [clock(s) for s in (4.4, 65, 3600 * 2 + 605)] == ["0:04", "1:05", "2:10:05"]


def at_times(monkeypatch, *seconds: float) -> None:
    """Let the console's clock show these seconds, one a reading, the last for ever."""
    readings = itertools.chain(seconds, itertools.repeat(seconds[-1]))
    monkeypatch.setattr("lexp.record.console.time.monotonic", lambda: next(readings))


def test_a_log_file_gets_lines_with_share_rate_and_time_left(capsys, monkeypatch):
    at_times(monkeypatch, 100.0, 101.0)
    with Console("training", total=1000) as console:
        console.advance(250, "loss 2.0")
        console.say("half a line")
        console.advance(250, "loss 1.0")  # too soon for another line
        console.advance(500, "loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "training  25%  0:03 left  loss 2.0  0.2k tokens/s",
        "half a line",
        "training 100%  took 0:01  loss 0.5  1.0k tokens/s",
    ]


def test_the_total_time_left_of_a_sweep_is_in_the_first_line(capsys, monkeypatch):
    """Steps of 10 s: 9 left in this run, and two runs of 10 steps that follow."""
    at_times(monkeypatch, 100.0, 110.0)
    with Console("run 1 of 3", total=1000, following=2) as console:
        assert console.time_left() == ""
        console.advance(100)
    line = "run 1 of 3  10%  1:30 left, about 4:50 for all runs  0.0k tokens/s"
    assert capsys.readouterr().err.splitlines() == [line]


def test_a_run_that_is_done_shows_what_is_left_of_its_sweep(monkeypatch):
    at_times(monkeypatch, 100.0, 170.0)
    first, last = (Console("run", total=1000, following=n) for n in (2, 0))
    first.advance(1000)
    last._start = 100.0
    last.advance(1000)
    assert first.time_left() == "took 1:10, about 2:20 left for the other runs"
    assert last.time_left() == "took 1:10"


def test_a_terminal_of_80_columns_shows_the_times_uncut(monkeypatch):
    """Hours, in one line, with the loss; the bar takes what is left."""
    at_times(monkeypatch, 0.0, 3600.0)
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with Console("run 1 of 38", total=1000, following=37) as console:
        console.advance(400, "loss 12.345")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    (line,) = {line.strip() for line in re.split(r"[\r\n]+", plain) if "all runs" in line}
    assert "1:30:00 left, about 94:00:00 for all runs" in line
    assert line.startswith("run 1 of 38") and line.endswith("loss 12.345") and len(line) <= 80


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("following", [0, 37])
def test_a_line_fits_every_terminal_and_keeps_share_time_and_loss(monkeypatch, width, following):
    at_times(monkeypatch, 0.0, 3600.0)
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    for name, value in {"COLUMNS": str(width), "FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    title = "run 1 of 38" if following else "training"
    efficiency = lambda per_s: [f"{per_s * 36:.0f} GFLOP/s", "peak 612 MiB"]  # noqa: E731
    with Console(title, 1000, following=following, efficiency=efficiency) as console:
        console.advance(400, "loss 12.345")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    lines = {line.rstrip() for line in re.split(r"[\r\n]+", plain) if "40%" in line}
    (line,) = lines
    assert len(line) <= width
    assert "40% 1:30:00 left" in line
    if width >= (75 if following else 40):
        assert "loss 12.345" in line and line.startswith(title)
    if width == 200 or (width == 100 and not following):
        assert "0.0k tokens/s 4 GFLOP/s peak 612 MiB" in line


def shown(console: Console, width: int) -> list:
    """The cells of the line that a console draws on a terminal of that width."""
    return [next(iter(column.cells)) for column in console.bar(width).columns]


def test_a_long_note_is_cut_in_its_middle_and_leaves_room_for_the_bar(monkeypatch):
    at_times(monkeypatch, 0.0, 60.0)
    console = Console("evaluating", total=1000)
    console.advance(500, "rope-nano-stdlib-L128-s0-7f3a1c blockwise_sinks-4 yarn 2048")
    title, bar, text = shown(console, 80)
    assert str(title) == "evaluating" and bar.width == 6
    # 47 columns: 80 less the title's 11, the bar's 7 and the 15 of share and time.
    assert str(text) == " 50% 1:00 left rope-nano-stdlib-L128-...wise_sinks-4 yarn 2048"
    assert "7f3a1c blockwise_sinks-4 yarn 2048" in str(shown(console, 120)[-1])


def test_what_has_no_room_once_stays_out(monkeypatch):
    at_times(monkeypatch, 0.0, 60.0)
    words = ["9 GFLOP/s", "peak 998 MiB"]
    console = Console("training", total=1000, efficiency=lambda per_s: words)
    console.advance(500, "loss 2.0")
    texts = [str(shown(console, 75)[-1])]
    words[1] = "peak 1 GiB"
    texts += [str(shown(console, width)[-1]) for width in (75, 90)]
    assert ["peak" in text for text in texts] == [False, False, True]
    assert all("9 GFLOP/s" in text for text in texts)


def test_a_log_file_has_the_efficiency_too(capsys, monkeypatch):
    at_times(monkeypatch, 100.0, 101.0)
    with Console(
        "training", 1000, efficiency=lambda per_s: [f"{per_s:.0f} x", "peak 1"]
    ) as console:
        console.advance(500, "loss 2.0")
    line = "training  50%  0:01 left  loss 2.0  0.5k tokens/s  500 x  peak 1"
    assert capsys.readouterr().err.splitlines() == [line]


LABEL = RunLabel("study", "rope-nano-s0-7f3a1c", "train")


def fake_wandb(monkeypatch, **functions) -> types.ModuleType:
    module = types.ModuleType("wandb")
    module.Settings = lambda **keywords: keywords
    module.teardown = lambda: None
    for name, function in functions.items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


class FakeRun:
    def __init__(self):
        self.logged, self.finished, self.offline = [], False, False

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


def test_off_imports_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    logger = start_wandb("off", tmp_path, LABEL, {})
    logger.log(1, {"x": 1})
    logger.finish()
    assert list(tmp_path.iterdir()) == []


def test_offline_passes_every_number_on_in_order(monkeypatch, tmp_path):
    run, asked = FakeRun(), {}
    fake_wandb(monkeypatch, init=lambda **keywords: asked.update(keywords) or run)
    logger = start_wandb("offline", tmp_path, LABEL, {"lr": 1})
    for step in range(100):
        logger.log(step, {"loss": step})
    logger.finish()
    assert run.logged == [(s, {"loss": s}) for s in range(100)] and run.finished
    assert asked["mode"] == "offline" and asked["group"] == "study" and asked["config"] == {"lr": 1}


def test_online_without_a_server_goes_on_offline(monkeypatch, tmp_path):
    run, modes = FakeRun(), []

    def init(mode, **keywords):
        modes.append(mode)
        if mode == "online":
            raise ConnectionError("no route to host")
        return run

    fake_wandb(monkeypatch, init=init)
    with pytest.warns(UserWarning, match="continues offline: no route to host"):
        logger = start_wandb("online", tmp_path, LABEL, {})
        logger.log(1, {"loss": 1})
        logger.finish()
    assert modes == ["online", "offline"] and run.logged == [(1, {"loss": 1})]


def test_a_broken_wandb_is_one_warning(monkeypatch, tmp_path):
    def init(**keywords):
        raise RuntimeError("broken\ntraceback")

    fake_wandb(monkeypatch, init=init)
    with pytest.warns(UserWarning, match="wandb is off for this run: broken$") as caught:
        logger = start_wandb("offline", tmp_path, LABEL, {})
        for step in range(10):
            logger.log(step, {})
        logger.finish()
    assert len(caught) == 1


def test_a_hanging_server_costs_a_bounded_time(monkeypatch, tmp_path):
    fake_wandb(monkeypatch, init=lambda **keywords: time.sleep(60))
    monkeypatch.setattr("lexp.record.wandb_log.FINISH_TIMEOUT_S", 0.2)
    started = time.monotonic()
    logger = start_wandb("offline", tmp_path, LABEL, {})
    for step in range(1000):
        logger.log(step, {"loss": 1.0})
    assert time.monotonic() - started < 2
    with pytest.warns(UserWarning, match="did not finish within"):
        logger.finish()
    assert time.monotonic() - started < 5


def test_a_wandb_that_is_not_installed_is_one_warning(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match="wandb is off for this run: import of wandb") as caught:
        logger = start_wandb("online", tmp_path, LABEL, {})
        logger.log(1, {"loss": 1.0})
        logger.finish()
    assert len(caught) == 1


def test_a_server_that_goes_away_before_the_end_costs_a_bounded_time(monkeypatch, tmp_path):
    run = FakeRun()
    gone = threading.Event()

    def finish():
        gone.wait(60)
        raise ConnectionError("the service has gone")

    run.finish = finish
    fake_wandb(monkeypatch, init=lambda **keywords: run)
    monkeypatch.setattr("lexp.record.wandb_log.FINISH_TIMEOUT_S", 0.2)
    logger = start_wandb("online", tmp_path, LABEL, {})
    logger.log(1, {"loss": 1})
    started = time.monotonic()
    with pytest.warns(UserWarning, match="did not finish within"):
        logger.finish()
    assert time.monotonic() - started < 10 and run.logged == [(1, {"loss": 1})]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one warning is enough
        gone.set()
        logger._thread.join()


def test_ids_are_a_runs_own_and_stay():
    assert LABEL.id == RunLabel("study", "rope-nano-s0-7f3a1c", "train").id and len(LABEL.id) == 16
    others = [
        RunLabel("other", LABEL.name, "train"),
        RunLabel("study", "rope-nano-s1-9b2c3d", "train"),
        RunLabel("study", LABEL.name, "eval"),
    ]
    assert len({LABEL.id, *(other.id for other in others)}) == 4


def test_the_project_is_the_study_or_the_users_own(monkeypatch, tmp_path):
    for given, project in (("", "study"), ("mine", "mine")):
        monkeypatch.setenv("WANDB_PROJECT", given)
        asked = {}
        fake_wandb(monkeypatch, init=lambda a=asked, **keywords: a.update(keywords) or FakeRun())
        start_wandb("offline", tmp_path, LABEL, {}).finish()
        assert (asked["project"], asked["group"], asked["job_type"]) == (project, "study", "train")
        assert (asked["id"], asked["resume"]) == (LABEL.id, "allow")
