"""The base class of mixers. A layer has one, before its feed-forward part."""

from typing import ClassVar

from torch import Tensor, nn

from lexp.attention import Attend
from lexp.position import Position


class Mixer(nn.Module):
    """A map of a layer's normed input [B, T, d_model] to what is added to the residual stream.

    The last projection of a subclass is called `out`: the trunk initialises it smaller, as all that
    writes to the residual stream.
    """

    # The name under which a layer holds it: the first part of its parameters' names.
    name: ClassVar[str] = "recurrence"
    # Whether it computes attention, and so has a position scheme and an attention pattern.
    attends: ClassVar[bool] = False

    def initialise(self) -> None:
        """Set the parameters that the trunk's normal(0, 0.02) does not suit; called after it."""

    def forward(
        self, x: Tensor, position: Position, attend: Attend, sampled: Tensor | None
    ) -> Tensor:
        """Map x [B, T, d_model] to the same shape. A mixer that does not attend reads x alone."""
        raise NotImplementedError
