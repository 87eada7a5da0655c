"""A classifier of hidden states: two layers with ReLU, trained by Adam, the same from each seed.

States are standardised channel by channel first, with mean and spread of those it is trained on:
an affine map, which its first layer could undo, so it can say no more and no less for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Logits that exist at once: what keeps memory bounded where classes are many.
MAX_LOGITS = 1 << 22


@dataclass(frozen=True)
class Training:
    """Settings of a classifier's training.

    hidden: width between its layers. batch: states a step. lr: the highest, after a linear warm-up
    over a twentieth of the steps; it then falls linearly to 0.
    """

    hidden: int
    steps: int
    batch: int
    lr: float
    seed: int

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0 on."""
        warmup = max(1, self.steps // 20)
        return self.lr * min((step + 1) / warmup, (self.steps - step) / self.steps)


@dataclass(frozen=True)
class LinearProbe:
    """Weights of both layers, and the mean and spread that standardise states; all float32."""

    mean: Tensor
    spread: Tensor
    weights: tuple[Tensor, Tensor, Tensor, Tensor]

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits [N, classes] of states [N, d_model]."""
        first, first_bias, second, second_bias = self.weights
        normed = (states - self.mean) / self.spread
        return functional.relu(normed @ first + first_bias) @ second + second_bias

    def probabilities(self, states: Tensor) -> Iterator[Tensor]:
        """Return the probabilities [n, classes] of states [N, d_model], some rows at a time."""
        rows = max(1, MAX_LOGITS // self.weights[3].shape[0])
        with torch.no_grad():
            for part in states.split(rows):
                yield self.logits(part).softmax(-1)


def train_classifier(
    states: Tensor, classes: Tensor, n_classes: int, training: Training
) -> LinearProbe:
    """Train by cross-entropy on states float32 [N, d_model] of classes int64 [N].

    Each pass over the states is in another order; batches are of at most `training.batch` states,
    and of fewer where MAX_LOGITS says so.
    """
    generator = torch.Generator().manual_seed(training.seed)
    # A channel that never changes is 0 after the mean is gone, whatever it is divided by.
    spread = states.std(0, correction=0)
    probe = LinearProbe(
        states.mean(0),
        torch.where(spread > 0, spread, 1.0),
        fresh(states.shape[1], training.hidden, n_classes, generator, states.device),
    )
    optimizer = torch.optim.Adam(probe.weights)
    batch = max(1, min(training.batch, MAX_LOGITS // n_classes, len(states)))
    order = torch.empty(0, dtype=torch.int64)
    with torch.enable_grad():
        for step in range(training.steps):
            if len(order) < batch:
                order = torch.randperm(len(states), generator=generator)
            chosen, order = order[:batch].to(states.device), order[batch:]
            loss = functional.cross_entropy(probe.logits(states[chosen]), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = training.rate(step)
            optimizer.step()
    return LinearProbe(probe.mean, probe.spread, tuple(w.detach() for w in probe.weights))  # type: ignore[arg-type]


def fresh(
    d_model: int, hidden: int, n_classes: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return normal weights that preserve the scale of activations; biases are 0."""
    first = torch.randn(d_model, hidden, generator=generator) * (2 / d_model) ** 0.5
    second = torch.randn(hidden, n_classes, generator=generator) * hidden**-0.5
    weights = first, torch.zeros(hidden), second, torch.zeros(n_classes)
    w1, b1, w2, b2 = (tensor.to(device).requires_grad_() for tensor in weights)
    return w1, b1, w2, b2
