"""Patterns, extensions, protocols, probes and instruments as fields of a record."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from lexp.result_store.json_values import to_json
from lexp.result_store.record import Result
from lexp.system.files import digest, one_number
from lexp.system.user_code import code_digest

T = TypeVar("T", bound=Result)


@dataclass(frozen=True)
class Component:
    """A pattern, extension, protocol, probe or instrument as it was asked for.

    name: the one of its class. label: what tables show. values: its fields, null where left open.
    code: digest of the user's classes in it, 8 digits, or "".
    """

    name: str
    label: str
    values: dict[str, Any]
    code: str = ""


def component_of(part: Any) -> Component:
    """Return name, label, values and own code of a pattern, extension, probe or instrument."""
    spec = component_spec(part)
    return Component(part.name, part.label, spec["values"], code_in(spec))


def code_in(spec: dict[str, Any]) -> str:
    """Return the digest of the user's classes in a `component_spec`, 8 digits, or ""."""
    own = list(_own_code(spec))
    return digest(own)[:8] if own else ""


def _own_code(spec: Any) -> Iterator[list[str]]:
    """Yield class and code of each of the user's classes in a spec."""
    if isinstance(spec, dict):
        if "code" in spec and "class" in spec:
            yield [spec["class"], spec["code"]]
        spec = list(spec.values())
    for inner in spec if isinstance(spec, list) else []:
        yield from _own_code(inner)


def named_apart(results: Sequence[T]) -> list[T]:
    """Return results; components of one label and several codes have their code in the label.

    What code computed before it was edited is another method than what it computes now.
    """
    codes: dict[tuple[str, str], set[str]] = {}
    for result in results:
        for field, component in _components(result):
            codes.setdefault((field, component.label), set()).add(component.code)
    apart = []
    for result in results:
        named: dict[str, Any] = {
            field: replace(component, label=f"{component.label}{code_in_label(component)}")
            for field, component in _components(result)
            if component.code and len(codes[field, component.label]) > 1
        }
        apart.append(replace(result, **named) if named else result)
    return apart


def code_in_label(component: Component) -> str:
    """Return what stands after a component's name where several codes have that name."""
    return f" (code {component.code[:4]})"


def is_same_part(one: Component, other: Component) -> bool:
    """Return True if both are one part with one code, whatever it is called among others."""
    return replace(one, label="") == replace(other, label="")


def _components(result: Result) -> list[tuple[str, Component]]:
    values = ((field.name, getattr(result, field.name)) for field in fields(result))
    return [(name, value) for name, value in values if isinstance(value, Component)]


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
