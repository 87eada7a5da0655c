"""FlexAttention against the dense reference in float64: every scheme, values and gradients.

Without a CUDA device the same code runs uncompiled, through torch's own formula of the kernel: this
tests masks, rows and what is captured, not the kernel. `scripts/test_gpu.sh` tests that too, on a
GPU forward and backward, without one (LEXP_COMPILED=1) as far as torch compiles it: forward.
"""

import json
import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from lexp.attention import Flex, Reference, flex, make_attend, make_flex, refuse_beyond_flex
from lexp.attention.flex import list_true, make_mask
from lexp.commands.evaluate import eval_
from lexp.commands.run_parts import choose_backend
from lexp.commands.train import train
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.data import Tokens
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Blockwise, Full, SelfExtend, Sinks, Window
from lexp.position import ALiBi, Position
from lexp.runs.run import run_folder, run_name
from lexp.scoring.protocol import Prefix
from lexp.scoring.scorer import Scorer
from lexp.system.errors import ConfigError, NotDefined
from support.config import compose
from support.schemes import SCHEMES, make

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HEADS, HEAD_DIM, D_MODEL, N = 4, 16, 32, 200
PATTERNS = [Full(), Window(150), Blockwise(32)]
BOTH = [torch.float32, torch.bfloat16]


def is_taken(position: Position) -> bool:
    """Whether softmax of products and of biases that a row or a number by token holds is all."""
    biased = position.has_bias and not (position.by_distance or position.by_token)
    others = position.has_attention_weights or position.samples_positions
    return not (others or biased or position.has_log_decays)


TAKEN = [scheme for scheme in SCHEMES if is_taken(make(scheme))]
UNCOMPILED = "ignore:flex_attention called without torch.compile"


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ]
)
def device(request, monkeypatch) -> torch.device:
    """Where to run: uncompiled on a CPU, for whose kernel torch has no gradients."""
    if request.param == "cpu":
        monkeypatch.setattr(flex, "compiled", lambda: torch_flex.flex_attention)
        monkeypatch.setattr(torch_flex, "_validate_device", lambda *given: None)
    return torch.device(request.param)


def layers(scheme: str) -> list[Position]:
    """Its schemes by layer, learned parameters moved away from where they start."""
    torch.manual_seed(0)
    found = [make(scheme, HEADS, HEAD_DIM).eval()]
    with torch.no_grad():
        for position in found:
            for parameter in position.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return found


def run(kind, pattern, position, dtype, device, n=N, batch=2, learning=True):
    """Output and, if learning, gradients of q, k, v and of what is learned, as float64 on the CPU.

    Inputs are bfloat16 numbers in any precision, so that only the arithmetic differs.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    position = position.to(device, wide)
    generator = torch.Generator().manual_seed(n)
    shape = (batch, HEADS, n, HEAD_DIM)
    q, k, v, weight = torch.randn(4, *shape, generator=generator).bfloat16()
    x = torch.randn(batch, n, D_MODEL, generator=generator).to(device, wide)
    q, k, v = (t.to(device, dtype).requires_grad_(learning) for t in (q, k, v))
    out = kind(pattern, n, position, device)(q, k, v, position, x)
    found = [out]
    if learning:
        wanted = [q, k, v, *position.parameters()]
        loss = (out * weight.to(device, dtype)).sum()
        found += torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return [t.detach().double().cpu() for t in found]


def compare(found, expected, tolerance: float):
    """Errors as shares of what is right: the largest of the largest, and root mean squares."""
    for ours, right in zip(found, expected, strict=True):
        # A gradient that is zero, as with one key in sight, is compared with inputs of about 1.
        for size in (lambda t: t.abs().max(), lambda t: t.square().mean().sqrt()):
            assert size(ours - right) < tolerance * size(right).clamp(min=0.3)


@pytest.mark.filterwarnings(UNCOMPILED)
@pytest.mark.parametrize("number", [0, 1, 2], ids=lambda n: PATTERNS[n].label)
@pytest.mark.parametrize("scheme", TAKEN)
def test_values_and_gradients_are_the_references(scheme, number, device):
    """In float32 and bfloat16; to save time without a GPU, patterns have them in turns."""
    pattern = PATTERNS[number]
    for position in layers(scheme):
        expected = run(Reference, pattern, position, torch.float64, CPU)
        for dtype in BOTH if device.type == "cuda" else [BOTH[number % 2]]:
            found = run(Flex, pattern, position, dtype, device)
            # Sums over tokens are subtracted in float32.
            exact = 2e-4 if position.by_token and position.has_bias else 2e-5
            compare(found, expected, exact if dtype == torch.float32 else 0.06)


@pytest.mark.filterwarnings(UNCOMPILED)
@pytest.mark.parametrize("pattern", [*PATTERNS, Window(1), Blockwise(100)], ids=repr)
@pytest.mark.parametrize("n", [1, 128, 333])
def test_any_length(n, pattern, device):
    (position,) = layers("t5")
    expected = run(Reference, pattern, position, torch.float64, CPU, n, batch=1)
    compare(run(Flex, pattern, position, torch.float32, device, n, batch=1), expected, 2e-5)


@pytest.mark.skipif("LEXP_COMPILED" not in os.environ, reason="takes a minute: LEXP_COMPILED=1")
@pytest.mark.parametrize("pattern", [*PATTERNS, Window(50)], ids=repr)
@pytest.mark.parametrize("scheme", ["rope", "xpos", "alibi", "tisa", "fox"])
def test_compiled_for_a_cpu(scheme, pattern):
    """The kernel itself, which reads the lists of blocks. Forward: torch has no more for CPUs."""
    (position,) = layers(scheme)
    expected = run(Reference, pattern, position, torch.float64, CPU, 333, learning=False)
    with torch.no_grad():
        for dtype, tolerance in ((torch.float32, 2e-4), (torch.bfloat16, 0.06)):
            found = run(Flex, pattern, position, dtype, CPU, 333, learning=False)
            compare(found, expected, tolerance)


@pytest.mark.filterwarnings(UNCOMPILED)
def test_a_model_trains_by_it(device):
    """Losses and gradients of a whole model, under autocast too, are those by the usual way."""
    dims = Dims(n_layers=2, d_model=D_MODEL, n_heads=HEADS, head_dim=HEAD_DIM, d_ff=64)
    torch.manual_seed(0)
    model = Transformer(dims, 50, [LayerEntry(lambda: make("kerple_log", HEADS, HEAD_DIM))]).to(
        device
    )
    tokens = torch.randint(0, 50, (2, 131), device=device)

    def gradients(total, attend, dtype):
        model.zero_grad()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = total(tokens[:, :-1], tokens[:, 1:], attend) / tokens[:, 1:].numel()
        loss.backward()
        return [loss, *(p.grad for p in model.parameters())]

    by_flex = make_flex(Full(), 130, model.schemes, device)
    whole = {id(p): Reference(Full(), 130, p, device) for p in model.schemes}

    def by_formula(q, k, v, position, x, sampled):
        return whole[id(position)](q.float(), k.float(), v.float(), position, x.float())

    expected = [t.double().cpu() for t in gradients(model.loss, by_formula, torch.float32)]
    # Compiled as a whole, too, where the kernel is.
    ways = [model.loss] + [torch.compile(model.loss)] * (device.type == "cuda")
    for way in ways:
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
            found = [t.double().cpu() for t in gradients(way, by_flex, dtype)]
            compare(found, expected, tolerance)


def test_what_it_takes_and_what_it_refuses():
    for scheme in SCHEMES:
        whole = [make(scheme, HEADS, HEAD_DIM)]
        if scheme in TAKEN:
            for position in whole:
                refuse_beyond_flex(Full(), N, position)
        else:
            with pytest.raises(NotDefined, match=r"flex kernel .*; use kernel=tiles"):
                make_flex(Full(), N, whole, CPU)


@pytest.mark.parametrize("pattern", [SelfExtend(4, 2), Sinks().fit(64, N)], ids=lambda p: p.name)
def test_patterns_that_are_no_band_are_refused(pattern):
    with pytest.raises(
        NotDefined, match=f"{pattern.name} is not one unbroken band.*use kernel=tiles"
    ):
        make_flex(pattern, N, layers("rope"), CPU)


@pytest.mark.parametrize(
    ("scheme", "n_tokens", "said"),
    [("xpos", 20_000, "XPos overflows beyond 16"), ("fox", 5000, "FoX sums over tokens")],
)
def test_lengths_beyond_its_arithmetic_are_refused(scheme, n_tokens, said):
    with pytest.raises(NotDefined, match=said):
        Flex(Full(), n_tokens, make(scheme, HEADS, HEAD_DIM), CPU)


def test_heads_that_are_too_small_are_refused(monkeypatch):
    position = make("nope")
    q = torch.zeros(1, 1, 5, 8)
    with pytest.raises(NotDefined, match=r"head_dim of 16 or more, got 8; use kernel=tiles"):
        Flex(Full(), 5, position, CPU)(q, q, q, position, q[:, 0])


@pytest.mark.parametrize("most", [3, 1000])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 40, 61])
@pytest.mark.parametrize(
    "pattern", [Full(), Window(1), Window(8), Window(21), Blockwise(3), Blockwise(16)], ids=repr
)
def test_the_lists_of_blocks_are_the_patterns(pattern, n, most):
    """No pair that is seen is left out, nothing that is not seen is taken as a whole."""
    mask = make_mask(pattern, n, CPU, size=4, max_blocks=most)
    size = mask.BLOCK_SIZE[0]
    assert n <= most * size and (size == 4 or n > most * size // 2)
    for a in range(-(-n // size)):
        in_part = mask.kv_indices[0, 0, a, : mask.kv_num_blocks[0, 0, a]].tolist()
        whole = mask.full_kv_indices[0, 0, a, : mask.full_kv_num_blocks[0, 0, a]].tolist()
        assert not set(in_part) & set(whole)
        for b in range(-(-n // size)):
            pairs = [
                bool(pattern.allowed(torch.tensor(i), torch.tensor(j)))
                for i in range(a * size, min(n, a * size + size))
                for j in range(b * size, min(n, b * size + size))
            ]
            assert (b in in_part + whole) == any(pairs)
            assert all(pairs) if b in whole else not all(pairs) or a == b


def test_rows_are_listed_in_order():
    table = torch.tensor([[False, True, True], [False, False, False], [True, False, True]])
    counts, columns = list_true(table)
    assert counts.tolist() == [[[2, 0, 2]]]
    assert columns[0, 0, 0, :2].tolist() == [1, 2] and columns[0, 0, 2, :2].tolist() == [0, 2]


def asked_of(made: list):
    """`make_flex`, with a list of the patterns it was asked about."""

    def make(pattern, *given):
        made.append(pattern)
        return make_flex(pattern, *given)

    return make


@pytest.mark.filterwarnings(UNCOMPILED)
def test_a_run_trains_by_the_kernel_it_asks_for(tiny, device, monkeypatch):
    asked: list = []
    kernels = {"tiles": make_attend, "flex": asked_of(asked)}
    monkeypatch.setattr(
        "lexp.commands.train_reading.choose_backend", lambda name, device: kernels[name]
    )
    losses = {}
    for kernel in kernels:
        config = tiny("model=t5", f"kernel={kernel}", "size.head_dim=16", f"device={device}")
        train(config)
        settings = read_train(plain(config))
        folder = run_folder(settings.study_folder, settings.raw)
        assert json.loads((folder / "config.json").read_text())["settings"]["kernel"] == kernel
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        losses[kernel] = [line["loss"] for line in lines if line["event"] == "train"]
    assert asked == [Full()]
    assert len(losses["flex"]) == 10
    assert losses["flex"] == pytest.approx(losses["tiles"], abs=1e-5)


@pytest.mark.filterwarnings(UNCOMPILED)
def test_text_is_scored_by_the_kernel_handed_in(device):
    dims = Dims(n_layers=2, d_model=D_MODEL, n_heads=HEADS, head_dim=HEAD_DIM, d_ff=64)
    model = Transformer(dims, 256, [LayerEntry(lambda: ALiBi(HEADS))]).to(device)
    ids = np.random.default_rng(0).integers(0, 256, 301).astype(np.uint8)
    tokens = Tokens(("random",), ids, np.array([0, 301]), None)
    (span,) = Prefix().spans(tokens, [300], None)
    windows, asked = list(Prefix().windows(span, 300)), []
    for pattern in (Full(), Blockwise(20)):
        usual = Scorer(model, pattern, nullcontext())
        by_flex = Scorer(model, pattern, nullcontext(), make_attend=asked_of(asked))
        np.testing.assert_allclose(
            by_flex.score(tokens, windows), usual.score(tokens, windows), rtol=0, atol=2e-5
        )
    assert asked == [Full(), Blockwise(20)]


def test_where_it_cannot_run_one_line_says_so(tiny, tmp_path):
    line = "kernel=flex: needs device=cuda, this is cpu; allowed here: tiles"
    with pytest.raises(ConfigError, match=line):
        train(tiny("kernel=flex"))
    with pytest.raises(ConfigError, match=line):
        eval_(compose("eval", f"outputs={tmp_path}", "kernel=flex", "device=cpu"))
    assert choose_backend("flex", CUDA) is make_flex and choose_backend("tiles", CPU) is make_attend
    for word in ("train", "eval"):
        with pytest.raises(ConfigError, match=r"kernel=triton \(one of tiles, flex\)"):
            {"train": train, "eval": eval_}[word](compose(word, "kernel=triton"))
    with pytest.raises(ConfigError, match="the bias of FIRE reads more than the distance"):
        train(tiny("kernel=flex", "model=fire"))


def test_the_kernel_is_part_of_a_runs_identity_but_for_the_usual_one(tiny):
    usual, other = plain(tiny()), plain(tiny("kernel=flex"))
    without = {key: value for key, value in usual.items() if key != "kernel"}
    assert run_name(without) == run_name(usual) != run_name(other)
    with pytest.raises(ConfigError, match="no value for kernel"):
        read_train(without)
