"""Training objectives: predict the next token, or masked tokens.

    causal   -log p(x_t | x_0 .. x_t-1), every token of a window
    mlm      -log p(x_t | x~), chosen tokens only; x~ is the window with most of these masked
             (Devlin et al. 2019, arXiv 1810.04805, section 3.1)

An objective also defines the attention pattern of training, the tokens it needs in addition to
those of the tokenizer, and how its models are scored.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexp.attention import MakeAttend, make_attend
from lexp.data.reading import Windows
from lexp.model.chunked_cross_entropy import IGNORED
from lexp.model.transformer import Transformer
from lexp.pattern import Bidirectional, Full, Pattern
from lexp.scoring.protocol import Masked, Protocol, Segments
from lexp.scoring.scorer import MaskedScorer, Scorer
from lexp.system.errors import NotDefined


class Batch(NamedTuple):
    """The inputs of a step's loss, batch dimension first, and the number of its targets.

    row_lens [B]: how many tokens of each row have a target or stand before one; the rest is
    padding. None: all of them. multiple: rows are cut to a multiple of so many tokens, so that few
    lengths occur.
    starts: bool [B, T], where documents begin, if attention is kept within documents.
    positions: float64 [T], those of the inputs of every row; None: 0 .. T-1.
    """

    tensors: tuple[Tensor, ...]
    n_targets: int
    row_lens: Tensor | None = None
    multiple: int = 1
    starts: Tensor | None = None
    positions: Tensor | None = None

    def parts(self, n: int) -> "list[Batch]":
        """Return n micro-batches of [B / n, T], T without what is padding in all their rows.

        Each has the number of targets of the whole batch.
        """
        tensors = list(zip(*(tensor.chunk(n) for tensor in self.tensors), strict=True))
        lengths = [self.tensors[0].shape[1]] * n
        if self.row_lens is not None:
            longest = [int(lens.max()) for lens in self.row_lens.chunk(n)]
            lengths = [math.ceil(length / self.multiple) * self.multiple for length in longest]
        starts = [None] * n if self.starts is None else self.starts.chunk(n)
        return [
            self._replace(tensors=tuple(tensor[:, :length] for tensor in part), starts=of_part)
            for part, length, of_part in zip(tensors, lengths, starts, strict=True)
        ]


class Objective:
    """The base class of objectives."""

    pattern: Pattern
    protocol: Protocol  # of validation
    n_extra: int = 0  # tokens in addition to the tokenizer's, after them

    def make_batch(self, windows: Windows, step: int, seed: int, vocab_size: int) -> Batch:
        """Return the batch of windows; a pure function, so that runs resume exactly."""
        raise NotImplementedError

    def loss(self, model: Transformer) -> Callable[..., Tensor]:
        """Return the loss function: from a batch's tensors and attention to nats, summed."""
        raise NotImplementedError

    def scorer(
        self,
        model: Transformer,
        pattern: Pattern,
        autocast: AbstractContextManager,
        protocol: Protocol,
        make_attend: MakeAttend = make_attend,
    ) -> Scorer:
        """Return a scorer; NotDefined if the protocol is of another objective."""
        raise NotImplementedError


class CausalLM(Objective):
    """Predict each token from those before it."""

    pattern = Full()
    protocol = Segments()

    def make_batch(self, windows: Windows, step: int, seed: int, vocab_size: int) -> Batch:
        """Return all tokens but the last as inputs; all but the first that are targets as such."""
        tokens = torch.from_numpy(windows.tokens)
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        if windows.is_target is None:
            return Batch((inputs, targets), targets.numel())
        targets = targets.masked_fill(~torch.from_numpy(windows.is_target), IGNORED)
        starts, positions = (
            None if array is None else torch.from_numpy(array)
            for array in (windows.starts, windows.positions)
        )
        return Batch(
            (inputs, targets), int(windows.is_target.sum()), starts=starts,
            positions=None if positions is None else positions.double(),
        )  # fmt: skip

    def loss(self, model: Transformer) -> Callable[..., Tensor]:
        """Return the loss summed over all tokens."""
        return model.loss

    def scorer(
        self,
        model: Transformer,
        pattern: Pattern,
        autocast: AbstractContextManager,
        protocol: Protocol,
        make_attend: MakeAttend = make_attend,
    ) -> Scorer:
        """Return a scorer of next tokens; NotDefined for protocol=masked."""
        if isinstance(protocol, Masked):
            raise NotDefined("protocol=masked needs a masked language model; this run is causal")
        return Scorer(model, pattern, autocast, make_attend=make_attend)


class MaskedLM(Objective):
    """Predict chosen tokens from those around them.

    share: part of each window's tokens that is chosen, at least one token. mask, random: parts of
    the chosen tokens that are replaced by the mask token, or by a random token of the vocabulary;
    the rest is left unchanged. The id of the mask token follows the tokenizer's last.
    """

    pattern = Bidirectional()
    protocol = Masked()
    n_extra = 1

    def __init__(self, share: float = 0.15, mask: float = 0.8, random: float = 0.1):
        if not 0 < share < 1 or mask < 0 or random < 0 or mask + random > 1 + 1e-9:
            raise ValueError(
                f"share={share}, mask={mask}, random={random}: share must be above 0 and below 1; "
                "mask and random must add up to at most 1"
            )
        self.share, self.mask, self.random = share, mask, random

    def make_batch(self, windows: Windows, step: int, seed: int, vocab_size: int) -> Batch:
        """Return inputs, targets and which targets are chosen, each [B, T].

        The last token of a window is left out: windows are those of causal training, of which all
        tokens are targets.
        """
        targets = torch.from_numpy(windows.tokens)[:, :-1]
        n_rows, n = targets.shape
        n_chosen = max(1, round(self.share * n))
        # A seed of three numbers, because the order of texts is drawn from one of two.
        rng = np.random.default_rng([seed, step, 1])
        chosen = rng.random((n_rows, n)).argsort(1) < n_chosen
        fate = rng.random((n_rows, n))
        others = torch.from_numpy(rng.integers(vocab_size, size=(n_rows, n)))
        masked = torch.from_numpy(chosen & (fate < self.mask))
        replaced = torch.from_numpy(chosen & (fate >= self.mask) & (fate < self.mask + self.random))
        inputs = targets.masked_fill(masked, vocab_size)
        inputs = torch.where(replaced, others, inputs)
        return Batch((inputs, targets, torch.from_numpy(chosen)), n_rows * n_chosen)

    def loss(self, model: Transformer) -> Callable[..., Tensor]:
        """Return the loss summed over the chosen tokens."""
        return model.loss_at

    def scorer(
        self,
        model: Transformer,
        pattern: Pattern,
        autocast: AbstractContextManager,
        protocol: Protocol,
        make_attend: MakeAttend = make_attend,
    ) -> Scorer:
        """Return a scorer of masked tokens; NotDefined for other protocols."""
        if not isinstance(protocol, Masked):
            raise NotDefined(
                f"protocol={protocol.name} needs a causal model; use protocol=[masked] for this run"
            )
        return MaskedScorer(model, pattern, autocast, make_attend=make_attend, protocol=protocol)


def refuse_other_attention(trained: Pattern, pattern: Pattern) -> None:
    """Raise NotDefined if a causal model would be run bidirectionally, or the other way round."""
    for own in pattern.turns:
        if trained.two_sided and not own.two_sided:
            raise NotDefined(f"attention pattern {own.name} is causal; the model is bidirectional")
        if own.two_sided and not trained.two_sided:
            raise NotDefined(f"attention pattern {own.name} is bidirectional; the model is causal")


def refuse_both_sides(pattern: Pattern, only: str) -> None:
    """Raise NotDefined if a pattern is bidirectional. only: the causal use, for the message."""
    if pattern.two_sided:
        raise NotDefined(f"attention pattern {pattern.name} is bidirectional; {only} only")
