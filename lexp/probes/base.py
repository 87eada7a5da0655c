"""The base of probes: examples of an exact length, with a control that lacks the information."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from lexp.data import Tokens
from lexp.data.tokenizer import Tokenizer
from lexp.system.errors import NotDefined
from lexp.system.text import label_of

# Draws before a probe gives up: an accident (the text holds the number drawn) is rare in any one.
TRIES = 200


@dataclass(frozen=True)
class Form:
    """Random words: `size` characters, each of them equally likely."""

    alphabet: str
    size: int

    def draw(self, rng: Generator) -> str:
        """Draw one word."""
        return "".join(self.alphabet[n] for n in rng.integers(len(self.alphabet), size=self.size))


DIGITS = "0123456789"
# Keys of consonants hardly ever stand in a text by accident.
CONSONANTS = "bcdfghjklmnpqrstvwxz"
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Material:
    """The material of examples: documents, and the tokenizer that cut them."""

    tokens: Tokens
    tokenizer: Tokenizer

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a piece of text by itself, int64 [n].

        Pieces are cut one by one, so that a value has the same tokens wherever it stands.
        """
        return self.tokenizer.encode([text])[0].ids.astype(np.int64)

    def text(self, n_tokens: int, rng: Generator) -> np.ndarray:
        """Draw a stretch of a document; all documents that are long enough are equally likely."""
        long_enough = np.flatnonzero(self.tokens.lengths >= n_tokens)
        if not len(long_enough):
            raise NotDefined(f"no test document has {n_tokens} tokens")
        document = int(rng.choice(long_enough))
        first = int(rng.integers(self.tokens.lengths[document] - n_tokens + 1))
        return self.tokens.window(document, first, n_tokens)

    def lead(self, form: Form) -> np.ndarray:
        """Return the tokens every word of a form begins with, int64 [n], mostly none.

        Some vocabularies mark a new word so. These tokens tell nothing about the value.
        """
        first, last = (self.encode(form.alphabet[n] * form.size) for n in (0, -1))
        size = min(len(first), len(last))
        return first[: int((first[:size] == last[:size]).cumprod().sum())]

    def values(
        self, form: Form, n: int, rng: Generator, like: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw n different words of a form: tokens without the lead, of one size, int64 [n, A].

        like: a value; they then have its size and differ from it in every token.
        """
        skip = len(self.lead(form))
        values: list[np.ndarray] = []
        for _ in range(TRIES * n):
            value = self.encode(form.draw(rng))[skip:]
            size = len(like if like is not None else values[0] if values else value)
            fits = len(value) == size and (like is None or not (value == like).any())
            if fits and not any((value == other).all() for other in values):
                values.append(value)
            if len(values) == n:
                return np.stack(values)
        raise NotDefined(f"in this vocabulary too few words like {form.draw(rng)} are of one size")


@dataclass(frozen=True)
class ProbeExample:
    """One question, with its answer in it and with another.

    tokens, control [length + 1]: a model reads the first `length`; token t is predicted from the t
    before it. They differ in the needle only. answer [A]: places of the answer's tokens; source
    [A]: where the needle holds the same ones. others [K, A]: other answers of the same form.
    depth: place of the first source as a share of the length.
    """

    tokens: np.ndarray
    control: np.ndarray
    answer: np.ndarray
    source: np.ndarray
    others: np.ndarray

    @property
    def depth(self) -> float:
        """Return the needle's place: 0 at the beginning, 1 at the end."""
        return float(self.source.min() / (len(self.tokens) - 1))


@dataclass(frozen=True)
class Probe:
    """A kind of question; its values are the constructor's arguments.

    one_token: whether each answer token is an answer by itself, ranked among others at its place
    at no cost. Elsewhere each other answer takes a forward pass of its own.
    """

    name: ClassVar[str]
    one_token: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """Return the name in tables, with values only where the user gave some."""
        return label_of(self.name, self)

    @property
    def n_candidates(self) -> int:
        """Return the number of answers that are ranked; 1 for a probe without that measure."""
        return 1

    @property
    def n_passes(self) -> int:
        """Return the passes of an example: itself, its control, and its other answers."""
        return 2 + (0 if self.one_token else self.n_candidates - 1)

    def attempt(self, material: Material, length: int, rng: Generator) -> ProbeExample | None:
        """Make an example; None if it is ambiguous by accident, NotDefined if none can exist."""
        raise NotImplementedError


def make_examples(
    probe: Probe, material: Material, length: int, samples: int, seed: int
) -> list[ProbeExample]:
    """Make examples that depend on nothing but texts, tokenizer and these arguments."""
    examples = []
    for index in range(samples):
        word = f"{seed} {probe.name} {length} {index}"
        rng = np.random.default_rng(list(hashlib.sha256(word.encode()).digest()))
        attempts = (probe.attempt(material, length, rng) for _ in range(TRIES))
        example = next((attempt for attempt in attempts if attempt is not None), None)
        if example is None:
            raise NotDefined(f"the test texts hold what {probe.name} would plant, in any draw")
        examples.append(example)
    return examples


def room_for(probe: Probe, length: int, n_planted: int) -> int:
    """Count the tokens of text beside those planted; NotDefined if not even these fit."""
    if n_planted > length + 1:
        raise NotDefined(f"{probe.label} takes {n_planted - 1} tokens, the length is {length}")
    return length + 1 - n_planted


def lay_out(
    text: np.ndarray, places: Iterable[int], needles: list[np.ndarray], end: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """Put needles into a text before its tokens `places` (ascending), and `end` after it.

    Returns the tokens, and where each needle begins.
    """
    pieces: list[np.ndarray] = []
    starts, before, size = [], 0, 0
    for place, needle in zip(places, needles, strict=True):
        starts.append(place + size)
        pieces += [text[before:place], needle]
        before, size = place, size + len(needle)
    return np.concatenate([*pieces, text[before:], end]), starts


def occurrences(tokens: np.ndarray, piece: np.ndarray) -> int:
    """Count how often a piece stands in a text, overlaps included."""
    if len(piece) > len(tokens):
        return 0
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(piece))
    return int((windows == piece).all(axis=1).sum())
