"""What training and evaluation take on a GPU, beside other people's models and what limits them.

    python scripts/bench_gpu.py --page docs/benchmarks/gpu.md --json docs/benchmarks/gpu.json
    python scripts/bench_gpu.py [--parts parity steps] [--schemes rope alibi] [--out FILE.md]
    python scripts/bench_gpu.py --device cpu --tiny        # all of it at toy size, in seconds

parity Every scheme by both kernels in float32 and bfloat16 against the reference in float64.
memory A training step of size=medium at 2048 tokens: time, and the most memory it takes.
steps  One training step (forward, backward, clipping, fused AdamW) of every scheme, by both
       kernels, compiled and not, beside the plainest GPT and the peers of that scheme. A scheme's
       contestants take turns, --rounds times; a ratio is the median of each round's to the
       compiled plain model.
many   Training runs of size=nano at once on one device, a process each: tokens of all of them
       a second, beside one alone.
eval   One document of a million tokens, scored whole: blockwise and full attention, seconds and
       memory.

What would start after --minutes is a row that says so. --page puts the tables between the markers
of a page.
MFU is model FLOPs over the fastest matrix product measured in the same run. What fails or is not
defined is a row that says why. Who the models are: scripts/contestants.py.
"""

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_files import add_machine, figures
from contestants import Shape, enter, ours, schemes
from gpu_parity import parity
from gpu_steps import (
    KERNELS,
    SCHEMES,
    clear,
    is_over,
    memory,
    memory_of_steps,
    rounds,
    said,
    shape_of,
    steps,
    wait,
)

from lexp import __version__
from lexp.data import Tokens
from lexp.model import chunked_cross_entropy as head_loss
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Blockwise, Full, Pattern
from lexp.scoring.protocol import Prefix
from lexp.scoring.scorer import Scorer
from lexp.system import runtime

NANO_TOKENS = 4096  # of a step of size=nano
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


def main() -> None:
    """Print the tables; write them too where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16, help="texts in a training step")
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="training steps in a round")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--document", type=int, default=1 << 20, help="tokens of the document")
    parser.add_argument("--eval-size", default="nano", help="a choice of size=")
    parser.add_argument("--head-logits", type=int, help="logits at a time of the output layer")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--float32", action="store_true", help="no bfloat16")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: only to see that it runs")
    parser.add_argument("--minutes", type=float, default=12, help="start nothing after so many")
    parser.add_argument("--out", type=Path, help="write the tables to this file of Markdown")
    parser.add_argument("--page", type=Path, help="and between the markers of this page")
    parser.add_argument("--json", type=Path, help="and their figures to this file")
    given = parser.parse_args()
    given.end = time.monotonic() + 60 * given.minutes
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("device cuda: this machine has none; allowed here: --device cpu --tiny")
    if given.tiny:
        given.rounds = given.steps = 1
        given.batch, given.processes, given.document = 2, [2], 4096
    if given.head_logits:
        head_loss.MAX_LOGITS["other"] = given.head_logits
    given.dtype = torch.float32 if given.float32 else torch.bfloat16
    runtime.prepare_process()
    torch.manual_seed(0)
    given.peak = matmul_peak(given)
    lines = heading(given)
    print("\n".join(lines), flush=True)
    for part in given.parts:
        for line in PARTS[part](given):
            print(line, flush=True)
            lines.append(line)
            write(lines, given)  # what is known stays if the rest is cut off


def write(lines: list[str], given: Any) -> None:
    """Write the tables and their figures where the options say."""
    text = "\n".join(lines) + "\n"
    if given.out:
        given.out.write_text(text)
    if given.page:
        given.page.write_text(between_markers(given.page.read_text("utf-8"), text), "utf-8")
    if given.json:
        add_machine(given.json, device_name(given), figures(text))


def between_markers(page: str, text: str) -> str:
    """Return a page with the text between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise SystemExit(f"the page has no {BEGIN} and {END}; add both lines to it")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def device_name(given: Any) -> str:
    """Return the name of the device that is measured."""
    return torch.cuda.get_device_name() if given.device == "cuda" else platform.machine()


def heading(given: Any) -> list[str]:
    """The machine, versions, and the two limits."""
    return [
        f"lexp {__version__}, torch {torch.__version__}, {device_name(given)}, "
        f"{str(given.dtype).removeprefix('torch.')}; {given.peak / 1e12:.3g} TFLOP/s in matrix "
        f"products, {copy_rate(given) / 1e9:.0f} GB/s in copies (read and written)."
        + " Toy sizes: not a measurement."
        * given.tiny,
    ]


def fastest(run: Callable[[], object], given: Any, repeats: int) -> float:
    """Seconds of the quickest of many runs."""
    best = float("inf")
    for _ in range(repeats):
        wait(given)
        started = time.perf_counter()
        run()
        wait(given)
        best = min(best, time.perf_counter() - started)
    return best


def matmul_peak(given: Any) -> float:
    """The fastest of many matrix products, FLOP a second."""
    size = 256 if given.tiny else 8192
    a = torch.randn(size, size, device=given.device).to(given.dtype)
    return 2 * size**3 / fastest(lambda: a @ a, given, 5 if given.tiny else 30)


def copy_rate(given: Any) -> float:
    """Bytes a second, read and written, of copies that no cache holds."""
    source = torch.empty(1 << (20 if given.tiny else 28), device=given.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest(lambda: target.copy_(source), given, 10)


def parity_of_kernels(given: Any) -> Iterator[str]:
    """A table of errors; toy runs have no kernel of flex, which is for a GPU."""
    kernels = {name: make for name, make in KERNELS.items() if name == "tiles" or not given.tiny}
    device = torch.device(given.device)
    sizes = (1, 32, 2, 64, 64, 40) if given.tiny else (1, 256, 4, 64, 64, 256)
    yield from parity(Shape(*sizes, device), kernels, partial(is_over, given))


def many(given: Any) -> Iterator[str]:
    """A table of processes."""
    yield ""
    yield "## Runs of size=nano at once: RoPE, 4096 bytes a step, not compiled"
    yield ""
    yield "| processes | tokens/s of all | of one |"
    yield "| ---: | ---: | ---: |"
    alone = 0.0
    for count in given.processes:
        if is_over(given):
            yield f"| {count} | left out: the time was over | |"
            continue
        rate = together(count, given)
        alone = alone or rate / count
        yield f"| {count} | {rate / 1000:.1f}k | {rate / alone:.2f}x |"


def together(count: int, given: Any) -> float:
    """Tokens a second that processes train on in all, from the last one's start on."""
    context = get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    n_steps = 3 if given.tiny else 300
    workers = [
        context.Process(target=train_alone, args=(given, n_steps, barrier, results), daemon=True)
        for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    took = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    return count * n_steps * NANO_TOKENS / max(took)


def train_alone(given: Any, n_steps: int, barrier: Any, results: Any) -> None:
    """One process: ready, wait for the others, train, tell the seconds."""
    torch.set_num_threads(1)
    runtime.prepare_process()
    sizes = (1, 32, 2, 64) if given.tiny else (4, 128, 4, 512)
    shape = Shape(*sizes, 256, 128, torch.device(given.device))
    one = enter("nano", partial(ours, scheme="rope"), shape)
    assert one is not None, "ours needs no package"
    given.batch = NANO_TOKENS // shape.seq_len
    rounds(one, shape, given, 3)
    barrier.wait(timeout=300)
    results.put(rounds(one, shape, given, n_steps) * n_steps)


def evaluation(given: Any) -> Iterator[str]:
    """A table of patterns, schemes and kernels."""
    n = given.document
    shape = shape_of(given.eval_size, given)
    ids = np.random.default_rng(0).integers(0, 64 if given.tiny else 256, n + 1).astype(np.uint8)
    text = Tokens(("random",), ids, np.array([0, n + 1]), None)
    yield ""
    yield f"## One document of {n} tokens, size={given.eval_size}, bytes, trained length 256"
    yield ""
    yield "| scheme | attention | kernel | seconds | tokens/s | of the FLOP limit | GiB |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    kernels = ("tiles",) if given.device == "cpu" else tuple(KERNELS)
    for scheme in ("rope", "alibi"):
        for pattern in (Blockwise(128), Full()):
            for kernel in kernels:
                row = f"| {scheme} | {pattern.label} | {kernel} | "
                if is_over(given):
                    yield f"{row}left out: the time was over | | | |"
                    continue
                try:
                    yield row + scored(scheme, pattern, kernel, shape, text, given)
                except Exception as error:  # out of memory, not defined: a row like any other
                    yield f"{row}{said(error)} | | | |"


def scored(
    scheme: str, pattern: Pattern, kernel: str, shape: Shape, text: Tokens, given: Any
) -> str:
    """Cells of a row: the second of two passes."""
    n = given.document
    dims = Dims(shape.n_layers, shape.d_model, shape.n_heads, shape.head_dim, shape.d_ff)
    vocab_size = 64 if given.tiny else 256
    model = (
        Transformer(dims, vocab_size, [LayerEntry(schemes(shape)[scheme])]).to(shape.device).eval()
    )
    autocast = torch.autocast(given.device, dtype=given.dtype, enabled=not given.float32)
    scorer = Scorer(model, pattern, autocast, make_attend=KERNELS[kernel])
    (span,) = Prefix().spans(text, [n], None)
    windows = list(Prefix().windows(span, n))
    clear(given)
    if kernel == "flex":
        scorer.score(text, windows)  # compiles
    started = time.perf_counter()
    nats = scorer.score(text, windows)
    wait(given)
    took = time.perf_counter() - started
    assert np.isfinite(nats).all(), "losses are not finite"
    weights = shape.n_layers * (4 * shape.d_model**2 + 2 * shape.d_model * shape.d_ff)
    keys = float(pattern.n_keys(torch.arange(n)).double().mean())
    per_token = 2 * (weights + shape.d_model * vocab_size)
    per_token += 4 * shape.n_layers * shape.d_model * keys
    share = n * per_token / given.peak / took
    return f"{took:.2f} | {n / took / 1000:.0f}k | {share:.0%} | {memory(given) / 2**30:.2f} |"


PARTS: dict[str, Callable[[Any], Iterator[str]]] = {
    "parity": parity_of_kernels, "memory": memory_of_steps, "many": many, "eval": evaluation,
    "steps": steps,
}  # fmt: skip


if __name__ == "__main__":
    main()
