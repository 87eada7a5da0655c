"""Whole models of transformers (5.23) with our weights: the same logits.

All but Llama share our trunk once their biases are zero (pre-norm, LayerNorm, GELU, untied head).
Nothing here is trained, so "beyond the trained length" is what a config claims: LENGTH is about
four times TRAINED wherever a peer can run there. GPT-2's table ends at its length, as ours does,
and MPT cuts its bias from a table of `max_seq_len` rows (modeling_mpt.py:119).
"""

import pytest
import torch
from torch import Tensor, nn

from lexp.attention import make_attend
from lexp.model.transformer import Transformer
from lexp.model.trunk import RMSNorm, SwiGLU, Trunk
from lexp.pattern import Full
from lexp.position import ALiBi, Learned, RoPE
from support.peers.hf import SPECIAL, bloom, gpt2, gpt_neox, llama, mpt, run
from support.peers.ours import (
    HEAD_DIM,
    LENGTH,
    N_LAYERS,
    TRAINED,
    VOCAB,
    assert_same,
    halves,
    layers,
    logits,
    make_model,
    peer,
    width,
)

transformers = peer("transformers")


@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_gpt_neox_is_our_rope(base):
    """Half-split channels there, adjacent pairs here: the rows of q and k are permuted."""
    model = make_model(lambda: RoPE(HEAD_DIM, base))
    assert_same(logits(model), run(gpt_neox(model, rope_theta=base)))


@pytest.mark.parametrize("n_heads", [1, 4, 6, 12])
@pytest.mark.parametrize("theirs", [mpt, bloom])
def test_mpt_and_bloom_are_our_alibi(theirs, n_heads):
    """Also where the number of heads is no power of two."""
    model = make_model(lambda: ALiBi(n_heads), n_heads)
    assert_same(logits(model), run(theirs(model, n_heads)))


def test_gpt2_is_our_learned_positions():
    model = make_model(lambda: Learned(LENGTH, width(4)))
    assert_same(logits(model), run(gpt2(model, model.position.table)))


@pytest.mark.parametrize(
    ("kind", "qk_norm"), [("Llama", None), ("Qwen3", RMSNorm(1e-6))], ids=["llama", "qwen3"]
)
def test_llama_and_qwen3_are_our_trunks(kind, qk_norm):
    """RMSNorm, SwiGLU and two key-value heads for four queries; Qwen3 norms queries and keys."""
    trunk = Trunk(RMSNorm(1e-6), SwiGLU(), qk_norm)
    model = make_model(lambda: RoPE(HEAD_DIM), trunk=trunk, n_kv_heads=2).double()
    found, expected = logits(model), run(llama(model, 2, kind).double())
    assert_same(found, expected)
    # Later their angles, products in float32, are off by more.
    assert_same(found[:, :TRAINED], expected[:, :TRAINED], atol=1e-5)


class OurAttention(nn.Module):
    """Our attention layer, called as a Llama layer calls its own."""

    def __init__(self, model: Transformer, n: int):
        super().__init__()
        self.attention, self.position = model.blocks[n].attention, model.position
        self.attend = make_attend(Full(), LENGTH, model.schemes, torch.device("cpu"))

    def forward(self, hidden_states: Tensor, **_: object) -> tuple[Tensor, None]:
        return self.attention(hidden_states, self.position, self.attend, None), None


def test_llama_with_our_attention_is_llama():
    """Its RMSNorm and gated MLP are not our trunk's, so they stay, and our attention moves in."""
    model = make_model(lambda: RoPE(HEAD_DIM))
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=width(4), num_hidden_layers=N_LAYERS, num_attention_heads=4,
        intermediate_size=4 * width(4), max_position_embeddings=TRAINED, **SPECIAL,
    )  # fmt: skip
    torch.manual_seed(1)
    theirs = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
        for layer, own in zip(theirs.model.layers, layers(model), strict=True):
            layer.self_attn.q_proj.weight.copy_(halves(own.q))
            layer.self_attn.k_proj.weight.copy_(halves(own.k))
            layer.self_attn.v_proj.weight.copy_(own.v)
            layer.self_attn.o_proj.weight.copy_(own.out)
    expected = run(theirs)
    for n, layer in enumerate(theirs.model.layers):
        layer.self_attn = OurAttention(model, n)
    assert_same(run(theirs), expected)
