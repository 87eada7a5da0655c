"""CoPE: contextual position encoding (Golovneva et al. 2024, arXiv 2405.18719, section 4).

    gate(i, j) = sigmoid(q_i . k_j / sqrt(d)),  p(i, j) = min(sum_{j<=k<=i} gate(i, k), max_pos - 1)
    score(i, j) = q_i . k_j / sqrt(d) + q_i . e[p(i, j)]

Positions count tokens that the query finds worth counting; e at fractional positions is
interpolated. The embeddings start at zero and are shared by the heads of a layer. In the paper's
listing they meet queries that are not divided by sqrt(d) (`query=plain`). The authors' code divides
both products unless it is told `--cope-nodiv`, which its run.sh does not say
(facebookresearch/RAM e6f051f, projects/cope): `query=divided`. It has block size + 1 embeddings
where the listing has 64.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from lexp.position.base import AttentionWeights, Pair, Position

QUERIES = ("plain", "divided")
# Keys that every query has counted to the end are left out by this many.
FAR_KEYS = 64


class CoPE(Position):
    """Learned embeddings of gated counts, their own in every layer.

    max_pos: how many. query: as it meets the embeddings, plain or divided by sqrt(head_dim).
    """

    per_layer = True
    reads_inputs = False

    def __init__(self, head_dim: int, max_pos: int = 64, query: str = "plain"):
        super().__init__()
        if max_pos < 2 or query not in QUERIES:
            raise ValueError(
                f"cope needs max_pos >= 2 and query {' or '.join(QUERIES)}, "
                f"got {max_pos} and {query}"
            )
        self.divisor = math.sqrt(head_dim) if query == "divided" else 1.0
        self.embedding = nn.Parameter(torch.zeros(max_pos, head_dim))

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return the softmax of the scores with the embeddings of their gated counts added."""
        embedding = self.embedding / self.divisor

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            return Counted.apply(scores, q @ embedding.T, allowed).softmax(-1)

        return weights


class Counted(torch.autograd.Function):
    """Scores [B, H, Q, K], plus by_position [B, H, Q, max_pos], q . e, at gated counts.

    With D[m] = E[m + 1] - E[m] and a count of m + f it is E[m] + f D[m], so that its gradient in
    the gate of a key is the sum of the gradients in the counts of this key and all before it. The
    gradient is written out because autograd would keep some twenty matrices of this size. Keys so
    far back that every query has counted to the last embedding all have that one: they come first,
    and are not looked up.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, by_position: Tensor, allowed: Tensor) -> Tensor:
        """Return s + E[m] + f D[m], and -inf where a pair is not allowed."""
        last = by_position.shape[-1] - 1
        gates = scores.sigmoid().mul_(allowed)  # a quarter of the time of filling
        count = gates.flip(-1).cumsum_(-1).flip(-1).clamp_(max=last)
        count.nan_to_num_()  # NaN is no index: a row with a NaN score is NaN without it
        # Whole, as a layer that is computed again may count by rounding to another n_far.
        ctx.save_for_backward(gates, count, by_position)
        ctx.n_far = n_far = keys_beyond(count, last)
        count = count[..., n_far:]
        floor, part = count.long(), count.frac()
        part.mul_(steps(by_position).gather(-1, floor)).add_(by_position.gather(-1, floor))
        if n_far:
            far = by_position[..., -1:].expand(*part.shape[:-1], n_far)
            part = torch.cat([far, part], -1)
        mask = torch.zeros_like(allowed, dtype=part.dtype).masked_fill_(~allowed, -math.inf)
        return part.add_(scores).add_(mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of scores and by_position."""
        gates, count, by_position = ctx.saved_tensors
        far, grad = grad.tensor_split([ctx.n_far], -1)
        gates, count = gates[..., ctx.n_far :], count[..., ctx.n_far :]
        floor, part = count.long(), count.frac()
        # 1 or 0: as the listing's ceil and floor have it, counts that are whole, and those beyond
        # the last embedding, stay where they are.
        between = part.ceil()
        d_by_position = torch.zeros_like(by_position).scatter_add_(-1, floor, grad)
        d_by_position[..., -1] += far.sum(-1)
        d_steps = torch.zeros_like(by_position).scatter_add_(-1, floor, part.mul_(grad))[..., :-1]
        d_by_position[..., 1:] += d_steps
        d_by_position[..., :-1] -= d_steps
        d_count = steps(by_position).gather(-1, floor).mul_(grad).mul_(between).cumsum_(-1)
        d_scores = torch.ops.aten.sigmoid_backward(d_count, gates).add_(grad)
        if far.shape[-1]:
            d_scores = torch.cat([far, d_scores], -1)
        return d_scores, d_by_position, None


def keys_beyond(count: Tensor, last: int) -> int:
    """Return how many of the first keys every query counts to `last` or more, in whole FAR_KEYS.

    Counts fall from the first key to the last, so the last key of each FAR_KEYS tells. Off the CPU
    it is 0: asking would wait for the device.
    """
    if count.device.type != "cpu":
        return 0
    smallest = count[..., FAR_KEYS - 1 :: FAR_KEYS].flatten(0, -2).amin(0)
    return FAR_KEYS * int((smallest >= last).sum())


def steps(by_position: Tensor) -> Tensor:
    """Return the difference from each embedding to the next; 0 for the last."""
    return pad(by_position.diff(dim=-1), (0, 1))
