"""How long a user waits for each command: CPU seconds of a process of its own, imports included.

    python scripts/bench_cli.py [--repeat 3] [--out FILE.md]

Three runs of size=nano are trained for 8 steps each first, so that there is something to read. Of
the commands that change nothing the median of --repeat times is taken; the others run once.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from bench_files import add_outputs, publish

from lexp import __version__

SMALL = ("tokens=32768", "eval_tokens=2048", "device=cpu", "name=bench")
FEW = ("name=bench", "lengths=[128,256,512,1024]", "attention=[full]", "max_tokens=50000")
MANY = ("name=bench", "lengths=[64,128,256,512,1024,2048]", "max_tokens=20000")
# Ends with the first step, whose loss is the first thing that the progress display is told.
FIRST_STEP = """
import os, sys
from lexp.cli import main
from lexp.record.console import Console
Console.advance = lambda *arguments, **named: os._exit(0)
sys.argv = ["lexp", "train", "name=first", "device=cpu"]
main.main()
"""
LEXP = (sys.executable, "-m", "lexp")
# What is shown, the command, and whether it may be repeated.
MEASURED = (
    ("`lexp --help`", (*LEXP, "--help"), True),
    ("`lexp train --help`", (*LEXP, "train", "--help"), True),
    ("train, an unknown scheme", (*LEXP, "train", "model=xxpos"), True),
    ("train, an unknown key", (*LEXP, "train", "steps=10"), True),
    ("`lexp train model=xpos --cfg job`", (*LEXP, "train", "model=xpos", "--cfg", "job"), True),
    ("`lexp list`", (*LEXP, "list"), True),
    ("list, one name", (*LEXP, "list", "yarn"), True),
    ("list, an unknown name", (*LEXP, "list", "yarm"), True),
    ("`lexp status`, 3 runs", (*LEXP, "status", "name=bench"), True),
    ("`import torch`", (sys.executable, "-c", "import torch"), True),
    (
        "`import lexp.model.transformer`",
        (sys.executable, "-c", "import lexp.model.transformer"),
        True,
    ),
    ("train, to the first step (nano)", (sys.executable, "-c", FIRST_STEP), False),
    ("eval, 12 cells of 3 runs (nano, 0.05M tokens)", (*LEXP, "eval", *FEW), False),
    ("report, 3 runs of 4 cells", (*LEXP, "report", "name=bench"), True),
    ("eval, 54 cells of 3 runs (nano, 0.02M tokens)", (*LEXP, "eval", *MANY), False),
    ("report, 3 runs of 22 cells", (*LEXP, "report", "name=bench"), True),
)


def cpu_seconds(command: tuple[str, ...], folder: Path) -> float:
    """Return the CPU seconds of a command in a folder; its exit code does not matter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(repeat: int) -> str:
    """Measure everything and return it as a Markdown table."""
    lines = ["| command | CPU seconds |", "| --- | ---: |"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sweep = (*LEXP, "train", "-m", "model=rope,xpos,alibi", *SMALL)
        subprocess.run(sweep, cwd=folder, check=True, capture_output=True)
        for shown, command, repeated in MEASURED:
            times = [cpu_seconds(command, folder) for _ in range(repeat if repeated else 1)]
            lines.append(f"| {shown} | {statistics.median(times):.2f} |")
            print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    add_outputs(parser)
    options = parser.parse_args()
    measured = table(options.repeat)
    machine = (
        f"{date.today()}, lexp {__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, {os.cpu_count()} cores, one thread."
    )
    publish(f"{measured}\n\n{machine}", options)


if __name__ == "__main__":
    main()
