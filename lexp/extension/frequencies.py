"""Extensions of rotary schemes that change their rotations: other frequencies, same formula.

s is the factor by which texts are longer, L the trained length, theta_c the frequency of channel
pair c of n, c = 0 .. n-1, from the fastest to the slowest.
"""

import copy
import math
from dataclasses import dataclass

from torch import Tensor

from lexp.extension.base import ByFactor, Lengths, Modified, OfParts
from lexp.position import Position
from lexp.position.base import Factors
from lexp.system.errors import NotDefined


@dataclass(frozen=True)
class Frequencies(ByFactor):
    """An extension that multiplies each frequency."""

    def ratios(self, theta: list[float], lengths: Lengths) -> list[float]:
        """Return the multiplier of each frequency."""
        raise NotImplementedError

    def temperature(self, lengths: Lengths) -> float:
        """Return the multiplier of queries and of keys."""
        return 1.0

    def change_part(self, position: Position, lengths: Lengths) -> Position:
        """Return a copy with other frequencies, learned parameters shared."""
        theta = list(position.frequencies)
        if not any(theta):
            raise NotDefined(f"{self.name} changes rotary frequencies, {position.title} has none")
        far = max(lengths.longest, 2 * lengths.train_len)
        if self._keeps(theta, Lengths(lengths.train_len, far, far)):
            raise NotDefined(
                f"{self.name} leaves every frequency of {position.title} as it is, at "
                f"train_len={lengths.train_len} and factor={self.factor}"
            )
        slowed = copy.copy(position)
        ratios = self.ratios(theta, lengths)
        slowed.frequencies = [t * r for t, r in zip(theta, ratios, strict=True)]
        temperature = self.temperature(lengths)
        return slowed if temperature == 1 else Tempered(slowed, temperature)

    def _keeps(self, theta: list[float], lengths: Lengths) -> bool:
        """Return True if neither the frequencies that rotate nor the scores change."""
        ratios = self.ratios(theta, lengths)
        same = all(r == 1 for t, r in zip(theta, ratios, strict=True) if t)
        return same and self.temperature(lengths) == 1


class Tempered(Modified):
    """A rotary scheme whose queries and keys are multiplied by a constant."""

    def __init__(self, inner: Position, temperature: float):
        super().__init__(inner)
        self.temperature = temperature

    def rotary_factors(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        """Return the inner factors times the constant."""
        return self._tempered(self.inner.rotary_factors(q_pos, k_pos, seq_len))

    def rotary_factors_ahead(self, q_pos: Tensor, k_pos: Tensor, seq_len: int) -> Factors:
        """Return the inner factors for keys after the query, times the constant."""
        return self._tempered(self.inner.rotary_factors_ahead(q_pos, k_pos, seq_len))

    def _tempered(self, factors: Factors | None) -> Factors:
        assert factors is not None, "goes around rotary schemes only"
        return factors[0] * self.temperature, factors[1] * self.temperature


@dataclass(frozen=True)
class NTK(Frequencies):
    """NTK-aware scaling (bloc97 2023): base to base s^(d/(d-2)), so theta_c times s^(-c/(n-1)).

    The fastest pair stays as it is, the slowest (if it rotates at all) is interpolated by s.
    """

    name = "ntk"

    def ratios(self, theta: list[float], lengths: Lengths) -> list[float]:
        """Return s^(-c/(n-1))."""
        return ntk_ratios(len(theta), self.factor_for(lengths))


@dataclass(frozen=True)
class DynamicNTK(Frequencies):
    """NTK-aware with a factor that follows the length: s len / L - (s - 1) past L, else 1.

    As in Hugging Face transformers, where s is `factor`; 1 unless given, which leaves len / L.
    """

    name = "dynamic_ntk"
    follows_length = True

    def ratios(self, theta: list[float], lengths: Lengths) -> list[float]:
        """Return s^(-c/(n-1)) with the s of this length."""
        factor = self.factor if isinstance(self.factor, int | float) else 1.0
        now = factor * lengths.length / lengths.train_len - (factor - 1)
        return ntk_ratios(len(theta), max(1.0, now))


@dataclass(frozen=True)
class NTKByParts(Frequencies):
    """NTK-by-parts (bloc97 2023; Peng et al. 2023, YaRN, arXiv 2309.00071, section 3.2).

    Pairs with more than beta turns in L tokens keep their frequency, those with less than alpha are
    interpolated by s. ramp: in between linear in the number of turns (the paper), or in the
    channel, rounded outwards to whole ones (the authors' and Hugging Face's code).
    """

    alpha: float = 1.0
    beta: float = 32.0
    ramp: str = "turns"

    name = "ntk_by_parts"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ramp not in ("turns", "channels") or not 0 < self.alpha < self.beta:
            raise ValueError(
                f"{self.name} needs 0 < alpha < beta and ramp turns or channels, "
                f"got {self.alpha}, {self.beta} and {self.ramp}"
            )

    def ratios(self, theta: list[float], lengths: Lengths) -> list[float]:
        """Return kept + (1 - kept) / s, kept from 0 to 1."""
        s = self.factor_for(lengths)
        turns = [lengths.train_len * t / (2 * math.pi) for t in theta]
        if self.ramp == "turns":
            kept = [(r - self.alpha) / (self.beta - self.alpha) for r in turns]
        else:
            if len(theta) < 2 or theta[1] == 0:
                raise NotDefined(f"{self.name} needs two rotating channel pairs for ramp=channels")
            # Where on the geometric series of frequencies a number of turns lies.
            step = math.log(theta[0] / theta[1])
            first, last = (math.log(turns[0] / r) / step for r in (self.beta, self.alpha))
            first, last = max(math.floor(first), 0), min(math.ceil(last), 2 * len(theta) - 1)
            width = max(last - first, 0.001)
            kept = [1 - (c - first) / width for c in range(len(theta))]
        shares = [min(1.0, max(0.0, share)) for share in kept]
        return [share + (1 - share) / s for share in shares]


@dataclass(frozen=True)
class YaRN(NTKByParts):
    """YaRN (Peng et al. 2023, arXiv 2309.00071): NTK-by-parts, and sharper attention.

    Queries and keys are multiplied by sqrt(1/t) = 0.1 log s + 1 (equation 22).
    """

    ramp: str = "channels"

    name = "yarn"

    def temperature(self, lengths: Lengths) -> float:
        """Return 0.1 log s + 1."""
        return 0.1 * math.log(self.factor_for(lengths)) + 1


@dataclass(frozen=True)
class Resonance(OfParts):
    """Resonance RoPE (Wang et al. 2024, arXiv 2403.00071, section 4): wavelengths of whole tokens.

    theta_c = 2 pi / round(2 pi / theta_c), without a factor: a channel pair that made a whole turn
    in training meets no new angle beyond it.
    """

    name = "resonance"

    def change_part(self, position: Position, lengths: Lengths) -> Position:
        """Return a copy with other frequencies, learned parameters shared."""
        theta = list(position.frequencies)
        whole = [resonant(t) for t in theta]
        if whole == theta:
            raise NotDefined(f"{self.name} rounds wavelengths, {position.title} has none to round")
        changed = copy.copy(position)
        changed.frequencies = whole
        return changed


@dataclass(frozen=True)
class ResonanceYaRN(YaRN):
    """Resonance YaRN (Wang et al. 2024, arXiv 2403.00071, section 4): YaRN, then whole tokens.

    The wavelengths that YaRN makes are rounded to whole numbers of tokens.
    """

    name = "resonance_yarn"

    def ratios(self, theta: list[float], lengths: Lengths) -> list[float]:
        """Return what makes of each frequency the rounded one."""
        slowed = super().ratios(theta, lengths)
        return [resonant(t * r) / t if t else 1.0 for t, r in zip(theta, slowed, strict=True)]


@dataclass(frozen=True)
class LongRoPE(Frequencies):
    """LongRoPE (Ding et al. 2024, arXiv 2402.13753): each frequency divided by a factor of its own.

    divisors: one for each channel pair, found by the paper's search or published with a model.
    Queries and keys are multiplied by sqrt(1 + log s / log L), as in Hugging Face transformers;
    the first tokens, which the paper leaves alone, are not treated apart there or here.
    """

    divisors: list[float] | None = None

    name = "longrope"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.divisors or not all(divisor >= 1 for divisor in self.divisors):
            raise ValueError(
                "longrope needs divisors=[...], one number from 1 for each channel pair, "
                f"got {self.divisors}"
            )

    def ratios(self, theta: list[float], lengths: Lengths) -> list[float]:
        """Return 1 / divisor of each channel pair."""
        assert self.divisors is not None, "checked by the constructor"
        if len(self.divisors) != len(theta):
            raise NotDefined(
                f"longrope was given {len(self.divisors)} divisors for {len(theta)} channel pairs"
            )
        return [1 / divisor for divisor in self.divisors]

    def temperature(self, lengths: Lengths) -> float:
        """Return sqrt(1 + log s / log L)."""
        s = self.factor_for(lengths)
        return math.sqrt(1 + math.log(s) / math.log(max(2, lengths.train_len)))


def ntk_ratios(n: int, s: float) -> list[float]:
    """Return s^(-c/(n-1)) for c = 0 .. n-1."""
    return [s ** (-c / max(1, n - 1)) for c in range(n)]


def resonant(theta: float) -> float:
    """Return the frequency whose wavelength is the nearest whole number of tokens; 0 stays."""
    return 2 * math.pi / max(1, round(2 * math.pi / theta)) if theta else 0.0
