"""The layer plans of conf/model, each against what its paper says of every layer.

The oracle of a layer has which keys a query sees, at which angle, and what multiplies its scores,
written with loops in float64; nothing in it calls lexp.
"""

import cmath
import math
from typing import NamedTuple

import pytest
import torch

from lexp.attention import BlockSizes, ChunkSizes, Reference, TileSizes, layer_pairs, make_attend
from lexp.commands.run_parts import make_model, training_pattern, unused_entries
from lexp.commands.train import check
from lexp.config.schema import plain
from lexp.config.validation import read_train
from support.config import compose
from support.schemes import CPU, MODELS

L, N, N_HEADS, HEAD_DIM, D_MODEL = 16, 26, 2, 4, 8
SIZES = BlockSizes(TileSizes(chunk_rows=9, min_rows=4, group_rows=20), ChunkSizes(max_rows=13))


class Layer(NamedTuple):
    """What a paper says of a layer: functions of indices from 0, and the base of its angles."""

    sees: object
    base: float | None = None  # None: no rotation
    temperature: object = lambda i: 1.0
    sink: bool = False


def everything(i, j):
    return True


def window(size):
    """The query's own key and those before it, `size` in all."""
    return lambda i, j: i - j < size


def in_chunk(i, j):
    return i // 4 == j // 4


def llama(i):
    """1 + 0.1 log(floor((i + 1) / step) + 1), the step a quarter of 16."""
    return 0.1 * math.log(math.floor((i + 1) / 4) + 1) + 1


# Layer n, from 0, of a model trained at 16 tokens: windows and chunks are 4 of them, or 8.
PLANS = {
    "swan": lambda n: Layer(everything) if n % 4 == 3 else Layer(window(4), 1e4),
    "rnope_swa": lambda n: Layer(everything) if n % 4 == 3 else Layer(window(8), 1e4),
    "irope": lambda n: Layer(everything, None, llama) if n % 4 == 3 else Layer(in_chunk, 5e5),
    "gemma3": lambda n: Layer(everything, 1e6) if n % 6 == 5 else Layer(window(4), 1e4),
    "gpt_oss": lambda n: Layer(everything if n % 2 else window(4), 1.5e5, sink=True),
    "smollm3": lambda n: Layer(everything) if n % 4 == 3 else Layer(everything, 2e6),
    "rope_nope": lambda n: Layer(everything) if n % 2 else Layer(everything, 1e4),
}


def test_every_list_of_layers_has_an_oracle():
    lists = {name for name, node in MODELS.items() if "layers" in node and name in PLANS}
    assert lists == set(PLANS)


def settings(name: str, *overrides: str):
    dims = [f"size.n_heads={N_HEADS}", f"size.head_dim={HEAD_DIM}", f"size.d_model={D_MODEL}"]
    return read_train(plain(compose("train", f"model={name}", f"train_len={L}", *dims, *overrides)))


def attended(layer: Layer, q, k, v, sink):
    """Output [H, T, D] of q, k, v [H, T, D]; sink [H]."""
    rows = []
    for h in range(N_HEADS):
        for i in range(N):
            seen = [j for j in range(i + 1) if layer.sees(i, j)]
            scores = torch.stack([score(layer, q[h, i], k[h, j], i - j) for j in seen])
            scores = scores * layer.temperature(i)
            powers = torch.cat([scores, sink[h][None]] if layer.sink else [scores]).exp()
            rows.append((powers[: len(seen), None] * v[h, seen]).sum(0) / powers.sum())
    return torch.stack(rows).view(N_HEADS, N, HEAD_DIM)


def score(layer: Layer, q, k, distance: int):
    """q.k / sqrt(d), each pair of channels of q turned by distance * base^(-2c/d) against k's."""
    if layer.base is None:
        return q @ k / math.sqrt(HEAD_DIM)
    total = 0.0
    for c in range(HEAD_DIM // 2):
        turn = cmath.exp(1j * distance * layer.base ** (-2 * c / HEAD_DIM))
        product = torch.complex(*q[2 * c : 2 * c + 2]) * torch.complex(*k[2 * c : 2 * c + 2]).conj()
        total = total + (product * turn).real
    return total / math.sqrt(HEAD_DIM)


@pytest.mark.parametrize("name", sorted(PLANS))
def test_a_plan_is_what_its_paper_says_of_every_layer_values_and_gradients(name):
    """Reference in float64 and the fast paths in float32, beyond the trained length."""
    config = settings(name, "size.n_layers=7")
    torch.manual_seed(0)
    model, pattern = make_model(config, 256), training_pattern(config)
    with torch.no_grad():
        for parameter in model.positions.parameters():
            parameter.normal_()
    turns = model.schemes
    fast = make_attend(pattern, N, turns, CPU, sizes=SIZES)
    done = set()
    for n in range(7):
        own, position = layer_pairs(pattern, turns)[n % len(turns)]
        layer = PLANS[name](n)
        if (repr(own), layer.base) in done:  # the same once more
            assert own == pattern.turns[n % len(pattern.turns)]
            continue
        done.add((repr(own), layer.base))
        inputs = [torch.randn(1, N_HEADS, N, HEAD_DIM, dtype=torch.float64) for _ in range(3)]
        learned = list(position.parameters())
        sink = learned[0].detach().double() if layer.sink else torch.zeros(N_HEADS).double()
        leaves = [t[0].clone().requires_grad_() for t in inputs] + [sink.requires_grad_()]
        weight = torch.linspace(-1, 1, N_HEADS * N * HEAD_DIM).double().view(N_HEADS, N, HEAD_DIM)
        expected = attended(layer, *leaves)
        used = leaves if layer.sink else leaves[:3]
        gradients = torch.autograd.grad((expected * weight).sum(), used)
        for attend, dtype, within in (
            (Reference(own, N, position, CPU), torch.float64, 1e-6),
            (fast, torch.float32, 1e-4),
        ):
            given = [t.to(dtype).requires_grad_() for t in inputs]
            found = attend(*given, position, torch.zeros(1, N, D_MODEL, dtype=dtype))[0]
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=within)
            back = torch.autograd.grad((found * weight.to(dtype)).sum(), [*given, *learned])
            for ours, theirs in zip(back, gradients, strict=True):
                got = ours.double().view_as(theirs)
                torch.testing.assert_close(got, theirs, rtol=0, atol=10 * within)
    assert len(done) == 2, "two kinds of layers in each of these plans"


def test_entries_without_a_layer_are_named_before_training():
    (line,) = unused_entries(settings("gemma3"))
    assert line == (
        "model=gemma3 has 6 entries for 4 layers; without a layer: 5: RoPE in window-4, "
        "6: RoPE in full; size.n_layers=6 has all"
    )
    assert unused_entries(settings("gemma3", "size.n_layers=6")) == []
    assert unused_entries(settings("swan")) == unused_entries(settings("rope")) == []


@pytest.mark.parametrize("name", sorted(PLANS))
def test_no_window_is_larger_than_half_of_the_trained_length(name):
    pattern = training_pattern(settings(name))
    assert all(p.sees_all or p.n_keys(torch.arange(99)).max() <= L // 2 for p in pattern.turns)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("model.layers.0.pattern.share=0", "model.layers[0].pattern: share must be above 0"),
        ("model.layers.0.pattern.share=1.5", "model.layers[0].pattern: share must be above 0"),
        ("model.layers.0.pattern.chunk=0", "model.layers[0].pattern: chunk must be at least 1"),
        ("model.layers.3.position.share=0", "model.layers[3].position: share must be above 0"),
    ],
)
def test_sizes_that_are_not_allowed_end_before_training(override, reason):
    with pytest.raises(Exception) as error:
        check(compose("train", "model=irope", override))
    assert reason in str(error.value)
