"""Causal attention on a CPU with a backward pass of its own: exact, one block of rows at a time.

Every block of rows computes its weights anew, as it sees all of its keys; with P the weights and
O the output of a block,

    dV += P^T dO,   dS = P (dO V^T - rowsum(dO O)),   dQ = dS K,   dK += dS^T Q,   db = sums of dS

When this is used, and why, is said by `choose_kernel` in lexp.attention.kernels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lexp.attention.cpu.arithmetic import Arithmetic, arithmetic_of, scores_dtype
from lexp.attention.layouts import BiasBlock, Layout, blocks

# q, k, v, biases, their layout and the scale of scores to the output.
Forward = Callable[[Tensor, Tensor, Tensor, Tensor, Layout, float], Tensor]


def attend_in_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor,
    layout: Layout,
    scale: float,
    forward: Forward,
    arithmetic: Arithmetic | None = None,
) -> Tensor:
    """Return causal attention of q [B, H, R, D] to k, v [B, heads, K, D] with biases in a layout.

    forward: computes the output. arithmetic: of the backward pass; None: that of the precision of
    q. First derivatives only.
    """
    arithmetic = arithmetic or arithmetic_of(q)
    return Blocked.apply(q, k, v, values, layout, scale, forward, arithmetic)


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
        arithmetic: Arithmetic,
    ) -> Tensor:
        """Return the output [B, H, R, D]."""
        # Detached: torch chooses its kernel by what requires a gradient, even where none is taken.
        out = forward(q, k, v, values.detach(), layout, scale)
        ctx.save_for_backward(q, k, v, values, out)
        ctx.layout, ctx.scale, ctx.arithmetic = layout, scale, arithmetic
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of q, k, v and of the biases."""
        q, k, v, values, out = ctx.saved_tensors
        n_heads, n_shared, n_rows, n_keys = q.shape[1], k.shape[1], q.shape[2], k.shape[2]
        d_q, d_k, d_v = (by_token(t) for t in (q, k, v))
        d_values = torch.zeros_like(values) if ctx.needs_input_grad[3] else None
        arithmetic, wide = ctx.arithmetic, scores_dtype(q)
        # Whole texts together: a bias by head is added to all, and its gradient summed over them.
        n_texts = arithmetic.n_texts(n_heads, n_keys)
        with torch.autocast("cpu", enabled=False), arithmetic.precision():
            for first in range(0, q.shape[0], n_texts):
                texts = slice(first, first + n_texts)
                # Of queries [texts x key heads, the query heads that share one, R, D].
                tensors = [
                    t[texts].unflatten(1, (n_shared, -1)).flatten(0, 1).to(wide)
                    for t in (q, grad, out)
                ] + [t[texts].flatten(0, 1).to(wide) for t in (k, v)]
                gradients = [torch.zeros_like(tensors[n]) for n in (0, 3, 4)]
                for block in blocks(texts, n_rows, n_keys - n_rows, arithmetic.n_rows, wide):
                    added = ctx.layout.added(values, block)
                    d_scores = block_backward(
                        tensors, gradients, added, ctx.scale, block, arithmetic
                    )
                    if d_values is not None:
                        by_head = d_scores.view(-1, n_heads, *d_scores.shape[-2:])
                        ctx.layout.collect(d_values, by_head, block)
                gradients[0] *= ctx.scale
                gradients[1] *= ctx.scale
                for whole, part in zip((d_q, d_k, d_v), gradients, strict=True):
                    whole[texts] = part.view_as(whole[texts])
        return d_q, d_k, d_v, d_values, None, None, None, None


def block_backward(
    tensors: list[Tensor],
    gradients: list[Tensor],
    added: Tensor,
    scale: float,
    block: BiasBlock,
    arithmetic: Arithmetic,
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
    weights = torch.softmax(arithmetic.scores(q, k, added, scale), -1)
    dots = (grad * out).sum(-1, keepdim=True)
    d_v[:, seen].baddbmm_(weights.mT, grad)
    d_scores = arithmetic.centred(grad, v, dots).mul_(weights)
    d_q[:, :, block.rows] = torch.bmm(d_scores, k).unflatten(1, (d_q.shape[1], -1))
    d_k[:, seen].baddbmm_(d_scores.mT, q)
    return d_scores.unflatten(1, (d_q.shape[1], -1))


def by_token(x: Tensor) -> Tensor:
    """Return an empty tensor of the shape of x [B, H, T, D], a token's heads side by side."""
    return torch.empty_like(x.transpose(1, 2), memory_format=torch.contiguous_format).transpose(
        1, 2
    )
