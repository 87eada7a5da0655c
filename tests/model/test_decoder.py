"""Decoding equals scoring: a text read piece by piece, under every scheme and pattern."""

import weakref
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from lexp.attention import Reference
from lexp.attention.make import make_per_layer, refuse_meaningless
from lexp.model import decoder as decoder_module
from lexp.model.decoder import Decoder
from lexp.model.layers import LayerEntry
from lexp.model.mixer import GLA, KDA, GatedDeltaNet, Mamba2, RetNet
from lexp.model.transformer import Transformer
from lexp.pattern import (
    STRING,
    Bidirectional,
    Blockwise,
    DualChunk,
    Full,
    InTurns,
    LeakyReRoPE,
    LMInfinite,
    MoBA,
    NoAttention,
    OwnChunk,
    ReAttention,
    ReRoPE,
    SelfExtend,
    Sinks,
    SinksInPlace,
    WiderWindow,
    Window,
)
from lexp.pattern.sinks import FirstAndBand
from lexp.position import NoPE, RoPE
from lexp.scoring.protocol import TextWindow
from lexp.scoring.scorer import Scorer
from lexp.system.errors import NotDefined
from support.evaluation import tokens_of
from support.schemes import CPU, D_MODEL, HEAD_DIM, SCHEMES, dims, make

N, TRAINED = 27, 8
PIECES = [10, 1, 1, 3, 1, 1, 10]
PATTERNS = [
    pattern.fit(TRAINED, N)
    for pattern in (
        Full(), Blockwise(), Sinks(), SinksInPlace(Blockwise()), LMInfinite(n_global=3),
        SelfExtend(), LeakyReRoPE(), DualChunk(), MoBA(block=3), ReAttention(), Window(),
        WiderWindow(), OwnChunk(), ReRoPE(), STRING(),
    )
]  # fmt: skip


def made(*entries: LayerEntry, vocab_size: int = 50) -> Transformer:
    """A model whose tokens move each other's logits by much."""
    torch.manual_seed(0)
    model = Transformer(replace(dims(), n_layers=len(entries)), vocab_size, entries)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(4 * parameter if parameter.ndim > 1 else parameter + 0.1)
    return model.eval()


def decoded(model: Transformer, pattern, text: torch.Tensor, seq_len: int = N) -> torch.Tensor:
    """Log-probabilities [B, T, V] by pieces."""
    decoder = Decoder(model, pattern, seq_len)
    parts = [model.head(decoder.read(piece)) for piece in text.split(PIECES, dim=1)]
    return torch.cat(parts, dim=1).log_softmax(-1)


def check(model: Transformer, pattern) -> None:
    """The dense formula of the whole text, in float64."""
    text = torch.randint(50, (2, N), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        attend = make_per_layer(Reference, pattern, N, model.schemes, CPU)
        expected = model(text, attend).log_softmax(-1)
        torch.testing.assert_close(decoded(model, pattern, text), expected, rtol=1e-9, atol=1e-9)
    assert float(expected.std()) > 0.1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_decoding_equals_scoring_under_every_scheme_and_pattern(scheme):
    n_checked = 0
    model = made(LayerEntry(lambda: make(scheme))).double()
    for pattern in PATTERNS:
        try:
            refuse_meaningless(pattern, model.schemes)
        except NotDefined:
            continue
        check(model, pattern)
        n_checked += 1
    assert n_checked >= 3


@pytest.mark.parametrize("mixer", [GatedDeltaNet, GLA, KDA, Mamba2, RetNet])
def test_recurrent_layers_and_hybrids_carry_their_state(mixer):
    entry = LayerEntry(pattern=NoAttention(), make_mixer=lambda: mixer(D_MODEL, 4, HEAD_DIM))
    check(made(entry).double(), NoAttention())
    hybrid = made(entry, LayerEntry(lambda: RoPE(HEAD_DIM))).double()
    check(hybrid, InTurns((NoAttention(), Window(5))))


def test_layers_with_schemes_and_patterns_of_their_own():
    model = made(LayerEntry(lambda: RoPE(HEAD_DIM)), LayerEntry(NoPE)).double()
    check(model, InTurns((Window(5), Full())))


@pytest.mark.parametrize("scheme", ["xpos", "alibi", "fox", "cope", "fire"])
@pytest.mark.parametrize("pattern", PATTERNS[:3], ids=lambda p: p.label)
def test_log_probabilities_equal_those_of_the_evaluator_in_float32(scheme, pattern):
    model, tokens = made(LayerEntry(lambda: make(scheme)), vocab_size=256), tokens_of(N + 1)
    nats = Scorer(model, pattern, nullcontext()).score(tokens, [TextWindow(0, 0, N, N)])
    text = torch.from_numpy(tokens.window(0, 0, N + 1))[None].long()
    with torch.no_grad():
        log_probs = decoded(model, pattern, text[:, :-1])
    found = -log_probs.gather(-1, text[:, 1:, None])[0, :, 0]
    torch.testing.assert_close(found, torch.from_numpy(nats), rtol=1e-5, atol=1e-5)


def test_a_prompt_is_read_in_the_memory_of_its_pieces(monkeypatch):
    """The last hidden state is that of the whole prompt, and those before it are not kept."""
    monkeypatch.setattr(decoder_module, "ROWS", 8)
    model, text, kept = made(LayerEntry(lambda: make("rope"))), torch.arange(50)[None], []
    with torch.no_grad():
        whole = Decoder(model, Full(), 50).read(text)[:, -1]
    read_rows = Decoder._read

    def watched(self, rows):
        kept.append(sum(state() is not None for state in states))
        hidden = read_rows(self, rows)
        states.append(weakref.ref(hidden))
        return hidden

    states: list[weakref.ref] = []
    monkeypatch.setattr(Decoder, "_read", watched)
    n_read: list[int] = []
    with torch.no_grad():
        last = Decoder(model, Full(), 50).read_last(text, n_read.append)
    assert torch.equal(last, whole) and n_read == [8, 16, 24, 32, 40, 48, 50]
    assert max(kept) <= 1


@pytest.mark.parametrize(
    ("pattern", "counts"),
    [
        (Full(), range(51, 91)),
        (Window(1), [0] * 40),
        (Window(7), [6] * 40),
        (Blockwise(8), [n % 8 + 8 for n in range(51, 91)]),
        (OwnChunk(8), [n % 8 for n in range(51, 91)]),
        (Sinks(Window(7), n_sinks=3), [9] * 40),
        (SinksInPlace(Blockwise(8), n_sinks=2), [n % 8 + 10 for n in range(51, 91)]),
        (LMInfinite(n_global=5, window=6), [10] * 40),
    ],
    ids=[
        "full",
        "window-1",
        "window-7",
        "blockwise",
        "chunked",
        "sinks",
        "in_place",
        "lm_infinite",
    ],
)
def test_keys_that_no_later_query_sees_are_dropped(pattern, counts):
    """The next query sees its own key too, which is not there yet."""
    model, found = made(LayerEntry(lambda: make("fox"))), []
    decoder, token = Decoder(model, pattern, 90), torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        decoder.read(token.expand(1, 50))
        for _ in range(40):
            decoder.read(token)
            (cache,) = decoder.caches
            assert cache.n_kept == cache.k.shape[2] == cache.v.shape[2]
            found.append(cache.n_kept)
    assert found == list(counts)
    # Gates are summed over what lies between the first tokens and the band.
    n_inputs = 90 if isinstance(pattern, FirstAndBand) else found[-1]
    assert cache.x.shape[1] == n_inputs


def test_models_that_read_a_text_as_a_whole_are_refused():
    with pytest.raises(NotDefined, match="bidirectional"):
        Decoder(made(LayerEntry(NoPE)), Bidirectional(), N)
