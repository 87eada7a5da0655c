"""reading=cream: CREAM, head, middle and tail (Wu, Zhao and Zheng 2024, arXiv 2406.07138).

    head: positions 0 .. h-1, tail: the last h of target_len = s T; with equal chance h = T // 3, or
    h = 4 s. The middle, m = T - 2h tokens, ends at e:
    g = floor of a Gaussian of mean 1 + s and deviation sigma, between 2 and 2s
    e ~ U{floor(h + (m - 1) g / 2) .. floor(g T / 2) - h - 1}

which is to train the middle of the target length most. Followed is the released code
(bigai-nlco/CREAM, src/train.py), h = 4 s included. In the text the head is its beginning and the
tail its end; the middle stands where its positions say, or before the tail where the text is too
short for that. There every row has its own e, here a step has; and pieces are not predicted from
one another here.
"""

import math
from dataclasses import dataclass

import numpy as np

from lexp.data.reading.moved import Moved, Pieces

SHORT = 4  # tokens of a short head, times the factor
GRID = 1000  # places at which the Gaussian's distribution function is inverted


@dataclass(frozen=True)
class CREAM(Moved):
    """sigma: how far the middle is spread, in half windows."""

    sigma: float = 3.0

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma={self.sigma} (above 0)")

    def target(self, length: int) -> int:
        """Return the target length, a multiple of `length`."""
        target = super().target(length)
        if target % length:
            raise ValueError(f"target_len={target} is no multiple of train_len={length}")
        if 2 * SHORT * (target // length) >= length:
            raise ValueError(
                f"train_len={length} is too short for two ends of {SHORT * (target // length)} "
                "tokens; choose a smaller target_len"
            )
        return target

    def draw(self, length: int, rng: np.random.Generator) -> Pieces:
        """Return two ends and a middle, whose place is drawn from a truncated normal."""
        target = self.target(length)
        factor = target // length
        n_end = length // 3 if rng.integers(2) == 0 else SHORT * factor
        n_middle = length - 2 * n_end
        grid = np.linspace(2, 2 * factor, GRID)
        z = (grid - 1 - factor) / (self.sigma * math.sqrt(2))
        below = [0.5 * (1 + math.erf(value)) for value in z]
        half_windows = int(np.interp(rng.random(), below, grid))
        least = int(n_end + (n_middle - 1) * half_windows / 2)
        end = int(rng.integers(least, half_windows * length // 2 - n_end - 1, endpoint=True))
        ends = np.arange(n_end), np.arange(target - n_end, target)
        positions = np.concatenate([ends[0], np.arange(end - n_middle + 1, end + 1), ends[1]])
        return Pieces((n_end, n_middle, n_end), positions)

    def starts(self, pieces: Pieces, n_inputs: int, rng: np.random.Generator) -> list[int]:
        n_end, n_middle, _ = pieces.sizes
        tail = n_inputs - n_end
        return [0, min(int(pieces.positions[n_end]), tail - n_middle), tail]
