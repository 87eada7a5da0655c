"""Say which bit is missing in a word that stands there twice: `011001_0=` -> `1`.

Source: Deletang et al. 2023 (arXiv 2207.02098, task "missing duplicate", context-sensitive). Their
model is an encoder that answers at a blank cell, ours causal.

Length n: characters of both words together. For an odd n, a `.` follows the two words of n // 2, as
the empty symbol of their released code; their problem of length 1 has no word and is left out here.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, draw_word, one_length


@dataclass(frozen=True)
class MissingDuplicate(Task):
    """Write the bit that is hidden behind `_`."""

    name: ClassVar[str] = "missing_duplicate"
    shortest: ClassVar[int] = 2

    def sample(self, length: Length, rng: Generator) -> Example:
        n = one_length(self, length)
        both = draw_word("01", n // 2, rng) * 2
        hidden = int(rng.integers(len(both)))
        shown = f"{both[:hidden]}_{both[hidden + 1 :]}{'.' * (n % 2)}"
        return Example(f"{shown}=", both[hidden])

    def longest_row(self, length: int) -> int:
        return length + 2

    def n_problems(self, length: int) -> float:
        n_bits = length // 2
        return as_count(2**n_bits * 2 * n_bits)
