"""Values as JSON and back: numbers that are not finite, and frozen dataclasses with their types."""

import contextlib
import functools
import math
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# JSON has no number for NaN and infinities; they are stored as {"float": "nan"}.
NOT_FINITE_KEY = "float"


def to_json(value: Any) -> Any:
    """Return a value as JSON holds it: dataclasses as objects, tuples as lists.

    TypeError for a value that is none of these and no str, int, float, bool, dict or None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {NOT_FINITE_KEY: str(float(value))}
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{value!r} cannot be stored as JSON")


def with_floats(value: Any) -> Any:
    """Return a JSON value with the numbers that are not finite put back."""
    if isinstance(value, list):
        return [with_floats(inner) for inner in value]
    if isinstance(value, dict):
        if value.keys() == {NOT_FINITE_KEY}:
            return float(value[NOT_FINITE_KEY])
        return {key: with_floats(inner) for key, inner in value.items()}
    return value


def from_json(kind: type[T], value: Any) -> T:
    """Build a dataclass from a JSON object; ValueError names the field that has another type.

    A file may be somebody else's, or edited: what is read has the types that are declared.
    """
    return typing.cast(T, _checked(kind, value, kind.__name__))


def _checked(kind: Any, value: Any, place: str) -> Any:
    if kind is Any:
        return value
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass(kind, value, place)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _alternative(arguments, value, place)
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(arguments[0], inner, place) for inner in value)
    if origin is dict and isinstance(value, dict):
        return {key: _checked(arguments[1], inner, place) for key, inner in value.items()}
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise ValueError(f"{place}={value!r} is not of type {getattr(kind, '__name__', kind)}")


def _alternative(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        with contextlib.suppress(ValueError):
            return _checked(kind, value, place)
    raise ValueError(f"{place}={value!r} is of none of the types {kinds}")


def _dataclass(kind: type, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place} is not a JSON object")
    types, required = _fields(kind)
    if missing := sorted(required - value.keys()):
        raise ValueError(f"{place} has no {missing[0]}")
    if unknown := sorted(value.keys() - types.keys()):
        raise ValueError(f"{place} has an unknown {unknown[0]}")
    return kind(**{name: _checked(types[name], value[name], name) for name in value})


@functools.lru_cache
def _fields(kind: type) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of a dataclass's fields, and which of them have no default.

    Cached: a table reads thousands of results, and resolving types takes longer than reading one.
    """
    hints = typing.get_type_hints(kind)
    required = [
        f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING
    ]
    return {field.name: hints[field.name] for field in fields(kind)}, frozenset(required)
