"""reading=pose: PoSE, positional skip-wise training (Zhu et al. 2023, arXiv 2309.10400).

    n ~ U{1 .. (T + 1) // 2},  u ~ U{0 .. target_len - T},  e ~ U{T .. tokens of the text}
    tokens 0 .. n-1 at positions 0 .. n-1;  the T - n tokens before e at n + u .. T + u - 1

Two pieces; what they skip in the text and what they skip in positions is drawn independently, as in
the released code (dwzhu-pku/PoSE, src/train_pose.py). There every row has its own n and u, here a
step has; and the code predicts the second piece from the end of the first, here that has no target.
"""

from dataclasses import dataclass

import numpy as np

from lexp.data.reading.moved import Moved, Pieces


@dataclass(frozen=True)
class PoSE(Moved):
    """Two pieces of a text, the second at positions moved on by a drawn distance."""

    def draw(self, length: int, rng: np.random.Generator) -> Pieces:
        first = int(rng.integers(1, (length + 1) // 2, endpoint=True))
        skip = int(rng.integers(self.target(length) - length, endpoint=True))
        positions = np.arange(length)
        positions[first:] += skip
        sizes = (first, length - first) if first < length else (first,)
        return Pieces(sizes, positions)

    def starts(self, pieces: Pieces, n_inputs: int, rng: np.random.Generator) -> list[int]:
        if len(pieces.sizes) == 1:
            return [0]
        end = int(rng.integers(sum(pieces.sizes), n_inputs, endpoint=True))
        return [0, end - pieces.sizes[1]]
