"""Multiply two numbers: `57*8=` -> `456`.

Sources: Jelassi et al. 2023 (arXiv 2306.15400), where long examples in training (prime_length) are
what makes it generalise; McLeish et al. 2024 (arXiv 2405.17399) with reversed numbers; Xu et al.
2024 (arXiv 2407.17963) also modulo a number. Format: a digit is one byte; Jelassi et al. write the
first number with n and the second with a fixed number of digits, which is the length (n, m) here.

Length n: one number, each as likely, has n digits, the other 1 to n. A length (n, m): exactly n
and m digits.

| fields | problem | answer |
| --- | --- | --- |
| none | `57*8=` | `456` |
| reverse | `75*8=` | `654` |
| pad | `57*08=` | `0456` |
| modulus: 100 | `57*8=` | `56` |
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, draw_numbers, n_tuples, one_length, operand_lengths


@dataclass(frozen=True)
class Multiplication(Task):
    """Multiply two numbers.

    reverse: all numbers with their last digit first. pad: zeros in front (behind if reversed) of
    the numbers, to the longer one, and of the product, to the largest one. modulus: None for the
    product itself.
    """

    name: ClassVar[str] = "multiplication"
    n_lengths: ClassVar[int] = 2
    longest: ClassVar[int] = 2000  # Python turns numbers of up to 4300 digits into text
    reverse: bool = False
    pad: bool = False
    modulus: int | None = None

    def __post_init__(self) -> None:
        if self.modulus is not None and self.modulus < 2:
            raise ValueError(f"modulus={self.modulus} (at least 2, or null)")

    def sample(self, length: Length, rng: Generator) -> Example:
        digits = operand_lengths(self, length, 2, rng)
        first, second = draw_numbers(digits, rng)
        product = first * second if self.modulus is None else first * second % self.modulus
        texts = [str(first), str(second), str(product)]
        asked = "*".join(sorted(texts[:2]))
        if self.pad:
            longest = max(digits)
            widths = (longest, longest, self._product_digits(longest, longest))
            texts = [text.zfill(width) for text, width in zip(texts, widths, strict=True)]
        if self.reverse:
            texts = [text[::-1] for text in texts]
        return Example(f"{texts[0]}*{texts[1]}=", texts[2], asked)

    def longest_row(self, length: int) -> int:
        longest = one_length(self, length)
        return 2 * longest + 2 + self._product_digits(longest, longest)

    def longest_pair(self, first: int, second: int) -> int:
        longest = max(first, second)
        if self.pad:
            return self.longest_row(longest)
        return first + second + 2 + self._product_digits(first, second)

    def n_problems(self, length: int) -> float:
        return as_count(n_tuples(2, length))

    def _product_digits(self, first: int, second: int) -> int:
        """Return the digits of the largest product of two numbers of so many digits."""
        largest = (10**first - 1) * (10**second - 1)
        return len(str(largest if self.modulus is None else min(largest, self.modulus - 1)))
