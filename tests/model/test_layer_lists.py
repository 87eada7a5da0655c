"""Layers that differ: which scheme, pattern and mixer each has, and how a method replaces them."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lexp.attention import make_attend, refuse_meaningless
from lexp.commands.run_parts import make_entries, training_pattern
from lexp.commands.train import check
from lexp.config.instantiate import build
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.model.layers import LayerEntry
from lexp.model.mixer import Mixer
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import (
    Bidirectional,
    BidirectionalWindow,
    Blockwise,
    Full,
    InTurns,
    OwnChunk,
    Pattern,
    SelfExtend,
    Trained,
    WiderWindow,
    Window,
    refuse_nothing_replaced,
    replaced,
)
from lexp.position import FoX, Learned, NoPE, RandomPositions, RoPE, SinkLogits, Sum
from lexp.scoring.protocol import Prefix
from lexp.scoring.scorer import Scorer
from lexp.system.errors import ConfigError, NotDefined
from support.config import compose, refusal
from support.evaluation import tokens_of
from support.schemes import CPU, D_MODEL, HEAD_DIM, dims

HYBRID = InTurns((Window(3), Full()))


class Shift(Mixer):
    """Each token gets what the token before it holds, times a learned number."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(D_MODEL, D_MODEL, bias=False)

    def forward(self, x, position, attend, sampled):
        return self.out(x.roll(1, dims=1).index_fill(1, torch.tensor([0]), 0))


def test_layers_take_the_entries_in_turns():
    entries = [LayerEntry(lambda: RoPE(HEAD_DIM)), LayerEntry(NoPE), LayerEntry(make_mixer=Shift)]
    deep = Dims(n_layers=4, d_model=D_MODEL, n_heads=4, head_dim=HEAD_DIM, d_ff=64)
    model = Transformer(deep, 50, entries)
    assert [type(p).__name__ for p in model.schemes] == ["RoPE", "NoPE", "NoPE"]
    names = [block.mixer_name for block in model.blocks]
    assert names == ["attention", "attention", "recurrence", "attention"]
    weights = model.state_dict()
    assert {"blocks.0.attention.qkv.weight", "blocks.2.recurrence.out.weight"} <= set(weights)
    # What writes to the residual stream starts smaller, by the square root of twice the layers.
    assert weights["blocks.2.recurrence.out.weight"].std() == pytest.approx(0.02 / 8**0.5, rel=0.2)
    assert model(torch.randint(50, (1, 9)), make_attend(Full(), 9, model.schemes, CPU)).shape


def test_entries_past_the_last_layer_have_no_parameters():
    model = Transformer(dims(), 50, [LayerEntry(NoPE)] * 2 + [LayerEntry(lambda: FoX(D_MODEL, 4))])
    assert len(model.schemes) == 2 and not list(model.positions.parameters())


def test_schemes_with_parameters_per_layer_are_made_for_each_layer():
    deep = Dims(n_layers=5, d_model=D_MODEL, n_heads=4, head_dim=HEAD_DIM, d_ff=64)
    model = Transformer(deep, 50, [LayerEntry(lambda: FoX(D_MODEL, 4)), LayerEntry(NoPE)])
    assert [type(p).__name__ for p in model.schemes] == ["FoX", "NoPE", "FoX", "NoPE", "FoX"]
    assert len({id(p) for p in model.schemes}) == 5


def test_each_layer_sees_the_keys_of_its_own_pattern():
    """By gradients: through a window of 3 and full attention, and with the windowed one alone."""
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(lambda: RoPE(HEAD_DIM)), LayerEntry(NoPE)])
    found = []
    for pattern in (HYBRID, InTurns((Window(3), Window(2))), InTurns((Window(2), Window(3)))):
        x = torch.randn(1, 12, D_MODEL, requires_grad=True)
        attend = make_attend(pattern, 12, model.schemes, CPU)
        after_first = model.blocks[0](x, model.schemes[0], attend, None)
        model.blocks[1](after_first, model.schemes[1], attend, None)[0, -1].sum().backward()
        first = torch.autograd.grad(
            model.blocks[0](x, model.schemes[0], attend, None)[0, -1].sum(), x
        )[0]
        found.append([int((g.abs().sum(-1)[0] > 0).sum()) for g in (first, x.grad)])
    assert found == [[3, 12], [3, 4], [2, 4]]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (lambda: Learned(9, D_MODEL), r"layers\[0\]: Learned acts on the embeddings"),
        (
            lambda: RandomPositions(RoPE(8)),
            r"layers\[0\]: RandomPositions\(RoPE\) samples",
        ),
    ],
)
def test_schemes_that_have_no_layer_are_refused_in_a_list(first, reason):
    with pytest.raises(ValueError, match=reason):
        Transformer(dims(), 50, [LayerEntry(first), LayerEntry(NoPE)])


def test_shared_weights_need_layers_with_one_mixer():
    shared = Dims(2, D_MODEL, 4, HEAD_DIM, 64, share_layers=True)
    with pytest.raises(ValueError, match="share_layers=true needs layers with one mixer"):
        Transformer(shared, 50, [LayerEntry(), LayerEntry(make_mixer=Shift)])


# --- methods


def test_a_method_replaces_full_attention_alone_and_widens_no_layer():
    assert replaced(HYBRID, Blockwise(2)) == InTurns((Window(3), Blockwise(2)))
    assert replaced(HYBRID, Full()) == HYBRID
    # Where the model has one pattern and no list the method takes its place, whatever it is.
    assert replaced(Full(), Blockwise(2)) == replaced(Window(3), Blockwise(2)) == Blockwise(2)


def test_a_method_with_nothing_to_replace_is_not_defined():
    local = InTurns((Window(3), Window(4)))
    with pytest.raises(NotDefined, match="layer 1: window-3, layer 2: window-4.*=.trained"):
        refuse_nothing_replaced(local, Blockwise(2))
    refuse_nothing_replaced(HYBRID, Blockwise(2))
    refuse_nothing_replaced(local, Trained())
    assert replaced(local, Trained()) == local


def test_wider_window_is_a_multiple_of_the_trained_window():
    """Dong et al. 2024, section 4.2; of the trained length where there is no window."""
    wider, local = WiderWindow(factor=1.5), InTurns((Window(6), Blockwise(4)))
    assert replaced(Window(6), wider.fit(64, 200)) == Window(9)
    assert replaced(Full(), wider.fit(64, 200)).window == 96
    assert replaced(local, wider.fit(64, 200)).turns == (Window(9), Blockwise(4))
    refuse_nothing_replaced(local, wider)
    with pytest.raises(NotDefined, match="wider_window replaces full attention"):
        refuse_nothing_replaced(InTurns((Blockwise(4), Blockwise(2))), wider)
    with pytest.raises(ValueError, match=r"factor must be a number from 1 to 1e9, got 0\.5"):
        WiderWindow(factor=0.5)
    for key in ("window", "share"):  # of a Window; they would change nothing
        with pytest.raises(ConfigError, match=f"takes factor; unknown: {key}"):
            build({"_target_": "lexp.pattern.WiderWindow", key: 1}, Pattern, "attention")


def test_a_method_that_moves_positions_means_nothing_to_layers_without_them():
    """Where full attention is NoPE's; the windowed RoPE layers do not take the method."""
    moving = replaced(HYBRID, SelfExtend(2, 2))
    with pytest.raises(NotDefined, match=r"self_extend .* but NoPE \(layer 2\) has none"):
        refuse_meaningless(moving, [RoPE(HEAD_DIM), NoPE()])
    refuse_meaningless(moving, [NoPE(), RoPE(HEAD_DIM)])


def test_layers_are_all_causal_or_all_bidirectional():
    mixed = replaced(HYBRID, Bidirectional())
    with pytest.raises(NotDefined, match="window-3 / bidirectional: some layers would be causal"):
        refuse_meaningless(mixed, [RoPE(HEAD_DIM), NoPE()])
    local = replaced(InTurns((BidirectionalWindow(3), Bidirectional())), BidirectionalWindow(5))
    refuse_meaningless(local, [RoPE(HEAD_DIM), NoPE()])
    assert local == InTurns((BidirectionalWindow(3), BidirectionalWindow(5)))


# --- settings


def test_a_list_without_a_difference_is_one_pattern():
    config = read_train(plain(compose("train", "model=rope_nope")))
    assert training_pattern(config) == Full() and len(make_entries(config)) == 2


def test_one_layer_of_a_list_keeps_its_own_pattern():
    """Of a model with one layer too, which takes the first entry, a local one."""
    trained = training_pattern(
        read_train(plain(compose("train", "model=gemma3", "train_len=64", "size.n_layers=1")))
    )
    assert trained == InTurns((Window(16),))
    with pytest.raises(NotDefined, match=r"no layer was trained with \(layer 1: window-16\)"):
        refuse_nothing_replaced(trained, Full())
    assert replaced(trained, Blockwise(32)) == trained


def test_layers_with_other_mixers_cannot_share_their_weights():
    with pytest.raises(ConfigError, match="size.share_layers=true: the layers of model=samba have"):
        check(compose("train", "model=samba", "size.share_layers=true"))
    check(compose("train", "model=samba", "size.share_layers=true", "size.n_layers=1"))


def test_the_flex_kernel_has_nothing_against_layers_without_attention():
    for model in ("samba", "mamba2", "gemma3"):
        check(compose("train", f"model={model}", "kernel=flex"))
    with pytest.raises(NotDefined, match="flex kernel does not support this"):
        check(compose("train", "model=stick_breaking", "kernel=flex"))


REFUSED = {
    "+model.position._target_=lexp.position.NoPE": "model.position together with model.layers",
    "+model.layers.1.mixr.a=1": "model.layers[1].mixr (an entry has position, pattern, mixer, ",
    "model.layers=[]": "model.layers=[] (a list of at least one entry)",
    "~model.layers": "model (needs a position, a mixer or layers)",
    "+model.layers.0.pattern={_target_: lexp.pattern.Window, window: 0}": (
        "model.layers[0].pattern: window must be at least 1"
    ),
    "+model.layers.1.mixer={_target_: lexp.model.mixer.Mamba}": (
        "model.layers[1].mixer._target_=lexp.model.mixer.Mamba"
    ),
    "+model.layers.1.mixer={_target_: lexp.model.mixer.Mixer}": (
        "model.layers[1].position: Mixer computes no attention and has no position; remove it"
    ),
    "model.layers.0.position.head_dim=16": "model.layers[0].position.head_dim=16 (as size",
    "+model.layers.0.pattern={_target_: lexp.pattern.BidirectionalWindow}": "is bidirectional",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_lexp_train_refuses_of_layers(override):
    assert REFUSED[override] in refusal(check, "train", "model=rope_nope", override)


# --- long texts in pieces

PIECES = {
    # Widths of the two entries, and what four layers see before a token: 2 x (4 + 3), ...
    "swan under BCA": (InTurns((Window(5), Blockwise(3))), 2 * (4 + 3)),
    "chunks of another size": (InTurns((OwnChunk(4), Blockwise(6))), 2 * 6),
    "windows": (InTurns((Window(5), Window(2))), 2 * (4 + 1)),
}


@pytest.mark.parametrize("name", PIECES)
def test_pieces_of_a_hybrid_give_what_one_pass_gives_in_linear_time(name, monkeypatch):
    """The receptive field is the sum of the layers' lookbacks."""
    pattern, lookbacks = PIECES[name]
    torch.manual_seed(0)
    deep = Dims(n_layers=4, d_model=D_MODEL, n_heads=4, head_dim=HEAD_DIM, d_ff=64)
    sinks = LayerEntry(lambda: Sum([NoPE(), SinkLogits(4)]))
    model = Transformer(deep, 50, [LayerEntry(lambda: RoPE(HEAD_DIM)), sinks]).eval()
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.mul_(3)
    tokens = tokens_of(801)
    read = {}
    for n in (400, 800):
        (window,) = Prefix().windows(Prefix().spans(tokens, [n], None)[0], n)
        whole = Scorer(model, pattern, nullcontext(), 1000)
        streamed = Scorer(model, pattern, nullcontext(), 16)
        assert len(whole.pieces([window])) == 1
        pieces = streamed.pieces([window])
        # Each begins where all patterns begin a period: at most 12 tokens before the field.
        assert max(piece.size - piece.n_scored for piece in pieces) <= lookbacks + 4 * 6 + 12
        read[n] = sum(piece.size for piece in pieces)
        expected = whole.score(tokens, [window])
        np.testing.assert_allclose(streamed.score(tokens, [window]), expected, rtol=0, atol=1e-5)
    assert 1.9 < read[800] / read[400] < 2.1
    monkeypatch.setattr("lexp.scoring.scorer.begin_of_field", lambda _, start: start // 12 * 12)
    assert np.abs(streamed.score(tokens, [window]) - expected).max() > 1e-4


def test_a_hybrid_with_full_attention_reads_the_window_at_once():
    model = Transformer(dims(), 50, [LayerEntry(lambda: RoPE(HEAD_DIM)), LayerEntry(NoPE)]).eval()
    (window,) = Prefix().windows(Prefix().spans(tokens_of(201), [200], None)[0], 200)
    assert len(Scorer(model, HYBRID, nullcontext(), 16).pieces([window])) == 1
