"""Reverse the input: `abca=` -> `acba`.

Sources: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C), whose variant "reverse, then copy"
is `then_copy`: `abca=` -> `acba,abca`; Deletang et al. 2023 (arXiv 2207.02098, task "reverse
string"), with `n_letters: 2`. Their model is an encoder that answers at blank cells behind the
input, ours a causal model that writes the answer.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import LETTERS, as_count, draw_word, one_length


@dataclass(frozen=True)
class Reverse(Task):
    """Write a word of `length` letters from its end.

    n_letters: how many different letters occur. then_copy: the word itself follows, after a comma.
    """

    name: ClassVar[str] = "reverse"
    n_letters: int = 26
    then_copy: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.n_letters <= len(LETTERS):
            raise ValueError(f"n_letters={self.n_letters} (from 2 to {len(LETTERS)})")

    def sample(self, length: Length, rng: Generator) -> Example:
        word = draw_word(LETTERS[: self.n_letters], one_length(self, length), rng)
        return Example(f"{word}=", f"{word[::-1]},{word}" if self.then_copy else word[::-1])

    def longest_row(self, length: int) -> int:
        return 3 * length + 2 if self.then_copy else 2 * length + 1

    def n_problems(self, length: int) -> float:
        return as_count(self.n_letters**length)
