"""The weights of a trained model under the names and in the layouts of transformers' classes.

Shapes: H query heads, K key-value heads, D head_dim. lexp rotates channels 2c and 2c + 1 together,
transformers c and c + n, so that channels of queries and keys change places: scores stay the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lexp.hf.export_positions import PositionTable, Rotation
from lexp.model.mixer.attention import Attention, QKNorm
from lexp.model.transformer import Block, Transformer

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Channels:
    """The channels of a head in transformers' order, and what queries and keys are multiplied by.

    order, factors: [D].
    """

    order: Tensor
    factors: Tensor

    def of(self, rows: Tensor, n_heads: int) -> Tensor:
        """Return rows [n_heads * D, d_model], or weights [D] of a norm, in that order."""
        by_head = rows.view(n_heads, len(self.order), -1)[:, self.order]
        return (by_head * self.factors[:, None]).reshape(rows.shape)


def channels_of(rotation: Rotation, is_whole: bool) -> Channels:
    """Return the channels of a rotation.

    is_whole: whether the class rotates all pairs, some by nothing; else it rotates the first ones,
    and multiplies no others by the temperature.
    """
    pairs = list(range(len(rotation.theta))) if is_whole else rotation.rotating
    alone = sorted(set(range(len(rotation.theta))) - set(pairs))
    order = [*(2 * c for c in pairs), *(2 * c + 1 for c in pairs)]
    order += [channel for c in alone for channel in (2 * c, 2 * c + 1)]
    factors = torch.ones(len(order))
    factors[2 * len(pairs) :] = rotation.temperature
    return Channels(torch.tensor(order), factors)


def neox_weights(model: Transformer, channels: Channels) -> Weights:
    """Return the weights of GPTNeoXForCausalLM, whose heads have query, key and value in a row."""
    weights = {
        "gpt_neox.embed_in.weight": model.embedding.weight,
        "gpt_neox.final_layer_norm.weight": _norm(model.norm),
        "lm_head.weight": model.head.weight,
    }
    for n, block in enumerate(_blocks(model)):
        layer, heads = f"gpt_neox.layers.{n}", model.dims.n_heads
        qkv = [rows.view(heads, model.dims.head_dim, -1) for rows in _qkv(block, channels)]
        weights |= {
            f"{layer}.input_layernorm.weight": _norm(block.norm_attention),
            f"{layer}.post_attention_layernorm.weight": _norm(block.norm_mlp),
            f"{layer}.attention.query_key_value.weight": torch.cat(qkv, dim=1).flatten(0, 1),
            f"{layer}.attention.dense.weight": _attention(block).out.weight,
            f"{layer}.mlp.dense_h_to_4h.weight": block.mlp_in.weight,
            f"{layer}.mlp.dense_4h_to_h.weight": block.mlp_out.weight,
        }
    return weights


def gpt2_weights(model: Transformer, table: PositionTable) -> Weights:
    """Return the weights of GPT2LMHeadModel, whose matrices are transposed."""
    weights = {
        "transformer.wte.weight": model.embedding.weight * table.scale,
        "transformer.wpe.weight": table.rows,
        "transformer.ln_f.weight": _norm(model.norm),
        "lm_head.weight": model.head.weight,
    }
    for n, block in enumerate(_blocks(model)):
        layer, attention = f"transformer.h.{n}", _attention(block)
        weights |= {
            f"{layer}.ln_1.weight": _norm(block.norm_attention),
            f"{layer}.ln_2.weight": _norm(block.norm_mlp),
            f"{layer}.attn.c_attn.weight": attention.qkv.weight.T,
            f"{layer}.attn.c_proj.weight": attention.out.weight.T,
            f"{layer}.mlp.c_fc.weight": block.mlp_in.weight.T,
            f"{layer}.mlp.c_proj.weight": block.mlp_out.weight.T,
        }
    return weights


def mpt_weights(model: Transformer) -> Weights:
    """Return the weights of MptForCausalLM."""
    weights = {
        "transformer.wte.weight": model.embedding.weight,
        "transformer.norm_f.weight": _norm(model.norm),
        "lm_head.weight": model.head.weight,
    }
    for n, block in enumerate(_blocks(model)):
        layer, attention = f"transformer.blocks.{n}", _attention(block)
        weights |= {
            f"{layer}.norm_1.weight": _norm(block.norm_attention),
            f"{layer}.norm_2.weight": _norm(block.norm_mlp),
            f"{layer}.attn.Wqkv.weight": attention.qkv.weight,
            f"{layer}.attn.out_proj.weight": attention.out.weight,
            f"{layer}.ffn.up_proj.weight": block.mlp_in.weight,
            f"{layer}.ffn.down_proj.weight": block.mlp_out.weight,
        }
    return weights


def llama_weights(model: Transformer, channels: Channels) -> Weights:
    """Return the weights of LlamaForCausalLM, or of its likes; QK-norms as Qwen3 has them."""
    weights = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": _norm(model.norm),
        "lm_head.weight": model.head.weight,
    }
    for n, block in enumerate(_blocks(model)):
        layer, attention = f"model.layers.{n}", _attention(block)
        q, k, v = _qkv(block, channels)
        gate, up = block.mlp_in.weight.chunk(2)
        weights |= {
            f"{layer}.input_layernorm.weight": _norm(block.norm_attention),
            f"{layer}.post_attention_layernorm.weight": _norm(block.norm_mlp),
            f"{layer}.self_attn.q_proj.weight": q,
            f"{layer}.self_attn.k_proj.weight": k,
            f"{layer}.self_attn.v_proj.weight": v,
            f"{layer}.self_attn.o_proj.weight": attention.out.weight,
            f"{layer}.mlp.gate_proj.weight": gate,
            f"{layer}.mlp.up_proj.weight": up,
            f"{layer}.mlp.down_proj.weight": block.mlp_out.weight,
        }
        norm = attention.qk_norm
        if isinstance(norm, QKNorm):
            weights[f"{layer}.self_attn.q_norm.weight"] = channels.of(_norm(norm.q), 1)
            weights[f"{layer}.self_attn.k_norm.weight"] = channels.of(_norm(norm.k), 1)
    return weights


def _blocks(model: Transformer) -> list[Block]:
    """Return the layers; a block that several layers share, once for each."""
    return [block for block in model.blocks if isinstance(block, Block)]


def _attention(block: Block) -> Attention:
    assert isinstance(block.mixer, Attention), "other mixers were refused"
    return block.mixer


def _norm(norm: nn.Module) -> Tensor:
    """Return the weights of a norm, its only parameters."""
    (weight,) = norm.parameters()
    return weight


def _qkv(block: Block, channels: Channels) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of queries, keys and values of a layer, [H * D, d_model] or [K * D, ...]."""
    attention = _attention(block)
    q, k, v = attention.qkv.weight.split(attention.sizes)
    return channels.of(q, attention.n_heads), channels.of(k, attention.n_kv_heads), v
