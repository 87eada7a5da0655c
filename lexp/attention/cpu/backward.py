"""Causal attention on a CPU with a backward pass of its own: exact, one block of rows at a time.

Every block of rows computes its weights anew, as it sees all of its keys; with P the weights and
O the output of a block,

    dV += P^T dO,   dS = P (dO V^T - rowsum(dO O)),   dQ = dS K,   dK += dS^T Q,   db = sums of dS

When this is used, and why, is said by `choose_kernel` in lexp.attention.kernels.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lexp.attention.cpu.matmul import bfloat16_products, scores_dtype
from lexp.attention.layouts import BiasBlock, Layout, blocks

# q, k, v, biases, their layout and the scale of scores to the output.
Forward = Callable[[Tensor, Tensor, Tensor, Tensor, Layout, float], Tensor]

# Rows of a block, and how many of batch x heads go together: their scores stay in the cache.
ROWS, MAX_TOGETHER = 64, 32


def attend_in_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor,
    layout: Layout,
    scale: float,
    forward: Forward,
    max_together: int = MAX_TOGETHER,
) -> Tensor:
    """Return causal attention of q [B, H, R, D] to k, v [B, heads, K, D] with biases in a layout.

    forward: computes the output. max_together: texts x heads that the backward pass takes at once.
    First derivatives only.
    """
    return Blocked.apply(q, k, v, values, layout, scale, forward, max_together)


class Blocked(torch.autograd.Function):
    """The forward pass it is given, and the backward pass above."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        values: Tensor,
        layout: Layout,
        scale: float,
        forward: Forward,
        max_together: int,
    ) -> Tensor:
        """Return the output [B, H, R, D]."""
        # Detached: torch chooses its kernel by what requires a gradient, even where none is taken.
        out = forward(q, k, v, values.detach(), layout, scale)
        ctx.save_for_backward(q, k, v, values, out)
        ctx.layout, ctx.scale, ctx.max_together = layout, scale, max_together
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of q, k, v and of the biases."""
        q, k, v, values, out = ctx.saved_tensors
        wide = scores_dtype(q)
        n_heads, n_shared, n_rows, n_keys = q.shape[1], k.shape[1], q.shape[2], k.shape[2]
        # Of queries [texts x key heads, the query heads that share one, R, D].
        by_query = [t.unflatten(1, (n_shared, -1)).flatten(0, 1).to(wide) for t in (q, grad, out)]
        by_key = [t.flatten(0, 1).to(wide) for t in (k, v)]
        d_q, d_k, d_v = (torch.zeros_like(t) for t in (by_query[0], *by_key))
        d_values = torch.zeros_like(values) if ctx.needs_input_grad[3] else None
        left = n_keys - n_rows
        # Whole texts together: a bias by head is added to all, and its gradient summed over them.
        n_texts = math.ceil(ctx.max_together / n_heads)
        with bfloat16_products(q.dtype == torch.bfloat16):
            for first in range(0, q.shape[0], n_texts):
                part = slice(first * n_shared, (first + n_texts) * n_shared)
                tensors = [t[part] for t in (*by_query, *by_key)]
                gradients = [d[part] for d in (d_q, d_k, d_v)]
                for block in blocks(slice(first, first + n_texts), n_rows, left, ROWS, wide):
                    added = ctx.layout.added(values, block)
                    d_scores = block_backward(tensors, gradients, added, ctx.scale, block)
                    if d_values is not None:
                        by_head = d_scores.view(-1, n_heads, *d_scores.shape[-2:])
                        ctx.layout.collect(d_values, by_head, block)
        d_q *= ctx.scale
        d_k *= ctx.scale
        shaped = [d.view_as(t).to(t.dtype) for d, t in zip((d_q, d_k, d_v), (q, k, v), strict=True)]
        return (*shaped, d_values, None, None, None, None)


def block_backward(
    tensors: list[Tensor], gradients: list[Tensor], added: Tensor, scale: float, block: BiasBlock
) -> Tensor:
    """Return the gradient of a block's scores [N, S, rows, n_keys].

    N is texts x heads of keys, and S query heads share each of those, as further rows of a product.
    tensors: q, the output's gradient and the output, [N, S, R, D], k and v [N, K, D]. gradients: of
    q, k, v, to which those of the block are added; those of q and k are not yet multiplied by the
    scale.
    """
    (d_q, d_k, d_v), seen = gradients, slice(0, block.n_keys)
    q, grad, out = (t[:, :, block.rows].flatten(1, 2) for t in tensors[:3])
    k, v = (t[:, seen] for t in tensors[3:])
    by_head = (-1, added.shape[-3], block.stop - block.start, block.n_keys)
    # Scaled afterwards: scaled queries would be rounded, unlike those of the forward pass.
    weights = torch.bmm(q, k.mT).mul_(scale)
    weights.view(by_head).add_(added)
    weights = torch.softmax(weights, -1)
    dots = (grad * out).sum(-1, keepdim=True)
    d_v[:, seen].baddbmm_(weights.mT, grad)
    d_scores = torch.bmm(grad, v.mT).sub_(dots).mul_(weights)
    d_q[:, :, block.rows] = torch.bmm(d_scores, k).unflatten(1, (d_q.shape[1], -1))
    d_k[:, seen].baddbmm_(d_scores.mT, q)
    return d_scores.unflatten(1, (d_q.shape[1], -1))
