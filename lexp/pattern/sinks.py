"""Patterns that keep the first tokens of a text visible at every length."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lexp.pattern.banded import Banded, Window
from lexp.pattern.base import Branch, Pattern, filled, identity
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class FirstAndBand(Pattern):
    """A pattern of the first tokens of a text and a band; a subclass gives sizes and positions."""

    def parts(self) -> tuple[int, Banded]:
        """Return the number of first tokens, and the band with its size filled in."""
        raise NotImplementedError

    def far_query(self, i: Tensor) -> Tensor:
        """Return positions of queries for first tokens outside the band."""
        raise NotImplementedError

    def far_key(self, j: Tensor) -> Tensor:
        """Return positions of first tokens outside the band: by default their own."""
        return j

    def n_keys(self, i: Tensor) -> Tensor:
        n_first, band = self.parts()
        return band.n_keys(i) + band.first_key(i).clamp(max=n_first)

    @property
    def branches(self) -> tuple[Branch, ...]:
        n_first, band = self.parts()
        first = Branch(
            lambda i, j: (j < n_first) & (j < band.first_key(i)),
            lambda start, end: (0, min(n_first, int(band.first_key(torch.tensor(end - 1))))),
            self.far_query,
            self.far_key,
        )
        return (first, *band.branches)


@dataclass(frozen=True)
class Sinks(FirstAndBand):
    """A banded pattern and the first `n_sinks` tokens (Xiao et al. 2023, StreamingLLM, 2309.17453).

    Positions are those in the cache: sinks outside the band get the positions just before it, so
    that no distance exceeds the number of visible keys.
    The band's size, unless given, follows from train_len - n_sinks: never more keys than trained.
    """

    band: Banded = field(default_factory=Window)
    n_sinks: int = 4

    name = "sinks"

    def __post_init__(self) -> None:
        if self.n_sinks < 1:
            raise ValueError(f"n_sinks must be at least 1, got {self.n_sinks}")

    def parts(self) -> tuple[int, Banded]:
        return self.n_sinks, self.band

    def far_query(self, i: Tensor) -> Tensor:
        return self.n_keys(i) - 1

    @property
    def label(self) -> str:
        return f"{self.band.label}_sinks" + f"-{self.n_sinks}" * (self.n_sinks != 4)

    def fit(self, train_len: int, seq_len: int) -> "Sinks":
        if self.n_sinks > train_len - 2:
            raise NotDefined(f"{self.n_sinks} sinks leave no room in {train_len} trained tokens")
        return replace(self, band=self.band.fit(train_len - self.n_sinks, seq_len))


@dataclass(frozen=True)
class SinksInPlace(Sinks):
    """Sinks that keep their own positions, so that their distance grows with the text.

    A mask and nothing else, and so defined where positions cannot be moved. Xiao et al. 2023
    (2309.17453) move them; the difference between the two is what that is worth.
    """

    name = "sinks_in_place"

    @property
    def branches(self) -> tuple[Branch, ...]:
        first, *band = super().branches
        return (replace(first, q_map=identity, k_map=identity), *band)

    @property
    def label(self) -> str:
        return f"{super().label}_in_place"


@dataclass(frozen=True)
class LMInfinite(FirstAndBand):
    """The first `n_global` tokens and the last `window`, distances capped at `window`.

    Han et al. 2023, LM-Infinite (arXiv 2308.16137, section 4): a mask of the shape of a Lambda.
    window: the trained length unless given.
    """

    n_global: int = 10
    window: int | None = None

    name = "lm_infinite"

    def __post_init__(self) -> None:
        if self.n_global < 1 or (self.window is not None and self.window < 1):
            raise ValueError(
                f"n_global and window must be at least 1, got {self.n_global} and {self.window}"
            )

    def parts(self) -> tuple[int, Banded]:
        return self.n_global, Window(filled(self.window))

    def far_query(self, i: Tensor) -> Tensor:
        return torch.full_like(i, filled(self.window))

    def far_key(self, j: Tensor) -> Tensor:
        return torch.zeros_like(j)

    def fit(self, train_len: int, seq_len: int) -> "LMInfinite":
        return self if self.window else replace(self, window=train_len)
