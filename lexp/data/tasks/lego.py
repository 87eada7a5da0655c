"""Follow a chain of variables: `a=-1;c=-a;b=+c;b=` -> `+1`.

Sources: Zhang et al. 2022 (LEGO, arXiv 2206.04301); Kazemnejad et al. 2023 (arXiv 2305.19466,
appendix C), with what their released code asks for (make_lego_dataset.py): a variable of the second
half of the chain, of places n//2 to n-1 counted from 0, for odd n from n//2 + 1. They ask in words;
here the problem ends like the clause that is the answer.

Its scratchpad (lego_instance_processor.py) follows the chain to the variable that is asked for: the
variable, its clause with the value put in (nothing for the first), its value, and the clauses that
are left, in their order and without equals signs; no variables (v) of a step:
`a=-1;c=-a;b=+c;b=` -> `>a:;-1~c-a,b+c#>c:-a,--1;+1~b+c#>b:+c,++1;+1~|+1`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import CAPITALS, LETTERS, as_count, draw_word, one_length
from lexp.data.tasks.scratchpad import Step, check_parts, n_chars, with_steps

PARTS = "icor"  # a step's only variable is its result
VARIABLES = LETTERS + CAPITALS


@dataclass(frozen=True)
class Lego(Task):
    """Say the value of a variable; `length` variables are each the one before, or its negative.

    shuffle: the clauses stand in a random order instead of that of the chain. scratchpad: parts of
    the steps that the answer begins with, some of icor; empty for none.
    """

    name: ClassVar[str] = "lego"
    shortest: ClassVar[int] = 2
    shuffle: bool = False
    scratchpad: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_parts(self.scratchpad, PARTS)

    def sample(self, length: Length, rng: Generator) -> Example:
        """Return a chain of variables with random names and signs, and the value of one of them."""
        n = self._checked(length)
        names = [VARIABLES[i] for i in rng.permutation(len(VARIABLES))[:n].tolist()]
        signs = draw_word("+-", n, rng)
        asked = int(rng.integers(_first_asked(n), n))
        values = ["1", *names[:-1]]
        clauses = [
            f"{name}={sign}{value};" for name, sign, value in zip(names, signs, values, strict=True)
        ]
        asked_for = f"{''.join(clauses)}{names[asked]}"
        order = rng.permutation(n).tolist() if self.shuffle else range(n)
        terms = [sign + value for sign, value in zip(signs, values, strict=True)]
        chain = dict(zip(names[: asked + 1], terms, strict=False))
        left = {names[i]: terms[i] for i in order}
        answer = with_steps(_steps(chain, left), self.scratchpad, _value(signs[: asked + 1]))
        return Example(f"{''.join(clauses[i] for i in order)}{names[asked]}=", answer, asked_for)

    def longest_row(self, length: int) -> int:
        n = self._checked(length)
        # The last variable is asked for. Of n steps the m-th has n - m clauses left.
        left = 3 * n * (n - 1) // 2 + (n - 1) * (n - 2) // 2
        sizes = {"i": 2 * n, "c": 7 * n - 6, "o": 3 * n, "r": n + left}
        return len("a=+1;") * n + len("a=+1") + n_chars(sizes, n, self.scratchpad)

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


def _value(signs: str) -> str:
    """Return the value of the last variable of a chain that begins with a one."""
    return "-1" if signs.count("-") % 2 else "+1"


def _steps(chain: dict[str, str], clauses: dict[str, str]) -> Iterator[Step]:
    """Yield the steps along a chain.

    chain: the variables to the one that is asked for, each with its sign and the variable before
    it. clauses: those of all variables, in the order of the problem.
    """
    left, signs, before = dict(clauses), "", ""
    for name, term in chain.items():
        signs += term[0]
        del left[name]
        computation = f"{term},{term[0]}{before}" if before else ""
        before = _value(signs)
        remaining = ",".join(map("".join, left.items()))
        yield Step(name, computation, before, "", remaining)


def _first_asked(n: int) -> int:
    """Return the first place in a chain of n that is asked for."""
    return n // 2 + n % 2
