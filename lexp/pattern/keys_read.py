"""What a pattern costs: the keys that a query reads, on average over a text."""

from dataclasses import dataclass

import torch

from lexp.pattern.base import Pattern


@dataclass(frozen=True)
class KeysRead:
    """Means over the queries of a text.

    attended: keys that a query attends to, where their number depends on content the largest one.
    to_choose: keys, or means of keys, that it reads to choose them.
    """

    attended: float
    to_choose: float


def keys_read(pattern: Pattern, train_len: int, seq_len: int) -> KeysRead:
    """Return what queries of a text of seq_len tokens read, in a model trained at train_len."""
    fitted, index = pattern.fit(train_len, seq_len), torch.arange(seq_len)
    means = (n(index).double().mean() for n in (fitted.n_keys, fitted.n_to_choose))
    return KeysRead(*map(float, means))
