"""Losses of the targets of windows: every forward pass of every evaluation happens here.

Exact at any length. If every layer's pattern is bounded, a window too long for one pass is read in
pieces. The last layer of a piece depends on as many tokens before it as the lookbacks of all layers
add up to, so a piece that begins that much earlier gives the losses of the whole window, in time
linear in the window and in memory that does not depend on it. A model with full attention in any
layer reads the window at once, in chunks of rows. A model whose layers are all recurrent carries
their states from piece to piece, and reads every token once.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from lexp.attention import Attend, MakeAttend, make_attend
from lexp.data import Tokens
from lexp.model.transformer import Transformer
from lexp.pattern import Banded, Pattern
from lexp.scoring.protocol import Masked, TextWindow

# Tokens in one forward pass; shorter windows are batched up to this many.
BATCH_TOKENS = 16384


class Piece(NamedTuple):
    """One forward pass over tokens first .. first + size - 1 of a document; the last are scored.

    offset: index of its first token in its window. place: index of its first scored target in the
    result.
    """

    document: int
    first: int
    size: int
    n_scored: int
    offset: int
    place: int


class LayerBand(NamedTuple):
    """The tokens that a layer reads before index s, a multiple of its pattern's period."""

    lookback: int
    period: int


def begin_of_field(layers: Sequence[LayerBand], start: int) -> int:
    """Return a token at or before the first on which the output at `start` depends.

    layers: the last first. Patterns repeat with their periods: the token begins a period of each.
    """
    for layer in layers:
        start = start // layer.period * layer.period - layer.lookback
    common = math.lcm(*(layer.period for layer in layers))
    return max(0, start) // common * common


class Partial(Protocol):
    """A place where an unfinished evaluation's losses are kept between starts."""

    def load(self) -> tuple[np.ndarray, int] | None:
        """Return losses [n] and how many forward passes they come from."""

    def save(self, nats: np.ndarray, n_done: int) -> None:
        """Keep losses [n] after n_done passes; a call soon after the last one may be ignored."""


@dataclass(frozen=True)
class Scorer:
    """A model under a pattern, ready to score text.

    autocast: the precision. batch_tokens: the most tokens of a pass over several windows.
    make_attend: prepares attention for a length.
    """

    model: Transformer
    pattern: Pattern
    autocast: AbstractContextManager
    batch_tokens: int = BATCH_TOKENS
    make_attend: MakeAttend = make_attend

    def score(
        self,
        tokens: Tokens,
        windows: Sequence[TextWindow],
        advance: Callable[[int], None] = lambda n_tokens: None,
        partial: Partial | None = None,
    ) -> np.ndarray:
        """Return the loss in nats of each target, window by window, float32 [n].

        advance: called with the number of tokens read since its last call. partial: where to
        continue from, and where to save progress.
        """
        nats: np.ndarray = np.full(sum(w.n_scored for w in windows), np.nan, dtype=np.float32)
        passes = self.passes(windows)
        n_done = 0
        stored = partial.load() if partial else None
        if stored is not None and stored[0].shape == nats.shape:
            nats, n_done = stored
            advance(sum(sum(piece.size for piece in batch) for batch in passes[:n_done]))
        ready: tuple[int, Attend] | None = None
        for number, batch in enumerate(passes[n_done:], n_done + 1):
            size = batch[0].size
            if ready is None or ready[0] != size:
                ready = (
                    size,
                    self.make_attend(self.pattern, size, self.model.schemes, self.device),
                )
            by_piece = self._pass(tokens, batch, ready[1])
            for piece, values in zip(batch, by_piece, strict=True):
                nats[piece.place : piece.place + piece.n_scored] = values
            advance(sum(piece.size for piece in batch))
            if partial is not None:
                partial.save(nats, number)
        return nats

    def passes(self, windows: Sequence[TextWindow]) -> list[list[Piece]]:
        """Put pieces together that go through the model in one batch."""
        return batches(self.pieces(windows), self.batch_tokens)

    def pieces(self, windows: Sequence[TextWindow]) -> list[Piece]:
        """Cut windows into forward passes: most are one, long ones of a bounded pattern several."""
        pieces, place = [], 0
        for window in windows:
            for offset, end, n_scored in self._cuts(window):
                pieces.append(
                    Piece(window.document, window.first + offset, end - offset, n_scored, offset,
                          place)
                )  # fmt: skip
                place += n_scored
        return pieces

    def _cuts(self, window: TextWindow) -> Iterator[tuple[int, int, int]]:
        """Yield (begin, end, n_scored) of a window's passes, in tokens from its beginning."""
        layers = self._layer_bands()
        if layers is None:
            yield 0, window.size, window.n_scored
            return
        chunk = max(self.batch_tokens, 4 * sum(layer.lookback for layer in layers))
        if window.size <= 2 * chunk:
            yield 0, window.size, window.n_scored
            return
        start = window.size - window.n_scored
        while start < window.size:
            end = min(start + chunk, window.size)
            yield begin_of_field(layers, start), end, end - start
            start = end

    def _layer_bands(self) -> list[LayerBand] | None:
        """Return how far back each layer reads, the last first; None if one reads everything."""
        schemes, turns = self.model.schemes, self.pattern.turns
        # Schemes that read more than distances between tokens need the window as a whole.
        whole = any(
            p.samples_positions
            or p.counts_from_zero
            or p.reads_indices
            or p.reads_tokens
            or p.by_length
            for p in schemes
        )
        bands = []
        for n in reversed(range(len(self.model.blocks))):
            pattern, scheme = turns[n % len(turns)], schemes[n % len(schemes)]
            if whole or not isinstance(pattern, Banded) or pattern.lookback is None:
                return None
            bands.append(LayerBand(pattern.lookback + scheme.n_earlier, pattern.period))
        return bands

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return next(self.model.parameters()).device

    def _pass(self, tokens: Tokens, batch: list[Piece], attend: Attend) -> Sequence[np.ndarray]:
        """Return the losses [n_scored] of each of the pieces, which have one shape."""
        size, n_scored, offset = batch[0].size, batch[0].n_scored, batch[0].offset
        ids = np.stack([tokens.window(piece.document, piece.first, size + 1) for piece in batch])
        read = torch.from_numpy(ids).to(self.device)
        with torch.inference_mode(), self.autocast:
            targets = read[:, size + 1 - n_scored :]
            if not self.pattern.attends and size > self.batch_tokens:
                nats = self.model.losses_in_pieces(read[:, :-1], targets, self.batch_tokens)
                return list(nats.cpu().numpy())
            return list(self.model.losses(read[:, :-1], targets, attend, offset).cpu().numpy())


@dataclass(frozen=True, kw_only=True)
class MaskedScorer(Scorer):
    """A Scorer of a masked language model: the tokens a protocol chooses are masked and scored."""

    protocol: Masked

    def passes(self, windows: Sequence[TextWindow]) -> list[list[Piece]]:
        """Put windows of one size together, however many of their tokens are masked."""
        return batches(self.pieces(windows), self.batch_tokens, lambda piece: (piece.size,))

    def _pass(self, tokens: Tokens, batch: list[Piece], attend: Attend) -> Sequence[np.ndarray]:
        """Return the losses [n_scored] of each of the windows, which have one size."""
        ids = np.stack([tokens.window(p.document, p.first, p.size) for p in batch])
        chosen = np.stack(
            [self.protocol.chosen(TextWindow(p.document, p.first, p.size, 0)) for p in batch]
        )
        read, is_masked = (torch.from_numpy(t).to(self.device) for t in (ids, chosen))
        mask = self.model.embedding.num_embeddings - 1
        with torch.inference_mode(), self.autocast:
            masked = read.masked_fill(is_masked, mask)
            nats = self.model.losses_at(masked, read, is_masked, attend).cpu().numpy()
        return np.split(nats, np.cumsum([piece.n_scored for piece in batch])[:-1])


def shape_of(piece: Piece) -> tuple[int, ...]:
    """Return the shape that pieces of one batch share."""
    return piece.size, piece.n_scored, piece.offset


def batches(
    pieces: list[Piece],
    batch_tokens: int,
    key: Callable[[Piece], tuple[int, ...]] = shape_of,
) -> list[list[Piece]]:
    """Put pieces of one shape together, up to batch_tokens, the largest first."""
    alike: dict[tuple[int, ...], list[Piece]] = {}
    for piece in pieces:
        alike.setdefault(key(piece), []).append(piece)
    batches_of_pieces = []
    for shape in sorted(alike, reverse=True):
        same, each = alike[shape], max(1, batch_tokens // shape[0])
        batches_of_pieces += [same[begin : begin + each] for begin in range(0, len(same), each)]
    return batches_of_pieces
