"""Patterns of bidirectional models: a query sees keys on both sides, in their own positions.

Masked language models are trained with these patterns. `first_key` and `last_key` define them; a
last key past the end of the text stands for the text's last key.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lexp.pattern.base import Branch, Pattern, check_size, filled

# Past the end of any text.
FAR = 1 << 40


@dataclass(frozen=True)
class TwoSided(Pattern):
    """A pattern of the keys from first_key(i) to last_key(i), both included."""

    two_sided = True

    def first_key(self, i: Tensor) -> Tensor:
        """Return the first key that query index i sees; never falls as i rises."""
        return torch.zeros_like(i)

    def last_key(self, i: Tensor) -> Tensor:
        """Return the last key that query index i sees; never falls as i rises."""
        return torch.full_like(i, FAR)

    def allowed(self, i: Tensor, j: Tensor) -> Tensor:
        return (j >= self.first_key(i)) & (j <= self.last_key(i))

    def n_keys(self, i: Tensor) -> Tensor:
        """Return the number of keys that each of the queries i of a whole text sees."""
        return self.last_key(i).clamp(max=len(i) - 1) - self.first_key(i) + 1

    def reach(self, start: int, end: int, seq_len: int) -> tuple[int, int]:
        """Return first and last: queries start .. end-1 see keys first .. last-1 only."""
        first = int(self.first_key(torch.tensor(start)))
        return first, min(seq_len, int(self.last_key(torch.tensor(end - 1))) + 1)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Return two branches: keys up to the query's own, and keys after it."""
        return (
            Branch(
                lambda i, j: self.allowed(i, j) & (j <= i),
                lambda start, end: (self.reach(start, end, end)[0], end),
            ),
            Branch(
                lambda i, j: self.allowed(i, j) & (j > i),
                lambda start, end: (start, self.reach(start, end, FAR)[1]),
                ahead=True,
            ),
        )


@dataclass(frozen=True)
class Bidirectional(TwoSided):
    """Every key of the text."""

    name = "bidirectional"

    @property
    def sees_all(self) -> bool:
        return True


@dataclass(frozen=True)
class BidirectionalWindow(TwoSided):
    """The `window` keys around the query: its own, and equally many on either side.

    window: the trained length unless given; an even window has one key less.
    """

    window: int | None = None

    name = "bidirectional_window"

    def __post_init__(self) -> None:
        check_size("window", self.window)

    def first_key(self, i: Tensor) -> Tensor:
        return (i - (filled(self.window) - 1) // 2).clamp(min=0)

    def last_key(self, i: Tensor) -> Tensor:
        return i + (filled(self.window) - 1) // 2

    def fit(self, train_len: int, seq_len: int) -> "BidirectionalWindow":
        return self if self.window else replace(self, window=train_len)


@dataclass(frozen=True)
class BidirectionalBlockwise(TwoSided):
    """Blockwise attention on both sides: the query's own block and its two neighbours.

    The counterpart of blockwise causal attention (Sun et al. 2022, section 3.2), where two blocks
    of half the trained length hold as many keys as in training. Here three blocks of a third of it
    do, unless `block` is given. Distances are below two blocks.
    """

    block: int | None = None

    name = "bidirectional_blockwise"

    def __post_init__(self) -> None:
        check_size("block", self.block)

    def first_key(self, i: Tensor) -> Tensor:
        block = filled(self.block)
        return ((i // block - 1) * block).clamp(min=0)

    def last_key(self, i: Tensor) -> Tensor:
        block = filled(self.block)
        return (i // block + 2) * block - 1

    def fit(self, train_len: int, seq_len: int) -> "BidirectionalBlockwise":
        return self if self.block else replace(self, block=max(1, train_len // 3))
