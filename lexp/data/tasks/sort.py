"""Sort the input: `dbad=` -> `abdd`, or numbers: `73,512,4=` -> `4,73,512`.

Source: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C), "sort single token" (of 50 tokens, in
an order that the model must learn) and "sort multi digit" (numbers from 10 to 9999). Here: letters
in alphabetical order, and numbers from 0, with commas, each number as likely, so that most have
all `digits`.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import LETTERS, as_count, draw_word, one_length


@dataclass(frozen=True)
class Sort(Task):
    """Sort `length` letters, or numbers.

    n_letters: how many different letters occur. digits: 0 for letters; otherwise numbers of at most
    so many digits are sorted.
    """

    name: ClassVar[str] = "sort"
    n_letters: int = 26
    digits: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.n_letters <= len(LETTERS):
            raise ValueError(f"n_letters={self.n_letters} (from 2 to {len(LETTERS)})")
        if not 0 <= self.digits <= 9:
            raise ValueError(f"digits={self.digits} (from 0 to 9)")
        if self.digits and self.n_letters != type(self).n_letters:
            raise ValueError(
                f"n_letters={self.n_letters} with digits={self.digits} (numbers have no letters; "
                "give one of the two)"
            )

    def sample(self, length: Length, rng: Generator) -> Example:
        n = one_length(self, length)
        if self.digits:
            numbers = rng.integers(10**self.digits, size=n).tolist()
            return Example(f"{_listed(numbers)}=", _listed(sorted(numbers)))
        word = draw_word(LETTERS[: self.n_letters], n, rng)
        return Example(f"{word}=", "".join(sorted(word)))

    def longest_row(self, length: int) -> int:
        return 2 * (self.digits + 1) * length - 1 if self.digits else 2 * length + 1

    def n_problems(self, length: int) -> float:
        return as_count((10**self.digits if self.digits else self.n_letters) ** length)


def _listed(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))
