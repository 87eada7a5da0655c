r"""Write tables for a paper: LaTeX with booktabs, to be read by \input."""

import unicodedata

from lexp.display.table import Table, TableCell, printable

# More rows than this do not fit a page.
LONG = 40
# How many letters of a row fit the 345 points of an article's line, by size of type.
SIZES = ((56, r"\small"), (70, r"\footnotesize"), (88, r"\scriptsize"), (10**9, r"\tiny"))
HEADER = r"""% \usepackage{booktabs}  \usepackage{longtable}  \usepackage[T1]{fontenc}
"""
# ruff: noqa: RUF001 - look-alikes are what is translated here
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "-": "-{}", "'": "'{}", "`": "`{}", "[": "{[}", "]": "{]}",  # no ligatures, no \\[...]
    "*": "{*}",  # nor a starred \\
    "±": r"$\pm$", "·": r"$\cdot$", "×": r"$\times$", "−": "$-$", "→": r"$\to$", "∞": r"$\infty$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "–": "--", "—": "---", "…": r"\dots{}",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "θ": r"$\theta$", "λ": r"$\lambda$",
    "σ": r"$\sigma$", "ζ": r"$\zeta$",
}  # fmt: skip


def to_latex(tables: tuple[Table, ...]) -> str:
    r"""Return LaTeX of all tables: caption from title and notes, best \textbf, failures \textit.

    A table of more than LONG rows becomes a longtable, which breaks over pages; wide tables are
    set in smaller type.
    """
    return "\n".join([HEADER, *map(_table, tables)])


def escape(text: str) -> str:
    r"""Return LaTeX that prints the text itself.

    Letters outside Latin become [U+4E2D], because pdflatex stops at letters that it lacks.
    """
    return "".join(_character(c) for c in unicodedata.normalize("NFC", printable(text)))


def _character(c: str) -> str:
    if c in SPECIAL:
        return SPECIAL[c]
    # What the T1 encoding has: ASCII and the letters of Latin-1 and Latin Extended-A.
    if c.isascii() or ("À" <= c <= "ž" and c.isalpha()):
        return c
    return f"{{[}}U+{ord(c):04X}{{]}}"


def _table(table: Table) -> str:
    columns = "l" * table.n_labels + "r" * (len(table.heads) - table.n_labels)
    title = escape(table.title)
    notes = " ".join(escape(note) for note in table.notes)
    # Notes in the short caption would fill the list of tables.
    caption = rf"\caption[{{{title}}}]{{{f'{title}. {notes}' if notes else title}}}"
    head = " & ".join(escape(text) for text in table.heads) + r" \\"
    body = []
    for n, row in enumerate(table.rows):
        if table.begins_group(n):
            body.append(r"\addlinespace")
        body.append(" & ".join(map(_cell, row)) + r" \\")
    size = _size(table)
    if len(table.rows) > LONG:
        lines = [
            rf"\begingroup{size}", rf"\begin{{longtable}}{{{columns}}}", caption + r"\\",
            r"\toprule", head, r"\midrule", r"\endfirsthead",
            r"\toprule", head, r"\midrule", r"\endhead",
            *body, r"\bottomrule", r"\end{longtable}", r"\endgroup",
        ]  # fmt: skip
    else:
        lines = [
            r"\begin{table}", rf"\centering{size}", caption + r"\vspace{4pt}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule", head, r"\midrule", *body, r"\bottomrule",
            r"\end{tabular}", r"\end{table}",
        ]  # fmt: skip
    return "\n".join([*lines, ""])


def _size(table: Table) -> str:
    widths = [
        max(len(text) for text in (head, *(row[n].text for row in table.rows)))
        for n, head in enumerate(table.heads)
    ]
    letters = sum(widths) + 2 * len(widths)
    size = next(size for most, size in SIZES if letters <= most)
    return size if size == SIZES[0][1] else size + r"\setlength{\tabcolsep}{3pt}"


def _cell(cell: TableCell) -> str:
    text = escape(cell.text)
    command = {"best": r"\textbf", "failed": r"\textit"}.get(cell.style)
    return f"{command}{{{text}}}" if command and text else text
