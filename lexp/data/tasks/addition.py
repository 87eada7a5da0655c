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

The scratchpad of Kazemnejad et al. (addition_instance_processor.py) adds columns from the last to
the first: the two digits, their sum with the carry in three forms (theirs have the word carry and
the remainder by ten besides), its last digit, the carry, and what is left of the numbers; a carry
out of the first column has a step of its own.

| fields | problem | answer |
| --- | --- | --- |
| none | `57+8=` | `65` |
| reverse | `75+8=` | `56` |
| pad | `57+08=` | `065` |
| hints | `b5c7+c8=` | `b6c5` |
| reverse, hints | `a7b5+a8=` | `a5b6` |
| operands: 3 | `57+8+3=` | `68` |
| scratchpad: iov | `57+8=` | `>7,8;5[1]#>5,0;6[0]|65` |
| scratchpad: cr | `57+8=` | `:7+8+0,15+0,15~5+0#:5+0+1,05+1,06~+|65` |
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
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
from lexp.data.tasks.scratchpad import Step, check_parts, n_chars, with_steps

MOST_OPERANDS = 100
# Hints are printable characters that occur nowhere else in a problem.
HINTS = LETTERS + CAPITALS + "!\"#$%&'()*,-./:;<>?@[\\]^_`{|}~"


@dataclass(frozen=True)
class Addition(Task):
    """Add numbers. operands: how many.

    reverse: all numbers with their last digit first. pad: zeros in front (behind if reversed) of
    operands, to the longest, and of the answer, to the largest sum. hints: a character before each
    digit, the same for the same place in all numbers; those of a problem follow each other in
    `HINTS` from left to right, and the first is drawn. scratchpad: parts of the steps that the
    answer begins with, some of icovr; empty for none.
    """

    name: ClassVar[str] = "addition"
    n_lengths: ClassVar[int] = 2
    longest: ClassVar[int] = 4000  # Python turns numbers of up to 4300 digits into text
    operands: int = 2
    reverse: bool = False
    pad: bool = False
    hints: bool = False
    scratchpad: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not 2 <= self.operands <= MOST_OPERANDS:
            raise ValueError(f"operands={self.operands} (from 2 to {MOST_OPERANDS})")
        check_parts(self.scratchpad)
        is_plain = self.operands == 2 and not (self.reverse or self.pad or self.hints)
        if self.scratchpad and not is_plain:
            raise ValueError(
                f"scratchpad={self.scratchpad} with operands={self.operands}, "
                f"reverse={self.reverse}, pad={self.pad}, hints={self.hints} (its steps are those "
                "of two numbers as they are written; leave scratchpad or the others out)"
            )

    def sample(self, length: Length, rng: Generator) -> Example:
        """Return random numbers of at most `length` digits and their sum, in the format."""
        digits = operand_lengths(self, length, self.operands, rng)
        numbers = draw_numbers(digits, rng)
        longest = max(digits)
        n_sum = self._sum_digits(longest)
        texts = [str(number) for number in numbers]
        answer = str(sum(numbers))
        asked = "+".join(sorted(texts))
        answer = with_steps(_steps(texts), self.scratchpad, answer)
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
        if self.scratchpad:
            return self.longest_pair(longest, longest)
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
        steps = _steps_chars(first, second, self.scratchpad)
        return n_digits * (2 if self.hints else 1) + 2 + steps

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


def _steps(texts: list[str]) -> Iterator[Step]:
    """Yield the steps of adding two numbers by columns, from the last to the first."""
    width = max(map(len, texts))
    first, second = (text.zfill(width + 1) for text in texts)
    carry = 0
    for place in range(width, -1, -1):
        if place == 0 and carry == 0:
            return
        digits = f"{first[place]}+{second[place]}"
        both = int(first[place]) + int(second[place])
        computation = f"{digits}+{carry},{both:02}+{carry},{both + carry:02}"
        carry, digit = divmod(both + carry, 10)
        left = "+".join(_without_zeros(number[1:place]) for number in (first, second))
        yield Step(digits.replace("+", ","), computation, str(digit), str(carry), left)


def _without_zeros(text: str) -> str:
    """Return a number without zeros in front; no digits for none."""
    return text.lstrip("0") or text[:1]


def _steps_chars(first: int, second: int, parts: str) -> int:
    """Count the characters of the steps of the largest numbers of so many digits."""
    width = max(first, second)
    n = width + 1  # with that of the carry
    left = sum(max(first - m, 1) + max(second - m, 1) for m in range(1, width))
    sizes = {"i": 4 * n, "c": 14 * n, "o": 2 * n, "v": 3 * n, "r": 2 * n + left}
    return n_chars(sizes, n, parts)
