"""A stored fine-tuning: how good the answers to one task are after each epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lexp.result_store import Result, ResultKind
from lexp.statistics.scores import MEASURES

COLUMNS = (
    "run", "model", "size", "objective", "train_seed", "task", "seed", "epoch", "loss",
    *MEASURES, "chance", "n_train", "n_held_out", "n_cut", "lr", "epochs", "batch_size", "max_len",
)  # fmt: skip


@dataclass(frozen=True)
class FinetuneResult(Result):
    """A run fine-tuned on one task with one seed.

    train_seed: of the run. chance: accuracy of the majority class. n_cut: texts that were longer
    than max_len tokens. history: loss and measures by name, an entry for each epoch. versions: of
    the software.
    """

    run: str
    model: str
    size: str
    objective: str
    train_seed: int
    task: str
    seed: int
    chance: float
    n_train: int
    n_held_out: int
    n_cut: int
    lr: float
    epochs: int
    batch_size: int
    max_len: int
    history: tuple[dict[str, float], ...]
    versions: dict[str, str]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of finetune.csv, one for each epoch."""
        for epoch, measures in enumerate(self.history, 1):
            yield {**vars(self), **measures, "epoch": epoch}


FINETUNINGS = ResultKind(
    name="fine-tuning",
    folder="finetune",
    numerics=1,
    result=FinetuneResult,
)
