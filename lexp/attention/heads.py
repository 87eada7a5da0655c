"""Keys and values that several query heads share: grouped-query attention.

H query heads and K heads of keys and values, K a divisor of H: H / K query heads in a row share one
(Ainslie et al. 2023, arXiv 2305.13245). Where K = H, every function here is the plain operation.
Products treat the queries that share a key as further rows, so that no key is repeated.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def for_each_query(x: Tensor, n_heads: int) -> Tensor:
    """Return keys or values [B, K, T, D] once for each query head, [B, n_heads, T, D].

    A view where K = n_heads.
    """
    n_sharing = n_heads // x.shape[1]
    return x.unsqueeze(2).expand(-1, -1, n_sharing, -1, -1).flatten(1, 2)


def scores_of(q: Tensor, k: Tensor) -> Tensor:
    """Return the products [B, H, Q, K] of queries [B, H, Q, D] and keys [B, heads, K, D]."""
    return by_shared(q, k.transpose(-1, -2))


def weighted(weights: Tensor, v: Tensor) -> Tensor:
    """Return sums [B, H, Q, D] of values [B, heads, K, D] by weights [B, H, Q, K]."""
    return by_shared(weights, v)


def by_shared(rows: Tensor, shared: Tensor) -> Tensor:
    """Return rows [B, H, Q, N] @ shared [B, heads, N, M], each head with the one that it shares."""
    n_heads, n_shared = rows.shape[1], shared.shape[1]
    if n_heads == n_shared:
        return rows @ shared
    folded = rows.unflatten(1, (n_shared, -1)).flatten(2, 3)
    return (folded @ shared).unflatten(2, (n_heads // n_shared, -1)).flatten(1, 2)


def fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    added: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Return attention [B, H, Q, D] by torch's fused kernel, outside of autocast.

    added: its mask. Autocast would round biases to bfloat16.
    """
    shares = k.shape[1] != q.shape[1]
    if shares and not takes_shared(q, added):
        k, v, shares = for_each_query(k, q.shape[1]), for_each_query(v, q.shape[1]), False
    with torch.autocast(q.device.type, enabled=False):
        return scaled_dot_product_attention(
            q, k, v, attn_mask=added, is_causal=is_causal, scale=scale, enable_gqa=shares
        )


def takes_shared(q: Tensor, added: Tensor | None) -> bool:
    """Return True if the fused kernel reads shared keys as they are.

    Elsewhere torch would fall back to whole matrices of scores: on CUDA devices the one kernel that
    shares keys takes no mask and no float32.
    """
    if q.device.type == "cpu":
        return True
    return added is None and q.dtype in (torch.float16, torch.bfloat16)
