"""Patterns that see every key and give far keys positions seen in training."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lexp.pattern.base import Branch, Pattern, filled


@dataclass(frozen=True)
class RemappedFarKeys(Pattern):
    """A pattern that keeps distances below `window`; a subclass gives positions for far keys."""

    window: int | None = None

    only_moves = True

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")

    def far_query(self, i: Tensor) -> Tensor:
        """Return positions of queries for keys `window` or more tokens back."""
        raise NotImplementedError

    def far_key(self, j: Tensor) -> Tensor:
        """Return positions of keys for queries `window` or more tokens on."""
        raise NotImplementedError

    @property
    def branches(self) -> tuple[Branch, ...]:
        window = filled(self.window)
        far = Branch(
            lambda i, j: i - j >= window,
            lambda start, end: (0, max(0, end - window)),
            self.far_query,
            self.far_key,
        )
        near = Branch(
            lambda i, j: (j <= i) & (i - j < window),
            lambda start, end: (max(0, start - window + 1), end),
        )
        return far, near


@dataclass(frozen=True)
class SelfExtend(RemappedFarKeys):
    """SelfExtend (Jin et al. 2024, arXiv 2401.01325, section 3): far keys share positions.

        i - j < window:  i                                           to j
        else:            floor(i/group) + window - floor(window/group) to floor(j/group)

    window: a quarter of the trained length unless given. group: unless given, about the least for
    which no position passes 2/3 of the trained length (the paper's rule of thumb).
    The authors' files differ in window / group (datamllab/LongLM cdbbb06): Llama_4_40.py and Phi.py
    round it down as here, the newer Llama.py does not, and its far keys are then up to one position
    off these where group does not divide window, which the defaults seldom let it do.
    """

    group: int | None = None

    name = "self_extend"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group is not None and self.group < 1:
            raise ValueError(f"group must be at least 1, got {self.group}")

    def far_query(self, i: Tensor) -> Tensor:
        window, group = filled(self.window), filled(self.group)
        return i // group + window - window // group

    def far_key(self, j: Tensor) -> Tensor:
        return j // filled(self.group)

    def fit(self, train_len: int, seq_len: int) -> "SelfExtend":
        window = self.window or max(1, train_len // 4)
        room = max(1.0, 2 * train_len / 3 - window)
        group = self.group or max(1, math.ceil((seq_len - window) / room))
        return replace(self, window=window, group=group)


@dataclass(frozen=True)
class ReRoPE(RemappedFarKeys):
    """ReRoPE (Su 2023): keys `window` or more tokens away are all at distance `window`.

    window: half the trained length unless given.
    """

    name = "rerope"

    def far_query(self, i: Tensor) -> Tensor:
        return torch.full_like(i, filled(self.window))

    def far_key(self, j: Tensor) -> Tensor:
        return torch.zeros_like(j)

    def fit(self, train_len: int, seq_len: int) -> "ReRoPE":
        return replace(self, window=self.window or max(1, train_len // 2))


@dataclass(frozen=True)
class LeakyReRoPE(RemappedFarKeys):
    """Leaky ReRoPE (Su 2023): distances past `window` are window + (i - j - window) / leak.

    window: half the trained length unless given. leak: unless given, the least for which no
    distance passes the trained length.
    """

    leak: float | None = None

    name = "leaky_rerope"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.leak is not None and self.leak < 1:
            raise ValueError(f"leak must be at least 1, got {self.leak}")

    @property
    def _leak(self) -> float:
        assert self.leak is not None, "a leak left open is filled in by fit"
        return self.leak

    def far_query(self, i: Tensor) -> Tensor:
        window = filled(self.window)
        return window + (i.double() - window) / self._leak

    def far_key(self, j: Tensor) -> Tensor:
        return j.double() / self._leak

    def fit(self, train_len: int, seq_len: int) -> "LeakyReRoPE":
        window = self.window or max(1, train_len // 2)
        room = max(1, train_len - 1 - window)
        leak = self.leak or max(1.0, (seq_len - 1 - window) / room)
        return replace(self, window=window, leak=leak)


@dataclass(frozen=True)
class STRING(RemappedFarKeys):
    """STRING (An et al. 2024, arXiv 2410.18745, section 4): far keys at distances seen often.

        i - j < window:  i - j
        else:            i - j - window + local

    Distances near the trained length are rare in training; here they are not used, so results
    change within the trained length too. In longer texts distances grow with the text: up to
    train_len + window - local tokens all of them were seen.
    window: unless given, 0.33 of the trained length, as released (HKUNLP/STRING 216cc2f). local:
    128 there, of 128k tokens; unless given an eighth of the window. temperature: multiplies queries
    and keys; the released code has 0.1 ln 2 + 1. When that code reads a prompt it counts a key at
    distance `window` twice, at both distances; when it generates, once, as here.
    """

    local: int | None = None
    temperature: float = 1.0

    name = "string"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.local is not None and self.local < 1:
            raise ValueError(f"local must be at least 1, got {self.local}")
        if not 1e-6 <= self.temperature <= 1e6:
            raise ValueError(f"temperature must be from 1e-6 to 1e6, got {self.temperature}")

    @property
    def score_scale(self) -> float:
        return self.temperature**2

    def far_query(self, i: Tensor) -> Tensor:
        return i - filled(self.window) + filled(self.local)

    def far_key(self, j: Tensor) -> Tensor:
        return j

    def fit(self, train_len: int, seq_len: int) -> "STRING":
        window = self.window or max(1, int(0.33 * train_len))
        return replace(self, window=window, local=self.local or max(1, window // 8))


@dataclass(frozen=True)
class DualChunk(Pattern):
    """Dual chunk attention (An et al. 2024, arXiv 2402.17463, section 3; ChunkLlama's code).

    Sequences are cut into chunks of `chunk` tokens; a key has its position within its chunk:

        same chunk:       i mod chunk                        to j mod chunk
        the chunk before: min(i mod chunk + chunk, farthest) to j mod chunk
        earlier chunks:   min(2 chunk - 1, farthest)         to j mod chunk

    Sizes not given are the released ones (HKUNLP/ChunkLlama 2add4d7, chunkllama_attn_replace.py):
    farthest is 3/4 of the trained length L, chunk is that less L/8, each rounded down. (In the
    paper farthest is L - 1 and chunk the "chunk size" s.)
    The released code also multiplies rotated queries and keys by 0.05 ln(T / L) + 1 in texts of
    T > L tokens, which the paper's numbers go without, as a comment there says. Scores are
    multiplied by (log_scale ln(T / L) + 1)^2: log_scale is 0 for the paper, 0.05 for the code.
    stretch: T / L, never below 1, unless given; log_scale alone reads it.
    """

    chunk: int | None = None
    farthest: int | None = None
    log_scale: float = 0.0
    stretch: float | None = None

    name = "dual_chunk"
    only_moves = True

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if self.farthest is not None and self.farthest < (self.chunk or 1) - 1:
            raise ValueError(
                f"farthest must be at least chunk - 1, got {self.farthest} and {self.chunk}"
            )
        if not 0 <= self.log_scale <= 1e6 or not 1 <= (self.stretch or 1) < math.inf:
            raise ValueError(
                f"log_scale must be a number from 0 to 1e6 and stretch from 1, "
                f"got {self.log_scale} and {self.stretch}"
            )

    @property
    def score_scale(self) -> float:
        if not self.log_scale:
            return 1.0
        assert self.stretch is not None, "a stretch left open is filled in by fit"
        return (self.log_scale * math.log(self.stretch) + 1) ** 2

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Return branches for keys of earlier chunks, the chunk before and the query's own."""
        chunk, farthest = filled(self.chunk), filled(self.farthest)

        def within(index: Tensor) -> Tensor:
            return index % chunk

        earlier = Branch(
            lambda i, j: i // chunk - j // chunk > 1,
            lambda start, end: (0, max(0, (end - 1) // chunk - 1) * chunk),
            lambda i: torch.full_like(i, min(2 * chunk - 1, farthest)),
            within,
        )
        before = Branch(
            lambda i, j: i // chunk - j // chunk == 1,
            lambda start, end: (max(0, start // chunk - 1) * chunk, (end - 1) // chunk * chunk),
            lambda i: (i % chunk + chunk).clamp(max=farthest),
            within,
        )
        same = Branch(
            lambda i, j: (j <= i) & (i // chunk == j // chunk),
            lambda start, end: (start // chunk * chunk, end),
            within,
            within,
        )
        return earlier, before, same

    def fit(self, train_len: int, seq_len: int) -> "DualChunk":
        chunk = self.chunk or max(1, train_len * 3 // 4 - train_len // 8)
        return replace(
            self, chunk=chunk, farthest=self.farthest or max(chunk, train_len * 3 // 4),
            stretch=self.stretch or (max(1.0, seq_len / train_len) if self.log_scale else None),
        )  # fmt: skip
