"""Runs of tests: where they lie, what of them must not differ, how one is broken off or damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lexp.config.schema import plain
from lexp.data.reading import Batches
from lexp.runs.checkpoint import latest
from lexp.runs.run import run_name
from lexp.training import loop


def folder_of(config) -> Path:
    """The run folder of a composed config."""
    settings = plain(config)
    return Path(settings["outputs"]) / settings["name"] / run_name(settings)


def result_of(folder: Path) -> dict[str, bytes]:
    """The bits that must not differ: final weights, optimiser, every line of metrics.jsonl."""
    last = latest(folder / "checkpoints")
    assert last is not None, f"{folder} has no checkpoint"
    tensors = {
        f"{name}/{key}": value.numpy().tobytes()
        for name in ("model.safetensors", "optim.safetensors")
        for key, value in load_file(last.path / name).items()
    }
    return {**tensors, "metrics": (folder / "metrics.jsonl").read_bytes()}


class Killed(BaseException):
    """Stands for SIGKILL inside this process: nothing may catch it."""


def stop_after(monkeypatch, n_steps: int) -> None:
    """Break off the next run when step n_steps + 1 asks for its batch."""
    original = Batches.batch

    def batch(self, step):
        if step == n_steps:
            raise Killed
        return original(self, step)

    monkeypatch.setattr(Batches, "batch", batch)


@contextmanager
def interrupt_after(monkeypatch, n_steps: int) -> Iterator[None]:
    """Interrupt the training in the block as Ctrl-C does, when step n_steps + 1 begins."""
    original = loop._step

    def step(job, *others):
        if job.step == n_steps:
            raise KeyboardInterrupt
        return original(job, *others)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_step", step)
        yield


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
