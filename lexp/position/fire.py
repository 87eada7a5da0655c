"""FIRE: functional interpolation of relative positions (Li et al. 2023, arXiv 2310.04418, sec. 3).

    score(i, j) = q_i . k_j / sqrt(d) + MLP_h( psi(i - j) / psi(max(T, i)) )
    psi(x) = log(|c| x + 1)

The distance as a share of the query's index (from 0), through a small network 1 -> width -> heads.
c and the threshold T are learned. Constants and their own parameters in every layer as in the code
of DAPE's authors (1e-6 is added to the denominator there); T starts at a quarter of the trained
length, the paper's 512 of 2048. The network has ReLU, as in the paper; where DAPE is put around
FIRE that code has LeakyReLU there (chuanyang-Zheng/DAPE bde344a, `FIRE_DAPE`): `activation`.
Unlike all other biases this one reads the query's index. With blockwise attention that index can be
the global one, or the local one: the number of earlier keys in sight. With positions sampled at
random (Zhou et al. 2024, arXiv 2402.09371) it is the query's position.
"""

import torch
from torch import Tensor, nn

from lexp.position.base import Bias, Pair, Position

INDICES = ("global", "local", "position")
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


class FIRE(Position):
    """A learned function of the distance relative to the query's index.

    threshold: where the index begins to count, a quarter of train_len unless given. index: global,
    or local to the keys in sight (the same under full attention), or the query's position, the same
    as global unless positions are sampled or moved. activation: relu, or leaky_relu.
    """

    shift_invariant = False
    per_layer = True
    reads_inputs = False

    def __init__(
        self,
        n_heads: int,
        train_len: int,
        width: int = 32,
        threshold: int | None = None,
        index: str = "global",
        activation: str = "relu",
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"fire needs activation {' or '.join(ACTIVATIONS)}, got {activation}")
        if width < 1 or (threshold is not None and threshold < 1) or index not in INDICES:
            raise ValueError(
                f"fire needs width and threshold >= 1 and index {' or '.join(INDICES)}, "
                f"got {width}, {threshold} and {index}"
            )
        self.index = index
        self.reads_indices = self.relative = index != "position"
        self.threshold = threshold or max(1, train_len // 4)
        self.c = nn.Parameter(torch.tensor(0.1))
        self.multiplier = nn.Parameter(torch.tensor(1.0))
        self.mlp = nn.Sequential(
            nn.Linear(1, width), ACTIVATIONS[activation](), nn.Linear(width, n_heads)
        )

    def _index(self, pair: Pair) -> Tensor:
        """Return what counts as the query's index."""
        if self.index == "position":
            return pair.q_pos
        return pair.i if self.index == "global" else pair.n_keys - 1

    def bias(self, x: Tensor) -> Bias:
        """Return the MLP of the normalised distance."""
        c, threshold = self.c.abs(), (self.multiplier * self.threshold).abs()

        def psi(distance: Tensor) -> Tensor:
            return torch.log1p(c * distance)

        def learned(pair: Pair) -> Tensor:
            index = self._index(pair)
            distance = psi((pair.q_pos - pair.k_pos).clamp(min=0))
            share = distance / (psi(torch.maximum(threshold, index.to(c.dtype))) + 1e-6)
            # The grid has its heads third from the end; shares are the same for all of them.
            share = share.squeeze(-3) if share.ndim > 2 else share
            # In full precision: bfloat16 would leave 8 bits of the distance.
            with torch.autocast(share.device.type, enabled=False):
                by_head = self.mlp(share[..., None])  # [..., Q, K, H]
            return by_head.movedim(-1, -3)[..., pair.h.flatten(), :, :]

        return learned
