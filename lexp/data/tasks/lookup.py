"""Apply tables one after the other: `3:ca=` -> `60` if table c has 6 for 3, and table a 0 for 6.

Source: Liska et al. 2018 (arXiv 1802.06467), lookup tables, of which Ray Chowdhury & Caragea 2023
(arXiv 2305.20019) use a long version. The tables are permutations of eight values, the same in all
problems, so that a model learns them by heart. The answer is the value after each table. Their
values are words of three bits, here digits.

Length n: tables in a problem.
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import LETTERS, as_count, draw_word, one_length

N_VALUES, N_TABLES = 8, 6


@dataclass(frozen=True)
class Lookup(Task):
    """Apply `length` tables, from left to right. tables_seed: which tables there are."""

    name: ClassVar[str] = "lookup"
    tables_seed: int = 0

    def __post_init__(self) -> None:
        if self.tables_seed < 0:
            raise ValueError(f"tables_seed={self.tables_seed} (at least 0)")

    def sample(self, length: Length, rng: Generator) -> Example:
        names = draw_word(LETTERS[:N_TABLES], one_length(self, length), rng)
        start = value = int(rng.integers(N_VALUES))
        tables = _tables(self.tables_seed)
        values = [value := tables[name][value] for name in names]
        return Example(f"{start}:{names}=", "".join(map(str, values)))

    def longest_row(self, length: int) -> int:
        return 2 * length + 3

    def n_problems(self, length: int) -> float:
        return as_count(N_VALUES * N_TABLES**length)


@cache
def _tables(seed: int) -> dict[str, list[int]]:
    """Return each table as its values for 0 to 7."""
    rng = np.random.default_rng(seed)
    return {name: rng.permutation(N_VALUES).tolist() for name in LETTERS[:N_TABLES]}
