"""Mixers: the part of a layer in which tokens see each other. Attention is one of them."""

from lexp.model.mixer.attention import Attention
from lexp.model.mixer.base import Mixer
from lexp.model.mixer.gated_delta_net import GatedDeltaNet
from lexp.model.mixer.gla import GLA
from lexp.model.mixer.kda import KDA
from lexp.model.mixer.mamba2 import Mamba2
from lexp.model.mixer.recurrent import START, Recurrent, State
from lexp.model.mixer.retnet import RetNet

__all__ = [
    "GLA", "KDA", "START", "Attention", "GatedDeltaNet", "Mamba2", "Mixer", "Recurrent", "RetNet",
    "State",
]  # fmt: skip
