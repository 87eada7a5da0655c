"""Scratchpads: the steps to an answer, in parts that can be left out.

Source: Kazemnejad et al. 2023 (arXiv 2305.19466, section 6 and appendix C.3); released code
McGill-NLP/length-generalization d06170e, data_instance_processor.py. A step has five parts: what is
read (i), the computation (c), its result (o), the variables after it (v) and what is still to be
read (r). They study all 32 choices of parts. Theirs have words between the parts, here one
character each: `>i:c;o[v]~r`, with `#` between steps and `|` before the answer.
"""

from collections.abc import Iterable
from typing import NamedTuple

PARTS = "icovr"


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


def check_parts(parts: str) -> None:
    """Raise ValueError unless these are some of `PARTS`, each once and in order."""
    if parts != "".join(part for part in PARTS if part in parts):
        raise ValueError(f"scratchpad={parts} (some of {PARTS} in this order, or empty for none)")
