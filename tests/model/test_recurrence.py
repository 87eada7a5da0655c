"""The chunked recurrence equals the papers' loops over tokens: values, gradients, any cut."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lexp.model.mixer.recurrence import recur
from support import recurrences

H, DK, DV = 2, 5, 3


class Case(NamedTuple):
    """A mixer's recurrence: its oracle, channels of its decay, whether e and w are used."""

    oracle: Callable[..., Tensor]
    channels: int = 1
    erases: bool = False
    writes: bool = False
    constant: bool = False


CASES = {
    "gla": Case(recurrences.gla, channels=DK),
    "retnet": Case(recurrences.retnet, constant=True),
    "mamba2": Case(recurrences.mamba2, writes=True),
    "gated_delta_net": Case(recurrences.gated_delta, erases=True, writes=True),
    "kda": Case(recurrences.kda, channels=DK, erases=True, writes=True),
}


def inputs(case: Case, n_tokens: int, log_decay: float = -1.0) -> list[Tensor]:
    """Return q, k, v, log decays, e and w of H heads, float64 leaves; k has length 1."""
    torch.manual_seed(n_tokens)
    q, k, v = (torch.randn(1, H, n_tokens, d, dtype=torch.float64) for d in (DK, DK, DV))
    decays = log_decay * torch.rand(1, H, n_tokens, case.channels, dtype=torch.float64)
    if case.constant:
        decays = decays[:, :, :1].expand_as(decays).clone()
    e = torch.rand(1, H, n_tokens, dtype=torch.float64)
    w = e.clone() if case.erases else torch.rand_like(e)
    return [x.requires_grad_() for x in (q, F.normalize(k, dim=-1), v, decays, e, w)]


def ours(case: Case, given: list[Tensor], **options: object) -> tuple[Tensor, Tensor]:
    q, k, v, decays, e, w = given
    return recur(
        q, k, v, decays, erase=e if case.erases else None, write=w if case.writes else None,
        **options,
    )  # fmt: skip


def expected(case: Case, given: list[Tensor]) -> Tensor:
    """Return the oracle's outputs [1, H, T, Dv]."""
    q, k, v, decays, e, w = (x[0] for x in given)
    heads = zip(q, k, v, decays.exp(), e, w, strict=True)
    return torch.stack([case.oracle(*head) for head in heads])[None]


def gradients(case: Case, given: list[Tensor], out: Tensor) -> list[Tensor]:
    """Return those of a weighted sum of the outputs; e and w are one number where both are used."""
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    found = torch.autograd.grad((out * weight).sum(), given, materialize_grads=True)
    if case.constant:
        found = [*found[:3], found[3].sum(2), *found[4:]]
    return [*found[:4], found[4] + found[5]]


@pytest.mark.parametrize(("n_tokens", "chunk"), [(1, 64), (7, 4), (33, 16), (40, 1), (70, 64)])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_of_the_papers(name, n_tokens, chunk):
    case = CASES[name]
    given = inputs(case, n_tokens)
    right, (found, _) = expected(case, given), ours(case, given, chunk=chunk)
    torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-12)
    pairs = zip(gradients(case, given, found), gradients(case, given, right), strict=True)
    for ours_, theirs in pairs:
        torch.testing.assert_close(ours_, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sizes", [(1, 1, 38), (17, 16, 7), (32, 8)])
@pytest.mark.parametrize("name", CASES)
def test_the_state_carries_a_text_over_pieces_of_any_size(name, sizes):
    case = CASES[name]
    given = inputs(case, sum(sizes))
    state, outs = None, []
    for piece in zip(*(x.split(sizes, dim=2) for x in given), strict=True):
        out, state = ours(case, list(piece), state=state, chunk=16)
        outs.append(out)
    found = torch.cat(outs, dim=2)
    torch.testing.assert_close(found, expected(case, given), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("log_decay", [-1e5, -200.0, -1e-6])
@pytest.mark.parametrize("name", CASES)
def test_extreme_gates_in_float32(name, log_decay):
    """Gates of e^-200 and less are 0 in float32, among gates near 1, and gradients stay finite."""
    case = CASES[name]
    given = [x.detach() for x in inputs(case, 100, log_decay)]
    if not case.constant:
        given[3][:, :, ::3] *= 1e-7  # a third of the gates almost 1
    given = [x.float().requires_grad_() for x in given]
    found, _ = ours(case, given)
    assert found.dtype == torch.float32
    right = expected(case, [x.double() for x in given])
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)
    slopes = zip(gradients(case, given, found), gradients(case, given, right), strict=True)
    for ours_, theirs in slopes:
        scale = theirs.abs().max().clamp(min=1e-3).item()
        torch.testing.assert_close(ours_, theirs, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", CASES)
def test_a_closed_gate_forgets_everything(name):
    """log 0 = -inf is a gate like any other: what follows does not depend on what came before."""
    case = CASES[name]
    given = [x.detach().float() for x in inputs(case, 50)]
    given[3][:, :, 20] = -torch.inf
    found, _ = ours(case, [x.requires_grad_() for x in given])
    assert all(torch.isfinite(x).all() for x in gradients(case, given, found))
    after, _ = ours(case, [x[:, :, 20:] for x in given])
    torch.testing.assert_close(found[:, :, 20:], after)


def test_heads_may_share_queries_and_keys():
    case = CASES["mamba2"]
    q, k, v, decays, _, w = inputs(case, 20)
    shared, _ = recur(q[:, :1], k[:, :1], v, decays, write=w)
    q, k = (x[:, :1].expand(1, H, 20, DK) for x in (q, k))
    torch.testing.assert_close(shared, recur(q, k, v, decays, write=w)[0])


def test_autocast_leaves_the_state_in_float32():
    case = CASES["gated_delta_net"]
    given = [x.detach().float() for x in inputs(case, 70)]
    with torch.autocast("cpu", torch.bfloat16):
        found, state = ours(case, given)
    assert state.dtype == found.dtype == torch.float32
    torch.testing.assert_close(found, ours(case, given)[0], rtol=0, atol=0)


def test_a_chunk_that_is_no_power_of_2_is_refused():
    with pytest.raises(ValueError, match="chunk must be a power of 2, got 48"):
        ours(CASES["gla"], inputs(CASES["gla"], 3), chunk=48)
