"""Attention on a CPU by plain matrix products, some heads and texts at a time.

A fused kernel avoids scores that do not fit the cache; the scores of a few rows and heads fit it.
"""

from itertools import product

import torch
from torch import Tensor

from lexp.attention.cpu.arithmetic import bfloat16_products, scores_dtype
from lexp.attention.heads import scores_of, weighted

# Scores computed together: 2 MiB of float32, which stay in the cache.
MAX_SCORES = 1 << 19


def attend_by_matmul(
    q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float, max_scores: int = MAX_SCORES
) -> Tensor:
    """Return attention [N, H, R, V] of q [N, H, R, D] to k [N, heads, K, D], v [N, heads, K, V].

    added: summand of the scores, in their precision, broadcastable to [N, H, R, K]; -inf masks.
    Scores and softmax are in float32 (float64 for float64 inputs). The weights of bfloat16 inputs
    are rounded to bfloat16, as the fused kernel does.
    """
    n_all, n_heads, n_rows, _ = q.shape
    together = max(1, max_scores // (n_rows * k.shape[2]))
    n_texts, heads = max(1, together // n_heads), min(together, n_heads)
    sharing = n_heads // k.shape[1]
    heads = max(1, heads // sharing) * sharing
    added = added.expand(n_all, n_heads, -1, -1)
    out, wide = v.new_empty(n_all, n_heads, n_rows, v.shape[-1]), scores_dtype(q)
    with torch.autocast("cpu", enabled=False), bfloat16_products(q.dtype == torch.bfloat16):
        for n, h in product(range(0, n_all, n_texts), range(0, n_heads, heads)):
            texts = slice(n, n + n_texts)
            part, shared = (
                (texts, slice(first, first + count))
                for first, count in ((h, heads), (h // sharing, heads // sharing))
            )
            scores = scores_of(q[part].to(wide), k[shared].to(wide))
            weights = scores.mul_(scale).add_(added[part]).softmax(-1)
            out[part] = weighted(weights, v[shared].to(wide))
    return out
