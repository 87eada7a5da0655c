"""How ranks hold a model: whole in one process, whole on each (DDP), or in parts (shards.py)."""

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from lexp.distributed.group import SingleProcess
from lexp.model.transformer import Transformer
from lexp.runs import checkpoint
from lexp.runs.checkpoint import Tensors

# tokens [B, T], targets [B, T] and attention to the nats of all targets together.
Loss = Callable[..., Tensor]


class Engine:
    """A model in one process. `loss` is that of this rank's texts.

    Gradients are the mean of all ranks' gradients, on every rank.
    """

    def __init__(self, model: Transformer, loss: Loss):
        self.model, self.loss = model, loss

    def accumulate(self, is_last: bool) -> AbstractContextManager:
        """Around the forward and backward pass of one of a step's parts."""
        return contextlib.nullcontext()

    def clip(self, limit: float) -> Tensor:
        """Scale all gradients down to a norm of at most `limit` (0: any); the norm they had."""
        return nn.utils.clip_grad_norm_(self.model.parameters(), limit or math.inf)

    def tensors(self, optimizer: Optimizer) -> Tensors:
        """What a checkpoint keeps, whole, at least on rank 0. All ranks ask for it together."""
        return checkpoint.tensors(self.model, optimizer)

    def place(self, value: Tensor, parameter: nn.Parameter) -> Tensor:
        """A whole tensor of the optimiser's state where, and as, its parameter is."""
        return value.to(parameter.device)


class Replicas(Engine):
    """DDP: every rank has the whole model, gradients are averaged while they are computed."""

    def __init__(self, model: Transformer, loss: Loss):
        super().__init__(model, loss)
        self._wrapped = DistributedDataParallel(_Forward(model, loss))
        self.loss = self._wrapped

    def accumulate(self, is_last: bool) -> AbstractContextManager:
        """Gradients travel once a step, with its last part."""
        return contextlib.nullcontext() if is_last else self._wrapped.no_sync()


class _Forward(nn.Module):
    """The loss as a forward pass: DDP wraps no other method."""

    def __init__(self, model: Transformer, loss: Loss):
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, *arguments: Any) -> Tensor:
        return self._loss(*arguments)


def make_engine(
    group: SingleProcess, kind: str, model: Transformer, loss: Loss, compiled: bool
) -> Engine:
    """The model on its device, ready to train by `loss`, a method of its own.

    kind: ddp or fsdp. From here on the parameters of FSDP are parts: load a checkpoint before, make
    the optimiser afterwards.
    """
    if group.size > 1 and kind == "fsdp":
        from lexp.distributed.shards import Shards  # FSDP2 takes a second to import

        return Shards(model, loss, group.size)
    loss = torch.compile(loss) if compiled else loss
    return (Engine if group.size == 1 else Replicas)(model, loss)
