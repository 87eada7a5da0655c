"""Variable tracking: which variables have a value, through a chain of assignments.

RULER's task of multi-hop tracing (Hsieh et al. 2024, arXiv 2404.06654, section 3), with its 4 hops.
What differs: there are two chains, where RULER's default is one, so that it takes the chain to know
a name and not only its looks; lines are short ("ABC=123."), the text around them is real, and the
names are scored by likelihood in the order of the chain.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from lexp.probes.base import (
    CAPITALS,
    DIGITS,
    Form,
    Material,
    Probe,
    ProbeExample,
    lay_out,
    occurrences,
    room_for,
)

NAME = Form(CAPITALS, 3)


@dataclass(frozen=True)
class VariableTracking(Probe):
    """Chains at places drawn uniformly: a variable with a number, and `hops` copies of each other.

    Asked for are all names of the chain of one number. The control gives each chain the number of
    the next one and is otherwise alike, so it has the same names and numbers at the same places
    of both kinds. Candidates are the names of the other chains.
    """

    name: ClassVar[str] = "variable_tracking"
    hops: int = 4
    chains: int = 2
    digits: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.hops <= 50:
            raise ValueError(f"variable_tracking takes 1 to 50 hops, got {self.hops}")
        if not 2 <= self.chains <= 20:
            raise ValueError(f"variable_tracking takes 2 to 20 chains, got {self.chains}")
        if not 3 <= self.digits <= 20:
            raise ValueError(f"variable_tracking takes 3 to 20 digits, got {self.digits}")

    @property
    def n_candidates(self) -> int:
        """Return the number of chains."""
        return self.chains

    def attempt(self, material: Material, length: int, rng: Generator) -> ProbeExample | None:
        """Plant the chains' lines in mixed order, and the number with its variables at the end."""
        form = Form(DIGITS, self.digits)
        lead, name_lead = material.lead(form), material.lead(NAME)
        newline, equals, stop, comma = map(material.encode, ("\n", "=", ".", ","))
        numbers = material.values(form, self.chains, rng)
        n_links = self.hops + 1
        names = material.values(NAME, self.chains * n_links, rng).reshape(self.chains, n_links, -1)
        # Each chain's lines stay in order, chains are mixed: of line n, its chain and link.
        chain = rng.permutation(np.repeat(np.arange(self.chains), n_links))
        link = np.array([int((chain[:n] == chain[n]).sum()) for n in range(len(chain))])
        lines = []
        for c, k in zip(chain, link, strict=True):
            given = [name_lead, names[c, k - 1]] if k else [lead, numbers[c]]
            lines.append(np.concatenate([newline, name_lead, names[c, k], equals, *given, stop]))
        asked = int(rng.integers(self.chains))
        listed = [part for name in names[asked] for part in (name_lead, name, comma)][:-1]
        end = np.concatenate([newline, lead, numbers[asked], equals, *listed])
        text = material.text(room_for(self, length, sum(map(len, lines)) + len(end)), rng)
        places = np.sort(rng.integers(len(text) + 1, size=len(lines))).tolist()
        tokens, starts = lay_out(text, places, lines, end)
        control = tokens.copy()
        for n in np.flatnonzero(link == 0):
            number_end = starts[n] + len(lines[n]) - len(stop)
            control[number_end - numbers.shape[1] : number_end] = numbers[chain[n] - 1]
        for c in range(self.chains):
            if occurrences(tokens, numbers[c]) != 1 + (c == asked):
                return None
            for k in range(n_links):
                times = 1 + (k < self.hops) + (c == asked)
                if occurrences(tokens, names[c, k]) != times:
                    return None
        steps = np.arange(names.shape[2])
        firsts = np.array([starts[n] for n in np.flatnonzero(chain == asked)])
        sources = firsts[:, None] + len(newline) + len(name_lead) + steps
        each = len(name_lead) + len(steps) + len(comma)
        last: np.ndarray = length + 1 - len(steps) + steps
        answers = last - each * np.arange(n_links)[::-1, None]
        others = np.delete(names, asked, axis=0).reshape(self.chains - 1, -1)
        return ProbeExample(tokens, control, answers.ravel(), sources.ravel(), others)
