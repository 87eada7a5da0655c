"""The weights of Llama, Mistral and Qwen3 checkpoints under lexp's names and in its layout.

lexp rotates channels 2c and 2c + 1 together, transformers c and c + D/2 of a head of D channels.
"""

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lexp.hf.source import Source
from lexp.model.transformer import Dims
from lexp.system.errors import CheckpointError

NAMES = {
    "input_layernorm.weight": "norm_attention.weight",
    "post_attention_layernorm.weight": "norm_mlp.weight",
    "self_attn.o_proj.weight": "attention.out.weight",
    "mlp.down_proj.weight": "mlp_out.weight",
}


def lexp_weights(source: Source, dims: Dims, n_tokens: int, qk_norm: bool) -> dict[str, Tensor]:
    """Return all parameters of a model in float32; CheckpointError if one is missing or left over.

    n_tokens: of the vocabulary; rows of the embedding beyond, which no token has, are left out.
    """
    theirs = _read(source)
    taken: set[str] = set()

    def take(name: str) -> Tensor:
        if name not in theirs:
            raise CheckpointError(f"{source.path}: has no parameter {name}")
        taken.add(name)
        return theirs[name].float()

    weights = {
        "embedding.weight": take("model.embed_tokens.weight")[:n_tokens],
        "norm.weight": take("model.norm.weight"),
    }
    if "lm_head.weight" in theirs:
        weights["head.weight"] = take("lm_head.weight")[:n_tokens]
    half = dims.head_dim // 2
    order = torch.arange(dims.head_dim).view(2, half).T.flatten()  # 0, D/2, 1, D/2 + 1, ...

    def turned(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (-1, dims.head_dim))[:, order].reshape(rows.shape)

    for n in range(dims.n_layers):
        old, new = f"model.layers.{n}", f"blocks.{n}"
        weights |= {f"{new}.{ours}": take(f"{old}.{name}") for name, ours in NAMES.items()}
        q, k, v = (take(f"{old}.self_attn.{part}_proj.weight") for part in "qkv")
        weights[f"{new}.attention.qkv.weight"] = torch.cat([turned(q), turned(k), v])
        gate, up = (take(f"{old}.mlp.{part}_proj.weight") for part in ("gate", "up"))
        weights[f"{new}.mlp_in.weight"] = torch.cat([gate, up])
        for part in "qk" if qk_norm else "":
            norm = take(f"{old}.self_attn.{part}_norm.weight")
            weights[f"{new}.attention.qk_norm.{part}.weight"] = turned(norm)
    left = sorted(name for name in theirs.keys() - taken if not name.endswith(".inv_freq"))
    if left:
        raise CheckpointError(f"{source.path}: has parameters that lexp lacks: {left[0]}")
    return weights


def _read(source: Source) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in source.weights:
        try:
            tensors |= load_file(source.folder / name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{source.folder / name} cannot be read ({error})") from None
    return tensors
