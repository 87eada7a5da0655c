"""Prediction of the memory that a forward pass needs, made before the pass is tried.

An operating system that runs out of memory kills the process rather than tell it. A process per
run would make that harmless for the other runs, but small studies slower: `lexp eval` of three
small runs takes 9.0 s of processor time in one process and 17.7 s with a process per run (wall time
on two busy cores: 37 and 73 s), because every process imports torch. So the pass is predicted
instead, and `lexp eval plan=true` prints the prediction.
The sizes of tiles and chunks come from the functions and defaults that cut them: `cut`,
`choose_layout`, `BranchSizes`, `ChunkSizes`, `BidirectionalSizes` and the model's `max_logits` and
`mlp_rows`.
"""

import torch

from lexp.attention import BidirectionalSizes, BranchSizes, ChunkSizes, layer_pairs
from lexp.attention.branches import takes_branches
from lexp.attention.layouts import BandMask, PairwiseBias
from lexp.attention.tiles import choose_layout, cut, takes_tiles
from lexp.model.mixer.recurrence import CHUNK
from lexp.model.mixer.recurrent import ROWS
from lexp.model.transformer import Block, Transformer
from lexp.pattern import Banded, Pattern, Selecting, TwoSided
from lexp.position import Position
from lexp.scoring.scorer import BATCH_TOKENS


def needed_bytes(model: Transformer, pattern: Pattern, n_tokens: int, size: int, item: int) -> int:
    """Return about how many bytes a pass over n_tokens tokens in windows of `size` takes.

    The model's weights are included. item: bytes of a number in matrix products (2 for bfloat16).
    An estimate from the shapes of what is alive at once, not a bound: processes grew by 0.5 to 2
    times as much.
    """
    if not pattern.attends:  # the scorer reads longer windows in pieces
        n_tokens = min(n_tokens, BATCH_TOKENS)
        size = min(size, n_tokens)
    dims, vocab_size = model.dims, model.head.out_features
    inner = dims.n_heads * dims.head_dim
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # The residual stream before and after, its norm, and q, k, v with what becomes of them.
    stream = n_tokens * (3 * 4 * dims.d_model + item * 8 * inner)
    # What the activation reads and its results; SwiGLU's gate and product are two.
    block = model.blocks[0]
    n_wide = 2 * (block.activation.n_inputs if isinstance(block, Block) else 1)
    feed_forward = min(n_tokens, max(model.mlp_rows, size)) * item * n_wide * dims.d_ff
    logits = min(model.max_logits, n_tokens * vocab_size) * 3 * 4
    attention = max(
        _attention_bytes(model, of_layer, scheme, size)
        for of_layer, scheme in layer_pairs(pattern, model.schemes)
    )
    return weights + stream + max(feed_forward, logits, attention)


def _attention_bytes(model: Transformer, pattern: Pattern, position: Position, size: int) -> int:
    """Return the bytes of rotated keys, masks, biases and scores that one tile of a layer needs."""
    n_heads, inner = model.dims.n_heads, model.dims.n_heads * model.dims.head_dim
    if not pattern.attends:
        # Products of a chunk's tokens, and decays, keys and values in each of their forms.
        return 4 * min(ROWS, BATCH_TOKENS) * (8 * n_heads * CHUNK + 32 * inner)
    rotated = 40 * inner * size  # all keys times their rotation
    if isinstance(pattern, TwoSided):
        # The biases of one tile in their row, as a matrix, and masked.
        return rotated + 4 * 4 * min(n_heads * size * size, BidirectionalSizes().max_mask)
    device = model.head.weight.device
    if takes_branches(pattern, position, device):
        rows = min(size, BranchSizes().rows(position.has_bias))
        spans = [branch.keys(size - rows, size) for branch in pattern.branches]
        n_read = max(last - first for first, last in spans)
        # Of the mask one more copy, and of biases with what they are made from.
        n_masks = 4 * n_heads if position.has_bias else 2
        return rotated + 4 * n_masks * rows * n_read
    if not takes_tiles(pattern, position, device):
        sizes = ChunkSizes()
        selects, rows = isinstance(pattern, Selecting), min(size, sizes.min_rows)
        # Keys of a chunk of the fewest rows: those that its last query sees, and one for each row.
        n_seen = size if selects else int(pattern.n_keys(torch.tensor(size - 1)))
        n_read = min(size, n_seen + rows)
        n_scores = max(sizes.cpu_scores, n_heads * rows * n_read)
        moved = isinstance(pattern, Selecting) and pattern.recounts and position.has_rotary_factors
        # Keys that are laid out for each query: as they are, wide, and turned.
        laid_out = 3 * 4 * sizes.max_laid_out(torch.device("cpu")) if moved else 0
        # Scores and what they are made from; a chunk's keys times their rotation, and its values;
        # and all queries, keys and inputs in float32.
        return 8 * 4 * n_scores + 40 * inner * n_read + 3 * 4 * inner * size + laid_out
    assert isinstance(pattern, Banded), "tiles take no other"
    groups = cut(pattern, size, position)
    layout = choose_layout(pattern, position, len(groups))
    if isinstance(layout, BandMask):
        # A bias by distance, like the mask, is the same for all tiles of a group.
        dense = position.has_bias and not position.by_distance
        n_masks = 2 * n_heads if position.has_bias else 2
        pairs = max(g.rows * (g.rows + g.left) * (g.n_tiles if dense else 1) for g in groups)
        return pairs * 4 * n_masks
    if isinstance(layout, PairwiseBias):
        return rotated + max(group.rows for group in groups) * size * 4 * 6 * n_heads
    return rotated


def available_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def spelled(n_bytes: float) -> str:
    """Return bytes in words: 45 MiB, 3.2 GiB."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
