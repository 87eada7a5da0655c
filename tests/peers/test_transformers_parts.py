"""Position modules of transformers (5.23) whose models are too far from our trunk.

Written-down disagreements:
- T5 leaves out 1/sqrt(d) (modeling_t5.py:197), our trunk keeps it: its q weights are ours over
  sqrt(d). The buckets and the table are the same.
- GPT-NeoX with `partial_rotary_factor` p spreads all of RoPE's frequencies over a share p of the
  channels (modeling_gpt_neox.py:82); p-RoPE keeps the fastest share p of the full head's
  frequencies. transformers' "proportional" (modeling_rope_utils.py:247) is p-RoPE.
- XLNet, Transformer-XL's only heir here, adds a segment term (modeling_xlnet.py:115): left out.
"""

import math

import pytest
import torch
from torch import Tensor

from lexp.attention import make_attend
from lexp.pattern import Full
from lexp.position import T5, PRoPE, RoPE, Sinusoidal, TransformerXL
from support.peers.hf import inverse_frequencies
from support.peers.ours import (
    CPU,
    HEAD_DIM,
    LENGTH,
    TRAINED,
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

transformers = peer("transformers")


def t5_attention(n_buckets: int, max_distance: int) -> torch.nn.Module:
    """A decoder's first self-attention layer."""
    modeling = peer("transformers.models.t5.modeling_t5")
    config = transformers.T5Config(
        d_model=width(4), d_kv=HEAD_DIM, num_heads=4, is_decoder=True, dropout_rate=0.0,
        relative_attention_num_buckets=n_buckets, relative_attention_max_distance=max_distance,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return modeling.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)


@pytest.mark.parametrize("buckets", [(32, 128), (16, 200)])
def test_t5_decoder_attention(buckets):
    model = make_model(lambda: T5(4, *buckets))
    own, attention = layers(model)[0], model.blocks[0].attention
    given = {
        "q.weight": own.q / math.sqrt(HEAD_DIM), "k.weight": own.k, "v.weight": own.v,
        "o.weight": own.out, "relative_attention_bias.weight": model.position.weight.T,
    }  # fmt: skip
    theirs = fill(t5_attention(*buckets), given)
    x = qkx(4, LENGTH, torch.float32)[2]
    later = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        attend = make_attend(Full(), LENGTH, model.schemes, CPU)
        found = attention(x, model.position, attend, None)
        assert_same(found, theirs(x, mask=later)[0])


@pytest.mark.parametrize("n_buckets", [4, 10, 32, 100])
@pytest.mark.parametrize("max_distance", [64, 128, 200, 1000, 4096])
def test_t5_buckets_at_every_distance(n_buckets, max_distance):
    """Also where a border falls on a power of two, and their float32 logarithm on an integer."""
    distance = torch.arange(20_000)
    theirs = t5_attention(n_buckets, max_distance)._relative_position_bucket(
        -distance, bidirectional=False, num_buckets=n_buckets, max_distance=max_distance
    )
    assert torch.equal(T5(1, n_buckets, max_distance).bucket(distance.float()), theirs)


def test_xlm_sinusoids():
    """The table of Vaswani et al., sines and cosines interleaved as ours are."""
    modeling = peer("transformers.models.xlm.modeling_xlm")
    table = modeling.create_sinusoidal_embeddings(2000, width(4), torch.empty(2000, width(4)))
    none = torch.zeros(2000, width(4))
    found = Sinusoidal(width(4)).embed(none, torch.arange(2000), None)
    torch.testing.assert_close(found, table, rtol=0, atol=1e-6)


def test_gptj_rotation_is_ours_without_permutation():
    """GPT-J pairs adjacent channels, as the paper and we do."""
    modeling = peer("transformers.models.gptj.modeling_gptj")
    q, k, x = qkx(4, LENGTH)
    table = modeling.create_sinusoidal_positions(LENGTH, HEAD_DIM).double()
    sin, cos = table[None].chunk(2, dim=-1)
    turned = [  # theirs is [B, T, H, D]
        modeling.apply_rotary_pos_emb(3 * t.transpose(1, 2), sin, cos).transpose(1, 2)
        for t in (q, k)
    ]
    expected = causal(turned[0] @ turned[1].mT / math.sqrt(HEAD_DIM))
    found = weights(RoPE(HEAD_DIM), 3 * q, 3 * k, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def proportional(head_dim: int, share: float) -> Tensor:
    return inverse_frequencies("proportional", head_dim, partial_rotary_factor=share)[0]


def theta(position: RoPE) -> Tensor:
    return torch.tensor(position.frequencies)


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("share", [0.25, 0.3, 0.5, 0.7, 0.75, 0.99, 1.0])
def test_proportional_rope_is_p_rope(head_dim, share):
    """Both round the number of rotated pairs down: p d / 2 is whole for some shares only."""
    theirs = proportional(head_dim, share)
    torch.testing.assert_close(theta(PRoPE(head_dim, share)), theirs, rtol=1e-6, atol=0)


def test_partial_rope_of_gpt_neox_is_not_p_rope():
    """Its frequencies are those of a RoPE of p d channels: from 1 to the slowest again."""
    modeling = peer("transformers.models.gpt_neox.modeling_gpt_neox")
    config = transformers.GPTNeoXConfig(
        hidden_size=4 * 64, num_attention_heads=4, max_position_embeddings=TRAINED,
        rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25
        },
    )  # fmt: skip
    theirs = modeling.GPTNeoXRotaryEmbedding(config).inv_freq
    torch.testing.assert_close(theta(RoPE(16)), theirs, rtol=1e-6, atol=0)
    kept = theta(PRoPE(64, 0.25))[:8]
    torch.testing.assert_close(kept, theta(RoPE(64))[:8], rtol=1e-6, atol=0)
    assert kept[-1] > 50 * theirs[-1]


def test_xlnet_is_transformer_xl():
    """The attention of "uni" XLNet, whose positions are Transformer-XL's; exact in float64."""
    modeling = peer("transformers.models.xlnet.modeling_xlnet")
    torch.manual_seed(0)
    ours = TransformerXL(width(4), HEAD_DIM, 4).double().requires_grad_(False)
    for parameter in ours.parameters():
        parameter.normal_(std=0.5)
    config = transformers.XLNetConfig(
        vocab_size=2, d_model=width(4), n_layer=1, n_head=4, d_inner=8, attn_type="uni", dropout=0
    )
    theirs = modeling.XLNetModel(config).double()
    attention = theirs.layer[0].rel_attn.requires_grad_(False)
    attention.r_w_bias.copy_(ours.content_bias[:, 0])
    attention.r_r_bias.copy_(ours.position_bias[:, 0])
    waves = theirs.relative_positional_encoding(LENGTH, LENGTH, bsz=1).double()  # T, T-1 .. 0
    q, k, x = qkx(4, LENGTH)
    by_time = [t.permute(2, 0, 1, 3) for t in (q, k, torch.zeros_like(q))]  # [T, B, H, D]
    k_by_distance = ours.map(waves).unflatten(-1, (4, HEAD_DIM))
    later = theirs.create_mask(LENGTH, 0)[..., None, None].double()
    _, expected = attention.rel_attn_core(
        *by_time, k_by_distance, attn_mask=later, output_attentions=True
    )
    found = weights(ours, q, k, x)
    torch.testing.assert_close(found, expected.permute(2, 3, 0, 1), rtol=0, atol=1e-4)
