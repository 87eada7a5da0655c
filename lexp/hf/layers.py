"""The layers of a model as its config describes them, before any weight is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lexp.hf.family import Family
from lexp.system.errors import ConfigError

T = TypeVar("T")
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class LayerKind:
    """What tells the layers of a model apart.

    name: transformers' word for the kind, which has rotary frequencies of its own in some families.
    rotates: whether queries and keys are rotated. window: keys that a query sees; None: all.
    """

    name: str
    rotates: bool
    window: int | None


def read_layers(config: Any, family: Family) -> tuple[LayerKind, ...]:
    """Return the kind of each layer; ConfigError for kinds that are not supported."""
    n_layers, window = config.num_hidden_layers, getattr(config, "sliding_window", None)
    # Families without a list have a window in every layer, or in none.
    default = [FULL if window is None else SLIDING] * n_layers
    names = getattr(config, "layer_types", None) or default
    if len(names) != n_layers:
        raise ConfigError(f"{len(names)} layer_types for {n_layers} layers")
    if others := sorted(set(names) - {FULL, SLIDING}):
        raise ConfigError(f"layer_types {', '.join(others)}: only {FULL} and {SLIDING}")
    if SLIDING in names and (not isinstance(window, int) or window < 1):
        raise ConfigError(f"sliding_window={window}")
    rotary = family.position == "rope"
    return tuple(
        LayerKind(name, rotary and family.rotates(config, n), window if name == SLIDING else None)
        for n, name in enumerate(names)
    )


def in_turn(layers: Sequence[T]) -> Sequence[T]:
    """Return the shortest beginning of a list that, taken in turns, gives the whole list."""
    for length in range(1, len(layers)):
        if all(value == layers[n % length] for n, value in enumerate(layers)):
            return layers[:length]
    return layers
