"""The conversion of plain values, as composed or read from JSON, to typed settings."""

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lexp.config.checks import raise_all, yes_no
from lexp.config.settings import Node
from lexp.system.errors import ConfigError

T = TypeVar("T")


def read_settings(kind: type[T], raw: dict[str, Any]) -> T:
    """Return plain values as a typed object; ConfigError names a value missing or far too large."""
    _refuse_huge(raw, "")
    return _read(kind, {**raw, "raw": raw}, "")


def _refuse_huge(value: Any, where: str) -> None:
    """Raise ConfigError for a whole number that no float or tensor can hold. where: its key."""
    if isinstance(value, dict | list):
        pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            _refuse_huge(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        raise ConfigError(f"not allowed: {where}={str(value)[:24]}... (below 2^63)")


def _read(kind: type[T], values: Any, where: str) -> T:
    """Return a dict as a dataclass. where: the key of the dict with a dot behind, or ""."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where.rstrip('.')}={values!r}: expected one of its choices")
    hints = get_type_hints(kind)
    arguments = {}
    for item in fields(kind):  # type: ignore[arg-type]
        if item.name in values:
            arguments[item.name] = _typed(
                values[item.name], hints[item.name], f"{where}{item.name}"
            )
        elif item.default is MISSING:
            raise ConfigError(f"no value for {where}{item.name}")
    return kind(**arguments)


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Return a plain value as its hint says: nodes wrapped, lists as tuples, 3 as 3.0 for float.

    What has a wrong type otherwise stays as it is, for lexp.config.validation to refuse.
    """
    options = get_args(hint) or (hint,)
    if Node in options and get_origin(hint) is not dict:
        return None if value is None and NoneType in options else Node(value)
    if get_origin(hint) is dict and Node in options:
        nodes = value if isinstance(value, dict) else {}
        return {key: Node(inner) for key, inner in nodes.items()}
    if isinstance(hint, type) and is_dataclass(hint):
        return _read(hint, value, f"{where}.")
    if get_origin(hint) is tuple and is_dataclass(options[0]) and isinstance(value, list):
        entry: Any = options[0]
        return tuple(_read(entry, one, f"{where}[{n}].") for n, one in enumerate(value))
    if hint is bool:
        raise_all(yes_no(where, value))
    if float in options and type(value) is int:
        return float(value)
    return tuple(value) if isinstance(value, list) else value
