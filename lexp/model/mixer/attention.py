"""Multi-head self-attention, the mixer of a layer unless its entry names another."""

from torch import Tensor, nn

from lexp.attention import Attend
from lexp.model.mixer.base import Mixer
from lexp.position import Position


class Attention(Mixer):
    """Multi-head self-attention; the pattern and the scheme come in with `attend`."""

    name = "attention"
    attends = True

    def __init__(self, d_model: int, n_heads: int, head_dim: int):
        super().__init__()
        inner = n_heads * head_dim
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * inner, bias=False)
        self.out = nn.Linear(inner, d_model, bias=False)

    def forward(
        self, x: Tensor, position: Position, attend: Attend, sampled: Tensor | None
    ) -> Tensor:
        """Map x [B, T, d_model] to the same shape."""
        heads = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))  # [B, T, 3, H, D]
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # three of [B, H, T, D]
        return self.out(attend(q, k, v, position, x, sampled).transpose(1, 2).flatten(2))
