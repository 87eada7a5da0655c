"""Patterns that look at activations: a query chooses its keys by their products with it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from lexp.pattern.banded import Full
from lexp.pattern.base import Branch, Pattern, filled
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class Selecting(Pattern):
    """A pattern whose queries choose among all earlier keys; a subclass says by which rule.

    A choice reads nothing after its query, so a later token changes no earlier result.
    """

    # Whether positions are counted anew, 0 .. n-1, among the n keys that a query sees. Keys are
    # then chosen by products without positions, otherwise by the scores before any bias.
    recounts: ClassVar[bool] = False

    @property
    def moves(self) -> bool:
        return self.recounts

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Return the keys that a query chooses from."""
        return Full().branches

    def seen(self, products: Tensor) -> Tensor:
        """Return which keys queries see, bool, [B, H, Q, K], or [B, 1, Q, K] for all heads.

        products [B, H, Q, K]: of the last Q of K tokens with all K keys; those of keys after the
        query have no meaning.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ReAttention(Selecting):
    """ReAttention (Liu et al. 2024, arXiv 2407.15176): the first keys, voted spans, the last keys.

        candidates:  n_global <= j <= i - local
        votes:       each head's n_votes candidates with the largest q_i . k_j, without positions
        centres:     the n_spans candidates with most votes, fewer if fewer have any
        keys of i:   j < n_global,  centre - span // 2 .. centre + (span - 1) // 2,  j > i - local

    All heads see the same keys, in the positions 0 .. n-1 of a text of these n alone. Of equal
    products the later key is taken (the authors' code leaves that open).
    Sizes not given are the published ones for 8192 tokens (32 global, 4096 local, spans of 32), at
    shorter trained lengths L smaller: n_global and span at most L / 16, local L / 2; n_spans is
    the largest number that keeps n within L (the authors limit it to 64 .. 256).
    A query reads every candidate once to vote, and n_keys keys to attend.
    The authors' code (OpenMOSS/ReAttention 126f9e2, cache_utils_v0921.py, `update`) decodes by this
    rule. It reads a prompt in chunks of 512 queries that vote together, over all texts of a batch:
    their keys then depend on tokens after them, and losses would. Its kernel for four votes
    keeps one candidate of each 128, its local keys are up to 128 fewer to fill its blocks, an odd
    span is one key longer, and where heads share keys, its decoding votes with those of others.
    """

    n_global: int | None = None
    local: int | None = None
    n_votes: int = 4
    span: int | None = None
    n_spans: int | None = None

    name = "reattention"
    recounts = True

    def __post_init__(self) -> None:
        sizes = (self.n_global, self.local, self.n_votes, self.span, self.n_spans)
        if any(size is not None and size < 1 for size in sizes):
            raise ValueError(
                "n_global, local, n_votes, span and n_spans must be at least 1, got "
                f"{', '.join(str(size) for size in sizes)}"
            )

    def n_keys(self, i: Tensor) -> Tensor:
        """Return the largest number of keys that query index i may see."""
        chosen = filled(self.n_spans) * filled(self.span)
        most = filled(self.n_global) + chosen + filled(self.local)
        return (i + 1).clamp(max=min(most, torch.iinfo(i.dtype).max))

    def n_to_choose(self, i: Tensor) -> Tensor:
        """Return the number of candidates, of each of which a query reads the key."""
        return (i + 1 - filled(self.n_global)).clamp(min=0).sub(filled(self.local)).clamp(min=0)

    def seen(self, products: Tensor) -> Tensor:
        """Return the keys [B, 1, Q, K]."""
        n_queries, n_keys = products.shape[-2:]
        j = torch.arange(n_keys, device=products.device)
        i = j[n_keys - n_queries :, None]
        is_first, is_last = j < filled(self.n_global), (j > i - filled(self.local)) & (j <= i)
        candidates = (j <= i) & ~is_first & ~is_last
        votes = highest(products.masked_fill(~candidates, -torch.inf), self.n_votes).sum(1)
        # More votes first, then later keys: no two keys are equal.
        order = torch.where(votes > 0, votes * n_keys + j, -1)
        n_centres = min(filled(self.n_spans), n_keys)
        least = order.topk(n_centres, dim=-1).values[..., -1:]
        centres = (order >= least.clamp(min=0)).to(products.dtype)
        # Spans longer than the text reach no further than its ends.
        before, after = (min(n // 2, n_keys) for n in (filled(self.span), filled(self.span) - 1))
        spans = max_pool1d(pad(centres, (after, before)), before + after + 1, stride=1) > 0
        return ((spans & candidates) | is_first & (j <= i) | is_last)[:, None]

    def fit(self, train_len: int, seq_len: int) -> "ReAttention":
        small = min(32, max(1, train_len // 16))
        n_global, span = self.n_global or small, self.span or small
        local = self.local or max(1, train_len // 2)
        n_spans = self.n_spans or (train_len - n_global - local) // span
        if n_spans < 1:
            raise NotDefined(
                f"reattention: {n_global} global and {local} local keys leave no room for a span "
                f"of {span} in {train_len} trained tokens; set smaller sizes, or n_spans"
            )
        return replace(self, n_global=n_global, local=local, span=span, n_spans=n_spans)


@dataclass(frozen=True)
class MoBA(Selecting):
    """Mixture of block attention (Lu et al. 2025, arXiv 2502.13189, section 2): the top_k blocks.

        gate(i, block) = q_i . mean of the block's keys,  for blocks before that of i
        keys of i:  its own block up to i, and the top_k - 1 blocks with the largest gates

    Each head chooses its own blocks, by queries and keys with their rotary positions, as the
    authors' code gets them (MoonshotAI/MoBA 61e456b, moba_naive.py); a bias takes no part. By the
    product's linearity a gate is the mean of the block's scores. Of equal gates the later block is
    taken.
    Sizes not given are those of the paper's models of 8192 tokens: a block is a sixteenth of the
    trained length, and top_k 3. Fewer keys are then seen within the trained length too; the paper
    trains with the pattern.
    A query reads one mean for each earlier block to choose, and n_keys keys to attend.
    """

    block: int | None = None
    top_k: int = 3

    name = "moba"

    def __post_init__(self) -> None:
        if (self.block is not None and self.block < 1) or self.top_k < 1:
            raise ValueError(
                f"block and top_k must be at least 1, got {self.block} and {self.top_k}"
            )

    def n_keys(self, i: Tensor) -> Tensor:
        block = filled(self.block)
        return i % block + 1 + (i // block).clamp(max=self.top_k - 1) * block

    def n_to_choose(self, i: Tensor) -> Tensor:
        """Return the number of earlier blocks, of each of which a query reads the mean key."""
        return i // filled(self.block)

    def seen(self, products: Tensor) -> Tensor:
        """Return the keys [B, H, Q, K]."""
        n_queries, n_keys = products.shape[-2:]
        block = min(filled(self.block), n_keys)
        j = torch.arange(n_keys, device=products.device)
        i = j[n_keys - n_queries :, None]
        # The last block may be short, and no query comes after it.
        n_whole = n_keys // block
        gates = products[..., : n_whole * block].unflatten(-1, (n_whole, block)).mean(-1)
        earlier = torch.arange(n_whole, device=products.device) < i // block
        chosen = highest(gates.masked_fill(~earlier, -torch.inf), self.top_k - 1)
        keys = chosen.repeat_interleave(block, dim=-1)
        return pad(keys, (0, n_keys - n_whole * block)) | ((i // block == j // block) & (j <= i))

    def fit(self, train_len: int, seq_len: int) -> "MoBA":
        return replace(self, block=self.block or max(1, train_len // 16))


def highest(scores: Tensor, n: int) -> Tensor:
    """Return which entries of each row are its n highest, bool; of equal ones the last.

    Entries of -inf are never among them. What differs by rounding counts as equal: the keys of
    equal tokens do, in a model's first layer, and how they are rounded depends on what is computed
    together with them.
    """
    left = scores.detach().clone()
    is_finite = left > -torch.inf
    if not left.shape[-1]:
        return is_finite
    size = left.abs().masked_fill(~is_finite, 0).amax(-1, keepdim=True)
    tolerance = torch.finfo(left.dtype).eps ** 0.7 * size  # 1.4e-5 of the largest in float32
    places = torch.arange(left.shape[-1], device=left.device)
    chosen = torch.zeros_like(is_finite)
    for _ in range(min(n, len(places))):
        is_best = left >= left.amax(-1, keepdim=True) - tolerance
        last = torch.where(is_best, places, 0).amax(-1, keepdim=True)
        chosen.scatter_(-1, last, True)
        left.scatter_(-1, last, -torch.inf)
    return chosen & is_finite
