"""What evaluation costs: by length for bounded and full attention, and as a prefix sweep.

    python scripts/bench_eval.py [--longest 1048576] [--full 32768] [--threads 1] [--out FILE.md]

A model of size=nano with fresh weights reads random bytes; each figure is the median of --repeats
runs, interleaved. Growth is the exponent of time between neighbouring lengths. Memory is what this
process's peak grew by since the length before, after a first pass had warmed it up.
"""

import argparse
import math
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from bench_files import add_outputs, dtype_of, publish
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lexp import __version__, position
from lexp.attention import Attend, MakeAttend, make_attend
from lexp.attention.prepare import rotate
from lexp.data import Tokens
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Blockwise, Full, Pattern, Window
from lexp.scoring.protocol import Prefix
from lexp.scoring.scorer import Scorer
from lexp.system.runtime import prepare_process

TRAIN_LEN = 256
DIMS = Dims(4, 128, 4, 32, 512)  # size=nano
SCHEMES: dict[str, Callable[[], position.Position]] = {
    "sinusoidal": lambda: position.Sinusoidal(DIMS.d_model),
    "nope": position.NoPE,
    "rope": lambda: position.RoPE(DIMS.head_dim),
    "xpos": lambda: position.XPos(DIMS.head_dim),
    "alibi": lambda: position.ALiBi(DIMS.n_heads),
    "t5": lambda: position.T5(DIMS.n_heads),
    "kerple_log": lambda: position.KerpleLog(DIMS.n_heads),
    "tisa": lambda: position.TISA(DIMS.n_heads),
    "fox": lambda: position.FoX(DIMS.d_model, DIMS.n_heads),
    "fire": lambda: position.FIRE(DIMS.n_heads, TRAIN_LEN),
}


def text_of(n_tokens: int) -> Tokens:
    """One document of random bytes."""
    ids = np.random.default_rng(0).integers(0, 256, n_tokens + 1).astype(np.uint8)
    return Tokens(("random",), ids, np.array([0, n_tokens + 1]), None)


def seconds(scorer: Scorer, tokens: Tokens, lengths: list[int]) -> float:
    """Time of reading the text's beginning at each of these lengths."""
    (span,) = Prefix().spans(tokens, [max(lengths)], None)
    started = time.perf_counter()
    for length in lengths:
        scorer.score(tokens, list(Prefix().windows(span, length)))
    return time.perf_counter() - started


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def by_length(
    model: Transformer,
    pattern: Pattern,
    lengths: list[int],
    repeats: int,
    autocast: AbstractContextManager,
) -> list[str]:
    """Rows: pattern, length, time, tokens per second, growth, memory."""
    scorer, texts = Scorer(model, pattern, autocast), {n: text_of(n) for n in lengths}
    seconds(scorer, texts[lengths[0]], [lengths[0]])
    rows, before, held = [], None, peak_mib()
    times: dict[int, list[float]] = {n: [] for n in lengths}
    grown = {}
    for turn in range(repeats):
        for n in lengths:
            times[n].append(seconds(scorer, texts[n], [n]))
            if turn == 0:
                grown[n], held = peak_mib() - held, peak_mib()
    for n in lengths:
        took = statistics.median(times[n])
        exponent = "" if before is None else f"{math.log(took / before[1], n / before[0]):.2f}"
        rows.append(
            f"| {pattern.label} | {n} | {took:.2f} | {n / took / 1000:.1f}k | {exponent} | "
            f"{grown[n]:.0f} |"
        )
        before = n, took
    return rows


def prefix_ratio(
    model: Transformer,
    pattern: Pattern,
    longest: int,
    repeats: int,
    autocast: AbstractContextManager,
) -> str:
    """A sweep over lengths in one pass and pass by pass, as multiples of the longest alone."""
    lengths = [longest // 2**k for k in range(5, -1, -1)]
    scorer, text = Scorer(model, pattern, autocast), text_of(longest)
    (span,) = Prefix().spans(text, lengths, None)
    alone, shared, each = [], [], []
    for _ in range(repeats):
        alone.append(seconds(scorer, text, [longest]))
        started = time.perf_counter()
        nats = scorer.score(text, list(Prefix().windows(span, longest)))
        for length in lengths:
            nats[:length].mean(dtype=np.float64)
        shared.append(time.perf_counter() - started)
        each.append(seconds(scorer, text, lengths))
    one = statistics.median(alone)
    return (
        f"| {pattern.label} | {lengths[0]} .. {longest} | {one:.2f} s | "
        f"{statistics.median(shared) / one:.2f}x | {statistics.median(each) / one:.2f}x |"
    )


def by_one_mask(
    pattern: Pattern, seq_len: int, positions: Sequence[position.Position], device: torch.device
) -> Attend:
    """Attention as published code has it: a mask of seq_len x seq_len for the fused kernel."""
    at = torch.arange(seq_len)
    mask, factors = (
        pattern.branches[0].allowed(at[:, None], at),
        positions[0].rotary_factors(at, at, seq_len),
    )

    def attend(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scheme: position.Position,
        x: Tensor,
        sampled: Tensor | None,
    ) -> Tensor:
        assert factors is not None
        q, k = rotate(q, factors[0]), rotate(k, factors[1])
        return scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attend


def attention_seconds(model: Transformer, attend: Attend, n: int) -> float:
    """Time of one layer's attention alone, over n tokens."""
    q, k, v = torch.randn(3, 1, DIMS.n_heads, n, DIMS.head_dim).bfloat16()
    x = torch.zeros(1, n, DIMS.d_model)
    started = time.perf_counter()
    with torch.inference_mode():
        attend(q, k, v, model.position, x, None)
    return time.perf_counter() - started


def over_blockwise(
    model: Transformer, full: int, repeats: int, autocast: AbstractContextManager
) -> list[str]:
    """Rows: what else takes how many times as long as blockwise attention, in turns."""
    blockwise, cpu = Blockwise(TRAIN_LEN // 2), torch.device("cpu")

    def passes(pattern: Pattern, make: MakeAttend, n: int) -> Callable[[], float]:
        scorer, text = Scorer(model, pattern, autocast, make_attend=make), text_of(n)
        return lambda: seconds(scorer, text, [n])

    def alone(pattern: Pattern, make: MakeAttend, n: int) -> Callable[[], float]:
        attend = make(pattern, n, model.schemes, cpu)
        return lambda: attention_seconds(model, attend, n)

    rows = []
    for name, pattern, make, n in (
        ("full", Full(), make_attend, full), ("one mask", blockwise, by_one_mask, 4096)
    ):  # fmt: skip
        for what, timed in (("whole pass", passes), ("attention alone", alone)):
            theirs, ours = timed(pattern, make, n), timed(blockwise, make_attend, n)
            theirs(), ours()  # the first pass warms up
            pairs = [(theirs(), ours()) for _ in range(repeats)]
            ratios = [one / other for one, other in pairs]
            took = statistics.median(one for one, _ in pairs)
            rows.append(
                f"| {name}, {what} | {n} | {took:.3f} | {statistics.median(ratios):.1f}x | "
                f"{min(ratios):.1f} to {max(ratios):.1f} |"
            )
    return rows


def by_scheme(length: int, repeats: int, autocast: AbstractContextManager) -> list[str]:
    """Rows: CPU time of full attention at a length for each scheme, over that of sinusoidal's.

    One pass of each in turn; the median of the rounds' ratios, and their range.
    """
    text = text_of(length)
    times: dict[str, list[float]] = {name: [] for name in SCHEMES}
    scorers = {
        name: Scorer(Transformer(DIMS, 256, [LayerEntry(make)]).eval(), Full(), autocast)
        for name, make in SCHEMES.items()
    }
    for turn in range(repeats + 1):
        for name, scorer in scorers.items():
            started = time.process_time()
            seconds(scorer, text, [length])
            if turn:  # the first pass warms up
                times[name].append(time.process_time() - started)
    rows = []
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times["sinusoidal"], strict=True)]
        rows.append(
            f"| {name} | {length} | {statistics.median(own) * 1000:.0f} | "
            f"{statistics.median(ratios):.2f}x | {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    return rows


def main() -> None:
    """Print the tables; write them too where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--longest", type=int, default=1 << 17)
    parser.add_argument("--full", type=int, default=1 << 14)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--float32", action="store_true", help="also where auto is bfloat16")
    add_outputs(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    prepare_process()
    dtype = dtype_of(given)
    autocast = nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype)
    torch.manual_seed(0)
    model = Transformer(DIMS, 256, [LayerEntry(SCHEMES["rope"])]).eval()
    lengths = [4096 * 4**k for k in range(20) if 4096 * 4**k <= given.longest]
    full = [n for n in (4096, 8192, 16384, 32768, 65536) if n <= given.full]
    lines = [
        f"lexp {__version__}, torch {torch.__version__}, {platform.machine()}, {given.threads} "
        f"thread(s), {str(dtype).removeprefix('torch.')}; size=nano, RoPE, trained length "
        f"{TRAIN_LEN}, median of {given.repeats}.",
        "",
        "| attention | tokens | seconds | tokens/s | growth | MiB more |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *by_length(model, Blockwise(TRAIN_LEN // 2), lengths, given.repeats, autocast),
        *by_length(model, Window(TRAIN_LEN), lengths, given.repeats, autocast),
        *by_length(model, Full(), full, given.repeats, autocast),
        "",
        "| attention | prefix sweep | longest alone | one pass | a pass for each length |",
        "| --- | --- | ---: | ---: | ---: |",
        prefix_ratio(model, Full(), given.full, given.repeats, autocast),
        prefix_ratio(model, Blockwise(TRAIN_LEN // 2), given.longest, given.repeats, autocast),
        "",
        "| instead of blockwise | tokens | seconds | times as long | of rounds |",
        "| --- | ---: | ---: | ---: | ---: |",
        *over_blockwise(model, given.full, given.repeats, autocast),
        "",
        "| scheme, full attention | tokens | CPU ms | of sinusoidal | of rounds |",
        "| --- | ---: | ---: | ---: | ---: |",
        *by_scheme(1024, 5 * given.repeats, autocast),
        *by_scheme(min(16384, given.full), given.repeats, autocast),
    ]
    publish("\n".join(lines), given)


if __name__ == "__main__":
    main()
