"""docs/results.md and its picture are what scripts/results_page.py makes of docs/results.csv."""

import importlib.util
import math
import sys

import pytest
import yaml

from lexp.commands.study.results_file import ALL_COLUMNS
from lexp.result_store import write_csv
from support import ROOT

WITHIN = "fixed-by-32-256"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "results_page", ROOT / "scripts" / "results_page.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["results_page"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["results_page"]


def test_the_generated_part_is_what_the_script_writes(script):
    expected = yaml.safe_load(script.STUDY.read_text(encoding="utf-8"))["expected"]
    part = script.generated(script.read(script.FILE), script.wanted(script.STUDY), expected)
    there = script.PAGE.read_text(encoding="utf-8")
    assert script.page(there, part) == there, "run: python scripts/results_page.py"


def row(
    model: str, length: int, nats: list[float], seed: int = 0, attention: str = "full",
    protocol: str = "fixed-by-64-2048",
):  # fmt: skip
    """A row of ten documents of 100 tokens each, with these nats per token."""
    nll = sum(nats) / len(nats)
    values = {
        "run": f"{model}-s{seed}", "model": model, "seed": seed, "train_len": 256,
        "attention": attention, "extension": "none", "protocol": protocol,
        "length": length, "documents": len(nats), "tokens": 100 * len(nats), "nll": nll,
        "ppl": math.exp(nll), "status": "ok", "text": "aa", "targets": "t", "commit": "c" * 40,
        "command": "lexp study", "processor": "a processor", "precision": "bfloat16",
        "by_document": " ".join(f"{100 * one:.4f}/100" for one in nats),
    }  # fmt: skip
    return {column: values.get(column, "") for column in ALL_COLUMNS}


def test_the_page_is_made_from_the_file_alone(script, tmp_path):
    spread = [0.01 * n for n in range(10)]
    flat = [0.0] * 10

    def plus(value: float, more: list[float]) -> list[float]:
        return [value + one for one in more]

    rows = [
        *(row("rope", 64, plus(1.6 + seed / 5, spread), seed) for seed in (0, 1)),
        *(row("rope", 256, plus(1.5 + seed / 5, flat), seed) for seed in (0, 1)),
        # Other targets, with no more context than was trained: a gain of 0.045 and a spread.
        *(row("rope", 64, plus(1 + seed / 5, spread), seed, protocol=WITHIN) for seed in (0, 1)),
        *(row("rope", 256, plus(1 + seed / 5, flat), seed, protocol=WITHIN) for seed in (0, 1)),
        *(row("rope", 2048, plus(3.5 + seed / 5, flat), seed) for seed in (0, 1)),
        *(row("rope", 2048, plus(1.4 + seed / 5, flat), seed, "window") for seed in (0, 1)),
        # Against the baseline's mean of 1.6 at 256: -0.045 on average, and from -0.09 to 0.
        row("alibi", 64, plus(1.51, spread)), row("alibi", 256, plus(1.51, spread)),
        row("alibi", 2048, plus(1.51, spread)),
        row("alibi", 64, plus(1.2, spread), protocol=WITHIN),
        row("alibi", 256, plus(1.2, spread), protocol=WITHIN),
    ]  # fmt: skip
    path = tmp_path / "results.csv"
    write_csv(path, ALL_COLUMNS, rows)
    schemes = {"rope": {0, 1}, "alibi": {0, 1}, "xpos": {0}}
    text = script.generated(script.read(path), schemes, [])
    assert "**Missing** (planned, not reached): `alibi` (seed 1), `xpos`." in text
    lines = {line.split(" |")[0]: line for line in text.splitlines() if line.startswith("| `")}
    as_trained = next(line for line in text.splitlines() if line.startswith("| `alibi` | 1 |"))
    assert f"| {math.exp(1.555):.2f} | {math.exp(1.555):.2f} |" in as_trained
    # The gain within the own context is 0 in each document, and so is its interval.
    assert "| +0.0000 ±0.0000 |" in as_trained and "| **-0.0450 ±0.0" in as_trained
    rope = next(line for line in text.splitlines() if line.startswith("| `rope` | 2 |"))
    spread_of_seeds = (math.exp(1.7) - math.exp(1.5)) / 2
    assert f"| {math.exp(1.6):.2f} ±{spread_of_seeds:.2f} |" in rope
    assert "| **+0.0450 ±0.0" in rope and "| **-2.0000 ±0.0000** |" in rope
    assert "RoPE gains 0.0450 nats per token" in text and ": met." in text
    # ALiBi at 2048 is 0.055 above the baseline in its window, mean 1.5.
    assert "| **+0.0550 ±0.0" in lines["| `alibi`"] and text.count("| `alibi` |") == 3
