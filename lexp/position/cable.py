"""CABLE: context-aware biases for length extrapolation (Veisi et al. 2025, arXiv 2503.08067).

    score(i, j) = q_i . k_j / sqrt(d) + b_i - b_j,  b_t = sum_{l<=t} -softplus(W_h x_l)

FoX without a gate bias, with W's sign turned, since -softplus(-z) = log sigmoid(z): the same
family of functions. Kept apart because the literature does.
The authors' code (axiomlab/Cable 8bc6b83, src/Cable.py) leaves out 1/sqrt(d); the trunk here keeps
it for all schemes. Its map W has a bias that starts at 0, the formula has none: `gate_bias`.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.fox import FoX


class CABLE(FoX):
    """Cumulated non-positive steps, a linear function of each token; their own in every layer.

    gate_bias: the function has a constant too.
    """

    def __init__(self, d_model: int, n_heads: int, gate_bias: bool = False):
        super().__init__(d_model, n_heads)
        self.gate = nn.Linear(d_model, n_heads, bias=gate_bias)
        nn.init.normal_(self.gate.weight, std=0.02)
        if gate_bias:
            nn.init.zeros_(self.gate.bias)

    def log_gates(self, x: Tensor) -> Tensor:
        """Return -softplus(W x), [B, T, H]."""
        return -F.softplus(self.gate(x))
