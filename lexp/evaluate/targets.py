"""The tokens that are scored: the targets of one protocol in one text."""

from dataclasses import dataclass

import numpy as np

from lexp.data import Tokens
from lexp.scoring.protocol import Protocol, Span, TextWindow
from lexp.system.files import digest


@dataclass(frozen=True)
class ScoredText:
    """The part of the test split that an evaluation scores.

    documents, targets: digests of the documents and of the tokens that are scored, 8 digits; of one
    text and vocabulary, results with equal targets compare. of: documents of the test split.
    too_short: those of them that are too short for the longest length.
    """

    documents: str
    targets: str
    of: int
    too_short: int


@dataclass(frozen=True)
class EvalTargets:
    """One protocol over one text: what is scored, at each of the lengths.

    protocol: with all its sizes filled in.
    """

    protocol: Protocol
    lengths: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def label(self) -> str:
        """Return the protocol's name and sizes: numbers of different labels are not compared."""
        return self.protocol.label(self.lengths)

    @property
    def n_documents(self) -> int:
        """Documents that have targets."""
        return len({span.document for span in self.spans})

    def scored_text(self, tokens: Tokens) -> ScoredText:
        """Return what is scored of the test split, and what is left out."""
        documents = sorted({span.document for span in self.spans})
        too_short = set(np.flatnonzero(tokens.lengths <= max(self.lengths)).tolist())
        return ScoredText(
            digest(documents)[:8], digest(self.spans)[:8], len(tokens.lengths),
            len(too_short - set(documents)),
        )  # fmt: skip

    def windows(self, length: int) -> list[TextWindow]:
        """Return the windows that the model reads at a length."""
        return [window for span in self.spans for window in self.protocol.windows(span, length)]

    def n_read(self, length: int) -> int:
        """Count the tokens that the model reads at a length; at most as many are scored."""
        return sum(window.size for window in self.windows(length))
