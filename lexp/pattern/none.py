"""The place of a pattern in layers that compute no attention."""

from dataclasses import dataclass

from lexp.pattern.base import Branch, Pattern


@dataclass(frozen=True)
class NoAttention(Pattern):
    """No pairs of queries and keys: the pattern of a recurrent layer, which no method replaces."""

    name = "no_attention"

    @property
    def attends(self) -> bool:
        return False

    @property
    def branches(self) -> tuple[Branch, ...]:
        return ()
