"""Patterns, extensions, probes and instruments as fields of a record."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from lexp.results.json_values import to_json
from lexp.system.files import one_number
from lexp.system.user_code import code_digest


@dataclass(frozen=True)
class Component:
    """A pattern, extension, probe or instrument as it was asked for.

    name: the one of its class. label: what tables show. values: its fields, null where left open.
    """

    name: str
    label: str
    values: dict[str, Any]


def component_of(part: Any) -> Component:
    """Return name, label and values of a pattern, extension, probe or instrument."""
    return Component(part.name, part.label, component_spec(part)["values"])


def component_spec(part: Any) -> dict[str, Any]:
    """Return class, all values and own code of a frozen dataclass, as JSON values for a spec."""
    kind = type(part)
    spec = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "values": {field.name: _value(getattr(part, field.name)) for field in fields(part)},
    }
    code = code_digest(kind)
    return spec if code is None else {**spec, "code": code}


def _value(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return component_spec(value)
    if isinstance(value, list | tuple):
        return [_value(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): _value(inner) for key, inner in value.items()}
    try:
        return to_json(one_number(value))
    except TypeError:
        return repr(value)
