"""torchscale 0.3, the code of LEX's authors: attention with xPos, and with T5's bias.

XPOS counts positions from the middle of the sequence, we count them from anywhere: both cancel in
the product of a query and a key, on the causal half (elsewhere nothing is compared).

Written-down disagreement: because of that middle its factors grow with the length and leave
float32 at 72k tokens (xpos_relative_position.py:53); ours stay within e^40 at any length.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lexp.attention import make_attend
from lexp.model.transformer import Transformer
from lexp.pattern import Full, Window
from lexp.position import T5, RoPE, XPos
from support.peers.ours import (
    CPU,
    HEAD_DIM,
    LENGTH,
    assert_same,
    causal,
    fill,
    layers,
    make_model,
    peer,
    qkx,
    weights,
    width,
)

xpos = peer("torchscale.component.xpos_relative_position")
multihead = peer("torchscale.component.multihead_attention")
relative = peer("torchscale.component.relative_position_bias")


def attention_weights(theirs: torch.nn.Module, q: Tensor, k: Tensor) -> Tensor:
    scores = theirs(q[0]) @ theirs(k[0], downscale=True).mT / math.sqrt(HEAD_DIM)
    return causal(scores)[None]


@pytest.mark.parametrize("length", [LENGTH, LENGTH + 1, 1000])
@pytest.mark.parametrize("scale_base", [512, 100])
def test_xpos(length, scale_base):
    """At even and odd lengths: their middle is not the same token."""
    q, k, x = qkx(4, length)
    q *= 3
    theirs = xpos.XPOS(HEAD_DIM, scale_base).double()
    found = weights(XPos(HEAD_DIM, scale_base=scale_base), q, k, x)
    expected = attention_weights(theirs, q, k)
    # Their angles are float32 products: off by about 6e-8 of the position.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-8 * length)


def test_xpos_with_zeta_one_is_rope():
    q, k, x = qkx(4, LENGTH)
    theirs = xpos.XPOS(HEAD_DIM).double()
    theirs.scale.fill_(1)
    found = weights(RoPE(HEAD_DIM), 3 * q, k, x)
    torch.testing.assert_close(found, attention_weights(theirs, 3 * q, k), rtol=0, atol=5e-6)


def test_their_factors_leave_float32_and_ours_do_not():
    theirs = xpos.XPOS(HEAD_DIM)
    assert theirs(torch.ones(1, 72_000, HEAD_DIM)).isfinite().all()
    assert not theirs(torch.ones(1, 73_000, HEAD_DIM)).isfinite().all()
    q, k, v = torch.randn(3, 1, 1, 73_000, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    position = XPos(HEAD_DIM)
    attend = make_attend(Window(64), 73_000, [position], CPU)
    assert attend(q, k, v, position, q).isfinite().all()


def attention(model: Transformer, **options: object) -> torch.nn.Module:
    """torchscale's attention layer with the weights of our first one."""
    args = SimpleNamespace(multiway=False, layernorm_eps=1e-5, **options)
    theirs = multihead.MultiheadAttention(args, width(4), 4, self_attention=True)
    own = layers(model)[0]
    given = {
        "q_proj.weight": own.q, "k_proj.weight": own.k, "v_proj.weight": own.v,
        "out_proj.weight": own.out,
    }  # fmt: skip
    return fill(theirs, given)


def both(model: Transformer, theirs: torch.nn.Module, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    x = qkx(4, LENGTH, torch.float32)[2]
    attend = make_attend(Full(), LENGTH, model.schemes, CPU)
    later = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
    with torch.no_grad():
        found = model.blocks[0].attention(x, model.position, attend, None)
        return found, theirs(x, x, x, attn_mask=later, rel_pos=bias)[0]


def test_attention_layer_with_xpos():
    model = make_model(lambda: XPos(HEAD_DIM))
    theirs = attention(model, xpos_rel_pos=True, xpos_scale_base=512)
    assert_same(*both(model, theirs, None))


def test_attention_layer_with_t5_bias():
    """torchscale keeps 1/sqrt(d) beside T5's bias, as we do and T5 does not."""
    model = make_model(lambda: T5(4))
    theirs = relative.RelativePositionBias(bidirectional=False, n_heads=4)
    fill(theirs, {"relative_attention_bias.weight": model.position.weight.T})
    with torch.no_grad():
        bias = theirs(1, LENGTH, LENGTH)
    assert_same(*both(model, attention(model, xpos_rel_pos=False), bias))
