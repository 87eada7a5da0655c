"""Extensions: trained models changed for longer texts, at inference or for training on."""

from lexp.extension.base import ByFactor, Extension, Lengths, Sample, method_label, with_schemes
from lexp.extension.fitted import Fitted, FittedScale, HeadScale, scales_of
from lexp.extension.frequencies import (
    NTK,
    DynamicNTK,
    LongRoPE,
    NTKByParts,
    Resonance,
    ResonanceYaRN,
    YaRN,
)
from lexp.extension.interpolation import PI
from lexp.extension.scale import DroPE, LocalIndex, LogNScale, UniformScale
from lexp.extension.vectors import VectorReplacement

__all__ = [
    "NTK", "PI", "ByFactor", "DroPE", "DynamicNTK", "Extension", "Fitted", "FittedScale",
    "HeadScale", "Lengths", "LocalIndex", "LogNScale", "LongRoPE", "NTKByParts", "Resonance",
    "ResonanceYaRN", "Sample", "UniformScale", "VectorReplacement", "YaRN", "method_label",
    "scales_of", "with_schemes",
]  # fmt: skip
