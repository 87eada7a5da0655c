"""The texts of a run's training, for extensions that measure or fit something."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lexp.commands.texts import Texts
from lexp.config.settings import Node
from lexp.data import Store
from lexp.data.corpus import Split
from lexp.evaluate import FitText
from lexp.runs.run import Run
from lexp.system.errors import DataError, NotDefined


@dataclass(frozen=True)
class OwnTexts:
    """The texts that a run was trained on.

    dataset: of its config. scored: the texts that it is scored on, which are others where
    are_others is True. texts: opens others. of_task: whether it was trained on a task.
    """

    run: Run
    dataset: Node
    scored: Store
    texts: Texts
    of_task: bool
    are_others: bool

    def sample(self, n: int, length: int) -> Tensor:
        """Return windows of the training split, its long documents in turns, [n, length].

        NotDefined if no document is that long, or nobody knows the texts; DataError if they have
        changed since.
        """
        if not self.run.fingerprint:
            raise NotDefined("what a model from elsewhere was trained on is not known")
        train = self._store().splits["train"]
        documents = [d for d, size in enumerate(train.lengths) if size >= length]
        if not documents:
            raise NotDefined(f"no training document has {length} tokens")
        windows = []
        for number in range(n):
            d, turn = documents[number % len(documents)], number // len(documents)
            first = min(turn * length, int(train.lengths[d]) - length)
            windows.append(torch.from_numpy(train.window(d, first, length).astype("int64")))
        return torch.stack(windows)

    def fit_text(self, split: Split) -> FitText:
        """Return a split; of the texts that are scored, if nobody knows those of training.

        NotDefined for a run of a task; DataError if the texts have changed since.
        """
        if self.of_task:
            raise NotDefined("extensions are fitted on texts, this run was trained on a task")
        store = self._store()
        return FitText(store.splits[split], store.fingerprint)

    def _store(self) -> Store:
        store, trained_on = self.scored, self.run.fingerprint
        if not trained_on:
            return store
        if self.are_others and not self.of_task:
            store = self.texts.store(self.dataset, store.tokenizer)
        if store.fingerprint != trained_on:
            raise DataError(
                f"{self.run.name}: dataset {self.dataset.name} is not what it was trained on any "
                f"more (fingerprint {store.fingerprint[:8]}, then {trained_on[:8]})"
            )
        return store
