"""What trunks and lists of layers cost in a training step, against what they are made of.

    python scripts/bench_layers.py [--rounds 25] [--seq-len 256] [--float32] [--out FILE.md]

Four questions, one table each: a trunk against trunk=gpt of the same d_model; a list of layers
that are all alike against the short form; a hybrid against the mean of models that have one of its
layers everywhere; attention with sink logits by the fused kernel against scores in chunks. Models
have 8 layers of d_model 256 and read 2048 tokens a step. One step of each in turn is a round; times
are CPU seconds of the process, ratios are medians over rounds. Operators are counted by a dispatch
mode over a whole step. "Kept" is what a step keeps for its backward pass, without weights.
"""

import argparse
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from bench_files import add_outputs, dtype_of, publish
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lexp import __version__
from lexp.attention import Attend, AttentionFunction, AttentionInput, Chunked, Tiles, make_attend
from lexp.attention.heads import for_each_query
from lexp.model.layers import LayerEntry, in_turns
from lexp.model.mixer import KDA, GatedDeltaNet, Mamba2
from lexp.model.transformer import Dims, Transformer
from lexp.model.trunk import GPT, RMSNorm, SwiGLU, Trunk, matched_d_ff
from lexp.pattern import Full, InTurns, NoAttention, OwnChunk, Pattern, Window
from lexp.position import NoPE, RoPE, SinkLogits, Sum
from lexp.system.runtime import prepare_process

CPU = torch.device("cpu")
DIMS, VOCAB, STEP_TOKENS = Dims(8, 256, 4, 64, 1024), 256, 2048
LLAMA = Trunk(norm=RMSNorm(), mlp=SwiGLU())


class CountOperators(TorchDispatchMode):
    """Counts of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and count it."""
        self.counts[str(function)] += 1
        return function(*args, **kwargs or {})


class Repeated(AttentionFunction):
    """Attention that gets a key for each query head, as all kernels did before they shared them."""

    def __init__(self, function: AttentionFunction):
        self.function = function

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        n_heads = inputs.q.shape[1]
        k, v = for_each_query(inputs.k, n_heads), for_each_query(inputs.v, n_heads)
        return self.function.attend(inputs._replace(k=k, v=v))


@dataclass
class Contestant:
    """A model, its attention, and the seconds of its steps."""

    model: Transformer
    attend: Attend
    seconds: list[float]

    def step(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the loss of a step: forward, backward, gradients cleared."""
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = self.model.loss(ids[:, :-1], ids[:, 1:], self.attend)
        loss.backward()
        self.model.zero_grad()
        return loss.detach()


Wrap = Callable[[AttentionFunction], AttentionFunction]


def make(
    entries: Sequence[LayerEntry], seq_len: int, trunk: Trunk = GPT, dims: Dims = DIMS,
    wrap: Wrap = lambda function: function,
) -> Contestant:  # fmt: skip
    """Return a model of entries in turns, with fresh weights."""
    torch.manual_seed(0)
    model = Transformer(dims, VOCAB, entries, trunk=trunk)
    patterns = [e.pattern.fit(seq_len, seq_len) for e in in_turns(entries, dims.n_layers)]
    pattern: Pattern = patterns[0]
    if len(entries) > 1:
        pattern = InTurns(tuple(patterns[: len(entries)]))
    return Contestant(model, wrap(make_attend(pattern, seq_len, model.schemes, CPU)), [])


def race(contestants: dict[str, Contestant], seq_len: int, rounds: int, dtype: torch.dtype) -> None:
    """Measure one step of each in turn, after one that warms up."""
    torch.manual_seed(1)
    ids = torch.randint(VOCAB, (STEP_TOKENS // seq_len, seq_len + 1))
    for turn in range(rounds + 1):
        for one in contestants.values():
            started = time.process_time()
            one.step(ids, dtype)
            if turn:
                one.seconds.append(time.process_time() - started)


def counts(one: Contestant, seq_len: int, dtype: torch.dtype) -> Counter[str]:
    """Return how often each operator runs in a step."""
    ids = torch.zeros(STEP_TOKENS // seq_len, seq_len + 1, dtype=torch.long)
    with CountOperators() as seen:
        one.step(ids, dtype)
    return seen.counts


def kept_bytes(one: Contestant, seq_len: int, dtype: torch.dtype) -> int:
    """Return the bytes that a step keeps for the backward pass, beside weights."""
    weights = {p.untyped_storage().data_ptr() for p in one.model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    ids = torch.zeros(STEP_TOKENS // seq_len, seq_len + 1, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        one.step(ids, dtype)
    return sum(kept.values())


def ratio(seconds: list[float], base: list[float]) -> list[str]:
    """Return the median of the rounds' ratios, and the ratio of the least times."""
    median = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
    return [f"{median:.3f}x", f"{min(seconds) / min(base):.3f}x"]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["", *["| " + " | ".join(row) + " |" for row in lines]]


def entry(position: Callable[[], Any] = NoPE, pattern: Pattern | None = None) -> LayerEntry:
    """Return an entry with attention."""
    return LayerEntry(position, pattern or Full())


ROPE = partial(RoPE, DIMS.head_dim)


def rope_with_sinks() -> Sum:
    """Return RoPE with a sink logit per head."""
    return Sum([RoPE(DIMS.head_dim), SinkLogits(DIMS.n_heads)])


def recurrent(mixer: type[Any]) -> LayerEntry:
    """Return an entry of a recurrent mixer."""
    make_mixer = partial(mixer, DIMS.d_model, DIMS.n_heads, DIMS.head_dim)
    return LayerEntry(pattern=NoAttention(), make_mixer=make_mixer)


def plans() -> dict[str, list[LayerEntry]]:
    """Return hybrids by name, as conf/model has them."""
    quarter, half = Window(share=0.25), Window(share=0.5)
    return {
        "swan": [*[entry(ROPE, quarter)] * 3, entry()],
        "irope": [*[entry(ROPE, OwnChunk(share=0.5))] * 3, entry()],
        "smollm3": [*[entry(ROPE)] * 3, entry()],
        "gpt_oss": [entry(rope_with_sinks, quarter), entry(rope_with_sinks)],
        "samba": [recurrent(Mamba2), entry(ROPE, half)],
        "qwen3_next": [*[recurrent(GatedDeltaNet)] * 3, entry(ROPE)],
        "kimi_linear": [*[recurrent(KDA)] * 3, entry()],
    }


def trunks(seq_len: int, rounds: int, dtype: torch.dtype) -> list[str]:
    """Return the table of trunks with RoPE."""
    halved = DIMS.n_heads // 2
    left_out = (DIMS.n_heads - halved) * DIMS.head_dim
    n_inputs = LLAMA.mlp.n_inputs
    shared = replace(DIMS, n_kv_heads=halved, d_ff=matched_d_ff(DIMS.d_ff, left_out, 0, n_inputs))
    whole = replace(DIMS, d_ff=matched_d_ff(DIMS.d_ff, 0, 0, n_inputs))
    rope, sinks = [entry(ROPE)], [entry(rope_with_sinks)]
    contestants = {
        "gpt": make(rope, seq_len),
        "llama": make(rope, seq_len, LLAMA, shared),
        "llama, keys repeated": make(rope, seq_len, LLAMA, shared, Repeated),
        "llama, n_kv_heads=all": make(rope, seq_len, LLAMA, whole),
        "llama_sinks": make(sinks, seq_len, LLAMA, shared),
    }
    in_chunks = make(sinks, seq_len, LLAMA, shared)
    scheme = in_chunks.model.schemes[0]
    in_chunks.attend = ByScheme(Chunked(Full(), seq_len, scheme, CPU))
    contestants["llama_sinks, in chunks"] = in_chunks
    kept = {name: kept_bytes(one, seq_len, dtype) for name, one in contestants.items()}
    race(contestants, seq_len, rounds, dtype)
    base = contestants["gpt"].seconds
    rows = [
        [
            name, *ratio(one.seconds, base), f"{statistics.median(one.seconds) * 1000:.0f}",
            f"{kept[name] / 2**20:.1f}",
        ]
        for name, one in contestants.items()
    ]  # fmt: skip
    head = ["trunk, with RoPE", "over gpt's step", "of least times", "CPU ms", "MiB kept"]
    return table(head, rows)


class ByScheme(AttentionFunction):
    """One function for all layers, whose schemes differ by parameters alone."""

    def __init__(self, function: AttentionFunction):
        self.function = function

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        return self.function.attend(inputs)


def alike(seq_len: int, rounds: int, dtype: torch.dtype) -> list[str]:
    """Return the table of lists whose entries are all alike."""
    kinds = {
        "rope": entry(ROPE), "rope in a window": entry(ROPE, Window(share=0.25)),
        "mamba2": recurrent(Mamba2),
    }  # fmt: skip
    rows = []
    for name, one in kinds.items():
        pair = {"short": make([one], seq_len), "list": make([one] * 4, seq_len)}
        torch.manual_seed(1)
        ids = torch.randint(VOCAB, (STEP_TOKENS // seq_len, seq_len + 1))
        short, listed = (c.step(ids, dtype).item() for c in pair.values())
        operators = [counts(c, seq_len, dtype) for c in pair.values()]
        race(pair, seq_len, rounds, dtype)
        rows.append([
            name, "equal" if short == listed else f"{listed - short:.1e} apart",
            *[str(c.total()) for c in operators], "yes" if operators[0] == operators[1] else "no",
            *ratio(pair["list"].seconds, pair["short"].seconds),
        ])  # fmt: skip
    head = ["layers", "loss", "operators", "in the list", "the same", "time", "of least times"]
    return table(head, rows)


def sinks(rounds: int, dtype: torch.dtype) -> list[str]:
    """Return the table of attention with sink logits: the fused kernel over scores in chunks."""
    scheme, rows = SinkLogits(DIMS.n_heads), []
    for pattern in (Full(), Window(64)):
        for n_tokens in (256, 1024, 4096):
            batch = max(1, STEP_TOKENS // n_tokens)
            shape = batch, DIMS.n_heads, n_tokens, DIMS.head_dim
            q, k, v = (torch.randn(shape).to(dtype).requires_grad_() for _ in range(3))
            ways = [kind(pattern, n_tokens, scheme, CPU) for kind in (Tiles, Chunked)]
            took: list[list[tuple[float, float]]] = [[], []]
            for _ in range(rounds):
                for way, times in zip(ways, took, strict=True):
                    started = time.process_time()
                    with torch.no_grad():
                        way(q, k, v, scheme, q)
                    middle = time.process_time()
                    way(q, k, v, scheme, q).sum().backward()
                    times.append((middle - started, time.process_time() - middle))
            passes = [
                statistics.median(a[n] / b[n] for a, b in zip(*took, strict=True)) for n in (0, 1)
            ]
            rows.append([f"{pattern.label}, T = {n_tokens}", *[f"{r:.2f}x" for r in passes]])
    return table(["fused over chunks", "forward", "forward and backward"], rows)


def hybrids(seq_len: int, rounds: int, dtype: torch.dtype, only: list[str]) -> list[str]:
    """Return the table of hybrids against the mean of their layers."""
    rows = []
    for name, entries in plans().items():
        if only and name not in only:
            continue
        kinds = list(dict.fromkeys(entries))
        pures = {str(n): make([kind], seq_len) for n, kind in enumerate(kinds)}
        shares = [entries.count(kind) / len(entries) for kind in kinds]
        contestants = {"hybrid": make(entries, seq_len), **pures}
        operators = [counts(one, seq_len, dtype).total() for one in contestants.values()]
        race(contestants, seq_len, rounds, dtype)
        mean = [
            sum(share * s for share, s in zip(shares, each, strict=True))
            for each in zip(*(one.seconds for one in pures.values()), strict=True)
        ]
        least = sum(s * min(one.seconds) for s, one in zip(shares, pures.values(), strict=True))
        mean_count = sum(s * n for s, n in zip(shares, operators[1:], strict=True))
        seconds = contestants["hybrid"].seconds
        rows.append([
            name, f"{operators[0]}", f"{mean_count:.0f}", ratio(seconds, mean)[0],
            f"{min(seconds) / least:.3f}x",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    return table(
        ["hybrid", "operators", "mean of its layers", "time over that mean", "of least times"], rows
    )


def main() -> None:
    """Measure, print and, with --out, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--float32", action="store_true", help="also where auto is bfloat16")
    parser.add_argument("--parts", nargs="+", default=["trunks", "sinks", "alike", "hybrids"])
    parser.add_argument("--only", nargs="+", default=[], help="hybrids")
    add_outputs(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepare_process()
    dtype = dtype_of(given)
    lines = [
        f"lexp {__version__}, torch {torch.__version__}, {platform.machine()}, 1 thread, "
        f"{str(dtype).removeprefix('torch.')}, {given.seq_len} tokens, {given.rounds} rounds.",
    ]
    common = given.seq_len, given.rounds, dtype
    if "trunks" in given.parts:
        lines += trunks(*common)
    if "sinks" in given.parts:
        lines += sinks(given.rounds, dtype)
    if "alike" in given.parts:
        lines += alike(*common)
    if "hybrids" in given.parts:
        lines += hybrids(*common, given.only)
    publish("\n".join(lines), given)


if __name__ == "__main__":
    main()
