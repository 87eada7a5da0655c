"""The total loss of tokens from hidden states, without ever holding the logits of all rows.

    L = sum_i log sum_v exp(h_i . w_v) - h_i . w_(target i),   rows whose target is IGNORED left out
    d L / d h_i = p_i W - w_(target i),   d L / d W = sum_i (p_i - onehot_i)^T h_i,   p = softmax

The loss and its gradients are computed together, a few rows at a time: logits are computed once and
stay in the cache. The backward pass scales the gradients.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of this many numbers at a time: 4 MiB on a CPU, and on a GPU what keeps it busy.
MAX_LOGITS = {"cpu": 1 << 20, "other": 1 << 24}
# The target of a row that is no part of the loss. The number of rows stays the same in every batch:
# libraries prepare, and keep, a kernel for each shape that they meet.
IGNORED = -1


def head_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, max_logits: int | None = None
) -> Tensor:
    """Return the total negative log-likelihood in nats.

    hidden [N, d_model], weight [V, d_model], targets [N]; a row of target IGNORED counts nothing.
    Products are taken in autocast's precision where it is on, everything else in float32 (float64
    for float64 states). max_logits: how many are computed at once; None: what suits the
    device. First derivatives only.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        return ChunkedCrossEntropy.apply(hidden.to(dtype), weight, targets, max_logits)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Total cross-entropy, computed with its gradients a few rows of logits at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, max_logits: int | None
    ) -> Tensor:
        """Return the total, in the type of `wide` states."""
        rounded = weight.to(hidden.dtype)
        d_hidden, d_weight = torch.empty_like(hidden), wide(torch.zeros_like(weight))
        total = wide(hidden.new_zeros(()))
        for rows in parts(hidden, weight, max_logits):
            logits, is_scored = wide(hidden[rows] @ rounded.T), targets[rows, None] != IGNORED
            chosen = targets[rows, None].clamp_min(0)
            largest, target_logits = logits.amax(-1, keepdim=True), logits.gather(-1, chosen)
            powers = logits.sub_(largest).exp_()  # once, for the loss and its gradient
            sums = powers.sum(-1, keepdim=True)
            losses = sums.log() + largest - target_logits
            total = total + losses.where(is_scored, losses.new_zeros(())).sum()
            d_logits = powers.div_(sums.masked_fill(~is_scored, math.inf))
            d_logits.scatter_add_(-1, chosen, -is_scored.to(sums.dtype))
            d_logits = d_logits.to(hidden.dtype)
            torch.mm(d_logits, rounded, out=d_hidden[rows])
            add_product(d_weight, d_logits.T, hidden[rows])
        ctx.save_for_backward(d_hidden, d_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden states and weights."""
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grad, d_weight * grad, None, None


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to total; in one pass, unrounded, if they have its dtype."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def parts(hidden: Tensor, weight: Tensor, max_logits: int | None) -> list[slice]:
    """Return the slices of rows that are computed together."""
    most = max_logits or MAX_LOGITS["cpu" if hidden.device.type == "cpu" else "other"]
    size = max(1, most // weight.shape[0])
    return [slice(first, first + size) for first in range(0, hidden.shape[0], size)]


def wide(x: Tensor) -> Tensor:
    """Return a tensor as float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
