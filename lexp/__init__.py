"""Length extrapolation experiments: train on short texts, run on long ones.

In Python: `load`, `results` and `figure` (lexp.commands.python). They are imported when they are
first used: `import lexp` itself imports nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
FUNCTIONS = ("figure", "load", "results")


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name in FUNCTIONS:
        return getattr(import_module("lexp.commands.python"), name)
    raise AttributeError(f"module 'lexp' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return what tab completion offers."""
    return sorted([*globals(), *FUNCTIONS])
