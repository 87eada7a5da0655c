"""Checks of single values: each returns what is wrong as `key=value (what is allowed)`."""

import math
import re
from itertools import pairwise
from typing import Any

from lexp.system.errors import ConfigError

MAX_LENGTH = 1 << 24  # positions beyond are not exact in float32, and no text is that long


def raise_all(problems: list[str]) -> None:
    """Raise one ConfigError that names every problem, if there is one."""
    if problems:
        raise ConfigError("not allowed: " + ", ".join(problems))


def at_least(least: int, **values: float) -> list[str]:
    """Return what is below `least`."""
    return [
        f"{key}={value} (at least {least})" for key, value in values.items() if not value >= least
    ]


def positive(**values: float) -> list[str]:
    """Return what is not a finite number above 0."""
    return [
        f"{key}={value} (a finite number above 0)"
        for key, value in values.items()
        if not (math.isfinite(value) and value > 0)
    ]


def not_negative(values: dict[str, float]) -> list[str]:
    """Return what is not a finite number from 0."""
    return [
        f"{key}={value} (a finite number from 0)"
        for key, value in values.items()
        if not (math.isfinite(value) and value >= 0)
    ]


def between(low: int, high: int, values: dict[str, float]) -> list[str]:
    """Return what is outside of low to high."""
    return [
        f"{key}={value} (from {low} to {high})"
        for key, value in values.items()
        if not low <= value <= high
    ]


def betas(values: dict[str, float]) -> list[str]:
    """Return what is not from 0 to below 1."""
    return [
        f"{key}={value} (from 0 to below 1)" for key, value in values.items() if not 0 <= value < 1
    ]


def yes_no(key: str, value: Any) -> list[str]:
    """Return a problem unless it is True or False."""
    return [] if isinstance(value, bool) else [f"{key}={value!r} (true or false)"]


def is_whole(value: Any) -> bool:
    """Return True for a whole number; True and False are none."""
    return type(value) is int


def step_numbers(key: str, value: Any) -> list[str]:
    """Return a problem unless it is None, a step, or steps."""
    steps = value if isinstance(value, tuple) else (value,)
    if value is None or all(is_whole(step) and step >= 1 for step in steps):
        return []
    return [f"{key}={as_typed(value)} (a whole number from 1, or a list of such)"]


def warmup_problems(value: Any, train_len: int, n_steps: int) -> list[str]:
    """Return a problem unless it is a list of ascending lengths below train_len."""
    lengths = value if isinstance(value, tuple) else (value,)
    if not isinstance(value, tuple) or not all(is_whole(length) for length in lengths):
        return [f"length_warmup={as_typed(value)} (a list of lengths such as [128,256])"]
    rising = (0, *lengths, train_len)
    if any(a >= b for a, b in pairwise(rising)):
        return [f"length_warmup={as_typed(value)} (ascending lengths below train_len={train_len})"]
    if lengths and n_steps <= len(lengths):
        return [f"length_warmup={as_typed(value)} (fewer lengths: there are {n_steps} steps)"]
    return []


def recompute_problems(value: int | str, n_layers: int) -> list[str]:
    """Return a problem unless it is auto or a number of layers that the model has."""
    if value == "auto" or (is_whole(value) and 0 <= value <= n_layers):  # type: ignore[operator]
        return []
    return [f"recompute_layers={value} (auto, or from 0 to size.n_layers={n_layers})"]


def checkpoint_steps(value: str | tuple[int, ...]) -> list[str]:
    """Return a problem unless it is last, all, or steps, each once."""
    if value in ("last", "all"):
        return []
    if isinstance(value, tuple) and value:
        twice = [f"checkpoints={as_typed(value)} (each once)"] * (
            len(set(map(str, value))) < len(value)
        )
        return step_numbers("checkpoints", value) or twice
    return [f"checkpoints={as_typed(value)} (last, all, or a list of steps)"]


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> list[str]:
    """Return a problem unless it is one of the allowed words."""
    return [] if value in allowed else [f"{key}={value} (one of {', '.join(allowed)})"]


def path_word(key: str, value: Any) -> list[str]:
    """Return a problem unless it can be part of the name of a folder."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        return []
    return [f"{key}={value!r} (letters, digits, '.', '_' and '-', at most 100)"]


def folder_name(folder: Any, key: str = "outputs") -> list[str]:
    """Return a problem unless it can be the name of a folder."""
    if not isinstance(folder, str) or not folder.strip():
        return [f"{key}={folder!r} (a folder)"]
    if any("\ud800" <= character <= "\udfff" for character in folder):
        # Checkpoints in it could be written, and not be read.
        return [f"{key}={folder} (a name in UTF-8; in a locale without it set PYTHONUTF8=1)"]
    return []


def model_names(value: Any) -> list[str]:
    """Return a problem unless it is None, a name, or names."""
    words = value if isinstance(value, tuple) else (value,)
    if value is None or (words and all(isinstance(word, str) for word in words)):
        return []
    return [f"model={as_typed(value)} (a name, or a list of names)"]


def length_list(key: str, lengths: tuple[Any, ...]) -> list[str]:
    """Return what is wrong with a list of lengths."""
    bad = [v for v in lengths if not is_whole(v) or not 1 <= v <= MAX_LENGTH]
    problems = []
    if bad:
        shown = ", ".join(map(str, bad))
        commas = [",".join(v.split()) for v in bad if isinstance(v, str) and len(v.split()) > 1]
        hint = f"; with commas: '{key}=[{','.join(commas)}]'" if commas else ""
        problems.append(f"{key}: {shown} (whole numbers from 1 to {MAX_LENGTH}{hint})")
    twice = sorted({str(value) for value in lengths if lengths.count(value) > 1})
    if twice and not bad:
        problems.append(f"{key}: {', '.join(twice)} (each once)")
    return problems


def as_typed(value: Any) -> Any:
    """Return a tuple as the list that was typed."""
    return list(value) if isinstance(value, tuple) else value
