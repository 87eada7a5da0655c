"""Fine-tuning: some epochs over labelled texts, and how good the answers are after each.

Everything follows from the seed: the head, the order of texts, nothing else is random.
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
from lexp.training.optim import OptimSettings, learning_rate, make_optimizer


class Task(NamedTuple):
    """Token ids of texts and their labels [n], to train on and to be judged by.

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
    """How long and in which portions (of texts)."""

    n_epochs: int
    batch_size: int
    seed: int
    optim: OptimSettings


def finetune(
    model: Classifier,
    pattern: Pattern,
    task: Task,
    settings: FinetuneSettings,
    autocast: AbstractContextManager,
    told: Callable[[int, dict[str, float]], None] = lambda epoch, measures: None,
) -> list[dict[str, float]]:
    """Train; after each epoch its mean loss and the measures of the held-out texts.

    told: of each epoch as it ends. Diverged if a loss is not finite.
    """
    optimizer = make_optimizer(model, settings.optim)
    n_batches = math.ceil(len(task.train) / settings.batch_size)
    n_steps, step, history = settings.n_epochs * n_batches, 0, []
    for epoch in range(settings.n_epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(task.train))
        total = 0.0
        model.train()
        for some in np.array_split(order, n_batches):
            logits = _answers(model, pattern, [task.train[n] for n in some], autocast)
            loss = loss_of(logits, task.train_labels[some])
            if not math.isfinite(loss.item()):
                raise Diverged(f"loss {loss.item()} at step {step + 1} of {n_steps}")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(
                model.parameters(), settings.optim.clip or math.inf
            )  # 0: no clipping
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, n_steps, settings.optim)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(some)
            step += 1
        found = {
            "loss": total / len(task.train),
            **judged(model, pattern, task, settings, autocast),
        }
        history.append(found)
        told(epoch + 1, found)
    return history


def loss_of(logits: Tensor, labels: np.ndarray) -> Tensor:
    """Mean cross-entropy of classes, or squared error of numbers; logits [n, classes]."""
    target = torch.from_numpy(labels).to(logits.device)
    if logits.shape[1] == 1:
        return F.mse_loss(logits[:, 0], target.float())
    return F.cross_entropy(logits, target.long())


def judged(
    model: Classifier,
    pattern: Pattern,
    task: Task,
    settings: FinetuneSettings,
    autocast: AbstractContextManager,
) -> dict[str, float]:
    """The measures of the held-out texts, texts of like length together."""
    model.eval()
    order = sorted(range(len(task.held_out)), key=lambda n: len(task.held_out[n]))
    answers = np.zeros(len(order))
    with torch.inference_mode():
        for begin in range(0, len(order), settings.batch_size):
            some = order[begin : begin + settings.batch_size]
            logits = _answers(model, pattern, [task.held_out[n] for n in some], autocast)
            own = logits[:, 0] if task.n_classes == 1 else logits.argmax(-1)
            answers[some] = own.cpu().numpy()
    return {name: MEASURES[name](answers, task.held_out_labels) for name in task.measures}


def _answers(
    model: Classifier,
    pattern: Pattern,
    texts: Sequence[list[int]],
    autocast: AbstractContextManager,
) -> Tensor:
    """Logits [texts, classes]; shorter texts are padded, which nothing sees."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(text) for text in texts], device=device)
    longest = max(map(len, texts))
    padded = [[*text, *[0] * (longest - len(text))] for text in texts]
    attend: Attend = make_attend(pattern, longest, model.trunk.schemes, device, lengths)
    with autocast:
        return model(torch.tensor(padded, device=device), lengths, attend)
