"""Checks of a trunk, and the key-value heads that it gives a size."""

from dataclasses import fields
from typing import Any

from lexp.config.layers import size_problems
from lexp.config.settings import SizeConfig, TrunkConfig

KEYS = tuple(item.name for item in fields(TrunkConfig))
SHARES = {"all": 1, "half": 2}


def trunk_problems(trunk: TrunkConfig, raw: dict[str, Any], size: SizeConfig) -> list[str]:
    """Return what is wrong with a trunk. raw: as composed."""
    problems = [f"trunk.{key} (a trunk has {', '.join(KEYS)})" for key in raw if key not in KEYS]
    problems += size_problems(size, raw.get("sinks"), "trunk.sinks")
    if n_kv_heads(trunk, size) is None:
        allowed = f"all, half, or a number that divides size.n_heads={size.n_heads}"
        problems.append(f"trunk.n_kv_heads={trunk.n_kv_heads} ({allowed})")
    return problems


def n_kv_heads(trunk: TrunkConfig, size: SizeConfig) -> int | None:
    """Return how many heads of keys and values a size has; None if that is no whole share."""
    given, n_heads = trunk.n_kv_heads, size.n_heads
    if isinstance(given, str):
        parts = SHARES.get(given)
        return n_heads // parts if parts and n_heads % parts == 0 else None
    is_divisor = type(given) is int and given >= 1 and n_heads % given == 0
    return given if is_divisor else None
