"""The construction of objects from config nodes, in place of hydra.utils.instantiate.

A node names its class in `_target_` and gives every constructor argument by name, so the
constructor's signature is the schema. Only classes of lexp are built, and of modules the user
allows in the environment (LEXP_ALLOW=my_package,other): never from the config itself, which may
have come with somebody else's checkpoint.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from types import UnionType
from typing import Any, TypeVar

from lexp.system.errors import ConfigError, first_line
from lexp.system.user_code import allowed_modules, code_digest, in_user_code

T = TypeVar("T")

# The arguments of a class; to look them up takes longer than to build most objects.
_parameters: Callable[[type], Mapping[str, inspect.Parameter]] = cache(
    lambda kind: inspect.signature(kind).parameters
)


def build(node: Any, expected: type[T], where: str) -> T:
    """Build the object a node describes; ConfigError says what is wrong with it and where.

    expected: the class it must be of, checked before anything is constructed.
    where: the node's key, for messages.
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{where}: expected a node with _target_, got {node!r}")
    target = node["_target_"]
    arguments = {key: value for key, value in node.items() if key not in ("_target_", "name")}
    kind = _find(target, where)
    if not inspect.isclass(kind) or not issubclass(kind, expected):
        raise ConfigError(f"{where}._target_={target} is not a {expected.__name__}")
    hints = {name: p.annotation for name, p in _parameters(kind).items()}
    arguments = {
        key: _build_inner(value, hints.get(key), f"{where}.{key}")
        for key, value in arguments.items()
    }
    _check_arguments(kind, arguments, where)
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None
    except Exception as error:
        if "overflow" in str(error).lower():  # torch's word for a tensor beyond any memory
            raise ConfigError(f"{where}: a size is too large: {first_line(error)}") from None
        raise in_user_code(error) or error from None


def _build_inner(value: Any, hint: Any, where: str) -> Any:
    """Build an argument that is a node itself, or a list of nodes; return any other as it is."""
    if isinstance(value, list):
        inner = (getattr(hint, "__args__", None) or (None,))[0]
        if inspect.isclass(inner) and inner.__module__ != "builtins":
            return [build(node, inner, f"{where}[{n}]") for n, node in enumerate(value)]
        return value
    if isinstance(value, dict) and "_target_" in value and inspect.isclass(hint):
        expected = object if hint is inspect.Parameter.empty else hint
        return build(value, expected, where)
    return value


def _find(target: str, where: str) -> Any:
    module_name, _, name = target.rpartition(".")
    allowed = ["lexp", *allowed_modules()]
    if not any(module_name == a or module_name.startswith(f"{a}.") for a in allowed):
        raise ConfigError(
            f"{where}._target_={target}: only classes under {', '.join(allowed)} are built "
            f"(if you trust this one: export LEXP_ALLOW={','.join([*allowed[1:], module_name])})"
        )
    try:
        return getattr(import_module(module_name), name)
    except ModuleNotFoundError as error:
        hint = " (is its folder on PYTHONPATH? export PYTHONPATH=.)"
        is_own = error.name == module_name and not module_name.startswith("lexp.")
        raise ConfigError(f"{where}._target_={target}: {error}{hint if is_own else ''}") from None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}._target_={target}: {error}") from None
    except Exception as error:
        raise in_user_code(error) or error from None


def code_of(node: Any, where: str) -> dict[str, str]:
    """Return, by `_target_`, the digests of the user's classes in a node and in its parts."""
    if isinstance(node, list):
        return {name: code for inner in node for name, code in code_of(inner, where).items()}
    if not isinstance(node, dict):
        return {}
    codes = code_of(list(node.values()), where)
    target = node.get("_target_")
    if isinstance(target, str) and (code := code_digest(_find(target, where))):
        codes[target] = code
    return codes


def _check_arguments(kind: type, arguments: dict[str, Any], where: str) -> None:
    """Check names and simple types against the signature, before any constructor runs."""
    parameters = {
        name: parameter
        for name, parameter in _parameters(kind).items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    unknown = sorted(set(arguments) - set(parameters))
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in arguments
    ]
    if unknown or missing:
        raise ConfigError(
            f"{where}: {kind.__name__} takes {', '.join(parameters) or 'no arguments'}"
            + (f"; unknown: {', '.join(unknown)}" if unknown else "")
            + (f"; missing: {', '.join(missing)}" if missing else "")
        )
    hints = {name: parameter.annotation for name, parameter in parameters.items()}
    for name, value in arguments.items():
        if not _fits(value, hints.get(name, Any)):
            wanted = getattr(hints[name], "__name__", str(hints[name]))
            raise ConfigError(f"{where}.{name}={value!r}: expected {wanted}")


def _fits(value: Any, hint: Any) -> bool:
    """Return True if a value has the annotated type; without annotation any value has."""
    if hint is inspect.Parameter.empty:
        return True
    if isinstance(value, float) and not math.isfinite(value):
        return False
    options: Any = hint.__args__ if isinstance(hint, UnionType) else (hint,)
    for option in options:
        kind = getattr(option, "__origin__", option)
        if not isinstance(kind, type):
            return True  # Any and the like
        if isinstance(value, bool):
            if kind is bool:
                return True
        elif isinstance(value, list) and kind is list:
            inner = getattr(option, "__args__", (Any,))[0]
            if all(_fits(one, inner) for one in value):
                return True
        elif isinstance(value, kind) or (kind is float and isinstance(value, int)):
            return True
    return False
