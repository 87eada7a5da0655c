"""What a position scheme is to the classes of transformers: a rotation, a table, ALiBi, or none."""

from dataclasses import dataclass
from inspect import isfunction

import torch
from torch import Tensor

from lexp.position import ALiBi, Position
from lexp.position.alibi import alibi_slopes

# Methods of a scheme that change no numbers of a causal model by themselves. Every other one does:
# a hook that is new is one that no class of transformers has.
NO_HOOKS = {
    "move_into_bounds", "overrides", "rotary_factors_ahead", "sink_logits", "with_parts",
}  # fmt: skip
HOOKS = {name for name, member in vars(Position).items() if isfunction(member)}
HOOKS -= NO_HOOKS | {name for name in HOOKS if name.startswith("_")}
# Positions at which a rotation is compared with exp(i theta n).
TRIED = (0.0, 1.0, 2.0, 3.0, 777.0)


@dataclass(frozen=True)
class Rotation:
    """Rotary positions. theta: radians per token of each channel pair; 0 for pairs left alone.

    temperature: what all channels of queries and of keys are multiplied by.
    """

    theta: tuple[float, ...]
    temperature: float = 1.0

    @property
    def rotating(self) -> list[int]:
        """Return the pairs that rotate."""
        return [c for c, theta in enumerate(self.theta) if theta]

    @property
    def frequencies(self) -> list[float]:
        """Return theta of the pairs that rotate."""
        return [self.theta[c] for c in self.rotating]


def hooks_of(scheme: Position) -> set[str]:
    """Return the hooks at which a scheme does something."""
    return {hook for hook in HOOKS if scheme.overrides(hook)}


def rotation_of(scheme: Position, head_dim: int) -> Rotation | None:
    """Return a scheme that rotates channel pairs, and does nothing else; None for another.

    No positions are a rotation by nothing.
    """
    hooks = hooks_of(scheme)
    if not hooks:
        return Rotation((0.0,) * (head_dim // 2))
    if hooks != {"rotary_factors"} or scheme.by_length:
        return None
    at = torch.tensor(TRIED, dtype=torch.float64)
    factors = scheme.rotary_factors(at, at, len(at))
    assert factors is not None, "it overrides the hook"
    q, k = factors
    if q.shape != (len(at), head_dim // 2) or not torch.equal(q, k) or q.requires_grad:
        return None
    temperature, theta = float(q[0, 0].real), (q[1] / q[0]).angle()
    pure = temperature * torch.exp(1j * at[:, None] * theta)
    if temperature <= 0 or not torch.allclose(pure, q, rtol=0, atol=1e-9 * temperature):
        return None
    # The angle of a pair that is left alone is exactly 0.
    return Rotation(tuple(theta.tolist()), temperature)


@dataclass(frozen=True)
class PositionTable:
    """Absolute positions: token embeddings times `scale`, plus a row for each position.

    rows: [n, d_model].
    """

    scale: float
    rows: Tensor


def table_of(scheme: Position, n: int, d_model: int) -> PositionTable | None:
    """Return a scheme that adds a row for each of n positions and does nothing else, or None."""
    if hooks_of(scheme) != {"embed"} or scheme.reads_tokens:
        return None
    at, tokens = torch.arange(n), torch.zeros(1, n, dtype=torch.long)
    with torch.no_grad():
        zeros, ones = torch.zeros(1, n, d_model), torch.ones(1, n, d_model)
        rows = scheme.embed(zeros, at, tokens)[0]
        scale = float(
            scheme.embed(torch.ones(1, 1, 1), at[:1], tokens[:, :1])[0, 0, 0] - rows[0, 0]
        )
        if not torch.allclose(scheme.embed(ones, at, tokens)[0], scale + rows, atol=1e-5):
            return None
    return PositionTable(scale, rows)


def is_mpt_alibi(scheme: Position) -> bool:
    """Return whether a scheme is ALiBi with the slopes of MPT, those of its authors' code."""
    if type(scheme) is not ALiBi:
        return False
    return scheme.slopes.tolist() == torch.tensor(alibi_slopes(len(scheme.slopes))).tolist()
