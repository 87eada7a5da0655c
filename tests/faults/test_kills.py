"""SIGKILL at random moments of a run: no run is lost, no bit differs, no metrics line is twice."""

import os
import random
import threading
import time

import pytest
from calls import die
from children import assert_whole, folder_of, result_of, run

from lexp import checkpoint
from lexp.data import Batches
from lexp.record import Metrics
from lexp.tasks.train import train

LONG = ("tokens=1920", "save_every=3", "probe_every=7")  # 30 steps
N_STEPS = 30
# The long suite: LEXP_FAULTS_KILLS=1000 scripts/faults.sh
MANY = int(os.environ.get("LEXP_FAULTS_KILLS", "200"))


def killed(config, rng: random.Random, first: int) -> None:
    """Train, and die up to 20 ms after a random step from `first` on has asked for its batch."""
    fatal, jitter = rng.randrange(first, N_STEPS), rng.random() * 0.02
    original = Batches.batch

    def batch(self, step):
        if step == fatal:
            threading.Thread(target=lambda: (time.sleep(jitter), die())).start()
        return original(self, step)

    Batches.batch = batch
    train(config)


def kill_and_resume(tiny, tmp_path, n_kills: int, change=lambda: None) -> tuple[int, int, list]:
    """Runs with one to four kills each, until there were n_kills.

    change: made to the product in every child. Kills, how many of them inside a save, and what is
    wrong with the runs that then ended.
    """
    config = tiny(*LONG, f"outputs={tmp_path}/whole")
    train(config)
    whole = result_of(folder_of(config))
    rng = random.Random(0)
    done, in_save, wrong, number = 0, 0, [], 0
    while done < n_kills:
        number += 1
        config = tiny(*LONG, f"outputs={tmp_path}/run-{number}")
        folder = folder_of(config)
        for _ in range(rng.randint(1, 4)):
            found = checkpoint.latest(folder / "checkpoints")
            first, seed = found.step if found else 0, rng.random()
            if first >= N_STEPS - 1:
                break

            def action(config=config, first=first, seed=seed):
                change()
                killed(config, random.Random(seed), first)

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
            wrong.append(f"run {number}: {str(error)[:300]}")
    return done, in_save, wrong


def test_sigkill_at_random_steps(tiny, tmp_path):
    done, in_save, wrong = kill_and_resume(tiny, tmp_path, 20)
    assert done >= 20 and wrong == []
    print(f"RESULT random kills: {done}, of which {in_save} inside a save")


@pytest.mark.slow
@pytest.mark.skipif("LEXP_FAULTS_KILLS" not in os.environ, reason="scripts/faults.sh runs it")
def test_sigkill_at_many_random_steps(tiny, tmp_path):
    done, in_save, wrong = kill_and_resume(tiny, tmp_path, MANY)
    assert done >= MANY and wrong == []
    assert in_save >= done // 50, "hardly a kill was inside a save: this shows little"
    print(f"RESULT many random kills: {done}, of which {in_save} inside a save")


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
