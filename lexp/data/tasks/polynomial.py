"""Evaluate a polynomial modulo 10: `x=-2:3x2-1x0+2x1=` -> `7`, as 12 - 1 - 4 = 7.

Source: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C), with the ranges of their released
code (make_poly_dataset.py): x from -2 to 2, coefficients from -3 to 3, degrees from 0 to 3, drawn
term by term, so a degree may occur more than once. 0^0 is 1. They write `3 * x ** 2`, here `3x2`.
Its scratchpad (poly_instance_processor.py) reads term by term: the term, the coefficient times the
power of x, that product, the sum so far modulo 10, and the terms to come. Numbers have signs here:
`x=-2:3x2-1x0=` -> `>+3x2:+3*+4;+12[2]~-1x0#>-1x0:-1*+1;-01[1]~|1`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, one_length
from lexp.data.tasks.scratchpad import Step, check_parts, n_chars, with_steps

N_COEFFICIENTS, N_DEGREES, N_POINTS = 7, 4, 5


@dataclass(frozen=True)
class Polynomial(Task):
    """Evaluate a polynomial of `length` terms modulo 10; the answer is a digit.

    scratchpad: parts of the steps that the answer begins with, some of icovr; empty for none.
    """

    name: ClassVar[str] = "polynomial"
    longest: ClassVar[int] = 2000  # what is to come at each step has 2 * 2000^2 characters
    scratchpad: str = ""

    def __post_init__(self) -> None:
        check_parts(self.scratchpad)

    def sample(self, length: Length, rng: Generator) -> Example:
        """Return a polynomial of random terms at a random point, and its value modulo 10."""
        n = one_length(self, length)
        x = int(rng.integers(N_POINTS)) - N_POINTS // 2
        terms = rng.integers(N_COEFFICIENTS * N_DEGREES, size=n).tolist()
        powers = [x**degree for degree in range(N_DEGREES)]
        numbers, texts = [], []
        for term in terms:
            number, degree = divmod(term, N_DEGREES)
            coefficient = number - N_COEFFICIENTS // 2
            numbers.append((coefficient, powers[degree]))
            texts.append(f"{coefficient:+}x{degree}")
        answer = str(sum(coefficient * power for coefficient, power in numbers) % 10)
        answer = with_steps(_steps(texts, numbers), self.scratchpad, answer)
        return Example(f"x={x}:{''.join(texts).removeprefix('+')}=", answer)

    def longest_row(self, length: int) -> int:
        # Steps have parts of one size each. Of n steps the m-th has n - m terms to come.
        sizes = {"i": 5 * length, "c": 6 * length, "o": 4 * length, "v": 3 * length,
                 "r": length + 2 * length * (length - 1)}  # fmt: skip
        steps = n_chars(sizes, length, self.scratchpad)
        return len("x=-2:") + len("-3x3") * length + len("=0") + steps

    def n_problems(self, length: int) -> float:
        return as_count(N_POINTS * (N_COEFFICIENTS * N_DEGREES) ** length)


def _steps(terms: list[str], numbers: list[tuple[int, int]]) -> Iterator[Step]:
    """Yield the steps of adding up terms. numbers: of each, its coefficient and power of x."""
    total = 0
    for n, (term, (coefficient, power)) in enumerate(zip(terms, numbers, strict=True), 1):
        product = coefficient * power
        total = (total + product) % 10
        computation = f"{coefficient:+}*{power:+}"
        yield Step(term, computation, f"{product:+03}", str(total), "".join(terms[n:]))
