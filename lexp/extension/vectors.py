"""Positional vector replacement (Dong et al. 2024, arXiv 2405.18009, section 4).

A model without encodings writes positions into its hidden states: p_t, the mean over texts of what
an early layer puts out at position t. Past the trained length these vectors are new to the layers
above; they are replaced by the trained ones, spread over the longer text:

    h_t - p_t + alpha p'_t,  p' the vectors of positions keep .. L-1 stretched over keep .. T-1

The paper's text could not be read, three accounts of it agree on this. Where they are silent: p_t
is measured at the evaluated length, alpha multiplies all of p', ends are aligned.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lexp.attention import Attend, make_attend
from lexp.extension.base import Extension, Lengths, Sample
from lexp.model.transformer import Transformer
from lexp.pattern import Full, Pattern
from lexp.position import NoPE, Position
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class VectorReplacement(Extension):
    """Replace positional vectors past the trained length.

    layer: after which layer, from 1 (the paper's 4 of 22; null: a quarter of the layers). alpha:
    the multiplier of the new vectors. keep: first tokens left alone. n_texts: number of training
    texts that vectors are measured on, one at a time.
    """

    layer: int | None = None
    alpha: float = 1.0
    keep: int = 4
    n_texts: int = 32

    name = "vector_replacement"
    follows_length = True

    def __post_init__(self) -> None:
        if (self.layer is not None and self.layer < 1) or self.keep < 0 or self.n_texts < 1:
            raise ValueError(
                f"layer and n_texts must be at least 1 and keep at least 0, "
                f"got {self.layer}, {self.n_texts} and {self.keep}"
            )

    def extend(
        self, model: Transformer, pattern: Pattern, lengths: Lengths, sample: Sample
    ) -> Transformer:
        """Return the model with one layer's output edited."""
        if not all(model.attending):
            raise NotDefined("vector_replacement is for models with attention in all layers")
        if not all(isinstance(position, NoPE) for position in model.schemes):
            name = model.position.title
            raise NotDefined(f"vector_replacement is for models without encodings, not for {name}")
        if not isinstance(pattern, Full):
            raise NotDefined("vector_replacement is measured under full attention")
        layer = self.layer or max(1, len(model.blocks) // 4)
        if layer > len(model.blocks):
            raise NotDefined(f"vector_replacement at layer {layer} of {len(model.blocks)}")
        if self.keep >= lengths.train_len - 1:
            raise NotDefined(f"vector_replacement keeps {self.keep} of {lengths.train_len} vectors")
        if lengths.length <= lengths.train_len:
            return model
        vectors = mean_output(model, layer, sample(self.n_texts, lengths.length))
        trained = vectors[self.keep : lengths.train_len]
        new = stretched(trained, lengths.length - self.keep) * self.alpha
        change = torch.cat([torch.zeros_like(vectors[: self.keep]), new - vectors[self.keep :]])
        blocks = nn.ModuleList(model.blocks)
        blocks[layer - 1] = Edited(model.blocks[layer - 1], change)
        other = copy.copy(model)
        other._modules = {**model._modules, "blocks": blocks}
        return other


class Edited(nn.Module):
    """A block with something added to its output at each position, change [T, d_model]."""

    def __init__(self, block: nn.Module, change: Tensor):
        super().__init__()
        self.block, self.change = block, change

    def forward(
        self, x: Tensor, position: Position, attend: Attend, sampled: Tensor | None
    ) -> Tensor:
        """Map x [B, T, d_model] to the same shape."""
        out = self.block(x, position, attend, sampled)
        return out + self.change[: out.shape[1]].to(out.dtype)


def mean_output(model: Transformer, layer: int, texts: Tensor) -> Tensor:
    """Return the mean over texts [n, T] of the hidden states after a layer, [T, d_model]."""
    device = next(model.parameters()).device
    attend = make_attend(Full(), texts.shape[1], model.schemes, device)
    total = None
    with torch.inference_mode():
        for text in texts.to(device):
            x = model.embedding(text[None])
            for block in model.blocks[:layer]:
                x = block(x, model.position, attend, None)
            total = x[0].double() if total is None else total + x[0].double()
    assert total is not None, "at least one text"
    return (total / len(texts)).float()


def stretched(vectors: Tensor, size: int) -> Tensor:
    """Return vectors [n, d] read linearly at `size` equally spaced places, ends aligned."""
    rows = vectors.T[None]  # [1, d, n]
    wider = torch.nn.functional.interpolate(rows, size=size, mode="linear", align_corners=True)
    return wider[0].T
