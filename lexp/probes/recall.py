"""Key-value recall: pairs scattered over a text, one of them asked for at the end.

After the key-value retrieval of Liu et al. 2023 ("Lost in the Middle", arXiv 2307.03172, section
3), whose JSON of UUIDs no small model can read; pairs here are lines of a few characters.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from lexp.probes.base import (
    CONSONANTS,
    DIGITS,
    Form,
    Material,
    Probe,
    ProbeExample,
    lay_out,
    occurrences,
    room_for,
)

KEY = Form(CONSONANTS, 3)


@dataclass(frozen=True)
class Recall(Probe):
    """Pairs at places drawn uniformly; candidates are the values of all of them.

    All candidates are in the text, so copying any of them does not help: the key has to be used.
    The control has another number in place of the one asked for, and all else alike.
    """

    name: ClassVar[str] = "recall"
    pairs: int = 10
    digits: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.pairs <= 100:
            raise ValueError(f"recall takes 2 to 100 pairs, got {self.pairs}")
        if not 3 <= self.digits <= 20:
            raise ValueError(f"recall takes 3 to 20 digits, got {self.digits}")

    @property
    def n_candidates(self) -> int:
        """Return the number of candidates: the values of all pairs."""
        return self.pairs

    def attempt(self, material: Material, length: int, rng: Generator) -> ProbeExample | None:
        """Plant a line for each pair, and the line of one pair again at the end."""
        form = Form(DIGITS, self.digits)
        lead, newline = material.lead(form), material.encode("\n")
        values = material.values(form, self.pairs, rng)
        words = dict.fromkeys(KEY.draw(rng) for _ in range(self.pairs))
        keys = [np.concatenate([material.encode(f"\n{word}:"), lead]) for word in words]
        if len(keys) < self.pairs:
            return None
        asked = int(rng.integers(self.pairs))
        (wrong,) = material.values(form, 1, rng, like=values[asked])
        needles = [np.concatenate([k, v, newline]) for k, v in zip(keys, values, strict=True)]
        end = np.concatenate([keys[asked], values[asked]])
        text = material.text(room_for(self, length, sum(map(len, needles)) + len(end)), rng)
        places = np.sort(rng.integers(len(text) + 1, size=self.pairs)).tolist()
        tokens, starts = lay_out(text, places, needles, end)
        steps = np.arange(len(end) - len(keys[asked]))
        source: np.ndarray = starts[asked] + len(keys[asked]) + steps
        control = tokens.copy()
        control[source] = wrong
        for n in range(self.pairs):
            times = 2 if n == asked else 1
            if (occurrences(tokens, keys[n]), occurrences(tokens, values[n])) != (times, times):
                return None
        if occurrences(tokens, wrong):
            return None
        others = np.delete(values, asked, axis=0)
        return ProbeExample(tokens, control, length + 1 - len(steps) + steps, source, others)
