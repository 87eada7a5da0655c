"""What several runs at once are worth on one machine: trainings and evaluations, whole commands.

    python scripts/bench_runs.py [--runs 4] [--tokens 5e5] [--rounds 3] [--out FILE.md]

Each row is one `lexp` command over the same runs, timed from start to end, in turns with the
other of its table: one run after another on all cores, and side by side (a core for each, or on a
GPU --per-gpu of them). Throughput is over the first row's, the median of rounds.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench_files import add_outputs, publish

from lexp import __version__


def seconds(words: list[str]) -> float:
    """Time of one command of lexp, which must succeed."""
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", "lexp", *words], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"lexp {' '.join(words)} ended with {ended.returncode}:\n{ended.stderr}")
    return time.perf_counter() - started


def table(what: str, ways: dict[str, list[list[str]]], rounds: int) -> list[str]:
    """Rows: each way's commands, one for each round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, commands in ways.items():
            times[name].append(seconds(commands[turn]))
    first = next(iter(times.values()))
    rows = []
    for name, own in times.items():
        ratios = [a / b for a, b in zip(first, own, strict=True)]
        rows.append(
            f"| {what}, {name} | {statistics.median(own):.1f} | "
            f"{statistics.median(ratios):.2f}x | {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    return rows


def main() -> None:
    """Print the table; write it too where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--tokens", type=float, default=5e5, help="of each training")
    parser.add_argument("--scored", type=int, default=65536, help="tokens of each cell")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-gpu", type=int, default=4)
    parser.add_argument("--set", nargs="*", default=[], help="overrides of every command")
    add_outputs(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = measured(given, Path(folder))
    publish("\n".join(lines), given)


def measured(given: argparse.Namespace, folder: Path) -> list[str]:
    """The page: what was measured on, and the rows."""
    common = [f"outputs={folder}", *given.set]
    seeds = ",".join(str(n) for n in range(given.runs))
    at_once = ["hydra/launcher=local", f"hydra.launcher.per_gpu={given.per_gpu}"]

    def training(name: str, *words: str) -> list[list[str]]:
        line = ["train", "-m", "model=rope", f"seed={seeds}", f"tokens={given.tokens}"]
        rounds = range(given.rounds)
        return [[*line, *common, *words, f"name={name}-{turn}"] for turn in rounds]

    seconds(["train", "model=rope", "tokens=1e4", *common, "name=warm"])  # tokenises
    trainings = {"one after another": training("alone"), "side by side": training("many", *at_once)}
    rows = table("train", trainings, given.rounds)

    def evaluation(workers: int) -> list[list[str]]:
        line = ["eval", "lengths=[256,2048,8192]", f"max_tokens={given.scored}", *common]
        # Each way and round scores a study of its own: what is scored already is not scored again.
        study = "alone" if workers == 1 else "many"
        return [[*line, f"workers={workers}", f"name={study}-{n}"] for n in range(given.rounds)]

    n_workers = min(given.runs, torch.cuda.device_count() or os.cpu_count() or 1)
    evaluations = {"one after another": evaluation(1), "side by side": evaluation(n_workers)}
    rows += table("eval", evaluations, given.rounds)
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    return [
        f"lexp {__version__}, torch {torch.__version__}, {platform.machine()}, {on}; {given.runs} "
        f"runs of size=nano, {given.tokens:.0f} tokens each; {given.rounds} rounds in turns.",
        "",
        "| command | seconds | throughput | of rounds |",
        "| --- | ---: | ---: | ---: |",
        *rows,
    ]


if __name__ == "__main__":
    main()
