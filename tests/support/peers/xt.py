"""Models of x-transformers (2.31) with the weights of one of ours."""

from functools import partial

import torch
from torch import Tensor, nn

from lexp.model.transformer import Transformer
from support.peers.ours import HEAD_DIM, N_LAYERS, VOCAB, fill, layers, peer, width

x_transformers = peer("x_transformers")


def decoder(
    model: Transformer, n_heads: int = 4, more: dict[str, Tensor] | None = None, **options: object
) -> nn.Module:
    """A TransformerWrapper around a Decoder with our weights, and `more` for its positions."""
    max_len = int(options.pop("max_len", 0))
    theirs = x_transformers.TransformerWrapper(
        num_tokens=VOCAB, max_seq_len=max_len, use_abs_pos_emb=max_len > 0,
        attn_layers=x_transformers.Decoder(
            dim=width(n_heads), depth=N_LAYERS, heads=n_heads, attn_dim_head=HEAD_DIM,
            ff_no_bias=True, norm_add_unit_offset=False, attn_project_out=True,
            attn_custom_attn_fn=partial(torch.softmax, dim=-1), verbose=False,
            **options,
        ),
    )  # fmt: skip
    given = {
        "token_emb.emb.weight": model.embedding.weight,
        "attn_layers.final_norm.gamma": model.norm.weight,
        "to_logits.weight": model.head.weight,
        **(more or {}),
    }
    for n, layer in enumerate(layers(model)):
        attention, mlp = f"attn_layers.layers.{2 * n}", f"attn_layers.layers.{2 * n + 1}"
        given |= {
            f"{attention}.0.0.gamma": layer.norm_attention,
            f"{attention}.1.to_q.weight": layer.q,
            f"{attention}.1.to_k.weight": layer.k,
            f"{attention}.1.to_v.weight": layer.v,
            f"{attention}.1.to_out.weight": layer.out,
            f"{mlp}.0.0.gamma": layer.norm_mlp,
            f"{mlp}.1.ff.0.0.weight": layer.mlp_in,
            f"{mlp}.1.ff.2.weight": layer.mlp_out,
        }
    return fill(theirs, given)
