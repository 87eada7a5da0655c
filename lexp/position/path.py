"""PaTH attention (Yang et al. 2025, arXiv 2505.16381, section 3): positions as accumulated mirrors.

    score(i, j) = q_i^T H_i H_{i-1} .. H_{j+1} k_j / sqrt(d),  H_t = I - b_t w_t w_t^T
    b_t = 2 sigmoid(u . x_t + c),  w_t = conv_3(A B x)_t, normalised, for each head

The text names linear maps, a short convolution and a normalisation; the authors' layer
(fla-org/flash-linear-attention bc3b101, fla/layers/path_attn.py) has SiLU between the last two:
`activation=silu`. It adds 1e-6 to the squared norm and starts its linear maps at standard deviation
0.02, ours as torch does.

Every token read between j and i reflects what is compared, by as much and in the direction that its
content decides. The product is never formed: over a block of keys with rows W, K and D = diag(b)

    q^T H .. H k  =  q^T k - [(Q W^T) (I + D strict(W W^T))^-1 D strict(W K^T)]   (lower triangles)

and a block as a whole maps q to q - (..) W, so blocks are taken from the latest back.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.position.base import AttentionWeights, Pair, Position

BLOCK_KEYS = 64
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda wide: wide, "silu": F.silu}


class PaTH(Position):
    """Products of Householder-like maps between two tokens, their own in every layer.

    rank: of the map A B from the layer's input to the directions w. activation: of what the
    convolution gives, none or silu.
    """

    per_layer = True
    n_earlier = 2  # by the convolution

    def __init__(
        self, d_model: int, head_dim: int, n_heads: int, rank: int = 32, activation: str = "none"
    ):
        super().__init__()
        if rank < 1 or activation not in ACTIVATIONS:
            raise ValueError(
                f"path needs rank >= 1 and activation {' or '.join(ACTIVATIONS)}, "
                f"got {rank} and {activation}"
            )
        self.activation = activation
        inner = n_heads * head_dim
        self.n_heads = n_heads
        self.into, self.out = nn.Linear(d_model, rank, bias=False), nn.Linear(rank, inner, False)
        self.conv = nn.Conv1d(inner, inner, 3, groups=inner, bias=False)
        self.strength = nn.Linear(d_model, n_heads)

    def mirrors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return directions w [B, H, T, D], of length 1, and strengths b [B, H, T], from 0 to 2."""
        wide = self.out(self.into(x)).transpose(1, 2)  # [B, H D, T]
        wide = ACTIVATIONS[self.activation](self.conv(F.pad(wide, (2, 0))))
        wide = wide.unflatten(1, (self.n_heads, -1))
        return F.normalize(wide, dim=2).transpose(2, 3), 2 * self.strength(x).sigmoid().mT

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return the softmax of the scores less what the reflections subtract."""
        w_all, b_all = self.mirrors(x)

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            # Tokens that a pattern hides still turn what passes them, as they do in a cache.
            first, last = int(pair.j.min()), int(pair.j.max())
            t = torch.arange(first, last + 1, device=k.device)
            place = torch.full_like(t, -1)
            place[pair.j - first] = torch.arange(len(pair.j), device=k.device)
            keys = k[:, :, place.clamp(min=0)] * (place >= 0)[:, None]
            w, b = w_all[:, :, first : last + 1], b_all[:, :, first : last + 1]
            lost = taken_away(q, keys, w, b, t <= pair.i)[..., pair.j - first]
            corrected = scores - lost / math.sqrt(q.shape[-1])
            return corrected.masked_fill(~allowed, -math.inf).softmax(-1)

        return weights


def taken_away(q: Tensor, k: Tensor, w: Tensor, b: Tensor, passed: Tensor) -> Tensor:
    """Return what the reflections between two tokens subtract from q k^T, [B, H, Q, K].

    passed [Q, K]: whether a query is at or past this token.
    """
    lost, rest = [], q
    for end in range(k.shape[2], 0, -BLOCK_KEYS):
        block = slice(max(0, end - BLOCK_KEYS), end)
        w_block, k_block = w[:, :, block], k[:, :, block].mT
        met = (rest @ w_block.mT).masked_fill(~passed[:, block], 0) @ solved(
            w_block, b[:, :, block]
        )
        # To this block's keys the later mirrors have left `rest` of q, and its own take more.
        lost.append((q - rest) @ k_block + met @ (w_block @ k_block).tril(-1))
        rest = rest - met @ w_block
    return torch.cat(lost[::-1], dim=-1)


def solved(w: Tensor, b: Tensor) -> Tensor:
    """Return (I + D strict(W W^T))^-1 D of a block: w [B, H, K, D], b [B, H, K] to [B, H, K, K]."""
    strict = (b[..., None] * (w @ w.mT)).tril(-1)
    unit = torch.eye(w.shape[2], dtype=w.dtype, device=w.device)
    return torch.linalg.solve_triangular(strict + unit, torch.diag_embed(b), upper=False)
