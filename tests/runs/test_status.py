"""status.json and `lexp status`: every state, from made folders and from real short runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lexp.commands import status as task
from lexp.commands import train as training
from lexp.runs import status
from lexp.runs.find import find_runs
from lexp.runs.heartbeat import Heartbeat, status_heartbeat
from lexp.runs.locks import locked
from lexp.runs.status import Status
from lexp.system.errors import CheckpointError, ConfigError, DataError, Diverged, OutOfMemory
from support.config import TINY, compose, dataset
from support.forked import begin, completed

HOST = socket.gethostname()


def dead_pid() -> int:
    """The id of a process that was."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def made(root: Path, name: str, **values) -> Path:
    """A run folder with this status."""
    folder = root / name
    folder.mkdir(parents=True)
    status.write(folder, Status(**values))
    return folder


def finish(folder: Path) -> None:
    """Leave what a finished training leaves."""
    (folder / "checkpoints/step-00000010").mkdir(parents=True)
    (folder / "done.json").write_text("{}")


def aged(folder: Path, seconds: float) -> None:
    values = json.loads((folder / "status.json").read_text())
    values["updated"] = time.time() - seconds
    (folder / "status.json").write_text(json.dumps(values))


def test_a_status_reads_as_it_was_written(tmp_path):
    written = Status("running", 3, 10, 1234.5, 6.5, 0.0, 17, "node7", "12_3", "why")
    before = time.time()
    status.write(tmp_path, written)
    found = status.read(tmp_path)
    assert found is not None and before - 0.01 <= found.updated <= time.time()
    assert found == Status("running", 3, 10, 1234.5, 6.5, found.updated, 17, "node7", "12_3", "why")
    assert list(tmp_path.iterdir()) == [tmp_path / "status.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"state": "odd"}', '{"state": "lost"}', '{"state": "done", "step": "3"}',
     '{"state": "done", "step": true}', '{"state": "done", "step": -1}',
     '{"state": "done", "other": 1}',
     '{"state": "done", "updated": NaN}', '{"state": "done", "updated": null}',
     '{"state": "done", "host": 3}'],
)  # fmt: skip
def test_what_is_no_status_is_refused_and_shown_as_failed(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(CheckpointError, match="is not the status of a run"):
        status.read(tmp_path)
    assert status.judge(tmp_path).state == "failed"


def test_every_state_of_a_file_is_shown_as_it_is(tmp_path):
    own = {"pid": os.getpid(), "host": HOST}
    for state in status.STATES[:-1]:
        folder = made(tmp_path, state.replace(" ", "-"), state=state, **own)
        if state == "done":
            finish(folder)
        assert status.judge(folder).state == state


def test_a_running_run_whose_process_is_gone_is_lost_unless_the_folder_is_held(tmp_path):
    gone = dead_pid()
    folder = made(tmp_path, "a", state="running", pid=gone, host=HOST, step=4)
    found = status.judge(folder)
    assert found.state == "lost" and found.reason == f"its process {gone} has ended"
    assert found.step == 4
    with locked(folder):  # a process of another container of this machine, say
        assert status.judge(folder).state == "running"
    assert status.judge(folder).state == "lost"


def test_a_process_id_given_to_another_process_does_not_keep_a_run_alive(tmp_path):
    folder = made(tmp_path, "a", state="running", pid=os.getpid(), host=HOST)
    assert status.judge(folder).state == "running"
    aged(folder, status.SILENT_S + 10)
    assert status.judge(folder).state == "lost"
    with locked(folder):  # it hangs, and is there
        assert status.judge(folder).state == "running"


def test_a_run_of_another_machine_is_lost_when_its_heartbeat_has_stopped(tmp_path):
    folder = made(tmp_path, "a", state="running", pid=dead_pid(), host="elsewhere")
    aged(folder, status.SILENT_S - 20)
    assert status.judge(folder).state == "running"
    aged(folder, status.SILENT_S + 20)
    assert status.judge(folder).state == "lost"
    assert status.judge(folder).reason.startswith("no heartbeat for 14")


def test_a_queued_run_is_lost_with_the_command_that_would_start_it(tmp_path):
    by_gone = made(tmp_path, "a", state="queued", pid=dead_pid(), host=HOST)
    by_cluster = made(tmp_path, "b", state="queued", slurm_job="3_1")
    assert status.judge(by_gone).state == "lost"
    assert status.judge(by_cluster).state == "queued"


def test_the_mark_of_a_finished_run_counts_more_than_its_status(tmp_path):
    folder = made(tmp_path, "a", state="running", pid=dead_pid(), host=HOST)
    finish(folder)
    assert status.judge(folder).state == "done"
    (folder / "status.json").unlink()
    assert status.judge(folder).state == "done"


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Diverged("loss nan"), "diverged", "loss nan"),
        (OutOfMemory("no room"), "out of memory", "no room"),
        (SystemExit(75), "preempted", "saved; the same command resumes it"),
        (SystemExit(130), "interrupted", "saved; the same command resumes it"),
        (SystemExit(-1), "preempted", "queued again"),
        (SystemExit(3), "failed", "ended by sys.exit(3)"),
        (KeyboardInterrupt(), "interrupted", ""),
        (ValueError("two\n lines"), "failed", "two lines"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
        (ValueError("x" * 999), "failed", "x" * 299 + "…"),
    ],
)
def test_what_ends_the_work_is_its_last_status(tmp_path, error, state, reason):
    with pytest.raises(type(error)), status_heartbeat(tmp_path, 10):
        running = status.read(tmp_path)
        assert running is not None and running.state == "running" and running.pid == os.getpid()
        raise error
    found = status.read(tmp_path)
    assert found is not None and (found.state, found.reason) == (state, reason)


def test_a_heartbeat_tells_steps_speed_and_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr("lexp.runs.heartbeat.BEAT_EVERY_S", 0.05)
    monkeypatch.setattr("lexp.runs.heartbeat.MAX_SHARE", 1.0)
    step = 100
    with status_heartbeat(tmp_path, 1100) as heartbeat:
        heartbeat.follow(lambda: step, 64)
        started, step = time.time(), 600
        time.sleep(1.0)
        found = status.read(tmp_path)
    assert found is not None and (found.step, found.n_steps) == (600, 1100)
    assert time.time() - found.updated < 0.5
    # 500 steps of 64 tokens in about a second; 500 more to do.
    elapsed = found.updated - started
    assert found.tokens_per_s == pytest.approx(500 * 64 / elapsed, rel=0.1)
    assert found.seconds_left == pytest.approx(elapsed, rel=0.1)
    last = status.read(tmp_path)
    assert last is not None and last.state == "done" and last.seconds_left is None


def test_a_run_that_hangs_beats_on_and_tells_when_it_made_its_last_step(tmp_path, monkeypatch):
    monkeypatch.setattr("lexp.runs.heartbeat.BEAT_EVERY_S", 0.05)
    monkeypatch.setattr("lexp.runs.heartbeat.MAX_SHARE", 1.0)
    step = 3
    with status_heartbeat(tmp_path, 10) as heartbeat:
        heartbeat.follow(lambda: step, 64)
        time.sleep(0.3)
        step, moved = 4, time.time()
        time.sleep(0.6)
        found = status.read(tmp_path)
    assert found is not None and (found.state, found.step) == ("running", 4)
    assert found.stepped == pytest.approx(moved, abs=0.2)
    assert found.updated - found.stepped > 0.3


def test_beats_become_rare_where_writing_is_slow(tmp_path, monkeypatch):
    monkeypatch.setattr("lexp.runs.heartbeat.BEAT_EVERY_S", 0.01)
    written = []

    def slow(folder, value):
        written.append(value)
        time.sleep(0.05)

    monkeypatch.setattr(status, "write", slow)
    heartbeat = Heartbeat(tmp_path, 10)
    heartbeat.start()
    time.sleep(1.0)
    heartbeat.end("done", "")
    # At the start, after 0.01 s, and no more: the next would be 5 s later. The last is the end's.
    assert len(written) == 3


def test_a_full_disk_between_does_not_end_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("lexp.runs.heartbeat.BEAT_EVERY_S", 0.02)
    folder = tmp_path / "run"
    folder.mkdir()
    with status_heartbeat(folder, 10):
        (folder / "status.json").unlink()
        folder.rmdir()
        time.sleep(0.2)
        folder.mkdir()
    found = status.read(folder)
    assert found is not None and found.state == "done"


def test_slurm_jobs_are_named_as_squeue_does(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert status.slurm_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    assert status.slurm_job() == "15"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert status.slurm_job() == "12_0"


def test_a_job_that_could_not_say_how_it_ended_is_closed(tmp_path):
    killed = made(tmp_path, "a", state="running", pid=dead_pid(), host=HOST, step=3)
    status.close(killed, "killed by SIGKILL")
    found = status.read(killed)
    assert found and (found.state, found.reason, found.step) == ("failed", "killed by SIGKILL", 3)
    said = made(tmp_path, "b", state="diverged", reason="loss nan")
    status.close(said, "exit code 6")
    found = status.read(said)
    assert found and (found.state, found.reason) == ("diverged", "loss nan")
    held = made(tmp_path, "c", state="running", pid=os.getpid(), host=HOST)
    with locked(held):  # somebody else trains it now
        status.close(held, "gone")
    assert status.judge(held).state == "running"


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_the_table_has_a_row_for_every_run_and_a_line_that_sums_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e9)  # it stands still, however busy the machine
    config = compose("status", f"outputs={tmp_path}/outputs", "name=mine")
    study = tmp_path / "outputs" / "mine"
    made(study, "a-run", state="running", step=30, n_steps=200, tokens_per_s=45678.9,
         seconds_left=125.0, pid=os.getpid(), host=HOST, stepped=time.time() - 65)  # fmt: skip
    made(study, "b-queued", state="queued", n_steps=200, slurm_job="7_1")
    made(study, "c-bad", state="diverged", step=7, n_steps=200, reason="loss [nan] at step 8")
    made(study, "d-memory", state="out of memory", reason="no room")
    made(study, "e-lost", state="running", pid=dead_pid(), host=HOST)
    task.status(config)
    out = capsys.readouterr().out
    rows = [line.rstrip() for line in out.splitlines()]
    assert "\x1b" not in out  # no colours where nobody sees them
    assert rows[0].split() == ["run", "state", "step", "tokens/s", "left", "last", "step",
                               "heartbeat", "where", "reason"]  # fmt: skip
    assert "30 of 200    45,679  2 min 05 s  1 min 05 s ago    0 s ago" in rows[1]
    assert f"process {os.getpid()}" in rows[1]
    assert rows[2].startswith("b-queued  queued") and rows[2].endswith("job 7_1")
    assert rows[3].endswith("loss [nan] at step 8") and "diverged" in rows[3]
    assert "out of memory" in rows[4]
    assert rows[5].split()[:2] == ["e-lost", "lost"]
    assert rows[6] == "5 runs: 1 queued, 1 running, 1 diverged, 1 out of memory, 1 lost"


def test_a_study_whose_runs_are_done_is_said_what_to_type_next(tmp_path):
    settings = task.check(compose("status", f"outputs={tmp_path}", "name=a"))
    done, running, failed = (Status(s) for s in (status.DONE, status.RUNNING, status.FAILED))
    words = f"name=a outputs={tmp_path}"
    runs = {"x": done, "y": failed}
    assert task.next_command(settings, runs) == [f"next: lexp eval {words}"]
    made(tmp_path / "a", "x", state=status.DONE)
    (tmp_path / "a" / "results.csv").touch()
    assert task.next_command(settings, runs) == [f"next: lexp report {words}"]
    assert task.next_command(settings, {"x": done, "y": running}) == []
    assert task.next_command(settings, {"y": failed}) == []


def test_a_study_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    made(tmp_path / "outputs" / "mine", "a", state="done")
    with pytest.raises(ConfigError, match="no run in .*other; studies there: mine"):
        task.status(compose("status", f"outputs={tmp_path}/outputs", "name=other"))
    with pytest.raises(ConfigError, match=r"every=0.0"):
        task.status(compose("status", f"outputs={tmp_path}/outputs", "name=mine", "every=0"))


def test_of_a_study_whose_training_never_started_other_commands_say_where_the_reasons_are(
    tmp_path, monkeypatch
):
    made(tmp_path / "outputs" / "mine", "a", state="failed", reason="no texts")
    said = r"mine: training has not started \(1 run queued or failed\); the reasons: "
    with pytest.raises(ConfigError, match=f"{said}lexp status name=mine outputs={tmp_path}"):
        find_runs(tmp_path / "outputs" / "mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"{said}lexp status name=mine$"):
        find_runs(tmp_path / "outputs" / "mine")


def test_watching_ends_when_nothing_is_under_way(tmp_path, capsys, monkeypatch):
    study = tmp_path / "outputs" / "mine"
    folder = made(study, "a", state="queued", slurm_job="1")
    after = iter([Status("running", pid=os.getpid(), host=HOST), None, Status("done")])

    def sleep(seconds):
        assert seconds == 0.5
        change = next(after)
        if change:
            status.write(folder, change)
            if change.state == "done":
                finish(folder)

    monkeypatch.setattr(task.time, "sleep", sleep)
    config = ("status", f"outputs={tmp_path}/outputs", "name=mine", "watch=true", "every=0.5")
    task.status(compose(*config))
    assert lines(capsys) == ["1 run: 1 queued", "1 run: 1 running", "1 run: 1 done"]


def run_folder(config) -> Path:
    settings = training.check(config)
    return training.run_folder(settings.study_folder, settings.raw)


def state_of(config) -> tuple[str, str]:
    found = status.judge(run_folder(config))
    return found.state, found.reason


def test_real_runs_end_in_their_states(tiny, monkeypatch):
    done = tiny("seed=0")
    training.train(done)
    assert state_of(done) == ("done", "")
    found = status.read(run_folder(done))
    assert found and (found.step, found.n_steps) == (10, 10) and found.tokens_per_s

    diverged = tiny("seed=1", "lr=1e30", "optim.warmup=0", "optim.clip=0")
    with pytest.raises(Diverged):
        training.train(diverged)
    state, reason = state_of(diverged)
    assert state == "diverged" and "nothing was saved yet" in reason

    memory = tiny("seed=2")
    with monkeypatch.context() as patch:

        def full(job, *others):
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")

        patch.setattr("lexp.training.loop._step", full)
        with pytest.raises(OutOfMemory):
            training.train(memory)
    state, reason = state_of(memory)
    assert state == "out of memory" and "a larger accumulation= needs less" in reason

    failed = tiny("seed=3", "dataset.validation=nowhere/*.txt")
    with pytest.raises(DataError, match="nowhere"):
        training.train(failed)
    assert state_of(failed)[0] == "failed" and "nowhere" in state_of(failed)[1]

    stopped = tiny("seed=4")
    with monkeypatch.context() as patch:
        real = training.loop._step

        def signalled(job, *others):
            if job.step == 2:
                signal.raise_signal(signal.SIGTERM)
            return real(job, *others)

        patch.setattr("lexp.training.loop._step", signalled)
        with pytest.raises(SystemExit):
            training.train(stopped)
    assert state_of(stopped)[0] == "preempted"
    found = status.read(run_folder(stopped))
    assert found and found.step == 3
    training.train(stopped)
    assert state_of(stopped) == ("done", "")


@pytest.mark.parametrize("waits", [True, False])
def test_the_user_signal_goes_on_to_whoever_waited_for_it(tiny, monkeypatch, waits):
    """submitit's handler queues the job again: called once, with everything saved and closed."""
    config = tiny("seed=5")
    real, seen = training.loop._step, []

    def signalled(job, *others):
        if job.step == 2:
            signal.raise_signal(signal.SIGUSR2)
        return real(job, *others)

    def handler(number, frame):
        folder = run_folder(config)
        with locked(folder):  # nobody holds it any more
            found = status.read(folder)
        seen.append((number, found.state, found.step))

    monkeypatch.setattr("lexp.training.loop._step", signalled)
    before = signal.signal(signal.SIGUSR2, handler if waits else signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as stopped:
            training.train(config)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert stopped.value.code == 75
    assert seen == ([(signal.SIGUSR2, "preempted", 3)] if waits else [])


def test_a_killed_run_is_lost_and_a_second_process_does_not_touch_a_status(texts, tmp_path):
    words = [w for w in TINY if not w.startswith("tokens")]
    command = ["train", *words, "tokens=64e6", *dataset(texts)]
    process = begin(*command, cwd=tmp_path)
    try:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("outputs/default/*/metrics.jsonl")):
            assert time.monotonic() < end
            time.sleep(0.1)
        (folder,) = tmp_path.glob("outputs/default/*-s0-*")
        second = completed(*command, cwd=tmp_path)
        assert second.returncode == 8 and f"in use by process {process.pid}" in second.stderr
        found = status.judge(folder)
        assert (found.state, found.pid) == ("running", process.pid)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.end()
    assert status.judge(folder).state == "lost"
