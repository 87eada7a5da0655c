"""Evaluate an expression modulo 5: `1+2*3=` -> `2`; products before sums and differences.

Source: Deletang et al. 2023 (arXiv 2207.02098, task "modular arithmetic (simple)", a regular
language). Their model is an encoder that answers at a blank cell, ours causal.

Length n: characters of the expression. Expressions have odd lengths; for an even n, the length is
n - 1, as in their released code.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import DIGITS, as_count, draw_word, one_length

OPERATORS = "+-*"


@dataclass(frozen=True)
class ModularArithmetic(Task):
    """Evaluate an expression of numbers below `modulus` and the operators +, - and *."""

    name: ClassVar[str] = "modular_arithmetic"
    modulus: int = 5

    def __post_init__(self) -> None:
        if not 2 <= self.modulus <= len(DIGITS):
            raise ValueError(f"modulus={self.modulus} (from 2 to {len(DIGITS)})")

    def sample(self, length: Length, rng: Generator) -> Example:
        n_numbers = (one_length(self, length) + 1) // 2
        numbers = draw_word(DIGITS[: self.modulus], n_numbers, rng)
        operators = draw_word(OPERATORS, n_numbers - 1, rng)
        total, product = 0, int(numbers[0])
        for operator, number in zip(operators, map(int, numbers[1:]), strict=True):
            if operator == "*":
                product = product * number % self.modulus
            else:
                total += product
                product = number if operator == "+" else -number
        expression = numbers[0] + "".join(map("".join, zip(operators, numbers[1:], strict=True)))
        return Example(f"{expression}=", str((total + product) % self.modulus))

    def longest_row(self, length: int) -> int:
        return length - (length + 1) % 2 + 2

    def n_problems(self, length: int) -> float:
        n_numbers = (length + 1) // 2
        return as_count(self.modulus**n_numbers * len(OPERATORS) ** (n_numbers - 1))
