"""Benchmarks: figures are those of the tables, and machines are compared by them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

TABLES = """lexp 0.1.0, torch 2.13.0, 1 thread(s)

256 tokens, 16 texts a step:

| model | step | of rounds | tokens/s | MFU |
| --- | ---: | ---: | ---: | ---: |
| lexp rope | 0.89x | 0.84 to 0.89 | 5.9k | 46% |
| plain (learned positions) | 1.00x | 1.00 to 1.00 | 5.2k | n/a |

| attention | tokens | seconds | growth |
| --- | ---: | ---: | ---: |
| blockwise-128 | 4096 | 0.04 | |

| | |
| --- | ---: |
| open the store | 0.01 s |
| begin, first batch | 0.1 s, 0.2 s |
"""


@pytest.fixture
def scripts(monkeypatch):
    """The modules of scripts/ that have no process of their own."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import bench_files
    import bench_machines

    return bench_files, bench_machines


def test_figures_are_the_numbers_of_the_tables(scripts):
    found = [
        (one["table"], one["row"], one["column"], one["value"])
        for one in scripts[0].figures(TABLES)
    ]
    at_256 = "256 tokens, 16 texts a step"
    assert found == [
        (f"{at_256}, model", "lexp rope", "step", 0.89),
        (f"{at_256}, model", "lexp rope", "tokens/s", 5900.0),
        (f"{at_256}, model", "lexp rope", "MFU", 0.46),
        (f"{at_256}, model", "plain (learned positions)", "step", 1.0),
        (f"{at_256}, model", "plain (learned positions)", "tokens/s", 5200.0),
        (f"{at_256}, attention", "blockwise-128, 4096", "seconds", 0.04),
        (at_256, "open the store", "", 0.01),
    ]


def test_a_second_run_on_a_machine_replaces_its_figures_and_no_others(scripts, tmp_path):
    path = tmp_path / "train.json"
    for machine, value in (("A", 1.0), ("B", 2.0), ("A", 3.0)):
        scripts[0].add_machine(path, machine, [{"value": value}])
    known = json.loads(path.read_text("utf-8"))
    assert known["benchmark"] == "train"
    assert {name: one["figures"] for name, one in known["machines"].items()} == {
        "A": [{"value": 3.0}], "B": [{"value": 2.0}],
    }  # fmt: skip


def entry(date: str, *figures: tuple[str, str, str, str]) -> dict:
    keys = "table", "row", "column", "text"
    return {
        "date": date, "command": "python scripts/bench_train.py", "versions": {"torch": "2.13.0"},
        "figures": [dict(zip(keys, one, strict=True)) for one in figures],
    }  # fmt: skip


def test_the_page_has_a_column_for_each_machine(scripts):
    at = "256 tokens"
    train = {
        "Old": entry("2026-01-02", (at, "rope", "step", "1.1x"), (at, "rope", "CPU ms", "900")),
        "New": entry("2026-03-04", (at, "rope", "step", "0.9x"), (at, "t5", "step", "1.0x")),
    }
    page = scripts[1].page([{"benchmark": "train", "machines": train}])
    assert page.startswith("# Machines compared\n\n2 machines, 1 benchmark.\n")
    assert [line for line in page.splitlines() if line.startswith("|")] == [
        "|  | step, A | step, B |",
        "| --- | ---: | ---: |",
        "| rope | 1.1x | 0.9x |",
        "| t5 |  | 1.0x |",
    ]  # CPU ms are not compared
    assert "\n256 tokens:\n" in page
    assert "- B: New, 2026-03-04,\n  `python scripts/bench_train.py`,\n  torch 2.13.0" in page


def test_the_published_page_is_that_of_the_published_figures(scripts):
    folder = ROOT / "docs" / "benchmarks"
    files = [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]
    assert (folder / "machines.md").read_text("utf-8") == scripts[1].page(files)


def bench(folder: Path, *names: str) -> subprocess.CompletedProcess:
    """Run bench.sh with an interpreter that writes down what it is asked."""
    (folder / "scripts").mkdir()
    (folder / "scripts" / "bench.sh").write_text((ROOT / "scripts" / "bench.sh").read_text("utf-8"))
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "$*"\n')
    python.chmod(0o755)
    command = ["bash", str(folder / "scripts" / "bench.sh"), *names]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_one_command_runs_those_that_are_named(tmp_path):
    ended = bench(tmp_path, "--quick", "cli", "train")
    assert ended.stdout.splitlines() == [
        "scripts/bench_cli.py --repeat 1 --json outputs/benchmarks/cli.json",
        "scripts/bench_train.py --rounds 1 --seq-len 256 --only nope rope alibi t5 "
        "--json outputs/benchmarks/train.json",
        "scripts/bench_machines.py --folder outputs/benchmarks",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_without_a_name_all_of_them_are_run_and_a_wrong_one_stops_before_the_first(tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "wrong").mkdir()
    asked = bench(tmp_path / "all").stdout.splitlines()
    named = {line.split()[0].removeprefix("scripts/bench_")[:-3] for line in asked}
    on_cpu = {path.stem.removeprefix("bench_") for path in (ROOT / "scripts").glob("bench_*.py")}
    assert named == on_cpu - {"gpu", "wandb", "files"}
    wrong = bench(tmp_path / "wrong", "cli", "trian")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert "trian: no benchmark; allowed: analyze cli" in wrong.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads what Linux says")
def test_the_memory_of_another_process_is_its_own(scripts):
    """getrusage has that of the process which started it, torch included."""
    from bench_data import peak_mb

    command = [sys.executable, "-c", "input(0)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.read(1) == b"0"  # it has begun
        found = peak_mb(child.pid)
        child.communicate(b"\n")
    assert 1 < found < peak_mb() / 2
