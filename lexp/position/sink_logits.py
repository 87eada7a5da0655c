"""Sink logits: softmax over the keys in sight and one learned number per head (gpt-oss, 2025).

    weight(i, j) = exp(s_ij) / (exp(z_h) + sum_k exp(s_ik))

A query that needs no key gives its weight to z_h, which has no value to add (OpenAI's gpt_oss,
torch/model.py: the column is cut off after softmax). It says nothing of where a key is: alone it is
NoPE with a sink, in a `Sum` with another scheme it changes that scheme's softmax.
"""

import math

import torch
from torch import Tensor, nn

from lexp.position.base import AttentionWeights, Pair, Position


class SinkLogits(Position):
    """A learned logit for each head and layer beside the scores of the keys; it starts at 0."""

    per_layer = True
    reads_inputs = False

    def __init__(self, n_heads: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_heads))

    def sink_logits(self) -> Tensor:
        """Return the logits [H]."""
        return self.logits

    def attention_weights(self, x: Tensor) -> AttentionWeights:
        """Return softmax with the sink's column, which is cut off."""
        logits = self.logits

        def weights(scores: Tensor, q: Tensor, k: Tensor, pair: Pair, allowed: Tensor) -> Tensor:
            sink = logits.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:-1], 1)
            seen = scores.masked_fill(~allowed, -math.inf)
            return torch.cat([seen, sink], dim=-1).softmax(-1)[..., :-1]

        return weights
