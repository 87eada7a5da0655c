"""Multi-query associative recall: many pairs together, several of them asked for at the end.

Arora et al. 2023 (Zoology, arXiv 2312.04927, section 3): synthetic tokens only, queries at gaps of
a power law. Here keys and values are letters of the run's own vocabulary, pairs stand in one
block at a depth drawn uniformly, text around it, and the queries follow each other at the end.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from lexp.probes.base import (
    CAPITALS,
    CONSONANTS,
    Form,
    Material,
    Probe,
    ProbeExample,
    lay_out,
    occurrences,
    room_for,
)
from lexp.system.errors import NotDefined

KEY, VALUE = Form(CONSONANTS, 3), Form(CAPITALS, 1)


@dataclass(frozen=True)
class MQAR(Probe):
    """Values are one token each, ranked among the values of all pairs at no cost.

    The control has the same values, each moved to the next pair: only which belongs to which
    differs. A letter may stand in the text by accident; a key never does.
    """

    name: ClassVar[str] = "mqar"
    one_token: ClassVar[bool] = True
    pairs: int = 10
    queries: int = 5

    def __post_init__(self) -> None:
        if not 2 <= self.pairs <= len(CAPITALS):
            raise ValueError(f"mqar takes 2 to {len(CAPITALS)} pairs, got {self.pairs}")
        if not 1 <= self.queries <= self.pairs:
            raise ValueError(f"mqar takes 1 to {self.pairs} queries, got {self.queries}")

    @property
    def n_candidates(self) -> int:
        """Return the number of candidates: the values of all pairs."""
        return self.pairs

    def attempt(self, material: Material, length: int, rng: Generator) -> ProbeExample | None:
        """Plant pairs in a block, and some of their lines again at the end in another order."""
        lead, newline = material.lead(VALUE), material.encode("\n")
        values = material.values(VALUE, self.pairs, rng)
        if values.shape[1] != 1:
            raise NotDefined("mqar needs a vocabulary in which a letter is a token")
        words = dict.fromkeys(KEY.draw(rng) for _ in range(self.pairs))
        keys = [np.concatenate([material.encode(f"\n{word}:"), lead]) for word in words]
        if len(keys) < self.pairs:
            return None
        lines = [np.concatenate([key, v]) for key, v in zip(keys, values, strict=True)]
        asked = rng.permutation(self.pairs)[: self.queries]
        block, end = np.concatenate([*lines, newline]), np.concatenate([lines[n] for n in asked])
        text = material.text(room_for(self, length, len(block) + len(end)), rng)
        tokens, (start,) = lay_out(text, [int(rng.integers(len(text) + 1))], [block], end)
        in_block = start + np.cumsum([len(line) for line in lines]) - 1  # the last of each line
        control = tokens.copy()
        control[in_block] = np.roll(tokens[in_block], 1)
        for n in range(self.pairs):
            if occurrences(tokens, keys[n]) != 1 + (n in asked):
                return None
        answer = length - len(end) + np.cumsum([len(lines[n]) for n in asked])
        others = np.stack([values[(asked + k) % self.pairs, 0] for k in range(1, self.pairs)])
        return ProbeExample(tokens, control, answer, in_block[asked], others)
