"""Causal attention with learned biases on a CPU: exact, blocks of query rows at a time.

The fused kernel of torch has no gradient for biases: it falls to whole [H, T, T] matrices. Here
every block of rows makes its weights anew, as it sees all of its keys; with P the weights and O the
output of a block,

    dV += P^T dO,   dS = P (dO V^T - rowsum(dO O)),   dQ = dS K,   dK += dS^T Q,   db = sums of dS
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from lexp.attention.by_distance import attend_by_distance, matrix

# Rows of a block, and how many of batch x heads go together: their scores stay in the cache.
ROWS, TOGETHER = 64, 32


def pays(q: Tensor, row: Tensor) -> bool:
    """Whether this is the way to go: on a CPU, for the gradient of a learned bias."""
    return q.device.type == "cpu" and torch.is_grad_enabled() and row.requires_grad


def blocked(q: Tensor, k: Tensor, v: Tensor, row: Tensor, scale: float) -> Tensor:
    """Causal attention of q [B, H, R, D] to k, v [B, H, K, D]; row: as by_distance makes it.

    First derivatives only.
    """
    return Blocked.apply(q, k, v, row, scale)


class Blocked(torch.autograd.Function):
    """The forward pass of the fused kernel, and the backward pass above."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, row: Tensor, scale: float) -> Tensor:
        """The output [B, H, R, D]."""
        # Detached: the kernel is chosen by what requires a gradient, even where none is taken.
        out = attend_by_distance(q, k, v, row.detach(), scale)
        ctx.save_for_backward(q, k, v, row, out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and of the row."""
        q, k, v, row, out = ctx.saved_tensors
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        flat = [t.flatten(0, 1).to(wide) for t in (q, k, v, grad, out)]
        d_q, d_k, d_v = (torch.zeros_like(t) for t in flat[:3])
        d_row = torch.zeros_like(row)
        with rounded_products(q.dtype == torch.bfloat16):
            n_heads = q.shape[1]
            # Whole texts together: a bias by head is added, and its gradient summed.
            together = math.ceil(TOGETHER / n_heads) * n_heads
            for first in range(0, len(d_q), together):
                part = slice(first, first + together)
                some = tuple(t[part] for t in flat)
                _backward(some, row, ctx.scale, d_q[part], d_k[part], d_v[part], d_row)
        d_q *= ctx.scale
        d_k *= ctx.scale
        shaped = [d.view_as(t).to(t.dtype) for d, t in zip((d_q, d_k, d_v), (q, k, v), strict=True)]
        return (*shaped, d_row, None)


def _backward(
    some: tuple[Tensor, ...],
    row: Tensor,
    scale: float,
    d_q: Tensor,
    d_k: Tensor,
    d_v: Tensor,
    d_row: Tensor,
) -> None:
    """Add the gradients of some texts: q, k, v, output's gradient and output [N, ., D]."""
    q, k, v, grad, out = some
    n_rows, left = q.shape[1], k.shape[1] - q.shape[1]
    dots = (grad * out).sum(-1, keepdim=True)
    for start in range(0, n_rows, ROWS):
        rows = slice(start, min(start + ROWS, n_rows))
        seen = left + rows.stop
        # Scaled afterwards: scaled queries would be rounded, unlike those of the forward pass.
        weights = torch.bmm(q[:, rows], k[:, :seen].mT).mul_(scale)
        added = matrix(row, rows.stop - start, seen, n_rows - rows.stop).flip(1)
        weights.unflatten(0, (-1, row.shape[0])).add_(added)
        weights = torch.softmax(weights, -1)
        d_v[:, :seen].baddbmm_(weights.mT, grad[:, rows])
        d_scores = torch.bmm(grad[:, rows], v[:, :seen].mT).sub_(dots[:, rows]).mul_(weights)
        d_q[:, rows] = torch.bmm(d_scores, k[:, :seen])
        d_k[:, :seen].baddbmm_(d_scores.mT, q[:, rows])
        by_head = d_scores.unflatten(0, (-1, row.shape[0])).sum(0)
        sums = antidiagonal_sums(by_head.flip(1))
        d_row[:, n_rows - rows.stop :][:, : sums.shape[1]] += sums


def antidiagonal_sums(x: Tensor) -> Tensor:
    """[H, R, K] to [H, R + K - 1]: sums of all x[h, r, c] with the same r + c."""
    n_rows, n_keys = x.shape[1:]
    # Each row one place further right than the one above, by reading padded rows a number shorter.
    skewed = pad(x, (0, n_rows)).flatten(1)[:, : n_rows * (n_rows + n_keys - 1)]
    return skewed.unflatten(1, (n_rows, n_rows + n_keys - 1)).sum(1)


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
