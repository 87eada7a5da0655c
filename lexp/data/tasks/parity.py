"""Say whether the number of ones is odd: `01101=` -> `1`.

Sources: Kazemnejad et al. 2023 (arXiv 2305.19466, appendix C); Deletang et al. 2023 (arXiv
2207.02098, task "parity check"). The model of Deletang et al. is an encoder that answers at a blank
cell, ours causal.

`scratchpad: true` is that of Cho et al. 2024 (arXiv 2405.20671, released code src/data/parity.py):
the parity of the input up to each bit, `01101=` -> `01001`; its last bit is the answer. Letters
choose parts of Kazemnejad et al.'s steps (parity_instance_processor.py): the bit, its exclusive or
with the parity before it, the result, the parity now, and the bits to come:
`01=` -> `>0:0^0;0[0]~1#>1:1^0;1[1]~|1`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from operator import xor
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, draw_word, one_length
from lexp.data.tasks.scratchpad import (
    Step,
    check_parts,
    n_chars,
    refuse_too_many_steps,
    with_steps,
)


@dataclass(frozen=True)
class Parity(Task):
    """Write 1 if `length` bits have an odd number of ones, else 0.

    scratchpad: true: the answer is the parity up to each bit. Some of icovr: the answer begins with
    steps that have these parts.
    """

    name: ClassVar[str] = "parity"
    scratchpad: bool | str = False

    def __post_init__(self) -> None:
        check_parts(self._parts)

    def sample(self, length: Length, rng: Generator) -> Example:
        bits = draw_word("01", one_length(self, length), rng)
        if self.scratchpad is True:
            return Example(f"{bits}=", "".join(map(str, _parities(bits))))
        answer = str(bits.count("1") % 2)
        return Example(f"{bits}=", with_steps(_steps(bits), self._parts, answer))

    def longest_row(self, length: int) -> int:
        if self.scratchpad is True:
            return 2 * length + 1
        # All problems of a length are equally long. Of n steps the m-th has n - m bits to come.
        sizes = {"i": 2 * length, "c": 4 * length, "o": 2 * length, "v": 3 * length,
                 "r": length + length * (length - 1) // 2}  # fmt: skip
        return length + 2 + n_chars(sizes, length, self._parts)

    def n_problems(self, length: int) -> float:
        return as_count(2**length)

    def refuse_too_long(self, length: Length) -> None:
        super().refuse_too_long(length)
        refuse_too_many_steps(self.name, one_length(self, length), self._parts)

    @property
    def _parts(self) -> str:
        return self.scratchpad if isinstance(self.scratchpad, str) else ""


def _parities(bits: str) -> Iterator[int]:
    return accumulate(map(int, bits), xor)


def _steps(bits: str) -> Iterator[Step]:
    """Yield the steps of reading bits from left to right."""
    before = 0
    for n, (bit, parity) in enumerate(zip(bits, _parities(bits), strict=True), 1):
        yield Step(bit, f"{bit}^{before}", str(parity), str(parity), bits[n:])
        before = parity
