"""Write runs of a digit as one digit: `1115222223=` -> `1523`.

Source: Ray Chowdhury & Caragea 2023 (arXiv 2305.20019, task "DeDupe"; released code
process_dedupe.py), with their runs of 1, 3 or 5 digits, each as likely. They draw each digit by
itself, and two runs that are equal by chance become one; here neighbours differ, so that the length
of a problem is that of its answer. Their model is an encoder-decoder, ours causal.

Length n: runs.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import DIGITS, as_count, draw_word, one_length

RUNS = (1, 3, 5)


@dataclass(frozen=True)
class Deduplicate(Task):
    """Write each of `length` runs of a digit once."""

    name: ClassVar[str] = "deduplicate"

    def sample(self, length: Length, rng: Generator) -> Example:
        n = one_length(self, length)
        runs = [RUNS[i] for i in rng.integers(len(RUNS), size=n).tolist()]
        answer = draw_word(DIGITS, 1, rng)
        for other in rng.integers(len(DIGITS) - 1, size=n - 1).tolist():
            # One of the nine digits that are not the last one.
            answer += DIGITS[other + (other >= int(answer[-1]))]
        shown = "".join([digit * run for digit, run in zip(answer, runs, strict=True)])
        return Example(f"{shown}=", answer)

    def longest_row(self, length: int) -> int:
        return (max(RUNS) + 1) * length + 1

    def n_problems(self, length: int) -> float:
        n_digits = len(DIGITS)
        return as_count(n_digits * (n_digits - 1) ** (length - 1) * len(RUNS) ** length)
