"""`lexp list`: every scheme, method and data set, what it is, and which combine.

By their names also the choices of all other groups: protocols, instruments, studies and so on.
"""

import difflib
from pathlib import Path

from rich.table import Table

from lexp.commands.catalogue import (
    ALL_GROUPS,
    FURTHER,
    GROUPS,
    METHODS,
    Catalogue,
    Choice,
    read_choices,
    written_catalogue,
)
from lexp.display.terminal import TableConsole, table_console
from lexp.system.errors import ConfigError
from lexp.system.output import say_loading_torch

# Columns that a sign of the grid takes.
SIGN_WIDTH = 3
# Groups whose choices combine, or do not.
COMBINING = ("model", *METHODS)


def list_(config_folder: Path, words: list[str], folders: list[str]) -> None:
    """Print everything, or what is known about the choices or groups named.

    folders: others that have config groups as conf/ has.
    """
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise ConfigError(f"--config-dir {missing[0]}: there is no such folder")
    choices = read_choices(config_folder, folders, ALL_GROUPS)
    for word in words:
        if word not in {*ALL_GROUPS, *(choice.name for choice in choices)}:
            raise ConfigError(_unknown(word, choices))
    catalogue = written_catalogue()
    own = [choice for choice in choices if choice.foreign and choice.group in COMBINING]
    if own:
        # What is in no file is built and tried, which needs torch.
        say_loading_torch(f" to try what {', '.join(c.name for c in own)} combines with")
        from lexp.commands.combine import Combiner, tried

        catalogue = catalogue.joined(tried(Combiner(config_folder, folders), own))
    # A pipe or file has no width: wide enough for any line is better than a cut one.
    console = table_console()
    if words:
        for word in words:
            if word in ALL_GROUPS:
                show_group(console, word, choices, catalogue)
            for choice in choices:
                if choice.name == word:
                    show_one(console, choice, choices, catalogue)
        return
    show_all(console, choices, catalogue)


def _unknown(word: str, choices: list[Choice]) -> str:
    """Return what to say of a name that nothing has: the nearest ones, or what it describes."""
    names = sorted({*ALL_GROUPS, *(choice.name for choice in choices)})
    small = word.lower()
    # Letters alone do not find `self_extend` for `self`, nor `window_sinks` for `StreamingLLM`.
    around = [name for name in names if small in name]
    described = [choice.name for choice in choices if small in choice.head.lower()]
    close = difflib.get_close_matches(small, names)
    near = list(dict.fromkeys([*close, *around, *described]))
    if near:
        return f"nothing is called {word!r}; did you mean {' or '.join(near[:5])}?"
    return f"nothing is called {word!r}; `lexp list` shows what there is"


def show_all(console: TableConsole, choices: list[Choice], catalogue: Catalogue) -> None:
    """Print a table for each of the main groups, the grid of what combines, and other groups."""
    for group in GROUPS:
        show_group(console, group, choices, catalogue)
    schemes, *methods = ([c for c in choices if c.group == group] for group in ("model", *METHODS))
    show_grid(console, schemes, [method for some in methods for method in some], catalogue)
    console.lines("", f"also: lexp list {' '.join(FURTHER)}")


def show_group(
    console: TableConsole, group: str, choices: list[Choice], catalogue: Catalogue
) -> None:
    """Print the choices of a group: schemes with their parameters, methods with their numbers."""
    table = Table(title=ALL_GROUPS[group], title_justify="left", box=None)
    numbers = {c.key: n for n, c in enumerate((c for c in choices if c.group in METHODS), 1)}
    for heading in ("", "learned") if group == "model" else ("",) * (1 + (group in METHODS)):
        table.add_column(heading)
    table.add_column("")
    for choice in (choice for choice in choices if choice.group == group):
        if group == "model":
            # Of mixers it says nothing: their parameters take the place of attention's.
            learned = "" if choice.has_mixers else f"{catalogue.learned[choice.name]:,}"
            table.add_row(choice.name, learned, choice.about)
        elif group in METHODS:
            table.add_row(str(numbers[choice.key]), choice.name, choice.about)
        else:
            table.add_row(choice.name, choice.about)
    console.print(table, *[""] * (group != "model"))
    if group == "model":
        console.lines("learned: position parameters at size=nano (4 layers, 4 heads of 32)", "")


def show_grid(
    console: TableConsole, schemes: list[Choice], methods: list[Choice], catalogue: Catalogue
) -> None:
    """Print a sign for every scheme and method; in several grids where one is too wide."""
    numbered = list(enumerate(methods, 1))
    name_width = max(len(scheme.name) for scheme in schemes)
    room = max(1, (console.width - name_width) // SIGN_WIDTH)
    parts = [numbered]
    if len(numbered) > room:
        by_group = [[(n, m) for n, m in numbered if m.group == group] for group in METHODS]
        parts = [some[at : at + room] for some in by_group for at in range(0, len(some), room)]
    for part in parts:
        title = "what combines (by the numbers above)"
        table = Table(
            title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
        )
        table.add_column("")
        for number, _ in part:
            table.add_column(str(number), justify="right", min_width=2, header_style="dim")
        for scheme in schemes:
            table.add_row(scheme.name, *(_sign(catalogue, scheme, method) for _, method in part))
        console.print(table)
    console.lines(
        "x: defined; t: up to the trained length only",
        "\u00b7: not defined; the reason: lexp list NAME",
        "bidirectional patterns are for models of objective=mlm, all others for causal models",
    )


def _sign(catalogue: Catalogue, scheme: Choice, method: Choice) -> str:
    if catalogue.ends(scheme, method):
        return "t"
    return "\u00b7" if catalogue.reason(scheme, method) else "x"


def show_one(
    console: TableConsole, choice: Choice, choices: list[Choice], catalogue: Catalogue
) -> None:
    """Print a choice's source and formula, its values, and what it combines with."""
    console.print(f"{choice.group}={choice.name}", style="bold")
    source = catalogue.sources.get(choice.key, "")
    lines = _refilled(source) if console.is_terminal else source.split("\n")
    console.lines("", *choice.text.rstrip().split("\n"), "", *[*lines, ""] * bool(source))
    if choice.group not in COMBINING:
        console.lines(f"next: {choice.command}", "")
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for other in choices:
        if {choice.group, other.group} in [{"model", method} for method in METHODS]:
            scheme, method = (choice, other) if choice.group == "model" else (other, choice)
            table.add_row(f"  {other.name}", _verdict(catalogue, scheme, method))
    console.print(table, "")
    if choice.group in METHODS:
        console.lines(f"next: {choice.command}", "")


def _verdict(catalogue: Catalogue, scheme: Choice, method: Choice) -> str:
    if catalogue.ends(scheme, method):
        return "defined up to the trained length only"
    if method.key == "attention/full" and scheme.name in catalogue.as_trained:
        return "as attention=[trained]: no layer was trained with full attention"
    return catalogue.reason(scheme, method) or "defined"


def _refilled(text: str) -> list[str]:
    """Return the lines of a docstring, one for a whole paragraph; formulas keep their lines.

    A paragraph that was filled for a file has ragged lines in a narrower terminal.
    """
    paragraphs = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        is_prose = not any(line.startswith(" ") for line in lines)
        paragraphs.append([" ".join(lines)] if is_prose else lines)
    return [line for lines in paragraphs for line in [*lines, ""]][:-1]
