"""Stick-breaking attention (Tan et al. 2024, arXiv 2410.17980, equation 2).

    A(i, j) = b_ij prod_{j < k < i} (1 - b_ik),  b_ij = sigmoid(q_i . k_j / sqrt(d)),  j < i

A query visits earlier keys from the latest one back; each takes the share b_ij of the weight that
is left. No softmax, no position encoding, no parameters; a token does not see itself. Equation 2
drops the weight that no key takes, so the first token's output is zero (`remainder=none`). Released
uses of the authors' kernel add it to the token itself, o_i + (prod_{k < i} (1 - b_ik)) v_i
(shawntan/stickbreaking-attention 3147a38, tests/test_attn.py): `remainder=self`. The trained models
(IBM/dolomite-engine d0ee186) multiply a learned vector by it instead, and normalise over heads.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lexp.position.base import AttentionWeights, Pair, Position

REMAINDERS = ("none", "self")


class StickBreaking(Position):
    """Attention weights taken from one unit of weight, nearest keys first.

    remainder: what becomes of the weight that no key takes: `none`, dropped; `self`, the query's
    token gets it.
    """

    reads_inputs = False

    def __init__(self, remainder: str = "none"):
        super().__init__()
        if remainder not in REMAINDERS:
            raise ValueError(
                f"stick_breaking needs remainder {' or '.join(REMAINDERS)}, got {remainder}"
            )
        self.remainder = remainder

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return b_ij times the share that the keys in between leave; sums in the logarithm."""

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            earlier = allowed & (pair.j < pair.i)
            left = F.logsigmoid(-scores).masked_fill(~earlier, 0)
            between = left.flip(-1).cumsum(-1).flip(-1) - left
            broken = torch.exp(F.logsigmoid(scores) + between).masked_fill(~earlier, 0)
            if self.remainder == "none":
                return broken
            is_self = allowed & (pair.j == pair.i)
            return broken + left.sum(-1, keepdim=True).exp() * is_self

        return weights
