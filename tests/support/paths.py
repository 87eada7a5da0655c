"""Every path of attention against an oracle: outputs, and gradients of all learned parameters.

Both are summed with random weights; the oracles are naive loops, so texts are short.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

import oracles
from lexp.attention import (
    AttentionFunction,
    BlockSizes,
    ChunkSizes,
    Flex,
    Reference,
    TileSizes,
    flex,
    make_attend,
)
from lexp.attention.chunked import Chunked
from lexp.pattern import Bidirectional, Full, Window
from lexp.position import Position
from support.schemes import CPU, D_MODEL

N, N_HEADS, HEAD_DIM = 9, 4, 8


def as_users(pattern, n, position, device) -> AttentionFunction:
    return make_attend(pattern, n, [position], device)


def small_tiles(pattern, n, position, device) -> AttentionFunction:
    sizes = BlockSizes(TileSizes(whole_tokens=4, chunk_rows=4), ChunkSizes(max_rows=4, min_rows=4))
    return make_attend(pattern, n, [position], device, sizes=sizes)


CAUSAL, EVERY = [[j <= i for j in range(N)] for i in range(N)], [[True] * N] * N
BAND = [[i - 4 < j <= i for j in range(N)] for i in range(N)]
PATHS = {
    "reference": (Reference, Full(), CAUSAL), "tiles": (as_users, Full(), CAUSAL),
    "small tiles": (small_tiles, Full(), CAUSAL), "chunks": (Chunked, Full(), CAUSAL),
    "flex": (Flex, Full(), CAUSAL), "window": (as_users, Window(4), BAND),
    "flex window": (Flex, Window(4), BAND), "both sides": (as_users, Bidirectional(), EVERY),
    "reference both sides": (Reference, Bidirectional(), EVERY),
}  # fmt: skip


def takes(path: str, position: Position) -> bool:
    """Whether a path is defined for the scheme."""
    kind, pattern, _ = PATHS[path]
    if kind is Flex and position.has_bias and not (position.by_distance or position.by_token):
        return False
    return not (kind is Flex and position.has_attention_weights) and (
        position.two_sided or not pattern.two_sided
    )


def inputs(head_dim: int = HEAD_DIM) -> list[Tensor]:
    """Queries, keys, values, weights of the output [1, H, N, D]; layer inputs [1, N, d_model]."""
    generator = torch.Generator().manual_seed(1)
    shape = (1, N_HEADS, N, head_dim)
    many = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    x = torch.randn(1, N, D_MODEL, generator=generator, dtype=torch.float64)
    return [*many, x]


def of_oracle(oracle: Callable, position: Position, allowed, head_dim: int) -> list[Tensor]:
    """Output, and gradients of what the scheme learns, by the paper's formula."""
    own = oracles.leaves(oracle, dict(position.named_parameters()))
    q, k, v, weight, x = inputs(head_dim)
    extra = [] if allowed is EVERY else [x[0]]
    by_weights = getattr(oracle, "gives_weights", False)
    heads = [
        found @ v[0, h] if by_weights else oracles.attention(found, v[0, h], allowed)
        for h, found in enumerate(oracles.of_heads(oracle, q[0], k[0], own, *extra))
    ]
    out = torch.stack(heads)[None]
    return [out.detach(), *gradients(out * weight, list(own.values()))]


def gradients(out: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(out.sum(), parameters)) if parameters else []


def check_path(
    path: str,
    position: Position,
    oracle: Callable,
    monkeypatch: pytest.MonkeyPatch,
    head_dim: int = HEAD_DIM,
) -> None:
    """Compare a path with an oracle; position: in float64."""
    # By torch's own formula: for a CPU the kernel of FlexAttention has no gradients.
    monkeypatch.setattr(flex, "compiled", lambda: torch_flex.flex_attention)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *given: None)
    monkeypatch.setattr(flex, "LEAST_HEAD_DIM", 1)
    kind, pattern, allowed = PATHS[path]
    expected = of_oracle(oracle, position, allowed, head_dim)
    dtype = torch.float32 if kind is Flex else torch.float64
    position = position.to(dtype)
    q, k, v, weight, x = (t.to(dtype) for t in inputs(head_dim))
    out = kind(pattern, N, position, CPU)(q, k, v, position, x)
    found = [out.detach(), *gradients(out * weight, list(position.parameters()))]
    # Rows of biases by distance are float32, whatever the inputs.
    for ours, theirs in zip(found, expected, strict=True):
        size = theirs.abs().max().clamp(min=1).item()
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=1e-5 * size)
