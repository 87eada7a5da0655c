"""Position schemes, one per file: citation, formula, class."""

from lexp.position.alibi import ALiBi
from lexp.position.base import Pair, Position
from lexp.position.cable import CABLE
from lexp.position.compose import Sum, Wrapper
from lexp.position.cope import CoPE
from lexp.position.dape import DAPE
from lexp.position.fire import FIRE
from lexp.position.fope import FoPE
from lexp.position.fox import FoX
from lexp.position.hope import HoPE
from lexp.position.kerple import KerpleLog, KerplePower
from lexp.position.learned import Learned
from lexp.position.nope import NoPE
from lexp.position.normalisation import SigmoidWeights, SoftmaxOne, Softpick
from lexp.position.p_rope import PRoPE
from lexp.position.path import PaTH
from lexp.position.pope import PoPE
from lexp.position.random_positions import RandomFloats, RandomPositions
from lexp.position.rope import RoPE
from lexp.position.sandwich import Sandwich
from lexp.position.scaled import LogN, LogTemperature, SSMax
from lexp.position.selective_rope import SelectiveRoPE
from lexp.position.shape import SHAPE
from lexp.position.sink_logits import SinkLogits
from lexp.position.sinusoidal import Sinusoidal
from lexp.position.stick_breaking import StickBreaking
from lexp.position.swat import SWAT
from lexp.position.t5 import T5
from lexp.position.tisa import TISA
from lexp.position.token_positions import TokenPositions
from lexp.position.transformer_xl import TransformerXL
from lexp.position.wall import Wall
from lexp.position.xpos import XPos, XPosDecay

__all__ = [
    "CABLE", "DAPE", "FIRE", "SHAPE", "SWAT", "T5", "TISA", "ALiBi", "CoPE", "FoPE", "FoX",
    "HoPE", "KerpleLog", "KerplePower", "Learned", "LogN", "LogTemperature", "NoPE", "PRoPE",
    "PaTH", "Pair", "PoPE", "Position", "RandomFloats", "RandomPositions", "RoPE", "SSMax",
    "Sandwich", "SelectiveRoPE", "SigmoidWeights", "SinkLogits", "Sinusoidal", "SoftmaxOne",
    "Softpick", "StickBreaking", "Sum", "TokenPositions", "TransformerXL", "Wall", "Wrapper",
    "XPos", "XPosDecay",
]  # fmt: skip
