"""Attention patterns: which keys a query may see. A pattern knows indices, never activations.

`allowed` is the definition; `lookback` and `period` say how to compute it without an n x n mask.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """A subset of the causal triangle j <= i that always contains the diagonal."""

    name: ClassVar[str]

    def allowed(self, i: Tensor, j: Tensor) -> Tensor:
        """Whether query index i may see key index j; broadcasts."""
        raise NotImplementedError

    @property
    def lookback(self) -> int | None:
        """Keys before index s that queries from s on see, s a multiple of `period`; None: all."""
        return None

    @property
    def period(self) -> int:
        """allowed(i + period, j + period) equals allowed(i, j)."""
        return 1

    @property
    def label(self) -> str:
        """The name in tables: with its size only where the user gave one."""
        return self.name

    def for_train_len(self, train_len: int) -> "Pattern":
        """The pattern with a size left open filled in from the length the model was trained at."""
        return self


@dataclass(frozen=True)
class Full(Pattern):
    """Plain causal attention."""

    name = "full"

    def allowed(self, i: Tensor, j: Tensor) -> Tensor:
        return j <= i


@dataclass(frozen=True)
class Window(Pattern):
    """The last `window` keys, the query's own included; the trained length unless given."""

    window: int | None = None

    name = "window"

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 (the query's own key), got {self.window}")

    def allowed(self, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i - j < _filled(self.window))

    @property
    def lookback(self) -> int:
        return _filled(self.window) - 1

    @property
    def label(self) -> str:
        return self.name if self.window is None else f"{self.name}-{self.window}"

    def for_train_len(self, train_len: int) -> "Window":
        return self if self.window else Window(train_len)


@dataclass(frozen=True)
class Blockwise(Pattern):
    """Blockwise causal attention, BCA (Sun et al. 2022, section 3.2): own block and the one before.

    The block is half the trained length unless given, so the largest distance, 2 block - 1,
    was seen in training. A query sees between block + 1 and 2 block keys once there are that many.
    """

    block: int | None = None

    name = "blockwise"

    def __post_init__(self) -> None:
        if self.block is not None and self.block < 1:
            raise ValueError(f"block must be at least 1, got {self.block}")

    def allowed(self, i: Tensor, j: Tensor) -> Tensor:
        block = _filled(self.block)
        return (j <= i) & (i // block - j // block <= 1)

    @property
    def lookback(self) -> int:
        return _filled(self.block)

    @property
    def period(self) -> int:
        return _filled(self.block)

    @property
    def label(self) -> str:
        return self.name if self.block is None else f"{self.name}-{self.block}"

    def for_train_len(self, train_len: int) -> "Blockwise":
        return self if self.block else Blockwise(max(1, train_len // 2))


def _filled(size: int | None) -> int:
    assert size is not None, "a size left open is filled in by for_train_len"
    return size
