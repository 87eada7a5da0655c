"""A task's problems as tokens, for whatever reads the tokens of texts: instruments, extensions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lexp.data.corpus import SPLITS
from lexp.data.store import SplitFacts, Store
from lexp.data.tasks.base import Example
from lexp.data.tasks.dataset import TaskDataset, draw_example
from lexp.data.tasks.rows import make_rows
from lexp.data.tokenizer import Bytes
from lexp.data.tokens import Tokens

# Rows that stand for the texts of training.
N_ROWS = 64


def task_store(dataset: TaskDataset) -> Store:
    """Return a store whose train split has rows of the longest trained length, and no other."""
    rng = np.random.default_rng(0)
    examples = [draw_example(dataset.task, dataset.max_length, "train", rng) for _ in range(N_ROWS)]
    train = row_tokens(examples, dataset.row_len(dataset.max_length))
    nothing = SplitFacts(0, 0, 0, 0, "", np.zeros(0, dtype=np.uint64))
    return Store(
        splits={split: train if split == "train" else row_tokens([], 1) for split in SPLITS},
        facts=dict.fromkeys(SPLITS, nothing),
        fingerprint=dataset.fingerprint(),
        tokenizer=Bytes(),
        folder=Path(),
    )


def row_tokens(examples: Sequence[Example], row_len: int) -> Tokens:
    """Return each example as a document of row_len tokens, padded with end tokens."""
    ids = make_rows(examples, row_len).tokens.numpy() if examples else np.zeros((0, row_len))
    names = tuple(f"{n}: {example.prompt}" for n, example in enumerate(examples))
    starts: np.ndarray = np.arange(len(examples) + 1) * row_len
    return Tokens(names, ids.astype(np.uint8).reshape(-1), starts, None)
