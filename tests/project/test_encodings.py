"""Every file that is opened as text names its encoding: none is read by the machine's locale."""

import ast

import pytest

from support import ROOT

SOURCES = sorted(
    path for folder in ("lexp", "hydra_plugins") for path in (ROOT / folder).rglob("*.py")
)
# Calls that open text, and the position of their mode; None: no mode, always text.
OPENERS = {"open": 1, ".open": 0, "fdopen": 1, "read_text": None, "write_text": None}
TEMPORARY = ("NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile")
PROCESSES = ("run", "Popen", "check_output", "check_call", "call")


def unnamed(source: str) -> list[int]:
    """The lines of calls that open text without naming an encoding."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and is_text_without_encoding(node)
    ]


def is_text_without_encoding(call: ast.Call) -> bool:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or None in given:
        return False
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    if name in PROCESSES and owner == "subprocess":
        return bool({"text", "universal_newlines", "errors"} & set(given))
    if name in TEMPORARY:
        return not is_binary(call, given, 0, "w+b")
    if name == "write_text" and not owner:
        return False  # lexp.system.files.write_text: UTF-8
    if owner in ("os", "webbrowser", "tarfile", "stored") and name == "open":
        return False  # no text files; `stored` is an archive of arrays
    key = ".open" if name == "open" and owner not in ("", "io") else name
    if key not in OPENERS:
        return False
    place = OPENERS[key]
    if place is None:
        return not (name == "read_text" and call.args)
    return not is_binary(call, given, place, "r")


def is_binary(call: ast.Call, given: dict, place: int, default: str) -> bool:
    mode = call.args[place] if len(call.args) > place else given.get("mode")
    if mode is None:
        return "b" in default
    return isinstance(mode, ast.Constant) and "b" in str(mode.value)


def test_every_text_file_is_opened_with_an_encoding():
    wrong = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in unnamed(path.read_text("utf-8"))
    }
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        "open(p)", "open(p, 'w')", "open(p, mode)", "p.open()", "p.open('a')", "p.read_text()",
        "p.write_text(t)", "os.fdopen(h, 'w')", "io.open(p)", "open(p, mode='r')",
        "subprocess.run(c, text=True)", "tempfile.NamedTemporaryFile('w')", "path.open(newline='')",
    ],
)  # fmt: skip
def test_text_without_an_encoding_is_found(source):
    assert unnamed(source) == [1]


@pytest.mark.parametrize(
    "source",
    [
        "open(p, 'rb')", "p.open('ab')", "p.read_text('utf-8')", "p.read_text(encoding='utf-8')",
        "os.open(p, flags)", "p.open(mode='wb')", "write_text(p, t)", "os.fdopen(h, 'wb')",
        "subprocess.run(c, text=True, encoding='utf-8')", "tempfile.TemporaryFile()",
    ],
)  # fmt: skip
def test_bytes_and_named_encodings_pass(source):
    assert unnamed(source) == []
