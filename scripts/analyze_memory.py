"""What each instrument of `lexp analyze` takes in memory and time, by length.

    python scripts/analyze_memory.py [--attention full] [--lengths 16384,32768,65536] [--out FILE]

A fresh model as wide as size=nano reads random tokens: one text, or two where one is not enough.
Every figure is of a process of its own, which has looked at 512 tokens before: how much its peak
of resident memory then grows, pictures included, and how long looking and drawing take. Growth is
the exponent of memory between neighbouring lengths: 1 is linear, 2 an n x n array.
"""

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from lexp import __version__
from lexp.display.document import Chart
from lexp.display.png import chart_png
from lexp.instruments.base import AnalysisInput, CheckpointInfo, Instrument, LabelledMeasurement
from lexp.instruments.curves import Curves
from lexp.instruments.heads import Heads
from lexp.instruments.invariance import Invariance
from lexp.instruments.position_probe import PositionProbe
from lexp.instruments.receptive import Receptive
from lexp.instruments.resolution import Resolution
from lexp.instruments.spectrum import Spectrum
from lexp.instruments.variance import Variance
from lexp.instruments.vectors import Vectors
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Blockwise, Full
from lexp.position import ALiBi, FoX, NoPE, Position, RoPE, Sinusoidal
from lexp.system.runtime import prepare_process

TRAIN_LEN = 256
D_MODEL, HEAD_DIM = 128, 32
PATTERNS = {"blockwise": Blockwise(TRAIN_LEN // 2), "full": Full()}


class Case(NamedTuple):
    """An instrument, a scheme it can look at, and how many texts it needs."""

    instrument: Instrument
    position: Callable[[int], Position]
    n_texts: int = 1


def cases() -> dict[str, Case]:
    """What is measured. The derivation inside `variance` is of a fixed size, here a small one."""
    small = Variance(d_model=64, n_heads=2, n_layers=2, seq_len=64)
    return {
        "heads, rope": Case(Heads(), lambda heads: RoPE(HEAD_DIM)),
        "resolution, rope": Case(Resolution(), lambda heads: RoPE(HEAD_DIM)),
        "curves, alibi": Case(Curves(), ALiBi),
        "curves, fox": Case(Curves(), lambda heads: FoX(D_MODEL, heads)),
        "variance, nope": Case(small, lambda heads: NoPE()),
        "vectors, nope": Case(Vectors(shifts=1), lambda heads: NoPE(), 2),
        "invariance, rope": Case(Invariance(), lambda heads: RoPE(HEAD_DIM)),
        "invariance, sinusoidal": Case(Invariance(), lambda heads: Sinusoidal(D_MODEL)),
        "spectrum, sinusoidal": Case(Spectrum(), lambda heads: Sinusoidal(D_MODEL)),
        "receptive, rope": Case(Receptive(), lambda heads: RoPE(HEAD_DIM)),
        "position_probe, nope": Case(PositionProbe(steps=20), lambda heads: NoPE(), 2),
    }


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_and_draw(case: Case, model: Transformer, attention: str, length: int) -> None:
    """Measure once and draw all pictures."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(256, (case.n_texts, length), generator=generator)
    inputs = AnalysisInput(model, PATTERNS[attention], texts, TRAIN_LEN, "random")
    measurement = case.instrument.measure(inputs)
    result = LabelledMeasurement(
        "model", attention, CheckpointInfo("random", 0, math.nan), 0, length, TRAIN_LEN, measurement
    )
    for item in case.instrument.show([result]):
        if isinstance(item, Chart):
            chart_png(item)


def measure(given: argparse.Namespace) -> None:
    """Of one case and length, in this process: a line of JSON, MiB more and seconds."""
    prepare_process()
    torch.manual_seed(0)
    case = cases()[given.child]
    dims = Dims(given.layers, D_MODEL, given.heads, HEAD_DIM, 4 * D_MODEL)
    model = Transformer(dims, 256, [LayerEntry(lambda: case.position(given.heads))]).eval()
    measure_and_draw(case, model, given.attention, 512)
    before, started = peak_mib(), time.perf_counter()
    (length,) = given.lengths
    measure_and_draw(case, model, given.attention, length)
    print(json.dumps([peak_mib() - before, time.perf_counter() - started]))


def measured(name: str, length: int, given: argparse.Namespace) -> tuple[float, float]:
    """The same in a process of its own; NaN where it was not done in time."""
    command = [sys.executable, __file__, "--child", name, "--attention", given.attention,
               "--lengths", str(length), "--layers", str(given.layers),
               "--heads", str(given.heads)]  # fmt: skip
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=given.limit
        )
    except subprocess.TimeoutExpired:
        return math.nan, math.nan
    mib, seconds = json.loads(done.stdout.splitlines()[-1])
    return mib, seconds


def row(name: str, given: argparse.Namespace) -> str:
    """A line of the table: memory and time of each length, and how memory grows at the end."""
    found = [measured(name, length, given) for length in given.lengths]
    memory = [f"{mib:.0f}" if math.isfinite(mib) else "" for mib, _ in found]
    times = [f"{seconds:.1f}" if math.isfinite(seconds) else "" for _, seconds in found]
    growth = ""
    if len(found) > 1 and all(mib > 1 for mib, _ in found[-2:]):
        ratio = found[-1][0] / found[-2][0]
        growth = f"{math.log(ratio, given.lengths[-1] / given.lengths[-2]):.2f}"
    return f"| {name} | {' | '.join(memory)} | {growth} | {' | '.join(times)} |"


def main() -> None:
    """Print the table, line by line; write it too where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", choices=PATTERNS, default="blockwise")
    parser.add_argument(
        "--lengths", type=lambda text: [int(n) for n in text.split(",")],
        default=[16384, 32768, 65536],
    )  # fmt: skip
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one figure")
    parser.add_argument("--child", choices=cases(), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.child:
        measure(given)
        return
    lengths = [str(n) for n in given.lengths]
    lines = [
        f"lexp {__version__}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} thread(s), float32; {given.layers} layer(s), {given.heads} "
        f"heads of {HEAD_DIM}, d_model {D_MODEL}; attention={given.attention}.",
        "",
        f"| instrument, scheme | {' | '.join(f'MiB at {n}' for n in lengths)} | growth | "
        f"{' | '.join(f's at {n}' for n in lengths)} |",
        "| --- |" + " ---: |" * (2 * len(lengths) + 1),
    ]
    print("\n".join(lines), flush=True)
    for name in cases():
        if name.startswith(given.only):
            lines.append(row(name, given))
            print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
