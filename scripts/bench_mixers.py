"""What a training step of a recurrent layer costs beside attention, by sequence length.

    python scripts/bench_mixers.py [--lengths 256,512,2048,8192] [--tokens 8192] [--out FILE.md]

A layer of size=mini (mixer and feed-forward part) runs forward and backward on random states, on
one thread. Figures are processor seconds, so that a busy machine matters less; each ratio is of a
mixer and of attention measured one after the other, and the median of --repeats rounds is shown.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from bench_files import add_outputs, publish
from torch import Tensor

from lexp import __version__
from lexp.attention import make_attend
from lexp.model.mixer import GLA, KDA, GatedDeltaNet, Mamba2, Mixer, RetNet
from lexp.model.transformer import Block, Dims
from lexp.pattern import Full
from lexp.position import RoPE

DIMS = Dims(6, 384, 6, 64, 1536)  # size=mini
CPU = torch.device("cpu")
MIXERS: dict[str, type[Mixer]] = {
    "gla": GLA,
    "retnet": RetNet,
    "mamba2": Mamba2,
    "gated_delta_net": GatedDeltaNet,
    "kda": KDA,
}


def make_block(mixer: type[Mixer] | None) -> Block:
    """Return a layer with fresh weights; None stands for attention."""
    torch.manual_seed(0)
    if mixer is None:
        return Block(DIMS)
    block = Block(DIMS, lambda: mixer(DIMS.d_model, DIMS.n_heads, DIMS.head_dim))
    block.mixer.initialise()
    return block


def step(block: Block, x: Tensor, position: RoPE) -> float:
    """Return the processor seconds of a forward and a backward pass over x [B, T, d_model]."""
    started = time.process_time()
    attend = make_attend(Full(), x.shape[1], [position], CPU)
    block(x, position, attend, None).sum().backward()
    return time.process_time() - started


def measured(length: int, n_tokens: int, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each round by name; a round measures every layer once."""
    position, blocks = RoPE(DIMS.head_dim), {"attention": make_block(None)}
    blocks |= {name: make_block(mixer) for name, mixer in MIXERS.items()}
    x = torch.randn(max(1, n_tokens // length), length, DIMS.d_model, requires_grad=True)
    for block in blocks.values():
        step(block, x[:, : min(length, 256)], position)
    rounds = [{n: step(b, x, position) for n, b in blocks.items()} for _ in range(repeats)]
    return {name: [each[name] for each in rounds] for name in blocks}


def crossing(lengths: list[int], ratios: list[float]) -> str:
    """Return the length at which a ratio to attention falls below 1, between those measured."""
    if ratios[0] < 1:
        return f"below {lengths[0]}"
    for (n, ratio), (longer, later) in pairwise(zip(lengths, ratios, strict=True)):
        if later < 1:
            share = (ratio - 1) / (ratio - later)
            return f"about {round(n * (longer / n) ** share, -1):.0f}"
    return f"beyond {lengths[-1]}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(row) + " |" for row in lines]


def report(lengths: list[int], n_tokens: int, repeats: int, say: Callable[[str], None]) -> str:
    """Return the figures as Markdown."""
    found: dict[int, dict[str, list[float]]] = {}
    for length in lengths:
        found[length] = measured(length, n_tokens, repeats)
        say(f"{length}: " + ", ".join(f"{n} {min(s):.2f} s" for n, s in found[length].items()))
    seconds = [
        [name, *[f"{statistics.median(found[n][name]):.2f}" for n in lengths]]
        for name in ["attention", *MIXERS]
    ]
    rows = []
    for name in MIXERS:
        ratios = [
            statistics.median(
                own / other
                for own, other in zip(found[n][name], found[n]["attention"], strict=True)
            )
            for n in lengths
        ]
        rows.append([name, *[f"{ratio:.2f}x" for ratio in ratios], crossing(lengths, ratios)])
    by_length = [f"T = {n}" for n in lengths]
    return "\n".join(
        [
            f"lexp {__version__}, torch {torch.__version__}, {platform.machine()}, 1 thread, "
            "float32;",
            f"a layer of size=mini, {n_tokens} tokens a step, median of {repeats}.",
            "",
            *table(["processor seconds", *by_length], seconds),
            "",
            *table(["time over attention's", *by_length, "overtakes at"], rows),
            "",
        ]
    )


def main() -> None:
    """Measure, print and, with --out, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lengths", default="256,512,2048,8192")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    add_outputs(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lengths = sorted(int(n) for n in options.lengths.split(","))
    text = report(lengths, options.tokens, options.repeats, lambda line: print(line, flush=True))
    publish(text, options)


if __name__ == "__main__":
    main()
