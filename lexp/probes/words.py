"""The most common words of a list: does a model use information from all over its context?

RULER's tasks of aggregation (Hsieh et al. 2024, arXiv 2404.06654, section 3): common words stand
`times` times in a list where others stand once; frequent words have the counts of a zeta
distribution. What differs: two words are asked for (RULER: 10 and 3), so that 128 tokens hold the
list; words are random consonants on lines of their own; counts are exact, not drawn; answers are
scored by likelihood, the most frequent first and, of equal counts, the one that stands first.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from lexp.probes.base import (
    CONSONANTS,
    TRIES,
    Form,
    Material,
    Probe,
    ProbeExample,
    occurrences,
    room_for,
)
from lexp.system.errors import NotDefined

WORD = Form(CONSONANTS, 4)
QUESTION = "\nMost frequent:"
# Ranks of the zeta distribution that its sum is taken over.
RANKS = 100_000


@dataclass(frozen=True)
class WordList(Probe):
    """The base: a list of words over the whole length, the first `asked` of its counts asked for.

    In the control each of these words has changed places with a word that stands once: the same
    words stand in it, and only how often tells which are asked for.
    """

    @property
    def asked(self) -> int:
        """Return the number of words asked for."""
        raise NotImplementedError

    @property
    def least(self) -> int:
        """Return the lines of the shortest list."""
        raise NotImplementedError

    def counts(self, n_lines: int) -> np.ndarray:
        """Return how often each word stands, descending, n_lines in all."""
        raise NotImplementedError

    def attempt(self, material: Material, length: int, rng: Generator) -> ProbeExample | None:
        """List words in random order, after as much text as a line has no room for."""
        newline, lead = material.encode("\n"), material.lead(WORD)
        before = np.concatenate([newline, lead])
        first = _words(material, 1, rng)[0]
        line = len(before) + len(first)
        question = material.encode(QUESTION)
        room = room_for(self, length, len(question) + (self.least + self.asked) * line)
        counts = self.counts(self.least + room // line)
        words = _words(material, len(counts), rng, len(first))
        order = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        firsts = np.array([np.flatnonzero(order == n)[0] for n in range(self.asked)])
        asked = np.lexsort((firsts, -counts[: self.asked]))
        exchanged = np.arange(len(counts))
        exchanged[: self.asked] = len(counts) - 1 - np.arange(self.asked)
        exchanged[len(counts) - self.asked :] = np.arange(self.asked)[::-1]
        text = material.text(room % line, rng)

        def listed(which: np.ndarray) -> np.ndarray:
            lines = np.concatenate([np.tile(before, (len(which), 1)), words[which]], axis=1)
            return lines.ravel()

        end = np.concatenate([question, listed(asked)])
        tokens = np.concatenate([text, listed(order), end])
        control = np.concatenate([text, listed(exchanged[order]), end])
        if any(occurrences(tokens, words[n]) != 1 + counts[n] for n in asked):
            return None
        steps = np.arange(len(first))
        source = len(text) + firsts[asked, None] * line + len(before) + steps
        n_before = length + 1 - self.asked * line
        answer = n_before + np.arange(self.asked)[:, None] * line + len(before) + steps
        nothing: np.ndarray = np.zeros((0, answer.size), dtype=np.int64)
        return ProbeExample(tokens, control, answer.ravel(), source.ravel(), nothing)


@dataclass(frozen=True)
class CommonWords(WordList):
    """Words that stand `times` times in a list of words that stand once."""

    name: ClassVar[str] = "common_words"
    common: int = 2
    times: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.common <= 20:
            raise ValueError(f"common_words takes 1 to 20 common words, got {self.common}")
        if not 2 <= self.times <= 1000:
            raise ValueError(f"common_words takes 2 to 1000 times, got {self.times}")

    @property
    def asked(self) -> int:
        """Return the number of common words."""
        return self.common

    @property
    def least(self) -> int:
        """Return the lines of the common words and of as many others."""
        return self.common * (self.times + 1)

    def counts(self, n_lines: int) -> np.ndarray:
        """Return `times` for each common word and 1 for each other."""
        n_others = n_lines - self.common * self.times
        return np.repeat([self.times, 1], [self.common, n_others])


@dataclass(frozen=True)
class FrequentWords(WordList):
    """Words of a zeta distribution: the n-th has the share n^-alpha of the list."""

    name: ClassVar[str] = "frequent_words"
    frequent: int = 2
    alpha: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.frequent <= 5:
            raise ValueError(f"frequent_words takes 1 to 5 frequent words, got {self.frequent}")
        if not 1.2 <= self.alpha <= 2:
            raise ValueError(f"frequent_words takes an alpha of 1.2 to 2, got {self.alpha}")

    @property
    def asked(self) -> int:
        """Return the number of words asked for."""
        return self.frequent

    @property
    def least(self) -> int:
        """Return the lines from which on the last word asked for stands more often than others."""
        last, after = self._shares()[self.frequent - 1 : self.frequent + 1]
        return max(math.ceil(1 / (last - after)), math.ceil(2 / last))

    def counts(self, n_lines: int) -> np.ndarray:
        """Return the whole times that each rank has in the list; what is left stands once."""
        whole = np.floor(n_lines * self._shares()).astype(np.int64)
        whole = whole[whole > 0]
        return np.concatenate([whole, np.ones(n_lines - whole.sum(), dtype=np.int64)])

    def _shares(self) -> np.ndarray:
        powers = np.arange(1, RANKS + 1) ** -self.alpha
        return powers / powers.sum()


def _words(material: Material, n: int, rng: Generator, size: int = 0) -> np.ndarray:
    """Draw n different words of one size, tokens without the lead, int64 [n, size].

    As Material.values does, in time that grows with n and not with its square. size 0: any.
    """
    skip = len(material.lead(WORD))
    words: dict[bytes, np.ndarray] = {}
    for _ in range(TRIES * n):
        word = material.encode(WORD.draw(rng))[skip:]
        size = size or len(word)
        if len(word) == size:
            words[word.tobytes()] = word
        if len(words) == n:
            return np.stack(list(words.values()))
    raise NotDefined(f"in this vocabulary too few words like {WORD.draw(rng)} are of one size")
