"""Scripts, which nothing checks the types of, import what there is."""

import ast
import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parents[2] / "scripts").glob("*.py"))


def missing(code: str) -> list[str]:
    """Return what code imports from lexp that lexp has not, as MODULE.NAME."""
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    names = [
        (node.module, alias.name)
        for node in imports
        if (node.module or "").partition(".")[0] == "lexp"
        for alias in node.names
    ]
    return [f"{module}.{name}" for module, name in names if not _is_there(module, name)]


def _is_there(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_what_a_script_imports_is_there(path):
    assert missing(path.read_text(encoding="utf-8")) == []


def test_a_name_that_is_gone_would_be_seen():
    """The negative control."""
    code = "from lexp.display.heat import RATIOS, heat_style\nfrom lexp import position"
    assert missing(code) == ["lexp.display.heat.heat_style"]
