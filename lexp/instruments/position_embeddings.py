"""Position embeddings: the vectors that a scheme adds to the token embeddings."""

import torch
from torch import Tensor

from lexp.instruments.base import AnalysisInput
from lexp.system.errors import NotDefined


def position_embeddings(inputs: AnalysisInput) -> Tensor:
    """Return P of the model's scheme at the text's positions, float64 [T, d_model].

    The scheme is applied to zeros, so that factors of the embeddings fall away. NotDefined for a
    scheme that adds nothing.
    """
    model, scheme = inputs.model, inputs.model.position
    device = next(model.parameters()).device
    if scheme.reads_tokens:
        raise NotDefined(f"the positions of {scheme.title} follow from each text's tokens")
    sampled = scheme.sample_positions(inputs.seq_len)
    positions = torch.arange(inputs.seq_len) if sampled is None else sampled
    nothing = torch.zeros(1, inputs.seq_len, model.dims.d_model, dtype=torch.float64, device=device)
    tokens = torch.zeros(1, inputs.seq_len, dtype=torch.long, device=device)
    with torch.no_grad():
        added = scheme.embed(nothing, positions.to(device), tokens)[0]
    if not added.any():
        name = scheme.title
        raise NotDefined(f"{name} adds nothing to the embeddings: it has no position embeddings")
    return added
