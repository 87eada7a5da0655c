"""The optimisers of a run, and the schedule of the learning rate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

# Share of the peak rate after a fraction p of the steps between warm-up and end.
SHAPES: dict[str, Callable[[float, "OptimSettings"], float]] = {
    "cosine": lambda p, _: 0.5 * (1 + math.cos(math.pi * p)),
    "linear": lambda p, _: 1 - p,
    "polynomial": lambda p, settings: (1 - p) ** settings.power,
    "constant": lambda p, _: 1.0,
    "wsd": lambda p, settings: min(1.0, (1 - p) / settings.decay),
}


@dataclass(frozen=True)
class OptimSettings:
    """Settings of an optimiser step: AdamW's constants, clipping, and the schedule of the rate.

    warmup: share of the steps in which the rate rises. final: share of the peak at the end.
    power: exponent of schedule=polynomial. decay: share of the steps after the warm-up in which
    schedule=wsd falls, in a line. clip: largest gradient norm, 0 for no clipping.
    matrices: adamw, or muon for the weight matrices of layers, with a peak rate and a momentum of
    their own.
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
    decay: float = 0.2
    matrices: str = "adamw"
    matrix_lr: float = 0.02
    momentum: float = 0.95


def learning_rate(
    step: int, n_steps: int, settings: OptimSettings, peak: float | None = None
) -> float:
    """Return the learning rate of a step, 0 to n_steps - 1. peak: None for that of AdamW."""
    peak = settings.lr if peak is None else peak
    n_warmup = round(settings.warmup * n_steps)
    if step < n_warmup:
        return peak * (step + 1) / n_warmup
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    shape = SHAPES[settings.schedule](done, settings)
    return peak * (settings.final + (1 - settings.final) * shape)


def set_learning_rates(
    optimizers: Sequence[Optimizer], step: int, n_steps: int, settings: OptimSettings
) -> None:
    """Give each group of parameters the rate of a step, by the peak of its group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps, settings, group["peak"])


def make_optimizers(model: nn.Module, settings: OptimSettings) -> tuple[Optimizer, ...]:
    """Return AdamW, and Muon before it where it has the matrices.

    Weight matrices alone are decayed: no embedding, norm or position parameter. Muon (Jordan et al.
    2024) is for matrices between hidden states, so the matrix of logits stays with AdamW.
    """
    for_muon: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        parts = set(name.split("."))
        if parameter.ndim < 2 or {"positions", "embedding"} & parts:
            rest.append(parameter)
        elif settings.matrices == "muon" and parameter.ndim == 2 and "head" not in parts:
            for_muon.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay, "peak": settings.lr},
        {"params": rest, "weight_decay": 0.0, "peak": settings.lr},
    ]
    adamw = AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
    if not for_muon:
        return (adamw,)
    muon = Muon(
        [{"params": for_muon, "peak": settings.matrix_lr}],
        lr=settings.matrix_lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
    )
    return muon, adamw
