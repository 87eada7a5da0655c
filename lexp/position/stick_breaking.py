"""Stick-breaking attention (Tan et al. 2024, arXiv 2410.17980, equation 2).

    A(i, j) = b_ij prod_{j < k < i} (1 - b_ik),  b_ij = sigmoid(q_i . k_j / sqrt(d)),  j < i

From its latest key back, a query breaks a share off what is left of the stick. No softmax, no
position encoding, no parameters; a token does not see itself, and what is left over is given to
nobody (the first token's output is zero).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lexp.position.base import AttentionWeights, Pair, Position


class StickBreaking(Position):
    """Weights by breaking a stick, nearest keys first."""

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return b_ij times the share that the keys in between leave; sums in the logarithm."""

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            earlier = allowed & (pair.j < pair.i)
            left = F.logsigmoid(-scores).masked_fill(~earlier, 0)
            between = left.flip(-1).cumsum(-1).flip(-1) - left
            return torch.exp(F.logsigmoid(scores) + between).masked_fill(~earlier, 0)

        return weights
