"""Tables as Markdown, CSV, LaTeX and on a terminal: nothing in a name acts, all of it is shown."""

import csv
import io
import shutil
import subprocess

import pytest
from rich.console import Console

from lexp.display.latex import LONG, escape, to_latex
from lexp.display.table import Table, TableCell, printable, to_csv, to_markdown, to_rich
from lexp.display.terminal import table_console
from lexp.system.errors import first_line

NASTY = [
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1", "=HYPERLINK(\"x\")",
    "a,b", 'say "hi"', "two\nlines", "\uff1d1", "[bold]red[/]", "\x1b[31mred", "a|b", "<b>x</b>",
    r"50% of $x_1 & #3 {~^\}", "été ± \u03b3 → 中", "\\", "*", "[x]", "--", "\u202eevil", "\ud800",
]  # fmt: skip


def table_of(texts=NASTY, n_rows=None) -> Table:
    rows = [
        (TableCell(t), TableCell(t), TableCell("1.25", "best"), TableCell("n/d", "failed"))
        for t in texts
    ]
    rows = (rows * 20)[:n_rows] if n_rows else rows
    return Table("A & B_1: 5%", ("model", "x", "256", "512"), tuple(rows), 2, ("note_1 {", "#2"))


def test_csv_has_no_formula_and_numbers_stay_numbers():
    numbers = ["-1.5", "+2", "1e-5", "-.5", "3", "-1E+10"]
    read = list(csv.reader(io.StringIO(to_csv(table_of(NASTY + numbers)))))
    assert len(read) == 1 + len(NASTY) + len(numbers)
    for row, text in zip(read[1:], NASTY + numbers, strict=True):
        if text in numbers:
            assert row[0] == text and float(row[0]) == float(text)
        else:
            assert not row[0].lstrip().startswith(("=", "+", "-", "@", "\uff1d"))
            assert row[0].removeprefix("'") == printable(text)
    assert read[1][2:] == ["1.25", "n/d"]


def test_markdown_has_as_many_columns_whatever_the_names():
    lines = to_markdown(table_of()).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(NASTY)
    for line in table:
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == 5
        assert "<b>" not in line
    assert "**1.25**" in table[2] and "kerple_log" in to_markdown(table_of(["kerple_log"]))


def test_terminal_shows_markup_and_escapes_as_text():
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(to_rich(table_of()))
    out = console.file.getvalue()
    assert "[bold]red[/]" in out and "\x1b" not in out and "\u202e" not in out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b", r"a\_b"),
        ("50%", r"50\%"),
        ("{x}$&#", r"\{x\}\$\&\#"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("5.82 ±0.03", r"5.82 $\pm$0.03"),
        ("中", "{[}U+4E2D{]}"),
    ],
)
def test_latex_escapes(text, expected):
    assert escape(text) == expected


def test_latex_marks_best_and_failures_and_breaks_long_tables():
    short, long = to_latex((table_of(),)), to_latex((table_of(n_rows=LONG + 1),))
    assert r"\textbf{1.25}" in short and r"\textit{n/d}" in short
    assert r"\caption[{A \& B\_1: 5\%}]{A \& B\_1: 5\%. note\_1 \{ \#2}" in short
    assert r"\begin{tabular}{llrr}" in short and r"\begin{longtable}{llrr}" in long


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex")
def test_latex_compiles(tmp_path):
    body = to_latex((table_of(), table_of(n_rows=LONG + 1), Table("empty", ("a",), ())))
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,longtable}"
        "\\begin{document}\\listoftables\n" + body + "\\end{document}\n",
        encoding="utf-8",
    )
    for _ in range(2):  # the second reads the list of tables
        result = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
            cwd=tmp_path, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        assert result.returncode == 0, result.stdout[-2000:]
    assert (tmp_path / "page.pdf").is_file()


def test_rows_and_styles_are_checked():
    with pytest.raises(ValueError, match="1 cells under 2"):
        Table("t", ("a", "b"), ((TableCell("x"),),))
    with pytest.raises(ValueError, match="bright"):
        TableCell("x", "bright")


def test_a_console_is_as_wide_as_asked_in_a_pipe_and_as_the_window_in_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "77")
    assert (table_console().width, table_console(250).width) == (200, 250)
    monkeypatch.setattr(
        "sys.stdout", type("Terminal", (io.StringIO,), {"isatty": lambda s: True})()
    )
    assert table_console().width == 77


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n a\nb")) == "a"
    assert first_line(MemoryError()) == "MemoryError"
