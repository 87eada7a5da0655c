"""The benchmark of the next GPU at hand runs, so that no time on it is lost."""

import argparse
import importlib
import json
import math
import sys

import torch

from support import ROOT
from support.children import run
from support.spawned import Warm


def test_every_part_of_it_runs_at_toy_size(tmp_path, monkeypatch):
    """In forks, which saves three starts of Python."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    bench_gpu = importlib.import_module("bench_gpu")
    out, page, figures = (tmp_path / name for name in ("table.md", "page.md", "gpu.json"))
    page.write_text("# A page\n\n<!-- figures -->\nnone yet\n<!-- /figures -->\n\nGoals.\n")
    command = ["bench_gpu.py", "--device", "cpu", "--tiny", "--schemes", "t5", "--out", str(out)]
    command += ["--page", str(page), "--json", str(figures)]

    def action():
        sys.argv, bench_gpu.get_context = command, Warm
        bench_gpu.main()

    done = run(action, tmp_path / "said")
    assert done.code == 0, done.said
    text = out.read_text()
    assert text in done.said and "not a measurement" in text
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
    written = f"<!-- figures -->\n\n{text}\n<!-- /figures -->"
    assert page.read_text() == f"# A page\n\n{written}\n\nGoals.\n"
    # Both precisions of every scheme are within their limit of the reference in float64.
    parity = [row for row in rows if len(row) == 6 and row[2] in ("float32", "bfloat16")]
    assert len(parity) == 18 and {row[5].rstrip(" |") for row in parity} == {"yes"}
    (machine,) = json.loads(figures.read_text())["machines"].values()
    found = {(one["row"], one["column"]) for one in machine["figures"]}
    assert {("lexp t5, tiles", "MFU"), ("rope, tiles, float32", "error of outputs")} <= found


def test_what_would_start_too_late_says_so(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    bench_gpu = importlib.import_module("bench_gpu")
    given = argparse.Namespace(
        tiny=True, device="cpu", end=-math.inf, schemes=["rope"], batch=2, steps=1, rounds=1,
        processes=[2], document=4096, eval_size="nano", peak=1.0, float32=True, seq_len=32,
        dtype=torch.float32,
    )  # fmt: skip
    for name, n_rows in {"parity": 18, "memory": 3, "many": 1, "eval": 4}.items():
        lines = list(bench_gpu.PARTS[name](given))
        assert len([line for line in lines if "left out: the time was over" in line]) == n_rows
    lines = list(bench_gpu.PARTS["steps"](given))
    assert any(
        line.startswith("| lexp rope, tiles | left out: the time was over") for line in lines
    )
