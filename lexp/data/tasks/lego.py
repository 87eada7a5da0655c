"""Follow a chain of variables: `a=-1;c=-a;b=+c;b=` -> `+1`.

Sources: Zhang et al. 2022 (LEGO, arXiv 2206.04301); Kazemnejad et al. 2023 (arXiv 2305.19466,
appendix C), with what their released code asks for (make_lego_dataset.py): a variable of the second
half of the chain, of places n//2 to n-1 counted from 0, for odd n from n//2 + 1. They ask in words;
here the problem ends like the clause that is the answer.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import CAPITALS, LETTERS, as_count, draw_word, one_length

VARIABLES = LETTERS + CAPITALS


@dataclass(frozen=True)
class Lego(Task):
    """Say the value of a variable; `length` variables are each the one before, or its negative.

    shuffle: the clauses stand in a random order instead of that of the chain.
    """

    name: ClassVar[str] = "lego"
    shortest: ClassVar[int] = 2
    shuffle: bool = False

    def sample(self, length: Length, rng: Generator) -> Example:
        """Return a chain of variables with random names and signs, and the value of one of them."""
        n = self._checked(length)
        names = [VARIABLES[i] for i in rng.permutation(len(VARIABLES))[:n].tolist()]
        signs = draw_word("+-", n, rng)
        asked = int(rng.integers(_first_asked(n), n))
        is_negative = signs.count("-", 0, asked + 1) % 2 == 1
        values = ["1", *names[:-1]]
        clauses = [
            f"{name}={sign}{value};" for name, sign, value in zip(names, signs, values, strict=True)
        ]
        asked_for = f"{''.join(clauses)}{names[asked]}"
        if self.shuffle:
            clauses = [clauses[i] for i in rng.permutation(n).tolist()]
        return Example(
            f"{''.join(clauses)}{names[asked]}=", "-1" if is_negative else "+1", asked_for
        )

    def longest_row(self, length: int) -> int:
        return len("a=+1;") * self._checked(length) + len("a=+1")

    def n_problems(self, length: int) -> float:
        n = self._checked(length)
        orders = math.factorial(n) if self.shuffle else 1
        return as_count(math.perm(len(VARIABLES), n) * 2**n * (n - _first_asked(n)) * orders)

    def _checked(self, length: Length) -> int:
        """Return a length. ValueError for one with too many variables."""
        n = one_length(self, length)
        if n > len(VARIABLES):
            raise ValueError(f"lego: length={n} (at most {len(VARIABLES)} variables)")
        return n


def _first_asked(n: int) -> int:
    """Return the first place in a chain of n that is asked for."""
    return n // 2 + n % 2
