"""Find the arm of a star that ends at a given leaf: `cb,ax,ac,xd/ab=` -> `acb`.

Sources: Bachmann & Nagarajan 2024 (arXiv 2403.06963, section 4): models that are trained with the
correct answer before each token do not learn to find the arm; Frydenlund 2024 (arXiv 2410.13779)
and 2025. A star has arms of equal length from one start; its edges stand in random order, each from
the start outwards, then start and leaf; the answer is all nodes of that arm, start and leaf
included. Their nodes are numbers and one token each; here one character, of which there are 62.

Length n: nodes of an arm, start included.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import CAPITALS, DIGITS, LETTERS, as_count, one_length

NODES = LETTERS + CAPITALS + DIGITS


@dataclass(frozen=True)
class PathStar(Task):
    """Write the nodes of one arm of a star. arms: how many."""

    name: ClassVar[str] = "path_star"
    shortest: ClassVar[int] = 2
    arms: int = 3

    def __post_init__(self) -> None:
        if not 2 <= self.arms < len(NODES):
            raise ValueError(f"arms={self.arms} (from 2 to {len(NODES) - 1})")

    def sample(self, length: Length, rng: Generator) -> Example:
        n_edges = self._n_edges(length)
        start, *names = (NODES[i] for i in rng.permutation(len(NODES))[: n_edges + 1].tolist())
        arm_len = n_edges // self.arms
        arms = [start + "".join(names[i : i + arm_len]) for i in range(0, n_edges, arm_len)]
        edges = [arm[i : i + 2] for arm in arms for i in range(arm_len)]
        shuffled = ",".join([edges[i] for i in rng.permutation(n_edges).tolist()])
        # All arms are alike until here, so the first is as good as any.
        asked = f"{','.join(sorted(edges))}/{start}{arms[0][-1]}"
        return Example(f"{shuffled}/{start}{arms[0][-1]}=", arms[0], asked)

    def longest_row(self, length: int) -> int:
        return 3 * self._n_edges(length) - 1 + len("/ab=") + length

    def n_problems(self, length: int) -> float:
        n_edges = self._n_edges(length)
        labels = math.perm(len(NODES), n_edges + 1) // math.factorial(self.arms - 1)
        return as_count(labels * math.factorial(n_edges))

    def _n_edges(self, length: Length) -> int:
        """Return the number of edges. ValueError for more nodes than there are names."""
        n_edges = self.arms * (one_length(self, length) - 1)
        if n_edges >= len(NODES):
            most = (len(NODES) - 1) // self.arms + 1
            raise ValueError(
                f"path_star: length={length} with arms={self.arms} (at most {most}: "
                f"there are {len(NODES)} names of nodes)"
            )
        return n_edges
