"""Shared test material: small texts made here, real texts where this machine has them."""

import os
import random
from pathlib import Path

import pytest
import torch

# One thread: tests compare bits, and share a small machine.
torch.set_num_threads(1)
os.environ.setdefault("WANDB_MODE", "offline")

WORDS = "the of and to in is that it was for on are with as his they at be this from or one".split()


def make_text(seed: int, n_words: int) -> str:
    """Text with some structure, the same on every machine."""
    rng = random.Random(seed)
    words = [rng.choice(WORDS) for _ in range(n_words)]
    return " ".join(words) + f"\nünïcode {seed} ✓ 中文\n"


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
    """Real books, where LEXP_BOOKS names their folder or the developers' data lies beside the repo."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "books"
    folder = Path(os.environ.get("LEXP_BOOKS", beside))
    if not (folder / "test").is_dir():
        pytest.skip("no books here: set LEXP_BOOKS to a folder with train/, validation/ and test/")
    return folder
