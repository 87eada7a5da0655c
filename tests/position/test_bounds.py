"""Parameters with bounds: below, at and above them they have the authors' value and gradient.

The oracle's parameters are moved into their bounds before its graph begins (`oracles.leaves`), so
it shares no clamp with what it tests.
"""

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

import oracles
from lexp.attention import (
    BlockSizes,
    ChunkSizes,
    Flex,
    Reference,
    TileSizes,
    flex,
    make_attend,
)
from lexp.attention.chunked import Chunked
from lexp.pattern import Bidirectional, Full, Window
from lexp.position import KerpleLog, Position
from support.schemes import CPU, D_MODEL, make

# By head; the lower bound is 0.01 for all, the upper one 2 for kerple_power's r2.
R1, R2 = [-1.0, 0.01, 0.005, 0.7], [0.005, 2.5, 0.01, 2.0]
BOUNDED = ["kerple_log", "kerple_power", "dape_kerple_log"]
N, HEAD_DIM = 11, 16


@pytest.fixture
def uncompiled(monkeypatch):
    """FlexAttention by torch's own formula: for a CPU its kernel has no gradients."""
    monkeypatch.setattr(flex, "compiled", lambda: torch_flex.flex_attention)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *given: None)


def at_bounds(scheme: str) -> Position:
    """The scheme with parameters below, at and above each of its bounds."""
    torch.manual_seed(0)
    position = make(scheme).double()
    with torch.no_grad():
        for name, parameter in position.named_parameters():
            if name.endswith(("r1", "r2")):
                parameter.copy_(torch.tensor(R1 if name.endswith("r1") else R2))
    return position


def inputs(n_batch: int = 1):
    generator = torch.Generator().manual_seed(1)
    shape = (n_batch, 4, N, HEAD_DIM)
    q, k, v, weight = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    return q, k, v, weight, torch.randn(n_batch, N, D_MODEL, generator=generator).double()


def of_oracle(scheme: str, allowed) -> list[torch.Tensor]:
    """Output, and gradients of all learned parameters, by the paper's formula."""
    two_sided = allowed[0][-1]
    oracle = oracles.BOTH_SIDES[scheme][0] if two_sided else getattr(oracles, scheme)
    own = oracles.leaves(oracle, dict(at_bounds(scheme).named_parameters()))
    q, k, v, weight, x = inputs()
    heads = []
    for h in range(4):
        whole = getattr(oracle, "takes_all_heads", False)
        pair = (q[0], k[0]) if whole else (q[0, h], k[0, h])
        scores = oracle(*pair, h, 4, own, *([] if two_sided else [x[0]]))
        heads.append(oracles.attention(scores, v[0, h], allowed))
    out = torch.stack(heads)[None]
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), list(own.values()))]


def small_tiles(pattern, n, position, device):
    sizes = BlockSizes(TileSizes(whole_tokens=4, chunk_rows=4), ChunkSizes(max_rows=4))
    return make_attend(pattern, n, [position], device, sizes=sizes)


def as_users(pattern, n, position, device):
    return make_attend(pattern, n, [position], device)


CAUSAL, EVERY = [[j <= i for j in range(N)] for i in range(N)], [[True] * N] * N
BAND = [[i - 4 < j <= i for j in range(N)] for i in range(N)]
PATHS = {
    "reference": (Reference, Full(), CAUSAL), "tiles": (as_users, Full(), CAUSAL),
    "small tiles": (small_tiles, Full(), CAUSAL), "chunks": (Chunked, Full(), CAUSAL),
    "flex": (Flex, Full(), CAUSAL), "window": (as_users, Window(4), BAND),
    "flex window": (Flex, Window(4), BAND), "both sides": (as_users, Bidirectional(), EVERY),
    "reference both sides": (Reference, Bidirectional(), EVERY),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", BOUNDED)
def test_every_path_has_the_authors_values_and_gradients_at_the_bounds(scheme, path, uncompiled):
    kind, pattern, allowed = PATHS[path]
    position = at_bounds(scheme)
    if (position.has_attention_weights and kind is Flex) or (
        pattern.two_sided and not position.two_sided
    ):
        pytest.skip("this path does not take the scheme")
    dtype = torch.float32 if kind is Flex else torch.float64
    position = position.to(dtype)
    q, k, v, weight, x = (t.to(dtype) for t in inputs())
    out = kind(pattern, N, position, CPU)(q, k, v, position, x)
    found = [out, *torch.autograd.grad((out * weight).sum(), list(position.parameters()))]
    # Rows of biases by distance are float32, whatever the inputs.
    for ours, theirs in zip(found, of_oracle(scheme, allowed), strict=True):
        torch.testing.assert_close(ours.detach().double(), theirs, rtol=2e-5, atol=1e-5)


def test_the_reproduction():
    """Chi et al.'s code gives r2 = 0.005 a gradient of 1.2136 here, a clamp in the graph none."""
    position = KerpleLog(1).double()
    position.r1.data.fill_(1.0)
    position.r2.data.fill_(0.005)
    q, v = torch.zeros(1, 1, 4, 2).double(), torch.arange(4.0).double().view(1, 1, 4, 1)
    out = Reference(Full(), 4, position, CPU)(q, q, v, position, q[0])
    out[0, 0, -1].sum().backward()
    assert position.r2.grad.item() == pytest.approx(1.2136, abs=5e-5)
    assert position.r2.item() == 0.01


@pytest.mark.parametrize("scheme", BOUNDED)
def test_a_step_moves_parameters_away_from_their_bounds(scheme):
    """SGD, as often as not: what is outside a bound steps from it, and none is stuck."""
    position = at_bounds(scheme)
    bounds = getattr(oracles, scheme).bounds
    expected = oracles.leaves(getattr(oracles, scheme), dict(position.named_parameters()))
    q, k, v, weight, x = inputs()
    optimizer = torch.optim.SGD(position.parameters(), lr=0.1)
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()  # some heads up, some down
    out = make_attend(Full(), N, [position], CPU)(q, k, v, position, x)
    (out * weight * sign[:, None, None]).sum().backward()
    optimizer.step()
    for name, parameter in position.named_parameters():
        if name.rpartition(".")[2] in bounds:
            assert parameter.grad.abs().min() > 1e-4
            torch.testing.assert_close(parameter, expected[name] - 0.1 * parameter.grad)


def test_a_model_evaluated_in_inference_mode_still_trains():
    """Parameters that evaluation has moved to their bounds are ordinary ones afterwards."""
    position = at_bounds("kerple_log")
    attend = Reference(Full(), N, position, CPU)
    q, k, v, _, x = inputs()
    with torch.inference_mode():
        first = attend(q, k, v, position, x)
    out = attend(q, k, v, position, x)
    out.sum().backward()
    assert torch.equal(first, out)
    assert position.r1.min() == 0.01 and position.r2.min() == 0.01
