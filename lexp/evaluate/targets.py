"""The tokens that are scored: the targets of one protocol in one text."""

from dataclasses import dataclass

from lexp.scoring.protocol import Protocol, Span, TextWindow


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

    def windows(self, length: int) -> list[TextWindow]:
        """Return the windows that the model reads at a length."""
        return [window for span in self.spans for window in self.protocol.windows(span, length)]

    def n_read(self, length: int) -> int:
        """Count the tokens that the model reads at a length; at most as many are scored."""
        return sum(window.size for window in self.windows(length))
