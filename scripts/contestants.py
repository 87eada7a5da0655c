"""Models that benchmarks compare: our schemes, the plainest GPT, and other people's, of one shape.

Peers: `scripts/test_peers.sh` installs them; those that are missing are named and left out.
"""

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp import position
from lexp.attention import MakeAttend, make_attend
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Full

# What ratios are to: the plain model below.
BASE = "plain (learned positions)"
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes that all contestants have, an untied head included, and where they are."""

    n_layers: int
    d_model: int
    n_heads: int
    d_ff: int
    vocab_size: int
    seq_len: int
    device: torch.device

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.d_model // self.n_heads

    @property
    def token_flops(self) -> float:
        """Of a training step, for each token: 6 a weight, and 12 a layer, channel and key in sight,
        of which there are seq_len / 2 on average."""
        weights = self.n_layers * (4 * self.d_model**2 + 2 * self.d_model * self.d_ff)
        attention = self.n_layers * self.seq_len * self.d_model
        return 6 * (weights + self.d_model * self.vocab_size + attention)


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

    def __init__(self, shape: Shape):
        super().__init__()
        width, self.n_heads = shape.d_model, shape.n_heads
        self.tokens = nn.Embedding(shape.vocab_size, width)
        self.places = nn.Embedding(shape.seq_len, width)
        linear = partial(nn.Linear, bias=False)
        self.layers = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(width, bias=False), "qkv": linear(width, 3 * width),
                "out": linear(width, width), "norm2": nn.LayerNorm(width, bias=False),
                "up": linear(width, shape.d_ff), "down": linear(shape.d_ff, width),
            })
            for _ in range(shape.n_layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = linear(width, shape.vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] to logits."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for layer in self.layers:
            q, k, v = layer["qkv"](layer["norm1"](x)).chunk(3, dim=-1)
            q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["out"](mixed.transpose(1, 2).flatten(2))
            x = x + layer["down"](F.gelu(layer["up"](layer["norm2"](x))))
        return self.head(self.norm(x))


def of_logits(model: nn.Module, read: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Loss]:
    """The usual loss of a model's logits."""

    def loss(ids: Tensor) -> Tensor:
        return F.cross_entropy(read(ids[:, :-1]).flatten(0, 1).float(), ids[:, 1:].flatten())

    return model, loss


def plain(shape: Shape) -> tuple[nn.Module, Loss]:
    """Our base line."""
    model = Plain(shape).to(shape.device)
    return of_logits(model, model)


def ours(
    shape: Shape, scheme: str, make: MakeAttend = make_attend, compiled: bool = False
) -> tuple[nn.Module, Loss]:
    """A scheme on lexp's trunk, as `lexp train` runs it."""
    dims = Dims(shape.n_layers, shape.d_model, shape.n_heads, shape.head_dim, shape.d_ff)
    model = Transformer(dims, shape.vocab_size, [LayerEntry(schemes(shape)[scheme])]).to(
        shape.device
    )
    attend = make(Full(), shape.seq_len, model.schemes, shape.device)
    total = torch.compile(model.loss) if compiled else model.loss
    return model, lambda ids: total(ids[:, :-1], ids[:, 1:], attend) / ids[:, 1:].numel()


def schemes(shape: Shape) -> dict[str, Callable[[], position.Position]]:
    """Makers of schemes, by the name of their config."""
    heads, size = shape.n_heads, shape.head_dim
    return {
        "nope": position.NoPE,
        "rope": partial(position.RoPE, size),
        "xpos": partial(position.XPos, size),
        "alibi": partial(position.ALiBi, heads),
        "t5": partial(position.T5, heads),
        "kerple_log": partial(position.KerpleLog, heads),
        "sandwich": partial(position.Sandwich, heads),
        "tisa": partial(position.TISA, heads),
        "fire": partial(position.FIRE, heads, 256),
        "fox": partial(position.FoX, shape.d_model, heads),
        "cope": partial(position.CoPE, size),
        "wall": partial(position.Wall, shape.d_model, size, heads),
        "selective_rope": partial(position.SelectiveRoPE, shape.d_model, size, heads),
        "path": partial(position.PaTH, shape.d_model, size, heads),
    }


def hugging_face(shape: Shape, family: str, **more: object) -> tuple[nn.Module, Loss]:
    """A model of transformers, its attention fused where it has that (it chooses by itself)."""
    transformers = importlib.import_module("transformers")
    config = getattr(transformers, f"{family}Config")(
        vocab_size=shape.vocab_size, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        **more,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).to(shape.device)
    return of_logits(model, lambda ids: model(ids, use_cache=False).logits)


def llama(shape: Shape) -> tuple[nn.Module, Loss]:
    """RoPE; its gated feed-forward layer as wide as gives the same number of weights."""
    return hugging_face(
        shape, "Llama", hidden_size=shape.d_model, num_hidden_layers=shape.n_layers,
        intermediate_size=math.ceil(2 * shape.d_ff / 3 / 16) * 16,
        num_attention_heads=shape.n_heads, num_key_value_heads=shape.n_heads,
        max_position_embeddings=shape.seq_len,
    )  # fmt: skip


def gpt2(shape: Shape) -> tuple[nn.Module, Loss]:
    """Learned positions."""
    return hugging_face(
        shape, "GPT2", n_embd=shape.d_model, n_inner=shape.d_ff, n_layer=shape.n_layers,
        n_head=shape.n_heads, n_positions=shape.seq_len, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip


def bloom(shape: Shape) -> tuple[nn.Module, Loss]:
    """ALiBi."""
    return hugging_face(
        shape, "Bloom", hidden_size=shape.d_model, n_layer=shape.n_layers, n_head=shape.n_heads
    )


def mpt(shape: Shape) -> tuple[nn.Module, Loss]:
    """ALiBi."""
    return hugging_face(
        shape, "Mpt", d_model=shape.d_model, n_layers=shape.n_layers, n_heads=shape.n_heads,
        max_seq_len=shape.seq_len,
    )  # fmt: skip


def x_transformers(shape: Shape, **more: object) -> tuple[nn.Module, Loss]:
    """A model of x-transformers, its attention fused unless that is refused for the scheme."""
    library = importlib.import_module("x_transformers")
    if "rotary_pos_emb" in more:
        more["rotary_emb_dim"] = shape.head_dim
    layers = library.Decoder(
        dim=shape.d_model, depth=shape.n_layers, heads=shape.n_heads,
        attn_dim_head=shape.head_dim, ff_no_bias=True, attn_flash="rel_pos_bias" not in more,
        **more,
    )  # fmt: skip
    model = library.TransformerWrapper(
        num_tokens=shape.vocab_size, max_seq_len=shape.seq_len, use_abs_pos_emb=False,
        attn_layers=layers,
    ).to(shape.device)  # fmt: skip
    return of_logits(model, model)


def torchscale(shape: Shape) -> tuple[nn.Module, Loss]:
    """LEX's own code: a decoder with xPos.

    timm, which needs torchvision, is asked for one function that is not called without drop-path.
    """
    for name in ("timm", "timm.models", "timm.models.layers"):
        sys.modules.setdefault(name, ModuleType(name))
    vars(sys.modules["timm.models.layers"]).setdefault("drop_path", None)
    config = importlib.import_module("torchscale.architecture.config").DecoderConfig(
        vocab_size=shape.vocab_size, decoder_layers=shape.n_layers,
        decoder_embed_dim=shape.d_model, decoder_ffn_embed_dim=shape.d_ff,
        decoder_attention_heads=shape.n_heads, xpos_rel_pos=True, no_output_layer=False,
        share_decoder_input_output_embed=False,
    )  # fmt: skip
    decoder = importlib.import_module("torchscale.architecture.decoder")
    embedding = nn.Embedding(shape.vocab_size, shape.d_model)
    model = decoder.Decoder(config, embed_tokens=embedding).to(shape.device)
    return of_logits(model, lambda ids: model(ids)[0])


Maker = Callable[[Shape], tuple[nn.Module, Loss]]
PEERS: dict[str, Maker] = {
    "transformers Llama (rope)": llama,
    "transformers GPT2 (learned)": gpt2,
    "transformers Bloom (alibi)": bloom,
    "transformers MPT (alibi)": mpt,
    "x-transformers rope": partial(x_transformers, rotary_pos_emb=True),
    "x-transformers xpos": partial(x_transformers, rotary_pos_emb=True, rotary_xpos=True),
    "x-transformers alibi": partial(x_transformers, alibi_pos_bias=True),
    "x-transformers t5": partial(x_transformers, rel_pos_bias=True),
    "torchscale xpos": torchscale,
}


def enter(name: str, make: Maker, shape: Shape) -> Contestant | None:
    """A contestant; None, with a line that says so, if its package is not installed."""
    torch.manual_seed(0)
    try:
        model, loss = make(shape)
    except ModuleNotFoundError as error:
        print(f"{name}: left out, {error.name} is not installed", file=sys.stderr)
        return None
    return Contestant(name, model, loss, torch.optim.AdamW(model.parameters(), fused=True), [])


def step(one: Contestant, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """One whole step; its loss."""
    with torch.autocast(ids.device.type, dtype=dtype, enabled=dtype != torch.float32):
        loss = one.loss(ids)
    loss.backward()
    nn.utils.clip_grad_norm_(one.model.parameters(), 1.0)
    one.optimizer.step()
    one.optimizer.zero_grad()
    return loss
