"""Attention on a CPU by plain products in bfloat16, where they are faster than the fused kernel.

The kernel's merit is that scores need not fit the cache; those of a few rows and heads do.
"""

import contextlib
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

# Scores taken together: 2 MiB of float32, which stay in the cache.
MAX_SCORES = 1 << 19
# Of the kernel's time this takes 0.45 to 0.75 up to 512 keys, 0.4 to 1 up to 32 keys a channel (the
# most for one text on two threads), and about the same or more beyond; measured without AMX.
MOST_KEYS, MOST_KEYS_PER_CHANNEL = 4096, 32


def products_pay(q: Tensor, k: Tensor) -> bool:
    """Whether this is the faster way to the output of q [.., D] and k [.., K, D], no gradients."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return False
    return k.shape[-2] <= min(MOST_KEYS, MOST_KEYS_PER_CHANNEL * q.shape[-1])


def by_products(q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float) -> Tensor:
    """Attention of q [N, H, R, D] to k, v [N, H, K, D], without a gradient.

    added: to the scores and in their precision, broadcastable to [N, H, R, K]; -inf: masked. Scores
    and softmax are in float32 (float64 stays); bfloat16's weights are rounded, as by the kernel.
    """
    n_all, n_heads, n_rows, _ = q.shape
    together = max(1, MAX_SCORES // (n_rows * k.shape[2]))
    many, heads = max(1, together // n_heads), min(together, n_heads)
    added = added.expand(n_all, n_heads, -1, -1)
    out, wide = torch.empty_like(q), scores_dtype(q)
    with torch.autocast("cpu", enabled=False), rounded_products(q.dtype == torch.bfloat16):
        for n, h in product(range(0, n_all, many), range(0, n_heads, heads)):
            part = slice(n, n + many), slice(h, h + heads)
            scores = q[part].to(wide) @ k[part].to(wide).mT
            weights = scores.mul_(scale).add_(added[part]).softmax(-1)
            out[part] = weights @ v[part].to(wide)
    return out


def scores_dtype(q: Tensor) -> torch.dtype:
    """What scores are computed in."""
    return torch.float64 if q.dtype == torch.float64 else torch.float32


@contextlib.contextmanager
def rounded_products(wanted: bool) -> Iterator[None]:
    """Within: float32 products of what bfloat16 holds are taken by its units, sums in float32."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if wanted:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
