"""reading=segmented: pieces of a long text at their own positions (Karypis et al. 2023).

    chunk-alpha: 1/alpha pieces of alpha T tokens each, at random places of target_len tokens, in
    order and without overlap, end to end; each token keeps its position (arXiv 2310.14633)

The paper also stretches learned tables by interpolation before it trains on, which lexp has as
extension=[pi] for trained models only. It does not say whether the first token of a piece is
predicted from the end of the piece before; here it is not. Documents shorter than target_len are
left out.
"""

from dataclasses import dataclass

import numpy as np

from lexp.data.reading.moved import Moved, Pieces


@dataclass(frozen=True)
class Segmented(Moved):
    """alpha: the share of a window that a piece has, such that 1 / alpha is a whole number."""

    alpha: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1 or abs(round(1 / self.alpha) * self.alpha - 1) > 1e-9:
            raise ValueError(f"alpha={self.alpha} (1, 1/2, 1/3, ..)")

    def least_inputs(self, length: int) -> int:
        return self.target(length)

    def draw(self, length: int, rng: np.random.Generator) -> Pieces:
        n_pieces = round(1 / self.alpha)
        if n_pieces > length:
            raise ValueError(f"alpha={self.alpha}: more pieces than train_len={length} tokens")
        sizes = np.full(n_pieces, length // n_pieces)
        sizes[: length % n_pieces] += 1
        # Every placement is equally likely: the pieces shrunk to a point each, points are distinct.
        points = rng.choice(self.target(length) - length + n_pieces, n_pieces, replace=False)
        starts = np.sort(points) - np.arange(n_pieces) + np.cumsum(sizes) - sizes
        positions = [np.arange(a, a + n) for a, n in zip(starts, sizes, strict=True)]
        return Pieces(tuple(sizes.tolist()), np.concatenate(positions))

    def starts(self, pieces: Pieces, n_inputs: int, rng: np.random.Generator) -> list[int]:
        firsts = np.cumsum((0, *pieces.sizes[:-1]))
        return pieces.positions[firsts].tolist()
