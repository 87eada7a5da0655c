"""Per-token losses of documents at an inference length: the one place where perplexity comes from.

Protocol `segments` (Sun et al. 2022, section 4.2): the first N tokens of every document that has
them are cut into non-overlapping windows, so that every length scores the same tokens. A window's
targets are its tokens shifted by one, the last one reaching into the next window: tokens
1 .. N of the document are each scored exactly once at every length, and token 0 never
(it has no context). That takes N + 1 tokens of a document. The last window may be shorter.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from lexp.attention import Attend
from lexp.data import Tokens
from lexp.errors import DataError
from lexp.model import Transformer

# Tokens scored in one forward pass; more than one window where the length is below this.
BATCH_TOKENS = 16384


@dataclass(frozen=True)
class Targets:
    """The tokens to be scored: 1 .. n_tokens of each of these documents."""

    documents: tuple[int, ...]
    n_tokens: int
    n_bytes: int


@dataclass(frozen=True)
class Score:
    """Sums over scored tokens: nats in float64, and the text they stand for."""

    nats: float
    n_tokens: int
    n_bytes: int

    @property
    def nll(self) -> float:
        """Mean nats per token."""
        return self.nats / self.n_tokens

    @property
    def ppl(self) -> float:
        """exp(total nats / total tokens)."""
        return perplexity(self.nll)

    @property
    def bits_per_byte(self) -> float:
        """Total bits / total bytes of the scored text."""
        return self.nats / math.log(2) / self.n_bytes


def perplexity(nll: float) -> float:
    """exp(nll); inf where that overflows, nan where it is nan."""
    return math.inf if nll > 700 else math.exp(nll)


def choose_targets(tokens: Tokens, n_tokens: int, max_tokens: int | None) -> Targets:
    """The first documents with n_tokens + 1 tokens, as many as max_tokens allows (at least one)."""
    long_enough = np.flatnonzero(tokens.lengths > n_tokens)
    if not len(long_enough):
        if not len(tokens.lengths):
            raise DataError("there are no documents")
        longest = int(tokens.lengths.argmax())
        raise DataError(
            f"no document has the {n_tokens + 1} tokens that length {n_tokens} needs; the longest "
            f"of {len(tokens.lengths)} is {tokens.names[longest]} with {tokens.lengths[longest]}"
        )
    limit = len(long_enough) if max_tokens is None else max(1, max_tokens // n_tokens)
    documents = tuple(int(d) for d in long_enough[:limit])
    return Targets(documents, n_tokens, sum(tokens.n_bytes(d, 1, n_tokens) for d in documents))


def windows(n_tokens: int, length: int) -> list[tuple[int, int]]:
    """(first, size) of the non-overlapping windows that cover n_tokens."""
    return [(first, min(length, n_tokens - first)) for first in range(0, n_tokens, length)]


def score(
    model: Transformer,
    tokens: Tokens,
    targets: Targets,
    length: int,
    make_attend: Callable[[int], Attend],
    autocast: AbstractContextManager,
    advance: Callable[[int], None] = lambda n_tokens: None,
) -> np.ndarray:
    """Nats of each target at one inference length, float32 [documents, n_tokens].

    make_attend: attention for a window of a given size. advance: told the tokens scored so far.
    """
    device = next(model.parameters()).device
    losses: np.ndarray = np.full(
        (len(targets.documents), targets.n_tokens), np.nan, dtype=np.float32
    )
    places = [
        (row, first, size)
        for row in range(len(targets.documents))
        for first, size in windows(targets.n_tokens, length)
    ]
    for size in sorted({size for _, _, size in places}, reverse=True):
        attend = make_attend(size)
        same = [(row, first) for row, first, s in places if s == size]
        per_batch = max(1, BATCH_TOKENS // size)
        for begin in range(0, len(same), per_batch):
            batch = same[begin : begin + per_batch]
            ids = np.stack(
                [tokens.window(targets.documents[row], first, size + 1) for row, first in batch]
            )
            window = torch.from_numpy(ids).to(device)
            with torch.inference_mode(), autocast:
                nats = model.losses(window[:, :-1], window[:, 1:], attend).cpu().numpy()
            for (row, first), values in zip(batch, nats, strict=True):
                losses[row, first : first + size] = values
            advance(len(batch) * size)
    return losses


def total(losses: np.ndarray, targets: Targets) -> Score:
    """Sum per-token losses in float64; not finite if any of them is not."""
    return Score(float(losses.sum(dtype=np.float64)), losses.size, targets.n_bytes)
