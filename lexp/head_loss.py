"""Losses of tokens from hidden states, without logits of the whole batch ever being there.

    nll_i = log sum_v exp(h_i . w_v) - h_i . w_(target i)
    d h_i = g_i (p_i W - w_(target i)),   d W = sum_i g_i (p_i - onehot_i)^T h_i,   p = softmax

The backward pass makes the logits of some rows anew: one matrix product more, and in return what is
as large as the vocabulary stays in the cache.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of this many numbers at a time: 4 MiB on a CPU, and on a GPU what keeps it busy.
MAX_LOGITS = {"cpu": 1 << 20, "other": 1 << 24}


def head_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood in nats, float32 [N]; hidden [N, d_model], weight [V, d_model].

    Products are taken in autocast's precision where it is on, everything else in float32 (float64
    for float64 states). First derivatives only.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(kind, enabled=False):
        return HeadLosses.apply(hidden, weight, targets)


class HeadLosses(torch.autograd.Function):
    """Rows of logits a few at a time, in both directions."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """The losses [N]."""
        sums, losses = [], []
        for rows in parts(hidden, weight):
            logits = wide(hidden[rows] @ weight.T)
            total = logits.logsumexp(-1)
            sums.append(total)
            losses.append(total - logits.gather(-1, targets[rows, None])[:, 0])
        ctx.save_for_backward(hidden, weight, targets, torch.cat(sums))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of hidden states and weights."""
        hidden, weight, targets, sums = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), wide(torch.zeros_like(weight))
        for rows in parts(hidden, weight):
            d_logits = wide(hidden[rows] @ weight.T).sub_(sums[rows, None]).exp_()
            d_logits.scatter_add_(-1, targets[rows, None], torch.full_like(d_logits[:, :1], -1.0))
            d_logits = d_logits.mul_(grad[rows, None]).to(hidden.dtype)
            d_hidden[rows] = d_logits @ weight
            d_weight += d_logits.T @ hidden[rows]
        return d_hidden, d_weight.to(weight.dtype), None


def parts(hidden: Tensor, weight: Tensor) -> list[slice]:
    """Rows that go together."""
    most = MAX_LOGITS["cpu" if hidden.device.type == "cpu" else "other"]
    size = max(1, most // weight.shape[0])
    return [slice(first, first + size) for first in range(0, hidden.shape[0], size)]


def wide(x: Tensor) -> Tensor:
    """As float32, or float64 if it is that."""
    return x if x.dtype == torch.float64 else x.float()
