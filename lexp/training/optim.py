"""AdamW and the schedule of the learning rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW

# Share of the peak rate after a fraction p of the steps between warm-up and end.
SHAPES: dict[str, Callable[[float, float], float]] = {
    "cosine": lambda p, power: 0.5 * (1 + math.cos(math.pi * p)),
    "linear": lambda p, power: 1 - p,
    "polynomial": lambda p, power: (1 - p) ** power,
    "constant": lambda p, power: 1.0,
}


@dataclass(frozen=True)
class OptimSettings:
    """Settings of an optimiser step: AdamW's constants, clipping, and the schedule of the rate.

    warmup: share of the steps in which the rate rises. final: share of the peak at the end.
    power: exponent of schedule=polynomial. clip: largest gradient norm, 0 for no clipping.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip: float
    schedule: str
    warmup: float
    final: float
    power: float


def learning_rate(step: int, n_steps: int, settings: OptimSettings) -> float:
    """Return the learning rate of a step, 0 to n_steps - 1."""
    n_warmup = round(settings.warmup * n_steps)
    if step < n_warmup:
        return settings.lr * (step + 1) / n_warmup
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    shape = SHAPES[settings.schedule](done, settings.power)
    return settings.lr * (settings.final + (1 - settings.final) * shape)


def make_optimizer(model: nn.Module, settings: OptimSettings) -> AdamW:
    """Return AdamW that decays weight matrices only: no embedding, norm or position parameter."""
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and not {"positions", "embedding"} & set(name.split("."))
        (decayed if matrix else rest).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
