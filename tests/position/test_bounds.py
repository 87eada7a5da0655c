"""Parameters with bounds: below, at and above them they have the authors' value and gradient.

The oracle's parameters are moved into their bounds before its graph begins (`oracles.leaves`), so
it shares no clamp with what it tests.
"""

import pytest
import torch

import oracles
from lexp.attention import Reference, make_attend
from lexp.pattern import Full
from lexp.position import KerpleLog, Position
from support.paths import PATHS, N, check_path, inputs, takes
from support.schemes import CPU, make

# By head; the lower bound is 0.01 for all, the upper one 2 for kerple_power's r2.
R1, R2 = [-1.0, 0.01, 0.005, 0.7], [0.005, 2.5, 0.01, 2.0]
BOUNDED = ["kerple_log", "kerple_power", "dape_kerple_log"]
CASES = [(scheme, path) for scheme in BOUNDED for path in PATHS if takes(path, make(scheme))]


def at_bounds(scheme: str) -> Position:
    """The scheme with parameters below, at and above each of its bounds."""
    torch.manual_seed(0)
    position = make(scheme).double()
    with torch.no_grad():
        for name, parameter in position.named_parameters():
            if name.endswith(("r1", "r2")):
                parameter.copy_(torch.tensor(R1 if name.endswith("r1") else R2))
    return position


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("scheme", "path"), CASES)
def test_every_path_has_the_authors_values_and_gradients_at_the_bounds(scheme, path, monkeypatch):
    two_sided = "both sides" in path
    oracle = oracles.BOTH_SIDES[scheme] if two_sided else getattr(oracles, scheme)
    check_path(path, at_bounds(scheme), oracle, monkeypatch)


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
    """By SGD: what is outside a bound steps from it, up or down, and nothing is stuck."""
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
            assert parameter.grad.abs().min() > 1e-6
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
