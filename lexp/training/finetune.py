"""Fine-tuning: epochs over labelled texts, and measures of held-out texts after each.

The seed determines the head and the order of texts; nothing else is random.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lexp.attention import Attend, make_attend
from lexp.model.classifier import Classifier
from lexp.pattern import Pattern
from lexp.statistics.scores import MEASURES
from lexp.system.errors import Diverged
from lexp.training.optim import OptimSettings, make_optimizers, set_learning_rates


class LabelledSplits(NamedTuple):
    """Token ids of texts and their labels [n], for training and held out.

    n_classes: 1 for numbers. measures: names of lexp.statistics.scores.
    """

    train: list[list[int]]
    train_labels: np.ndarray
    held_out: list[list[int]]
    held_out_labels: np.ndarray
    n_classes: int
    measures: tuple[str, ...]


@dataclass(frozen=True)
class FinetuneSettings:
    """Length of fine-tuning. batch_size: texts per step."""

    n_epochs: int
    batch_size: int
    seed: int
    optim: OptimSettings


def finetune(
    model: Classifier,
    pattern: Pattern,
    task: LabelledSplits,
    settings: FinetuneSettings,
    autocast: AbstractContextManager,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, measures: None,
) -> list[dict[str, float]]:
    """Train; return each epoch's mean loss and the measures of the held-out texts after it.

    on_epoch: called at the end of each epoch, with its number from 1. Diverged if a loss is not
    finite.
    """
    optimizers = make_optimizers(model, settings.optim)
    n_batches = math.ceil(len(task.train) / settings.batch_size)
    n_steps, step, history = settings.n_epochs * n_batches, 0, []
    for epoch in range(settings.n_epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(task.train))
        total = 0.0
        model.train()
        for rows in np.array_split(order, n_batches):
            logits = _logits(model, pattern, [task.train[n] for n in rows], autocast)
            loss = loss_of(logits, task.train_labels[rows])
            if not math.isfinite(loss.item()):
                raise Diverged(f"loss {loss.item()} at step {step + 1} of {n_steps}")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(
                model.parameters(), settings.optim.clip or math.inf
            )  # 0: no clipping
            set_learning_rates(optimizers, step, n_steps, settings.optim)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            total += loss.item() * len(rows)
            step += 1
        measures = {
            "loss": total / len(task.train),
            **evaluate(model, pattern, task, settings, autocast),
        }
        history.append(measures)
        on_epoch(epoch + 1, measures)
    return history


def loss_of(logits: Tensor, labels: np.ndarray) -> Tensor:
    """Return the mean cross-entropy of classes or squared error of numbers; logits [n, classes]."""
    target = torch.from_numpy(labels).to(logits.device)
    if logits.shape[1] == 1:
        return F.mse_loss(logits[:, 0], target.float())
    return F.cross_entropy(logits, target.long())


def evaluate(
    model: Classifier,
    pattern: Pattern,
    task: LabelledSplits,
    settings: FinetuneSettings,
    autocast: AbstractContextManager,
) -> dict[str, float]:
    """Return the measures of the held-out texts; batches hold texts of similar length."""
    model.eval()
    order = sorted(range(len(task.held_out)), key=lambda n: len(task.held_out[n]))
    answers = np.zeros(len(order))
    with torch.inference_mode():
        for begin in range(0, len(order), settings.batch_size):
            rows = order[begin : begin + settings.batch_size]
            logits = _logits(model, pattern, [task.held_out[n] for n in rows], autocast)
            predicted = logits[:, 0] if task.n_classes == 1 else logits.argmax(-1)
            answers[rows] = predicted.cpu().numpy()
    return {name: MEASURES[name](answers, task.held_out_labels) for name in task.measures}


def _logits(
    model: Classifier,
    pattern: Pattern,
    texts: Sequence[list[int]],
    autocast: AbstractContextManager,
) -> Tensor:
    """Return logits [texts, classes]; shorter texts are padded, and padding is masked out."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(text) for text in texts], device=device)
    longest = max(map(len, texts))
    padded = [[*text, *[0] * (longest - len(text))] for text in texts]
    attend: Attend = make_attend(pattern, longest, model.trunk.schemes, device, lengths)
    with autocast:
        return model(torch.tensor(padded, device=device), lengths, attend)
