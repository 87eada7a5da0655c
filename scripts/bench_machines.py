"""Write docs/benchmarks/machines.md: the figures of all machines, from the JSON files beside it.

python scripts/bench_machines.py [--folder docs/benchmarks]
"""

import argparse
import json
from pathlib import Path
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
bash scripts/bench.sh   # an hour on two cores; --quick: some minutes, to outputs/benchmarks
```

Figures are comparable within a row; versions and dates differ by column.
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
    machines = sorted({name for one in benchmarks for name in one["machines"]})
    parts = [HEAD.format(answer=answer(machines, benchmarks))]
    parts += [section(one) for one in benchmarks]
    return "\n".join(parts)


def answer(machines: list[str], benchmarks: list[dict[str, Any]]) -> str:
    """Return the first sentence."""
    if not machines:
        return "No benchmark has been run yet."
    count = f"{len(machines)} machine{'s' * (len(machines) > 1)}"
    return f"{count}, {len(benchmarks)} benchmark{'s' * (len(benchmarks) > 1)}."


def section(benchmark: dict[str, Any]) -> str:
    """Return a benchmark's heading and its table, a column for each machine that ran it."""
    name, machines = benchmark["benchmark"], benchmark["machines"]
    shown = SHOWN.get(name)
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for machine, entry in machines.items():
        for figure in entry["figures"]:
            if shown is None or figure["column"] in shown:
                key = figure["table"], figure["row"], figure["column"]
                cells.setdefault(key, {})[machine] = figure["text"]
    rows = [
        [", ".join(part for part in key if part), *[found.get(one, "") for one in machines]]
        for key, found in cells.items()
    ]
    head = ["figure", *[f"{one} ({entry['date']})" for one, entry in machines.items()]]
    lines = [f"## {name}", "", of_each(machines), ""]
    lines += ["| " + " | ".join(row) + " |" for row in (head, ["---"] + ["---:"] * len(machines))]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def of_each(machines: dict[str, Any]) -> str:
    """Return the command and the versions of each machine's figures, as a list."""
    return "\n".join(
        f"- {name}: `{entry['command']}`,\n  "
        + ", ".join(f"{package} {version}" for package, version in entry["versions"].items())
        for name, entry in machines.items()
    )


if __name__ == "__main__":
    main()
