"""Models of transformers (5.23) with the weights of one of ours."""

import torch
from torch import Tensor, nn

from lexp.model.transformer import Transformer
from support.peers.ours import (
    HEAD_DIM,
    LENGTH,
    N_LAYERS,
    TRAINED,
    VOCAB,
    by_head,
    fill,
    halves,
    layers,
    peer,
    tokens,
    width,
)

transformers = peer("transformers")
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False}


def run(theirs: nn.Module) -> Tensor:
    """A peer's logits of `tokens`."""
    with torch.no_grad():
        return theirs(tokens(), use_cache=False).logits


def gpt_neox(model: Transformer, **rope: object) -> nn.Module:
    """Its parallel residual off; `rope` goes into its rope_parameters."""
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=width(4), num_hidden_layers=N_LAYERS,
        num_attention_heads=4, intermediate_size=4 * width(4),
        max_position_embeddings=TRAINED, use_parallel_residual=False, attention_bias=False,
        rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0, **rope
        },
        **SPECIAL,
    )  # fmt: skip
    given = {
        "gpt_neox.embed_in.weight": model.embedding.weight,
        "gpt_neox.final_layer_norm.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for n, layer in enumerate(layers(model)):
        at = f"gpt_neox.layers.{n}"
        given |= {
            f"{at}.input_layernorm.weight": layer.norm_attention,
            f"{at}.attention.query_key_value.weight": by_head(
                halves(layer.q), halves(layer.k), layer.v
            ),
            f"{at}.attention.dense.weight": layer.out,
            f"{at}.post_attention_layernorm.weight": layer.norm_mlp,
            f"{at}.mlp.dense_h_to_4h.weight": layer.mlp_in,
            f"{at}.mlp.dense_4h_to_h.weight": layer.mlp_out,
        }
    return fill(transformers.GPTNeoXForCausalLM(config), given)


def mpt(model: Transformer, n_heads: int) -> nn.Module:
    """Its bias is cut from a table of `max_seq_len` keys (modeling_mpt.py:119)."""
    config = transformers.MptConfig(
        vocab_size=VOCAB, d_model=width(n_heads), n_layers=N_LAYERS, n_heads=n_heads,
        expansion_ratio=4, max_seq_len=LENGTH, **SPECIAL,
    )  # fmt: skip
    given = {
        "transformer.wte.weight": model.embedding.weight,
        "transformer.norm_f.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for n, layer in enumerate(layers(model)):
        at = f"transformer.blocks.{n}"
        given |= {
            f"{at}.norm_1.weight": layer.norm_attention,
            f"{at}.attn.Wqkv.weight": torch.cat([layer.q, layer.k, layer.v]),
            f"{at}.attn.out_proj.weight": layer.out,
            f"{at}.norm_2.weight": layer.norm_mlp,
            f"{at}.ffn.up_proj.weight": layer.mlp_in,
            f"{at}.ffn.down_proj.weight": layer.mlp_out,
        }
    return fill(transformers.MptForCausalLM(config), given)


def bloom(model: Transformer, n_heads: int) -> nn.Module:
    """BLOOM without its norm after the embeddings, and with GELU for its tanh approximation."""
    config = transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=width(n_heads), n_layer=N_LAYERS, n_head=n_heads, **SPECIAL
    )
    theirs = transformers.BloomForCausalLM(config)
    theirs.transformer.word_embeddings_layernorm = nn.Identity()
    given = {
        "transformer.word_embeddings.weight": model.embedding.weight,
        "transformer.ln_f.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for n, layer in enumerate(layers(model)):
        theirs.transformer.h[n].mlp.gelu_impl = nn.GELU()
        at = f"transformer.h.{n}"
        given |= {
            f"{at}.input_layernorm.weight": layer.norm_attention,
            f"{at}.self_attention.query_key_value.weight": by_head(layer.q, layer.k, layer.v),
            f"{at}.self_attention.dense.weight": layer.out,
            f"{at}.post_attention_layernorm.weight": layer.norm_mlp,
            f"{at}.mlp.dense_h_to_4h.weight": layer.mlp_in,
            f"{at}.mlp.dense_4h_to_h.weight": layer.mlp_out,
        }
    return fill(theirs, given)


def gpt2(model: Transformer, table: Tensor) -> nn.Module:
    """With GELU for its tanh approximation."""
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=width(4), n_layer=N_LAYERS, n_head=4, n_inner=4 * width(4),
        n_positions=len(table), activation_function="gelu", **SPECIAL,
    )  # fmt: skip
    given = {
        "transformer.wte.weight": model.embedding.weight,
        "transformer.wpe.weight": table,
        "transformer.ln_f.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for n, layer in enumerate(layers(model)):
        at = f"transformer.h.{n}"
        given |= {  # GPT-2's Conv1D keeps its weights transposed
            f"{at}.ln_1.weight": layer.norm_attention,
            f"{at}.attn.c_attn.weight": torch.cat([layer.q, layer.k, layer.v]).T,
            f"{at}.attn.c_proj.weight": layer.out.T,
            f"{at}.ln_2.weight": layer.norm_mlp,
            f"{at}.mlp.c_fc.weight": layer.mlp_in.T,
            f"{at}.mlp.c_proj.weight": layer.mlp_out.T,
        }
    return fill(transformers.GPT2LMHeadModel(config), given)


def inverse_frequencies(
    rope_type: str, head_dim: int, seq_len: int | None = None, **rope: object
) -> tuple[Tensor, float]:
    """What a Llama would multiply positions by, and then cosines and sines."""
    utils = peer("transformers.modeling_rope_utils")
    given = {"rope_type": rope_type, "rope_theta": 10000.0, **rope}
    trained = rope.get("original_max_position_embeddings", TRAINED)
    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, max_position_embeddings=trained,
        rope_parameters=given,
    )  # fmt: skip
    return utils.ROPE_INIT_FUNCTIONS[rope_type](config, seq_len=seq_len)


def llama(model: Transformer, n_kv_heads: int, kind: str) -> nn.Module:
    """Of Llama's trunk, or of Qwen3's, whose norms of queries and keys follow the rows' order."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCAB, hidden_size=width(4), num_hidden_layers=N_LAYERS, num_attention_heads=4,
        num_key_value_heads=n_kv_heads, head_dim=HEAD_DIM, intermediate_size=model.dims.d_ff,
        rms_norm_eps=model.norm.eps, max_position_embeddings=TRAINED, **SPECIAL,
    )  # fmt: skip
    given = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for n, block in enumerate(model.blocks):
        at, attention = f"model.layers.{n}", block.attention
        q, k, v = attention.qkv.weight.split(attention.sizes)
        gate, up = block.mlp_in.weight.chunk(2)
        given |= {
            f"{at}.input_layernorm.weight": block.norm_attention.weight,
            f"{at}.self_attn.q_proj.weight": halves(q),
            f"{at}.self_attn.k_proj.weight": halves(k),
            f"{at}.self_attn.v_proj.weight": v,
            f"{at}.self_attn.o_proj.weight": attention.out.weight,
            f"{at}.post_attention_layernorm.weight": block.norm_mlp.weight,
            f"{at}.mlp.gate_proj.weight": gate,
            f"{at}.mlp.up_proj.weight": up,
            f"{at}.mlp.down_proj.weight": block.mlp_out.weight,
        }
        for name, weight in attention.qk_norm.named_parameters():
            given[f"{at}.self_attn.{name[0]}_norm.weight"] = halves(weight[:, None])[:, 0]
    return fill(getattr(transformers, f"{kind}ForCausalLM")(config), given)
