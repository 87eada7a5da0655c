"""What a model is trained to say: the next token, or what has been masked.

    causal   -log p(x_t | x_0 .. x_t-1), every token of a window
    mlm      -log p(x_t | x~), chosen tokens only; x~ is the window with most of these masked
             (Devlin et al. 2019, arXiv 1810.04805, section 3.1)

An objective brings what goes with it: the attention it is trained under, the tokens it needs beside
the tokenizer's, and how its models are scored.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lexp.attention import MakeAttend, make_attend
from lexp.model.transformer import Transformer
from lexp.pattern import Bidirectional, Full, Pattern
from lexp.scoring.protocol import Masked, Protocol, Segments
from lexp.scoring.scorer import MaskedScorer, Scorer
from lexp.system.errors import NotDefined


class Batch(NamedTuple):
    """What the losses of a step are made from, batch first, and of how many targets they are."""

    tensors: tuple[Tensor, ...]
    n_targets: int


class Objective:
    """The base class has what both objectives share."""

    pattern: Pattern
    protocol: Protocol  # of validation
    n_extra: int = 0  # tokens beside the tokenizer's, after them

    def make_batch(self, windows: Tensor, step: int, seed: int, vocab_size: int) -> Batch:
        """From windows [B, T + 1]; a function of its arguments alone, so that runs resume."""
        raise NotImplementedError

    def loss(self, model: Transformer) -> Callable[..., Tensor]:
        """Nats of all targets together, from the tensors of a batch and attention."""
        raise NotImplementedError

    def scorer(
        self,
        model: Transformer,
        pattern: Pattern,
        autocast: AbstractContextManager,
        protocol: Protocol,
        make_attend: MakeAttend = make_attend,
    ) -> Scorer:
        """What scores text under a protocol; NotDefined if it asks for something else."""
        raise NotImplementedError


class CausalLM(Objective):
    """The next token, from those before it."""

    pattern = Full()
    protocol = Segments()

    def make_batch(self, windows: Tensor, step: int, seed: int, vocab_size: int) -> Batch:
        """All tokens but the last, and all but the first."""
        return Batch((windows[:, :-1], windows[:, 1:]), windows[:, 1:].numel())

    def loss(self, model: Transformer) -> Callable[..., Tensor]:
        """Of every token."""
        return model.loss

    def scorer(
        self,
        model: Transformer,
        pattern: Pattern,
        autocast: AbstractContextManager,
        protocol: Protocol,
        make_attend: MakeAttend = make_attend,
    ) -> Scorer:
        """Under every protocol that asks for next tokens."""
        if isinstance(protocol, Masked):
            raise NotDefined(
                "masked asks what stands within a text, the model says what comes next"
            )
        return Scorer(model, pattern, autocast, make_attend=make_attend)


class MaskedLM(Objective):
    """What stands at chosen places, from the tokens around them.

    share of each window's tokens is chosen, at least one; of these `mask` become the mask token, as
    many as `random` says another token of the vocabulary, and the rest stay. The mask token comes
    after the tokenizer's last.
    """

    pattern = Bidirectional()
    protocol = Masked()
    n_extra = 1

    def __init__(self, share: float = 0.15, mask: float = 0.8, random: float = 0.1):
        if not 0 < share < 1 or mask < 0 or random < 0 or mask + random > 1 + 1e-9:
            raise ValueError(
                f"mlm takes a share above 0 and below 1, mask and random that add up to at most 1, "
                f"got {share}, {mask} and {random}"
            )
        self.share, self.mask, self.random = share, mask, random

    def make_batch(self, windows: Tensor, step: int, seed: int, vocab_size: int) -> Batch:
        """All tokens but the last (windows are those of causal training), what they were, where."""
        targets = windows[:, :-1]
        n_rows, n = targets.shape
        n_chosen = max(1, round(self.share * n))
        # Three words, so that it is another stream than that of the order of texts, which has two.
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
        """Of chosen tokens."""
        return model.loss_at

    def scorer(
        self,
        model: Transformer,
        pattern: Pattern,
        autocast: AbstractContextManager,
        protocol: Protocol,
        make_attend: MakeAttend = make_attend,
    ) -> Scorer:
        """Under the protocol that masks."""
        if not isinstance(protocol, Masked):
            raise NotDefined(
                f"{protocol.name} asks what comes next, a masked language model says what stands "
                "within: protocol=[masked]"
            )
        return MaskedScorer(model, pattern, autocast, make_attend=make_attend, protocol=protocol)


def refuse_other_attention(trained: Pattern, pattern: Pattern) -> None:
    """NotDefined if a model was trained with keys at one side and is run with both, or back."""
    if trained.two_sided and not pattern.two_sided:
        raise NotDefined(f"{pattern.name} is causal, the model was trained to see both sides")
    if pattern.two_sided and not trained.two_sided:
        raise NotDefined(f"{pattern.name} shows a causal model the tokens that it is to predict")


def refuse_both_sides(pattern: Pattern, only: str) -> None:
    """NotDefined if a pattern is of bidirectional models; only: what this is for, in words."""
    if pattern.two_sided:
        raise NotDefined(f"{only} only, {pattern.name} is of bidirectional ones")
