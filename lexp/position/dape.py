"""DAPE: data-adaptive positional encoding (Zheng et al. 2024, arXiv 2405.14722, equation 5).

    z = x + b + W2 LeakyReLU(W1 [x_1 .. x_H, b_1 .. b_H] + a1) + a2,  x = q_i . k_j / sqrt(d)

For each pair on its own a small network over all heads' scores x and biases b corrects the sum of
both. b is another scheme's bias: ALiBi's, KERPLE's or FIRE's. Everything, b's parameters included,
is each layer's own, as in the authors' code (chuanyang-Zheng/DAPE bde344a). That code has LeakyReLU
in FIRE's network too, which `activation: leaky_relu` of the inner FIRE gives.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.base import AttentionWeights, Pair, Position
from lexp.position.compose import Wrapper


class DAPE(Wrapper):
    """Scores and biases of all heads, mixed by a network. width: of its hidden layer."""

    def __init__(self, inner: Position, n_heads: int, width: int = 32):
        super().__init__(inner)
        other = inner.has_attention_weights or inner.samples_positions
        if not inner.has_bias or other or width < 1:
            raise ValueError(
                f"dape needs width >= 1 and goes around a bias, got {width} around {inner.title}"
            )
        self.per_layer, self.two_sided = True, False
        self.into, self.out = nn.Linear(2 * n_heads, width), nn.Linear(width, n_heads)

    @property
    def title(self) -> str:
        """Return the class name, with the title of the inner scheme in parentheses."""
        return f"{type(self).__name__}({self.inner.title})"

    # No bias is added to scores: the network needs it apart from them.
    bias = Position.bias

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return the softmax of the corrected sum."""
        bias = self.inner.bias(x)
        assert bias is not None, "checked by the constructor"

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            # Pairs that are masked afterwards may have anything here, as long as it is finite.
            added = bias(pair).to(scores.dtype).expand_as(scores)
            both = torch.cat([scores, added], dim=1).movedim(1, -1)  # [B, Q, K, 2H]
            correction = self.out(F.leaky_relu(self.into(both))).movedim(-1, 1)
            return (scores + added + correction).masked_fill(~allowed, -math.inf).softmax(-1)

        return weights
