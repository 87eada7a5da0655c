"""Other maps from scores to attention weights than softmax.

SoftmaxOne: exp(s_ij) / (1 + sum_k exp(s_ik)), softmax with a sink of logit 0: a query may attend to
nothing (Miller 2023, "Attention is off by one").
SigmoidWeights: sigmoid(s_ij - log n), each key by itself (Ramapuram et al. 2024, arXiv 2409.04431,
section 3). n is the length of the training texts, a constant, in the authors' configurations of
language models (apple/ml-sigmoid-attention 9273b49: -7.62 for 2048 tokens); with the number of keys
in sight in its place the weights of a query sum to about 1 at any length.
Softpick: max(0, exp(s_ij) - 1) / sum_k |exp(s_ik) - 1|, which gives scores below 0 no weight and no
key a share of 1 just for being there (Zuhri et al. 2025, arXiv 2504.20966, equation 3; the authors'
code, zaydzuhri/softpick-attention c97f4dc, adds 1e-8 to the sum over exp(max_k s_ik), as here).

None says where anything is; alone they are NoPE, in a `Sum` with another scheme they take the place
of its softmax. Sums are over the keys in sight: a masked score of -inf would add |0 - 1| to
softpick's.
"""

import math

import torch
from torch import Tensor

from lexp.position.base import AttentionWeights, Pair, Position
from lexp.position.sink_logits import SinkLogits

LEAST_SUM = 1e-8  # of softpick's denominator


class SoftmaxOne(SinkLogits):
    """Softmax over the keys in sight and a sink whose logit is 0 and stays so."""

    per_layer = False

    def __init__(self, n_heads: int):
        Position.__init__(self)
        self.register_buffer("logits", torch.zeros(n_heads), persistent=False)


class SigmoidWeights(Position):
    """The sigmoid of each score less log n.

    n: null for the number of keys that a query sees.
    """

    reads_inputs = False

    def __init__(self, n: int | None = None):
        super().__init__()
        if n is not None and n < 1:
            raise ValueError(f"sigmoid needs n >= 1 or null, got {n}")
        self.n = n

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return the sigmoid."""

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            log_n = math.log(self.n) if self.n else pair.n_keys.to(scores.dtype).log()
            return (scores - log_n).sigmoid().masked_fill(~allowed, 0)

        return weights


class Softpick(Position):
    """Rectified exp(s) - 1 over the sum of absolute values."""

    reads_inputs = False

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return the quotient; both of its parts are divided by exp(max(0, scores in sight))."""

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            seen = scores.masked_fill(~allowed, 0)  # where exp(s) - 1 is 0
            most = seen.amax(-1, keepdim=True).clamp(min=0)
            # exp(s) - 1 from expm1: the difference would lose the digits of scores near 0. exp(|s|)
            # would overflow, so for s > 0 it is exp(s) (1 - exp(-s)).
            above = (seen.clamp(min=0) - most).exp() * seen.sign() * -(-seen.abs()).expm1()
            return above.relu() / (above.abs().sum(-1, keepdim=True) + LEAST_SUM)

        return weights
