"""Passkey retrieval: one number in a long text, asked for at the end.

Mohtashami and Jaggi 2023 (arXiv 2305.16300, section 4.2), who repeat "the grass is green" around
it and write the number twice. Here the text is real and the number stands in it once.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from lexp.probes.base import (
    DIGITS,
    Form,
    Material,
    Probe,
    ProbeExample,
    lay_out,
    occurrences,
    room_for,
)

NEEDLE, AFTER = "\nThe pass key is #", ". Remember it.\n"
QUESTION = "\nWhat is the pass key? The pass key is #"


@dataclass(frozen=True)
class Passkey(Probe):
    """A number of so many digits at a depth drawn uniformly; candidates are other such numbers."""

    name: ClassVar[str] = "passkey"
    digits: int = 5
    candidates: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 20:
            raise ValueError(f"passkey takes 1 to 20 digits, got {self.digits}")
        most = min(100, 10**self.digits)
        if not 1 <= self.candidates <= most:
            raise ValueError(f"passkey takes 1 to {most} candidates, got {self.candidates}")

    @property
    def n_candidates(self) -> int:
        """Return the right number and others that are not in the text."""
        return self.candidates

    def attempt(self, material: Material, length: int, rng: Generator) -> ProbeExample | None:
        """Plant the number in its sentence at a random place, the question at the end."""
        form = Form(DIGITS, self.digits)
        lead = material.lead(form)
        value, *others = material.values(form, self.candidates, rng)
        (wrong,) = material.values(form, 1, rng, like=value)
        needle = np.concatenate([material.encode(NEEDLE), lead, value, material.encode(AFTER)])
        end = np.concatenate([material.encode(QUESTION), lead, value])
        text = material.text(room_for(self, length, len(needle) + len(end)), rng)
        tokens, (start,) = lay_out(text, [int(rng.integers(len(text) + 1))], [needle], end)
        steps = np.arange(len(value))
        source: np.ndarray = start + len(material.encode(NEEDLE)) + len(lead) + steps
        control = tokens.copy()
        control[source] = wrong
        if occurrences(tokens, value) != 2 or any(occurrences(tokens, v) for v in (wrong, *others)):
            return None
        answer: np.ndarray = length + 1 - len(value) + steps
        return ProbeExample(
            tokens, control, answer, source, np.array(others).reshape(-1, len(value))
        )
