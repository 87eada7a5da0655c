"""Engines: a model in one process, replicated on each rank (DDP), or sharded (shards.py)."""

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

# From tokens [B, T], targets [B, T] and attention to the loss in nats, summed over all targets.
Loss = Callable[..., Tensor]


class Engine:
    """A model in one process. `loss` is summed over this rank's texts.

    After the backward pass every rank has the mean of all ranks' gradients.
    """

    def __init__(self, model: Transformer, loss: Loss):
        self.model, self.loss = model, loss

    def accumulate(self, is_last: bool) -> AbstractContextManager:
        """Return the context for the forward and backward pass of one part of a step."""
        return contextlib.nullcontext()

    def clip(self, limit: float) -> Tensor:
        """Scale all gradients to a norm of at most `limit` (0: no limit); return the old norm."""
        return nn.utils.clip_grad_norm_(self.model.parameters(), limit or math.inf)

    def tensors(self, optimizers: tuple[Optimizer, ...]) -> Tensors:
        """Return unsharded tensors for a checkpoint, on rank 0 at least; all ranks must call it."""
        return checkpoint.tensors(self.model, optimizers)

    def place(self, value: Tensor, parameter: nn.Parameter) -> Tensor:
        """Return an unsharded optimiser tensor on its parameter's device, sharded as it is."""
        return value.to(parameter.device)


class Replicas(Engine):
    """DDP: every rank has the whole model; gradients are averaged while they are computed."""

    def __init__(self, model: Transformer, loss: Loss):
        super().__init__(model, loss)
        self._wrapped = DistributedDataParallel(_Forward(model, loss))
        self.loss = self._wrapped

    def accumulate(self, is_last: bool) -> AbstractContextManager:
        """Return a context that averages gradients only in the last part of a step."""
        return contextlib.nullcontext() if is_last else self._wrapped.no_sync()


class _Forward(nn.Module):
    """The loss as a module's forward pass, because DDP wraps only that."""

    def __init__(self, model: Transformer, loss: Loss):
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, *arguments: Any) -> Tensor:
        return self._loss(*arguments)


def make_engine(
    group: SingleProcess, kind: str, model: Transformer, loss: Loss, compiled: bool
) -> Engine:
    """Return an engine for a model that is on its device already. loss: a method of the model.

    kind: ddp or fsdp. FSDP shards the parameters here: load a checkpoint before, make the optimiser
    afterwards.
    """
    if group.size > 1 and kind == "fsdp":
        from lexp.distributed.shards import Shards  # FSDP2 takes a second to import

        return Shards(model, loss, group.size)
    loss = torch.compile(loss) if compiled else loss
    return (Engine if group.size == 1 else Replicas)(model, loss)
