"""Secrets stay in the environment: out of settings, which are written to disk, and messages."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

# Words of a variable's name, or parts of one, that say its value is a secret. A number may follow,
# as in TOKEN2.
NAMES = re.compile(
    r"(^|[^a-z])(KEYS?|TOKENS?|PAT|PASS|PWD|PW|AUTH|DSN|COOKIES?|BEARER|JWT|CREDS?|SAS)([^a-z]|$)"
    r"|(API_?|SECRET|PRIVATE|ACCESS|ENCRYPTION|ACCOUNT|SSH)KEY|TOKENS?\d*$|SECRET|PASSWO?R?D"
    r"|PASSPHRASE|PASS\d*$|CREDENTIAL|WEBHOOK|AUTHORIZATION|CONNECTION_?STRING",
    re.IGNORECASE,
)
# Names of folders, files and sockets.
HARMLESS = re.compile(r"PWD|OLDPWD|SSH_AUTH_SOCK|XAUTHORITY|.*_(PATH|FILE|DIR|HOME)", re.IGNORECASE)
# Secrets within the value of any variable: of a URL before its host, where a token may stand alone,
# and by their keys in a URL's query and in a connection string.
WITHIN = re.compile(
    r"://[^/\s:@]*:(?P<password>[^/\s@]+)@|https?://(?P<token>[^/\s:@]{20,})@"
    r"|(?:^|[?&;\s])(?:sig|\w*(?:key|token|secret|password|pwd))=(?P<keyed>[^&;\s]+)",
    re.IGNORECASE,
)
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
    return _secrets_of(tuple(os.environ.items()))


@lru_cache(maxsize=1)
def _secrets_of(environment: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    found = []
    for name, value in environment:
        within = [text for match in WITHIN.finditer(value) for text in match.groups() if text]
        is_named = NAMES.search(name) and not HARMLESS.fullmatch(name)
        # TOKENS=100000000 is an amount.
        is_amount = value.isdecimal() and re.search(r"TOKENS\d*$", name, re.IGNORECASE)
        if within or (is_named and not is_amount):
            found += [(name, text) for text in (value.strip(), *within)]
    kept = {(name, value) for name, value in found if len(value) >= SHORTEST}
    return sorted(kept, key=lambda pair: (-len(pair[1]), pair))
