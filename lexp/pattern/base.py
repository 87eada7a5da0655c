"""The base class of attention patterns. A pattern knows indices, never kernels.

Those of lexp.pattern.selecting look at activations too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lexp.system.text import label_of


def identity(index: Tensor) -> Tensor:
    """Return the index as the position."""
    return index


@dataclass(frozen=True)
class Branch:
    """Some of a pattern's pairs, and the positions that queries and keys have among them.

    allowed: whether query index i sees key index j in this branch; broadcasts.
    keys: queries start .. end-1 see keys from first to below last only, ascending with start.
    ahead: its keys come after their queries.
    q_map, k_map: indices to positions, int64 to int64 or float64.
    """

    allowed: Callable[[Tensor, Tensor], Tensor]
    keys: Callable[[int, int], tuple[int, int]]
    q_map: Callable[[Tensor], Tensor] = identity
    k_map: Callable[[Tensor], Tensor] = identity
    ahead: bool = False

    @property
    def moves(self) -> bool:
        """Return whether positions differ from indices."""
        return self.q_map is not identity or self.k_map is not identity


@dataclass(frozen=True)
class Pattern:
    """A rule for which keys a query sees, always its own among them, and at which distances.

    The keys are those of the causal triangle j <= i; where the pattern is `two_sided`, they are
    those of the whole text.
    """

    name: ClassVar[str]
    # Whether the pattern sees every key and does nothing but move positions.
    only_moves: ClassVar[bool] = False
    # Whether queries see keys that come after them.
    two_sided: ClassVar[bool] = False

    @property
    def turns(self) -> "tuple[Pattern, ...]":
        """Return the patterns that layers take in turns: of most patterns itself alone.

        Layer n has the pattern at n modulo their number; `InTurns` has several.
        """
        return (self,)

    @property
    def attends(self) -> bool:
        """Return whether there are queries and keys at all, in any layer."""
        return True

    @property
    def sees_all(self) -> bool:
        """Return whether it is plain attention: every key, in its own position."""
        return False

    @property
    def is_bounded(self) -> bool:
        """Return whether no query sees further back than a number of keys that is known."""
        return False

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Return disjoint parts of the pattern, those with earlier keys first."""
        raise NotImplementedError

    @property
    def moves(self) -> bool:
        """Return whether keys have positions that differ from their indices."""
        return any(branch.moves for branch in self.branches)

    def allowed(self, i: Tensor, j: Tensor) -> Tensor:
        """Return whether query index i sees key index j; broadcasts."""
        first, *rest = (branch.allowed(i, j) for branch in self.branches)
        for other in rest:
            first = first | other
        return first

    def n_keys(self, i: Tensor) -> Tensor:
        """Return the number of keys that query index i sees, itself included."""
        return i + 1

    def n_to_choose(self, i: Tensor) -> Tensor:
        """Return the number of keys, or means of keys, that query i reads to choose its own."""
        return torch.zeros_like(i)

    @property
    def score_scale(self) -> float:
        """Return the multiplier of q . k / sqrt(head_dim), before any bias."""
        return 1.0

    @property
    def label(self) -> str:
        """Return the name in tables, with sizes only where the user gave some."""
        return label_of(self.name, self)

    def fit(self, train_len: int, seq_len: int) -> "Pattern":
        """Return the pattern with open sizes filled in for a model trained at train_len tokens."""
        return self


def share_of(train_len: int, share: float) -> int:
    """Return a size that is a share of the trained length, at least 1."""
    return max(1, int(train_len * share))


def check_size(name: str, size: int | None, share: float = 1.0) -> None:
    """Raise ValueError for a size below 1, or for a share that is not above 0 and at most 1.

    name: of the size, for the message. None: it is still to be filled in.
    """
    if size is not None and size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1 (of train_len), got {share}")


def filled(size: int | None) -> int:
    """Return a size that `fit` has filled in."""
    assert size is not None, "a size left open is filled in by fit"
    return size
