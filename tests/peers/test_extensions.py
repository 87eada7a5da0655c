"""Inference-time extensions against transformers (5.23) and x-transformers (2.31).

Written-down disagreements:
- NTK-by-parts and YaRN: our `ramp=turns` is linear in the number of turns, as YaRN's paper has it;
  transformers' is linear in the channel (modeling_rope_utils.py:465), which is our `ramp=channels`.
- LongRoPE: transformers has a second set of divisors for texts up to the trained length (line 571);
  ours has one, for all lengths.
- PI of xPos: x-transformers slows the rotation only (x_transformers.py:879 and 886), we divide
  positions, so the decay is slowed too.
"""

import math

import pytest
import torch
from torch import Tensor

from lexp.extension import NTK, PI, DynamicNTK, Extension, Lengths, LongRoPE, NTKByParts, YaRN
from lexp.model.transformer import Transformer
from lexp.pattern import Full
from lexp.position import Position, RoPE, XPos
from lexp.system.errors import NotDefined
from support.peers.hf import gpt_neox, inverse_frequencies, run
from support.peers.ours import HEAD_DIM, LENGTH, TRAINED, assert_same, logits, make_model, tokens
from support.peers.xt import decoder

ORIGINAL = {"original_max_position_embeddings": TRAINED}
DIVISORS = [1.0, 1.5, 4.0, 9.0]


def no_sample(n: int, length: int) -> Tensor:
    raise AssertionError("these extensions measure nothing")


def extended(model: Transformer, extension: Extension, train_len: int = TRAINED) -> Transformer:
    """Made for LENGTH tokens."""
    return extension.extend(model, Full(), Lengths(train_len, LENGTH, LENGTH), no_sample)


CASES = {
    "pi": (PI(factor=4.0), {"rope_type": "linear", "factor": 4.0}),
    "pi of the length": (PI(), {"rope_type": "linear", "factor": LENGTH / TRAINED}),
    "dynamic": (DynamicNTK(), {"rope_type": "dynamic", "factor": 1.0}),
    "dynamic 2": (DynamicNTK(factor=2.0), {"rope_type": "dynamic", "factor": 2.0}),
    "yarn": (YaRN(factor=4.0), {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}),
    "yarn 0.5 6": (
        YaRN(factor=4.0, alpha=0.5, beta=6.0),
        {"rope_type": "yarn", "factor": 4.0, "beta_slow": 0.5, "beta_fast": 6.0, **ORIGINAL},
    ),
    "longrope": (
        LongRoPE(factor=4.0, divisors=DIVISORS),
        {
            "rope_type": "longrope", "factor": 4.0, "long_factor": DIVISORS,
            "short_factor": [1.0] * 4, **ORIGINAL,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CASES))
def test_whole_model_of_transformers(case):
    extension, rope = CASES[case]
    model = make_model(lambda: RoPE(HEAD_DIM))
    plain, found = logits(model), logits(extended(model, extension))
    assert_same(found, run(gpt_neox(model, **rope)))
    assert (found - plain).abs().max() > 0.1, "the extension changed nothing"


def rates(position: Position) -> tuple[Tensor, float]:
    """Angle per token of each channel pair, and what keys are multiplied by."""
    at = torch.tensor([0.0, 1.0], dtype=torch.float64)
    factors = position.rotary_factors(at, at, len(at))
    assert factors is not None
    return (factors[1][1] / factors[1][0]).angle().float(), factors[1][0].abs().max().item()


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("train_len", [128, 2048])
@pytest.mark.parametrize("factor", [2.5, 32.0])
def test_frequencies_of_yarn_at_real_sizes(head_dim, train_len, factor):
    lengths = Lengths(train_len, 2 * train_len, 4 * train_len)
    position = YaRN(factor=factor).change(RoPE(head_dim), lengths)
    original = {"original_max_position_embeddings": train_len}
    theirs, temperature = inverse_frequencies("yarn", head_dim, factor=factor, **original)
    found, scale = rates(position)
    torch.testing.assert_close(found, theirs, rtol=2e-6, atol=0)
    assert scale == pytest.approx(temperature, rel=1e-12)


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("train_len", [128, 2048])
def test_yarn_of_factor_1_changes_nothing_there_and_is_not_defined_here(head_dim, train_len):
    original = {"original_max_position_embeddings": train_len}
    theirs, temperature = inverse_frequencies("yarn", head_dim, factor=1.0, **original)
    plain = torch.tensor(RoPE(head_dim).frequencies)
    torch.testing.assert_close(theirs, plain.float(), rtol=2e-6, atol=0)
    assert temperature == 1
    with pytest.raises(NotDefined, match="yarn leaves every frequency of RoPE as it is"):
        lengths = Lengths(train_len, 2 * train_len, 4 * train_len)
        YaRN(factor=1.0).change(RoPE(head_dim), lengths)


@pytest.mark.parametrize("length", [TRAINED // 2, TRAINED, TRAINED + 1, 4096])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_frequencies_of_dynamic_ntk_at_every_length(length, factor):
    """Unchanged up to the trained length."""
    lengths = Lengths(TRAINED, length, 4096)
    position = DynamicNTK(factor=factor).change(RoPE(64), lengths)
    theirs, _ = inverse_frequencies("dynamic", 64, seq_len=length, factor=factor)
    torch.testing.assert_close(rates(position)[0], theirs, rtol=2e-6, atol=0)


def test_ramp_of_the_paper_and_ramp_of_transformers():
    """The same before and after the ramp; on it, each linear in what it says."""
    s, train_len, head_dim = 8.0, 4096, 128
    lengths = Lengths(train_len, 8 * train_len, 8 * train_len)
    theta = torch.tensor(RoPE(head_dim).frequencies)
    theirs, _ = inverse_frequencies(
        "yarn", head_dim, factor=s, original_max_position_embeddings=train_len
    )
    ours = rates(NTKByParts(factor=s).change(RoPE(head_dim), lengths))[0]
    kept = [(rate / theta - 1 / s) / (1 - 1 / s) for rate in (ours, theirs)]
    turns = train_len * theta / (2 * math.pi)
    apart = (turns > 32) | (turns < 1)
    torch.testing.assert_close(kept[0][apart], kept[1][apart], rtol=0, atol=1e-5)
    torch.testing.assert_close(kept[0], ((turns - 1) / 31).clamp(0, 1), rtol=0, atol=1e-5)
    borders = [math.log(turns[0] / r) / math.log(theta[0] / theta[1]) for r in (32, 1)]
    first, last = math.floor(borders[0]), math.ceil(borders[1])
    channel = (torch.arange(head_dim // 2) - first) / (last - first)
    torch.testing.assert_close(kept[1], 1 - channel.clamp(0, 1), rtol=0, atol=1e-5)
    assert (kept[0] - kept[1]).abs().max() > 0.3


def test_longrope_of_transformers_has_other_divisors_up_to_the_trained_length():
    rope = {"factor": 4.0, "long_factor": DIVISORS, "short_factor": [2.0] * 4, **ORIGINAL}
    short, _ = inverse_frequencies("longrope", HEAD_DIM, seq_len=TRAINED, **rope)
    long, _ = inverse_frequencies("longrope", HEAD_DIM, seq_len=TRAINED + 1, **rope)
    theta = torch.tensor(RoPE(HEAD_DIM).frequencies)
    torch.testing.assert_close(short, theta / 2, rtol=1e-6, atol=0)
    for length in (TRAINED, TRAINED + 1):
        extension = LongRoPE(factor=4.0, divisors=DIVISORS)
        position = extension.change(RoPE(HEAD_DIM), Lengths(TRAINED, length, LENGTH))
        torch.testing.assert_close(rates(position)[0], long, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scheme", [RoPE, XPos])
def test_ntk_of_x_transformers(scheme):
    model = make_model(lambda: scheme(HEAD_DIM))
    options = {"rotary_emb_dim": HEAD_DIM, "rotary_base_rescale_factor": 4.0}
    theirs = decoder(model, rotary_pos_emb=True, rotary_xpos=scheme is XPos, **options)
    with torch.no_grad():
        expected = theirs(tokens())
    assert_same(logits(extended(model, NTK(factor=4.0))), expected)


@pytest.mark.parametrize("scheme", ["rope", "xpos"])
def test_pi_of_x_transformers(scheme):
    """Their xPos decays as before, which is ours with a decay that is faster to begin with."""
    model = make_model(lambda: RoPE(HEAD_DIM) if scheme == "rope" else XPos(HEAD_DIM))
    options = {"rotary_emb_dim": HEAD_DIM, "rotary_interpolation_factor": 4.0}
    theirs = decoder(model, rotary_pos_emb=True, rotary_xpos=scheme == "xpos", **options)
    with torch.no_grad():
        expected = theirs(tokens())
    if scheme == "xpos":
        assert (logits(extended(model, PI(factor=4.0))) - expected).abs().max() > 0.1
        model.positions[0] = XPos(HEAD_DIM, scale_base=512 / 4)
    assert_same(logits(extended(model, PI(factor=4.0))), expected)
