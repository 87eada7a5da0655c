"""Several needles in a haystack: one of many keys, many values of one key, or all of many keys.

The needle tasks of RULER (Hsieh et al. 2024, arXiv 2404.06654, section 3): multi-key, multi-value
and multi-query, with its 4 needles. What differs: needles are lines of a few characters, so that
128 tokens hold them; the haystack is real text; the question repeats the lines it asks for, and
answers are scored by likelihood in the order given. With several values of one key any order
would be right, so even a perfect model is unsure which comes first.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from lexp.probes.base import (
    CONSONANTS,
    DIGITS,
    Form,
    Material,
    Probe,
    ProbeExample,
    lay_out,
    occurrences,
    room_for,
)

KEY = Form(CONSONANTS, 3)


@dataclass(frozen=True)
class Needles(Probe):
    """The base: `keys` keys with `values` values each, all values of `queries` keys asked for.

    Lines stand at places drawn uniformly. The control has other numbers in place of those asked
    for, and all else alike. Candidates, where one number is asked for: those of all keys.
    """

    keys: int
    values: int
    queries: int
    digits: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.keys * self.values <= 100 or min(self.keys, self.values) < 1:
            raise ValueError(
                f"{self.name} takes 1 to 100 needles, got keys={self.keys}, values={self.values}"
            )
        if not 1 <= self.queries <= self.keys:
            raise ValueError(f"{self.name} takes 1 to {self.keys} queries, got {self.queries}")
        if not 3 <= self.digits <= 20:
            raise ValueError(f"{self.name} takes 3 to 20 digits, got {self.digits}")

    @property
    def n_candidates(self) -> int:
        """Return the number of keys if one number is asked for, else 1: not ranked."""
        return self.keys if self.values == self.queries == 1 else 1

    def attempt(self, material: Material, length: int, rng: Generator) -> ProbeExample | None:
        """Plant a line for each value in any order, and the lines asked for again at the end."""
        form = Form(DIGITS, self.digits)
        n_needles = self.keys * self.values
        lead, stop = material.lead(form), material.encode(".")
        words = dict.fromkeys(KEY.draw(rng) for _ in range(self.keys))
        if len(words) < self.keys:
            return None
        keys = [np.concatenate([material.encode(f"\nCode {word}: "), lead]) for word in words]
        values = material.values(form, n_needles, rng)
        order = rng.permutation(n_needles)  # needle n has key order[n] % keys
        lines = [
            np.concatenate([keys[n % self.keys], value, stop])
            for n, value in zip(order, values, strict=True)
        ]
        asked = [
            int(n)
            for key in rng.permutation(self.keys)[: self.queries]
            for n in np.flatnonzero(order % self.keys == key)
        ]
        end = np.concatenate([lines[n] for n in asked])[: -len(stop)]
        text = material.text(room_for(self, length, sum(map(len, lines)) + len(end)), rng)
        places = np.sort(rng.integers(len(text) + 1, size=n_needles)).tolist()
        tokens, starts = lay_out(text, places, lines, end)
        control = tokens.copy()
        steps = np.arange(values.shape[1])
        sources: list[np.ndarray] = []
        answers: list[np.ndarray] = []
        at = length + 1 - len(end)
        for n in asked:
            before = len(lines[n]) - len(steps) - len(stop)
            sources.append(starts[n] + before + steps)
            answers.append(at + before + steps)
            (wrong,) = material.values(form, 1, rng, like=values[n])
            if occurrences(tokens, wrong) or occurrences(control, wrong):
                return None
            control[sources[-1]] = wrong
            at += len(lines[n])
        for m, value in enumerate(values):
            if occurrences(tokens, value) != 1 + (m in asked):
                return None
        for k, key in enumerate(keys):
            times = sum(int(order[a]) % self.keys == k for a in asked)
            if occurrences(tokens, key) != self.values + times:
                return None
        others = np.delete(values, asked, axis=0) if self.n_candidates > 1 else values[:0]
        n_tokens = len(steps) * len(asked)
        return ProbeExample(
            tokens, control, np.concatenate(answers), np.concatenate(sources),
            others.reshape(-1, n_tokens),
        )  # fmt: skip


@dataclass(frozen=True)
class MultiKey(Needles):
    """One key of several asked for: the others distract."""

    name: ClassVar[str] = "multikey"
    keys: int = 4
    values: int = 1
    queries: int = 1


@dataclass(frozen=True)
class MultiValue(Needles):
    """All values of one key asked for, in the order of the text."""

    name: ClassVar[str] = "multivalue"
    keys: int = 1
    values: int = 4
    queries: int = 1


@dataclass(frozen=True)
class MultiQuery(Needles):
    """The values of all keys asked for, in another order than that of the text."""

    name: ClassVar[str] = "multiquery"
    keys: int = 4
    values: int = 1
    queries: int = 4
