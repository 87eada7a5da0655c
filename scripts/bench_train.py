"""What a training step costs: our schemes, and other people's models of the same size.

    python scripts/bench_train.py [--seq-len 256 512] [--threads 1] [--float32] [--out FILE.md]

Every model has 6 layers, d_model 256, 8 heads, feed-forward 1024, an untied head over 4096 tokens;
every step reads 4096 tokens, goes back, clips and takes a step of fused AdamW. One step of each in
turn, --rounds times, in one process: what slows one down slows all. Times are CPU seconds of the
process; a ratio is the median of each round's. Peers: `scripts/test_peers.sh` installs them; those
that are missing are named and left out. MFU is against the fastest matrix product measured here.
"""

import argparse
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp import __version__, position
from lexp.attention import make_attend
from lexp.model import Dims, Transformer
from lexp.pattern import Full
from lexp.runtime import prepare_process

N_LAYERS, D_MODEL, N_HEADS, D_FF, VOCAB, STEP_TOKENS = 6, 256, 8, 1024, 4096, 4096
HEAD_DIM = D_MODEL // N_HEADS
# What a ratio is to: the plain model below.
BASE = "plain (learned positions)"
Loss = Callable[[Tensor], Tensor]


@dataclass
class Contestant:
    """A model with its optimiser, and the seconds its steps took."""

    name: str
    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    seconds: list[float]


class Plain(nn.Module):
    """The shortest GPT one would write: fused causal attention, learned positions, one head."""

    def __init__(self, seq_len: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, D_MODEL), nn.Embedding(seq_len, D_MODEL)
        linear = partial(nn.Linear, bias=False)
        self.layers = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(D_MODEL, bias=False), "qkv": linear(D_MODEL, 3 * D_MODEL),
                "out": linear(D_MODEL, D_MODEL), "norm2": nn.LayerNorm(D_MODEL, bias=False),
                "up": linear(D_MODEL, D_FF), "down": linear(D_FF, D_MODEL),
            })
            for _ in range(N_LAYERS)
        )  # fmt: skip
        self.norm, self.head = nn.LayerNorm(D_MODEL, bias=False), linear(D_MODEL, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] to logits."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for layer in self.layers:
            q, k, v = layer["qkv"](layer["norm1"](x)).chunk(3, dim=-1)
            q, k, v = (t.unflatten(-1, (N_HEADS, -1)).transpose(1, 2) for t in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["out"](mixed.transpose(1, 2).flatten(2))
            x = x + layer["down"](F.gelu(layer["up"](layer["norm2"](x))))
        return self.head(self.norm(x))


def of_logits(model: nn.Module, read: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Loss]:
    """The usual loss of a model's logits."""

    def loss(ids: Tensor) -> Tensor:
        return F.cross_entropy(read(ids[:, :-1]).flatten(0, 1).float(), ids[:, 1:].flatten())

    return model, loss


def plain(seq_len: int) -> tuple[nn.Module, Loss]:
    """Our base line."""
    model = Plain(seq_len)
    return of_logits(model, model)


def ours(seq_len: int, make: Callable[[], position.Position]) -> tuple[nn.Module, Loss]:
    """A scheme on lexp's trunk."""
    model = Transformer(Dims(N_LAYERS, D_MODEL, N_HEADS, HEAD_DIM, D_FF), VOCAB, make)
    attend = make_attend(Full(), seq_len, model.schemes, torch.device("cpu"))
    return model, lambda ids: model.losses(ids[:, :-1], ids[:, 1:], attend).mean()


def hugging_face(seq_len: int, family: str, **more: object) -> tuple[nn.Module, Loss]:
    """A model of transformers, its attention fused where it has that (it chooses by itself)."""
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCAB, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, **more
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    return of_logits(model, lambda ids: model(ids, use_cache=False).logits)


def x_transformers(seq_len: int, **more: object) -> tuple[nn.Module, Loss]:
    """A model of x-transformers, its attention fused unless that is refused for the scheme."""
    library = importlib.import_module("x_transformers")
    layers = library.Decoder(
        dim=D_MODEL, depth=N_LAYERS, heads=N_HEADS, attn_dim_head=HEAD_DIM, ff_no_bias=True,
        attn_flash="rel_pos_bias" not in more, **more,
    )  # fmt: skip
    model = library.TransformerWrapper(
        num_tokens=VOCAB, max_seq_len=seq_len, use_abs_pos_emb=False, attn_layers=layers
    )
    return of_logits(model, model)


def torchscale(seq_len: int) -> tuple[nn.Module, Loss]:
    """LEX's own code: a decoder with xPos."""
    config = importlib.import_module("torchscale.architecture.config").DecoderConfig(
        vocab_size=VOCAB, decoder_layers=N_LAYERS, decoder_embed_dim=D_MODEL,
        decoder_ffn_embed_dim=D_FF, decoder_attention_heads=N_HEADS, xpos_rel_pos=True,
        no_output_layer=False, share_decoder_input_output_embed=False,
    )  # fmt: skip
    decoder = importlib.import_module("torchscale.architecture.decoder")
    model = decoder.Decoder(config, embed_tokens=nn.Embedding(VOCAB, D_MODEL))
    return of_logits(model, lambda ids: model(ids)[0])


GPT = {"n_layer": N_LAYERS, "n_head": N_HEADS}
LLAMA = {
    "hidden_size": D_MODEL, "intermediate_size": 688, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS, "num_key_value_heads": N_HEADS,
}  # fmt: skip
MAKERS: dict[str, Callable[[int], tuple[nn.Module, Loss]]] = {
    BASE: plain,
    "lexp nope": partial(ours, make=position.NoPE),
    "lexp rope": partial(ours, make=partial(position.RoPE, HEAD_DIM)),
    "lexp xpos": partial(ours, make=partial(position.XPos, HEAD_DIM)),
    "lexp alibi": partial(ours, make=partial(position.ALiBi, N_HEADS)),
    "lexp t5": partial(ours, make=partial(position.T5, N_HEADS)),
    "lexp kerple_log": partial(ours, make=partial(position.KerpleLog, N_HEADS)),
    "lexp sandwich": partial(ours, make=partial(position.Sandwich, N_HEADS)),
    "lexp tisa": partial(ours, make=partial(position.TISA, N_HEADS)),
    "lexp fire": partial(ours, make=partial(position.FIRE, N_HEADS, 256)),
    "lexp fox": partial(ours, make=partial(position.FoX, D_MODEL, N_HEADS)),
    "lexp cope": partial(ours, make=partial(position.CoPE, HEAD_DIM)),
    "transformers Llama (rope)": partial(hugging_face, family="Llama", **LLAMA),
    "transformers GPT2 (learned)": partial(
        hugging_face, family="GPT2", n_embd=D_MODEL, n_inner=D_FF, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, **GPT,
    ),
    "transformers Bloom (alibi)": partial(hugging_face, family="Bloom", hidden_size=D_MODEL, **GPT),
    "transformers MPT (alibi)": partial(
        hugging_face, family="Mpt", d_model=D_MODEL, n_layers=N_LAYERS, n_heads=N_HEADS
    ),
    "x-transformers rope": partial(x_transformers, rotary_pos_emb=True, rotary_emb_dim=HEAD_DIM),
    "x-transformers xpos": partial(
        x_transformers, rotary_pos_emb=True, rotary_emb_dim=HEAD_DIM, rotary_xpos=True
    ),
    "x-transformers alibi": partial(x_transformers, alibi_pos_bias=True),
    "x-transformers t5": partial(x_transformers, rel_pos_bias=True),
    "torchscale xpos": torchscale,
}  # fmt: skip


def enter(name: str, seq_len: int) -> Contestant | None:
    """A contestant; None, with a line that says so, if its package is not installed."""
    torch.manual_seed(0)
    try:
        model, loss = MAKERS[name](seq_len)
    except ModuleNotFoundError as error:
        print(f"{name}: left out, {error.name} is not installed", file=sys.stderr)
        return None
    return Contestant(name, model, loss, torch.optim.AdamW(model.parameters(), fused=True), [])


def step(one: Contestant, ids: Tensor, autocast: AbstractContextManager) -> float:
    """CPU seconds of one whole step."""
    started = time.process_time()
    with autocast:
        loss = one.loss(ids)
    loss.backward()
    nn.utils.clip_grad_norm_(one.model.parameters(), 1.0)
    one.optimizer.step()
    one.optimizer.zero_grad()
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


def step_flops(seq_len: int) -> float:
    """Of a step of the plain model: 6 a weight and token, and causal attention's products."""
    weights = N_LAYERS * (4 * D_MODEL**2 + 2 * D_MODEL * D_FF) + D_MODEL * VOCAB
    return STEP_TOKENS * 6 * (weights + N_LAYERS * seq_len * D_MODEL)


def table(
    seq_len: int, names: list[str], rounds: int, autocast: AbstractContextManager, peak: float
) -> list[str]:
    """Everyone at one length, fastest first."""
    contestants = [one for name in names if (one := enter(name, seq_len))]
    ids = torch.randint(0, VOCAB, (STEP_TOKENS // seq_len, seq_len + 1))
    for turn in range(rounds + 1):
        for one in contestants:
            took = step(one, ids, autocast)
            if turn:  # the first pass warms up
                one.seconds.append(took)
    by_name = {one.name: one.seconds for one in contestants}
    rows = []
    for one in sorted(contestants, key=lambda one: statistics.median(one.seconds)):
        ratios = [a / b for a, b in zip(one.seconds, by_name[BASE], strict=True)]
        took = statistics.median(one.seconds)
        mfu = step_flops(seq_len) / took / peak
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
    parser.add_argument("--float32", action="store_true", help="no bfloat16")
    parser.add_argument("--only", nargs="+", default=[], help="names that contain one of these")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    prepare_process()
    dtype = torch.float32 if given.float32 else torch.bfloat16
    autocast = nullcontext() if given.float32 else torch.autocast("cpu", dtype=dtype)
    peak = matmul_peak(dtype)
    names = [n for n in MAKERS if n == BASE or not given.only or any(w in n for w in given.only)]
    lines = [
        f"lexp {__version__}, torch {torch.__version__}, {platform.machine()}, {given.threads} "
        f"thread(s), {str(dtype).removeprefix('torch.')}, {peak / 1e9:.0f} GFLOP/s in matrix "
        f"products; median of {given.rounds} interleaved rounds, as multiples of {BASE}.",
    ]
    for seq_len in given.seq_len:
        lines += table(seq_len, names, given.rounds, autocast, peak)
    print("\n".join(lines))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
