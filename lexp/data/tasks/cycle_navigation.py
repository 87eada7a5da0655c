"""Walk on a circle of five places from place 0 and say where it ends: `+-0--=` -> `3`.

Source: Deletang et al. 2023 (arXiv 2207.02098, task "cycle navigation", a regular language): + is a
step forwards, - a step back, 0 none. Their model is an encoder that answers at a blank cell, ours
causal.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, draw_word, one_length

N_PLACES = 5


@dataclass(frozen=True)
class CycleNavigation(Task):
    """Write the place, 0 to 4, where `length` actions end."""

    name: ClassVar[str] = "cycle_navigation"

    def sample(self, length: Length, rng: Generator) -> Example:
        actions = draw_word("0+-", one_length(self, length), rng)
        place = (actions.count("+") - actions.count("-")) % N_PLACES
        return Example(f"{actions}=", str(place))

    def longest_row(self, length: int) -> int:
        return length + 2

    def n_problems(self, length: int) -> float:
        return as_count(3**length)
