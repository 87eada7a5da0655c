"""The place where a model's layers call lexp's attention.

Shapes: B batch, T sequence, H heads, D head_dim; keys and values may have fewer heads (GQA).
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lexp.attention import Attend
from lexp.position import Position

NAME = "lexp"


class Call(NamedTuple):
    """The arguments of a layer's call of lexp's attention; x: the layer's input [B, T, d_model]."""

    position: Position
    attend: Attend
    sampled: Tensor | None
    order: Tensor | None
    x: Tensor | None = None

    def run(self, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
        """Return the output [B, T, H, D] for q [B, H, T, D], k and v [B, H / groups, T, D].

        No position is in them yet. scaling: the multiplier of q . k in the model's own attention.
        """
        assert self.x is not None, "given by the layer's attention"
        if self.order is not None:
            q, k = q[..., self.order], k[..., self.order]
        # lexp divides by sqrt(D) itself.
        factor = scaling * math.sqrt(q.shape[-1])
        if not math.isclose(factor, 1, rel_tol=1e-12):
            q = q * factor
        q, k = q.to(v.dtype), k.to(v.dtype)  # under autocast rotary ones have widened them
        out = self.attend(q, k, v, self.position, self.x, self.sampled)
        return out.transpose(1, 2)


def interface(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float, lexp: Call, **rest: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Run attention as transformers calls it; positions and the mask are lexp's."""
    return lexp.run(query, key, value, scaling), None


def hand_input(
    module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add the input of an attention module to its call, as a forward pre-hook."""
    x = inputs[0] if inputs else named["hidden_states"]
    return inputs, {**named, NAME: named[NAME]._replace(x=x)}


class BloomAttention(nn.Module):
    """BLOOM's attention, which has no interface: BLOOM's weights and layout, lexp's scores."""

    def __init__(self, theirs: Any):
        super().__init__()
        self.query_key_value, self.dense = theirs.query_key_value, theirs.dense
        self.n_heads, self.scaling = theirs.num_heads, theirs.inv_norm_factor

    def forward(
        self, hidden_states: Tensor, residual: Tensor, alibi: Call, **rest: Any
    ) -> tuple[Tensor, None]:
        """Map [B, T, d_model] to the same shape, with the residual added as BLOOM does."""
        heads = self.query_key_value(hidden_states).unflatten(-1, (self.n_heads, 3, -1))
        q, k, v = heads.permute(3, 0, 2, 1, 4)
        out = alibi._replace(x=hidden_states).run(q, k, v, self.scaling)
        return self.dense(out.flatten(2)) + residual, None


class MptAttention(nn.Module):
    """MPT's attention, which has no interface: MPT's weights and clipping, lexp's scores."""

    def __init__(self, theirs: Any):
        super().__init__()
        self.Wqkv, self.out_proj = theirs.Wqkv, theirs.out_proj
        self.n_heads, self.scaling = theirs.n_heads, theirs.softmax_scale
        self.clip = theirs.clip_qkv

    def forward(
        self, hidden_states: Tensor, position_bias: Call, **rest: Any
    ) -> tuple[Tensor, None]:
        """Map [B, T, d_model] to the same shape."""
        qkv = self.Wqkv(hidden_states)
        if self.clip:
            qkv = qkv.clamp(-self.clip, self.clip)
        q, k, v = qkv.unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        out = position_bias._replace(x=hidden_states).run(q, k, v, self.scaling)
        return self.out_proj(out.flatten(2)), None


def adopt_attention(theirs: nn.Module, family: str) -> nn.Module:
    """Make an attention module call lexp: hook it where it has an interface, else replace it."""
    if family == "Bloom":
        return BloomAttention(theirs)
    if family == "Mpt":
        return MptAttention(theirs)
    theirs.register_forward_pre_hook(hand_input, with_kwargs=True)
    return theirs


def order_tensor(order: list[int] | None) -> Tensor | None:
    """Return the channel order as an index; None if it is the model's own order."""
    return None if order is None or order == sorted(order) else torch.tensor(order)
