"""Stick-breaking attention (Tan et al. 2024, arXiv 2410.17980, equation 2).

    A(i, j) = b_ij prod_{j < k < i} (1 - b_ik),  b_ij = sigmoid(q_i . k_j / sqrt(d)),  j < i

From its latest key back, a query breaks a share off what is left of the stick. No softmax, no
position encoding, no parameters; a token does not see itself. By equation 2 what is left over is
given to nobody, so the first token's output is zero (`remainder=none`). Released uses of the
authors' kernel add it to the token's own value, o_i + (prod_{k < i} (1 - b_ik)) v_i
(shawntan/stickbreaking-attention 3147a38, tests/test_attn.py): `remainder=own`. The trained models
(IBM/dolomite-engine d0ee186) multiply a learned vector by it instead, and normalise over heads.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lexp.position.base import AttentionWeights, Pair, Position

REMAINDERS = ("none", "own")


class StickBreaking(Position):
    """Weights by breaking a stick, nearest keys first.

    remainder: who gets what is left of the stick, none or the query's own value.
    """

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
            own = allowed & (pair.j == pair.i)
            return broken + left.sum(-1, keepdim=True).exp() * own

        return weights
