"""Sort digits of a small alphabet: `10204112=` -> `00111224`.

Source: Deletang et al. 2023 (arXiv 2207.02098, task "bucket sort", context-sensitive), with the
digits 0 to 4. Their model is an encoder that answers at blank cells behind the input, ours a causal
model that writes the answer.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import DIGITS, as_count, draw_word, one_length


@dataclass(frozen=True)
class BucketSort(Task):
    """Sort `length` digits. n_digits: how many different digits occur."""

    name: ClassVar[str] = "bucket_sort"
    n_digits: int = 5

    def __post_init__(self) -> None:
        if not 2 <= self.n_digits <= len(DIGITS):
            raise ValueError(f"n_digits={self.n_digits} (from 2 to {len(DIGITS)})")

    def sample(self, length: Length, rng: Generator) -> Example:
        word = draw_word(DIGITS[: self.n_digits], one_length(self, length), rng)
        return Example(f"{word}=", "".join(sorted(word)))

    def longest_row(self, length: int) -> int:
        return 2 * length + 1

    def n_problems(self, length: int) -> float:
        return as_count(self.n_digits**length)
