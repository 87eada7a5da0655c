"""Say whether the pairs 01 and 10 are an odd number: `0101001=` -> `1`, as 3 + 2 = 5.

Source: Deletang et al. 2023 (arXiv 2207.02098, task "even pairs", a regular language); the answer
is 0 for an even number, as their class. Their model is an encoder that answers at a blank cell,
ours causal.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, draw_word, one_length


@dataclass(frozen=True)
class EvenPairs(Task):
    """Write 1 if `length` bits have an odd number of neighbours that differ, else 0."""

    name: ClassVar[str] = "even_pairs"

    def sample(self, length: Length, rng: Generator) -> Example:
        bits = draw_word("01", one_length(self, length), rng)
        return Example(f"{bits}=", str((bits.count("01") + bits.count("10")) % 2))

    def longest_row(self, length: int) -> int:
        return length + 2

    def n_problems(self, length: int) -> float:
        return as_count(2**length)
