"""What a forward pass needs in memory, said before it is tried."""

import torch

from lexp.attention import bidirectional as both_sides
from lexp.attention.chunked import MAX_SCORES
from lexp.attention.tiles import (
    CHUNK_ROWS,
    GROUP_ROWS,
    MAX_MASK,
    MIN_TILE_ROWS,
    WHOLE_TOKENS_BIASED,
)
from lexp.model.transformer import MAX_LOGITS, MLP_ROWS, Transformer
from lexp.pattern import Banded, Pattern, TwoSided


def needed_bytes(model: Transformer, pattern: Pattern, n_tokens: int, size: int, item: int) -> int:
    """About how many bytes a pass over n_tokens tokens in windows of `size` takes, model included.

    item: bytes of a number in matrix products (2 for bfloat16). An estimate from the shapes of
    what is alive at once, not a bound; what processes grew by was 0.5 to 2 times that.
    """
    dims, vocab_size = model.dims, model.head.out_features
    inner = dims.n_heads * dims.head_dim
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # The residual stream before and after, its norm, and q, k, v with what becomes of them.
    stream = n_tokens * (3 * 4 * dims.d_model + item * 8 * inner)
    feed_forward = min(n_tokens, max(MLP_ROWS, size)) * item * 2 * dims.d_ff
    logits = min(MAX_LOGITS, n_tokens * vocab_size) * 3 * 4
    return weights + stream + max(feed_forward, logits, _scores(model, pattern, size))


def _scores(model: Transformer, pattern: Pattern, size: int) -> int:
    """Bytes of masks, biases and scores of one tile."""
    has_bias = any(position.has_bias for position in model.schemes)
    # A bias that reads more than the distance is a matrix of its own for every tile.
    dense = any(position.has_bias and not position.by_distance for position in model.schemes)
    n_heads, inner = model.dims.n_heads, model.dims.n_heads * model.dims.head_dim
    if isinstance(pattern, TwoSided):
        # Keys times their rotation, and of one tile: biases in their row, as a matrix, masked.
        return 40 * inner * size + 4 * 4 * min(n_heads * size * size, both_sides.MAX_MASK)
    if not isinstance(pattern, Banded) or any(
        p.has_attention_weights or p.samples_positions for p in model.schemes
    ):
        return 8 * 4 * MAX_SCORES["cpu"]
    if pattern.lookback is None:
        turned = 40 * inner * size  # keys times their rotation
        if not dense or all(p.by_token or not p.has_bias for p in model.schemes):
            return turned
        rows = size if size <= WHOLE_TOKENS_BIASED else min(CHUNK_ROWS, max(1, MAX_MASK // size))
        return turned + rows * size * 4 * 6 * n_heads
    rows = max(pattern.lookback, MIN_TILE_ROWS)
    tiles = max(1, min(size, GROUP_ROWS) // rows)
    return (
        rows
        * (rows + pattern.lookback)
        * 4
        * (2 * n_heads if has_bias else 2)
        * (tiles if dense else 1)
    )


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device, in bytes; None where that cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def spelled(n_bytes: float) -> str:
    """Bytes as people say them: 45 MiB, 3.2 GiB."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
