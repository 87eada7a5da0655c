"""fla-core 0.6, by the authors of PaTH, FoX and Wall Attention: functions in plain torch.

Its packages import triton, which no machine without a GPU has, so the files that need nothing of
theirs are loaded by their place. Wall's function needs a running sum that is a triton kernel there;
torch's is in its place.

Written-down disagreements (file, line), each undone by a value of ours:
- PaTH's gates are divided by sqrt(d) together with the product (path_attn/naive.py:95), FoX's are
  not (forgetting_attn/naive.py:51): `head_dim` of the gates.
- The layer has SiLU between convolution and normalisation (layers/path_attn.py, which is not in
  this package): `activation` of PaTH; the function compared here begins after it.
"""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from lexp.attention import Reference
from lexp.pattern import Full, Pattern, Window
from lexp.position import FoX, PaTH, Position, Sum, Wall
from support.peers.ours import CPU, HEAD_DIM, peer, width

H = 3


def naive(name: str) -> ModuleType:
    """A file of fla.ops, without the packages above it."""
    folder = Path(next(iter(peer("fla").__path__)))
    spec = importlib.util.spec_from_file_location(name, folder / "ops" / name / "naive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs(length: int) -> list[Tensor]:
    """Queries, keys, values, weights of the output [1, H, T, D]; layer inputs [1, T, d_model]."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, weight = torch.randn(4, 1, H, length, HEAD_DIM, generator=generator)
    return [q, k, v, weight, torch.randn(1, length, width(H), generator=generator)]


def compare(position: Position, pattern: Pattern, length: int, theirs) -> None:
    """Outputs, and gradients of q, k, v and of what is learned; their functions are in float32."""
    with torch.no_grad():
        for parameter in position.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    *qkv, weight, x = inputs(length)
    wanted = [*(t.requires_grad_() for t in qkv), *position.parameters()]
    found = Reference(pattern, length, position, CPU)(*qkv, position, x)
    expected = theirs(*(t.transpose(1, 2) for t in qkv), x).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    ours, right = (torch.autograd.grad((out * weight).sum(), wanted) for out in (found, expected))
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().clamp(min=0.1).item())


def fla_gates(position: FoX, x: Tensor) -> Tensor:
    """Log gates as the authors' layers compute them, [1, T, H]."""
    return torch.nn.functional.logsigmoid(x @ position.gate.weight.T + position.gate.bias)


@pytest.mark.parametrize("length", [1, 7, 65])
@pytest.mark.parametrize("window", [None, 5])
def test_fox(window, length):
    torch.manual_seed(0)
    position, function = FoX(width(H), H), naive("forgetting_attn").naive_forgetting_attn
    pattern = Full() if window is None else Window(window)

    def theirs(q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return function(q, k, v, fla_gates(position, x), window_size=window)

    compare(position, pattern, length, theirs)


def with_running_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two modules that Wall's function imports: a constant, and sums over tokens by torch."""
    constant, sums = ModuleType("constant"), ModuleType("cumsum")
    constant.RCP_LN2 = 1 / math.log(2)
    sums.chunk_global_cumsum = lambda x, cu_seqlens, scale: (x.double().cumsum(1) * scale).float()
    monkeypatch.setitem(sys.modules, "fla.ops.utils.constant", constant)
    monkeypatch.setitem(sys.modules, "fla.ops.utils.cumsum", sums)


@pytest.mark.parametrize("length", [1, 7, 65])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("gated", [False, True])
def test_wall(gated, window, length, monkeypatch):
    """Gates by channel from far below 1 to 1; gated: and FoX's gate of the whole head."""
    with_running_sums(monkeypatch)
    torch.manual_seed(0)
    wall, gates = Wall(width(H), HEAD_DIM, H, gate_bias=1.0), FoX(width(H), H)
    position = Sum([wall, gates]) if gated else wall
    function = naive("wall_attn").naive_wall_attn
    pattern = Full() if window is None else Window(window)

    def theirs(q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        by_channel = torch.nn.functional.logsigmoid(x @ wall.gate.weight.T + wall.gate.bias)
        return function(
            q, k, v, by_channel.unflatten(2, (H, HEAD_DIM)), scale=HEAD_DIM**-0.5,
            window_size=window, g_scalar=fla_gates(gates, x) if gated else None,
        )  # fmt: skip

    compare(position, pattern, length, theirs)


@pytest.mark.parametrize("length", [1, 2, 64, 70])
@pytest.mark.parametrize("gated", [False, True])
def test_path_and_path_fox(gated, length):
    """Their blocks of 64 tokens, and lengths around them; gates over sqrt(d), as they have them."""
    torch.manual_seed(0)
    reflections = PaTH(width(H), HEAD_DIM, H, rank=4, activation="silu")
    gates = FoX(width(H), H, head_dim=HEAD_DIM)
    position = Sum([reflections, gates]) if gated else reflections
    function = naive("path_attn").naive_path_attn

    def theirs(q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        w, b = reflections.mirrors(x)
        g = fla_gates(gates, x) if gated else torch.zeros(1, length, H)
        return function(q, k, v, w.transpose(1, 2), b.mT, g, HEAD_DIM**-0.5)

    compare(position, Full(), length, theirs)


def test_path_fox_with_the_papers_gates_is_another_model():
    """The disagreement above: undivided gates forget sqrt(d) times as fast."""
    q, k, v, _, x = inputs(9)
    reflections = PaTH(width(H), HEAD_DIM, H, rank=4)
    outputs = []
    for head_dim in (None, HEAD_DIM):
        torch.manual_seed(0)
        position = Sum([reflections, FoX(width(H), H, head_dim)])
        outputs.append(Reference(Full(), 9, position, CPU)(q, k, v, position, x))
    assert (outputs[0] - outputs[1]).abs().max() > 0.05
