"""FlexAttention: masks and biases inside one fused kernel, which torch compiles for a CUDA device.

Masked blocks of pairs are skipped; biases are read while the scores are computed. No tensor has
[T, T] numbers:

    a bias by distance   score + row[h, i - j],            row [H, distances]
    a bias by token      score + t[b, h, i] - t[b, h, j],  t [B, H, T]

Learned parameters get their gradients through these tensors. The kernel sums those gradients by
atomic additions, so on a GPU their last bits differ from run to run.
Positions are counted from the text's beginning, not from a tile's, so a scheme whose numbers last
for `max_span` positions is defined for that many tokens.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from lexp.attention.call import AttentionFunction, AttentionInput
from lexp.attention.heads import for_each_query
from lexp.attention.prepare import RotaryTable, prepare, rotate, rotate_keys
from lexp.attention.toeplitz import distance_row
from lexp.pattern import Banded, Pattern
from lexp.position import Position
from lexp.position.base import Bias, Pair
from lexp.system.errors import NotDefined

# Tokens a side of a block of pairs, doubled while there would be more than MAX_BLOCKS a side: the
# tables of blocks would otherwise grow with the square of the length (256 MiB each at a million).
BLOCK, MAX_BLOCKS = 128, 1024
# Sums over tokens are kept in float32 and subtracted: with gates of 0.5 to 3e-4 up to here.
MAX_SUMMED = 4096
LEAST_HEAD_DIM = 16  # what the kernel's matrix products take
# Shapes and kinds of scores in one process; 8, torch's own, are soon used up by an evaluation.
MAX_VARIANTS = 64

# From a score, batch, head, query and key index to the score with something added.
Added = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@functools.cache
def compiled() -> Callable[..., Tensor]:
    """Return the kernel, compiled for each shape and kind of bias that it is called with.

    fullgraph: beyond the limit of variants torch would silently go on without the kernel, with
    whole [T, T] matrices and 40 times slower (on a CPU); with it torch raises an error.
    """
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, MAX_VARIANTS)
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def refuse_beyond_flex(pattern: Pattern, seq_len: int, position: Position) -> None:
    """Raise NotDefined, with the remedy, if the kernel does not support a pattern or scheme."""
    name = position.title
    if not isinstance(pattern, Banded):
        problem = f"{pattern.name} is not one unbroken band of keys"
    elif position.has_attention_weights:
        problem = f"{name} needs whole rows of scores"
    elif position.samples_positions:
        problem = f"{name} samples positions"
    elif position.has_log_decays:
        problem = f"{name} decays each channel by what the tokens say"
    elif position.has_bias and not (position.by_distance or position.by_token):
        problem = f"the bias of {name} reads more than the distance"
    elif position.max_span is not None and seq_len > position.max_span:
        problem = f"{name} overflows beyond {position.max_span} positions, this length is {seq_len}"
    elif position.has_bias and position.by_token and seq_len > MAX_SUMMED:
        problem = (
            f"{name} sums over tokens, exact enough up to {MAX_SUMMED}, this length is {seq_len}"
        )
    else:
        return
    raise NotDefined(f"the flex kernel does not support this: {problem}; use kernel=tiles")


class Flex(AttentionFunction):
    """Attention by the compiled FlexAttention kernel."""

    def __init__(self, pattern: Pattern, seq_len: int, position: Position, device: torch.device):
        refuse_beyond_flex(pattern, seq_len, position)
        assert isinstance(pattern, Banded), "refuse_beyond_flex admits no other"
        self.fused, self.score_scale = compiled(), pattern.score_scale
        self.mask = make_mask(pattern, seq_len, device)
        index = torch.arange(seq_len)
        self.n_keys = pattern.n_keys(index).to(device)
        # Distances between a query and the keys that it sees.
        n_distances = seq_len if pattern.lookback is None else pattern.lookback + pattern.period
        self.n_distances = min(seq_len, n_distances)
        self.table = RotaryTable(position, index, index, seq_len, device)

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        q, k, v, position, x, _ = inputs
        if v.shape[-1] < LEAST_HEAD_DIM:
            raise NotDefined(
                f"the flex kernel needs a head_dim of {LEAST_HEAD_DIM} or more, got {v.shape[-1]}; "
                "use kernel=tiles"
            )
        bias, scale = position.bias(x), self.score_scale / math.sqrt(q.shape[-1])
        q, k = prepare(q, k, position, self.n_keys.float(), x)
        if (factors := self.table.factors(position)) is not None:
            q, k = rotate(q, factors[0]), rotate_keys(k, factors[1], q.shape[1])
        v = for_each_query(v, k.shape[1])
        added = None
        if bias is not None and position.by_distance:
            row = distance_row(bias, q.shape[1], self.n_distances, 1, q.device)
            added = by_distance(row.flip(1).float())
        elif bias is not None:
            added = by_token(token_sums(bias, q).float())
        # Autocast would round what is captured.
        with torch.autocast(q.device.type, enabled=False):
            return self.fused(
                q.to(v.dtype),
                k.to(v.dtype),
                v,
                added,
                block_mask=self.mask,
                scale=scale,
                enable_gqa=k.shape[1] != q.shape[1],
            )


def by_distance(row: Tensor) -> Added:
    """Return a function that adds row [H, distances] by head and distance."""
    farthest = row.shape[1] - 1

    def added(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        # The kernel also evaluates masked pairs, whose distances are not in the row.
        return score + row[h, (i - j).clamp(0, farthest)]

    return added


def by_token(sums: Tensor) -> Added:
    """Return a function that adds the difference of sums [B, H, T] at query and key."""
    # The kernel keeps one gradient for each tensor that it reads: a tensor read twice loses half.
    of_query, of_key = sums, sums.clone()

    def added(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + of_query[b, h, i] - of_key[b, h, j]

    return added


def token_sums(bias: Bias, q: Tensor) -> Tensor:
    """Return t [B, H, T], 0 at the first token, of a bias that is t_i - t_j; q [B, H, T, D]."""
    batch, n_heads, seq_len = (torch.arange(size, device=q.device) for size in q.shape[:3])
    first, position = torch.zeros_like(seq_len), seq_len.float()
    heads = n_heads[:, None]
    return bias(
        Pair(batch[:, None, None], heads, seq_len, first, position, first.float(), position + 1)
    )


def make_mask(
    pattern: Banded,
    seq_len: int,
    device: torch.device,
    size: int = BLOCK,
    max_blocks: int = MAX_BLOCKS,
) -> BlockMask:
    """Return the blocks of pairs in which some pair is seen, and those in which every pair is.

    size: tokens a side of a block, doubled while there are more than max_blocks a side.
    """
    while seq_len > max_blocks * size:
        size *= 2
    block = torch.arange(math.ceil(seq_len / size), device=device)
    start, end = block * size, ((block + 1) * size).clamp(max=seq_len)
    # first_key never decreases: a block's first query sees furthest back, its last query least far.
    furthest, nearest = pattern.first_key(start)[:, None], pattern.first_key(end - 1)[:, None]
    earlier = block < block[:, None]
    whole = earlier & (start >= nearest)
    seen = (earlier | (block == block[:, None])) & (end > furthest)

    def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return pattern.allowed(i, j)

    return BlockMask.from_kv_blocks(
        *list_true(seen & ~whole), *list_true(whole), BLOCK_SIZE=size, mask_mod=allowed,
        seq_lengths=(seq_len, seq_len),
    )  # fmt: skip


def list_true(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many in each row of a table [N, N] are true [1, 1, N], and which [1, 1, N, N]."""
    counts = blocks.sum(1, dtype=torch.int32)
    columns = (~blocks).to(torch.uint8).argsort(stable=True).to(torch.int32)
    return counts[None, None], columns[None, None].contiguous()
