"""Add two numbers modulo m: `57+68=` -> `25` for m = 100, `24` for m = 101.

Source: Xu et al. 2024 (arXiv 2407.17963), "Relating the Seemingly Unrelated": a model that is
trained on few digits generalises to more for m = 100, where all digits but the last two can be left
out, and not for m = 101, where each digit counts. Format: a digit is one byte, numbers have no
zeros in front.

Length n: one operand, each as likely, has n digits, the other 1 to n. A length (n, m): exactly n
and m digits.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, draw_numbers, n_tuples, one_length, operand_lengths


@dataclass(frozen=True)
class ModularAddition(Task):
    """Add two numbers modulo `modulus`. reverse: all numbers with their last digit first."""

    name: ClassVar[str] = "modular_addition"
    n_lengths: ClassVar[int] = 2
    longest: ClassVar[int] = 4000  # Python turns numbers of up to 4300 digits into text
    modulus: int = 100
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.modulus < 2:
            raise ValueError(f"modulus={self.modulus} (at least 2)")

    def sample(self, length: Length, rng: Generator) -> Example:
        numbers = draw_numbers(operand_lengths(self, length, 2, rng), rng)
        texts = [str(number) for number in (*numbers, sum(numbers) % self.modulus)]
        asked = "+".join(sorted(texts[:2]))
        first, second, answer = (text[::-1] for text in texts) if self.reverse else texts
        return Example(f"{first}+{second}=", answer, asked)

    def longest_row(self, length: int) -> int:
        longest = one_length(self, length)
        return self.longest_pair(longest, longest)

    def longest_pair(self, first: int, second: int) -> int:
        largest = min(self.modulus - 1, 10**first + 10**second - 2)
        return first + second + 2 + len(str(largest))

    def n_problems(self, length: int) -> float:
        return as_count(n_tuples(2, length))
