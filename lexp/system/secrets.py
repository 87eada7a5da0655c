"""Secrets stay in the environment: out of settings, which are written to disk, and messages."""

import os
import re
from collections.abc import Iterator
from typing import Any

# Words of a variable's name, or parts of one, that say its value is a secret.
NAMES = re.compile(
    r"(^|_)(KEYS?|TOKENS?|PAT|PASS|PWD|AUTH|DSN|COOKIES?|BEARER|JWT)(_|$)"
    r"|(API_?|SECRET|PRIVATE|ACCESS|ENCRYPTION)KEY|TOKENS?$|SECRET|PASSWO?R?D|PASSPHRASE"
    r"|PASS$|CREDENTIAL|WEBHOOK",
    re.IGNORECASE,
)
# Names of folders, files and sockets.
HARMLESS = re.compile(r"PWD|OLDPWD|SSH_AUTH_SOCK|XAUTHORITY|.*_(PATH|FILE|DIR|HOME)", re.IGNORECASE)
WITH_PASSWORD = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
SHORTEST = 8  # shorter values are hardly secrets, and occur in any text


def secret_in(value: Any) -> str:
    """Return the name of an environment variable whose secret occurs in a text, or ""."""
    texts = list(strings_in(value))
    return next((name for name, value in _secrets() if any(value in t for t in texts)), "")


def strings_in(value: Any) -> Iterator[str]:
    """Yield every text in a value, keys of mappings included, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from strings_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings_in(inner)
    elif isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif value is not None:
        yield str(value)


def masked(text: str) -> str:
    """Return the text with each secret of the environment replaced by its variable's name."""
    for name, value in _secrets():
        text = text.replace(value, f"(${name})")
    return text


def _secrets() -> list[tuple[str, str]]:
    """Return names and values, the longest first: one may contain another."""
    found = [
        (name, value.strip())
        for name, value in os.environ.items()
        if (NAMES.search(name) and not HARMLESS.fullmatch(name)) or WITH_PASSWORD.search(value)
    ]
    # TOKENS=100000000 is an amount.
    amounts = re.compile(r"TOKENS=\d+", re.IGNORECASE)
    kept = [
        (name, value)
        for name, value in found
        if len(value) >= SHORTEST and not amounts.search(f"{name}={value}")
    ]
    return sorted(kept, key=lambda pair: -len(pair[1]))
