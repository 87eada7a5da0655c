"""Checks of the settings optim.*."""

from lexp.config.checks import (
    betas,
    between,
    not_negative,
    one_of,
    positive,
)
from lexp.config.settings import OptimConfig

SCHEDULES = ("cosine", "linear", "polynomial", "constant", "wsd")
MATRICES = ("adamw", "muon")


def optim_problems(optim: OptimConfig) -> list[str]:
    """Return what is wrong with the settings of the optimisers."""
    return [
        *positive(
            **{
                "optim.eps": optim.eps,
                "optim.power": optim.power,
                "optim.decay": optim.decay,
                "optim.matrix_lr": optim.matrix_lr,
            }
        ),
        *between(
            0,
            1,
            {
                "optim.warmup": optim.warmup,
                "optim.final": optim.final,
                "optim.decay": optim.decay,
            },
        ),
        *betas(
            {
                "optim.beta1": optim.beta1,
                "optim.beta2": optim.beta2,
                "optim.momentum": optim.momentum,
            }
        ),
        *one_of("optim.schedule", optim.schedule, SCHEDULES),
        *one_of("optim.matrices", optim.matrices, MATRICES),
        *not_negative({"optim.weight_decay": optim.weight_decay, "optim.clip": optim.clip}),
    ]
