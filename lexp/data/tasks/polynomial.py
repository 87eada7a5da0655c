"""Evaluate a polynomial modulo 10: `x=-2:3x2-1x0+2x1=` -> `7`, as 12 - 1 - 4 = 7.

Source: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C), with the ranges of their released
code (make_poly_dataset.py): x from -2 to 2, coefficients from -3 to 3, degrees from 0 to 3, drawn
term by term, so a degree may occur more than once. 0^0 is 1. They write `3 * x ** 2`, here `3x2`.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, one_length

N_COEFFICIENTS, N_DEGREES, N_POINTS = 7, 4, 5


@dataclass(frozen=True)
class Polynomial(Task):
    """Evaluate a polynomial of `length` terms modulo 10; the answer is a digit."""

    name: ClassVar[str] = "polynomial"

    def sample(self, length: Length, rng: Generator) -> Example:
        n = one_length(self, length)
        x = int(rng.integers(N_POINTS)) - N_POINTS // 2
        terms = rng.integers(N_COEFFICIENTS * N_DEGREES, size=n).tolist()
        powers = [x**degree for degree in range(N_DEGREES)]
        value, texts = 0, []
        for term in terms:
            number, degree = divmod(term, N_DEGREES)
            coefficient = number - N_COEFFICIENTS // 2
            value += coefficient * powers[degree]
            texts.append(f"{coefficient:+}x{degree}")
        return Example(f"x={x}:{''.join(texts).removeprefix('+')}=", str(value % 10))

    def longest_row(self, length: int) -> int:
        return len("x=-2:") + len("-3x3") * length + len("=0")

    def n_problems(self, length: int) -> float:
        return as_count(N_POINTS * (N_COEFFICIENTS * N_DEGREES) ** length)
