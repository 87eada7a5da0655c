"""Our side of the comparisons: small random models, their weights, their logits.

Peers are written in float32, or compute angles and softmax in it, so unless a test says otherwise
both sides run in float32, ours over the paths that users run (`make_attend`).
"""

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lexp.attention import Reference, make_attend
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Block, Dims, Transformer
from lexp.model.trunk import GPT, Trunk
from lexp.pattern import Full, Pattern
from lexp.position import Position

CPU = torch.device("cpu")
VOCAB, HEAD_DIM, N_LAYERS = 50, 8, 2
# Peers are told that they were trained at TRAINED tokens and run at LENGTH.
TRAINED, LENGTH = 64, 250


def peer(name: str) -> ModuleType:
    """A peer's module: missing, its tests are skipped, or fail where LEXP_PEERS=1."""
    if os.environ.get("LEXP_PEERS") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name)


def width(n_heads: int) -> int:
    """Of a model with that many heads."""
    return n_heads * HEAD_DIM


def make_model(
    make_position: Callable[[], Position],
    n_heads: int = 4,
    trunk: Trunk = GPT,
    n_kv_heads: int | None = None,
) -> Transformer:
    """Random weights, large enough that attention is far from uniform."""
    torch.manual_seed(0)
    d_model = width(n_heads)
    dims = Dims(N_LAYERS, d_model, n_heads, HEAD_DIM, 4 * d_model, n_kv_heads=n_kv_heads)
    model = Transformer(dims, VOCAB, [LayerEntry(make_position)], trunk=trunk).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.startswith("positions."):
                parameter.normal_(std=0.5)
            else:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
    return model


class Layer(NamedTuple):
    """The weights of one block; q, k and v each [H * D, d_model]."""

    norm_attention: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    norm_mlp: Tensor
    mlp_in: Tensor
    mlp_out: Tensor


def layers(model: Transformer) -> list[Layer]:
    """The weights of every block."""
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    return [
        Layer(
            b.norm_attention.weight, *b.attention.qkv.weight.chunk(3), b.attention.out.weight,
            b.norm_mlp.weight, b.mlp_in.weight, b.mlp_out.weight,
        )
        for b in blocks
    ]  # fmt: skip


def fill(module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Give a peer all of these weights, and zero to the biases that our trunk has not."""
    unused = set(weights)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in weights:
                assert parameter.shape == weights[name].shape, name
                parameter.copy_(weights[name])
                unused.remove(name)
            else:
                assert name.endswith("bias"), f"the peer's {name} has no weight of ours"
                parameter.zero_()
    assert not unused, f"the peer has no {unused}"
    return module.eval()


def halves(weight: Tensor) -> Tensor:
    """[H * D, d_model] with channels in adjacent pairs (2c, 2c + 1), to pairs (c, c + D/2)."""
    return weight.unflatten(0, (-1, HEAD_DIM // 2, 2)).transpose(1, 2).flatten(0, 2)


def by_head(*weights: Tensor) -> Tensor:
    """Several [H * D, d_model] as one, all of a head's rows together."""
    return torch.stack([w.unflatten(0, (-1, HEAD_DIM)) for w in weights], dim=1).flatten(0, 2)


def tokens() -> Tensor:
    """Two random sequences."""
    return torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def logits(model: Transformer, pattern: Pattern | None = None) -> Tensor:
    """Of `tokens`, over the path that users run; full attention unless told otherwise."""
    with torch.no_grad():
        return model(tokens(), make_attend(pattern or Full(), LENGTH, model.schemes, CPU))


def assert_same(found: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    """Equal up to float32 rounding, in a comparison that positions have a say in."""
    assert expected.abs().max() > 1, "nothing to compare"
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def qkx(n_heads: int, length: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Random queries and keys [1, H, T, D] and layer inputs [1, T, d_model]."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(1, n_heads, length, HEAD_DIM)] * 2 + [(1, length, width(n_heads))]
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [draw.to(dtype) for draw in draws]


def weights(position: Position, q: Tensor, k: Tensor, x: Tensor) -> Tensor:
    """Our attention weights [1, H, T, T], by the specification: attention to one-hot values."""
    length = q.shape[2]
    one_hot = torch.eye(length, dtype=q.dtype).expand(*q.shape[:2], -1, -1)
    with torch.no_grad():
        return Reference(Full(), length, position, CPU)(q, k, one_hot, position, x)


def causal(scores: Tensor) -> Tensor:
    """A peer's scores [..., T, T] to attention weights."""
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)
