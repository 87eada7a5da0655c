"""Secrets stay in the environment: out of settings, which are written to disk, and messages."""

import os
import re

NAMES = re.compile(r"(^|_)(KEY|APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST = 8  # shorter values are hardly secrets, and occur in any text


def secret_in(text: str) -> str:
    """Return the name of an environment variable whose secret occurs in a text, or ""."""
    return next((name for name, value in _secrets() if value in text), "")


def masked(text: str) -> str:
    """Return the text with each secret of the environment replaced by its variable's name."""
    for name, value in _secrets():
        text = text.replace(value, f"(${name})")
    return text


def _secrets() -> list[tuple[str, str]]:
    return [(k, v) for k, v in os.environ.items() if NAMES.search(k) and len(v) >= SHORTEST]
