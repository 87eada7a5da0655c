"""Scores scaled by how many keys a query sees, so that attention does not blur as they grow.

LogN: log n / log train_len, n the keys in sight (Su 2021, "entropy-invariant" softmax).
SSMax: s log n with a learned s for each head and layer (Nakanishi 2025, arXiv 2501.19399, eq. 2).

LogTemperature: 1 + strength log(1 + floor(n / step)), n the keys in sight (Llama 4, Meta 2025;
transformers 5, modeling_llama4.py). There n is the query's position from 1, which full attention
makes the same.

None says where anything is; alone they are NoPE with a scale, in a `Sum` with another scheme
they scale that one.
"""

import math

import torch
from torch import Tensor, nn

from lexp.position.base import Position


class LogN(Position):
    """Scores times log n / log train_len: as they are at the trained length, sharper beyond."""

    def __init__(self, train_len: int):
        super().__init__()
        if train_len < 2:
            raise ValueError(f"log_n needs train_len >= 2, got {train_len}")
        self.log_train_len = math.log(train_len)

    def scale(self, n_keys: Tensor) -> Tensor:
        """Return log n / log train_len."""
        return n_keys.log() / self.log_train_len


class LogTemperature(Position):
    """Scores of queries that see many keys, multiplied by 1 + strength log(1 + floor(n / step)).

    The step is a share of the trained length (Llama 4: 8192 of 262144; strength 0.1).
    """

    def __init__(self, train_len: int, share: float, strength: float = 0.1):
        super().__init__()
        if not 0 < share <= 1 or not 0 <= strength < math.inf:
            raise ValueError(
                f"share must be above 0 and at most 1, strength a number from 0, got {share} and "
                f"{strength}"
            )
        self.step, self.strength = max(1, int(train_len * share)), strength

    def scale(self, n_keys: Tensor) -> Tensor:
        """Return the multiplier of each query."""
        return 1 + self.strength * (n_keys / self.step).floor().log1p()


class SSMax(Position):
    """Scalable softmax: scores times s log n.

    s starts where the mean scale over the trained length is 1 (0.168 at 1024, as published).
    """

    per_layer = True

    def __init__(self, n_heads: int, train_len: int):
        super().__init__()
        if train_len < 2:
            raise ValueError(f"ssmax needs train_len >= 2, got {train_len}")
        mean = torch.arange(1, train_len + 1).double().log().mean().item()
        self.s = nn.Parameter(torch.full((n_heads, 1), 1 / mean))

    def scale(self, n_keys: Tensor) -> Tensor:
        """Return s_h log n, [H, T]."""
        return self.s * n_keys.log()
