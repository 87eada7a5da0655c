"""How many layers a run recomputes, so that a training step fits into memory."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from lexp.commands.run_parts import choose_backend, training_pattern
from lexp.config.settings import TrainConfig
from lexp.model.transformer import Transformer
from lexp.training.recompute import fewest_recomputed, measure_memory


def choose_recomputed(
    settings: TrainConfig,
    model: Transformer,
    loss: Callable[..., Tensor],
    make_inputs: Callable[[], Sequence[Tensor]],
    autocast: AbstractContextManager,
) -> list[str]:
    """Give the model its number of recomputed layers; return the line that says so.

    make_inputs: returns those of one forward pass in training, rows first.
    """
    chosen = layers_to_recompute(settings, model, loss, make_inputs, autocast)
    model.recompute_layers = chosen
    if not chosen:
        return []
    n_layers = model.dims.n_layers
    return [f"  memory: {chosen} of {n_layers} layers are computed again in the backward pass"]


def layers_to_recompute(
    settings: TrainConfig,
    model: Transformer,
    loss: Callable[..., Tensor],
    make_inputs: Callable[[], Sequence[Tensor]],
    autocast: AbstractContextManager,
) -> int:
    """Return recompute_layers=, and for auto the fewest that let a step fit on a CUDA device.

    make_inputs: returns those of one forward pass in training, rows first. auto means none on
    other devices.
    """
    asked = settings.recompute_layers
    device = next(model.parameters()).device
    if isinstance(asked, int):
        return asked
    if device.type != "cuda":
        return 0

    inputs = make_inputs()
    pattern = training_pattern(settings)
    make_attend = choose_backend(settings.kernel, device)
    attend = make_attend(pattern, settings.train_len, model.schemes, device)

    def forward(n_rows: int) -> Tensor:
        # A batch of one row is taken twice.
        rows = [tensor[:1].repeat_interleave(n_rows, 0).to(device) for tensor in inputs]
        with autocast:
            return loss(*rows, attend)

    model.eval()  # in training a forward pass would move on what schemes draw
    memory = measure_memory(model, forward, settings.train_len)
    model.train()
    free, _ = torch.cuda.mem_get_info(device)
    return fewest_recomputed(memory, model, len(inputs[0]) * settings.train_len, free)
