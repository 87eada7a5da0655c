"""reading=randpos: consecutive tokens at random ascending positions (RandPos).

    positions: T of 0 .. target_len - 1, drawn without replacement and sorted

The baseline of PoSE's authors (dwzhu-pku/PoSE, src/train_pose.py), after Ruoss et al. 2023. Unlike
model=random_rope it changes nothing in the model: evaluation reads positions 0, 1, 2, ..
"""

from dataclasses import dataclass

import numpy as np

from lexp.data.reading.moved import Moved, Pieces


@dataclass(frozen=True)
class RandPos(Moved):
    """Windows as in training on documents, at a random subset of the positions."""

    def most_inputs(self, length: int) -> int:
        return length

    def draw(self, length: int, rng: np.random.Generator) -> Pieces:
        chosen = rng.choice(self.target(length), length, replace=False)
        return Pieces((length,), np.sort(chosen))

    def starts(self, pieces: Pieces, n_inputs: int, rng: np.random.Generator) -> list[int]:
        return [0]
