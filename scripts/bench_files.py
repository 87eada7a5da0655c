"""What all benchmarks write: their tables, and a JSON file with the figures of each machine.

A file docs/benchmarks/NAME.json holds the figures of a page for every machine that it was run on:

    {"benchmark": NAME, "machines": {MACHINE: {"date": ..., "command": ..., "versions": {...},
     "figures": [{"table": ..., "row": ..., "column": ..., "value": number, "text": cell}]}}}

The figures are read from the tables themselves, so that a page and its file cannot differ. A second
run on a machine replaces its figures. scripts/bench_machines.py compares machines.
"""

import argparse
import json
import os
import platform
import re
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

from lexp import __version__
from lexp.commands.study.results_file import processor
from lexp.system.runtime import choose_precision

NUMBER = re.compile(r"`?-?\d+(?:\.\d+)?(?:e[+-]\d+)?")
FACTORS = {"k": 1e3, "M": 1e6, "%": 0.01}


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the tables and the figures go."""
    parser.add_argument("--out", type=Path, help="write the tables to this file of Markdown")
    parser.add_argument("--json", type=Path, help="add the figures to this file")


def dtype_of(given: argparse.Namespace) -> torch.dtype:
    """Return the precision to measure in: that of precision=auto on this CPU, unless --float32."""
    auto = choose_precision("auto", torch.device("cpu"))
    return torch.float32 if given.float32 or auto == "float32" else torch.bfloat16


def publish(text: str, given: argparse.Namespace, device: str = "") -> None:
    """Print the tables; write them and their figures where the options say."""
    text = text.rstrip("\n") + "\n"
    print(text, end="")
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    if given.json:
        add_machine(given.json, machine_name(device), figures(text))


def add_machine(path: Path, machine: str, found: list[dict[str, Any]]) -> None:
    """Put a machine's figures into a file, in place of those it had there."""
    known = json.loads(path.read_text("utf-8"))["machines"] if path.exists() else {}
    known[machine] = {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "scripts/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "lexp": __version__, "torch": torch.__version__, "python": platform.python_version(),
        },
        "figures": found,
    }  # fmt: skip
    content = {"benchmark": path.stem, "machines": known}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def figures(text: str) -> list[dict[str, Any]]:
    """Return the numbers in tables of Markdown, with the names of table, row and column.

    A table's name is the last line of text before it that ends in a colon or is a heading, and its
    first cell; a row's are the cells before its first number. Ranges have no value.
    """
    found: list[dict[str, Any]] = []
    name, head = "", None
    for line in text.splitlines():
        if not line.startswith("|"):
            head = None
            if line.endswith(":") or line.startswith("#"):
                name = line.strip("#: ")
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if head is None:
            head = cells
        elif not set(line) <= set("|-: "):
            found += row_figures(", ".join(part for part in (name, head[0]) if part), head, cells)
    return found


def row_figures(name: str, head: list[str], cells: list[str]) -> list[dict[str, Any]]:
    """Return the numbers of a row; the first cell is never one of them."""
    values = [None, *[value_of(cell) for cell in cells[1:]]]
    first = next((n for n, value in enumerate(values) if value is not None), len(cells))
    # A second cell that counts tokens, as in tables of lengths, names the row as well.
    while first < len(head) and head[first] == "tokens":
        first += 1
    row = ", ".join(cell.replace("`", "") for cell in cells[:first] if cell)
    return [
        {"table": name, "row": row, "column": head[n], "value": values[n], "text": cells[n]}
        for n in range(first, len(cells))
        if values[n] is not None
    ]


def value_of(cell: str) -> float | None:
    """Return a cell's number (of "5.4k", "1.03x", "47%", "0.07 s"); None for ranges and words."""
    start = NUMBER.match(cell)
    if start is None or " to " in cell or "," in cell:
        return None
    value = float(start.group().strip("`"))
    unit = cell[start.end() :].strip()
    return value * FACTORS.get(unit[:1], 1.0) if len(unit) <= 1 else value


def machine_name(device: str = "") -> str:
    """Return the words that name this machine: its GPU, or its processor, units and cores."""
    if device:
        return device
    if torch.cpu._is_amx_tile_supported():
        units = "AMX"
    elif torch.cpu._is_avx512_bf16_supported():
        units = "AVX-512 bfloat16"
    else:
        units = torch.backends.cpu.get_cpu_capability()
    return f"{processor()}, {units}, {os.cpu_count()} cores"
