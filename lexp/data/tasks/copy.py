"""Copy the input: `abac=` -> `abac` (Kazemnejad et al. 2023, arXiv 2305.19466, appendix C).

Variants, as in their released code (make_copy_dataset.py): `times: 2` is "copy 2x", `abac=` ->
`abac,abac`; `one_letter` is "repeat", `aaaa=` -> `aaaa`, which tests counting alone. Their words
have 100 different tokens with spaces between, ours letters without.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import LETTERS, as_count, draw_word, one_length

MOST_TIMES = 1000


@dataclass(frozen=True)
class CopyWord(Task):
    """Repeat a word of `length` letters.

    n_letters: how many different letters occur. times: how often the answer has the word.
    one_letter: all letters of a word are the same.
    """

    name: ClassVar[str] = "copy"
    n_letters: int = 26
    times: int = 1
    one_letter: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.n_letters <= len(LETTERS):
            raise ValueError(f"n_letters={self.n_letters} (from 2 to {len(LETTERS)})")
        if not 1 <= self.times <= MOST_TIMES:
            raise ValueError(f"times={self.times} (from 1 to {MOST_TIMES})")

    def sample(self, length: Length, rng: Generator) -> Example:
        n = one_length(self, length)
        letters = LETTERS[: self.n_letters]
        word = draw_word(letters, 1, rng) * n if self.one_letter else draw_word(letters, n, rng)
        return Example(f"{word}=", ",".join([word] * self.times))

    def longest_row(self, length: int) -> int:
        return (1 + self.times) * length + self.times

    def n_problems(self, length: int) -> float:
        return as_count(self.n_letters ** (1 if self.one_letter else length))
