"""Models with recurrent layers: any length, methods that mean nothing to them, hybrids."""

import csv
import shutil
from contextlib import nullcontext

import pytest
import torch

from lexp.attention import make_attend
from lexp.commands.catalogue import written_catalogue
from lexp.commands.evaluate import eval_
from lexp.commands.run_parts import make_entries, make_model, training_pattern
from lexp.commands.train import check
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.extension import Lengths, UniformScale, VectorReplacement
from lexp.instruments.base import AnalysisInput
from lexp.instruments.channels import PositionalChannels
from lexp.instruments.curves import Curves
from lexp.instruments.heads import Heads
from lexp.instruments.permutation import Permutation
from lexp.instruments.position_probe import PositionProbe
from lexp.instruments.receptive import Receptive
from lexp.instruments.resolution import Resolution
from lexp.model.layers import LayerEntry
from lexp.model.mixer import GLA, KDA, GatedDeltaNet, Mamba2, RetNet
from lexp.model.transformer import Block, Dims, Transformer
from lexp.pattern import Blockwise, Full, InTurns, NoAttention, Window, replaced
from lexp.position import NoPE, RoPE, StickBreaking
from lexp.scoring.memory import needed_bytes
from lexp.scoring.protocol import TextWindow
from lexp.scoring.scorer import Scorer
from lexp.system.errors import NotDefined
from lexp.training.speed import model_flops
from support.config import compose, refusal
from support.evaluation import tokens_of
from support.schemes import CPU

DIMS = Dims(n_layers=2, d_model=16, n_heads=2, head_dim=8, d_ff=32)
MIXERS = [GatedDeltaNet, GLA, KDA, Mamba2, RetNet]


def recurrent(mixer: type) -> LayerEntry:
    return LayerEntry(pattern=NoAttention(), make_mixer=lambda: mixer(16, 2, 8))


def made(*entries: LayerEntry) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(DIMS, 50, entries)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


def hybrid(scheme=lambda: RoPE(8)) -> Transformer:
    return made(recurrent(GLA), LayerEntry(scheme))


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_long_window_is_read_once_in_pieces_with_the_state_carried(mixer, monkeypatch):
    """As one pass gives it, in float64, with the last targets scored and with all of them."""
    model, tokens = made(recurrent(mixer)).double(), tokens_of(101)
    sizes = []
    read = Block.read
    monkeypatch.setattr(
        Block, "read", lambda self, x, s: (sizes.append(x.shape[1]), read(self, x, s))[1]
    )
    text = torch.from_numpy(tokens.window(0, 0, 101))[None].long()
    attend = make_attend(NoAttention(), 100, model.schemes, CPU)
    with torch.no_grad():
        logits = model(text[:, :-1], attend).log_softmax(-1)
    right = -logits.gather(-1, text[:, 1:, None])[0, :, 0]
    scorer = Scorer(model, NoAttention(), nullcontext(), batch_tokens=32)
    for n_scored in (100, 40, 5):
        sizes.clear()
        found = scorer.score(tokens, [TextWindow(0, 0, 100, n_scored)])
        assert sizes == [32, 32, 32, 32, 32, 32, 4, 4]
        expected = right[-n_scored:].float()
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-6)


def test_a_window_of_a_hybrid_is_read_in_one_pass():
    """Its recurrent layers need every token before, in the layers below too."""
    window = [TextWindow(0, 0, 300, 10)]
    for pattern, n_passes in ((InTurns((NoAttention(), Window(3))), 1), (Window(3), 10)):
        scorer = Scorer(hybrid(), pattern, nullcontext(), batch_tokens=16)
        assert len(scorer.pieces([window[0]._replace(n_scored=160)])) == n_passes


def test_memory_of_a_recurrent_model_does_not_grow_with_the_length():
    model = made(recurrent(KDA))
    needed = [needed_bytes(model, NoAttention(), n, n, 4) for n in (1 << 15, 1 << 22)]
    assert needed[0] == needed[1] > 0


def test_every_protocol_scores_a_recurrent_run_and_methods_are_not_defined(
    trained_once, texts, tmp_path, capsys
):
    shutil.copytree(trained_once(("gated_delta_net",)), tmp_path / "outputs")
    eval_(compose(
        "eval", f"outputs={tmp_path}/outputs", "lengths=[8,16]", "attention=[trained,window]",
        "extension=[none,uniform_scale]", "protocol=[segments,sliding,fixed,prefix]", "device=cpu",
        "precision=float32",
    ))  # fmt: skip
    with (tmp_path / "outputs" / "default" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 4
    for row in rows:
        plain = (row["attention"], row["extension"]) == ("trained", "none")
        assert row["status"] == ("ok" if plain else "not defined"), row
    shown = capsys.readouterr().out
    assert "window is a pattern of attention, which no layer of this model computes" in shown
    assert "uniform_scale changes attention, which no layer computes" in shown


@pytest.mark.parametrize("instrument", [Curves(), Heads(), Resolution()], ids=lambda i: i.name)
def test_instruments_of_scores_are_not_defined(instrument):
    texts = torch.randint(50, (1, 20))
    for model, pattern in (
        (made(recurrent(Mamba2)), NoAttention()),
        (hybrid(), InTurns((NoAttention(), Full()))),
    ):
        with pytest.raises(NotDefined, match="layer 1 of this model is recurrent and has no atten"):
            instrument.measure(AnalysisInput(model, pattern, texts, 10, "trained"))


def test_instruments_of_states_and_gradients_are_defined():
    texts = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(0))
    for model, pattern in (
        (made(recurrent(RetNet)), NoAttention()),
        (hybrid(), InTurns((NoAttention(), Window(3)))),
    ):
        inputs = AnalysisInput(model, pattern, texts, 10, "trained")
        rows = Receptive().measure(inputs).rows
        (reach,) = [row["value"] for row in rows if row["measure"] == "reachable"]
        assert reach == 18  # the state may keep something of every token
        assert PositionProbe(steps=2, hidden=4, batch=8).measure(inputs).rows
        measures = {
            row["measure"] for row in PositionalChannels(shifts=1, skip=0).measure(inputs).rows
        }
        assert "found" in measures and "nll" not in measures  # no queries and keys in all layers
        changes = [row["value"] for row in Permutation(2).measure(inputs).rows]
        assert len(changes) == 2 * 4 and min(changes) > 0  # two layers; order, residuals, tokens


def test_an_extension_changes_the_layers_with_attention_alone():
    lengths = Lengths(8, 16, 16)
    model = hybrid()
    changed = UniformScale().extend(model, Full(), lengths, lambda n, t: torch.zeros(n, t))
    assert changed.schemes[0] is model.schemes[0]
    assert changed.schemes[1] is not model.schemes[1]
    # The place of a scheme in a recurrent layer would take it; the layer with attention does not.
    with pytest.raises(NotDefined, match="StickBreaking weighs its own way"):
        UniformScale().extend(hybrid(lambda: StickBreaking()), Full(), lengths, lambda n, t: None)
    with pytest.raises(NotDefined, match="for models with attention in all layers"):
        VectorReplacement().extend(made(recurrent(GLA)), Full(), lengths, lambda n, t: None)


def test_flops_count_attention_of_the_layers_that_compute_it():
    n = {name: model_flops(model, 99, False) for name, model in [
        ("hybrid", hybrid()), ("recurrent", made(recurrent(GLA)))
    ]}  # fmt: skip
    weights = sum(p.numel() for m in (hybrid(),) for b in m.blocks for p in b.parameters())
    ends = 16 + 50 * 16
    assert n["hybrid"] == 6 * (weights + ends) + 6 * 16 * 100
    blocks = made(recurrent(GLA)).blocks
    assert n["recurrent"] == 6 * (sum(p.numel() for p in blocks.parameters()) + ends)


# What the papers say of each layer: its mixer, or its scheme and pattern (at a train_len of 64).
RNN = NoAttention()
PLANS = {
    "samba": ([Mamba2, RoPE], [RNN, Window(32)]),
    "qwen3_next": ([GatedDeltaNet] * 3 + [RoPE], [RNN, RNN, RNN, Full()]),
    "kimi_linear": ([KDA] * 3 + [NoPE], [RNN, RNN, RNN, Full()]),
}


@pytest.mark.parametrize("name", PLANS)
def test_plans_of_hybrids(name):
    parts, patterns = PLANS[name]
    settings = read_train(plain(compose("train", f"model={name}", "train_len=64")))
    model = make_model(settings, 256)
    kinds = [type(block.mixer) if not attends else type(scheme) for block, attends, scheme in zip(
        model.blocks, model.attending, model.schemes, strict=False)]  # fmt: skip
    assert kinds == parts and len(make_entries(settings)) == len(parts)
    trained = training_pattern(settings)
    assert trained == InTurns(tuple(patterns))
    # A method takes the place of full attention, and of nothing else.
    method = Blockwise(32)
    own = tuple(method if pattern == Full() else pattern for pattern in patterns)
    assert replaced(trained, method) == InTurns(own)
    tokens = torch.randint(256, (1, 20))
    whole = model(tokens, make_attend(trained, 20, model.schemes, CPU))
    beginning = model(tokens[:, :9], make_attend(trained, 9, model.schemes, CPU))
    torch.testing.assert_close(whole[:, :9], beginning, rtol=1e-4, atol=1e-5)


REFUSED = {
    "objective=mlm": "model.mixer: GLA reads from left to right, but objective=mlm needs both",
    "model.mixer.expand_k=0.3": "model.mixer: expand_k=0.3: must make head_dim=32 a whole number",
    "model.mixer.rank=0": "model.mixer: rank=0: must be at least 1",
    "model.mixer.rank=100000000000000000": "model.mixer: a size is too large: ",
    "model.mixer.temperature=-1": "model.mixer: temperature=-1: must be above 0",
    "model.mixer.n_heads=3": "model.mixer.n_heads=3 (as size.n_heads=4, which it follows)",
    "model.mixer._target_=lexp.model.mixer.RWKV": "model.mixer._target_=lexp.model.mixer.RWKV",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_lexp_train_refuses_of_a_mixer(override):
    assert REFUSED[override] in refusal(check, "train", "model=gla", override)


def test_a_seed_starts_a_model_the_same_every_time():
    """Rates, steps and convolutions too, which a mixer draws after the trunk."""
    weights = [made(recurrent(Mamba2)).state_dict() for _ in range(3)]
    for name, first in weights[0].items():
        assert all(torch.equal(first, other[name]) for other in weights[1:]), name


def test_the_catalogue_has_the_sources_of_mixers_and_not_of_a_scheme_in_their_place():
    sources = written_catalogue().sources
    assert sources["model/mamba2"].startswith("Mamba-2 (Dao and Gu 2024")
    assert "NoPE" not in sources["model/mamba2"] + sources["model/samba"]
    assert "RoPE: rotary position embedding" in sources["model/samba"]
