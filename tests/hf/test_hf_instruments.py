"""Instruments on models of Hugging Face, against the states that transformers itself gives."""

import math

import pytest

transformers = pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

import torch  # noqa: E402

from lexp.hf.config import describe  # noqa: E402
from lexp.hf.load import load_model  # noqa: E402
from lexp.hf.source import find_source  # noqa: E402
from lexp.instruments.base import CheckpointInfo, LabelledMeasurement  # noqa: E402
from lexp.instruments.channels import PositionalChannels, search  # noqa: E402
from lexp.instruments.permutation import Permutation, drawn_orders  # noqa: E402
from lexp.instruments.vectors import rolled  # noqa: E402
from lexp.pattern import Full  # noqa: E402
from support.hf import CONFIGS, VOCAB, made, saved  # noqa: E402
from support.instruments import view  # noqa: E402

N = 30


def states(theirs, tokens: torch.Tensor) -> torch.Tensor:
    """Each layer's output [layers, n, width]: output_hidden_states, whose last one has the norm."""
    layers = next(m for m in theirs.modules() if isinstance(m, torch.nn.ModuleList))
    last: list[torch.Tensor] = []

    def keep(layer, arguments, out) -> None:
        last.append(out[0] if isinstance(out, tuple) else out)

    handle = layers[-1].register_forward_hook(keep)
    with torch.no_grad():
        found = theirs(tokens[None], use_cache=False, output_hidden_states=True).hidden_states
    handle.remove()
    return torch.cat([*found[1:-1], last[0].reshape(found[0].shape)]).double()


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_channels_and_permutation_are_those_of_transformers_states(name, tmp_path):
    """And what cannot be done with layers that are not lexp's own is named."""
    source = find_source(str(saved(CONFIGS[name](), tmp_path / "tiny", tokenizer=True)))
    model, theirs = load_model(source, describe(source)), made(CONFIGS[name]())
    texts = torch.randint(0, VOCAB, (2, N), generator=torch.Generator().manual_seed(0))

    def labelled(measured):
        checkpoint = CheckpointInfo("trained", -1, math.nan)
        return [LabelledMeasurement(name, "full", checkpoint, 0, N, 16, measured)]

    instrument = PositionalChannels(shifts=2)
    measured = instrument.measure(view(model, Full(), texts))
    samples = torch.stack([states(theirs, sample) for sample in rolled(texts, 2)])[:, :, 9:]
    wanted = search(samples.mean(0).numpy(), samples.square().mean(0).numpy())
    rows = {(r["measure"], r.get("channel"), r.get("layer")): r["value"] for r in measured.rows}
    assert rows["found", None, None] == len(wanted) > 3
    for channel in wanted[:3]:
        assert rows["roughness", channel.index, None] == pytest.approx(channel.roughness, rel=1e-2)
        for layer, share in zip(channel.layers, channel.shares, strict=True):
            assert rows["share", channel.index, layer] == pytest.approx(share, rel=1e-3)
    assert not any(measure == "nll" for measure, *_ in rows)
    said = f"{name}: no channel is scaled, only lexp's own attention layers can be."
    assert instrument.show(labelled(measured))[0].notes[-1] == said

    orders = drawn_orders(N, 2)
    permutation = Permutation(permutations=2)
    measured = permutation.measure(view(model, Full(), texts))
    found = [r["value"] for r in measured.rows if r["case"] == "as trained"]
    changes = []
    for text in texts:
        plain = states(theirs, text)[:, -1]
        for order in orders:
            other = states(theirs, text[order])[:, -1]
            changes.append((other - plain).norm(dim=-1) / plain.norm(dim=-1))
    assert found == pytest.approx(torch.stack(changes).mean(0).tolist(), rel=1e-4)
    assert not any(str(r["case"]).startswith("no residual") for r in measured.rows)
    assert "residual connections stay" in permutation.show(labelled(measured))[0].notes[-1]
