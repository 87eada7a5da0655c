"""Attention of patterns that move positions, branch by branch, by the CPU's fused kernel.

A query's keys are those of the pattern's branches, in other positions in each. Of each branch b
the kernel returns the output o_b and l_b = log sum_j exp(s_ij) over its keys j; that of all keys is

    o_i = sum_b exp(l_b - L) o_b,    L = log sum_b exp(l_b)

Each key is rotated once for each branch that it is in. A chunk of queries reads the keys between
the first and the last of a branch, and has so few rows that most of these are keys it sees: the
work is in proportion to those.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lexp.attention.call import AttentionFunction, AttentionInput
from lexp.attention.cpu.arithmetic import scores_dtype
from lexp.attention.cpu.sinks import FUSED
from lexp.attention.prepare import RotaryTable, prepare, rotate, rotate_keys
from lexp.pattern import Banded, Branch, Pattern, Selecting, TwoSided
from lexp.position import Position
from lexp.position.base import Bias, Pair


@dataclass(frozen=True)
class BranchSizes:
    """Limits on the query rows of a chunk.

    max_rows: of a chunk without biases. min_rows: of a chunk with biases, which are kept for all
    heads, and the fewest of any. most_read: a chunk of more than min_rows rows reads at most so
    many keys for each that its last query sees.
    """

    max_rows: int = 512
    min_rows: int = 64
    most_read: float = 1.25

    def rows(self, has_bias: bool) -> int:
        """Return the most rows of a chunk."""
        return self.min_rows if has_bias else self.max_rows


class BranchChunk(NamedTuple):
    """Queries `rows` and the indices of the keys that they read, by number of the branch."""

    rows: slice
    keys: dict[int, slice]

    @property
    def n_read(self) -> int:
        """Return the number of keys."""
        return sum(keys.stop - keys.start for keys in self.keys.values())


def takes_branches(pattern: Pattern, position: Position, device: torch.device) -> bool:
    """Return whether a pattern's branches are computed by the fused kernel: softmax on a CPU.

    Not for schemes that overflow: their positions are counted anew in each chunk.
    """
    if device.type != "cpu" or isinstance(pattern, Banded | Selecting | TwoSided):
        return False
    own = position.has_attention_weights or position.has_log_decays or position.samples_positions
    # The kernel takes queries as wide as values, which a content map may change.
    return not own and not position.transforms_qk and position.max_span is None


def cut_branches(
    pattern: Pattern, seq_len: int, has_bias: bool, sizes: BranchSizes = BranchSizes()
) -> list[BranchChunk]:
    """Return chunks that cover the queries 0 .. seq_len-1 in order."""
    branches = pattern.branches

    def chunk(start: int, end: int) -> BranchChunk:
        spans = enumerate(slice(*branch.keys(start, end)) for branch in branches)
        return BranchChunk(slice(start, end), {n: s for n, s in spans if s.start < s.stop})

    chunks: list[BranchChunk] = []
    most, start = sizes.rows(has_bias), 0
    rows = most
    while start < seq_len:
        rows = min(most, 2 * rows)  # from the last chunk's size, as few sizes are tried as can be
        while True:
            read = chunk(start, min(start + rows, seq_len))
            last = chunk(read.rows.stop - 1, read.rows.stop)
            if rows <= sizes.min_rows or read.n_read <= sizes.most_read * last.n_read:
                break
            rows = max(sizes.min_rows, rows // 2)
        chunks.append(read)
        start = read.rows.stop
    return chunks


class RotatedKeys(NamedTuple):
    """A branch's keys [B, heads, K, D] from index `first` on, and the factors of all queries."""

    k: Tensor
    first: int
    q_factors: Tensor | None


class FusedBranches(AttentionFunction):
    """Attention of a pattern of branches.

    recorded: attention of the same while gradients are recorded, which the kernel's logarithms have
    none of. sizes: how the work is cut.
    """

    def __init__(
        self,
        pattern: Pattern,
        seq_len: int,
        position: Position,
        device: torch.device,
        recorded: AttentionFunction,
        sizes: BranchSizes = BranchSizes(),
    ):
        if not takes_branches(pattern, position, device):
            raise ValueError(f"{position.title}: fused branches are for softmax on a CPU")
        self.recorded = recorded
        self.branches, self.score_scale = pattern.branches, pattern.score_scale
        self.from_zero = position.counts_from_zero
        self.chunks = cut_branches(pattern, seq_len, position.has_bias, sizes)
        index = torch.arange(seq_len)
        self.n_keys = pattern.n_keys(index)
        self.keys = [slice(*branch.keys(0, seq_len)) for branch in self.branches]
        self.tables = [
            RotaryTable(position, b.q_map(index), b.k_map(index[keys]), seq_len, device)
            for b, keys in zip(self.branches, self.keys, strict=True)
        ]

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        if torch.is_grad_enabled():
            return self.recorded.attend(inputs)
        q, k, v, position, x, _ = inputs
        bias, scale = position.bias(x), self.score_scale / math.sqrt(q.shape[-1])
        with torch.autocast(v.device.type, enabled=False):
            q, k = prepare(q, k, position, self.n_keys.float(), x)
            keys = [self._rotated(n, q, k, v, position) for n in range(len(self.branches))]
            outputs = [self._chunk(chunk, q, keys, v, bias, scale) for chunk in self.chunks]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _rotated(self, n: int, q: Tensor, k: Tensor, v: Tensor, position: Position) -> RotatedKeys:
        """Return the keys of branch n in its positions, each rotated once."""
        factors, keys = self.tables[n].factors(position), self.keys[n]
        k = k[:, :, keys]
        if factors is None:
            return RotatedKeys(k.to(v.dtype), keys.start, None)
        k = rotate_keys(k, factors[1], q.shape[1])
        return RotatedKeys(k.to(v.dtype), keys.start, factors[0])

    def _chunk(
        self,
        chunk: BranchChunk,
        q: Tensor,
        rotated: list[RotatedKeys],
        v: Tensor,
        bias: Bias | None,
        scale: float,
    ) -> Tensor:
        """Return the output of a chunk's queries [B, H, Q, D]."""
        outputs, logs = [], []
        for n, keys in chunk.keys.items():
            k, first, factors = rotated[n]
            rows = q[:, :, chunk.rows]
            if factors is not None:
                rows = rotate(rows, factors[..., chunk.rows, :, :])
            i = torch.arange(chunk.rows.start, chunk.rows.stop)[:, None]
            j = torch.arange(keys.start, keys.stop)
            mask = mask_of(self.branches[n], i, j, scores_dtype(q))
            added = mask if bias is None else self._biases(self.branches[n], i, j, q, bias, mask)
            k = k[:, :, keys.start - first : keys.stop - first]
            out, log = FUSED(
                rows.to(v.dtype), k, v[:, :, keys], 0.0, False, attn_mask=added, scale=scale
            )
            if mask is not None:
                # Of a query without keys the kernel returns 0 twice.
                log = log.masked_fill(mask.amax(-1) == -math.inf, -math.inf)
            outputs.append(out)
            logs.append(log)
        if len(outputs) == 1:
            return outputs[0]
        shares = torch.stack(logs).softmax(0)[..., None]
        merged = (torch.stack(outputs) * shares).sum(0)
        return merged.to(v.dtype)

    def _biases(
        self, branch: Branch, i: Tensor, j: Tensor, q: Tensor, bias: Bias, mask: Tensor | None
    ) -> Tensor:
        """Return the biases of queries i [Q, 1] with keys j [K] of a branch, and the mask."""
        wide, (batch, n_heads) = scores_dtype(q), q.shape[:2]
        q_pos, k_pos = branch.q_map(i).double(), branch.k_map(j)[None].double()
        origin = 0 if self.from_zero else q_pos.min()  # so that float32 is exact far out too
        pair = Pair(
            b=torch.arange(batch)[:, None, None, None],
            h=torch.arange(n_heads)[:, None, None],
            i=i,
            j=j,
            q_pos=(q_pos - origin).to(wide),
            k_pos=(k_pos - origin).to(wide),
            n_keys=self.n_keys[i],
        )
        biases = bias(pair).to(wide)
        biases = biases if biases.ndim == 4 else biases[None]
        return biases if mask is None else biases + mask


def mask_of(branch: Branch, i: Tensor, j: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return 0 where query i [Q, 1] sees key j [K] in a branch, -inf elsewhere; None: it sees all.

    A key that the first and the last query see is seen by those between: it is not asked about.
    """
    unsure = ~(branch.allowed(i[0], j) & branch.allowed(i[-1], j))
    if not unsure.any():
        return None
    of_unsure = torch.zeros(len(i), int(unsure.sum()), dtype=dtype)
    of_unsure.masked_fill_(~branch.allowed(i, j[unsure]), -math.inf)
    mask = torch.zeros(len(i), len(j), dtype=dtype)
    mask[:, unsure] = of_unsure
    return mask
