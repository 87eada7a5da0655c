"""Add digits modulo 10: `7+5+1=` -> `3`.

Source: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C), "summation"; digits are 1 to 9, as in
their released code (make_sum_dataset.py). Theirs has spaces between the digits and words around.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import DIGITS, as_count, draw_word, one_length


@dataclass(frozen=True)
class SumMod10(Task):
    """Add `length` digits from 1 to 9 modulo 10."""

    name: ClassVar[str] = "sum_mod10"

    def sample(self, length: Length, rng: Generator) -> Example:
        digits = draw_word(DIGITS[1:], one_length(self, length), rng)
        return Example(f"{'+'.join(digits)}=", str(sum(map(int, digits)) % 10))

    def longest_row(self, length: int) -> int:
        return 2 * length + 1

    def n_problems(self, length: int) -> float:
        return as_count(9**length)
