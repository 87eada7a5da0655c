"""Biases that are a function of the distance alone: never more than one row of numbers per head.

Causal attention over a tile of R queries and the K = left + R keys up to the last of them adds
b(left + r - c) to the score of query r and key c. With the queries in reverse order, s = R - 1 - r,
that is b(K - 1 - (s + c)): a Hankel matrix, so a view with strides (1, 1) of the row

    z[u] = b(K - 1 - u) for u < K,  -inf for the R - 1 keys later than their query

holds it all, and the mask with it.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from lexp.position.base import Bias, Pair


def distance_row(bias: Bias, n_heads: int, n_keys: int, rows: int, device: torch.device) -> Tensor:
    """z [H, n_keys + rows - 1] for tiles of up to `rows` queries and `n_keys` keys, float32.

    A tile with fewer keys takes its right end: `row[:, n_keys - fewer:]`.
    """
    distance = torch.arange(n_keys - 1, -1, -1, dtype=torch.float32, device=device)
    nothing = torch.zeros_like(distance)
    heads = torch.arange(n_heads, device=device)[:, None]
    pair = Pair(nothing, heads, distance, nothing, distance, nothing, distance + 1)
    return pad(bias(pair).expand(n_heads, n_keys), (0, rows - 1), value=-math.inf)


def matrix(row: Tensor, rows: int, n_keys: int, start: int = 0) -> Tensor:
    """What is added to the scores of queries, last first, and keys: [H, rows, n_keys].

    A view of the row, from its number `start` on.
    """
    return row[:, start : start + rows + n_keys - 1].unfold(1, n_keys, 1)


def attend_by_distance(q: Tensor, k: Tensor, v: Tensor, row: Tensor, scale: float) -> Tensor:
    """Causal attention of q [B, H, R, D] to k, v [B, H, K, D] with the biases of a row."""
    rows, n_keys = q.shape[2], k.shape[2]
    added = matrix(row, rows, n_keys)[None]
    if q.device.type != "cpu":  # whose kernels alone take such a view
        added = added.contiguous().to(v.dtype)
    # Autocast would round the biases, and make a matrix of the view to do so.
    with torch.autocast(q.device.type, enabled=False):
        out = scaled_dot_product_attention(q.flip(2), k, v, attn_mask=added, scale=scale)
    return out.flip(2)
