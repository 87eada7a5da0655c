"""What others wrote is shown and acts on nothing: terminal, Markdown, CSV, LaTeX, HTML."""

import ast
import csv
import io
import logging
import re
import sys
import warnings
from collections import Counter

import pytest

from lexp.commands.status import show
from lexp.display.document import Page, Section
from lexp.display.html import render
from lexp.display.latex import to_latex
from lexp.display.table import (
    Table,
    TableCell,
    in_markdown,
    prose_in_markdown,
    to_csv,
    to_markdown,
)
from lexp.display.terminal import table_console
from lexp.record.console import Console
from lexp.result_store.csv_file import write_csv
from lexp.runs.status import Status
from lexp.system.output import csv_cell, make_libraries_plain, say, warn
from support import ROOT

HOSTILE = {
    "escape": "\x1b]0;owned\x07", "colour": "\x1b[31mred", "C1": "\x9b31mred\x85", "bell": "a\x07",
    "back": "good\x08\x08\x08\x08evil", "return": "good\revil", "NUL": "\0", "delete": "\x7f",
    "bidi": "\u202egnp.exe", "isolates": "\u2066a\u2069", "lines": "a\nlexp: done\u2028x\u2029y\vz",
    "joiner": "a\u200bb\ufeff", "surrogate": "\ud800", "tag": "\U000e0041", "tab": "a\tb",
    "markup": "[link=https://evil]x[/link]", "emoji": ":warning:", "script": "<script>x</script>",
    "image": "![x](https://evil/x.png)", "link": "[x](javascript:alert(1))", "mathematics": "$x$",
    "entity": "&#60;b", "fence": "```", "struck": "~~x~~", "columns": "a|b\\|c",
    "formula": "=1+1", "plus": "+1+1", "minus": "-1+1", "at": "@SUM(A1)", "wide": "\uff1d1",
    "after a tab": "\t=1", "after a return": "\r=1", "after lines": "\n\n=1", "NUL before": "\0=1",
    "LaTeX": "\\input{/etc/passwd}$", "comment": "a % b",
}  # fmt: skip


def table_of(text: str) -> Table:
    cells = (TableCell(text), TableCell(text, "best"))
    return Table(text, (text, text), (cells,), 1, (text,))


def said(text, capsys, tmp_path):
    say(text, f"{text} again")
    return capsys.readouterr().err


def warned(text, capsys, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn(text)
    return str(caught[0].message)


def warned_by_library(text, capsys, tmp_path):
    make_libraries_plain()
    return warnings.formatwarning(f"Glyph {text} missing", UserWarning, f"{text}.py", 3)


def logged_by_library(text, capsys, tmp_path):
    """By a handler of the library, and by the one that Python has where there is none."""
    make_libraries_plain()
    stream = io.StringIO()
    for handler in (logging.StreamHandler(stream), logging.lastResort):
        logger = logging.Logger("library")
        logger.addHandler(handler)
        logger.warning("cannot read %s", text)
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception(text)
        logger.warning({"of another type": text})
    return stream.getvalue() + capsys.readouterr().err


def crashed(text, capsys, tmp_path):
    make_libraries_plain()
    sys.excepthook(ValueError, ValueError(text), None)
    return capsys.readouterr().err


def logged(text, capsys, tmp_path):
    with Console(text, 2) as console:
        console.say(text)
        console.advance(2, text)
    return capsys.readouterr().err


def printed(text, capsys, tmp_path):
    console = table_console()
    console.print(text)
    console.table(table_of(text))
    return capsys.readouterr().out


def status(text, capsys, tmp_path):
    run = Status("failed", 1, host=text, reason=text, slurm_job=text)
    table_console(250).print(show({text: run}, 250))
    return capsys.readouterr().out


def written_rows(text, capsys, tmp_path):
    write_csv(tmp_path / "x.csv", ["name", "x"], [{"name": text, "x": -1.5}])
    return (tmp_path / "x.csv").read_text(encoding="utf-8")


def page(text, capsys, tmp_path):
    return render(Page(text, text, (Section(text, text, (table_of(text),)),), {text: {text: text}}))


WRITERS = {
    "say": said, "warn": warned, "warning": warned_by_library, "progress": logged,
    "log": logged_by_library, "traceback": crashed,
    "console": printed, "status": status,
    "CSV of results": written_rows, "page": page,
    "CSV of a table": lambda text, c, t: to_csv(table_of(text)),
    "Markdown": lambda text, c, t: to_markdown(table_of(text)),
    "prose": lambda text, c, t: prose_in_markdown(f"Claim: {text}\n\n{in_markdown(text)}"),
    "LaTeX": lambda text, c, t: to_latex((table_of(text),)),
}  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS)
def test_no_writer_lets_anything_act(writer, capsys, tmp_path):
    for name, text in HOSTILE.items():
        out = WRITERS[writer](text, capsys, tmp_path)
        acting = {c for c in out if not c.isprintable() and c not in "\n"}
        assert not acting, (name, acting)
        if writer in (
            "say",
            "warn",
            "warning",
            "log",
            "traceback",
            "progress",
            "console",
            "status",
        ):
            assert "\nlexp: done" not in out, name
        if writer in ("Markdown", "prose", "page"):
            assert "<script>x" not in out and "<b" not in out.split("</style>")[-1][:0], name
        if writer in ("Markdown", "prose"):
            for acts in ("![", "[x](", "```", "~~x", "<script", "&#60", "$x$"):
                assert acts not in out.replace("\\\\", ""), (name, acts)
        if writer.startswith("CSV"):
            for row in csv.reader(io.StringIO(out)):
                assert not row[0].lstrip().startswith(("=", "+", "-", "@", "\uff1d")), name
        if writer == "LaTeX":
            assert "\\input" not in out and not out.count(" % b"), name
        if writer == "console" and name in ("markup", "emoji"):
            assert text in out, "shown as it is"


@pytest.mark.parametrize("value", [-1.5, 3, "-1.5", "+2", "1e-5", "-.5", "-inf", "nan", "-1E+10"])
def test_numbers_stay_numbers(value):
    assert float(csv_cell(value)) == float(value) or str(value) == "nan"
    assert csv_cell(value) == value


@pytest.mark.parametrize("name", ["rope", "kerple_log", "rope-nano-text-s0-1a2b", "été 中", "a=b"])
def test_harmless_names_are_read_back_as_they_are(name, tmp_path):
    write_csv(tmp_path / "x.csv", ["name", "x"], [{"name": name, "x": -1.5}])
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"name": name, "x": "-1.5"}]


# What writes to a terminal or a CSV file by itself; every other module goes through these.
ALLOWED = {
    "print": {"cli/main.py", "system/output.py", "commands/status.py", "commands/generate.py"},
    "warnings.warn": {"system/output.py"},
    "csv.writer": {"display/table.py", "result_store/csv_file.py"},
    "Text": {"display/table.py", "display/terminal.py", "record/console.py"},
    "Console": {"display/terminal.py"},
    "Rich": {"record/console.py"},
}


def test_no_module_writes_past_the_functions_that_escape():
    for path in sorted((ROOT / "lexp").rglob("*.py")):
        name = path.relative_to(ROOT / "lexp").as_posix()
        source = path.read_text(encoding="utf-8")
        ours = "from lexp.record" in source  # its Console prints by `say`
        for node in ast.walk(ast.parse(source)):
            call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if call in ALLOWED and not (call == "Console" and ours):
                assert name in ALLOWED[call], f"{name}:{node.lineno} calls {call}"


# --- tables in full


def wide_table(n: int) -> Table:
    heads = ("model", "attention", *(str(2**k) for k in range(n)))
    rows = [("rope", "full", *(f"123.45{k} ±1.5" for k in range(n))) for _ in range(2)]
    return Table("wide", heads, tuple(tuple(map(TableCell, row)) for row in rows), 2, ("note",))


@pytest.mark.parametrize("n", [3, 24, 60])
def test_a_table_in_a_pipe_is_as_wide_as_it_has_to_be(n, capsys):
    table_console().table(wide_table(n))
    out = capsys.readouterr().out
    assert "…" not in out and out.count("±1.5") == 2 * n
    for row in [line for line in out.splitlines() if "rope" in line]:
        assert all(f"123.45{k} ±1.5" in row for k in range(n))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_in_a_terminal_is_printed_in_parts(width, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    console = table_console()
    assert console.width == width
    monkeypatch.setattr(type(console), "is_terminal", True)
    console.table(wide_table(12))
    out = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    assert "…" not in out and all(out.count(f"123.45{k} ±1.5") == 2 for k in range(12))
    assert max(map(len, out.splitlines())) <= width


@pytest.mark.parametrize(
    ("width", "shown", "dropped"),
    [
        (40, "running", "789012 12,345 27 a-host"),
        (80, "running", "789012 12,345 27 a-host"),
        (100, "running 789012", "12,345 27 a-host"),
        (110, "running 789012 27", "12,345 a-host"),
        (130, "running 789012 27 12,345", "a-host 4321"),
        (140, "running 789012 27 12,345 a-host 4321", "-"),
    ],
)
def test_status_leaves_out_columns_by_priority_and_cuts_none(width, shown, dropped, capsys):
    """27: hours left."""
    run = Status("running", 123456, 789012, 12345.0, 98765.0, host="a-host", pid=4321)
    failed = Status(
        "out of memory", reason="no room for a batch; a larger accumulation= needs less"
    )
    name = "rope-nano-text-L128-s0-186350"
    table_console(width).print(show({name: run, f"{name}-2": failed}, width))
    out = capsys.readouterr().out
    assert "…" not in out and max(map(len, out.splitlines())) <= width
    assert "out of memory" in out  # in one line, at every width
    for word in shown.split():
        assert word in out, out
    if dropped != "-":
        assert not any(word in out for word in dropped.split()), out
    letters = Counter(c for c in out if not c.isspace())
    assert letters >= Counter(f"{name}{name}-2{failed.reason}".replace(" ", ""))
