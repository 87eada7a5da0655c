"""Position schemes, one per file: citation, formula, class."""

from lexp.position.alibi import ALiBi
from lexp.position.base import Pair, Position
from lexp.position.learned import Learned
from lexp.position.nope import NoPE
from lexp.position.rope import RoPE
from lexp.position.sinusoidal import Sinusoidal
from lexp.position.xpos import XPos

__all__ = ["ALiBi", "Learned", "NoPE", "Pair", "Position", "RoPE", "Sinusoidal", "XPos"]
