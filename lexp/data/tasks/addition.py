"""Add numbers: `57+8=` -> `65`.

Sources: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C); Zhou et al. 2024 (arXiv 2402.09371)
for reversed numbers with index hints, which Zhou et al. 2023 (arXiv 2310.16028) introduced; Cho et
al. 2024 (arXiv 2405.20671, released code src/data/addition.py) for zero padding. Differences: a
digit is one byte without spaces around it. The released code of McLeish et al. 2024 (arXiv
2405.17399) takes hints in a cycle of 102 symbols; here no hint means two places of a problem, so
with hints a sum has at most 82 digits. Kazemnejad et al. draw each pair of lengths as often, here
each length of the longest operand is drawn as often.

Length n: one operand, each as likely, has n digits, every other one 1 to n digits, each number of
digits as likely, then each number of so many digits as likely. A length (n, m): exactly n and m.

| fields | problem | answer |
| --- | --- | --- |
| none | `57+8=` | `65` |
| reverse | `75+8=` | `56` |
| pad | `57+08=` | `065` |
| hints | `b5c7+c8=` | `b6c5` |
| reverse, hints | `a7b5+a8=` | `a5b6` |
| operands: 3 | `57+8+3=` | `68` |
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import (
    CAPITALS,
    LETTERS,
    as_count,
    draw_numbers,
    n_tuples,
    one_length,
    operand_lengths,
)

MOST_OPERANDS = 100
# Hints are printable characters that occur nowhere else in a problem.
HINTS = LETTERS + CAPITALS + "!\"#$%&'()*,-./:;<>?@[\\]^_`{|}~"


@dataclass(frozen=True)
class Addition(Task):
    """Add numbers. operands: how many.

    reverse: all numbers with their last digit first. pad: zeros in front (behind if reversed) of
    operands, to the longest, and of the answer, to the largest sum. hints: a character before each
    digit, the same for the same place in all numbers; those of a problem follow each other in
    `HINTS` from left to right, and the first is drawn.
    """

    name: ClassVar[str] = "addition"
    n_lengths: ClassVar[int] = 2
    longest: ClassVar[int] = 4000  # Python turns numbers of up to 4300 digits into text
    operands: int = 2
    reverse: bool = False
    pad: bool = False
    hints: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.operands <= MOST_OPERANDS:
            raise ValueError(f"operands={self.operands} (from 2 to {MOST_OPERANDS})")

    def sample(self, length: Length, rng: Generator) -> Example:
        """Return random numbers of at most `length` digits and their sum, in the format."""
        digits = operand_lengths(self, length, self.operands, rng)
        numbers = draw_numbers(digits, rng)
        longest = max(digits)
        n_sum = self._sum_digits(longest)
        texts = [str(number) for number in numbers]
        answer = str(sum(numbers))
        asked = "+".join(sorted(texts))
        if self.pad:
            texts = [text.zfill(longest) for text in texts]
            answer = answer.zfill(n_sum)
        if self.reverse:
            texts = [text[::-1] for text in texts]
            answer = answer[::-1]
        if self.hints:
            start = int(rng.integers(self._n_starts(longest)))
            places = HINTS[start : start + n_sum]
            texts = [self._hinted(text, places) for text in texts]
            answer = self._hinted(answer, places)
        return Example(f"{'+'.join(texts)}=", answer, asked)

    def longest_row(self, length: int) -> int:
        longest = one_length(self, length)
        n_digits = self.operands * longest + self._sum_digits(longest)
        if self.hints:
            self._n_starts(longest)
            n_digits *= 2
        return n_digits + self.operands

    def longest_pair(self, first: int, second: int) -> int:
        longest = max(first, second)
        if self.pad:
            return self.longest_row(longest)
        n_digits = first + second + len(str(10**first + 10**second - 2))
        return n_digits * (2 if self.hints else 1) + 2

    def n_problems(self, length: int) -> float:
        if self.hints:
            self._n_starts(length)
        return as_count(n_tuples(self.operands, length))

    def _sum_digits(self, longest: int) -> int:
        """Return the digits of the largest sum of operands of so many digits."""
        return len(str(self.operands * (10**longest - 1)))

    def _n_starts(self, longest: int) -> int:
        """Return how many hints can be the first. ValueError if there are too few hints."""
        n_starts = len(HINTS) - self._sum_digits(longest) + 1
        if n_starts < 1:
            raise ValueError(
                f"addition: length={longest} with hints=true (at most {len(HINTS)} digits in the "
                "sum, one hint for each)"
            )
        return n_starts

    def _hinted(self, text: str, places: str) -> str:
        """Return a number with its hints; `places` are those of the largest sum, left to right."""
        own = places if self.reverse else places[len(places) - len(text) :]
        return "".join(map("".join, zip(own, text, strict=False)))
