"""Copying: a span of a text's beginning again at its end, at nearly the whole length's distance.

The measure of induction (Olsson et al. 2022, arXiv 2209.11895), and of the copying that Jelassi et
al. 2024 (arXiv 2402.01032) set against state space models, on real text.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from lexp.probes.base import Material, Probe, ProbeExample, lay_out, occurrences, room_for


@dataclass(frozen=True)
class Copy(Probe):
    """A span repeated; its first tokens, the cue, are not scored. No candidates.

    The span begins at a place drawn among the first `span`, so that many distances are measured: at
    a single one far beyond training, rotations of RoPE come round by accident, and its gain at a
    distance of 993 tokens is that of copying, at 995 the opposite.

    Real text is partly known from what stands just before it: the control, which begins with
    another span, shows how far that goes.
    """

    name: ClassVar[str] = "copy"
    span: int = 32
    cue: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.cue < self.span:
            raise ValueError(f"copy takes a cue from 1 to below span={self.span}, got {self.cue}")

    def attempt(self, material: Material, length: int, rng: Generator) -> ProbeExample | None:
        """Plant a span near the beginning of another text, and again after its end."""
        n_text = room_for(self, length, 2 * self.span)
        span, other = (material.text(self.span, rng) for _ in range(2))
        text = material.text(n_text, rng)
        place = int(rng.integers(min(self.span, n_text) + 1))
        tokens, _ = lay_out(text, [place], [span], span)
        control, _ = lay_out(text, [place], [other], span)
        cue = span[: self.cue]
        if (occurrences(tokens, cue), occurrences(control, cue)) != (2, 1):
            return None
        steps = np.arange(self.cue, self.span)
        nothing: np.ndarray = np.zeros((0, len(steps)), dtype=np.int64)
        answer: np.ndarray = length + 1 - self.span + steps
        return ProbeExample(tokens, control, answer, place + steps, nothing)
