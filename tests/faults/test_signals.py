"""Signals in every phase of a run: saved or nothing to save, the exit code, the same bits after."""

import os
import random
import signal
import time

import pytest

from lexp.commands import train as task
from lexp.commands.train import train
from lexp.data import store
from lexp.data.reading import Batches
from lexp.model.transformer import Transformer
from lexp.runs import checkpoint
from lexp.scoring.scorer import Scorer
from lexp.training import loop
from support.children import assert_whole, run, start
from support.training import folder_of

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Adam:
    """The optimiser's step, wherever it lives."""

    owner, name = loop.torch.optim.AdamW, "step"


# Phase: what is called in it, at which call the signal comes, and whether it comes after the call.
PHASES = {
    "texts are tokenised": (store, "_write_split", 2),
    "the run folder is opened": (task, "open_run", 1),
    "a batch is made": (Batches, "batch", 6),
    "forward": (Transformer, "loss", 6),
    "backward": (loop.torch.Tensor, "backward", 6),
    "the update": (Adam.owner, Adam.name, 6),
    "a save": (checkpoint, "save_file", 3),
    "a save is renamed": (checkpoint, "publish", 2),
    "validation": (Scorer, "score", 2),
    "the last step": (loop, "_step", 10),
}
# Before the signals are watched there is nothing to save, and after the last step nothing to stop.
BEFORE, LAST = ("texts are tokenised", "the run folder is opened"), "the last step"


def signal_at(place, number: int, wait_s: float = 0.0) -> None:
    """Send this process a signal when a function is called for the n-th time."""
    owner, name, wanted = place
    original = getattr(owner, name)
    seen = 0

    def called(*arguments, **keywords):
        nonlocal seen
        seen += 1
        if seen == wanted:
            os.kill(os.getpid(), number)
            time.sleep(wait_s)
        return original(*arguments, **keywords)

    setattr(owner, name, called)


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_every_phase(tiny, tmp_path, whole, phase):
    for number in SIGNALS:
        config = tiny(f"outputs={tmp_path}/{number}")

        def action(config=config, number=number):
            signal_at(PHASES[phase], number)
            train(config)

        ended = run(action, tmp_path / "log")
        saved = 130 if number == signal.SIGINT else 75
        killed = 130 if number == signal.SIGINT else -number
        wanted = killed if phase in BEFORE else 0 if phase == LAST else saved
        assert ended.code == wanted, (number, ended.said)
        assert "Traceback" not in ended.said and ended.seconds < 20
        if wanted == saved and phase not in BEFORE:
            found = checkpoint.latest(folder_of(config) / "checkpoints")
            line = f"stopped at step {found.step}, saved"
            assert line in ended.said
        train(config)
        assert_whole(folder_of(config), whole)


def test_a_second_signal_ends_the_run_at_once(tiny, tmp_path, whole):
    for number in SIGNALS:
        config = tiny(f"outputs={tmp_path}/{number}")

        def action(config=config, number=number):
            signal_at(PHASES["forward"], number, wait_s=30)
            print("ready", flush=True)
            train(config)

        child = start(action, tmp_path / "log")
        while not list(folder_of(config).glob("checkpoints/step-*4")):
            time.sleep(0.01)
        time.sleep(0.5)  # within the 30 seconds that step 6 takes
        sent = time.monotonic()
        os.kill(child.pid, number)
        ended = child.end(10)
        assert time.monotonic() - sent < 2, "the second signal was not obeyed at once"
        assert ended.code == (130 if number == signal.SIGINT else -number)
        assert "Traceback" not in ended.said
        train(config)
        assert_whole(folder_of(config), whole)


@pytest.mark.parametrize("kinds", [(signal.SIGINT,), (signal.SIGUSR1, signal.SIGUSR2), SIGNALS])
def test_a_storm_of_signals(tiny, tmp_path, whole, kinds):
    """Fifty signals within a second, of one kind or mixed."""
    rng = random.Random(len(kinds))
    for turn in range(3):
        config = tiny(f"outputs={tmp_path}/{turn}")
        child = start(lambda config=config: train(config), tmp_path / "log")
        while not list(folder_of(config).glob("checkpoints/step-*")):
            time.sleep(0.002)
        for _ in range(50):
            try:
                os.kill(child.pid, rng.choice(kinds))
            except ProcessLookupError:
                break
            time.sleep(rng.random() * 0.02)
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
        ended = child.end(10)
        assert "Traceback" not in ended.said, ended.said
        assert ended.code in {0, 75, 130, *(-n for n in kinds)}
        train(config)
        assert_whole(folder_of(config), whole)
