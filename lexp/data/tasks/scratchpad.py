"""Scratchpads: the steps to an answer, in parts that can be left out.

Source: Kazemnejad et al. 2023 (arXiv 2305.19466, section 6 and appendix C.3); released code
McGill-NLP/length-generalization d06170e, data_instance_processor.py. A step has five parts: what is
read (i), the computation (c), its result (o), the variables after it (v) and what is still to be
read (r). They study all 32 choices of parts. Theirs have words between the parts, here one
character each: `>i:c;o[v]~r`, with `#` between steps and `|` before the answer. They have steps for
addition, LEGO, parity, polynomials, sorting and summation; copying, reversing and SCAN have none.
"""

from collections.abc import Iterable
from typing import NamedTuple

PARTS = "icovr"
# What is to come is written at each step, so a row has about as many characters as length^2.
LONGEST = 4000


class Step(NamedTuple):
    """The texts of one step's parts."""

    read: str
    computation: str
    result: str
    variables: str
    remaining: str

    def written(self, parts: str) -> str:
        """Return the chosen parts, some of `PARTS`, each with its mark."""
        texts = (
            f">{self.read}",
            f":{self.computation}",
            f";{self.result}",
            f"[{self.variables}]",
            f"~{self.remaining}",
        )
        return "".join(text for part, text in zip(PARTS, texts, strict=True) if part in parts)


def with_steps(steps: Iterable[Step], parts: str, answer: str) -> str:
    """Return an answer after its steps with the chosen parts; without parts, the answer alone."""
    return f"{'#'.join(step.written(parts) for step in steps)}|{answer}" if parts else answer


def n_chars(sizes: dict[str, int], n_steps: int, parts: str) -> int:
    """Count the characters of steps with the chosen parts, and of the marks between them.

    sizes: for each part, the characters of all steps together, its marks included.
    """
    return sum(sizes[part] for part in parts) + n_steps if parts else 0


def check_parts(parts: str, known: str = PARTS) -> None:
    """Raise ValueError unless these are some of the known parts, each once and in order."""
    if parts != "".join(part for part in known if part in parts):
        raise ValueError(f"scratchpad={parts} (some of {known} in this order, or empty for none)")


def refuse_too_many_steps(name: str, length: int, parts: str) -> None:
    """Raise ValueError where the steps of a task would have too many characters."""
    if parts and length > LONGEST:
        raise ValueError(f"{name}: length={length} with scratchpad={parts} (at most {LONGEST})")
