"""The specification: attention as one dense formula, in the precision of its inputs.

Every faster path is tested against this one, values and gradients, in float64. O(T^2) memory.
"""

import math

import torch
from torch import Tensor

from lexp.attention.call import AttentionFunction, AttentionInput
from lexp.attention.decays import pairwise
from lexp.attention.heads import for_each_query
from lexp.attention.prepare import prepare, rotate
from lexp.pattern import Pattern, Selecting
from lexp.position import Position
from lexp.position.base import Pair


class Reference(AttentionFunction):
    """softmax over allowed j of (rotated q_i . rotated k_j / sqrt(d) + bias(i, j)), times v.

    Each pair has the positions of the pattern's branch that it belongs to, or those that a pattern
    that selects keys counts among them. The product is multiplied by the pattern's score_scale.
    """

    def __init__(self, pattern: Pattern, seq_len: int, position: Position, device: torch.device):
        self.pattern = pattern
        self.index = torch.arange(seq_len, device=device)

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        q, k, v, position, x, sampled = inputs
        k, v = for_each_query(k, q.shape[1]), for_each_query(v, q.shape[1])
        index, n_keys = self.index, self.pattern.n_keys(self.index)
        root = math.sqrt(q.shape[-1]) / self.pattern.score_scale
        q_raw, k_raw = q, k
        q, k = prepare(q, k, position, n_keys.to(q.dtype), x)
        log_decays = position.log_decays(x)
        batch = torch.arange(q.shape[0], device=q.device)[:, None, None, None]
        heads = torch.arange(q.shape[1], device=q.device)[:, None, None]
        scores = q.new_zeros(*q.shape[:-1], len(index))
        q_grid = k_grid = torch.zeros(len(index), len(index), dtype=torch.float64, device=q.device)
        for branch in self.pattern.branches:
            of_branch = branch.allowed(index[:, None], index)
            q_pos, k_pos = branch.q_map(index).double(), branch.k_map(index).double()
            if sampled is not None:
                q_pos = k_pos = sampled
            q_grid = torch.where(of_branch, q_pos[:, None], q_grid)
            k_grid = torch.where(of_branch, k_pos, k_grid)
            factors_of = position.rotary_factors_ahead if branch.ahead else position.rotary_factors
            factors = factors_of(q_pos, k_pos, len(index))
            q_i, k_j = (q, k) if factors is None else (rotate(q, factors[0]), rotate(k, factors[1]))
            if log_decays is not None:
                products = pairwise(q_i, k_j, log_decays, log_decays, 0, 0)
            else:
                products = q_i @ k_j.transpose(-1, -2)
            scores = torch.where(of_branch, products / root, scores)
        allowed = self.pattern.allowed(index[:, None], index)
        n_keys = n_keys[:, None]
        if isinstance(self.pattern, Selecting):
            moves = self.pattern.moves
            allowed = self.pattern.seen(q_raw @ k_raw.transpose(-1, -2) if moves else scores)
            if moves:
                counted = allowed.cumsum(-1)
                n_keys = counted[..., -1:]
                q_grid, k_grid = n_keys - 1, (counted - 1).clamp(min=0)
                scores = in_places(q, k, position, q_grid, k_grid) / root
        pair = Pair(
            batch, heads, index[:, None], index, q_grid.to(q.dtype), k_grid.to(q.dtype), n_keys,
            self.pattern.score_scale,
        )  # fmt: skip
        bias, attention_weights = position.bias(x), position.attention_weights(x)
        if bias is not None:
            scores = scores + bias(pair).to(scores.dtype)
        if attention_weights is not None:
            return attention_weights(scores, q_raw, k_raw, pair, allowed) @ v
        return scores.masked_fill(~allowed, -math.inf).softmax(-1) @ v


def in_places(q: Tensor, k: Tensor, position: Position, q_pos: Tensor, k_pos: Tensor) -> Tensor:
    """Return products [B, H, Q, K] of pairs that each have positions, int64 [B, 1, Q, 1 or K]."""
    at = torch.arange(k.shape[2], device=q.device).double()
    factors = position.rotary_factors(at, at, k.shape[2])
    if factors is None:
        return q @ k.transpose(-1, -2)
    of_q, of_k = (table if table.ndim == 3 else table[None] for table in factors)
    q_i = rotate(q[..., None, :], of_q[:, q_pos[:, 0]].transpose(0, 1))
    k_ij = rotate(k[:, :, None], of_k[:, k_pos[:, 0]].transpose(0, 1))
    return (q_i * k_ij).sum(-1)
