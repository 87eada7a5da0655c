"""Rotary positions of a transformers model: on some of its channels, at given frequencies.

first 2n channels: RoPE (Su et al. 2021, arXiv 2104.09864) at theta_c, c = 0 .. n-1, times
temperature; the channels after them are left alone (GPT-NeoX, Black et al. 2022, 2204.06745)
"""

import copy
import math

import torch
from torch import Tensor

from lexp.position import RoPE
from lexp.position.base import Factors


class PartialRoPE(RoPE):
    """RoPE on the first 2 * len(theta) of head_dim channels, at given frequencies.

    theta: radians per token of each channel pair. temperature: what rotated queries and keys are
    multiplied by (YaRN). ValueError if the channels do not come in pairs.
    """

    def __init__(self, head_dim: int, theta: list[float], temperature: float = 1.0):
        super().__init__(head_dim)
        if not 0 < len(theta) <= head_dim // 2:
            raise ValueError(f"{len(theta)} channel pairs rotate, of head_dim {head_dim}")
        self.frequencies, self.temperature = list(theta), temperature
        self.n_alone = head_dim // 2 - len(theta)

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        """Return temperature exp(i theta n), and 1 for channels that do not rotate."""
        q, k = super().rotary_factors(q_pos, k_pos, seq_len)
        return self._beside(q), self._beside(k)

    def _beside(self, turned: Tensor) -> Tensor:
        alone = torch.ones(len(turned), self.n_alone, dtype=turned.dtype, device=turned.device)
        return torch.cat([turned * self.temperature, alone], dim=-1)


class TwoRangeRoPE(PartialRoPE):
    """PartialRoPE with other frequencies for texts of more than `most` tokens.

    LongRoPE (Ding et al. 2024, arXiv 2402.13753) as transformers runs it: `short` up to the
    original context, `long` beyond, by the length of the whole text. Extensions change `short`, and
    `long` by the same ratios.
    """

    by_length = True

    def __init__(
        self, head_dim: int, short: list[float], long: list[float], most: int, temperature: float
    ):
        super().__init__(head_dim, short, temperature)
        self.ratios = [b / a for a, b in zip(short, long, strict=True)]
        self.most: float = most

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        """Return the factors of the range that seq_len is in."""
        if seq_len <= self.most:
            return super().rotary_factors(q_pos, k_pos, seq_len)
        beyond = copy.copy(self)
        beyond.frequencies = [t * r for t, r in zip(self.frequencies, self.ratios, strict=True)]
        beyond.most = math.inf
        return beyond.rotary_factors(q_pos, k_pos, seq_len)


def pairs_adjacent(head_dim: int, n_pairs: int) -> list[int]:
    """Return an order of channels in which c and c + n_pairs adjoin: transformers rotates these.

    Queries and keys in the same order have the same scores.
    """
    turned = [c for pair in zip(range(n_pairs), range(n_pairs, 2 * n_pairs), strict=True)
              for c in pair]  # fmt: skip
    return [*turned, *range(2 * n_pairs, head_dim)]
