"""Rotary frequencies that a config.json scales, for models that are trained on with them.

theta_c = base^(-2c/d), c = 0 .. d/2-1, are changed by a factor s as rope_type says:

linear   theta_c / s (position interpolation, Chen et al. 2023, arXiv 2306.15595)
llama3   with t_c = L theta_c / (2 pi), the turns of a pair in the original context of L tokens:
         theta_c / s below low_freq_factor, theta_c above high_freq_factor, and in between
         theta_c (u + (1 - u) / s), u = (t_c - low) / (high - low)   (Llama 3.1)
yarn     theta_c (u + (1 - u) / s), u falling from 1 to 0 between the channels that have beta_fast
         and beta_slow turns, rounded outwards; queries and keys times attention_factor, or
         0.1 log s + 1 (Peng et al. 2023, arXiv 2309.00071)
longrope theta_c / short_factor_c in texts of up to L tokens, theta_c / long_factor_c in longer
         ones; queries and keys times attention_factor, or sqrt(1 + log s / log L) (Ding et al.
         2024, arXiv 2402.13753)
"""

import math
from typing import Any

from torch import Tensor, arange, tensor

from lexp.hf.rotary import PartialRoPE, TwoRangeRoPE
from lexp.position.rope import rotary_frequencies

ORIGINAL = "original_max_position_embeddings"


class ScaledRoPE(PartialRoPE):
    """RoPE at scaled frequencies.

    scaling: rope_type, and under their names in a config.json the numbers that it needs.
    """

    def __init__(self, head_dim: int, base: float, scaling: dict[str, Any]):
        theta, temperature = rotary_frequencies(head_dim, base), 1.0
        kind = scaling["rope_type"]
        if kind == "linear":
            scaled = theta / scaling["factor"]
        elif kind == "llama3":
            scaled = _llama3(theta, scaling)
        elif kind == "yarn":
            scaled, temperature = _yarn(theta, base, scaling), _temperature(scaling)
        else:
            raise ValueError(f"scaling.rope_type={kind} (linear, llama3 or yarn)")
        super().__init__(head_dim, scaled.tolist(), temperature)


class TwoScaledRoPE(TwoRangeRoPE):
    """RoPE at scaled frequencies of rope_type longrope: one set up to a length, one beyond.

    scaling: as for ScaledRoPE. ValueError unless each set has a factor for each channel pair.
    """

    def __init__(self, head_dim: int, base: float, scaling: dict[str, Any]):
        theta, original = rotary_frequencies(head_dim, base), scaling[ORIGINAL]
        for key in ("short_factor", "long_factor"):
            if len(scaling[key]) != len(theta):
                raise ValueError(f"{key} has {len(scaling[key])} numbers for {len(theta)} pairs")
        short, long = (
            (theta / tensor(scaling[key], dtype=theta.dtype)).tolist()
            for key in ("short_factor", "long_factor")
        )
        factor, temperature = scaling["factor"], scaling.get("attention_factor")
        if temperature is None:
            stretch = math.log(factor) / math.log(original) if factor > 1 else 0.0
            temperature = math.sqrt(1 + stretch)
        super().__init__(head_dim, short, long, original, temperature)
        self.by_length = short != long


def _mixed(theta: Tensor, kept: Tensor, factor: float) -> Tensor:
    """Return frequencies of which a share from 0 to 1 is kept and the rest divided by a factor."""
    kept = kept.clamp(0, 1)
    return theta * (kept + (1 - kept) / factor)


def _llama3(theta: Tensor, scaling: dict[str, Any]) -> Tensor:
    turns = scaling[ORIGINAL] * theta / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    return _mixed(theta, (turns - low) / (high - low), scaling["factor"])


def _yarn(theta: Tensor, base: float, scaling: dict[str, Any]) -> Tensor:
    n = len(theta)
    if base <= 1:
        raise ValueError(f"base={base} (above 1)")

    def channel(turns: float) -> float:
        """Return the channel pair that has so many turns in the original context."""
        most = scaling[ORIGINAL] / (2 * math.pi)
        return n * math.log(most / turns) / math.log(base)

    first = max(math.floor(channel(scaling.get("beta_fast", 32))), 0)
    last = min(math.ceil(channel(scaling.get("beta_slow", 1))), 2 * n - 1)
    width = last - first or 0.001  # all at once, where both are one channel
    return _mixed(theta, 1 - (arange(n) - first) / width, scaling["factor"])


def _temperature(scaling: dict[str, Any]) -> float:
    factor = scaling["factor"]
    return scaling.get("attention_factor", 0.1 * math.log(factor) + 1 if factor > 1 else 1.0)
