"""Causal attention on a CPU with sink logits, by the fused kernel and its log-sum-exp.

With l_i = log sum_j exp(s_ij) of the keys in sight and z the head's sink logit, the softmax over
the keys and the sink is the kernel's, times a factor of each query:

    o_i = sigmoid(l_i - z) sum_j softmax(s_i)_j v_j,    L_i = log(exp(l_i) + exp(z))

Its weights are exp(s_ij - L_i), so the kernel's own backward pass, given o and L, returns the
gradients of queries, keys and values. That of z is -sum_i exp(z - L_i) (o_i . do_i).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lexp.attention.layouts import Layout, ToeplitzBias
from lexp.attention.toeplitz import reversed_matrix

FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_with_sinks(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float, logits: Tensor
) -> Tensor:
    """Return attention [B, H, R, D] of q [B, H, R, D] to k, v [B, heads, K, D] and sinks.

    values: the mask in its layout, without learned biases; 0-dimensional: causal, R = K. logits:
    of the sinks [H]. First derivatives only.
    """
    if isinstance(layout, ToeplitzBias):
        added = reversed_matrix(values, q.shape[2], k.shape[2])[None]
        return WithSinks.apply(q.flip(2), k, v, logits, added, scale).flip(2)
    if not values.ndim:
        return WithSinks.apply(q, k, v, logits, None, scale)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    added = torch.zeros(values.shape, dtype=wide).masked_fill(~values, -math.inf)
    return WithSinks.apply(q, k, v, logits, added, scale)


class WithSinks(torch.autograd.Function):
    """The fused kernel, and the sink's share taken off its output."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, logits: Tensor, added: Tensor | None,
        scale: float,
    ) -> Tensor:  # fmt: skip
        """Return the output; added: summand of the scores, None: causal."""
        out, of_keys = FUSED(q, k, v, 0.0, added is None, attn_mask=added, scale=scale)
        total = torch.logaddexp(of_keys, logits.to(of_keys.dtype)[:, None])
        out = (out * (of_keys - total).exp()[..., None]).to(v.dtype)
        ctx.save_for_backward(q, k, v, logits, added, out, total)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of q, k, v and logits."""
        q, k, v, logits, added, out, total = ctx.saved_tensors
        gradients = FUSED_BACKWARD(
            grad, q, k, v, out, total, 0.0, added is None, attn_mask=added, scale=ctx.scale
        )
        dots = (grad.to(total.dtype) * out).sum(-1)
        of_sink = (logits.to(total.dtype)[:, None] - total).exp()
        return *gradients, -(of_sink * dots).sum((0, 2)).to(logits.dtype), None, None
