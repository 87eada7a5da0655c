"""Attention within the documents of packed rows: each document as if it stood alone.

Rows are cut where documents begin, and the pieces are folded into the batch, those of similar
length together, padded at the right. Attention of any pattern and scheme then computes them as
rows of their own, from position 0, by the kernel that it takes for that length. No mask of T x T
exists, and pairs of different documents are never computed. Padding is seen by no token, because
attention is causal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lexp.attention.call import Attend, AttentionFunction, AttentionInput

# Pieces are padded to 8, 12, 16, 24, 32, .. tokens: by less than half of their tokens, if they have
# 8 or more, and there are few different lengths to prepare attention for.
LEAST_LENGTH = 8


@dataclass(frozen=True)
class DocumentFold:
    """Where the documents of rows [B, T] are, and how they are folded.

    groups: int64 [n, length] each, the tokens of n pieces in rows laid end to end; padding repeats
    a piece's last token. places: int64 [B T], where each token is among those of all groups.
    positions: int64 [B, T], counted from each document's first token in its row.
    """

    groups: tuple[Tensor, ...]
    places: Tensor
    positions: Tensor

    def to(self, device: torch.device) -> "DocumentFold":
        """Return the same on a device."""
        groups = tuple(group.to(device) for group in self.groups)
        return DocumentFold(groups, self.places.to(device), self.positions.to(device))

    def fold(self, x: Tensor) -> list[Tensor]:
        """Return the pieces of x [B, T, ...] group by group, [n, length, ...] each."""
        flat = x.flatten(0, 1)
        return [flat[group] for group in self.groups]

    def unfold(self, pieces: list[Tensor]) -> Tensor:
        """Return what `fold` was given, [B, T, ...]; padding is dropped."""
        flat = torch.cat([of_group.flatten(0, 1) for of_group in pieces])
        return flat[self.places].unflatten(0, tuple(self.positions.shape))


class RowLayout(NamedTuple):
    """What a batch says of its rows besides tokens and targets, None where it is the usual.

    positions: float64 [T], of the tokens of every row, where they are not 0 .. T-1. documents:
    where attention is kept within them.
    """

    positions: Tensor | None = None
    documents: DocumentFold | None = None


USUAL_LAYOUT = RowLayout()


def fold_documents(starts: Tensor) -> DocumentFold:
    """Return the fold of rows whose documents begin where starts [B, T], bool, says.

    A row's first token always begins a piece.
    """
    n_rows, seq_len = starts.shape
    begins = starts.clone()
    begins[:, 0] = True
    firsts = begins.flatten().nonzero().flatten()
    n_tokens = torch.diff(firsts, append=torch.tensor([n_rows * seq_len]))
    padded = padded_lengths(n_tokens, seq_len)
    piece = begins.flatten().cumsum(0) - 1
    offset = torch.arange(n_rows * seq_len) - firsts[piece]
    groups, places, n_folded = [], torch.empty_like(piece), 0
    for length in padded.unique().tolist():
        chosen = (padded == length).nonzero().flatten()
        within = torch.minimum(torch.arange(length), n_tokens[chosen, None] - 1)
        groups.append(firsts[chosen, None] + within)
        row = torch.full_like(firsts, -1)
        row[chosen] = torch.arange(len(chosen))
        here = row[piece] >= 0
        places[here] = n_folded + row[piece[here]] * length + offset[here]
        n_folded += len(chosen) * length
    return DocumentFold(tuple(groups), places, offset.view(n_rows, seq_len))


def padded_lengths(n_tokens: Tensor, seq_len: int) -> Tensor:
    """Return the length that each piece is padded to, at most seq_len."""
    allowed, length = [], LEAST_LENGTH
    while length < seq_len:
        allowed += [length, length + length // 2]
        length *= 2
    lengths = torch.tensor([*(size for size in allowed if size < seq_len), seq_len])
    return lengths[torch.bucketize(n_tokens, lengths)]


class WithinDocuments(AttentionFunction):
    """Attention of folded rows. attend_at: attention prepared for a length."""

    def __init__(self, attend_at: Callable[[int], Attend], documents: DocumentFold):
        self.attend_at, self.documents = attend_at, documents

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        q, k, v, position, x, _ = inputs
        # Tokens first: a piece is then gathered with all its heads at once.
        folded = [self.documents.fold(t.transpose(1, 2)) for t in (q, k, v)]
        outputs = []
        for *qkv, x_piece in zip(*folded, self.documents.fold(x), strict=True):
            q_piece, k_piece, v_piece = (t.transpose(1, 2) for t in qkv)
            attend = self.attend_at(x_piece.shape[1])
            out = attend(q_piece, k_piece, v_piece, position, x_piece, None)
            outputs.append(out.transpose(1, 2))
        return self.documents.unfold(outputs).transpose(1, 2)
