"""Text that is shown: made safe for terminals and pages, labels, sorting by number."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from itertools import groupby
from typing import Any

from lexp.system.files import digest

# Bytes: a file's name may have 255, some of which say what it is or that it is temporary.
LONGEST_STEM = 160


def printable(text: str) -> str:
    """Return the text without characters that a terminal or browser acts on instead of showing.

    Control characters, direction overrides and lone surrogates become U+FFFD, line ends spaces.
    """
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text.replace("\r", "")
    )


def escaped(text: str) -> str:
    """Return a text of any origin for a terminal: what it would act on as escapes such as `\\x1b`.

    Line ends and tabs stay.
    """
    return "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] in "LMNPS" or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode()
        for c in text
    )  # fmt: skip


def in_ranges(numbers: Iterable[int]) -> str:
    """Return ascending whole numbers with three and more in a row as a range: `1-4,6,7`."""
    parts: list[str] = []
    for _, pairs in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        row = [number for _, number in pairs]
        parts += [f"{row[0]}-{row[-1]}"] if len(row) > 2 else map(str, row)
    return ",".join(parts)


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless the number is 1: `1 run`, `2 runs`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def label_of(name: str, chosen: Any) -> str:
    """Return a frozen dataclass's name and its values that are not the defaults: `yarn-beta=8`.

    The first field's value stands alone (`window-64`); a list is shown by a digest. A value without
    a default always stands there.
    """
    words = [name]
    for n, field in enumerate(fields(chosen)):
        value = getattr(chosen, field.name)
        if value != _default(field):
            text = str(value)
            if isinstance(value, float):
                text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
            text = digest(value)[:4] if isinstance(value, list) else text
            words.append(text if n == 0 else f"{field.name}={text}")
    return "-".join(words)


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def file_stem(label: str) -> str:
    """Return a label as the readable beginning of a file's name: no path, and not too long."""
    name = re.sub(r"[^\w.+=-]", "-", label).lstrip(".")
    return name.encode()[:LONGEST_STEM].decode(errors="ignore")


def natural(text: str) -> list[str | float]:
    """Return a sort key for names, with numbers by value: `n_kernels=3` before `n_kernels=10`."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", text)
    return [float(part) if n % 2 else part for n, part in enumerate(parts)]


# Signs that lexp prints, in ASCII, for terminals and files of another encoding than UTF-8.
PLAIN_SIGNS = str.maketrans({
    "\u2026": "...", "\u2192": "->", "\u00d7": "x", "\u00b7": ".", "\u2013": "-", "\u2014": "-",
    "\u00b1": "+-", "\u2264": "<=", "\u2265": ">=", "\u00b5": "u", "\u03bc": "u", "\u2212": "-",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2022": "*",
    **dict.fromkeys("\u2500\u2501\u2578\u257a", "-"), **dict.fromkeys("\u2502\u2503", "|"),
})  # fmt: skip


def in_ascii(text: str) -> str:
    """Return a text with the signs of lexp in ASCII; other characters stay as they are."""
    return text.translate(PLAIN_SIGNS)
