"""Mixers: the part of a layer in which tokens see each other. Attention is one of them."""

from lexp.model.mixer.attention import Attention
from lexp.model.mixer.base import Mixer

__all__ = ["Attention", "Mixer"]
