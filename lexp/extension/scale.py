"""Extensions that sharpen attention at longer lengths, or do without positions altogether."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lexp.extension.base import Lengths, OfParts, OfSchemes
from lexp.pattern import Pattern
from lexp.position import FIRE, NoPE, Position, Sum
from lexp.position.compose import Wrapper
from lexp.system.errors import NotDefined


class Scaled(Wrapper):
    """A scheme whose scores are multiplied by a constant, or by max(1, log n / log train_len)."""

    def __init__(self, inner: Position, constant: float | None = None, train_len: int = 2):
        super().__init__(inner)
        self.constant, self.train_len = constant, train_len

    def scale(self, n_keys: Tensor) -> Tensor:
        """Return the constant, or the scale that follows from each query's number of keys."""
        if self.constant is not None:
            return torch.full_like(n_keys, self.constant)
        return (n_keys.log() / math.log(self.train_len)).clamp(min=1)


def refuse_unscalable(name: str, position: Position) -> None:
    """Raise NotDefined for schemes that replace softmax or scale scores already."""
    if position.has_attention_weights:
        raise NotDefined(f"{name} scales scores, {position.title} weighs its own way")
    if position.has_scale:
        raise NotDefined(f"{name} scales scores, {position.title} does so already")


@dataclass(frozen=True)
class LogNScale(OfSchemes):
    """Scores times max(1, log n / log L), n the keys a query sees (Su 2021; with ReRoPE 2023)."""

    name = "log_n"
    only_scales = True

    def change(self, position: Position, lengths: Lengths) -> Position:
        """Return the scheme with the scale."""
        refuse_unscalable(self.name, position)
        return Scaled(position, train_len=max(2, lengths.train_len))

    def refuse_unchanged(self, position: Position, pattern: Pattern, lengths: Lengths) -> None:
        """Raise NotDefined if no query ever sees more keys than in training."""
        n_tokens = max(lengths.longest, 2 * lengths.train_len)
        n_keys = int(pattern.n_keys(torch.arange(n_tokens)).max())
        if n_keys <= lengths.train_len:
            raise NotDefined(
                f"log_n scales scores of more than the {lengths.train_len} trained keys, "
                f"{position.title} sees {n_keys} under {pattern.label}"
            )


@dataclass(frozen=True)
class UniformScale(OfSchemes):
    """All scores times one constant (Wang et al. 2024, arXiv 2404.12224, section 3).

    scale: 1 + 0.3973 log(length / train_len) unless given, the paper's fit for NoPE.
    """

    scale: float | None = None

    name = "uniform_scale"
    only_scales = True
    follows_length = True

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be null or a number above 0, got {self.scale}")

    def change(self, position: Position, lengths: Lengths) -> Position:
        """Return the scheme with the scale."""
        refuse_unscalable(self.name, position)
        fitted = 1 + 0.3973 * math.log(max(1.0, lengths.length / lengths.train_len))
        return Scaled(position, constant=self.scale or fitted)


@dataclass(frozen=True)
class DroPE(OfSchemes):
    """Rotary positions dropped after training (Gelberg et al. 2025, arXiv 2512.12167).

    Scores are multiplied by 1 + c log(length / train_len). The paper recalibrates the model first,
    at its trained length (docs/extending.md): `lexp train model=nope init_from=RUN`, with QK-norm
    where the learning rate is 1e-3 or more. Evaluated without that, this shows what the
    recalibration is for. c: 0.412 trained from scratch (as there), 0.103 for SmolLM.
    """

    c: float = 0.412

    name = "drope"
    follows_length = True

    def __post_init__(self) -> None:
        if not 0 <= self.c < math.inf:
            raise ValueError(f"c must be a number from 0, got {self.c}")

    def change(self, position: Position, lengths: Lengths) -> Position:
        """Return the parts that are not rotary, with the scale."""
        parts = position.parts
        left = [part for part in parts if not any(part.frequencies)]
        if position.transforms_qk:
            raise NotDefined(
                f"drope drops positions, {position.title} is more than those without them"
            )
        if position.has_attention_weights:
            raise NotDefined(f"drope scales scores, {position.title} weighs its own way")
        if len(left) == len(parts) and not isinstance(position, NoPE):
            raise NotDefined(f"drope drops rotary positions, {position.title} has none")
        scale = 1 + self.c * math.log(max(1.0, lengths.length / lengths.train_len))
        rest = Sum(left) if len(left) > 1 else (left or [NoPE()])[0]
        return Scaled(rest, constant=scale)


@dataclass(frozen=True)
class LocalIndex(OfParts):
    """FIRE with the local index in place of the global one: the earlier keys in sight.

    The same under full attention; under blockwise attention the index then stays in trained range.
    """

    name = "local_index"

    def change_part(self, position: Position, lengths: Lengths) -> Position:
        """Return a copy of FIRE with its index read locally."""
        if not isinstance(position, FIRE):
            raise NotDefined(f"local_index is FIRE's, {position.title} reads no index")
        if position.index == "local":
            raise NotDefined(f"local_index makes the index local, {position.title} has it so")
        local = copy.copy(position)
        local.index = "local"
        return local

    def refuse_unchanged(self, position: Position, pattern: Pattern, lengths: Lengths) -> None:
        """Raise NotDefined if a query sees every earlier key: its indices are those in sight."""
        if pattern.sees_all and any(isinstance(part, FIRE) for part in position.parts):
            raise NotDefined(
                f"local_index is the index itself under {pattern.label}: use a pattern that hides "
                "early keys, such as blockwise"
            )
