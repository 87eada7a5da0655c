"""What a training step costs: our schemes, and other people's models of the same size.

    python scripts/bench_train.py [--seq-len 256 512] [--threads 1] [--float32] [--out FILE.md]

Every model has 6 layers, d_model 256, 8 heads, feed-forward 1024, an untied head over 4096 tokens;
every step reads 4096 tokens, goes back, clips and takes a step of fused AdamW. One step of each in
turn, --rounds times, in one process: what slows one down slows all, and what `lexp train` asks of
the system (denormals flushed, freed memory kept) serves all. Times are CPU seconds of the process;
a ratio is the median of each round's. MFU is against the fastest matrix product measured here.
Who they are: scripts/contestants.py.
"""

import argparse
import platform
import statistics
import time
from functools import partial

import torch
from bench_files import add_outputs, dtype_of, publish
from contestants import BASE, PEERS, Contestant, Maker, Shape, enter, ours, plain, schemes, step

from lexp import __version__
from lexp.system.runtime import prepare_process

STEP_TOKENS = 4096


def shape_of(seq_len: int) -> Shape:
    """Sizes of all models at a length."""
    return Shape(6, 256, 8, 1024, 4096, seq_len, torch.device("cpu"))


MAKERS: dict[str, Maker] = {
    BASE: plain,
    **{f"lexp {scheme}": partial(ours, scheme=scheme) for scheme in schemes(shape_of(1))},
    **PEERS,
}


def timed(one: Contestant, ids: torch.Tensor, dtype: torch.dtype) -> float:
    """CPU seconds of one whole step."""
    started = time.process_time()
    step(one, ids, dtype)
    return time.process_time() - started


def matmul_peak(dtype: torch.dtype) -> float:
    """The fastest of many matrix products, FLOP per CPU second."""
    a = torch.randn(2048, 2048).to(dtype)
    best = 0.0
    for _ in range(20):
        started = time.process_time()
        a @ a
        best = max(best, 2 * 2048**3 / (time.process_time() - started))
    return best


def table(
    seq_len: int, names: list[str], rounds: int, dtype: torch.dtype, peak: float
) -> list[str]:
    """Everyone at one length, fastest first."""
    shape = shape_of(seq_len)
    contestants = [one for name in names if (one := enter(name, MAKERS[name], shape))]
    ids = torch.randint(0, shape.vocab_size, (STEP_TOKENS // seq_len, seq_len + 1))
    for turn in range(rounds + 1):
        for one in contestants:
            took = timed(one, ids, dtype)
            if turn:  # the first pass warms up
                one.seconds.append(took)
    by_name = {one.name: one.seconds for one in contestants}
    rows = []
    for one in sorted(contestants, key=lambda one: statistics.median(one.seconds)):
        ratios = [a / b for a, b in zip(one.seconds, by_name[BASE], strict=True)]
        took = statistics.median(one.seconds)
        mfu = STEP_TOKENS * shape.token_flops / took / peak
        rows.append(
            f"| {one.name} | {statistics.median(ratios):.2f}x | {min(ratios):.2f} to "
            f"{max(ratios):.2f} | {took * 1000:.0f} | {STEP_TOKENS / took / 1000:.1f}k | "
            f"{mfu:.0%} |"
        )
    return [
        "",
        f"{seq_len} tokens, {STEP_TOKENS // seq_len} texts a step:",
        "",
        "| model | step | of rounds | CPU ms | tokens/s | MFU |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]


def main() -> None:
    """Print a table for each length; write them too where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seq-len", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--float32", action="store_true", help="also where auto is bfloat16")
    parser.add_argument("--only", nargs="+", default=[], help="names that contain one of these")
    add_outputs(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    prepare_process()
    dtype = dtype_of(given)
    peak = matmul_peak(dtype)
    names = [n for n in MAKERS if n == BASE or not given.only or any(w in n for w in given.only)]
    lines = [
        f"lexp {__version__}, torch {torch.__version__}, {platform.machine()}, {given.threads} "
        f"thread(s), {str(dtype).removeprefix('torch.')}, {peak / 1e9:.0f} GFLOP/s in matrix "
        f"products; median of {given.rounds} interleaved rounds, as multiples of {BASE}.",
    ]
    for seq_len in given.seq_len:
        lines += table(seq_len, names, given.rounds, dtype, peak)
    publish("\n".join(lines), given)


if __name__ == "__main__":
    main()
