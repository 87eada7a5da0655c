"""The cost of a fit that an evaluation needs first, for `lexp eval plan=true`."""

import time
from dataclasses import dataclass, replace

import torch

from lexp.evaluate import Fit, Method, ModelUnderTest, frozen, make_fit, make_loss, steps_left
from lexp.extension import Fitted, scales_of
from lexp.extension.fitted import BATCH
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.scoring.memory import needed_bytes
from lexp.training.recompute import kept_bytes

# A pilot reads windows of so many tokens, and of a quarter, and what it finds is scaled.
PILOT_WINDOW = 1024

# What grows with a window of n tokens, as a n + b n^2.
Growth = tuple[float, float]


@dataclass(frozen=True)
class WindowCost:
    """The cost of one window in a step of a fit. kept: bytes held for the backward pass."""

    seconds: Growth
    kept: Growth


@dataclass(frozen=True)
class PlannedFit:
    """A fit that results need, the model at its start, and how many of its steps are left."""

    fit: Fit
    model: Transformer
    n_steps: int

    @property
    def pattern(self) -> Pattern:
        """Return the pattern of the steps, with its sizes."""
        return self.fit.tested.fit(self.fit.method.pattern, self.fit.length)

    @property
    def n_windows(self) -> int:
        """Return how many windows the steps read."""
        return self.n_steps * self.fit.extension.windows_of_step

    @property
    def n_tokens(self) -> int:
        """Return how many tokens the steps read."""
        return self.n_windows * self.fit.length

    def seconds(self, window: WindowCost) -> float:
        """Return the time of the steps."""
        return self.n_windows * grown(window.seconds, self.fit.length)

    def n_bytes(self, window: WindowCost) -> int:
        """Return about how many bytes a step takes, the weights included."""
        tested, length = self.fit.tested, self.fit.length
        item = 2 if tested.run.precision == "bfloat16" else 4
        forward = needed_bytes(self.model, self.pattern, BATCH * length, length, item)
        return forward + int(BATCH * grown(window.kept, length))


def find_fit(
    tested: ModelUnderTest, method: Method, length: int, model: Transformer
) -> PlannedFit | None:
    """Return the fit that a method needs at a length; None if it needs none.

    model: as the extension has it at the start of the fit. NotDefined if no fit is possible.
    """
    if not isinstance(method.extension, Fitted):
        return None
    fit = make_fit(tested, method, length)
    return PlannedFit(fit, model, steps_left(fit, model))


def measure_window(planned: PlannedFit) -> WindowCost:
    """Measure the cost of a window of two sizes, by a pass over one of each."""
    large = min(planned.fit.length, PILOT_WINDOW)
    small = max(1, large // 4)
    (s0, k0), (s1, k1) = (_measure(planned, size) for size in (small, large))
    if planned.pattern.is_bounded:
        return WindowCost((max(s0, s1), 0.0), (max(k0, k1), 0.0))
    return WindowCost(by_size(small, s0, large, s1), by_size(small, k0, large, k1))


def _measure(planned: PlannedFit, size: int) -> tuple[float, float]:
    """Return seconds and kept bytes, each per token, of a window of a size."""
    model, scales = planned.model, scales_of(planned.model)
    loss = make_loss(replace(planned.fit, length=size), model, n_rows=1)
    is_backward = planned.fit.extension.takes_gradients
    with frozen(model, scales), torch.set_grad_enabled(is_backward):
        # The first pass is slower: tables are made once.
        kept = kept_bytes(model, lambda n_rows: loss(0), 1)
        started = time.perf_counter()
        nats = loss(0)
        if is_backward:
            nats.backward()
        nats.item()  # waits for the device
        seconds = time.perf_counter() - started
    scales.grad = None
    return seconds / size, kept / size


def by_size(small: int, of_small: float, large: int, of_large: float) -> Growth:
    """Return a and b of a + b n, what a token costs in a window of n, from two sizes."""
    quadratic = max(0.0, (of_large - of_small) / (large - small))
    return max(0.0, of_small - quadratic * small), quadratic


def grown(growth: Growth, n: int) -> float:
    """Return what a window of n tokens costs."""
    linear, quadratic = growth
    return linear * n + quadratic * n**2
