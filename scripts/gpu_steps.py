"""Training steps on a device: of all schemes beside peers, and the memory of a larger model.

scripts/bench_gpu.py runs them and says what the tables are.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from contestants import BASE, PEERS, Contestant, Maker, Shape, enter, ours, plain, step
from omegaconf import OmegaConf

from lexp.attention import make_attend, make_flex
from lexp.system.errors import first_line
from lexp.system.files import config_folder

SCHEMES = ("rope", "t5", "alibi", "xpos", "nope", "kerple_log", "tisa")  # most telling first
KERNELS = {"tiles": make_attend, "flex": make_flex}
COMPILED = f"{BASE}, compiled"


def is_over(given: Any) -> bool:
    """Return whether nothing more is to be started."""
    return time.monotonic() > given.end


def wait(given: Any) -> None:
    """Until the device has done what it was given."""
    if given.device == "cuda":
        torch.cuda.synchronize()


def shape_of(size: str, given: Any, seq_len: int | None = None) -> Shape:
    """A choice of size= as contestants have it. seq_len: None for --seq-len."""
    device = torch.device(given.device)
    if given.tiny:
        return Shape(1, 32, 2, 64, 64, 32, device)
    node = OmegaConf.load(config_folder() / "size" / f"{size}.yaml")
    return Shape(
        node.n_layers, node.d_model, node.n_heads, node.d_ff, given.vocab,
        seq_len or given.seq_len, device,
    )  # fmt: skip


def compiled_plain(shape: Shape) -> tuple[torch.nn.Module, Callable]:
    """The base line, compiled."""
    model, loss = plain(shape)
    return model, torch.compile(loss)


def group(scheme: str, given: Any) -> dict[str, Maker]:
    """Who runs beside a scheme: all its ways, the plain model, and peers that have it."""
    # Toy runs compile nothing, and the kernel of flex is for a GPU.
    kernels = ("tiles",) if given.device == "cpu" else tuple(KERNELS)
    makers: dict[str, Maker] = {BASE: plain, COMPILED: plain if given.tiny else compiled_plain}
    for kernel in kernels:
        for compiled in (False,) if given.tiny else (False, True):
            name = f"lexp {scheme}, {kernel}" + ", compiled" * compiled
            makers[name] = partial(ours, scheme=scheme, make=KERNELS[kernel], compiled=compiled)
    rivals = {"kerple_log": "t5", "tisa": "t5"}.get(scheme, scheme)
    return makers | {name: make for name, make in PEERS.items() if rivals in name.split(" ")[-1]}


def memory(given: Any) -> int:
    """The most bytes that tensors took since the last reset."""
    return torch.cuda.max_memory_allocated() if given.device == "cuda" else 0


def clear(given: Any) -> int:
    """Forget what is free and the most that was in use; bytes in use now."""
    gc.collect()
    if given.device != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def said(error: Exception) -> str:
    """What went wrong, in a cell of a table."""
    first = first_line(error)
    return f"{type(error).__name__}: {first}"[:160].replace("|", "/")


def steps(given: Any) -> Iterator[str]:
    """A table for each scheme."""
    shape = shape_of("small", given)
    limit = given.batch * shape.seq_len * shape.token_flops / given.peak
    yield ""
    yield (
        f"## Training steps, size=small: {given.batch} x {shape.seq_len} tokens, vocabulary "
        f"{shape.vocab_size}\n\nA step's matrix products alone would take {limit * 1000:.3g} ms."
    )
    for scheme in given.schemes:
        torch.compiler.reset()
        yield from table_of_steps(scheme, shape, given)


def table_of_steps(scheme: str, shape: Shape, given: Any) -> Iterator[str]:
    """A scheme's contestants, in turns, fastest first."""
    contestants, grown, failed = [], {}, []
    for name, make in group(scheme, given).items():
        before = clear(given)
        if is_over(given):
            failed.append(f"| {name} | left out: the time was over | | | | | |")
            continue
        try:
            one = enter(name, make, shape)
            if one is None:
                continue
            started = time.perf_counter()
            rounds(one, shape, given, 1)
            rounds(one, shape, given, 1)  # the first one compiles
            print(f"{name}: ready in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        except Exception as error:  # whatever a library says: the others still run
            failed.append(f"| {name} | {said(error)} | | | | | |")
            one = None
            continue
        grown[name] = memory(given) - before
        contestants.append(one)
    for _ in range(given.rounds):
        for one in contestants:
            one.seconds.append(rounds(one, shape, given, given.steps))
    base = next((c.seconds for c in contestants if c.name == COMPILED), None)
    yield ""
    yield "| model | ms | of rounds | tokens/s | MFU | of plain compiled | GiB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    n_tokens = given.batch * shape.seq_len
    for one in sorted(contestants, key=lambda one: statistics.median(one.seconds)):
        took = statistics.median(one.seconds)
        low, high = min(one.seconds) * 1000, max(one.seconds) * 1000
        mfu = n_tokens * shape.token_flops / took / given.peak
        speed = "" if base is None else f"{ratio(base, one.seconds):.2f}x"
        yield (
            f"| {one.name} | {took * 1000:.1f} | {low:.1f} to {high:.1f} | "
            f"{n_tokens / took / 1000:.1f}k | {mfu:.0%} | {speed} | "
            f"{grown[one.name] / 2**30:.1f} |"
        )
    yield from failed


def ratio(base: list[float], own: list[float]) -> float:
    """How many times as fast, the median over rounds."""
    return statistics.median(b / o for b, o in zip(base, own, strict=True))


def rounds(one: Contestant, shape: Shape, given: Any, n_steps: int) -> float:
    """Seconds of a step, the mean over some that follow each other."""
    size = (given.batch, shape.seq_len + 1)
    wait(given)
    started = time.perf_counter()
    for _ in range(n_steps):
        ids = torch.randint(shape.vocab_size, size, device=shape.device)
        step(one, ids, given.dtype).item()  # as training does, for its log
    wait(given)
    return (time.perf_counter() - started) / n_steps


def memory_of_steps(given: Any) -> Iterator[str]:
    """A table of training steps of size=medium, 4 texts of 2048 tokens each."""
    batch, given.batch = given.batch, 2 if given.tiny else 4
    shape = shape_of("medium", given, 2048)
    yield ""
    yield f"## Memory, size=medium: {given.batch} x {shape.seq_len} tokens a step, not compiled"
    yield ""
    yield "| model | GiB | ms | MFU |"
    yield "| --- | ---: | ---: | ---: |"
    kernels = ("tiles",) if given.tiny else tuple(KERNELS)
    makers: dict[str, Maker] = {BASE: plain} | {
        f"lexp {scheme}, {kernel}": partial(ours, scheme=scheme, make=KERNELS[kernel])
        for scheme in ("rope", "t5") for kernel in kernels
    }  # fmt: skip
    for name, make in makers.items():
        before = clear(given)
        if is_over(given):
            yield f"| {name} | left out: the time was over | | |"
            continue
        try:
            one = enter(name, make, shape)
            assert one is not None, "ours needs no package"
            rounds(one, shape, given, 2)
            took = rounds(one, shape, given, given.steps)
        except Exception as error:  # out of memory: a row like any other
            yield f"| {name} | {said(error)} | | |"
            continue
        share = given.batch * shape.seq_len * shape.token_flops / took / given.peak
        used = (memory(given) - before) / 2**30
        yield f"| {name} | {used:.1f} | {took * 1000:.1f} | {share:.0%} |"
        del one
    given.batch = batch
