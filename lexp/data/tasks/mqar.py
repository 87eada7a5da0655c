"""Multi-query associative recall as a task: `a3,f7,c0/fca=` -> `703`.

Source: Arora et al. 2023 (Zoology, arXiv 2312.04927, section 3). Pairs of a key and a value, then
the keys that are asked for; the answer is their values in that order. Differences: they put the
queries among random tokens at gaps of a power law and ask for a value directly behind each, where
we list them; their values are all different, ours are digits. `probes=[mqar]` asks models of text.

Length n: pairs.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import CAPITALS, DIGITS, LETTERS, as_count, draw_word, one_length

KEYS = LETTERS + CAPITALS


@dataclass(frozen=True)
class AssociativeRecall(Task):
    """Recall the values of some of `length` keys.

    queries: how many keys are asked for; all where there are fewer. key_letters: letters of a key,
    which allow 52 or 52^2 different keys.
    """

    name: ClassVar[str] = "mqar"
    queries: int = 4
    key_letters: int = 1

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ValueError(f"queries={self.queries} (at least 1)")
        if self.key_letters not in (1, 2):
            raise ValueError(f"key_letters={self.key_letters} (1 or 2)")

    def sample(self, length: Length, rng: Generator) -> Example:
        n = self._checked(length)
        keys = [self._key(i) for i in rng.permutation(self._n_keys)[:n].tolist()]
        values = draw_word(DIGITS, n, rng)
        pairs = [key + value for key, value in zip(keys, values, strict=True)]
        asked = rng.permutation(n)[: self.queries].tolist()
        wanted = "".join([keys[i] for i in asked])
        return Example(
            f"{','.join(pairs)}/{wanted}=",
            "".join([values[i] for i in asked]),
            f"{','.join(sorted(pairs))}/{wanted}",
        )

    def longest_row(self, length: int) -> int:
        n = self._checked(length)
        n_asked = min(self.queries, n)
        return n * (self.key_letters + 2) + n_asked * (self.key_letters + 1) + 1

    def n_problems(self, length: int) -> float:
        n = self._checked(length)
        keys = math.perm(self._n_keys, n)
        return as_count(keys * len(DIGITS) ** n * math.perm(n, min(self.queries, n)))

    @property
    def _n_keys(self) -> int:
        return len(KEYS) ** self.key_letters

    def _key(self, number: int) -> str:
        first, second = divmod(number, len(KEYS))
        return KEYS[second] if self.key_letters == 1 else KEYS[first] + KEYS[second]

    def _checked(self, length: Length) -> int:
        """Return a length. ValueError for one with more pairs than keys."""
        n = one_length(self, length)
        if n > self._n_keys:
            raise ValueError(
                f"mqar: length={n} with key_letters={self.key_letters} "
                f"(at most {self._n_keys}: there are so many keys)"
            )
        return n
