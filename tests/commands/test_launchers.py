"""Where the jobs of a sweep run, which of them are started, and what is left when one is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from lexp.commands import launch
from lexp.commands.launch import (
    SweepJob,
    hold_signals,
    left_to_do,
    make_slots,
    plan,
    queued,
    refuse_unfinished,
)
from lexp.config import sweep
from lexp.runs import status
from lexp.runs.locks import locked
from lexp.runs.status import Status
from lexp.system.errors import Busy, ConfigError
from support import ROOT
from support.config import TINY, dataset
from support.faults.warm import warm_jobs
from support.forked import begin, completed

HOST = socket.gethostname()
# What starts jobs is forked from this process. With warm_jobs the jobs are forks, too; without, as
# in test_runs_of_processes_are_the_runs_of_one, each is a start of Python.
lexp = partial(completed, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
start = partial(begin, setup=warm_jobs, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
LOCAL = ("hydra/launcher=local", "hydra.launcher.jobs=2")
LONG = [word for word in TINY if not word.startswith(("tokens", "save_every", "eval_every"))]
LONG += ["tokens=64e6", "save_every=1000000", "eval_every=1000000"]


def wait_for(what, seconds: float = 60):
    """The first true answer."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return answer


def states(study: Path) -> dict[str, str]:
    """By model, the state of its run."""
    folders = sorted(path.parent for path in study.glob("*/status.json"))
    return {folder.name.split("-")[0]: status.judge(folder).state for folder in folders}


def under_way(study: Path, model: str) -> dict | None:
    """The status of a model's run that has made steps."""
    for path in study.glob(f"{model}-*/metrics.jsonl"):
        if path.read_bytes().count(b"\n") > 20:
            return json.loads((path.parent / "status.json").read_text())
    return None


def test_a_job_that_is_killed_takes_no_other_with_it_and_only_it_is_started_again(texts, tmp_path):
    common = [*dataset(texts), "tokens=640,64e6", "model=rope,alibi"]
    study = tmp_path / "outputs" / "default"
    # Four jobs, two at once; the two long ones would take an hour.
    words = [word for word in LONG if not word.startswith("tokens")]
    process = start("train", "-m", *words, *common, *LOCAL, cwd=tmp_path)

    def long_ones():
        found = [json.loads(path.read_text()) for path in study.glob("*/status.json")]
        return [one for one in found if one["state"] == "running" and one["n_steps"] == 1_000_000]

    killed = set()

    def kill_the_long_ones():
        for one in long_ones():
            if one["pid"] not in killed:
                killed.add(one["pid"])
                os.kill(one["pid"], signal.SIGKILL)
        return len(killed) == 2

    wait_for(kill_the_long_ones)
    ended = process.end()
    assert ended.code == 10 and "Traceback" not in ended.said, ended.said
    assert ended.said.count("killed by SIGKILL, most likely out of memory; log: ") == 2
    found = [status.judge(path.parent) for path in study.glob("*/status.json")]
    assert sorted(one.state for one in found) == ["done", "done", "failed", "failed"]
    for one in found:
        if one.state == "failed":
            assert one.n_steps == 1_000_000 and one.reason.startswith("killed by SIGKILL")
    again = start("train", "-m", *words, *common, *LOCAL, cwd=tmp_path)
    try:
        wait_for(lambda: len(long_ones()) == 2)
    finally:
        os.kill(again.pid, signal.SIGTERM)
        said = again.end().said
    assert said.count("is complete, nothing to do") == 2 and said.count("started ") == 2


def test_a_signal_stops_all_jobs_saved_and_the_same_command_goes_on(texts, tmp_path):
    words = [*LONG, *dataset(texts), "model=rope,alibi,nope", *LOCAL]
    study = tmp_path / "outputs" / "default"
    process = start("train", "-m", *words, cwd=tmp_path)
    wait_for(lambda: under_way(study, "rope") and under_way(study, "alibi"))
    assert states(study) == {"rope": "running", "alibi": "running", "nope": "queued"}
    os.kill(process.pid, signal.SIGTERM)
    ended = process.end()
    assert ended.code == 75 and "Traceback" not in ended.said, ended.said
    assert states(study) == {"rope": "preempted", "alibi": "preempted"}
    assert not list(study.glob("nope-*"))
    for model in ("rope", "alibi"):
        assert len(list(study.glob(f"{model}-*/checkpoints/*/manifest.json"))) == 1
    process = start("train", "-m", *words, cwd=tmp_path)
    try:
        wait_for(lambda: all("from step" in log.read_text() for log in study.glob("*/log.txt")))
    finally:
        os.kill(process.pid, signal.SIGINT)
        ended = process.end()
    assert ended.code == 130
    assert states(study) == {"rope": "interrupted", "alibi": "interrupted"}


def test_a_job_that_fails_says_why_and_its_code_is_the_sweeps(texts, tmp_path):
    """No made text has a window of 4096 tokens."""
    words = [word for word in TINY if not word.startswith(("train_len", "batch_tokens", "tokens"))]
    sizes = ["train_len=4096,16", "batch_tokens=8192", "tokens=8192"]
    words = ["train", "-m", *sizes, *words, *dataset(texts), *LOCAL]
    result = lexp(*words, cwd=tmp_path, setup=warm_jobs)
    assert result.returncode == 3 and "Traceback" not in result.stderr, result.stderr
    assert "exit code 3: the train split gives 0 windows of train_len=4096" in result.stderr
    shown = lexp("status", cwd=tmp_path)
    assert shown.stdout.splitlines()[-1] == "2 runs: 1 done, 1 failed"
    assert "the train split gives 0 windows" in shown.stdout


def test_runs_of_processes_are_the_runs_of_one(texts, tmp_path):
    """With a user's own config folder and an override of Hydra's, which every job needs too."""
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "slow_rope.yaml").write_text(
        "name: slow_rope\nposition:\n  _target_: lexp.position.RoPE\n"
        "  head_dim: ${size.head_dim}\n  base: 500.0\n"
    )
    words = ["--config-dir", "mine", *TINY, *dataset(texts), "model=slow_rope,alibi"]
    for launcher in (["name=a", "hydra.verbose=false", *LOCAL], ["name=b"]):
        result = lexp("train", "-m", *words, *launcher, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    for folder in (tmp_path / "outputs" / "a").glob("*-s0-*"):
        metrics = (folder / "metrics.jsonl").read_text()
        other = tmp_path / "outputs" / "b" / folder.name / "metrics.jsonl"
        assert metrics.count("\n") > 10 and metrics == other.read_text()
    # Evaluations of one study at once: no job's cells are missing from the table.
    sweep = ["attention=[full],[window]", "lengths=[8],[16]", "device=cpu", "name=a"]
    result = lexp("eval", "-m", *sweep, *LOCAL, cwd=tmp_path, setup=warm_jobs)
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "outputs" / "a" / "results.csv").read_text().splitlines()) == 1 + 8
    assert "perplexity" in (tmp_path / "outputs" / "a" / "sweep" / "job-0.txt").read_text()


def test_a_sweep_in_one_process_shows_what_is_still_to_come(texts, tmp_path):
    words = [*LONG, *dataset(texts), "model=rope,alibi"]
    study = tmp_path / "outputs" / "default"
    process = start("train", "-m", *words, cwd=tmp_path)
    wait_for(lambda: under_way(study, "rope"))
    assert states(study) == {"rope": "running", "alibi": "queued"}
    # The same sweep from elsewhere leaves alone what runs and what is queued.
    result = lexp("train", "-m", *words, cwd=tmp_path)
    assert result.returncode == 8, result.stderr
    assert "lexp: 2 of 2 runs are not done" in result.stderr.splitlines()[-1]
    assert f"is being trained by process {process.pid} on {HOST}; skipped" in result.stderr
    assert f"is queued by process {process.pid} on {HOST}; skipped" in result.stderr
    os.kill(process.pid, signal.SIGKILL)
    assert process.end().code == -signal.SIGKILL
    assert states(study) == {"rope": "lost", "alibi": "lost"}


def job(folder: Path, number: int = 0) -> SweepJob:
    return SweepJob(number, ("model=rope",), folder, 10)


def test_what_is_done_runs_or_waits_elsewhere_is_not_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan, "slurm_jobs", lambda: {"7_1", "7_2"})
    made = {
        "new": None,
        "done": Status("done"),
        "failed": Status("failed"),
        "preempted": Status("preempted", pid=1, host=HOST),
        "waits": Status("queued", slurm_job="7_1"),
        "requeued": Status("preempted", slurm_job="7_2"),
        "forgotten": Status("queued", slurm_job="6_1"),
        "ended": Status("preempted", slurm_job="6_2"),
        "other": Status("queued", pid=os.getppid(), host=HOST),
        "held": Status("running", pid=os.getpid(), host=HOST),
    }
    jobs = [job(tmp_path / name, number) for number, name in enumerate(made)]
    for folder, value in zip((one.folder for one in jobs), made.values(), strict=True):
        if value:
            folder.mkdir()
            status.write(folder, value)
    (tmp_path / "done" / "done.json").write_text("{}")
    (tmp_path / "done/checkpoints/step-00000010").mkdir(parents=True)
    with locked(tmp_path / "held"):
        left = left_to_do([*jobs, job(tmp_path / "failed", 99), SweepJob(100, ("a=1",), None)])
    started = [one.folder.name if one.folder else one.name for one in left]
    assert started == ["new", "failed", "preempted", "forgotten", "ended", "job a=1"]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{tmp_path}/done is complete, nothing to do",
        f"{tmp_path}/waits is queued as SLURM job 7_1; skipped",
        f"{tmp_path}/requeued is queued as SLURM job 7_2; skipped",
        f"{tmp_path}/other is queued by process {os.getppid()} on {HOST}; skipped",
        f"{tmp_path}/held is being trained by process {os.getpid()} on {HOST}; skipped",
        f"{tmp_path}/failed is requested twice; started once",
        "a sweep of 12 jobs, 6 to do",
    ]


def test_runs_that_were_left_to_others_end_a_sweep_with_their_names(tmp_path):
    """Judged at its end: what the others have finished by then is no reason to fail."""
    jobs = [job(tmp_path / name, n) for n, name in enumerate(("own", "held", "finished"))]
    for one in jobs:
        one.folder.mkdir()
        status.write(one.folder, Status("running", pid=os.getpid(), host=HOST))
    (tmp_path / "finished" / "done.json").write_text("{}")
    (tmp_path / "finished/checkpoints/step-00000010").mkdir(parents=True)
    with locked(tmp_path / "held"), pytest.raises(Busy) as error:
        refuse_unfinished(jobs, jobs[:1])
    assert error.value.exit_code == 8
    assert "1 of 3 runs are not done" in str(error.value) and ": held; " in str(error.value)
    (tmp_path / "held" / "done.json").write_text("{}")
    (tmp_path / "held/checkpoints/step-00000010").mkdir(parents=True)
    refuse_unfinished(jobs, jobs[:1])
    refuse_unfinished([SweepJob(1, ("a=1",), None)], [])


def test_while_slurm_is_silent_nothing_that_may_wait_there_is_queued_twice(
    tmp_path, monkeypatch, capsys
):
    """A controller that restarts, or is too busy to answer; where there is none it is not asked."""
    monkeypatch.setattr(plan, "ask_slurm", lambda: None)
    made = {
        "waits": Status("queued", slurm_job="7_1"),
        "requeued": Status("preempted", slurm_job="7_2"),
        "failed": Status("failed", slurm_job="7_3"),
        "local": Status("preempted", pid=1, host=HOST),
    }
    for name, value in made.items():
        (tmp_path / name).mkdir()
        status.write(tmp_path / name, value)
    jobs = [job(tmp_path / name, number) for number, name in enumerate(made)]
    monkeypatch.setattr(plan.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert [one.folder.name for one in left_to_do(jobs)] == ["failed", "local"]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        f"{tmp_path}/waits may be queued as SLURM job 7_1, but squeue does not answer; skipped"
    )
    assert said[2:] == ["a sweep of 4 runs, 2 to do"]
    monkeypatch.setattr(plan.shutil, "which", lambda name: None)
    assert left_to_do(jobs) == jobs


def test_what_was_queued_and_not_begun_is_taken_back(tmp_path):
    new, begun, before = (job(tmp_path / name) for name in ("new", "begun", "before"))
    before.folder.mkdir()
    status.write(before.folder, Status("preempted", step=4))
    (before.folder / "config.json").write_text("{}")
    with queued([new, begun, before]):
        assert {status.judge(one.folder).state for one in (new, begun, before)} == {"queued"}
        assert status.read(before.folder).step == 4  # what is behind it is still shown
        status.write(begun.folder, Status("running", pid=os.getpid(), host=HOST))
    assert not new.folder.exists()
    assert status.read(begun.folder).state == "running"
    assert (before.folder / "config.json").exists()


@pytest.mark.parametrize(
    ("n_gpus", "visible", "asked", "per_gpu", "gpus", "n_threads"),
    [
        (0, None, "auto", 1, [None] * 4, 1),
        (0, None, 2, 1, [None] * 2, 2),
        (0, None, 8, 1, [None] * 8, 1),
        (2, None, "auto", 1, ["0", "1"], 2),
        (2, "4,6", "auto", 2, ["4", "6", "4", "6"], 1),
        (2, "GPU-a,GPU-b", 3, 1, ["GPU-a", "GPU-b", "GPU-a"], 1),
    ],
)
def test_jobs_at_once_and_their_devices(
    monkeypatch, n_gpus, visible, asked, per_gpu, gpus, n_threads
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    slots = make_slots(asked, per_gpu)
    assert [slot.gpu for slot in slots] == gpus
    assert {slot.n_threads for slot in slots} == {n_threads}


@pytest.mark.parametrize(("asked", "per_gpu"), [("many", 1), (0, 1), (True, 1), (1, 0)])
def test_numbers_of_jobs_that_mean_nothing_are_refused(asked, per_gpu):
    with pytest.raises(ConfigError, match=r"whole number from 1"):
        launch.make_slots(asked, per_gpu)


def test_every_job_gets_its_own_device_and_threads(tmp_path, monkeypatch):
    """The environment that each process sees: of four jobs, two on each of two devices."""
    seen = []

    class Process:
        returncode = 0

        def __init__(self, command, env, process_group, **options):
            assert command == [sys.executable, "-P", "-m", "lexp", "list"] and process_group == 0
            seen.append((env["CUDA_VISIBLE_DEVICES"], env["OMP_NUM_THREADS"]))
            assert env["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)

        def poll(self):
            return 0

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("lexp.commands.launch.processes.subprocess.Popen", Process)
    slots = [launch.processes.Slot("3", 2), launch.processes.Slot("5", 2)]
    jobs = [SweepJob(number, (), None) for number in range(4)]
    shown = launch.SweepLines(jobs, 2)
    ended = launch.run_processes(jobs, slots, lambda one: ["list"], tmp_path, shown)
    assert ended == dict.fromkeys(range(4))
    assert sorted(seen) == [("3", "2"), ("3", "2"), ("5", "2"), ("5", "2")]
    seen.clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # the user's own number counts
    launch.run_processes(jobs[:1], slots, lambda one: ["list"], tmp_path, shown)
    assert seen == [("3", "7")]


def test_a_launcher_whose_package_or_scheduler_is_missing_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(sweep.shutil, "which", lambda name: None)
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: object())
    for word in ("hydra/launcher=slurm", "hydra/launcher=submitit_slurm"):
        with pytest.raises(ConfigError, match="no SLURM on this machine"):
            sweep.check_launcher(["model=rope", word])
    sweep.check_launcher(["hydra/launcher=local"])
    sweep.check_launcher(["hydra/launcher=submitit_local"])
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs submitit: pip install 'lexp\[slurm\]'"):
        sweep.check_launcher(["hydra/launcher=slurm"])


def test_every_model_is_one_glob_away(monkeypatch):
    """That each is composed and can be trained, tests/config/test_config.py shows."""
    from lexp.cli import hydra_guard
    from lexp.config.schema import register_schemas
    from lexp.system.files import config_folder

    register_schemas()
    hydra_guard.install()
    monkeypatch.setattr(sweep.JobConfigs, "compose", lambda configs, words: words)
    jobs = []
    words = ["model=glob(*,exclude=[abacus,coupled])", "seed=1"]
    assert sweep.check_jobs(config_folder(), "train", words, jobs.append) == len(jobs)
    files = {path.stem for path in (config_folder() / "model").glob("*.yaml")}
    models = sorted(files - {"abacus", "coupled"})
    assert sorted(jobs) == [[f"model={name}", "seed=1"] for name in models] and len(models) > 30


def test_a_signal_that_comes_before_a_job_waits_for_it_is_held_back_not_lost():
    """SIGUSR2 ends a process that does nothing about it; here it arrives when it is waited for."""
    code = (
        "import os, signal, sys\n"
        "os.kill(os.getpid(), signal.SIGUSR2)\n"
        "signal.signal(signal.SIGUSR2, lambda number, frame: print('heard', sys.argv[1]))\n"
        "print('not yet')\n"
        "from lexp.commands.launch.hold_signals import take_signals\n"
        "take_signals()\n"
    )
    options = {"capture_output": True, "text": True, "cwd": ROOT}
    command = [sys.executable, "-I", "-S", hold_signals.__file__, "-c", code, "words"]
    ended = subprocess.run(command, **options)
    assert (ended.returncode, ended.stdout) == (0, "not yet\nheard words\n"), ended
    ended = subprocess.run([sys.executable, "-c", code, "words"], **options)
    assert ended.returncode == -signal.SIGUSR2  # the control
