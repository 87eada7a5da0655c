"""Follow instructions on a stack: `0110b--=` -> `110.`.

Source: Deletang et al. 2023 (arXiv 2207.02098, task "stack manipulation", deterministic
context-free). The stack stands there from its bottom; then `-` takes the top away (from an empty
stack nothing), `a` puts a 0 on it, `b` a 1. The answer is the stack from its top, and `.` below its
bottom. Their model is an encoder that answers at blank cells behind the input and pads with 0 after
the end symbol, ours a causal model whose answer ends there.

Length n: bits of the stack and instructions together. The stack has 1 to n - 1 bits, each number as
likely, so there is an instruction; for n = 1 there is none.
"""

from dataclasses import dataclass
from typing import ClassVar

from numpy.random import Generator

from lexp.data.tasks.base import Example, Length, Task
from lexp.data.tasks.draw import as_count, draw_word, one_length

PUSHED = {"a": "0", "b": "1"}


@dataclass(frozen=True)
class StackManipulation(Task):
    """Write what is on a stack in the end."""

    name: ClassVar[str] = "stack_manipulation"

    def sample(self, length: Length, rng: Generator) -> Example:
        n = one_length(self, length)
        n_bits = int(rng.integers(1, n)) if n > 1 else 1
        bits, actions = draw_word("01", n_bits, rng), draw_word("-ab", n - n_bits, rng)
        stack = list(bits)
        for action in actions:
            if action != "-":
                stack.append(PUSHED[action])
            elif stack:
                stack.pop()
        return Example(f"{bits}{actions}=", f"{''.join(reversed(stack))}.")

    def longest_row(self, length: int) -> int:
        return 2 * length + 2

    def n_problems(self, length: int) -> float:
        if length == 1:
            return 2.0
        # The sum over the number of bits s of 2^s 3^(n-s), s = 1 to n - 1.
        return as_count(2 * (3**length - 3 * 2 ** (length - 1)))
