"""Keys are in the environment only: never in settings, which are written down, nor in messages."""

import os
import re

NAMES = re.compile(r"(^|_)(KEY|APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST = 8  # what is shorter is hardly a key, and may stand in any text


def secret_in(text: str) -> str:
    """The environment variable whose secret a text holds, or ""."""
    return next((name for name, value in _secrets() if value in text), "")


def masked(text: str) -> str:
    """The text with every secret of the environment replaced by the variable's name."""
    for name, value in _secrets():
        text = text.replace(value, f"(${name})")
    return text


def _secrets() -> list[tuple[str, str]]:
    return [(k, v) for k, v in os.environ.items() if NAMES.search(k) and len(v) >= SHORTEST]
