"""A sweep of twelve, eight of which fail, each in its own way: nobody else's run is touched."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from lexp.commands.train import train
from lexp.data import store
from lexp.runs import checkpoint, status
from lexp.training import loop, optim
from support.children import assert_whole, run
from support.faults.warm import Forked, warm_jobs
from support.forked import lexp, words_for
from support.training import folder_of, result_of

SWEEP = ("train", "-m", "seed=range(12)", "hydra/launcher=local", "hydra.launcher.jobs=4")
LIMIT = "stall_min=0.1"
FATAL_STEP = 6  # the checkpoint of step 4 is there


def at_the_step(action) -> None:
    """Do something when the fatal step begins."""
    original = loop._step

    def step(job, *others):
        if job.step == FATAL_STEP:
            action()
        return original(job, *others)

    loop._step = step


def defect():
    raise ZeroDivisionError("a defect of lexp")


def out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")


def hang():
    threading.Event().wait()


def not_a_number():
    """The update of the step before leaves weights that are no numbers."""
    original = optim.learning_rate

    def rate(step, *rest):
        return float("nan") if step == FATAL_STEP - 1 else original(step, *rest)

    optim.learning_rate = rate


def full_disk():
    def save_file(tensors, path):
        raise OSError(28, "No space left on device")

    checkpoint.save_file = save_file


# By seed: what happens in the job; its state, and how the reason begins that `lexp status` shows.
FAULTS = {
    1: (lambda: at_the_step(defect), "failed", "a defect of lexp"),
    2: (lambda: at_the_step(lambda: sys.exit(3)), "failed", "ended by sys.exit(3)"),
    4: (lambda: at_the_step(lambda: os.kill(os.getpid(), signal.SIGKILL)),
        "failed", "killed by SIGKILL, most likely out of memory"),
    5: (lambda: at_the_step(lambda: os.kill(os.getpid(), signal.SIGSEGV)),
        "failed", "killed by SIGSEGV"),
    7: (lambda: at_the_step(out_of_memory), "out of memory", "CUDA out of memory. Tried to"),
    8: (not_a_number, "diverged", "loss nan, gradient norm nan at step 7 of 10"),
    10: (lambda: at_the_step(hang), "failed", "hung: no step for 6 s (stall_min), in threading.py"),
    11: (lambda: at_the_step(full_disk), "failed", "cannot write "),
}  # fmt: skip
CODES = {1: 1, 2: 3, 4: 10, 5: 10, 7: 7, 8: 6, 10: 11, 11: 5}


def with_faults() -> None:
    """In the command: its jobs are forks, and fail as their seed says."""

    def prepare():
        (seed,) = (int(word[5:]) for word in sys.argv if word.startswith("seed="))
        FAULTS.get(seed, (lambda: None,))[0]()

    Forked.prepare = staticmethod(prepare)
    warm_jobs()


def test_a_run_that_hangs_is_ended_at_its_limit_but_not_while_texts_are_tokenised(tiny, tmp_path):
    config = tiny("stall_min=0.05")

    def action():
        original = store._write_split

        def slow(*arguments):
            time.sleep(2)
            return original(*arguments)

        store._write_split = slow
        at_the_step(hang)
        train(config)

    ended = run(action, tmp_path / "log")
    assert ended.code == 11, ended.said
    found = status.read(folder_of(config))
    assert (found.state, found.step) == ("failed", FATAL_STEP)
    reason = found.reason.removeprefix("hung: no step for 3 s (stall_min), in threading.py, line ")
    assert reason.isdigit() and ended.said.splitlines()[-1] == f"lexp: {found.reason}"
    assert 'test_sweep.py", line' in ended.said  # the stacks of all threads stand above


@pytest.fixture
def whole(tiny, tmp_path) -> dict[int, dict]:
    """By seed, what each run must come to: trained one after another, and nothing happens."""
    results = {}
    for seed in range(12):
        config = tiny(f"seed={seed}", f"outputs={tmp_path}/quiet")
        train(config)
        results[seed] = result_of(folder_of(config))
    return results


def rows(desk: Path) -> tuple[dict[int, str], str]:
    """`lexp status`: its row of every seed, with single spaces, and the line of sums."""
    shown = lexp("status", cwd=desk)
    assert shown.code == 0, shown.said
    found = {}
    *lines, sums, _next_command = shown.said.splitlines()
    for line in lines[1:]:
        if line.startswith(" "):  # the end of a long reason
            continue
        name = line.split()[0]
        found[int(name.split("-s")[-1].split("-")[0])] = " ".join(line.split())
    return found, sums


def test_of_twelve_jobs_the_healthy_finish_and_the_same_command_runs_only_the_others(
    tiny, texts, tmp_path, whole
):
    words = [*SWEEP, *words_for(texts), LIMIT]
    ended = lexp(*words, cwd=tmp_path, setup=with_faults)
    assert ended.code in CODES.values(), ended.said
    shown, sums = rows(tmp_path)
    assert sums == "12 runs: 4 done, 1 diverged, 1 out of memory, 6 failed"
    folders = {seed: folder_of(tiny(f"seed={seed}")) for seed in range(12)}
    for seed, folder in folders.items():
        if seed not in FAULTS:
            assert shown[seed].startswith(f"{folder.name} done 10 of 10 ")
            assert_whole(folder, whole[seed])
            continue
        _, state, reason = FAULTS[seed]
        assert shown[seed].startswith(f"{folder.name} {state} "), shown[seed]
        assert f" {reason}" in shown[seed], shown[seed]
        assert checkpoint.latest(folder / "checkpoints").step == 4, seed
        code = CODES[seed]
        how = f"{folder.name}: " + ("killed by SIG" if code == 10 else f"exit code {code}: ")
        assert how in ended.said, (seed, ended.said)
    # What hung says where, and only defects leave a traceback.
    logs = {seed: (folder / "log.txt").read_text() for seed, folder in folders.items()}
    assert [seed for seed, log in logs.items() if "Traceback" in log] == [1]
    assert "in hang" in logs[10] and 'threading.py", line' in logs[10]

    again = lexp(*words, cwd=tmp_path, setup=warm_jobs)
    assert again.code == 0, again.said
    assert again.said.count("is complete, nothing to do") == 4
    assert again.said.count("started ") == len(FAULTS)
    assert rows(tmp_path)[1] == "12 runs: 12 done"
    for seed, folder in folders.items():
        assert_whole(folder, whole[seed])
        assert ("from step 4" in (folder / "log.txt").read_text()) == (seed in FAULTS)
