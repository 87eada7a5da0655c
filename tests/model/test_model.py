"""The trunk: shapes, losses, chunked head, parameter counts of the published sizes."""

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

from lexp.attention import Reference, Tiles
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Blockwise, Full
from lexp.position import ALiBi, NoPE, RoPE
from support import ROOT

CPU = torch.device("cpu")
TINY = Dims(n_layers=2, d_model=16, n_heads=2, head_dim=8, d_ff=32)


def test_losses_are_the_cross_entropy_of_the_logits():
    torch.manual_seed(0)
    position = RoPE(8)
    model = Transformer(TINY, 11, [LayerEntry(lambda: position)])
    attend = Tiles(Full(), 9, position, CPU)
    tokens = torch.randint(0, 11, (3, 10))
    logits = model(tokens[:, :-1], attend).double()
    expected = -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    found = model.losses(tokens[:, :-1], tokens[:, 1:], attend)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_head_in_pieces_gives_the_same_losses(monkeypatch):
    torch.manual_seed(0)
    position = NoPE()
    model = Transformer(TINY, 11, [LayerEntry(lambda: position)])
    attend = Tiles(Full(), 9, position, CPU)
    tokens = torch.randint(0, 11, (3, 10))
    trained = model.loss(tokens[:, :-1], tokens[:, 1:], attend)
    with torch.no_grad():
        whole = model.losses(tokens[:, :-1], tokens[:, 1:], attend)
        model.max_logits = 44  # 4 rows of 11
        seen = []
        nll = model._nll
        monkeypatch.setattr(model, "_nll", lambda h, t: (seen.append(len(h)), nll(h, t))[1])
        pieces = model.losses(tokens[:, :-1], tokens[:, 1:], attend)
    assert max(seen) == 4
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(trained, whole.sum())


@pytest.mark.parametrize("pattern", [Full(), Blockwise(8)], ids=repr)
@pytest.mark.parametrize("position", [NoPE(), RoPE(8), ALiBi(2)], ids=lambda p: type(p).__name__)
def test_whole_model_on_tiles_equals_the_float64_reference(position, pattern):
    torch.manual_seed(0)
    model = Transformer(TINY, 11, [LayerEntry(lambda: position)]).double()
    tokens = torch.randint(0, 11, (2, 70))
    expected = model(tokens, Reference(pattern, 70, position, CPU))
    found = model.float()(tokens, Tiles(pattern, 70, position, CPU))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_published_sizes():
    """small is KERPLE's 162M with GPT-2's vocabulary; medium has LEX's 24 layers of 1024."""
    for name, vocab_size, millions in (
        ("nano", 256, 0.853), ("mini", 256, 10.82), ("small", 50257, 162.2), ("medium", 0, 302.0),
    ):  # fmt: skip
        node = OmegaConf.load(ROOT / "conf" / "size" / f"{name}.yaml")
        dims = Dims(**{k: node[k] for k in ("n_layers", "d_model", "n_heads", "head_dim", "d_ff")})
        with torch.device("meta"):
            model = Transformer(dims, max(1, vocab_size), [LayerEntry(NoPE)])
        count = sum(p.numel() for p in model.parameters()) / 1e6
        assert count == pytest.approx(millions, rel=0.005), name


def test_initial_loss_is_that_of_a_uniform_guess():
    torch.manual_seed(0)
    position = RoPE(8)
    model = Transformer(TINY, 256, [LayerEntry(lambda: position)])
    tokens = torch.randint(0, 256, (4, 65))
    losses = model.losses(tokens[:, :-1], tokens[:, 1:], Tiles(Full(), 64, position, CPU))
    assert losses.mean().item() == pytest.approx(torch.tensor(256.0).log().item(), abs=0.05)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="n_layers.*0"):
        Dims(n_layers=0, d_model=1, n_heads=1, head_dim=1, d_ff=1)


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    position = RoPE(8)
    model = Transformer(TINY, 11, [LayerEntry(lambda: position)])
    tokens = torch.randint(0, 11, (2, 9))
    logits = model(tokens, Tiles(Full(), 9, position, CPU))
    F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
