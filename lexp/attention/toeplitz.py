"""Biases that depend on the distance alone: one row of numbers per head in place of a matrix.

Causal attention over a tile of R queries and the K = left + R keys up to the last of them adds
b(left + r - c) to the score of query r and key c. With the queries in reverse order, s = R - 1 - r,
that is b(K - 1 - (s + c)): a Hankel matrix, so a view with strides (1, 1) of the row

    z[u] = b(K - 1 - u) for u < K,  -inf for the R - 1 keys later than their query

holds the whole matrix and the causal mask.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from lexp.position.base import Bias, Pair


def distance_row(bias: Bias, n_heads: int, n_keys: int, rows: int, device: torch.device) -> Tensor:
    """Return z [H, n_keys + rows - 1], float32, for tiles of up to `rows` queries and n_keys keys.

    A tile with fewer keys takes its right end: `row[:, n_keys - fewer:]`.
    """
    distance = torch.arange(n_keys - 1, -1, -1, dtype=torch.float32, device=device)
    zeros = torch.zeros_like(distance)
    heads = torch.arange(n_heads, device=device)[:, None]
    pair = Pair(zeros, heads, distance, zeros, distance, zeros, distance + 1)
    return pad(bias(pair).expand(n_heads, n_keys), (0, rows - 1), value=-math.inf)


def reversed_matrix(row: Tensor, rows: int, n_keys: int, start: int = 0) -> Tensor:
    """Return the biases of `rows` queries, last query first, and n_keys keys: [H, rows, n_keys].

    A view of the row from its number `start` on.
    """
    return row[:, start : start + rows + n_keys - 1].unfold(1, n_keys, 1)
