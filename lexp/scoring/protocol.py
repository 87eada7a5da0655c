"""Evaluation protocols: which tokens are scored, and in which windows the model sees them.

A window of `size` tokens from token `first` of a document predicts tokens first + 1 to
first + size; its last `n_scored` targets count. A target's context is the number of tokens of its
window before it. Windows never cross documents; token 0 of a document is never scored (nothing
precedes it), and no token is put in front of a window (BOS rule `none`, as in training).

Let N be the longest length of the evaluation. Every protocol but `prefix` scores the same targets
at every length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from lexp.data import Tokens
from lexp.result_store import Component, code_in, component_spec
from lexp.system.errors import ConfigError, DataError

BOS = "none"


class Span(NamedTuple):
    """Targets: tokens first .. first + n_tokens - 1 of a document."""

    document: int
    first: int
    n_tokens: int


class TextWindow(NamedTuple):
    """Input tokens first .. first + size - 1 of a document, of whose targets the last count."""

    document: int
    first: int
    size: int
    n_scored: int


@dataclass(frozen=True, kw_only=True)
class ProtocolInfo(Component):
    """A protocol as a stored result carries it; numbers of different labels are not compared.

    longest: N. paired, masked, all_contexts: see Protocol. description: what it scores, in words.
    """

    longest: int
    paired: bool
    masked: bool
    all_contexts: bool
    description: str


@dataclass(frozen=True)
class Protocol:
    """A way to score documents at a length; the base class has what all protocols share.

    paired: every length scores the same targets, so differences between lengths mean something.
    masked: targets are masked tokens, which causal models are not asked for. all_contexts: every
    target of a window counts, so that contexts of 1 token up to the length occur. nested: shorter
    lengths see the beginnings of what the longest one sees.
    """

    name: ClassVar[str]
    paired: ClassVar[bool] = True
    masked: ClassVar[bool] = False
    all_contexts: ClassVar[bool] = False
    nested: ClassVar[bool] = False

    def label(self, lengths: Sequence[int]) -> str:
        """Return the name that every number carries; unlike labels are never compared."""
        return f"{self.name}-{max(lengths)}"

    def describe(self, longest: int) -> str:
        """Return what the protocol scores, in words."""
        return self.name

    def info(self, lengths: Sequence[int]) -> ProtocolInfo:
        """Return what a stored result carries of the protocol, its sizes filled in."""
        longest, spec = max(lengths), component_spec(self)
        return ProtocolInfo(
            self.name, self.label(lengths), spec["values"], code_in(spec), longest=longest,
            paired=self.paired, masked=self.masked, all_contexts=self.all_contexts,
            description=self.describe(longest),
        )  # fmt: skip

    def fit(self, lengths: Sequence[int]) -> "Protocol":
        """Fill in the sizes that were left open; ConfigError if one does not fit the lengths."""
        return self

    def spans(
        self, tokens: Tokens, lengths: Sequence[int], max_tokens: int | None
    ) -> tuple[Span, ...]:
        """Choose the targets: about max_tokens of them, of at least one document.

        DataError if no document is long enough.
        """
        longest = max(lengths)
        limit = None if max_tokens is None else max(1, max_tokens // longest)
        return tuple(Span(d, 1, longest) for d in long_enough(tokens, longest)[:limit])

    def windows(self, span: Span, length: int) -> Iterator[TextWindow]:
        """Yield the windows in which a span is scored at a length: each target once, in order."""
        raise NotImplementedError

    def contexts(self, windows: Sequence[TextWindow]) -> np.ndarray:
        """Count the tokens before each target in its window, by window; int64 [targets]."""
        sizes = [window.n_scored for window in windows]
        ends = np.cumsum(sizes)
        # 1 .. n_scored within each window, counted from the last token that is not scored.
        within = np.arange(1, sum(sizes) + 1) - np.repeat(ends - sizes, sizes)
        return np.repeat([window.size - window.n_scored for window in windows], sizes) + within


@dataclass(frozen=True)
class Segments(Protocol):
    """Tokens 1 .. N of each document in consecutive windows (Sun et al. 2022, section 4.2).

    Targets near a window's beginning have little context, and longer lengths have fewer of them.
    Part of the apparent gain of longer lengths is this effect (the early-token curse, Press et al.
    2021, appendix B).
    """

    name = "segments"
    all_contexts = True

    def describe(self, longest: int) -> str:
        return f"tokens 1 to {longest} of each document, in windows of each length, end to end"

    def windows(self, span: Span, length: int) -> Iterator[TextWindow]:
        end = span.first + span.n_tokens - 1
        for first in range(span.first - 1, end, length):
            size = min(length, end - first)
            yield TextWindow(span.document, first, size, size)


@dataclass(frozen=True)
class Sliding(Protocol):
    """Tokens 1 .. N of each document in windows with a stride; only new tokens are scored.

    The sliding window of Press et al. 2021: contexts are length - stride + 1 to length, except in
    the first window, whose targets all count. stride: null for a quarter of each length.
    """

    stride: int | None = None

    name = "sliding"

    def __post_init__(self) -> None:
        _at_least_1("stride", self.stride)

    def label(self, lengths: Sequence[int]) -> str:
        return f"sliding-by-{self.stride or 'quarter'}-{max(lengths)}"

    def describe(self, longest: int) -> str:
        stride = self.stride or "a quarter of the length in"
        return (
            f"tokens 1 to {longest} of each document, windows of each length moving on by {stride} "
            "tokens, of which only the new ones are scored"
        )

    def fit(self, lengths: Sequence[int]) -> "Sliding":
        _at_most("stride", self.stride, lengths)
        return self

    def windows(self, span: Span, length: int) -> Iterator[TextWindow]:
        stride = self.stride or max(1, length // 4)
        begin, last = span.first - 1, span.first + span.n_tokens - 1
        end = min(begin + length, last)
        yield TextWindow(span.document, begin, end - begin, end - begin)
        while end < last:
            new = min(stride, last - end)
            end += new
            yield TextWindow(span.document, end - length, length, new)


@dataclass(frozen=True)
class Fixed(Protocol):
    """The same targets at every length, each with at least N - block tokens before it.

    Targets come in blocks, spread over each document. At length L one window of L tokens ends at
    a block's end and the block is scored. Contexts are then L - block + 1 .. L, and only the
    context differs between lengths. block: null for half the shortest length.
    """

    block: int | None = None

    name = "fixed"

    def __post_init__(self) -> None:
        _at_least_1("block", self.block)

    def label(self, lengths: Sequence[int]) -> str:
        return f"fixed-by-{self.block}-{max(lengths)}"

    def describe(self, longest: int) -> str:
        return (
            f"the same blocks of {self.block} tokens of each document at every length, each the "
            "last of a window of that length"
        )

    def fit(self, lengths: Sequence[int]) -> "Fixed":
        _at_most("block", self.block, lengths)
        return replace(self, block=self.block or max(1, min(lengths) // 2))

    def spans(
        self, tokens: Tokens, lengths: Sequence[int], max_tokens: int | None
    ) -> tuple[Span, ...]:
        """Choose blocks with N - block tokens before them, spread over each document."""
        longest, block = max(lengths), self.block
        assert block is not None, "filled in by fit"
        documents = long_enough(tokens, longest)
        # Blocks that end at token `longest`, and every `block` tokens after that, fit.
        fitting = [int(tokens.lengths[d] - 1 - longest) // block + 1 for d in documents]
        if max_tokens is not None:
            documents = documents[: max(1, max_tokens // block)]
            each = max(1, max_tokens // (block * len(documents)))
            fitting = [min(each, n) for n in fitting[: len(documents)]]
        spans = []
        for d, n in zip(documents, fitting, strict=True):
            places = int(tokens.lengths[d] - 1 - longest) // block
            for turn in range(n):
                end = longest + block * (turn * places // max(1, n - 1))
                spans.append(Span(d, end - block + 1, block))
        return tuple(spans)

    def windows(self, span: Span, length: int) -> Iterator[TextWindow]:
        end = span.first + span.n_tokens - 1
        yield TextWindow(span.document, end - length, length, span.n_tokens)


@dataclass(frozen=True)
class Prefix(Protocol):
    """The first L tokens of each document in one window.

    A length's number is a mean over targets 1 .. L: lengths score different tokens, so their
    numbers are not compared with each other.

    One pass at the longest length gives the losses of every shorter length, if the model does not
    depend on the length: tokens after a target do not change its loss.
    """

    name = "prefix"
    paired = False
    all_contexts = True
    nested = True

    def describe(self, longest: int) -> str:
        return "the first tokens of each document in one window, more tokens at longer lengths"

    def windows(self, span: Span, length: int) -> Iterator[TextWindow]:
        size = min(length, span.n_tokens)
        yield TextWindow(span.document, span.first - 1, size, size)


@dataclass(frozen=True)
class Masked(Protocol):
    """Tokens 0 .. N-1 of each document in consecutive windows; some are masked and predicted.

    For masked language models. A token is chosen with a probability of `percent` %. The choice
    depends on the seed, its document and its position alone, so it is the same at every length and
    for every model. All chosen tokens are masked at once, as in training. Targets near
    either end of a window have context at one side only; longer lengths have fewer of them.
    """

    percent: int = 15
    seed: int = 0

    name = "masked"
    masked = True

    def __post_init__(self) -> None:
        if not 1 <= self.percent <= 99 or self.seed < 0:
            raise ValueError(
                f"masked takes a percent from 1 to 99 and a seed from 0, got {self.percent}, "
                f"{self.seed}"
            )

    def label(self, lengths: Sequence[int]) -> str:
        seed = f"s{self.seed}" if self.seed else ""
        return f"masked-by-{self.percent}{seed}-{max(lengths)}"

    def describe(self, longest: int) -> str:
        return (
            f"{self.percent} % of the first {longest} tokens of each document, masked all at once, "
            "in windows of each length, end to end"
        )

    def spans(
        self, tokens: Tokens, lengths: Sequence[int], max_tokens: int | None
    ) -> tuple[Span, ...]:
        """Choose about max_tokens tokens, some of which will be masked."""
        return tuple(s._replace(first=0) for s in super().spans(tokens, lengths, max_tokens))

    def windows(self, span: Span, length: int) -> Iterator[TextWindow]:
        for first in range(span.first, span.first + span.n_tokens, length):
            size = min(length, span.first + span.n_tokens - first)
            if n_scored := int(self.chosen(TextWindow(span.document, first, size, 0)).sum()):
                yield TextWindow(span.document, first, size, n_scored)

    def chosen(self, window: TextWindow) -> np.ndarray:
        """Return the mask of a window's masked tokens, which are the targets; bool [size]."""
        draws = np.random.default_rng([self.seed, window.document])
        return draws.random(window.first + window.size)[window.first :] * 100 < self.percent

    def contexts(self, windows: Sequence[TextWindow]) -> np.ndarray:
        """Count the tokens before each target; those after it are not counted."""
        places = [np.flatnonzero(self.chosen(window)) for window in windows]
        return np.concatenate(places) if places else np.zeros(0, dtype=np.int64)


def long_enough(tokens: Tokens, n_tokens: int) -> list[int]:
    """Find documents with n_tokens + 1 tokens; DataError names the longest if there is none."""
    documents = [int(d) for d in np.flatnonzero(tokens.lengths > n_tokens)]
    if documents:
        return documents
    if not len(tokens.lengths):
        raise DataError("there are no documents")
    longest = int(tokens.lengths.argmax())
    raise DataError(
        f"no document has the {n_tokens + 1} tokens that length {n_tokens} needs; the longest "
        f"of {len(tokens.lengths)} is {tokens.names[longest]} with {tokens.lengths[longest]}"
    )


def _at_least_1(name: str, size: int | None) -> None:
    if size is not None and size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")


def _at_most(name: str, size: int | None, lengths: Sequence[int]) -> None:
    if size is not None and size > min(lengths):
        raise ConfigError(
            f"protocol: {name}={size} is more than the shortest of lengths={list(lengths)}"
        )
