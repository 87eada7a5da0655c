"""The benchmark of the next GPU at hand runs, so that no time on it is lost."""

import os
import subprocess
import sys

from support import ROOT


def test_every_part_of_it_runs_at_toy_size(tmp_path):
    out = tmp_path / "table.md"
    command = [sys.executable, str(ROOT / "scripts" / "bench_gpu.py"), "--device", "cpu"]
    command += ["--tiny", "--schemes", "t5", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert text == done.stdout and "not a measurement" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    names = [row[0].strip("| ") for row in rows]
    steps = {"plain (learned positions)", "plain (learned positions), compiled", "lexp t5, tiles"}
    assert steps | {"2", "rope", "alibi"} <= set(names)
    # Nothing failed: every row has a number where its first one belongs.
    heads = {"model": 1, "processes": 1, "scheme": 3}
    for row in rows:
        if (first := row[0].strip("| ")) in heads:
            place = heads[first]
        elif not first.startswith("---"):
            float(row[place].rstrip("k"))
