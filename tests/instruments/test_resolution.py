"""Attention resolution and bias curves: brute force in float64, closed forms, the command."""

import cmath
import csv
import math

import numpy as np
import pytest
import torch

from lexp.attention import ChunkSizes, Reference
from lexp.commands.analyze import analyze
from lexp.display.document import Chart
from lexp.display.png import chart_png
from lexp.display.table import Table
from lexp.instruments.base import CheckpointInfo, LabelledMeasurement
from lexp.instruments.curves import Curves, span
from lexp.instruments.resolution import (
    EACH,
    MEAN,
    RAW,
    SOFTMAX,
    THEORY,
    Resolution,
    expected_curve,
    resolution,
)
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Blockwise, Full, SelfExtend, Window
from lexp.position import (
    FIRE,
    TISA,
    ALiBi,
    NoPE,
    RoPE,
    Sandwich,
    SinkLogits,
    Sum,
    XPos,
    XPosDecay,
)  # fmt: skip
from lexp.position.alibi import alibi_slopes
from lexp.system.errors import NotDefined
from support.config import compose
from support.evaluation import tiny_model
from support.instruments import ids, view
from support.schemes import CPU, SCHEMES, dims, make


def r_by_hand(scores: list[float]) -> float:
    """Equation 3, term by term; nothing behind the farthest key."""
    e = [math.exp(s) for s in scores] + [0.0]
    return sum(e[n] * (e[n] - e[n + 1]) for n in range(len(scores))) / sum(e) ** 2


def test_r_has_its_closed_forms_and_bounds():
    assert resolution(torch.full((50,), 3.0).double()) == pytest.approx(1 / 50**2, rel=1e-12)
    assert resolution(torch.tensor([0.0, -1e4, -1e4]).double()) == 1.0
    assert resolution(torch.tensor([1e4, 1e4 - 1.0]).double()) == pytest.approx(
        r_by_hand([1.0, 0.0]), rel=1e-12
    )
    generator = torch.Generator().manual_seed(0)
    for spread in (0.1, 1.0, 20.0):
        scores = spread * torch.randn(40, generator=generator, dtype=torch.float64)
        assert resolution(scores) == pytest.approx(r_by_hand(scores.tolist()), rel=1e-12)
        assert 0 <= resolution(scores) <= 1
    # A distance that is never in sight weighs nothing.
    gap = torch.tensor([1.0, math.nan, 0.5, math.nan]).double()
    p = np.exp([1.0, 0.5])
    assert resolution(gap) == pytest.approx((p**2).sum() / p.sum() ** 2, rel=1e-12)


# Computed apart from this code from the printed formulas, head_dim 64, 1024 distances.
KNOWN = {
    "rope": (RoPE(64), 0.4116),
    "xpos": (XPos(64), 0.4207),
    "printed": (XPos(64, scale_base=1.0), 1.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_theory_has_the_known_values(name):
    scheme, expected = KNOWN[name]
    curve = expected_curve(scheme, 1024, 64)
    assert resolution(curve) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("slope", "expected"), [(0.5, 0.0964), (0.25, 0.0275), (2**-4, 0.00189), (2**-8, 7.9e-6)]
)
def test_a_line_has_the_known_resolution(slope, expected):
    """Sums of geometric series: p_n = (1 - q) q^n / (1 - q^N), q = e^-slope."""
    q, n = math.exp(-slope), 1024
    norm = (1 - q) ** 2 / (1 - q**n) ** 2 / (1 - q**2)
    closed = norm * (1 - q ** (2 * n) - q * (1 - q ** (2 * n - 2)))
    found = resolution(-slope * torch.arange(n, dtype=torch.float64))
    assert found == pytest.approx(closed, rel=1e-9)
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("scale_base", [1.0, 512.0])
def test_theory_is_equation_8(scale_base):
    d, gamma = 16, 0.4
    cases = {
        "rope": (RoPE(d), lambda c: 1.0, 1.0),
        "xpos": (XPos(d, scale_base=scale_base), lambda c: (2 * c / d + gamma) / (1 + gamma), 1.0),
        "decay": (
            XPosDecay(d, scale_base=scale_base),
            lambda c: (2 * c / d + gamma) / (1 + gamma),
            0.0,
        ),
    }
    for scheme, zeta, turn in cases.values():
        found = expected_curve(scheme, 300, d)
        for n in (0, 1, 7, 299):
            expected = sum(
                math.cos(turn * n * 10000 ** (-2 * c / d)) * zeta(c) ** (n / scale_base)
                for c in range(d // 2)
            )
            assert found[n] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert expected_curve(NoPE(), 8, d) is None
    assert expected_curve(make("pope"), 8, 8) is None


def inner_products(model, pattern, text):
    """q, k [H, T, D] of every layer, by the reference's forward pass."""
    found = []

    def attend(q, k, v, position, x, sampled=None):
        found.append((q[0], k[0]))
        return Reference(pattern, len(text), position, CPU)(q, k, v, position, x, sampled)

    with torch.no_grad():
        model.hidden(text[None], attend)
    return found


def score(position, q, k, i: int, j: int, head: int) -> float:
    """A score from the papers' formulas: q.k / sqrt(d), turned, faded, or with ALiBi's line."""
    d = len(q)
    total = 0.0
    for c in range(d // 2):
        a, b = complex(*q[2 * c : 2 * c + 2].tolist()), complex(*k[2 * c : 2 * c + 2].tolist())
        theta = 0.0 if isinstance(position, ALiBi) else 10000 ** (-2 * c / d)
        zeta = (2 * c / d + 0.4) / 1.4 if isinstance(position, XPos) else 1.0
        fade = zeta ** ((i - j) / 512)
        total += (a * b.conjugate() * cmath.exp(1j * theta * (i - j))).real * fade
    bias = -alibi_slopes(2)[head] * (i - j) if isinstance(position, ALiBi) else 0.0
    return total / math.sqrt(d) + bias


@pytest.mark.parametrize("rows", [7, 512])
@pytest.mark.parametrize("pattern", [Full(), Blockwise(4), Window(5)], ids=repr)
@pytest.mark.parametrize("position", [RoPE(8), XPos(8), ALiBi(2)], ids=lambda p: type(p).__name__)
def test_resolution_is_the_brute_force(position, pattern, rows):
    model, texts, n = tiny_model(position).double().eval(), ids(2, 18), 18
    finding = Resolution().measure(view(model, pattern, texts, ChunkSizes(max_rows=rows)))
    found = {(r["of"], r["scores"], r["layer"], r["head"]): r["value"] for r in finding.rows}
    per_text = [inner_products(model, pattern, text) for text in texts]
    for layer in range(2):
        curves = []
        for head in range(2):
            by_distance = {}
            for layers in per_text:
                q, k = layers[layer]
                for i in range(n):
                    for j in range(i + 1):
                        if pattern.allowed(torch.tensor(i), torch.tensor(j)):
                            value = score(position, q[head, i], k[head, j], i, j, head)
                            by_distance.setdefault(i - j, []).append(value)
            curves.append([np.mean(by_distance[m]) for m in range(len(by_distance))])
            seen = finding.arrays["scores"][layer, head]
            np.testing.assert_allclose(seen[: len(by_distance)], curves[-1], rtol=1e-9, atol=1e-12)
            assert np.isnan(seen[len(by_distance) :]).all()
            expected = r_by_hand(curves[-1])
            assert found[EACH, SOFTMAX, layer, head] == pytest.approx(expected, rel=1e-9)
            if not isinstance(position, ALiBi):
                raw = r_by_hand([s * math.sqrt(8) for s in curves[-1]])
                assert found[EACH, RAW, layer, head] == pytest.approx(raw, rel=1e-9)
        expected = r_by_hand(np.mean(curves, axis=0).tolist())
        assert found[MEAN, SOFTMAX, layer, -1] == pytest.approx(expected, rel=1e-9)
        if isinstance(position, ALiBi):
            assert not any(key[0] == THEORY or key[1] == RAW for key in found)
        else:
            g = expected_curve(position, len(curves[0]), 8)
            assert found[THEORY, RAW, layer, -1] == pytest.approx(resolution(g), rel=1e-12)


def test_equal_scores_have_no_resolution():
    model = tiny_model(NoPE()).double().eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight.zero_()
    for row in Resolution().measure(view(model, Full(), ids(1, 10))).rows:
        assert row["value"] == pytest.approx(1 / 100)


def test_moved_patterns_have_no_theory_and_what_is_no_softmax_no_scores():
    model = tiny_model(RoPE(8)).eval()
    rows = Resolution().measure(view(model, SelfExtend(6, 2), ids(1, 20))).rows
    assert {row["of"] for row in rows} == {EACH, MEAN}
    for scheme in ("cope", "dape_alibi", "stick_breaking"):
        torch.manual_seed(0)
        model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()  # noqa: B023
        with pytest.raises(NotDefined, match="no scores before softmax"):
            Resolution().measure(view(model, Full(), ids(1, 12)))


def bias_by_hand(scheme: str, p, h: int, n: int, i: int) -> float:
    """A bias from the paper's formula and the scheme's numbers."""
    if scheme == "alibi":
        return -alibi_slopes(4)[h] * n
    if scheme == "t5":
        bucket = n if n < 16 else 16 + int(math.log(n / 16) / math.log(128 / 16) * 16 + 1e-6)
        return float(p["weight"][h, min(31, bucket)])
    if scheme == "kerple_log":
        r1, r2 = (max(0.01, float(p[key][h])) for key in ("r1", "r2"))
        return -r1 * math.log(1 + r2 * n)
    if scheme == "tisa":
        parts = zip(p["amplitude"][:, h], p["sharpness"][:, h], p["centre"][:, h], strict=True)
        return sum(float(a) * math.exp(-abs(float(b)) * (-n - float(c)) ** 2) for a, b, c in parts)
    if scheme == "sandwich":
        wave = sum(math.cos(n / 10000 ** (2 * k / 128)) for k in range(1, 65))
        return (wave - 64) / (8 * (h + 1) / 4)
    assert scheme == "fire"

    def psi(x: float) -> float:
        return math.log(abs(float(p["c"])) * x + 1)

    share = psi(n) / (psi(max(16 * float(p["multiplier"]), i)) + 1e-6)
    hidden = torch.relu(p["mlp.0.weight"][:, 0] * share + p["mlp.0.bias"])
    return float(p["mlp.2.weight"][h] @ hidden + p["mlp.2.bias"][h])


@pytest.mark.parametrize("length", [30, 64])
@pytest.mark.parametrize("scheme", ["alibi", "t5", "kerple_log", "tisa", "sandwich", "fire"])
def test_curves_are_the_papers_formulas(scheme, length):
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).double().eval()
    finding = Curves().measure(view(model, Full(), ids(1, length)))
    bias = finding.arrays["bias"]
    assert bias.shape == (len(model.schemes), 4, length)
    for layer, position in enumerate(model.schemes):
        parameters = {k: v.detach() for k, v in position.named_parameters()}
        for h in range(4):
            hand = [bias_by_hand(scheme, parameters, h, n, length - 1) for n in range(length)]
            np.testing.assert_allclose(bias[layer, h], hand, rtol=1e-9, atol=1e-9)
            weights = np.exp(hand) / np.exp(hand).sum()
            for share in (0.95, 0.99):
                place = layer if scheme == "fire" else "all"
                expected = next(r for r in range(length) if weights[: r + 1].sum() >= share)
                assert expected == next(
                    row["value"]
                    for row in finding.rows
                    if (row["measure"], row["layer"], row["head"]) == (f"span {share}", place, h)
                )


@pytest.mark.parametrize("slope", [0.5, 2**-4, 2**-8])
@pytest.mark.parametrize("share", [0.95, 0.99])
@pytest.mark.parametrize("length", [64, 4096])
def test_span_is_that_of_the_geometric_series(slope, share, length):
    whole = 1 - math.exp(-slope * length)
    expected = math.ceil(-math.log1p(-share * whole) / slope) - 1
    assert span(-slope * torch.arange(length).double(), share) == expected


def test_span_without_a_bias_is_a_share_of_the_keys_and_far_biases_do_not_overflow():
    assert span(torch.zeros(200).double(), 0.95) == 189
    assert span(torch.tensor([-1e5, 0.0, -1e5]).double(), 0.99) == 1
    assert span(torch.tensor([0.0, math.nan, 0.0, math.nan]).double(), 0.95) == 2


def test_curves_follow_the_pattern():
    model = tiny_model(ALiBi(2)).double().eval()
    bias = Curves().measure(view(model, Blockwise(4), ids(1, 16))).arrays["bias"]
    assert np.isfinite(bias[0, 0]).tolist() == [n < 8 for n in range(16)]
    moved = Curves().measure(view(model, SelfExtend(6, 2), ids(1, 20))).arrays["bias"][0, 0]
    assert np.isfinite(moved).all()
    np.testing.assert_allclose(moved[:4], -alibi_slopes(2)[0] * np.arange(4))
    assert moved[-1] > -alibi_slopes(2)[0] * 19


def test_a_local_index_counts_the_keys_in_sight():
    model = tiny_model(FIRE(2, 16, threshold=1, index="local")).double().eval()
    blockwise = Curves().measure(view(model, Blockwise(4), ids(1, 16))).arrays["bias"]
    for scheme in model.schemes:
        scheme.index = "global"
    short = Curves().measure(view(model, Full(), ids(1, 8))).arrays["bias"]
    np.testing.assert_allclose(blockwise[..., :8], short, rtol=1e-12)


@pytest.mark.parametrize("pattern", [Full(), Blockwise(4)], ids=repr)
@pytest.mark.parametrize("rows", [5, 128])
def test_biases_that_read_content_are_averaged(pattern, rows, monkeypatch):
    """FoX: sum of log sigmoid(w x_l + b) over l = j+1 .. i, by loops."""
    monkeypatch.setattr("lexp.instruments.curves.ROWS", rows)
    torch.manual_seed(0)
    model, n = Transformer(dims(), 50, [LayerEntry(lambda: make("fox"))]).double().eval(), 14
    with torch.no_grad():
        for scheme in model.schemes:
            scheme.gate.weight.mul_(50)
    texts, inputs = ids(2, n), []

    def attend(q, k, v, position, x, sampled=None):
        inputs.append((position, x[0]))
        return Reference(pattern, n, position, CPU)(q, k, v, position, x, sampled)

    with torch.no_grad():
        for text in texts:
            model.hidden(text[None], attend)
    finding = Curves().measure(view(model, pattern, texts))
    assert {row["measure"] for row in finding.rows} == {"bias"}
    depth = len(model.blocks)
    assert finding.arrays["bias"].shape == (depth, 4, n)
    for layer in range(depth):
        for h in range(4):
            sums: dict[int, list[float]] = {}
            for text in range(2):
                position, x = inputs[text * depth + layer]
                gate = position.gate
                logs = torch.sigmoid(x @ gate.weight[h] + gate.bias[h]).log().tolist()
                for i in range(n):
                    for j in range(i + 1):
                        if pattern.allowed(torch.tensor(i), torch.tensor(j)):
                            sums.setdefault(i - j, []).append(sum(logs[j + 1 : i + 1]))
            expected = [np.mean(sums[m]) for m in range(len(sums))]
            found = finding.arrays["bias"][layer, h]
            np.testing.assert_allclose(found[: len(sums)], expected, rtol=1e-9, atol=1e-12)
            assert np.isnan(found[len(sums) :]).all()


def test_a_sink_leaves_scores_and_biases_as_they_are():
    """In the first layer: deeper ones read what the sink has made of it."""
    texts = ids(2, 20)
    for scheme, instrument in ((RoPE(8), Resolution()), (ALiBi(2), Curves())):
        with_sink = tiny_model(Sum([scheme, SinkLogits(2)]))
        with torch.no_grad():
            with_sink.position.parts[1].logits.fill_(2.0)
        alone, beside = (
            instrument.measure(view(model, Full(), texts)).rows
            for model in (tiny_model(scheme), with_sink)
        )
        # Where layers share a scheme, its curve has no layer.
        first, other = (
            [{**row, "layer": 0} for row in rows if row["layer"] in (0, "all")]
            for rows in (alone, beside)
        )
        assert first == other and len(first) > 4
    with pytest.raises(NotDefined, match=r"^NoPE \+ SinkLogits adds no bias to scores"):
        Curves().measure(view(tiny_model(Sum([NoPE(), SinkLogits(2)])), Full(), texts))


def test_what_has_no_curve_says_so():
    reasons = {"rope": "adds no bias", "dape_alibi": "whole rows", "cope": "whole rows"}
    for scheme, reason in reasons.items():
        torch.manual_seed(0)
        model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()  # noqa: B023
        with pytest.raises(NotDefined, match=reason):
            Curves().measure(view(model, Full(), ids(1, 12)))
    model = Transformer(dims(), 50, [LayerEntry(lambda: make("swat"))]).eval()
    rows = Curves().measure(view(model, Full(), ids(1, 12))).rows
    assert {row["measure"] for row in rows} == {"bias"}


def labelled(position, instrument, method, pattern, length) -> LabelledMeasurement:
    model = tiny_model(position).eval()
    finding = instrument.measure(view(model, pattern, ids(1, length)))
    name = {RoPE: "rope", ALiBi: "alibi", TISA: "tisa"}.get(type(position), "sandwich")
    return LabelledMeasurement(
        name, method, CheckpointInfo("trained", 80, 2.0), 0, length, 16, finding
    )


@pytest.mark.parametrize("pattern", [Full(), Blockwise(4)], ids=repr)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_numbers_or_a_reason(scheme, pattern):
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    for instrument in (Resolution(), Curves()):
        try:
            finding = instrument.measure(view(model, pattern, ids(1, 12)))
        except NotDefined as reason:
            assert str(reason)
            continue
        assert finding.rows and all(math.isfinite(float(r["value"])) for r in finding.rows)
        one = LabelledMeasurement(
            scheme, "full", CheckpointInfo("trained", 80, 2.0), 0, 12, 8, finding
        )
        assert instrument.show([one])


def test_tables_stand_beside_the_published_values_and_charts_can_be_drawn():
    found = [
        labelled(position, Resolution(), method, pattern, length)
        for position in (RoPE(8), ALiBi(2))
        for method, pattern in (("full", Full()), ("blockwise", Blockwise(8)))
        for length in (16, 32)
    ]
    shown = Resolution().show(found)
    softmax, raw = (item for item in shown if isinstance(item, Table))
    first = [field.text for field in softmax.rows[0]]
    assert first[:3] == ["rope", "full", EACH] and first[-2:] == ["0.91†", "0.08†"]
    assert {row[0].text for row in raw.rows} == {"rope"}
    assert all("1.08" in table.notes[0] for table in (softmax, raw))
    charts = [item for item in shown if isinstance(item, Chart)]
    assert len(charts) == 4  # R, scores under two methods, theory
    found = [labelled(p, Curves(), "full", Full(), 16) for p in (ALiBi(2), TISA(2), Sandwich(2))]
    table, *more = Curves().show(found)
    assert isinstance(table, Table) and len(table.rows) == 6 and len(more) == 3
    assert all(len(chart.curves) == 2 for chart in more)
    for chart in (*charts, *more):
        assert chart_png(chart)[:4] == b"\x89PNG"


def test_the_command_runs_both(study, capsys):
    given = ("lengths=[8,16,32]", "device=cpu", "texts=2", "instruments=[resolution,curves]")
    analyze(compose("analyze", f"outputs={study.folder.parent}", *given))
    with (study.folder / "analysis" / "resolution.csv").open(newline="") as file:
        good = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    assert {row["model"] for row in good} >= {"rope"}
    assert all(0 <= float(row["value"]) <= 1 for row in good)
    assert "RoPE adds no bias to scores" in capsys.readouterr().out
