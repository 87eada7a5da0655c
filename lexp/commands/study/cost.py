"""What a model weighs before it is trained: parameters, FLOPs a token, and its speed here."""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from lexp.attention import make_attend
from lexp.commands.make_objects import make_dims, make_model, make_objective, training_pattern
from lexp.config.instantiate import build
from lexp.model.transformer import Dims
from lexp.position import Position
from lexp.system import runtime
from lexp.system.errors import ConfigError
from lexp.training.optim import OptimSettings, make_optimizer

VOCABULARIES = {"bytes": 256, "gpt2": 50257}
# Steps of a pilot go on for so long; heavier steps than this are not tried on a CPU.
PILOT_SECONDS, HEAVIEST_CPU = 1.0, 2e12


@dataclass(frozen=True)
class Weight:
    """What a variant costs: parameters, those that multiply, layers x inner, FLOPs a second.

    Layers x inner count twice where queries see both sides: that many keys more on average.
    """

    n_parameters: int
    n_active: int
    attention: int
    train_len: int
    speed: float

    def training(self) -> float:
        """FLOPs a token."""
        return 6 * self.n_active + 6 * self.attention * (self.train_len + 1)

    def forward(self, length: int, bounded: bool) -> float:
        """FLOPs a token of a window."""
        keys = (length + 1) / 2
        return 2 * self.n_active + 4 * self.attention * (
            min(keys, self.train_len) if bounded else keys
        )


def weigh(settings: dict[str, Any], flops: float | None) -> Weight:
    """Parameters of a run's model and the speed of its training."""
    dims, n_vocabulary = make_dims(settings), vocabulary(settings["tokenizer"])
    total = n_parameters(settings, n_vocabulary)
    n_rows = n_vocabulary + make_objective(settings).n_extra
    # Weights that layers share multiply in each of them.
    again = (dims.n_layers - 1) * block_parameters(dims) if dims.share_layers else 0
    active = total + again - n_rows * dims.d_model
    sides = 2 if training_pattern(settings).two_sided else 1
    attention = sides * dims.n_layers * dims.n_heads * dims.head_dim
    weight = Weight(total, active, attention, settings["train_len"], flops or math.nan)
    return weight if flops else replace(weight, speed=pilot(settings, weight))


def n_parameters(settings: dict[str, Any], n_vocabulary: int) -> int:
    """Parameters of a run's model, which may be too large to be made here."""
    dims = make_dims(settings)
    made = build(settings["model"]["position"], Position, "model.position")
    schemes = made.layers()
    if made.per_layer:
        schemes = [schemes[n % len(schemes)] for n in range(dims.n_layers)]
    of_schemes = sum(p.numel() for scheme in schemes for p in scheme.parameters())
    n_rows = n_vocabulary + make_objective(settings).n_extra
    ends = 2 * n_rows * dims.d_model + dims.d_model
    n_blocks = 1 if dims.share_layers else dims.n_layers
    return ends + n_blocks * block_parameters(dims) + of_schemes


def block_parameters(dims: Dims) -> int:
    """Of one layer."""
    inner = dims.n_heads * dims.head_dim
    return 4 * dims.d_model * inner + 2 * dims.d_model * dims.d_ff + 2 * dims.d_model


def vocabulary(node: dict[str, Any]) -> int:
    """Tokens of a tokenizer, without loading it; ConfigError where that cannot be told."""
    known = node.get("vocab_size") or VOCABULARIES.get(node["name"])
    if known is None:
        raise ConfigError(f"plan: how many tokens tokenizer={node['name']} has is not known")
    return int(known)


def pilot(settings: dict[str, Any], weight: Weight) -> float:
    """FLOPs a second of training steps on random tokens here; NaN if one would take too long."""
    device = runtime.choose_device(settings["device"])
    train_len = settings["train_len"]
    batch = settings["batch_tokens"] // settings["accumulation"] // train_len
    if device.type == "cpu" and weight.training() * batch * train_len > HEAVIEST_CPU:
        return math.nan
    runtime.prepare_process()
    n_vocabulary = vocabulary(settings["tokenizer"])
    model = make_model(settings, n_vocabulary).to(device)
    optimizer = make_optimizer(model, OptimSettings(lr=settings["lr"], **settings["optim"]))
    attend = make_attend(training_pattern(settings), train_len, model.schemes, device)
    context = runtime.autocast(runtime.choose_precision(settings["precision"], device), device)
    objective = make_objective(settings)
    total = objective.loss(model)
    ids = torch.randint(n_vocabulary, (batch, train_len + 1))
    sample = objective.make_batch(ids, 0, settings["seed"], n_vocabulary)
    given = [tensor.to(device) for tensor in sample.tensors]

    def step() -> None:
        with context:
            loss = total(*given, attend) / sample.n_targets
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device

    step()
    started, n_steps = time.perf_counter(), 0
    while time.perf_counter() - started < PILOT_SECONDS:
        step()
        n_steps += 1
    seconds = (time.perf_counter() - started) / n_steps
    return weight.training() * batch * train_len / seconds
