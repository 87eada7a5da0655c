"""Small models and documents to score, and the losses by brute force."""

import numpy as np
import torch

from lexp.attention import Reference
from lexp.data import Tokens
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from support.schemes import CPU


def tokens_of(*lengths: int, per_token_bytes: int = 1) -> Tokens:
    """Random documents of these lengths."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, sum(lengths)).astype(np.uint8)
    counts = None if per_token_bytes == 1 else np.full(len(ids), per_token_bytes, dtype=np.uint16)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Tokens(tuple(f"d{n}" for n in range(len(lengths))), ids, starts, counts)


def tiny_model(position) -> Transformer:
    torch.manual_seed(0)
    dims = Dims(n_layers=2, d_model=16, n_heads=2, head_dim=8, d_ff=32)
    model = Transformer(dims, 50, [LayerEntry(lambda: position)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


def brute_force(model, pattern, document: list[int], n_tokens: int, length: int) -> list[float]:
    """Each target by a forward pass of its own, in float64, over just the tokens it may see."""
    losses = []
    for t in range(1, n_tokens + 1):
        first = (t - 1) // length * length
        context = torch.tensor([document[first:t]])
        attend = Reference(pattern, context.shape[1], model.position, CPU)
        logits = model(context, attend)[0, -1]
        losses.append(-logits.log_softmax(-1)[document[t]].item())
    return losses


def by_cell(rows) -> dict[tuple[str, str, int], dict[str, str]]:
    return {(r["model"], r["attention"], int(r["length"])): r for r in rows}
