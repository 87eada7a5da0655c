"""A real SLURM, as scripts/test_slurm.sh starts one: preempted, timed out, killed, and gone on.

Runs that were interrupted are compared, bit for bit, with the same runs trained without SLURM.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from support import ROOT
from support.config import TINY, dataset
from support.texts import make_text

pytestmark = pytest.mark.slurm
SLURM = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null",
         "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=30",
         "hydra.launcher.array_parallelism=2"]  # fmt: skip
# What takes longer hangs: a busy machine may need minutes where a quiet one needs seconds.
LIMIT_S = 1200
SWEEP = ["model=rope,alibi,nope", "seed=0,1"]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Skips where there is no SLURM; where there must be one that is a failure."""
    answer = None
    if shutil.which("sinfo"):
        answer = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True)
    if answer is None or answer.returncode:
        if os.environ.get("LEXP_SLURM"):
            pytest.fail("no SLURM answers")
        pytest.skip("no SLURM answers here: bash scripts/test_slurm.sh starts one")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with texts."""
    root = tmp_path_factory.mktemp("cluster")
    for split, n_files in (("train", 4), ("validation", 2), ("test", 2)):
        (root / "texts" / split).mkdir(parents=True)
        for number in range(n_files):
            path = root / "texts" / split / f"{number}.txt"
            path.write_text(make_text(len(split) * 100 + number, 2000), encoding="utf-8")
    return root


def words(place: Path, n_steps: int) -> list[str]:
    """What every command trains: n_steps steps that save and validate only at their end."""
    changed = ("tokens", "save_every", "eval_every")
    tiny = [word for word in TINY if word.split("=")[0] not in changed]
    return [*tiny, *dataset(place / "texts"), f"tokens={64 * n_steps}", "save_every=1000000",
            "eval_every=1000000"]  # fmt: skip


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """A test that fails must not leave commands that wait for its jobs."""
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def start(place: Path, *arguments: str, runner: Sequence[str] = ()) -> subprocess.Popen:
    """The command, running, in a process of its own, or in those that a runner starts."""
    extra = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*runner, sys.executable, "-m", "lexp", *arguments], cwd=place, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **extra},
    )  # fmt: skip
    STARTED.append(process)
    return process


def ended(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    """What a command printed; it must end with this code."""
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def wait_for(what):
    """The first true answer."""
    end = time.monotonic() + LIMIT_S
    while not (answer := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return answer


def run_folder(place: Path, study: str, begins: str) -> Path:
    (folder,) = (place / "outputs" / study).glob(f"{begins}-*")
    return folder


def n_steps_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def when_under_way(place: Path, study: str, begins: str) -> dict:
    """A run's status once it has made steps."""

    def under_way():
        found = list((place / "outputs" / study).glob(f"{begins}-*"))
        return found and n_steps_of(found[0]) >= 100 and found[0]

    folder = wait_for(under_way)
    return json.loads((folder / "status.json").read_text())


def slurm_job_of(place: Path, study: str, begins: str) -> str:
    """The job that a run waits for, as soon as it is known."""

    def job():
        for path in (place / "outputs" / study).glob(f"{begins}-*/status.json"):
            return json.loads(path.read_text())["slurm_job"]

    return wait_for(job)


def send_user_signal(slurm_job: str, folder: Path) -> None:
    """What SLURM sends before a time limit; scancel asks again for a minute if a job then ends."""
    with subprocess.Popen(
        ["scancel", "--signal=USR2", slurm_job], stderr=subprocess.DEVNULL
    ) as sent:
        wait_for(lambda: json.loads((folder / "status.json").read_text())["state"] == "preempted")
        sent.kill()


def squeue(*arguments: str) -> list[str]:
    command = ["squeue", "-h", "-r", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def tensors(folder: Path) -> dict[str, str]:
    """The digest of every tensor of the last checkpoint."""
    newest = max(folder.glob("checkpoints/*/model.safetensors"), key=lambda p: p.parent.name)
    loaded = load_file(newest)
    return {name: hashlib.sha256(loaded[name].tobytes()).hexdigest() for name in sorted(loaded)}


def assert_same(disturbed: Path, quiet: Path, n_steps: int) -> None:
    """Both ended with the same bits, after the same losses, each step there once."""
    lines = (disturbed / "metrics.jsonl").read_text().splitlines()
    assert lines == (quiet / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if '"train"' in line]
    assert steps == list(range(1, n_steps + 1))
    assert tensors(disturbed) == tensors(quiet)


def starts(place: Path, study: str, folder: Path) -> list[str]:
    """Where each start of a run began, as its job's log says it."""
    logs = (place / "outputs" / study / "sweep" / ".submitit").glob("*/*.err")
    said = [line for log in logs for line in log.read_text().splitlines()]
    return [
        line.split("(")[1] for line in said if line.startswith(f"outputs/{study}/{folder.name} (")
    ]


def test_an_array_is_preempted_signalled_and_killed_and_goes_on_bit_for_bit(place):
    n_steps = 2000
    common = words(place, n_steps)
    array = start(place, "train", "-m", *SWEEP, *common, "name=array", *SLURM)
    # The last one is not to have begun, nor ended, before its turn comes below.
    last = slurm_job_of(place, "array", "nope-nano-text-L16-s1")
    subprocess.run(["scontrol", "hold", last], check=True)

    preempted = when_under_way(place, "array", "rope-nano-text-L16-s0")
    subprocess.run(["scontrol", "requeue", preempted["slurm_job"]], check=True)
    signalled = when_under_way(place, "array", "rope-nano-text-L16-s1")
    send_user_signal(signalled["slurm_job"], run_folder(place, "array", "rope-nano-text-L16-s1"))
    again = start(place, "train", "-m", *SWEEP, *common, "name=array", *SLURM)
    _, said = ended(again)
    assert said.count("; skipped") + said.count("nothing to do") == 6, said
    assert f"is queued as SLURM job {last}; skipped" in said
    assert not re.search(r"queued \d+ jobs? in SLURM", said)
    assert {job.split("_")[0] for job in squeue("-o", "%i")} == {last.split("_")[0]}

    subprocess.run(["scontrol", "release", last], check=True)
    killed = when_under_way(place, "array", "nope-nano-text-L16-s1")
    os.kill(killed["pid"], signal.SIGKILL)
    quiet = start(place, "train", "-m", "model=rope,nope", "seed=0,1", *common, "name=quiet")
    _, err = ended(array, 10)
    folder = run_folder(place, "array", "nope-nano-text-L16-s1")
    assert f"lexp: {folder.name}: SLURM job {killed['slurm_job']} ended without a result" in err
    table, _ = ended(start(place, "status", "name=array"))
    assert table.splitlines()[-1] == "6 runs: 5 done, 1 failed"
    row = next(line for line in table.splitlines() if line.startswith(folder.name))
    assert " failed " in row and "ended without a result" in row and "exit code" in row

    _, err = ended(start(place, "train", "-m", *SWEEP, *common, "name=array", *SLURM))
    assert err.count("is complete, nothing to do") == 5
    assert "queued 1 job in SLURM" in err
    table, _ = ended(start(place, "status", "name=array"))
    assert table.splitlines()[-1] == "6 runs: 6 done"

    ended(quiet)
    for begins in ("rope-nano-text-L16-s0", "rope-nano-text-L16-s1", "nope-nano-text-L16-s1"):
        folder = run_folder(place, "array", begins)
        assert_same(folder, run_folder(place, "quiet", begins), n_steps)
        assert len(starts(place, "array", folder)) == 2, folder
    for begins in ("rope-nano-text-L16-s0", "rope-nano-text-L16-s1"):
        folder = run_folder(place, "array", begins)
        (later,) = set(starts(place, "array", folder)) - {"from the start)"}
        assert 100 <= int(later.split()[2].rstrip(")")) < n_steps


def test_a_run_longer_than_its_time_limit_goes_on_bit_for_bit(place):
    """SLURM itself sends the signal here, 45 s before the limit of a minute.

    It looks every 30 s: the run is made to train for 50 s, however fast this machine is.
    """
    ended(start(place, "train", *words(place, 2000), "model=xpos", "name=speed"))
    done = json.loads((run_folder(place, "speed", "xpos") / "done.json").read_text())
    n_steps = int(50 * 2000 / done["seconds"])
    common = [*words(place, n_steps), "model=xpos"]
    limited = [word for word in SLURM if "timeout_min" not in word]
    limited += ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=45"]
    job = start(place, "train", "-m", *common, "name=limited", *limited)
    quiet = start(place, "train", *common, "name=quiet")
    ended(job)
    ended(quiet)
    folder = run_folder(place, "limited", "xpos")
    assert len(starts(place, "limited", folder)) >= 2
    assert_same(folder, run_folder(place, "quiet", "xpos"), n_steps)


def test_tasks_of_a_step_train_one_model(place):
    """By srun; and by the launcher, signalled and gone on, with the same bits."""
    n_steps = 800
    common = [*words(place, n_steps), "model=random_rope"]
    ended(start(place, "train", *common, "name=one"))
    step = ["srun", "--ntasks=2", "--cpus-per-task=1"]
    _, err = ended(start(place, "train", *common, "name=step", runner=step))
    assert err.count("2 ranks by ddp") == 1
    one, step = (
        [json.loads(line) for line in (run_folder(place, name, "random_rope") / "metrics.jsonl")
         .read_text().splitlines()] for name in ("one", "step")
    )  # fmt: skip
    assert [x["step"] for x in step] == [x["step"] for x in one]
    for ours, theirs in zip(step[:50], one[:50], strict=True):
        assert abs(ours["loss"] - theirs["loss"]) <= 1e-6

    tasks = [*SLURM, "hydra.launcher.tasks_per_node=2"]
    job = start(place, "train", "-m", *common, "name=tasks", *tasks)
    signalled = when_under_way(place, "tasks", "random_rope")
    folder = run_folder(place, "tasks", "random_rope")
    send_user_signal(signalled["slurm_job"], folder)
    _, err = ended(job)
    assert f"done {folder.name}" in err
    assert_same(folder, run_folder(place, "step", "random_rope"), n_steps)
    assert len(starts(place, "tasks", folder)) == 2


def test_jobs_may_be_queued_and_left(place):
    """Each evaluation is a job; nobody waits for it."""
    sweep = ["attention=[full],[window]", "lengths=[16,32]", "device=cpu", "name=array"]
    _, err = ended(start(place, "eval", "-m", *sweep, *SLURM, "hydra.launcher.wait=false"))
    assert "queued 2 jobs in SLURM" in err
    table = place / "outputs" / "array" / "results.csv"
    wait_for(lambda: not squeue("-o", "%i"))
    rows = table.read_text().splitlines()
    n_done = len(list((place / "outputs" / "array").glob("*/done.json")))
    assert n_done and len(rows) == 1 + n_done * 2 * 2  # runs, patterns, lengths: none is missing


def test_what_sbatch_refuses_is_one_line(place):
    refused = start(place, "train", "-m", "model=cope", *words(place, 10), *SLURM,
                    "hydra.launcher.partition=nowhere", "name=refused")  # fmt: skip
    _, err = ended(refused, 2)
    assert "lexp: sbatch refused the jobs: " in err and "partition" in err
