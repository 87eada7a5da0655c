"""Checks of a model's entries: their keys, and dimensions that are not the model's."""

from dataclasses import fields
from typing import Any

from lexp.config.settings import LayerConfig, ModelConfig, SizeConfig

# What an entry of model.layers may have.
ENTRY = tuple(item.name for item in fields(LayerConfig))


def model_problems(model: ModelConfig, raw: dict[str, Any], size: SizeConfig) -> list[str]:
    """Return what is wrong with a model. raw: as composed."""
    problems = entry_problems(model, raw)
    for group in ("position", "mixer", "layers"):
        problems += size_problems(size, raw.get(group), f"model.{group}")
    return problems


def entry_problems(model: ModelConfig, raw: dict[str, Any]) -> list[str]:
    """Return what is wrong with the entries of a model's layers. raw: the model as composed."""
    one = [key for key in ENTRY if raw.get(key) is not None]
    if "layers" not in raw:
        is_whole = bool({"position", "mixer"} & set(one))
        return [] if is_whole else ["model (needs a position, a mixer or layers)"]
    if not model.layers or not isinstance(raw["layers"], list):
        return [f"model.layers={raw['layers']!r} (a list of at least one entry)"]
    problems = [f"model.{key} together with model.layers (in an entry of the list)" for key in one]
    for n, entry in enumerate(raw["layers"]):
        unknown = sorted(str(key) for key in entry if key not in ENTRY)
        if unknown:
            problems.append(f"model.layers[{n}].{unknown[0]} (an entry has {', '.join(ENTRY)})")
    return problems


def size_problems(size: SizeConfig, node: Any, where: str) -> list[str]:
    """Return the dimensions of a scheme, or of one in it, that are not those of its model.

    Some schemes would take them and compute something else.
    """
    problems = []
    is_dict = isinstance(node, dict)
    pairs: Any = node.items() if is_dict else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        here = f"{where}.{key}" if is_dict else f"{where}[{key}]"
        problems += size_problems(size, value, here)
        wanted = getattr(size, key) if key in ("head_dim", "n_heads", "d_model") else value
        if type(value) is int and value != wanted:
            problems.append(f"{here}={value} (as size.{key}={wanted}, which it follows)")
    return problems
