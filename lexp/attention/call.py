"""The interface of attention: one signature for every implementation.

Shapes: B batch, H heads, T sequence, D head_dim.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lexp.pattern import Pattern
from lexp.position import Position

# attend(q, k, v, position, x, sampled) -> output; AttentionFunction below says what they are.
Attend = Callable[[Tensor, Tensor, Tensor, Position, Tensor, Tensor | None], Tensor]
# From a pattern, a length, the schemes of a model's layers and a device.
MakeAttend = Callable[[Pattern, int, Sequence[Position], torch.device], Attend]


class AttentionInput(NamedTuple):
    """The arguments of one call of attention, by one layer.

    q [B, H, T, D]; k, v: the same, or of fewer heads, which queries share (lexp.attention.heads);
    position: the layer's scheme; x [B, T, d_model]: the layer's input; sampled [T]: positions of
    the tokens where they are not 0 .. T-1, else None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    position: Position
    x: Tensor
    sampled: Tensor | None = None


class AttentionFunction:
    """Attention prepared for one pattern, length and device; make it once, call it in every layer.

    Subclasses implement `attend`.
    """

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        position: Position,
        x: Tensor,
        sampled: Tensor | None = None,
    ) -> Tensor:
        """Return the output [B, H, T, D]; the arguments are the fields of AttentionInput."""
        return self.attend(AttentionInput(q, k, v, position, x, sampled))

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        raise NotImplementedError
