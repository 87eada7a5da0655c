"""SIGKILL at random moments of a run: no run is lost, no bit differs, no metrics line is twice."""

import os
import random
import threading
import time
import traceback

import pytest

from lexp.commands.train import train
from lexp.data.reading import Batches
from lexp.record import Metrics
from lexp.runs import checkpoint
from lexp.runs.run import Run
from lexp.training import loop
from support.children import assert_whole, run
from support.faults.calls import counted, die, watch
from support.training import folder_of, result_of

LONG = ("tokens=1920", "save_every=3", "eval_every=7")  # 30 steps
N_STEPS = 30
# The long suite, in parts that can be run one by one: LEXP_FAULTS_KILLS=1000 scripts/faults.sh
MANY, PART = int(os.environ.get("LEXP_FAULTS_KILLS", "200")), 100


def killed(config, rng: random.Random, first: int) -> None:
    """Train, and die up to 20 ms after a random step from `first` on has begun.

    One in four dies so long after the next save has begun: else few would die inside one.
    """
    fatal, jitter, in_save = rng.randrange(first, N_STEPS), rng.random() * 0.02, rng.random() < 0.25
    make_step, save = loop._step, checkpoint.save

    def begin_to_die():
        threading.Thread(target=lambda: (time.sleep(jitter), die())).start()

    def step(job, *others):
        if job.step == fatal and not in_save:
            begin_to_die()
        return make_step(job, *others)

    def saving(root, tensors, state, keep=False):
        if state["step"] > fatal and in_save:
            begin_to_die()
        return save(root, tensors, state, keep)

    loop._step, checkpoint.save = step, saving
    train(config)


def kill_and_resume(
    tiny, tmp_path, n_kills: int, change=lambda: None, seed: int = 0
) -> tuple[int, int, list]:
    """Runs with one to four kills each, until there were n_kills.

    change: made to the product in every child. seed: of where the kills are. Kills, how many of
    them inside a save, and what is wrong with the runs that then ended.
    """
    config = tiny(*LONG, f"outputs={tmp_path}/whole")
    train(config)
    whole = result_of(folder_of(config))
    rng = random.Random(seed)
    done, in_save, wrong, number = 0, 0, [], 0
    while done < n_kills:
        number += 1
        config = tiny(*LONG, f"outputs={tmp_path}/run-{number}")
        folder = folder_of(config)
        for _ in range(rng.randint(1, 4)):
            found = checkpoint.latest(folder / "checkpoints")
            first, own = found.step if found else 0, rng.random()
            if first >= N_STEPS - 1:
                break

            def action(config=config, first=first, own=own):
                change()
                killed(config, random.Random(own), first)

            ended = run(action, tmp_path / "log")
            done += ended.code == -9
            in_save += bool(list((folder / "checkpoints").glob(".step-*")))

        def finish(config=config):
            change()
            train(config)

        ended = run(finish, tmp_path / "log")
        try:
            assert ended.code == 0, ended.said[-500:]
            assert_whole(folder, whole)
        except AssertionError as error:
            wrong.append(f"run {number}: {str(error)[:300]} {traceback.format_exc(limit=-1)}")
    return done, in_save, wrong


def test_sigkill_at_random_steps(tiny, tmp_path):
    done, in_save, wrong = kill_and_resume(tiny, tmp_path, 20)
    assert done >= 20 and wrong == []
    print(f"RESULT random kills: {done}, of which {in_save} inside a save")


@pytest.mark.slow
@pytest.mark.skipif("LEXP_FAULTS_KILLS" not in os.environ, reason="scripts/faults.sh runs it")
@pytest.mark.parametrize("part", range(1, -(-MANY // PART) + 1))
def test_sigkill_at_many_random_steps(tiny, tmp_path, part):
    n_kills = min(PART, MANY - PART * (part - 1))
    done, in_save, wrong = kill_and_resume(tiny, tmp_path, n_kills, seed=part)
    assert done >= n_kills and wrong == []
    assert in_save >= done // 10, "hardly a kill was inside a save: this shows little"
    print(f"RESULT random kills, part {part:02d}: {done}, of which {in_save} inside a save")


def test_sigkill_at_every_call_after_the_last_step(tiny, tmp_path):
    """While the run is marked as done and its last status is written: nothing is left over."""
    config = tiny(f"outputs={tmp_path}/whole")
    train(config)
    whole = result_of(folder_of(config))
    n_left, number, code = 0, 0, -9
    while code == -9:
        config = tiny(f"outputs={tmp_path}/{number}")

        def action(config=config, number=number):
            original = Run.finish

            def finish(run, summary):
                watch(counted(lambda n, name, arguments: die() if n == number else None))
                original(run, summary)

            Run.finish = finish
            train(config)

        code = run(action, tmp_path / "log").code
        n_left += bool(list(folder_of(config).glob(".*")))
        train(config)
        assert_whole(folder_of(config), whole)
        number += 1
    assert code == 0 and number > 10 and n_left > 3
    print(f"RESULT kills at every call after the last step: {number - 1}")


def forget_the_optimiser():
    checkpoint.load_optimizer = lambda *arguments: None


def forget_the_place_in_the_data():
    original = Batches.batch
    first: list[int] = []

    def batch(self, step):
        first.append(step)
        return original(self, step - first[0])

    Batches.batch = batch


def append_to_metrics():
    original = Metrics.__init__

    def opened(self, path, resume_at=0):
        original(self, path, path.stat().st_size if path.exists() else 0)

    Metrics.__init__ = opened


@pytest.mark.parametrize(
    "change", [forget_the_optimiser, forget_the_place_in_the_data, append_to_metrics]
)
def test_control_what_is_forgotten_is_noticed(tiny, tmp_path, change):
    """Negative controls: the same kills, with a part of the state or of the record left out."""
    _, _, wrong = kill_and_resume(tiny, tmp_path, 4, change)
    assert wrong, f"{change.__name__} went unnoticed"
