"""x-transformers (2.31): whole models with our weights give the same logits.

Its Decoder is our trunk once feed-forward biases are off. Softmax is told to keep its input's
precision (x-transformers casts to float32), so these models run in float64 where nothing else in
them is float32, and ours by its specification.

Written-down disagreements (line numbers of x_transformers.py), each undone in the weights or the
options below:
- T5's bias is multiplied by sqrt(head_dim) (2922, 517): its table is ours over that.
- Learned positions are multiplied by 1/sqrt(d_model) (419): its table is ours times that.
- Rotary positions turn only half of each head's channels unless told otherwise (2894).
- PoPE has one set of phases for all layers (2908), ours is each layer's own.
- The sinusoidal table has all sines before all cosines and a learned scale (444); ours interleaves
  them, as the paper's formula does, and scales the token embeddings instead.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from lexp.attention import Reference
from lexp.model.transformer import Transformer
from lexp.pattern import Full, Window
from lexp.position import SWAT, T5, ALiBi, CoPE, FoX, Learned, NoPE, PoPE, RoPE, Sinusoidal, XPos
from support.peers.ours import (
    CPU,
    HEAD_DIM,
    LENGTH,
    assert_same,
    logits,
    make_model,
    peer,
    tokens,
    width,
)
from support.peers.xt import decoder

x_transformers = peer("x_transformers")


def in_each_layer(names: dict[str, str], model: Transformer) -> dict[str, Tensor]:
    """Their name of an attention parameter, to ours of each layer's scheme."""
    return {
        f"attn_layers.layers.{2 * n}.1.{theirs}": position.get_parameter(ours)
        for n, position in enumerate(model.schemes)
        for theirs, ours in names.items()
    }


def exact(model: Transformer) -> Tensor:
    """Our logits in float64, by the specification."""
    model.double()
    attend = Reference(Full(), LENGTH, model.position, CPU)
    with torch.no_grad():
        return model(tokens(), attend)


def run(theirs: nn.Module) -> Tensor:
    with torch.no_grad():
        return theirs(tokens())


def test_no_positions_at_all():
    """The trunk alone; whatever fails below, if this holds, is positions."""
    model = make_model(NoPE)
    assert_same(exact(model), run(decoder(model).double()), atol=1e-10)


@pytest.mark.parametrize("n_heads", [1, 4, 6, 12])
def test_alibi(n_heads):
    model = make_model(lambda: ALiBi(n_heads), n_heads)
    theirs = decoder(model, n_heads, alibi_pos_bias=True).double()
    model.position.slopes = model.position.slopes.double()
    assert_same(exact(model), run(theirs), atol=1e-5)


@pytest.mark.parametrize("buckets", [(32, 128), (16, 200)])
def test_t5(buckets):
    model = make_model(lambda: T5(4, *buckets))
    name = "attn_layers.rel_pos.relative_attention_bias.weight"
    table = {name: model.position.weight.T / math.sqrt(HEAD_DIM)}
    options = {"rel_pos_num_buckets": buckets[0], "rel_pos_max_distance": buckets[1]}
    theirs = decoder(model, more=table, rel_pos_bias=True, **options).double()
    assert_same(exact(model), run(theirs), atol=1e-5)


def test_learned():
    model = make_model(lambda: Learned(LENGTH, width(4)))
    table = {"pos_emb.emb.weight": model.position.table * math.sqrt(width(4))}
    theirs = decoder(model, more=table, max_len=LENGTH).double()
    assert_same(exact(model), run(theirs), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"base": 500.0}])
def test_rope(options):
    model = make_model(lambda: RoPE(HEAD_DIM, **options))
    theirs = decoder(model, rotary_pos_emb=True, rotary_emb_dim=HEAD_DIM)
    if options:  # the Decoder has no option for it
        module = x_transformers.x_transformers.RotaryEmbedding(HEAD_DIM, **options)
        theirs.attn_layers.rotary_pos_emb = module
    assert_same(logits(model), run(theirs))


def test_half_rope_is_their_default():
    """rotary_emb_dim = dim_head // 2: a RoPE of half the channels, and half without positions."""
    module = decoder(make_model(NoPE), rotary_pos_emb=True).attn_layers.rotary_pos_emb
    torch.testing.assert_close(
        module.inv_freq.tolist(), RoPE(HEAD_DIM // 2).frequencies, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("scale_base", [512, 100])
def test_xpos(scale_base):
    model = make_model(lambda: XPos(HEAD_DIM, scale_base=scale_base))
    options = {"rotary_emb_dim": HEAD_DIM, "rotary_xpos_scale_base": scale_base}
    assert_same(logits(model), run(decoder(model, rotary_xpos=True, **options)))


def test_fox_is_their_data_dependent_alibi():
    """Forget gates of every layer, from the normed input."""
    model = make_model(lambda: FoX(width(4), 4))
    names = {f"data_dependent_alibi.to_forget_gates.0.{p}": f"gate.{p}" for p in ("weight", "bias")}
    theirs = decoder(model, more=in_each_layer(names, model), attn_data_dependent_alibi=True)
    assert_same(exact(model), run(theirs.double()), atol=1e-10)


@pytest.mark.parametrize("max_pos", [16, 200])
def test_cope(max_pos):
    """With counts that reach the last embedding, and with counts that do not."""
    model = make_model(lambda: CoPE(HEAD_DIM, max_pos))
    more = in_each_layer({"attend.cope.pos_emb": "embedding"}, model)
    theirs = decoder(model, more=more, attn_use_cope=True, attn_cope_max_pos=max_pos)
    assert_same(exact(model), run(theirs.double()), atol=1e-10)


def test_pope():
    """Their magnitudes are float32 always (956)."""
    model = make_model(lambda: PoPE(HEAD_DIM, 4))
    phases = -3 * torch.rand(4, HEAD_DIM, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for position in model.schemes:
            position.delta.copy_(phases)
    more = {"attn_layers.polar_pos_emb.learned_bias": phases[:, None]}
    assert_same(logits(model), run(decoder(model, more=more, polar_pos_emb=True)))


def test_swat():
    """Sigmoid attention with RoPE, and ALiBi with our slopes in place of its own."""
    model = make_model(lambda: SWAT(HEAD_DIM, 4))
    with torch.no_grad():  # a sum of up to LENGTH values, not their mean
        for block in model.blocks:
            block.attention.out.weight.mul_(0.05)
    slopes = [1 / 2, 1 / 4, -1 / 2, -1 / 4]  # theirs are subtracted
    theirs = decoder(
        model, rotary_pos_emb=True, rotary_emb_dim=HEAD_DIM, alibi_pos_bias=True,
        rel_pos_kwargs={"slopes": slopes},
    )  # fmt: skip
    for module in theirs.modules():
        if isinstance(module, x_transformers.attend.Attend):
            module.attn_fn = torch.sigmoid
    assert_same(logits(model), run(theirs))


def test_their_sinusoids_are_ours_in_another_order_and_scale():
    d_model = width(4)
    theirs = x_transformers.x_transformers.ScaledSinusoidalEmbedding(d_model)
    with torch.no_grad():
        table = theirs(torch.zeros(1, 2000, d_model)) * math.sqrt(d_model)
    ours = Sinusoidal(d_model).embed(torch.zeros(2000, d_model), torch.arange(2000), None)
    halves = torch.cat([ours[:, ::2], ours[:, 1::2]], dim=1)
    torch.testing.assert_close(table, halves, rtol=0, atol=2e-4)  # their angles are float32
    assert not torch.allclose(table, ours, atol=0.5)


def test_window():
    """Their max_attend_past counts the keys before the query's own, our window that one too."""
    model = make_model(lambda: XPos(HEAD_DIM))
    options = {"rotary_xpos": True, "rotary_emb_dim": HEAD_DIM, "attn_max_attend_past": 39}
    assert_same(logits(model, pattern=Window(40)), run(decoder(model, **options)))
