"""Attention is one function of a pattern and a position scheme, made ready per length.

`Reference` is the specification, `Tiles` the fast path; both are called
`attend(q, k, v, position, x)` and give the same values.
"""

from collections.abc import Callable

from torch import Tensor

from lexp.attention.reference import Reference
from lexp.attention.tiles import Tiles
from lexp.position import Position

Attend = Callable[[Tensor, Tensor, Tensor, Position, Tensor], Tensor]

__all__ = ["Attend", "Reference", "Tiles"]
