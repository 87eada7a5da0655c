"""Say whether the number of ones is odd: `01101=` -> `1`.

Sources: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C); Deletang et al. 2023 (arXiv
2207.02098, task "parity check"). The scratchpad is that of Cho et al. 2024 (arXiv 2405.20671,
released code src/data/parity.py): the parity of the input up to each bit, `01101=` -> `01001`; its
last bit is the answer. The model of Deletang et al. is an encoder that answers at a blank cell,
ours causal.
"""

from dataclasses import dataclass
from itertools import accumulate
from operator import xor
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, draw_word, one_length


@dataclass(frozen=True)
class Parity(Task):
    """Write 1 if `length` bits have an odd number of ones, else 0.

    scratchpad: the answer is the parity up to each bit.
    """

    name: ClassVar[str] = "parity"
    scratchpad: bool = False

    def sample(self, length: Length, rng: Generator) -> Example:
        bits = draw_word("01", one_length(self, length), rng)
        if self.scratchpad:
            return Example(f"{bits}=", "".join(map(str, accumulate(map(int, bits), xor))))
        return Example(f"{bits}=", str(bits.count("1") % 2))

    def longest_row(self, length: int) -> int:
        return 2 * length + 1 if self.scratchpad else length + 2

    def n_problems(self, length: int) -> float:
        return as_count(2**length)
