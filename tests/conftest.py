"""Shared test material: small texts made here, real texts where this machine has them."""

import csv
import os
from pathlib import Path

import pytest
import torch

from support import ROOT
from support.config import TINY, compose, dataset
from support.texts import make_text

# One thread: tests compare bits, and share a small machine.
torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "offline")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with train, validation and test texts of a few thousand bytes each."""
    root = tmp_path / "texts"
    for split, n_files in (("train", 6), ("validation", 2), ("test", 3)):
        (root / split).mkdir(parents=True)
        for number in range(n_files):
            text = make_text(len(split) * 100 + number, 400 + 100 * number)
            (root / split / f"{number}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def books() -> Path:
    """Real books, where LEXP_BOOKS names their folder or the data lies beside the repository."""
    beside = ROOT.resolve().parent / "shared" / "data" / "books"
    folder = Path(os.environ.get("LEXP_BOOKS", beside))
    if not (folder / "test").is_dir():
        pytest.skip("no books here: set LEXP_BOOKS to a folder with train/, validation/ and test/")
    return folder


@pytest.fixture
def tiny(texts: Path, tmp_path: Path):
    """Composes a ten-step training run on the made texts: tiny(override, ...)."""

    def make(*overrides: str):
        base = [*TINY, *dataset(texts), f"outputs={tmp_path}/outputs"]
        # A later override of the same key replaces the earlier one.
        given = {override.split("=")[0] for override in overrides}
        return compose("train", *(b for b in base if b.split("=")[0] not in given), *overrides)

    return make


@pytest.fixture
def evaluated(tiny, tmp_path: Path) -> Path:
    """A trained study of two models with two seeds, scored under two protocols and methods."""
    from lexp.commands.evaluate import eval_
    from lexp.commands.train import train

    for model in ("rope", "learned"):
        for seed in (0, 1):
            train(tiny(f"model={model}", f"seed={seed}"))
    eval_(compose(
        "eval", f"outputs={tmp_path}/outputs", "lengths=[8,16,32]", "attention=[full,window]",
        "protocol=[segments,prefix]", "device=cpu", "precision=float32",
    ))  # fmt: skip
    return tmp_path / "outputs" / "default"


@pytest.fixture
def study(tiny, tmp_path: Path):
    """Two finished runs, and a function that evaluates them."""
    from lexp.commands.evaluate import eval_
    from lexp.commands.train import train

    for model in ("rope", "learned"):
        train(tiny(f"model={model}"))

    def evaluate(*overrides: str) -> list[dict[str, str]]:
        given = {override.split("=")[0] for override in overrides}
        base = [
            f"outputs={tmp_path}/outputs",
            "lengths=[8,16,32]",
            "device=cpu",
            "precision=float32",
        ]
        eval_(compose("eval", *(b for b in base if b.split("=")[0] not in given), *overrides))
        with (tmp_path / "outputs" / "default" / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    evaluate.folder = tmp_path / "outputs" / "default"
    return evaluate
