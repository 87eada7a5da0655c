"""FSDP2: every rank holds a shard of each parameter, its gradient and its optimiser state."""

import math
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from lexp.distributed.engine import Engine, Loss
from lexp.model.transformer import Transformer
from lexp.position import Position
from lexp.runs import checkpoint
from lexp.runs.checkpoint import Tensors


class Shards(Engine):
    """A sharded model.

    The parameters of a block are whole only while the block computes; those outside of blocks from
    the forward to the end of the backward pass.
    """

    def __init__(self, model: Transformer, loss: Loss, n_ranks: int):
        device = next(model.parameters()).device
        self._scalars = _with_dimension(model)
        mesh = init_device_mesh(device.type, (n_ranks,))
        for block in dict.fromkeys(model.blocks):  # layers may share one
            fully_shard(block, mesh=mesh)
            register_fsdp_forward_method(block, "read")  # of recurrent layers, state by state
        fully_shard(model, mesh=mesh)
        # Validation calls `losses*` of texts, and `logits_at` of tasks.
        for name in {"losses", "losses_at", "losses_in_pieces", "logits_at", loss.__name__}:
            register_fsdp_forward_method(model, name)
        self._whole_loss = getattr(model, loss.__name__)
        super().__init__(model, self._loss_in_bounds)

    def _loss_in_bounds(self, *arguments: Any) -> Tensor:
        """Return the loss, after position parameters have been moved into their bounds.

        What a scheme moves while it computes is the gathered copy, not the shards that are trained.
        """
        for module in self.model.modules():
            if isinstance(module, Position):
                module.move_into_bounds()
        return self._whole_loss(*arguments)

    def clip(self, limit: float) -> Tensor:
        """Scale all gradients by their norm over all shards; return the old norm."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit or math.inf)
        assert isinstance(norm, DTensor)
        return norm.full_tensor()

    def tensors(self, optimizers: tuple[Optimizer, ...]) -> Tensors:
        """Return the tensors gathered in the CPU memory of rank 0; none on other ranks."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        parameters: dict[str, Any] = get_model_state_dict(self.model, options=options)
        states: dict[str, Any] = get_optimizer_state_dict(self.model, optimizers, options=options)
        moments = {
            f"{key}/{name}": self._plain(name, value)
            for name, state in states.get("state", {}).items()
            for key, value in state.items()
        }
        repeated = checkpoint.second_names(self.model)
        unique = {n: self._plain(n, v) for n, v in parameters.items() if n not in repeated}
        return Tensors(unique, moments)

    def _plain(self, name: str, value: Tensor) -> Tensor:
        return value.reshape(()) if name in self._scalars else value

    def place(self, value: Tensor, parameter: nn.Parameter) -> Tensor:
        """Return this rank's shard of an unsharded tensor, without communication."""
        assert isinstance(parameter, DTensor)
        mesh, placements = parameter.device_mesh, parameter.placements
        value = value.to(parameter.device).view(parameter.shape)
        return distribute_tensor(value, mesh, placements, src_data_rank=None)


def _with_dimension(model: nn.Module) -> set[str]:
    """Give parameters without a dimension one, as FSDP2 requires; return their names.

    They broadcast in the same way. Checkpoints store them without the dimension.
    """
    names = {name for name, parameter in model.named_parameters() if parameter.ndim == 0}
    for name in names:
        module, _, short_name = name.rpartition(".")
        parameter = nn.Parameter(model.get_parameter(name).detach().view(1))
        model.get_submodule(module).register_parameter(short_name, parameter)
    return names
