"""Variance and positional vectors: brute force in float64, closed forms, the derivation."""

import math

import numpy as np
import pytest
import torch

from lexp.attention import ChunkSizes, Reference
from lexp.display.document import Picture
from lexp.display.table import Table
from lexp.instruments import derivation as derived
from lexp.instruments.base import CheckpointInfo, LabelledMeasurement
from lexp.instruments.derivation import Derivation, derivation, slope
from lexp.instruments.variance import Variance, embedded, variances
from lexp.instruments.vectors import Vectors, rolled
from lexp.pattern import Blockwise, Full, SelfExtend, Window
from lexp.position import ALiBi, NoPE, RoPE
from lexp.system.errors import NotDefined
from support.evaluation import tiny_model
from support.instruments import ids, run_analyze, view, weights_of
from support.schemes import CPU

SMALL = Variance(d_model=32, n_heads=2, n_layers=2, sigma=0.05, seq_len=32)


def inputs_of(model, pattern, text: torch.Tensor) -> list[torch.Tensor]:
    """The normed input [T, d_model] of every layer's attention, by the reference."""
    found = []
    handles = [
        block.norm_attention.register_forward_hook(lambda block, given, out: found.append(out[0]))
        for block in model.blocks
    ]
    n = len(text)
    with torch.no_grad():
        model.hidden(text[None], lambda q, k, v, *rest: Reference(pattern, n, rest[0], CPU)(
            q, k, v, *rest))  # fmt: skip
    for handle in handles:
        handle.remove()
    return found


def spread(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def times(matrix: torch.Tensor, vector: list[float]) -> list[float]:
    return [sum(w * x for w, x in zip(row, vector, strict=True)) for row in matrix.tolist()]


@pytest.mark.parametrize("pattern", [Full(), Blockwise(4), Window(5)], ids=repr)
@pytest.mark.parametrize("position", [RoPE(8), ALiBi(2)], ids=lambda p: type(p).__name__)
def test_variances_are_the_brute_force(position, pattern):
    model, text, n = tiny_model(position).double().eval(), ids(1, 11)[0], 11
    found, single = variances(view(model, pattern, text[None], ChunkSizes(max_rows=7)), text)
    weights = weights_of(model, pattern, text)
    for layer, inputs in enumerate(inputs_of(model, pattern, text)):
        attention = model.blocks[layer].attention
        value_rows, out = attention.qkv.weight[32:], attention.out.weight  # d_model 16, q and k
        values = [times(value_rows, row) for row in inputs.tolist()]
        alone = [spread(times(out, value)) for value in values]
        assert float(single[layer]) == pytest.approx(sum(alone) / n, rel=1e-9)
        for m in range(n):
            heads, equal = [0.0] * 16, [0.0] * 16
            seen = [j for j in range(n) if float(weights[layer][0, m, j]) > 0]
            for channel in range(16):
                row = weights[layer][channel // 8, m].tolist()
                heads[channel] = sum(row[j] * values[j][channel] for j in range(n))
                equal[channel] = sum(values[j][channel] for j in seen) / len(seen)
            expected = spread(times(out, heads)), spread(heads), spread(times(out, equal))
            assert found[:, layer, m].tolist() == pytest.approx(expected, rel=1e-9)


def plain_mean(position=None):
    """A model of wide channels whose attention is a plain mean."""
    model = tiny_model(position or NoPE()).double().eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[:32].zero_()  # queries and keys
    return model


def test_equal_scores_give_the_variance_of_a_plain_mean():
    model, texts = plain_mean(), ids(2, 64)
    for text in texts:
        found, _ = variances(view(model, Full(), texts), text)
        torch.testing.assert_close(found[0], found[2], rtol=1e-9, atol=0)


def test_a_mean_of_independent_values_decays_with_exponent_minus_one():
    finding = Variance().measure(view(plain_mean(), Full(), ids(24, 128)))
    slopes = {
        (r["inputs"], r["of"]): r["value"]
        for r in finding.rows
        if r["measure"] == "slope" and r["layer"] == 0
    }
    assert slopes["normal", "output"] == pytest.approx(-1, abs=0.12)
    assert slopes["normal", "equal"] == pytest.approx(slopes["normal", "output"], abs=1e-9)
    # 50 tokens come again and again: the mean of their values does not vanish.
    assert slopes["text", "output"] > slopes["normal", "output"] + 0.05
    variance, single = finding.arrays["variance"], finding.arrays["single"]
    ratio = (variance[1, 0, 0] / single[1, 0] * np.arange(1, 129))[8:].mean()
    assert ratio == pytest.approx(1, abs=0.15)


def test_a_value_that_repeats_does_not_decay():
    finding = Variance().measure(view(plain_mean(), Full(), ids(1, 1).expand(2, 16)))
    for row in finding.rows:
        if row["measure"] == "slope" and row["inputs"] == "text":
            assert row["value"] == pytest.approx(0, abs=1e-9)
            assert row["misfit"] == pytest.approx(0, abs=1e-9)


def test_slopes_are_exact_for_powers_and_texts_too_short_have_none():
    m = torch.arange(1, 101, dtype=torch.float64)
    for first in (1, 4):
        assert slope(3 * m**-0.7, first) == pytest.approx((-0.7, 0), abs=1e-9)
    with pytest.raises(NotDefined, match="twice as many tokens"):
        Variance().measure(view(plain_mean(), Full(), ids(1, 7)))


@pytest.mark.parametrize("instrument", [Variance(), Vectors(shifts=2)], ids=lambda i: i.name)
@pytest.mark.parametrize("pattern", [Full(), Blockwise(8), SelfExtend(6, 2)], ids=repr)
def test_numbers_do_not_depend_on_how_the_work_is_cut(instrument, pattern):
    model, texts = tiny_model(RoPE(8)).double().eval(), ids(2, 40)
    whole = instrument.measure(view(model, pattern, texts)).arrays
    sizes = ChunkSizes(max_rows=3, min_rows=3)
    cut = instrument.measure(view(model, pattern, texts, sizes)).arrays
    for name, value in whole.items():
        np.testing.assert_allclose(cut[name], value, rtol=1e-6, atol=1e-9)


def test_normal_embeddings_are_as_large_as_the_models_and_leave_it_as_it_was():
    model, text = tiny_model(NoPE()).eval(), ids(1, 400)
    before = model.embedding(text)
    with embedded(model, 3):
        drawn = model.embedding(text)
    assert float(drawn.detach().std()) == pytest.approx(
        float(model.embedding.weight.detach().std()), rel=0.05
    )
    assert not torch.equal(drawn, before) and torch.equal(model.embedding(text), before)


@pytest.fixture(scope="module")
def theory() -> Derivation:
    return derivation(256, 8, 2, 0.02, 256, 0)


def test_every_step_of_the_derivation_holds(theory):
    names = [p.name for p in theory.properties]
    assert len(set(names)) == len(names)
    assert [p.name for p in theory.properties if not p.holds] == []
    by_name = {p.name: p for p in theory.properties}
    assert by_name["Var(q.k), raw logits"].theory == pytest.approx(256**3 * 0.02**4 / 8)
    assert by_name["cov(o_50, o_100)"].theory == pytest.approx(256**2 * 0.02**4 / 100)
    assert by_name["slope of ln Var(o_m), layer 0"].theory == pytest.approx(-1, abs=1e-9)
    # Layers above read what is correlated between positions: far from -1.
    assert by_name["slope of ln Var(o_m), layer 1"].measured > -0.9


def test_finite_scores_are_corrected_for(monkeypatch):
    """Larger weights, d^2 sigma^4 = 0.36: first-order theory is off, the correction is not."""
    found = derivation(96, 4, 1, 0.08, 400, 1)
    simulated, first, corrected = (
        np.array(v) for v in (found.simulated[0], found.theory[0], found.corrected)
    )
    assert (simulated / first)[200:].mean() > 1.5
    assert (simulated / corrected)[200:].mean() == pytest.approx(1, abs=0.12)


def test_the_derivation_depends_on_its_arguments_alone():
    torch.manual_seed(1)
    derived.derivation.cache_clear()
    once = derivation(16, 2, 1, 0.02, 16, 5)
    derived.derivation.cache_clear()
    torch.manual_seed(2)
    assert derivation(16, 2, 1, 0.02, 16, 5) == once


def states_of(model, pattern, text: torch.Tensor) -> list[list[list[float]]]:
    """Residual stream of every layer by the reference, as lists."""
    found = []
    handles = [
        block.norm_attention.register_forward_pre_hook(lambda b, given: found.append(given[0][0]))
        for block in model.blocks
    ]
    handles.append(model.norm.register_forward_pre_hook(lambda b, given: found.append(given[0][0])))
    n = len(text)
    with torch.no_grad():
        model.hidden(text[None], lambda q, k, v, *rest: Reference(pattern, n, rest[0], CPU)(
            q, k, v, *rest))  # fmt: skip
    for handle in handles:
        handle.remove()
    return [state.tolist() for state in found]


def dot(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def average(vectors: list[list[float]]) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def minus(a, b) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def test_vectors_are_the_brute_force():
    model, texts, n, trained = tiny_model(ALiBi(2)).double().eval(), ids(3, 20), 20, 16
    finding = Vectors(shifts=1).measure(view(model, Full(), texts))
    samples = [states_of(model, Full(), sample) for sample in rolled(texts, 1)]
    shares = {r["layer"]: r["value"] for r in finding.rows if r["measure"] == "share"}
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    for layer in range(3):
        h = [sample[layer] for sample in samples]
        p = [average([h[a][t] for a in range(3)]) for t in range(n)]
        norms = [math.sqrt(dot(v, v)) for v in p]
        assert finding.arrays["norm"][layer] == pytest.approx(norms, rel=1e-9)
        g = [[minus(h[a][t], average(h[a][:trained])) for t in range(n)] for a in range(3)]
        squared = [sum(dot(g[a][t], g[b][t]) for a, b in pairs) / 6 for t in range(n)]
        usual = sum(dot(g[a][t], g[a][t]) for a in range(3) for t in range(trained)) / 3 / trained
        drift2 = [value / usual for value in squared]
        assert finding.arrays["drift2"][layer] == pytest.approx(drift2, abs=1e-9)
        centred = [[minus(h[a][t], average(h[a])) for t in range(n)] for a in range(3)]
        explained = sum(dot(centred[a][t], centred[b][t]) for a, b in pairs for t in range(n))
        grand = average([h[a][t] for a in range(3) for t in range(n)])
        left = [minus(h[a][t], grand) for a in range(3) for t in range(n)]
        whole = sum(dot(v, v) for v in left) / (3 * n)
        assert shares[layer] == pytest.approx(max(0, explained / 6 / n / whole), abs=1e-9)
        basis = [minus(v, average(p[:trained])) for v in p]
        for s in range(n):
            for t in range(n):
                size = math.sqrt(dot(basis[s], basis[s]) * dot(basis[t], basis[t]))
                expected = dot(basis[s], basis[t]) / size
                assert finding.arrays["cosine"][layer, s, t] == pytest.approx(expected, abs=1e-6)


def test_position_explains_nothing_of_random_tokens_and_all_of_equal_texts():
    model = tiny_model(NoPE()).double().eval()
    different = Vectors(shifts=1).measure(view(model, Full(), ids(64, 32))).rows
    equal = Vectors(shifts=1).measure(view(model, Full(), ids(1, 1).expand(4, 32))).rows
    found = [{r["layer"]: r["value"] for r in rows if r["measure"] == "share"}
             for rows in (different, equal)]  # fmt: skip
    assert found[0][0] < 0.02
    assert found[1][0] == 0  # one token only: nothing varies
    with pytest.raises(NotDefined, match="texts=2"):
        Vectors().measure(view(model, Full(), ids(1, 32)))
    with pytest.raises(ValueError, match="shifts"):
        Vectors(shifts=0)


def test_samples_of_texts_begin_at_places_of_their_own():
    samples = [sample.tolist() for sample in rolled(torch.arange(500).expand(3, 500), 4)]
    assert len({sample[0] for sample in samples}) == 12
    assert all([(n - sample[0]) % 500 for n in sample] == list(range(500)) for sample in samples)
    assert samples == [s.tolist() for s in rolled(torch.arange(500).expand(3, 500), 4)]


def test_maps_are_bounded(monkeypatch):
    monkeypatch.setattr("lexp.instruments.vectors.MAX_MAP", 8)
    model = tiny_model(RoPE(8)).eval()
    arrays = Vectors(shifts=1).measure(view(model, Full(), ids(2, 50))).arrays
    assert arrays["cosine"].shape == (3, 8, 8) and arrays["norm"].shape == (3, 50)
    np.testing.assert_allclose(np.diagonal(arrays["cosine"], axis1=1, axis2=2), 1, atol=1e-6)


def labelled(finding, state: str, length: int) -> LabelledMeasurement:
    return LabelledMeasurement(
        "nope", "full", CheckpointInfo(state, 80, 2.0), 0, length, 16, finding
    )


@pytest.mark.parametrize("instrument", [SMALL, Vectors(shifts=1)], ids=lambda i: i.name)
def test_what_is_shown_is_of_all_findings(instrument):
    model = tiny_model(NoPE()).eval()
    found = [
        labelled(instrument.measure(view(model, Full(), ids(2, n))), state, n)
        for state in ("trained", "random")
        for n in (16, 32)
    ]
    items = instrument.show(found)
    tables = [item for item in items if isinstance(item, Table)]
    assert {row[0].text for row in tables[0].rows} == {"nope", "nope (random)"}
    pictures = [item for item in items if isinstance(item, Picture)]
    assert all(p.png[:4] == b"\x89PNG" for p in pictures)
    assert len(pictures) == (2 if instrument.name == "vectors" else 0)


def test_the_command_runs_both(study):
    run_analyze(study, "instruments=[heads,variance,vectors]", "model=rope", "lengths=[16,32]",
        "+instruments.variance.d_model=24", "+instruments.variance.seq_len=32")  # fmt: skip
    folder = study.folder / "analysis"
    assert any(folder.glob("variance*.csv")) and (folder / "vectors.csv").exists()
