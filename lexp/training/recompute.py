"""Recomputed layers: memory for time (activation checkpointing, Chen et al. 2016, 1604.06174).

Between the forward and the backward pass a layer keeps its activations; a recomputed layer keeps
its input alone, and is computed a second time in the backward pass. Values are the same.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lexp.model.transformer import Transformer

FLOAT = 4
# Share of the free memory: fragments, workspaces and other processes have the rest.
USABLE = 0.8


@dataclass(frozen=True)
class TrainingMemory:
    """What a training step keeps, in bytes, besides the weights themselves.

    per_token: activations of all layers, of a token. fixed: gradients, moments, casts of weights.
    """

    per_token: float
    fixed: int


def kept_bytes(model: Transformer, forward: Callable[[int], Tensor], n_rows: int) -> int:
    """Return the bytes that a forward pass over n_rows texts keeps for the backward pass.

    Each storage counts once, and parameters do not count.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor  # held, so that no later tensor gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(n_rows)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def measure_memory(
    model: Transformer, forward: Callable[[int], Tensor], train_len: int
) -> TrainingMemory:
    """Measure what a step keeps by forward passes over one text and over two.

    forward: computes the loss of so many texts. The casts of weights do not grow with the texts.
    """
    one, two = (kept_bytes(model, forward, n_rows) for n_rows in (1, 2))
    of_weights = 3 * sum(p.numel() * FLOAT for p in model.parameters())  # gradient, two moments
    return TrainingMemory((two - one) / train_len, of_weights + max(0, 2 * one - two))


def fewest_recomputed(memory: TrainingMemory, model: Transformer, n_tokens: int, free: int) -> int:
    """Return the smallest number of layers to recompute with which n_tokens fit into `free` bytes.

    n_tokens: of one forward pass on this device. All layers if nothing else fits.
    """
    n_layers, of_input = model.dims.n_layers, FLOAT * model.dims.d_model
    of_layer = memory.per_token / n_layers
    room = USABLE * free - memory.fixed
    # Recomputed layers are whole one at a time.
    needed = (n_layers + 1) * of_layer * n_tokens - room
    if (n_layers * of_layer) * n_tokens <= room:
        return 0
    saved = (of_layer - of_input) * n_tokens
    return n_layers if saved <= 0 else min(n_layers, math.ceil(needed / saved))
