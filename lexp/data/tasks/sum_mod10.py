"""Add digits modulo 10: `7+5+1=` -> `3`.

Source: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C), "summation"; digits are 1 to 9, as in
their released code (make_sum_dataset.py). Theirs has spaces between the digits and words around.
Its scratchpad (sum_instance_processor.py) reads digit by digit: the digit, its sum with what there
is, that sum (here always of two digits), that sum modulo 10, and the digits to come:
`7+5=` -> `>7:7+0;07[7]~5#>5:5+7;12[2]~|2`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import DIGITS, as_count, draw_word, one_length
from lexp.data.tasks.scratchpad import LONGEST, Step, check_parts, n_chars, with_steps


@dataclass(frozen=True)
class SumMod10(Task):
    """Add `length` digits from 1 to 9 modulo 10.

    scratchpad: parts of the steps that the answer begins with, some of icovr; empty for none.
    """

    name: ClassVar[str] = "sum_mod10"
    longest: ClassVar[int] = LONGEST
    scratchpad: str = ""

    def __post_init__(self) -> None:
        check_parts(self.scratchpad)

    def sample(self, length: Length, rng: Generator) -> Example:
        digits = draw_word(DIGITS[1:], one_length(self, length), rng)
        answer = str(sum(map(int, digits)) % 10)
        return Example(f"{'+'.join(digits)}=", with_steps(_steps(digits), self.scratchpad, answer))

    def longest_row(self, length: int) -> int:
        # All problems of a length are equally long. Of n steps the m-th has n - m digits to come.
        sizes = {"i": 2 * length, "c": 4 * length, "o": 3 * length, "v": 3 * length,
                 "r": length + (length - 1) ** 2}  # fmt: skip
        return 2 * length + 1 + n_chars(sizes, length, self.scratchpad)

    def n_problems(self, length: int) -> float:
        return as_count(9**length)


def _steps(digits: str) -> Iterator[Step]:
    """Yield the steps of adding digits from left to right."""
    total = 0
    for n, digit in enumerate(digits, 1):
        result = int(digit) + total
        computation = f"{digit}+{total}"
        total = result % 10
        yield Step(digit, computation, f"{result:02}", str(total), "+".join(digits[n:]))
