"""What each instrument of `lexp analyze` takes in memory and time, by length.

    python scripts/bench_analyze.py [--attention full] [--lengths 2048 4096] [--only heads]
        [--out FILE.md] [--json FILE.json]

A fresh model as wide as size=nano reads random tokens: one text, or two where one is not enough.
Every figure is of a process of its own, which has looked at 512 tokens before: how much its peak
of resident memory then grows, pictures included, and how long looking and drawing take. Growth is
the exponent of memory between the last two lengths: 1 is linear, 2 an n x n array.
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
from typing import NamedTuple

import torch
from bench_files import add_outputs, publish

from lexp import __version__
from lexp.display.document import Chart
from lexp.display.png import chart_png
from lexp.instruments.base import AnalysisInput, CheckpointInfo, Instrument, LabelledMeasurement
from lexp.instruments.channels import PositionalChannels
from lexp.instruments.curves import Curves
from lexp.instruments.heads import Heads
from lexp.instruments.invariance import Invariance
from lexp.instruments.permutation import Permutation
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


class Setup(NamedTuple):
    """A table: the lengths under a pattern, and how many layers and heads the model has."""

    lengths: tuple[int, ...]
    layers: int
    heads: int


SETUPS = {"blockwise": Setup((16384, 32768), 4, 4), "full": Setup((8192, 16384), 1, 1)}


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
        "channels, nope": Case(PositionalChannels(), lambda heads: NoPE()),
        "permutation, nope": Case(Permutation(), lambda heads: NoPE()),
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


def measure(name: str, attention: str, length: int) -> None:
    """Of one case and length, in this process: a line of JSON, MiB more and seconds."""
    prepare_process()
    torch.manual_seed(0)
    case, setup = cases()[name], SETUPS[attention]
    dims = Dims(setup.layers, D_MODEL, setup.heads, HEAD_DIM, 4 * D_MODEL)
    model = Transformer(dims, 256, [LayerEntry(lambda: case.position(setup.heads))]).eval()
    measure_and_draw(case, model, attention, 512)
    before, started = peak_mib(), time.perf_counter()
    measure_and_draw(case, model, attention, length)
    print(json.dumps([peak_mib() - before, time.perf_counter() - started]))


def measured(name: str, attention: str, length: int, limit_s: float) -> tuple[float, float]:
    """Return the same from a process of its own; NaN where it was not done in time."""
    command = [sys.executable, __file__, "--child", name, attention, str(length)]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        return math.nan, math.nan
    mib, seconds = json.loads(done.stdout.splitlines()[-1])
    return mib, seconds


def row(name: str, attention: str, lengths: list[int], limit_s: float) -> str:
    """Return a line of the table: memory by length, its growth at the end, and time by length."""
    found = [measured(name, attention, length, limit_s) for length in lengths]
    late = f"not done in {limit_s:.0f} s"
    memory = [f"{mib:.0f}" if math.isfinite(mib) else late for mib, _ in found]
    times = [f"{seconds:.1f}" if math.isfinite(seconds) else "" for _, seconds in found]
    growth = ""
    if len(found) > 1 and all(mib > 1 for mib, _ in found[-2:]):
        growth = f"{math.log(found[-1][0] / found[-2][0], lengths[-1] / lengths[-2]):.2f}"
    return f"| {name} | {' | '.join(memory)} | {growth} | {' | '.join(times)} |"


def table(attention: str, given: argparse.Namespace) -> list[str]:
    """Return the table of a pattern; print its lines as they come."""
    setup = SETUPS[attention]
    lengths = given.lengths or list(setup.lengths)
    lines = [
        f"attention={attention}, {setup.layers} layer{'s' * (setup.layers > 1)}, "
        f"{setup.heads} head{'s' * (setup.heads > 1)}:",
        "",
        f"| instrument, scheme | {' | '.join(f'MiB at {n}' for n in lengths)} | growth | "
        f"{' | '.join(f's at {n}' for n in lengths)} |",
        "| --- |" + " ---: |" * (2 * len(lengths) + 1),
    ]
    for name in cases():
        if name.startswith(given.only):
            lines.append(row(name, attention, lengths, given.limit))
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    """Print the tables; write them too where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attention", choices=PATTERNS, nargs="+", default=list(PATTERNS))
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--limit", type=float, default=60, help="seconds for one figure")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    add_outputs(parser)
    given = parser.parse_args()
    if given.child:
        name, attention, length = given.child
        measure(name, attention, int(length))
        return
    lines = [
        f"lexp {__version__}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} thread(s), float32; heads of {HEAD_DIM}, d_model {D_MODEL}."
    ]
    for attention in given.attention:
        lines += ["", *table(attention, given)]
    publish("\n".join(lines), given)


if __name__ == "__main__":
    main()
