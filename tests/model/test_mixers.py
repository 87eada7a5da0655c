"""Recurrent mixers: their papers' formulas, the state over pieces, initial values, sizes.

Mixers that transformers has are compared with it in tests/peers/test_mixers.py.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lexp.model.mixer import recurrent
from lexp.model.mixer.gated_delta_net import GatedDeltaNet
from lexp.model.mixer.gla import GLA
from lexp.model.mixer.kda import KDA
from lexp.model.mixer.mamba2 import Mamba2
from lexp.model.mixer.recurrent import Recurrent, State
from lexp.model.mixer.retnet import RetNet
from support import recurrences

D_MODEL, H, D = 24, 3, 8
MIXERS = [GatedDeltaNet, GLA, KDA, Mamba2, RetNet]


def made(mixer: type[Recurrent], dtype: torch.dtype = torch.float64) -> Recurrent:
    """Return a mixer with weights large enough that its gates differ from token to token."""
    torch.manual_seed(0)
    layer = mixer(D_MODEL, H, D)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer.to(dtype)


def text(n_tokens: int) -> Tensor:
    """Return layer inputs [2, T, d_model] in float64."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n_tokens, D_MODEL, generator=generator, dtype=torch.float64)


def rms(x: Tensor) -> Tensor:
    return x / math.sqrt(sum(value.item() ** 2 for value in x) / len(x) + 1e-6)


def gla(layer: GLA, x: Tensor) -> Tensor:
    """The paper's layer, a head at a time; x [T, d_model]."""
    wq, wk, wv = layer.qkv.weight.split([12, 12, 24])
    rank = x @ layer.decay_in.weight.T @ layer.decay_out.weight.T + layer.decay_out.bias
    gates = torch.sigmoid(rank) ** (1 / 16)
    swish = x @ layer.gate.weight.T + layer.gate.bias
    swish = swish * torch.sigmoid(swish)
    outs, ones = [], x.new_ones(len(x))
    for h in range(H):
        keys, values = slice(4 * h, 4 * h + 4), slice(8 * h, 8 * h + 8)
        q, k, v = x @ wq[keys].T / 2, x @ wk[keys].T, x @ wv[values].T
        out = recurrences.gla(q, k, v, gates[:, keys], ones, ones)
        outs.append(torch.stack([rms(o) * layer.norm.weight for o in out]) * swish[:, values])
    return torch.cat(outs, dim=1) @ layer.out.weight.T


def retnet(layer: RetNet, x: Tensor) -> Tensor:
    """The paper's layer, a head at a time, rotations as 2 x 2 matrices; x [T, d_model]."""
    wq, wk, wv = layer.qkv.weight.split([12, 12, 24])
    swish = x @ layer.gate.weight.T
    swish = swish * torch.sigmoid(swish)
    outs, ones = [], x.new_ones(len(x))

    def turn(rows: Tensor) -> Tensor:
        turned = rows.clone()
        for n in range(len(rows)):
            for c, angle in enumerate((n * 1.0, n * 0.01)):  # 10000^(-2c/4)
                a, b = rows[n, 2 * c].clone(), rows[n, 2 * c + 1].clone()
                turned[n, 2 * c] = a * math.cos(angle) - b * math.sin(angle)
                turned[n, 2 * c + 1] = a * math.sin(angle) + b * math.cos(angle)
        return turned

    for h in range(H):
        keys, values = slice(4 * h, 4 * h + 4), slice(8 * h, 8 * h + 8)
        q, k, v = turn(x @ wq[keys].T / 2), turn(x @ wk[keys].T), x @ wv[values].T
        gamma = torch.full_like(ones, 1 - 2.0 ** (-5 - h))[:, None]
        out = recurrences.retnet(q, k, v, gamma, ones, ones)
        outs.append(torch.stack([rms(o) for o in out]) * swish[:, values])
    return torch.cat(outs, dim=1) @ layer.out.weight.T


@pytest.mark.parametrize(("mixer", "oracle"), [(GLA, gla), (RetNet, retnet)])
def test_layers_of_the_papers(mixer, oracle):
    layer, x = made(mixer), text(37)
    with torch.no_grad():
        found = layer.read(x)[0]
        for row, right in zip(found, (oracle(layer, each) for each in x), strict=True):
            torch.testing.assert_close(row, right, rtol=1e-9, atol=1e-9)
    assert found.std() > 0.1


@pytest.mark.parametrize("mixer", MIXERS)
def test_state_carries_a_text_over_pieces_of_any_size(mixer):
    layer, x = made(mixer), text(75)
    outs, state = [], State()
    with torch.no_grad():
        whole, last = layer.read(x)
        for piece in x.split([1, 2, 30, 1, 41], dim=1):
            out, state = layer.read(piece, state)
            outs.append(out)
    torch.testing.assert_close(torch.cat(outs, dim=1), whole, rtol=1e-9, atol=1e-9)
    assert isinstance(state, State) and state.n_read == last.n_read == 75
    for carried, once in zip(state[:2], last[:2], strict=True):
        torch.testing.assert_close(carried, once, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mixer", MIXERS)
def test_long_texts_are_read_in_pieces_where_no_gradient_is_needed(mixer, monkeypatch):
    layer, x = made(mixer), text(50)
    whole = layer(x, None, None, None)
    assert whole.requires_grad
    monkeypatch.setattr(recurrent, "ROWS", 32)  # of two texts
    sizes = []
    read = layer.read
    monkeypatch.setattr(layer, "read", lambda x, s=None: (sizes.append(x.shape[1]), read(x, s))[1])
    with torch.no_grad():
        pieces = layer(x, None, None, None)
    assert sizes == [16, 16, 16, 2]
    torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_parameter_has_a_gradient_and_a_finite_start(mixer):
    torch.manual_seed(0)
    layer = mixer(D_MODEL, H, D)
    for parameter in layer.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    layer.initialise()
    layer.read(text(20).float())[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(("mixer", "least"), [(GatedDeltaNet, 0.01), (KDA, 1.0), (Mamba2, 1.0)])
def test_initial_decays_are_those_of_the_papers_code(mixer, least):
    """Rates up to 16, steps of 0.001 to 0.1 spread over their logarithm, wide convolutions."""
    torch.manual_seed(0)
    layer = mixer(D_MODEL, 600, 2)
    layer.initialise()
    rates, steps = layer.log_rate.exp(), F.softplus(layer.step_bias)
    assert least <= rates.min() < least + 1 and 15 < rates.max() <= 16
    assert steps.min() > 0.00099 and steps.max() < 0.101
    assert 0.4 < (steps < 0.01).float().mean() < 0.6
    assert 0.25 < layer.convolution.weight.std() < 0.32  # uniform(-0.5, 0.5)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_layer_has_about_as_many_parameters_as_attention(mixer):
    """At size=mini: 4 d_model^2, and at most a fifth more (KDA has four maps of low rank)."""
    n = sum(p.numel() for p in mixer(384, 6, 64).parameters())
    assert 0.9 < n / (4 * 384**2) < 1.2


@pytest.mark.parametrize("mixer", [GatedDeltaNet, KDA, Mamba2])
def test_a_convolution_of_no_tokens_is_refused(mixer):
    with pytest.raises(ValueError, match="kernel=0: must be at least 1"):
        mixer(D_MODEL, H, D, kernel=0)


def test_keys_that_are_no_whole_number_of_channels_are_refused():
    with pytest.raises(ValueError, match=r"expand_k=0.3: must make head_dim=8 a whole number"):
        GLA(D_MODEL, H, D, expand_k=0.3)
