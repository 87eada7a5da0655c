"""Sort the input: `dbad=` -> `abdd`, or numbers: `73,512,4=` -> `4,73,512`.

Source: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C), "sort single token" (of 50 tokens, in
an order that the model must learn) and "sort multi digit" (numbers from 10 to 9999). Here: letters
in alphabetical order, and numbers from 0, with commas, each number as likely, so that most have
all `digits`.

Its scratchpad (sort_instance_processor.py) puts the least of what is unsorted in front, again and
again: the first of the unsorted, the word min (theirs is a sentence), the least, and what is
unsorted then, where the first has taken the place of the least; no variables:
`dbad=` -> `>d:min;a~bdd#>b:min;b~dd#>d:min;d~d#>d:min;d~|abdd`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import LETTERS, as_count, draw_word, one_length
from lexp.data.tasks.scratchpad import (
    Step,
    check_parts,
    n_chars,
    refuse_too_many_steps,
    with_steps,
)

PARTS = "icor"  # sorting has no variables
Item = TypeVar("Item", int, str)


@dataclass(frozen=True)
class Sort(Task):
    """Sort `length` letters, or numbers.

    n_letters: how many different letters occur. digits: 0 for letters; otherwise numbers of at most
    so many digits are sorted. scratchpad: parts of the steps that the answer begins with, some of
    icor; empty for none.
    """

    name: ClassVar[str] = "sort"
    n_letters: int = 26
    digits: int = 0
    scratchpad: str = field(default="", repr=False)

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
        check_parts(self.scratchpad, PARTS)

    def sample(self, length: Length, rng: Generator) -> Example:
        n = one_length(self, length)
        if self.digits:
            items, comma = rng.integers(10**self.digits, size=n).tolist(), ","
        else:
            items, comma = list(draw_word(LETTERS[: self.n_letters], n, rng)), ""
        answer = with_steps(_steps(items, comma), self.scratchpad, _listed(sorted(items), comma))
        return Example(f"{_listed(items, comma)}=", answer)

    def longest_row(self, length: int) -> int:
        size, comma = (self.digits, 1) if self.digits else (1, 0)
        # Of n steps the m-th has n - m items to come.
        items, commas = length * (length - 1) // 2, (length - 1) * (length - 2) // 2
        sizes = {"i": (1 + size) * length, "c": 4 * length, "o": (1 + size) * length,
                 "r": length + size * items + comma * commas}  # fmt: skip
        row = 2 * (size * length + comma * (length - 1)) + 1
        return row + n_chars(sizes, length, self.scratchpad)

    def n_problems(self, length: int) -> float:
        return as_count((10**self.digits if self.digits else self.n_letters) ** length)

    def refuse_too_long(self, length: Length) -> None:
        super().refuse_too_long(length)
        refuse_too_many_steps(self.name, one_length(self, length), self.scratchpad)


def _steps(items: list[Item], comma: str) -> Iterator[Step]:
    """Yield the steps of sorting by exchange with the least item."""
    unsorted = list(items)
    while unsorted:
        first, least = unsorted[0], min(unsorted)
        unsorted[unsorted.index(least)] = first
        del unsorted[0]
        yield Step(str(first), "min", str(least), "", _listed(unsorted, comma))


def _listed(items: list[Item], comma: str) -> str:
    return comma.join(map(str, items))
