"""CABLE: context-aware biases for length extrapolation (Veisi et al. 2025, arXiv 2503.08067).

    score(i, j) = q_i . k_j / sqrt(d) + b_i - b_j,  b_t = sum_{l<=t} -softplus(W_h x_l)

FoX without its gate bias, with W's sign turned, since -softplus(-z) = log sigmoid(z): the same
family of functions. Kept apart because the literature does.
The authors' code leaves out 1/sqrt(d); the trunk here keeps it for all schemes.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.fox import FoX


class CABLE(FoX):
    """Cumulated non-positive steps, a linear function of each token; their own in every layer."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__(d_model, n_heads)
        self.gate = nn.Linear(d_model, n_heads, bias=False)
        nn.init.normal_(self.gate.weight, std=0.02)

    def log_gates(self, x: Tensor) -> Tensor:
        """Return -softplus(W x), [B, T, H]."""
        return -F.softplus(self.gate(x))
