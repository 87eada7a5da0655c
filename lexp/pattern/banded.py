"""Patterns in which a query sees one unbroken stretch of keys that ends with its own.

`first_key` defines a pattern; `lookback` and `period` say how to compute it without an n x n mask.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lexp.pattern.base import Branch, Pattern, check_size, filled, share_of


@dataclass(frozen=True)
class Banded(Pattern):
    """A pattern of the keys from first_key(i) to i, in their own positions."""

    def first_key(self, i: Tensor) -> Tensor:
        """Return the first key that query index i sees; never falls as i rises."""
        raise NotImplementedError

    def allowed(self, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (j >= self.first_key(i))

    def n_keys(self, i: Tensor) -> Tensor:
        return i - self.first_key(i) + 1

    @property
    def branches(self) -> tuple[Branch, ...]:
        def keys(start: int, end: int) -> tuple[int, int]:
            return int(self.first_key(torch.tensor(start))), end

        return (Branch(self.allowed, keys),)

    def fit(self, train_len: int, seq_len: int) -> "Banded":
        return self

    @property
    def lookback(self) -> int | None:
        """Return how many keys before index s the queries from s on see; None: all.

        s: a multiple of `period`.
        """
        return None

    @property
    def is_bounded(self) -> bool:
        return self.lookback is not None

    @property
    def period(self) -> int:
        """Return p such that allowed(i + p, j + p) equals allowed(i, j), past the beginning."""
        return 1


@dataclass(frozen=True)
class Full(Banded):
    """Plain causal attention."""

    name = "full"

    @property
    def sees_all(self) -> bool:
        return True

    def first_key(self, i: Tensor) -> Tensor:
        return torch.zeros_like(i)


@dataclass(frozen=True)
class Window(Banded):
    """The last `window` keys, the query's own included.

    window: unless given, `share` of the trained length.
    """

    window: int | None = None
    share: float = 1.0

    name = "window"

    def __post_init__(self) -> None:
        check_size("window", self.window, self.share)

    def first_key(self, i: Tensor) -> Tensor:
        return (i - filled(self.window) + 1).clamp(min=0)

    @property
    def lookback(self) -> int:
        return filled(self.window) - 1

    def fit(self, train_len: int, seq_len: int) -> "Window":
        return replace(self, window=self.window or share_of(train_len, self.share), share=1.0)


@dataclass(frozen=True)
class WiderWindow(Window):
    """The trained window, `factor` times as wide (Dong et al. 2024, arXiv 2405.18009, section 4.2).

    For a NoPE model trained in a window, with all scores scaled (`extension=[uniform_scale]`).
    Where a model has plain attention, the trained length is its window.
    """

    # Not to be given: `of` and `fit` say how wide it is.
    window: int | None = field(default=None, init=False)
    share: float = field(default=1.0, init=False)
    factor: float = 2.0

    name = "wider_window"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.factor <= 1e9:
            raise ValueError(f"factor must be a number from 1 to 1e9, got {self.factor}")

    def of(self, trained: Window) -> Window:
        """Return a window that is wider than that of training."""
        return Window(round(self.factor * filled(trained.window)))

    def fit(self, train_len: int, seq_len: int) -> "WiderWindow":
        wider = replace(self)
        object.__setattr__(wider, "window", round(self.factor * train_len))
        return wider


@dataclass(frozen=True)
class OwnChunk(Banded):
    """Chunked attention: the earlier keys of the query's own chunk, as in Llama 4's local layers.

    chunk: unless given, `share` of the trained length.
    """

    chunk: int | None = None
    share: float = 1.0

    name = "chunked"

    def __post_init__(self) -> None:
        check_size("chunk", self.chunk, self.share)

    def first_key(self, i: Tensor) -> Tensor:
        chunk = filled(self.chunk)
        return i // chunk * chunk

    @property
    def lookback(self) -> int:
        return 0

    @property
    def period(self) -> int:
        return filled(self.chunk)

    def fit(self, train_len: int, seq_len: int) -> "OwnChunk":
        return replace(self, chunk=self.chunk or share_of(train_len, self.share), share=1.0)


@dataclass(frozen=True)
class Blockwise(Banded):
    """Blockwise causal attention, BCA (Sun et al. 2022, section 3.2): own block and the one before.

    The block is half the trained length unless given, so the largest distance, 2 block - 1,
    was seen in training. A query sees between block + 1 and 2 block keys once there are that many.
    """

    block: int | None = None

    name = "blockwise"

    def __post_init__(self) -> None:
        check_size("block", self.block)

    def first_key(self, i: Tensor) -> Tensor:
        block = filled(self.block)
        return ((i // block - 1) * block).clamp(min=0)

    @property
    def lookback(self) -> int:
        return filled(self.block)

    @property
    def period(self) -> int:
        return filled(self.block)

    def fit(self, train_len: int, seq_len: int) -> "Blockwise":
        return self if self.block else replace(self, block=max(1, train_len // 2))


@dataclass(frozen=True)
class Trained(Full):
    """The pattern that the model was trained with: full attention, unless its config has another.

    A placeholder in the settings of an evaluation; nothing is computed with it.
    """

    name = "trained"
