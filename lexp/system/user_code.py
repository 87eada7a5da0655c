"""The user's own code: its digest, and its errors.

Numbers of edited classes must not be taken for those of the classes before. Code of lexp itself is
told apart by the numerics of each kind of result.
"""

import ast
import functools
import hashlib
import os
import sys
import traceback
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

from lexp.system.errors import ConfigError, first_line

OWN = "lexp"
# Where pip puts packages: a module there imports others by their version, not as its own parts.
INSTALLED = ("site-packages", "dist-packages")


def allowed_modules() -> list[str]:
    """Return the user's modules that configs may name (LEXP_ALLOW=a,b)."""
    return list(filter(None, os.environ.get("LEXP_ALLOW", "").split(",")))


class UserCodeError(ConfigError):
    """An exception in one of the user's modules.

    frames: its lines in those modules, to be shown. The frames of lexp and of libraries are left
    out: they say nothing about the mistake.
    """

    def __init__(self, error: BaseException, where: str, frames: list[str]):
        super().__init__(f"{type(error).__name__} in {where}: {first_line(error)}")
        self.frames = tuple(frames)


def in_user_code(error: BaseException) -> UserCodeError | None:
    """Return an exception as UserCodeError if it passed through a user's module; else None."""
    if isinstance(error, SyntaxError) and error.filename:
        shown = traceback.format_exception_only(error)[:-1]
        return UserCodeError(
            SyntaxError(error.msg), f"{error.filename}, line {error.lineno}", shown
        )
    allowed = allowed_modules()
    own = [
        traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if any(f"{frame.f_globals.get('__name__')}.".startswith(f"{name}.") for name in allowed)
    ]
    if not own:
        return None
    place = f"{own[-1].filename}, line {own[-1].lineno}"
    return UserCodeError(error, place, traceback.format_list(own))


def code_digest(kind: type) -> str | None:
    """Return the digest of the source files of a user's class; None for a class of lexp.

    The files are its module and, as far as it imports them, other allowed modules, modules of the
    same package and modules in the same folder.
    """
    if _top(kind.__module__) == OWN:
        return None
    sources = dict(sorted(_sources(kind.__module__)))
    if not sources:
        return "no file"  # typed in a session: nothing to compare with
    whole = hashlib.sha256()
    for name, source in sources.items():
        whole.update(f"{name} {len(source)} ".encode() + source)
    return whole.hexdigest()


def _sources(first: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and source of a module and of the user's modules that it imports."""
    tops = {_top(first), *map(_top, allowed_modules())} - {OWN}
    beside = _root(first)
    # Importing a.b.c runs a and a.b too.
    parts = first.split(".")
    waiting = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None:
            continue
        source = Path(file).read_bytes()
        yield name, source
        is_package = Path(file).stem == "__init__"
        for imported in _imports(source, name if is_package else name.rpartition(".")[0]):
            parts = imported.split(".")  # `from a import b`: b may be a module
            for n in range(1, len(parts) + 1):
                module = ".".join(parts[:n])
                own = _top(module) in tops or (beside is not None and _root(module) == beside)
                if own and module not in seen and _top(module) != OWN:
                    seen.add(module)
                    waiting.append(module)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _root(module: str) -> Path | None:
    """Return the folder on the module path where a module's package lies; None if installed."""
    file = getattr(sys.modules.get(_top(module)), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    root = path.parent.parent if path.stem == "__init__" else path.parent
    library = Path(os.__file__).resolve().parent
    is_installed = root == library or any(name in root.parts for name in INSTALLED)
    return None if is_installed else root


@functools.lru_cache
def _imports(source: bytes, package: str) -> tuple[str, ...]:
    """Return the modules that a source may import. package: that relative imports start from."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # no Python source: a compiled module
        return ()
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            base = resolve_name(module, package) if node.level else module
            found += [f"{base}.{alias.name}" for alias in node.names]
    return tuple(found)
