"""Rotary positions as the `rope_parameters` of a config, checked by what transformers reads there.

default  theta_c = base^(-c/n), which NTK-aware scaling keeps with another base
linear   theta_c = base^(-c/n) / factor (position interpolation)
yarn     YaRN with its ramp over channels
longrope theta_c = base^(-c/n) / factor_c with a temperature: holds any frequencies
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lexp.hf.export_positions import Rotation

# A config has them in decimal and transformers computes in float32.
TOLERANCE = 1e-5
BASE = 10000.0


@dataclass(frozen=True)
class Interpolation:
    """What made frequencies of others. plain: those before; yarn: its keys in a config, or None."""

    plain: tuple[float, ...]
    yarn: dict[str, Any] | None = None


def partial_parameters(
    rotation: Rotation, head_dim: int, made_by: Interpolation, train_len: int
) -> Iterator[dict[str, Any]]:
    """Yield candidates of a class that rotates the first channels and leaves others alone."""
    n = len(rotation.rotating)
    share = _share(2 * n, head_dim)
    if not n:
        yield {"rope_type": "default", "rope_theta": BASE, "partial_rotary_factor": 0.0}
        return
    for parameters in _of_all(rotation, made_by, train_len):
        yield {**parameters, "partial_rotary_factor": share}


def whole_parameters(
    rotation: Rotation, head_dim: int, made_by: Interpolation, train_len: int
) -> Iterator[dict[str, Any]]:
    """Yield candidates of a class that rotates all channels, some of them by nothing."""
    n, pairs = len(rotation.rotating), head_dim // 2
    if n == pairs:
        yield from _of_all(rotation, made_by, train_len)
    elif rotation.rotating == list(range(n)):
        base = BASE if n < 2 else _base(rotation.frequencies, pairs)
        share = _share(2 * n, head_dim)
        yield {"rope_type": "proportional", "rope_theta": base, "partial_rotary_factor": share}


def fitting(
    candidates: Iterator[dict[str, Any]],
    make: Callable[[dict[str, Any]], Any],
    wanted: list[float],
    temperature: float,
) -> dict[str, Any] | None:
    """Return the first parameters from which transformers computes the wanted frequencies.

    make: from parameters to transformers' rotary module. None if there are none.
    """
    for parameters in candidates:
        rotary = make(parameters)
        found = rotary.inv_freq.double()
        expected = torch.tensor(wanted, dtype=torch.float64)
        if (
            found.shape == expected.shape
            and torch.allclose(found, expected, rtol=TOLERANCE, atol=0)
            and abs(rotary.attention_scaling - temperature) <= TOLERANCE * temperature
        ):
            return parameters
    return None


def _of_all(rotation: Rotation, made_by: Interpolation, train_len: int) -> Iterator[dict[str, Any]]:
    """Yield candidates for channel pairs that all rotate."""
    theta = rotation.frequencies
    yield {"rope_type": "default", "rope_theta": _base(theta)}
    yield {"rope_type": "linear", "rope_theta": _base(theta), "factor": _tidy(1 / theta[0])}
    plain = [value for value in made_by.plain if value]
    base = _base(plain)
    if made_by.yarn is not None:
        yield {"rope_type": "yarn", "rope_theta": base, **made_by.yarn}
    divisors = [base ** (-c / len(theta)) / value for c, value in enumerate(theta)]
    yield {
        "rope_type": "longrope", "rope_theta": base, "short_factor": divisors,
        "long_factor": divisors, "factor": 1.0, "attention_factor": rotation.temperature,
        "original_max_position_embeddings": train_len,
    }  # fmt: skip


def _base(theta: list[float], n: int | None = None) -> float:
    """Return the base of theta_c = base^(-c/n), up to a constant factor."""
    if len(theta) < 2:
        return BASE
    return _tidy((theta[-1] / theta[0]) ** (-(n or len(theta)) / (len(theta) - 1)))


def _tidy(value: float) -> float:
    """Return a number without the last digits of its computation: 10000 for 9999.999999999."""
    return float(f"{value:.10g}")


def _share(n_channels: int, head_dim: int) -> float:
    """Return n_channels / head_dim so that head_dim times that, cut to a whole number, is n."""
    share = n_channels / head_dim
    return share if int(head_dim * share) == n_channels else (n_channels + 0.5) / head_dim
