"""Which keys a query sees, and softmax over them."""

import torch
from torch import Tensor


def attention(scores: Tensor, v: Tensor, allowed: list[list[bool]]) -> Tensor:
    """Softmax over the allowed keys of each query in turn; [T, T], [T, D] to [T, D]."""
    out = []
    for i in range(len(scores)):
        keys = [j for j in range(len(scores)) if allowed[i][j]]
        weights = scores[i, keys].exp()
        out.append((weights[:, None] * v[keys]).sum(0) / weights.sum())
    return torch.stack(out)


def blockwise_allowed(n: int, block: int) -> list[list[bool]]:
    """Sun et al. 2022, section 3.2, as the authors' code cuts it: a block and the one before."""
    allowed = [[False] * n for _ in range(n)]
    for start in range(0, n, block):
        for i in range(start, min(start + block, n)):
            for j in range(max(0, start - block), i + 1):
                allowed[i][j] = True
    return allowed


def window_allowed(n: int, window: int) -> list[list[bool]]:
    """The last `window` keys, the query's own included."""
    return [[i - window < j <= i for j in range(n)] for i in range(n)]
