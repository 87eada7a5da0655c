"""Causal attention on a CPU with a backward pass of its own: exact, blocks of query rows at a time.

The fused kernel of torch has no gradient for biases (it falls to whole [B, H, T, T] matrices), and
its own backward pass is slow in bfloat16 at short lengths. Here every block of rows makes its
weights anew, as it sees all of its keys; with P the weights and O the output of a block,

    dV += P^T dO,   dS = P (dO V^T - rowsum(dO O)),   dQ = dS K,   dK += dS^T Q,   db = sums of dS
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from lexp.attention.cpu.layouts import BiasBlock, Layout, NoBias, ToeplitzBias
from lexp.attention.cpu.matmul import by_products, products_pay, rounded_products, scores_dtype
from lexp.attention.cpu.toeplitz import attend_by_distance

# Rows of a block, and how many of batch x heads go together: their scores stay in the cache.
ROWS, TOGETHER = 64, 32
# Rows of a block in the forward pass, where the kernel keeps the scores in the cache by itself.
FORWARD_ROWS = 32
# The same by products: up to so many keys what is left out of the mask counts, then the calls.
FEW_KEYS, FEW_PRODUCT_ROWS, PRODUCT_ROWS = 512, 64, 128
# Without a learned bias this beats the fused kernel up to so many keys, in bfloat16: on a processor
# without AMX it takes 0.2 to 0.6 of the time at 128 tokens, 0.5 to 0.7 at 512, 0.85 to 1.05 at 1024
# (heads of 8 to 128; 1024: of 32 to 128). In float32 it takes the same.
MOST_KEYS = 512


def pays(q: Tensor, k: Tensor, v: Tensor, values: Tensor) -> bool:
    """Whether this is the way to go: on a CPU, for gradients, the only lean one or the faster."""
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    if values.requires_grad:
        return True
    short = k.shape[2] <= MOST_KEYS and q.dtype == torch.bfloat16
    return short and any(t.requires_grad for t in (q, k, v))


def blocked(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
) -> Tensor:
    """Causal attention of q [B, H, R, D] to k, v [B, H, K, D] with biases in a layout.

    First derivatives only.
    """
    return Blocked.apply(q, k, v, values, layout, scale)


class Blocked(torch.autograd.Function):
    """The forward pass of the fused kernel, and the backward pass above."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        """The output [B, H, R, D]."""
        # Detached: the kernel is chosen by what requires a gradient, even where none is taken.
        out = forward(q, k, v, values.detach(), layout, scale)
        ctx.save_for_backward(q, k, v, values, out)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and of the biases."""
        q, k, v, values, out = ctx.saved_tensors
        wide = scores_dtype(q)
        flat = [t.flatten(0, 1).to(wide) for t in (q, k, v, grad, out)]
        d_q, d_k, d_v = (torch.zeros_like(t) for t in flat[:3])
        d_values = torch.zeros_like(values) if ctx.needs_input_grad[3] else None
        n_heads, n_rows, left = q.shape[1], q.shape[2], k.shape[2] - q.shape[2]
        # Whole texts together: a bias by head is added, and its gradient summed.
        n_texts = math.ceil(TOGETHER / n_heads)
        with rounded_products(q.dtype == torch.bfloat16):
            for first in range(0, q.shape[0], n_texts):
                part = slice(first * n_heads, (first + n_texts) * n_heads)
                given, wanted = [t[part] for t in flat], [d[part] for d in (d_q, d_k, d_v)]
                for block in blocks(slice(first, first + n_texts), n_rows, left, ROWS, wide):
                    added = ctx.layout.added(values, block)
                    d_scores = block_backward(given, wanted, added, ctx.scale, block)
                    if d_values is not None:
                        ctx.layout.collect(d_values, d_scores.unflatten(0, (-1, n_heads)), block)
        d_q *= ctx.scale
        d_k *= ctx.scale
        shaped = [d.view_as(t).to(t.dtype) for d, t in zip((d_q, d_k, d_v), (q, k, v), strict=True)]
        return (*shaped, d_values, None, None)


def forward(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
) -> Tensor:
    """As `blocked`, without gradients of the biases."""
    if products_pay(q, k):
        rows = FEW_PRODUCT_ROWS if k.shape[2] <= FEW_KEYS else PRODUCT_ROWS
        return in_blocks(q, k, v, values, layout, scale, rows, by_products)
    if isinstance(layout, ToeplitzBias):
        return attend_by_distance(q, k, v, values, scale)
    if isinstance(layout, NoBias):
        with torch.autocast(q.device.type, enabled=False):
            return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return in_blocks(q, k, v, values, layout, scale, FORWARD_ROWS, by_kernel)


def in_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor,
    layout: Layout,
    scale: float,
    size: int,
    attend: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor],
) -> Tensor:
    """Blocks of up to `size` rows, each with the keys up to its last query."""
    n_rows = q.shape[2]
    outputs = []
    for block in blocks(slice(None), n_rows, k.shape[2] - n_rows, size, scores_dtype(q)):
        keys, own = k[:, :, : block.n_keys], v[:, :, : block.n_keys]
        added = layout.added(values, block)
        outputs.append(attend(q[:, :, block.rows], keys, own, added, scale))
    return torch.cat(outputs, dim=2)


def by_kernel(q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float) -> Tensor:
    """As `by_products`, by the fused kernel."""
    added = added.expand(*q.shape[:2], -1, -1)
    with torch.autocast(q.device.type, enabled=False):
        return scaled_dot_product_attention(q, k, v, attn_mask=added, scale=scale)


def blocks(
    texts: slice, n_rows: int, left: int, size: int, dtype: torch.dtype
) -> Iterator[BiasBlock]:
    """A tile's blocks of up to `size` rows, in order."""
    for start in range(0, n_rows, size):
        yield BiasBlock(texts, start, min(start + size, n_rows), n_rows, left, dtype)


def block_backward(
    given: list[Tensor], wanted: list[Tensor], added: Tensor, scale: float, block: BiasBlock
) -> Tensor:
    """Gradient of a block's scores [N, rows, n_keys]; adds those of q, k, v, unscaled, to `wanted`.

    given: q, k, v, the output's gradient and the output, [N, ., D]; N is texts x heads.
    """
    (q, k, v, grad, out), (d_q, d_k, d_v) = given, wanted
    rows, seen = block.rows, slice(0, block.n_keys)
    # Scaled afterwards: scaled queries would be rounded, unlike those of the forward pass.
    weights = torch.bmm(q[:, rows], k[:, seen].mT).mul_(scale)
    weights.unflatten(0, (-1, added.shape[-3])).add_(added)
    weights = torch.softmax(weights, -1)
    dots = (grad[:, rows] * out[:, rows]).sum(-1, keepdim=True)
    d_v[:, seen].baddbmm_(weights.mT, grad[:, rows])
    d_scores = torch.bmm(grad[:, rows], v[:, seen].mT).sub_(dots).mul_(weights)
    d_q[:, rows] = torch.bmm(d_scores, k[:, seen])
    d_k[:, seen].baddbmm_(d_scores.mT, q[:, rows])
    return d_scores
