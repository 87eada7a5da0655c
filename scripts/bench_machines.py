"""Write docs/benchmarks/machines.md: the figures of all machines, from the JSON files beside it.

python scripts/bench_machines.py [--folder docs/benchmarks]
"""

import argparse
import json
from pathlib import Path
from string import ascii_uppercase
from typing import Any

# Columns that are compared; of a benchmark that is not named here, all.
SHOWN = {
    "train": ("step", "tokens/s", "MFU"),
    "eval": ("seconds", "one pass", "times as long", "of sinusoidal"),
    "layers": ("over gpt's step", "forward and backward", "time over that mean"),
    "results": ("CPU s",),
    "runs": ("throughput",),
    "tasks": ("tokens/s", "rate to text's"),
}
HEAD = """# Machines compared

{answer}

To add the figures of your machine to the JSON files in this folder, and to write this page anew:

```bash
bash scripts/bench.sh   # 90 minutes on two cores; --quick: 7, to outputs/benchmarks
```

Machines have letters, next to each other in every column; versions and dates differ.
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/benchmarks"))
    folder = parser.parse_args().folder
    files = sorted(folder.glob("*.json"))
    (folder / "machines.md").write_text(
        page([json.loads(file.read_text("utf-8")) for file in files]), encoding="utf-8"
    )


def page(benchmarks: list[dict[str, Any]]) -> str:
    """Return the page: what was measured where, then a table for each benchmark."""
    machines = list(dict.fromkeys(name for one in benchmarks for name in one["machines"]))
    letters = dict(zip(machines, ascii_uppercase, strict=False))
    parts = [HEAD.format(answer=answer(machines, benchmarks))]
    parts += [section(one, letters) for one in benchmarks]
    return "\n".join(parts)


def answer(machines: list[str], benchmarks: list[dict[str, Any]]) -> str:
    """Return the first sentence."""
    if not machines:
        return "No benchmark has been run yet."
    count = f"{len(machines)} machine{'s' * (len(machines) > 1)}"
    return f"{count}, {len(benchmarks)} benchmark{'s' * (len(benchmarks) > 1)}."


def section(benchmark: dict[str, Any], letters: dict[str, str]) -> str:
    """Return a benchmark's heading, its machines by letter, and its tables."""
    name, machines = benchmark["benchmark"], benchmark["machines"]
    shown = SHOWN.get(name)
    tables: dict[str, dict[str, dict[tuple[str, str], str]]] = {}
    for machine, entry in machines.items():
        for figure in entry["figures"]:
            if shown is None or figure["column"] in shown:
                row = tables.setdefault(figure["table"], {}).setdefault(figure["row"], {})
                row[figure["column"], letters[machine]] = figure["text"]
    parts = [f"## {name}", "", of_each(machines, letters), ""]
    for title, rows in tables.items():
        parts += [f"{title}:", ""] * bool(title) + table(rows) + [""]
    return "\n".join(parts)


def table(rows: dict[str, dict[tuple[str, str], str]]) -> list[str]:
    """Return a table of rows: machines next to each other in every column."""
    columns = list(dict.fromkeys(column for cells in rows.values() for column, _ in cells))
    found = {key for cells in rows.values() for key in cells}
    keys = sorted(found, key=lambda key: (columns.index(key[0]), key[1]))
    head = ["", *[f"{column}, {letter}" for column, letter in keys]]
    lines = [head, ["---"] + ["---:"] * len(keys)]
    lines += [[row, *[cells.get(key, "") for key in keys]] for row, cells in rows.items()]
    return ["| " + " | ".join(line) + " |" for line in lines]


def of_each(machines: dict[str, Any], letters: dict[str, str]) -> str:
    """Return the date, the command and the versions of each machine's figures, as a list."""
    return "\n".join(
        f"- {letters[name]}: {name}, {entry['date']},\n  `{entry['command']}`,\n  "
        + ", ".join(f"{package} {version}" for package, version in entry["versions"].items())
        for name, entry in machines.items()
    )


if __name__ == "__main__":
    main()
