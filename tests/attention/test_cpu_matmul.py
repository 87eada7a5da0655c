"""Attention by plain products: against the formula in float64, and the fused kernel's errors."""

import math

import pytest
import torch

from lexp.attention import Reference, Tiles
from lexp.attention.cpu.arithmetic import bfloat16_products
from lexp.attention.cpu.matmul import attend_by_matmul
from lexp.attention.kernels import Case, choose_kernel, fused_in_blocks, matmul_in_blocks
from lexp.attention.layouts import (
    BandMask,
    CumulativeGateBias,
    NoBias,
    PairwiseBias,
    ToeplitzBias,
)
from lexp.pattern import Blockwise, Full, Window
from lexp.position import FIRE, ALiBi, FoX, NoPE, RoPE, XPos

CPU = torch.device("cpu")
TEXTS, HEADS, HEAD_DIM, ROWS, KEYS = 3, 2, 8, 150, 200
SCHEMES = {
    "nope": NoPE(), "rope": RoPE(HEAD_DIM), "xpos": XPos(HEAD_DIM), "alibi": ALiBi(HEADS),
    "fox": FoX(HEAD_DIM, HEADS), "fire": FIRE(HEADS, 64),
}  # fmt: skip


def drawn(*shape, dtype=torch.float64, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def qkv(rows, n_keys, dtype=torch.float64):
    sizes = enumerate((rows, n_keys, n_keys))
    return [drawn(TEXTS, HEADS, n, HEAD_DIM, dtype=dtype, seed=seed) for seed, n in sizes]


def formula(q, k, v, added, scale):
    return ((q.double() @ k.double().mT) * scale + added.double()).softmax(-1) @ v.double()


def error(found, right):
    return ((found.double() - right).square().mean() / right.square().mean()).sqrt()


@pytest.mark.parametrize("most", [1, 40 * 70, 3 * 40 * 70, 1 << 19])
@pytest.mark.parametrize("texts", [1, TEXTS])
@pytest.mark.parametrize("heads", [1, HEADS])
def test_any_heads_and_texts_at_a_time_are_the_formula(heads, texts, most):
    q, k, v = qkv(40, 70)
    added = drawn(texts, heads, 40, 70)
    added[..., 7:60] = -math.inf
    with torch.no_grad():
        found = attend_by_matmul(q, k, v, added, 0.3, max_scores=most)
    torch.testing.assert_close(found, formula(q, k, v, added, 0.3), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("wide", [1, HEAD_DIM // 2, 2 * HEAD_DIM])
@pytest.mark.parametrize("forward", [attend_by_matmul, matmul_in_blocks])
def test_values_may_be_wider_or_narrower_than_keys(forward, wide):
    """As under PoPE, whose queries and keys have twice the dimensions of its values."""
    q, k, _ = qkv(40, 70)
    v = drawn(TEXTS, HEADS, 70, wide)
    distance = torch.arange(40)[:, None] + 30 - torch.arange(70)
    added = torch.zeros(40, 70, dtype=torch.float64).masked_fill(distance < 0, -math.inf)
    layout = () if forward is attend_by_matmul else (NoBias(),)
    with torch.no_grad():
        found = forward(q, k, v, added if not layout else torch.zeros(()), *layout, 0.3)
    torch.testing.assert_close(found, formula(q, k, v, added, 0.3), rtol=1e-12, atol=1e-14)


def laid_out(name):
    """Values, their layout, and what they add to the scores by definition, [texts, H, R, K]."""
    distance = torch.arange(ROWS)[:, None] + KEYS - ROWS - torch.arange(KEYS)
    later = torch.zeros(ROWS, KEYS, dtype=torch.float64).masked_fill(distance < 0, -math.inf)
    if name == "none":
        return torch.zeros(()), NoBias(), later[None, None]
    if name == "by distance":
        values = drawn(HEADS, KEYS)
        row = torch.nn.functional.pad(values, (0, ROWS - 1), value=-math.inf)
        return (
            row,
            ToeplitzBias(),
            (values[:, (KEYS - 1 - distance).clamp(max=KEYS - 1)] + later)[None],
        )
    if name == "by key":
        values = drawn(TEXTS, HEADS, KEYS)
        return values, CumulativeGateBias(), values[:, :, None] + later
    values = drawn(TEXTS, HEADS, ROWS, KEYS)
    return values, PairwiseBias(), values + later


@pytest.mark.parametrize("name", ["none", "by distance", "by key", "by pair"])
def test_in_bfloat16_it_is_as_exact_as_the_kernel(name):
    """Both against float64 of the same rounded inputs."""
    q, k, v = qkv(ROWS, KEYS, torch.bfloat16)
    values, layout, added = laid_out(name)
    if name == "none":  # the kernel's own mask is of as many queries as keys
        q, added = drawn(TEXTS, HEADS, KEYS, HEAD_DIM, dtype=torch.bfloat16), later_keys(KEYS)
    values = values if name == "by key" else values.float()
    right = formula(q, k, v, added, 0.3)
    with torch.no_grad():
        kernel = choose_kernel(layout, Case.of(q, k, v, values))
        assert kernel.forward is matmul_in_blocks
        ours = kernel(q, k, v, values, layout, 0.3)
        elsewhere = choose_kernel(layout, Case.of(q, k, v, values)._replace(on_cpu=False))
        # What the backward pass takes for biases of pairs beside long texts, on a CPU.
        fused = fused_in_blocks if name == "by pair" else elsewhere.forward
        theirs = fused(q, k, v, values, layout, 0.3)
    assert not torch.equal(ours, theirs)  # two ways, indeed
    assert error(ours, right) < 1.2 * error(theirs, right) < 0.01


def later_keys(n):
    return torch.full((n, n), -math.inf, dtype=torch.float64).triu(1)


@pytest.mark.parametrize("pattern", [Full(), Blockwise(16), Window(50)], ids=repr)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_tiles_without_gradients_in_bfloat16_are_the_reference(scheme, pattern):
    chosen = []

    def choose(layout, case):
        chosen.append(choose_kernel(layout, case))
        return chosen[-1]

    position, n = SCHEMES[scheme], 230
    q, k, v = qkv(n, n, torch.bfloat16)
    x = drawn(TEXTS, n, HEAD_DIM, dtype=torch.float32)
    with torch.inference_mode():
        right = Reference(pattern, n, position, CPU)(
            q.double(), k.double(), v.double(), position.double(), x.double()
        )
        found = Tiles(pattern, n, position, CPU, choose=choose)(q, k, v, position.float(), x)
    assert {kernel.forward.__name__.split("_")[0] for kernel in chosen} == {"matmul"}
    assert found.dtype == torch.bfloat16
    # Rotated queries and keys are rounded as well, before any kernel.
    assert error(found, right) < 0.01


def test_by_products_only_where_it_pays():
    def pays(n_keys, head_dim=32, dtype=torch.bfloat16):
        q = torch.zeros(1, 1, 1, head_dim, dtype=dtype)
        k = torch.zeros(1, 1, n_keys, head_dim, dtype=dtype)
        case = Case.of(q, k, k, q)
        layouts = NoBias(), ToeplitzBias(), CumulativeGateBias(), PairwiseBias(), BandMask()
        names = {choose_kernel(layout, case).forward.__name__ for layout in layouts}
        by_matmul = {name for name in names if name.startswith("matmul")}
        assert by_matmul in (set(), names)
        return bool(by_matmul)

    assert not pays(8)  # gradients might be asked for
    with torch.no_grad():
        assert pays(1024) and not pays(1025)
        assert pays(2048, head_dim=64) and pays(4096, head_dim=256) and not pays(4097, head_dim=256)
        assert not pays(8, dtype=torch.float32) and not pays(8, dtype=torch.float64)


def test_the_precision_of_products_is_put_back():
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    with pytest.raises(KeyError), bfloat16_products(True):
        assert matmul.fp32_precision == "bf16"
        raise KeyError
    assert matmul.fp32_precision == before
    with bfloat16_products(False):
        assert matmul.fp32_precision == before
