"""Trunks: their formulas, grouped-query attention for every scheme, matched widths, settings."""

import math
from dataclasses import replace

import pytest
import torch
import yaml
from torch import Tensor

from lexp.attention import make_attend
from lexp.commands.run_parts import make_model, make_trunk, trunk_notes
from lexp.commands.study import cost as study_cost
from lexp.commands.train import check, optim_settings, train
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.instruments.invariance import Invariance
from lexp.model.layers import LayerEntry
from lexp.model.mixer import Attention
from lexp.model.mixer.attention import QKNorm
from lexp.model.transformer import Dims, Transformer
from lexp.model.trunk import (
    GELU,
    ElementwiseGate,
    HeadwiseGate,
    LayerNorm,
    RMSNorm,
    SwiGLU,
    Trunk,
)  # fmt: skip
from lexp.pattern import Blockwise, Full
from lexp.position import Learned, NoPE, RoPE, SinkLogits, Sum
from lexp.runs.run import run_name, variant
from lexp.runs.usual import GPT
from lexp.scoring import memory
from lexp.system.errors import ConfigError
from lexp.training.optim import make_optimizers
from support import ROOT
from support.config import choices, compose, compose_tiny
from support.instruments import ids, view
from support.schemes import CPU, D_MODEL, HEAD_DIM, SCHEMES, make

DIMS = Dims(n_layers=2, d_model=24, n_heads=4, head_dim=6, d_ff=20, n_kv_heads=2)
QWEN3 = Trunk(RMSNorm(1e-3), SwiGLU(), RMSNorm(1e-2))
LLAMA = replace(QWEN3, qk_norm=None)
GATED = replace(QWEN3, output_gate=ElementwiseGate(), tied_embeddings=True)
GATE = "{_target_:lexp.model.trunk.HeadwiseGate}"
HEADWISE = replace(LLAMA, output_gate=HeadwiseGate())


def model_of(dims: Dims, trunk: Trunk, make_position=NoPE) -> Transformer:
    """Random float64 weights, norms' too, so large that attention is far from uniform."""
    torch.manual_seed(0)
    model = Transformer(dims, 11, [LayerEntry(make_position)], trunk=trunk).double()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith("positions."):
                weight.normal_(std=1.5 / weight.shape[-1] ** 0.5)
                weight += weight.ndim == 1
    return model


# --- formulas


def rms_normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """a_i / RMS(a) g_i, RMS(a) = sqrt(1/n sum a_i^2 + eps): Zhang and Sennrich 2019, eq. 4."""
    return torch.stack([
        row / ((row * row).sum() / len(row) + eps).sqrt() * weight for row in x
    ])  # fmt: skip


def turned(x: Tensor, at: int) -> Tensor:
    """x [D] as D/2 complex numbers, times exp(i at 10000^(-2c/D)): Su et al. 2021, eq. 15."""
    pairs = x.view(-1, 2)
    angle = torch.tensor([at * 10000 ** (-2 * c / len(x)) for c in range(len(pairs))]).double()
    real = pairs[:, 0] * angle.cos() - pairs[:, 1] * angle.sin()
    imaginary = pairs[:, 0] * angle.sin() + pairs[:, 1] * angle.cos()
    return torch.stack([real, imaginary], dim=1).flatten()


def attended(
    x: Tensor, weights: dict[str, Tensor], dims: Dims, qk_eps: float | None, sinks: Tensor | None
) -> Tensor:
    """Query head h reads head h // (H / K): Ainslie et al. 2023; token by token, head by head.

    Gates are Y' = Y sigmoid(X W), by head or by channel: Qiu et al. 2025, equation 5. Sinks [H] are
    logits without a value: gpt-oss.
    """
    width, shared = dims.head_dim, dims.n_kv_heads
    w_q, w_k, w_v = weights["attention.qkv.weight"].split(
        [dims.n_heads * width, shared * width, shared * width]
    )
    rows = []
    for i in range(len(x)):
        heads = []
        for h in range(dims.n_heads):
            own = slice(h * width, (h + 1) * width)
            g = h // (dims.n_heads // shared)
            of_group = slice(g * width, (g + 1) * width)
            q, ks = w_q[own] @ x[i], [w_k[of_group] @ x[j] for j in range(i + 1)]
            if qk_eps is not None:
                q = rms_normed(q[None], weights["attention.qk_norm.q.weight"], qk_eps)[0]
                weight = weights["attention.qk_norm.k.weight"]
                ks = list(rms_normed(torch.stack(ks), weight, qk_eps))
            scores = torch.stack([turned(q, i) @ turned(k, j) for j, k in enumerate(ks)])
            shares = (scores / math.sqrt(width)).exp()
            shares = shares / (shares.sum() + (0 if sinks is None else sinks[h].exp()))
            out = sum(shares[j] * (w_v[of_group] @ x[j]) for j in range(i + 1))
            if (rates := weights.get("attention.output_gate.rates.weight")) is not None:
                by_head = rates.view(dims.n_heads, -1, len(x[i]))[h] @ x[i]
                out = out / (1 + (-by_head).exp())
            heads.append(out)
        rows.append(weights["attention.out.weight"] @ torch.cat(heads))
    return torch.stack(rows)


def swiglu(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """(Swish(x W) * x V) W2, Swish(a) = a / (1 + exp(-a)): Shazeer 2020, eq. 6."""
    w, v = weights["mlp_in.weight"].chunk(2)
    a = x @ w.T
    return (a / (1 + (-a).exp()) * (x @ v.T)) @ weights["mlp_out.weight"].T


@pytest.mark.parametrize(
    ("trunk", "sinks"),
    [(LLAMA, False), (QWEN3, False), (GATED, False), (HEADWISE, True)],
    ids=["llama", "qwen3", "gated", "sinks"],
)
def test_values_and_gradients_are_those_of_the_papers(trunk, sinks):
    def position():
        return Sum([RoPE(6), SinkLogits(4)]) if sinks else RoPE(6)

    model = model_of(DIMS, trunk, position)
    logits = [scheme.parts[1].logits for scheme in model.schemes] if sinks else [None] * 2
    with torch.no_grad():
        for own in filter(lambda x: x is not None, logits):
            own.normal_()
    names = dict(model.named_parameters())
    tokens = torch.tensor([3, 1, 4, 1, 5, 9])
    x = names["embedding.weight"][tokens]
    for n in range(DIMS.n_layers):
        own = {k.partition(f"blocks.{n}.")[2]: v for k, v in names.items()}
        normed = rms_normed(x, own["norm_attention.weight"], 1e-3)
        x = x + attended(normed, own, DIMS, 1e-2 if trunk.qk_norm else None, logits[n])
        x = x + swiglu(rms_normed(x, own["norm_mlp.weight"], 1e-3), own)
    head = names["embedding.weight" if trunk.tied_embeddings else "head.weight"]
    expected = rms_normed(x, names["norm.weight"], 1e-3) @ head.T
    found = model(tokens[None], make_attend(Full(), 6, model.schemes, CPU))[0]
    # The tables of RoPE are float32.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    pull = torch.randn(found.shape, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((y * pull).sum(), names.values()) for y in (found, expected)
    )
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert b.abs().max() > 1e-4, name
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_shared_keys_are_repeated_keys_for_every_scheme(scheme):
    """Two key-value heads for four queries, and the same weights written twice, give one output."""
    position = make(scheme)
    pattern = Full() if position.samples_positions else Blockwise(8)
    torch.manual_seed(0)
    shared = Attention(D_MODEL, 4, HEAD_DIM, n_kv_heads=2, qk_norm=RMSNorm())
    repeated = Attention(D_MODEL, 4, HEAD_DIM, qk_norm=RMSNorm())
    q, k, v = (w.unflatten(0, (-1, HEAD_DIM)) for w in shared.qkv.weight.split(shared.sizes))
    with torch.no_grad():
        twice = [w[torch.tensor([0, 0, 1, 1])] for w in (k, v)]
        repeated.qkv.weight.copy_(torch.cat([q, *twice]).flatten(0, 1))
        repeated.out.weight.copy_(shared.out.weight)
    x, sampled = torch.randn(2, 20, D_MODEL), position.sample_positions(20)
    attend = make_attend(pattern, 20, [position], CPU)
    found, expected = (mixer(x, position, attend, sampled) for mixer in (shared, repeated))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    found.square().sum().backward()
    expected.square().sum().backward()
    ours, theirs = shared.qkv.weight.grad, repeated.qkv.weight.grad.unflatten(0, (3, 2, 2, -1))
    assert theirs[1:].abs().max() > 0
    torch.testing.assert_close(
        ours[32:].unflatten(0, (2, 2, -1)), theirs[1:].sum(2), rtol=1e-4, atol=1e-5
    )


# --- widths and counts


@pytest.mark.parametrize("size", choices("size"))
@pytest.mark.parametrize(
    "words",
    ["trunk=llama", "trunk=qwen3", "trunk=llama trunk.n_kv_heads=1", "trunk=qwen3_gated",
     "trunk=llama_sinks", "trunk.tied_embeddings=true"],
)  # fmt: skip
def test_a_trunk_has_the_parameters_of_the_size(size, words):
    """2 d (H + K) head_dim + 3 d d_ff + gates d = 4 d H head_dim + 2 d d_ff'."""
    settings, plain_one = (
        read_train(plain(compose("train", f"size={size}", *w.split()))) for w in (words, "seed=1")
    )
    found, expected = (study_cost.n_parameters(s, 256) for s in (settings, plain_one))
    own = settings.size
    if "tied" in words:
        expected -= 256 * own.d_model
    expected += 2 * own.n_layers * own.head_dim * ("qwen3" in words)
    expected += own.n_layers * own.n_heads * ("sinks" in words)
    # A width that is no whole number is rounded to a multiple of 8, so by 4 at most.
    is_exact = "n_kv" not in words and "gated" not in words
    assert abs(found - expected) <= (0 if is_exact else 4 * 3 * own.d_model * own.n_layers)
    if own.name == "nano":
        assert found == sum(p.numel() for p in make_model(settings, 256).parameters())


def test_the_start_says_how_many_parameters_and_how_d_ff_was_chosen():
    settings = read_train(plain(compose("train", "trunk=llama")))
    model = make_model(settings, 256)
    assert sum(p.numel() for p in model.parameters()) == 853_120
    assert model.blocks[0].mlp_in.weight.shape == (2 * 384, 128)
    assert model.blocks[0].attention.qkv.weight.shape == ((4 + 2 + 2) * 32, 128)
    assert trunk_notes(settings, model) == [
        "trunk=llama: 853,120 parameters (gpt: 853,120), 2 key-value heads for 4 query heads; "
        "d_ff 384 of SwiGLU, chosen so that attention and feed-forward part have the weights of "
        "size.d_ff=512 with trunk=gpt"
    ]
    settings = read_train(plain(compose("train")))
    assert trunk_notes(settings, make_model(settings, 256)) == []
    words = ["trunk=llama_sinks", "trunk.tied_embeddings=true"]
    settings = read_train(plain(compose("train", *words)))
    (note,) = trunk_notes(settings, make_model(settings, 256))
    # A logit for each of 4 heads in 4 layers, and no head of 256 rows of 128.
    assert f"{853_120 + 16 - 32_768:,} parameters (gpt: 853,120)" in note


def test_the_feed_forward_part_in_pieces_and_its_memory():
    model = model_of(DIMS, LLAMA)
    tokens = torch.randint(11, (1, 30), generator=torch.Generator().manual_seed(0))
    attend = make_attend(Full(), 29, model.schemes, CPU)
    whole = model.losses(tokens[:, :-1], tokens[:, 1:], attend)
    for block in model.blocks:
        block.mlp_rows = 7
    with torch.no_grad():
        torch.testing.assert_close(model.losses(tokens[:, :-1], tokens[:, 1:], attend), whole)
    # Gate and value, the gate's SiLU and the product: 4 d_ff numbers a token; GELU has 2.
    wide = replace(DIMS, d_ff=10_000)
    needed = [
        memory.needed_bytes(model, Full(), 100, 100, 4)
        - sum(4 * p.numel() for p in model.parameters())
        for model in (Transformer(wide, 11, [LayerEntry()], trunk=t) for t in (LLAMA, Trunk()))
    ]
    assert needed[0] - needed[1] == 100 * 4 * 2 * 10_000


# --- settings


def test_gpt_is_the_default_and_no_part_of_a_name():
    text = (ROOT / "conf" / "trunk" / "gpt.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == GPT
    now = plain(compose("train"))
    assert make_trunk(read_train(now)) == Trunk(LayerNorm(), GELU(), None, None, False)
    assert variant(now) == variant({k: v for k, v in now.items() if k != "trunk"})
    assert run_name(now).startswith("rope-nano-")
    others = [run_name(plain(compose("train", *words.split()))) for words in (
        "trunk=llama", "trunk=qwen3", "trunk.n_kv_heads=2", "trunk=llama trunk.n_kv_heads=1",
        "trunk=llama trunk.norm.eps=1e-6",
    )]  # fmt: skip
    assert len({run_name(now), *others}) == 6
    assert others[0].startswith("rope-llama-nano-") and others[2].startswith("rope-nano-")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trunk.n_kv_heads=3", r"trunk.n_kv_heads=3 \(all, half, or a number that divides size.n_"),
        ("trunk.n_kv_heads=0", r"trunk.n_kv_heads=0 \(all, half, or a number"),
        ("trunk.n_kv_heads=8", r"trunk.n_kv_heads=8 \(all, half, or a number"),
        ("trunk.n_kv_heads=most", r"trunk.n_kv_heads=most \(all, half, or a number"),
        ("trunk=llama size.n_heads=3", r"trunk.n_kv_heads=half \(all, .* divides size.n_heads=3\)"),
        ("trunk.norm=null", r"trunk.norm: expected a node with _target_"),
        ("trunk.mlp._target_=lexp.model.trunk.RMSNorm", "RMSNorm is not a Activation"),
        (
            "+trunk.gate=1",
            r"trunk.gate \(a trunk has name, norm, mlp, n_kv_heads, qk_norm, output_",
        ),
        ("trunk.tied_embeddings=some", r"trunk.tied_embeddings='some' \(true or false\)"),
        ("trunk=llama_sinks trunk.sinks.n_heads=3", r"trunk.sinks.n_heads=3 \(as size.n_heads=4"),
        (
            "trunk=llama_sinks model=gpt_oss",
            "trunk.sinks: not with RoPE \\+ SinkLogits: only one sch",
        ),
        (
            "trunk=llama_sinks model=learned",
            "trunk.sinks: not with Learned: embeddings have no lay",
        ),
        (
            "trunk=qwen3_gated trunk.output_gate._target_=lexp.model.trunk.GELU",
            "GELU is not a Outp",
        ),
        ("trunk=llama trunk.norm.eps=-1", "trunk.norm: eps=-1: must be at least 0"),
        ("trunk=llama size.d_ff=0", "model sizes must be at least 1, got {'d_ff': 0}"),
    ],
)
def test_bad_trunks_are_one_line_before_anything_is_built(words, said):
    with pytest.raises(ConfigError, match=said) as raised:
        check(compose("train", *words.split()))
    assert "\n" not in str(raised.value)


def test_tied_embeddings_are_one_table_without_weight_decay():
    model = model_of(DIMS, replace(LLAMA, tied_embeddings=True))
    assert model.head.weight is model.embedding.weight
    settings = optim_settings(read_train(plain(compose("train", "optim.weight_decay=0.1"))))
    decayed, rest = (group["params"] for group in make_optimizers(model, settings)[0].param_groups)
    counts = [sum(p is model.embedding.weight for p in group) for group in (decayed, rest)]
    assert counts == [0, 1]


def test_a_gate_of_an_entry_is_for_the_trunks_attention():
    """Qwen3-Next gates its layers with attention; an entry with a mixer has none of its own."""
    settings = read_train(plain(compose("train", "model=qwen3_next", "trunk=qwen3")))
    *recurrent, attention = (block.mixer for block in make_model(settings, 256).blocks)
    assert attention.output_gate.rates.weight.shape == (4 * 32, 128)
    assert (attention.n_kv_heads, type(attention.qk_norm)) == (2, QKNorm)
    assert not any(hasattr(mixer, "output_gate") for mixer in recurrent)
    with pytest.raises(ConfigError, match="model.output_gate: is of the trunk's attention, this"):
        check(compose("train", "model=gla", f"+model.output_gate={GATE}"))
    check(compose("train", "model=rope", f"+model.output_gate={GATE}"))


def test_layers_share_their_weights_if_their_entries_name_the_same_mixer():
    """A list that names one mixer twice; another gate or size is another mixer."""
    mixer = "{_target_:lexp.model.mixer.GLA,d_model:128,n_heads:4,head_dim:32,rank:RANK}"
    for ranks, fits in ((("8", "8"), True), (("8", "4"), False)):
        entries = ",".join("{mixer:" + mixer.replace("RANK", rank) + "}" for rank in ranks)
        config = compose("train", "size.share_layers=true", "~model.position",
                         f"+model.layers=[{entries}]")  # fmt: skip
        if fits:
            first, *others = make_model(check(config), 256).blocks
            assert all(block is first for block in others)
        else:
            with pytest.raises(
                ConfigError, match="size.share_layers=true: the layers of model=rope"
            ):
                check(config)
    gated = compose("train", "size.share_layers=true", "~model.position",
                    f"+model.layers=[{{}},{{output_gate:{GATE}}}]")  # fmt: skip
    with pytest.raises(ConfigError, match="size.share_layers=true: the layers of model=rope"):
        check(gated)


def test_a_run_starts_from_weights_of_its_own_trunk_alone(texts, tmp_path):
    """Embeddings, blocks and gates are stored once where they are shared."""
    own = ["trunk=qwen3_gated", "trunk.tied_embeddings=true", "size.share_layers=true"]
    train(compose_tiny(texts, tmp_path, *own, "size.n_layers=2", "tokens=128"))
    (folder,) = (tmp_path / "default").glob("rope-qwen3_gated-nano-*")
    said = f"init_from={folder}: trained with trunk=qwen3_gated, this run has trunk=gpt"
    with pytest.raises(ConfigError, match=said):
        check(compose_tiny(texts, tmp_path, f"init_from={folder}"))
    config = compose_tiny(texts, tmp_path, f"init_from={folder}", *own, "size.n_layers=2")
    train(config)


# --- instruments


def values(finding, measure: str) -> dict[int, float]:
    return {row["head"]: row["value"] for row in finding.rows if row["measure"] == measure}


def test_the_position_term_is_that_of_the_norm_and_of_shared_keys():
    dims = Dims(n_layers=1, d_model=24, n_heads=4, head_dim=6, d_ff=20, n_kv_heads=2)
    model = model_of(dims, LLAMA, lambda: Learned(30, 24)).eval()
    found = values(Invariance().measure(view(model, Full(), ids(1, 30) % 11)), "position")
    p = model.position.table.detach() * model.blocks[0].norm_attention.weight.detach()
    w_q, w_k, _ = model.blocks[0].attention.qkv.weight.detach().split([24, 12, 12])
    index = torch.arange(30)
    distance = index[:, None] - index
    for head in range(4):
        q, k = p @ w_q[6 * head :][:6].T, p @ w_k[6 * (head // 2) :][:6].T
        scores = q @ k.T
        of_distance = [scores[distance == d] for d in range(1, 30)]
        within = sum(((s - s.mean()) ** 2).sum() for s in of_distance)
        all_of_them = torch.cat(of_distance)
        r2 = 1 - within / ((all_of_them - all_of_them.mean()) ** 2).sum()
        assert found[head] == pytest.approx(r2.item(), rel=1e-9)
    normed = model_of(dims, QWEN3, lambda: Learned(30, 24)).eval()
    assert not values(Invariance().measure(view(normed, Full(), ids(1, 30) % 11)), "position")
