"""Extensions whose numbers are fitted to text: scales of attention scores, the model left as it is.

An extension of this kind gives the model at the start of the fit, and the steps of the fit. Who
runs the steps, on which tokens, and where the scales are kept, is said in lexp.evaluate.fit.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lexp.extension.base import Lengths, OfSchemes, Sample, with_schemes
from lexp.extension.scale import refuse_unscalable
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.position import Position
from lexp.position.compose import Wrapper
from lexp.system.text import label_of

# From the number of a batch to its mean loss in nats, under the present scales.
FitLoss = Callable[[int], Tensor]
# What a fit is after some steps: numbers from which it goes on, and how many steps are done.
FitState = tuple[np.ndarray, int]

EACH_LENGTH = "length"
SPLITS = ("train", "validation")
# Windows of a batch, and what else stands in the authors' code of HeadScale.
BATCH, WARMUP, BETAS, CLIP = 8, 0.1, (0.9, 0.95), 1.0
MOST_TRIED, MOST_RATE = 1000, 1000


class HeadScaled(Wrapper):
    """A scheme whose scores are multiplied by one number for each head.

    scales: of all layers [L, H, 1], a parameter that their schemes share; layer: whose it is.
    """

    def __init__(self, inner: Position, scales: nn.Parameter, layer: int):
        super().__init__(inner)
        self.scales, self.layer = scales, layer

    def scale(self, n_keys: Tensor) -> Tensor:
        """Return the layer's scales for each query, [H, T]."""
        return self.scales[self.layer].expand(-1, len(n_keys))


@dataclass(frozen=True)
class Fitted(OfSchemes):
    """Scores multiplied by numbers that are fitted to text at a length.

    fit_len: tokens of the windows that are fitted on; null for the longest length of the
    evaluation, "length" for each length's own, with a fit for each. text: the split that they are
    from, train or validation; never the test split.
    """

    fit_len: int | str | None = None
    text: str = "train"

    only_scales: ClassVar[bool] = True
    takes_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.fit_len, str) and self.fit_len != EACH_LENGTH:
            raise ValueError(f"fit_len must be null, length or a number, got {self.fit_len!r}")
        if isinstance(self.fit_len, int) and self.fit_len < 2:
            raise ValueError(f"fit_len must be at least 2, got {self.fit_len}")
        if self.text not in SPLITS:
            raise ValueError(
                f"text must be train or validation (what is scored is never fitted on), "
                f"got {self.text!r}"
            )

    @property
    def follows_length(self) -> bool:
        """Return whether each length has a fit of its own."""
        return self.fit_len == EACH_LENGTH

    @property
    def label(self) -> str:
        """Return the name with the values that the user gave, and what it is fitted on."""
        name = label_of(self.name, replace(self, fit_len=None, text=SPLITS[0]))
        if self.fit_len is None:
            return name
        at = "each length" if self.follows_length else self.fit_len
        return f"{name} (fitted at {at} on {self.text})"

    def filled(self, longest: int) -> "Fitted":
        """Return the extension with the length of its fit."""
        return replace(self, fit_len=longest) if self.fit_len is None else self

    def length_of_fit(self, lengths: Lengths) -> int:
        """Return the length of the windows that it is fitted on, in tokens."""
        if isinstance(self.fit_len, int):
            return self.fit_len
        return lengths.length if self.follows_length else lengths.longest

    @property
    def first_scale(self) -> float:
        """Return the scale of all heads at the start of the fit."""
        raise NotImplementedError

    @property
    def n_steps(self) -> int:
        """Return the number of steps of the fit."""
        raise NotImplementedError

    @property
    def windows_of_step(self) -> int:
        """Return how many windows a step reads."""
        raise NotImplementedError

    def n_numbers(self, scales: nn.Parameter) -> int:
        """Return how many numbers the state of a fit has."""
        raise NotImplementedError

    def fit(
        self, scales: nn.Parameter, loss: FitLoss, begun: FitState | None
    ) -> Iterator[FitState]:
        """Fit the scales in place, and yield the state after each step.

        begun: the state to go on from. The losses of the steps are the last n_steps numbers.
        """
        raise NotImplementedError

    def change(self, position: Position, lengths: Lengths) -> Position:
        """Return a new object for the scheme; NotDefined if its scores cannot be multiplied."""
        refuse_unscalable(self.name, position)
        return Wrapper(position)

    def extend(
        self, model: Transformer, pattern: Pattern, lengths: Lengths, sample: Sample
    ) -> Transformer:
        """Return the model at the start of the fit, a scheme for each layer that attends."""
        n_layers = model.dims.n_layers

        def in_layers(turns: list) -> list:
            return [turns[n % len(turns)] for n in range(n_layers)]

        given = in_layers(model.schemes)
        changed = self.extend_schemes(given, in_layers(model.attending), pattern, lengths)
        device = next(model.parameters()).device
        scales = nn.Parameter(
            torch.full((n_layers, model.dims.n_heads, 1), self.first_scale, device=device)
        )
        return with_schemes(model, [
            old if new is old else HeadScaled(old, scales, layer)
            for layer, (old, new) in enumerate(zip(given, changed, strict=True))
        ])  # fmt: skip


def scales_of(model: Transformer) -> nn.Parameter:
    """Return the scales of a model that a fitted extension has extended, [L, H, 1]."""
    return next(scheme.scales for scheme in model.schemes if isinstance(scheme, HeadScaled))


@dataclass(frozen=True)
class HeadScale(Fitted):
    """All scores of a head times one number, learned for each head of each layer at a length.

    HeadScale (Wang et al. 2024, arXiv 2404.12224, section 4): all else is frozen. Settings as in
    the authors' code: AdamW without weight decay, 200 steps of 8 windows, a warm-up over a tenth of
    them and a cosine to 0, gradients clipped at 1. start: of all scales. floor: the least scale,
    to which lower ones are raised after each step.
    """

    steps: int = 200
    lr: float = 0.1
    start: float = 1.6
    floor: float = 1.0

    name = "head_scale"
    takes_gradients = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not 0 < self.lr <= MOST_RATE or not 0 < self.start < math.inf:
            raise ValueError(
                f"steps must be at least 1, lr above 0 and at most {MOST_RATE}, start above 0, "
                f"got {self.steps}, {self.lr} and {self.start}"
            )
        if not 0 <= self.floor <= self.start:
            raise ValueError(f"floor must be from 0 to start={self.start}, got {self.floor}")

    @property
    def first_scale(self) -> float:
        """Return the scale of all heads at the start of the fit."""
        return self.start

    @property
    def n_steps(self) -> int:
        """Return the number of steps of the optimiser."""
        return self.steps

    @property
    def windows_of_step(self) -> int:
        """Return the windows of a batch."""
        return BATCH

    def n_numbers(self, scales: nn.Parameter) -> int:
        """Return the scales, two moments of each, and a loss for each step."""
        return 3 * scales.numel() + self.steps

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        n_warmup = math.ceil(WARMUP * self.steps)
        if step < n_warmup:
            return self.lr * (step + 1) / n_warmup
        done = (step - n_warmup) / max(1, self.steps - n_warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))

    def fit(
        self, scales: nn.Parameter, loss: FitLoss, begun: FitState | None
    ) -> Iterator[FitState]:
        """Descend the loss of a batch in each step, and yield scales, moments and losses."""
        optimizer = AdamW([scales], betas=BETAS, weight_decay=0.0)
        losses: np.ndarray = np.zeros(self.steps, dtype=np.float32)
        first = 0
        if begun is not None:
            numbers, first = begun
            stored = torch.from_numpy(numbers[: -self.steps].copy()).to(scales.device)
            values, mean, square = stored.view(3, *scales.shape).unbind()
            losses = numbers[-self.steps :].copy()
            scales.data.copy_(values)
            moments = {"exp_avg": mean.clone(), "exp_avg_sq": square.clone()}
            optimizer.state[scales] = {"step": torch.tensor(float(first)), **moments}
        for step in range(first, self.steps):
            nats = loss(step)
            nats.backward()
            nn.utils.clip_grad_norm_([scales], CLIP)
            optimizer.param_groups[0]["lr"] = self.rate(step)
            optimizer.step()
            optimizer.zero_grad()
            scales.data.clamp_(min=self.floor)
            losses[step] = nats.detach().item()
            moments = optimizer.state[scales]
            now = torch.stack([scales.detach(), moments["exp_avg"], moments["exp_avg_sq"]])
            yield np.concatenate([now.float().flatten().cpu().numpy(), losses]), step + 1


@dataclass(frozen=True)
class FittedScale(Fitted):
    """All scores times one constant: of a grid, the one with the least loss at a length.

    UniformScale of Wang et al. 2024 (arXiv 2404.12224, section 3) with the constant searched for,
    as DroPE's temperature is (Gelberg et al. 2025, arXiv 2512.12167). least, most, by: the grid.
    n_texts: windows that each constant of the grid is tried on, the same for all.
    """

    least: float = 0.8
    most: float = 2.4
    by: float = 0.1
    n_texts: int = 32

    name = "fitted_scale"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.least < self.most < math.inf or not 0 < self.by < math.inf:
            raise ValueError(
                f"least must be above 0, most above least and by above 0, got {self.least}, "
                f"{self.most} and {self.by}"
            )
        if self.n_texts < 1 or self.n_steps > MOST_TRIED:
            raise ValueError(
                f"n_texts must be at least 1, and least, most and by give at most {MOST_TRIED} "
                f"constants, got {self.n_texts} and {self.n_steps}"
            )

    @property
    def grid(self) -> list[float]:
        """Return the constants that are tried, ascending."""
        return [round(self.least + n * self.by, 6) for n in range(self.n_steps)]

    @property
    def first_scale(self) -> float:
        """Return the constant that is tried first."""
        return self.least

    @property
    def n_steps(self) -> int:
        """Return how many constants are tried."""
        return 1 + int((self.most - self.least) / self.by + 1e-6)

    @property
    def windows_of_step(self) -> int:
        """Return the windows that a constant is tried on, whole batches."""
        return math.ceil(self.n_texts / BATCH) * BATCH

    def n_numbers(self, scales: nn.Parameter) -> int:
        """Return a loss for each constant."""
        return self.n_steps

    def fit(
        self, scales: nn.Parameter, loss: FitLoss, begun: FitState | None
    ) -> Iterator[FitState]:
        """Try a constant in each step, and yield the losses; at the end, take the best."""
        losses, first = begun or (np.zeros(self.n_steps, dtype=np.float32), 0)
        losses = losses.copy()
        n_batches = self.windows_of_step // BATCH
        for step in range(first, self.n_steps):
            scales.data.fill_(self.grid[step])
            with torch.no_grad():
                losses[step] = np.mean([loss(n).item() for n in range(n_batches)])
            yield losses.copy(), step + 1
        scales.data.fill_(self.grid[int(losses.argmin())])
