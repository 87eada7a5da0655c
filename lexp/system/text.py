"""Text that is shown: made safe for terminals and pages, labels, sorting by number."""

import re
from dataclasses import MISSING, fields
from typing import Any

from lexp.system.files import digest


def printable(text: str) -> str:
    """Return the text without characters that a terminal or browser acts on instead of showing.

    Control characters, direction overrides and lone surrogates become U+FFFD, line ends spaces.
    """
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text.replace("\r", "")
    )


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless the number is 1: `1 run`, `2 runs`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def label_of(name: str, chosen: Any) -> str:
    """Return a frozen dataclass's name and its values that are not the defaults: `yarn-beta=8`.

    The first field's value stands alone (`window-64`); a list is shown by a digest.
    """
    words = [name]
    for n, field in enumerate(fields(chosen)):
        value = getattr(chosen, field.name)
        if field.default is not MISSING and value != field.default:
            text = str(value)
            if isinstance(value, float):
                text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
            text = digest(value)[:4] if isinstance(value, list) else text
            words.append(text if n == 0 else f"{field.name}={text}")
    return "-".join(words)


def natural(text: str) -> list[str | float]:
    """Return a sort key for names, with numbers by value: `n_kernels=3` before `n_kernels=10`."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [float(part) if n % 2 else part for n, part in enumerate(parts)]
