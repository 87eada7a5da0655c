"""A model without positions by hand: the layers of trunk=gpt, with loops over heads and queries."""

import math

import torch
from torch.nn import functional as F

from lexp.model.transformer import Transformer


def by_hand(
    model: Transformer, tokens: list[int], scales: torch.Tensor, qk_eps: float | None = None
) -> torch.Tensor:
    """The mean loss of a text: softmax(scales[l, h] q.k / sqrt(D)) in head h of layer l.

    That is equation 3 of Wang et al. 2024 (arXiv 2404.12224). model: its weights are read, in
    float64. scales [L, H]. qk_eps: queries and keys are divided by sqrt(mean of squares + qk_eps),
    QK-norm with weights of 1; None: they are not.
    """
    width, dims = model.dims.d_model, model.dims
    x = model.embedding.weight.double()[tokens[:-1]]

    def normed(x: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
        return F.layer_norm(x, (width,)) * norm.weight.double()

    def rms(x: torch.Tensor) -> torch.Tensor:
        return x if qk_eps is None else x / (x.square().mean(-1, keepdim=True) + qk_eps).sqrt()

    for n, block in enumerate(model.blocks):
        rows = normed(x, block.norm_attention) @ block.attention.qkv.weight.double().T
        q, k, v = rows.split(dims.n_heads * dims.head_dim, dim=-1)
        heads = []
        for h in range(dims.n_heads):
            own = slice(dims.head_dim * h, dims.head_dim * (h + 1))
            out = []
            for i in range(len(x)):
                products = rms(k[: i + 1, own]) @ rms(q[i, own]) / math.sqrt(dims.head_dim)
                powers = torch.exp(scales[n, h] * products)
                out.append(powers / powers.sum() @ v[: i + 1, own])
            heads.append(torch.stack(out))
        x = x + torch.cat(heads, dim=1) @ block.attention.out.weight.double().T
        inner = F.gelu(normed(x, block.norm_mlp) @ block.mlp_in.weight.double().T)
        x = x + inner @ block.mlp_out.weight.double().T
    logits = normed(x, model.norm) @ model.head.weight.double().T
    return -logits.log_softmax(-1)[torch.arange(len(x)), tokens[1:]].mean()
