"""Changes of scores and logits that some families have: soft caps, and a scale of the logits.

capped(s) = cap tanh(s / cap)    (Gemma 2, Gemma Team 2024, arXiv 2408.00118, section 2)
"""

import math

import torch
from torch import Tensor, nn

from lexp.position.base import AttentionWeights, Pair, Position


class SoftCapped(Position):
    """Softmax of capped scores; beside another scheme in a `Sum`, of that scheme's."""

    two_sided = True

    def __init__(self, cap: float):
        super().__init__()
        self.cap = cap

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return softmax over capped scores."""

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            return capped(scores, self.cap).masked_fill(~allowed, -math.inf).softmax(-1)

        return weights


class ScaledHead(nn.Module):
    """The projection to logits, times a scale (Cohere), then capped (Gemma 2); None: no cap."""

    def __init__(self, linear: nn.Linear, scale: float, cap: float | None):
        super().__init__()
        self.linear, self.scale, self.cap = linear, scale, cap
        self.out_features = linear.out_features

    @property
    def weight(self) -> Tensor:
        """Return the weights of the projection [V, d_model]."""
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., d_model] to logits [..., V]."""
        logits = self.linear(x) * self.scale
        return logits if self.cap is None else capped(logits, self.cap)


def capped(x: Tensor, cap: float) -> Tensor:
    """Return cap tanh(x / cap)."""
    return torch.tanh(x / cap) * cap
