"""The plan of a command for every run, made once from its settings and handed down.

A plan is built where a command checks its settings, is read by everything below, and is sent as it
is to the processes that score runs.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from lexp.attention import MakeAttend
from lexp.commands.run_parts import choose_backend, make_corpus, make_task
from lexp.config.settings import EvalConfig, MethodsConfig, build_all
from lexp.data.tasks.dataset import TaskDataset
from lexp.evaluate import Method
from lexp.extension import Extension
from lexp.pattern import Pattern
from lexp.scoring.protocol import Protocol, Segments
from lexp.system import runtime


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A plan for finished runs: their text, methods, protocols and lengths, and the backend.

    lengths: ascending. protocols: with their sizes filled in. checkpoints: last, all, or steps.
    max_tokens: scored by each result, about; None: all. examples: problems of each length, of a
    task. grid: each pair of these is asked too, where problems have two operands. kernel: see
    lexp.attention.
    """

    config: MethodsConfig
    lengths: tuple[int, ...]
    methods: tuple[Method, ...]
    protocols: tuple[Protocol, ...]
    checkpoints: str | tuple[int, ...] = "last"
    max_tokens: int | None = None
    examples: int = 512
    grid: tuple[int, ...] = ()
    kernel: str = "tiles"

    def problem_lengths(self, dataset: TaskDataset) -> tuple[int, ...]:
        """Return the lengths that were given, or the usual ones of this task."""
        return dataset.usual_lengths() if self.config.chooses_lengths else self.lengths

    @cached_property
    def device(self) -> torch.device:
        """Return the device that computes; ConfigError if this machine has no such device."""
        return runtime.choose_device(self.config.device)

    @cached_property
    def precision(self) -> str:
        """Return the precision of matrix products: float32 or bfloat16."""
        return runtime.choose_precision(self.config.precision, self.device)

    @cached_property
    def make_attend(self) -> MakeAttend:
        """Return the backend of attention; ConfigError if the device cannot."""
        return choose_backend(self.kernel, self.device)


@dataclass(frozen=True, kw_only=True)
class EvalPlan(RunPlan):
    """A plan of `lexp eval`."""

    config: EvalConfig


def plan_evaluation(config: EvalConfig) -> EvalPlan:
    """Return the plan of an evaluation; ConfigError names a part that is not allowed."""
    check_dataset(config)
    protocols = build_all(
        config.protocol, Protocol, "protocol", lambda p: p.fit(config.lengths).label(config.lengths)
    )
    return EvalPlan(
        config=config,
        lengths=tuple(sorted(config.lengths)),
        methods=make_methods(config),
        protocols=tuple(protocol.fit(config.lengths) for protocol in protocols),
        checkpoints=config.checkpoints,
        max_tokens=None if config.max_tokens is None else int(config.max_tokens),
        examples=config.examples,
        grid=tuple(sorted(config.grid)),
        kernel=config.kernel,
    )


def make_methods(config: MethodsConfig) -> tuple[Method, ...]:
    """Return every pattern with every extension."""
    longest = max(config.lengths)
    patterns = build_all(config.attention, Pattern, "attention", lambda p: p.label)
    extensions = build_all(config.extension, Extension, "extension", lambda e: e.label)
    return tuple(Method(p, e.filled(longest), longest) for p in patterns for e in extensions)


def whole_windows(config: MethodsConfig) -> tuple[Protocol, ...]:
    """Return the protocol that finds the documents which are long enough for every length."""
    return (Segments().fit(config.lengths),)


def check_dataset(config: MethodsConfig) -> None:
    """Raise ConfigError if the texts of the command's own are not allowed."""
    if config.dataset is not None and not make_task(config.dataset):
        make_corpus(config.dataset)
