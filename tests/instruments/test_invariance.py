"""Translation invariance, spectrum and receptive field: formulas by brute force, closed forms."""

import math

import numpy as np
import pytest
import torch

from lexp.attention import ChunkSizes, Reference
from lexp.commands.analyze import analyze, png_of
from lexp.display.document import Chart
from lexp.display.table import Table
from lexp.instruments.base import CheckpointInfo, LabelledMeasurement
from lexp.instruments.invariance import Diagonals, Invariance, of_products
from lexp.instruments.receptive import Receptive, gradients, reachable, reached
from lexp.instruments.spectrum import Spectrum, circularity, components, dimensions, planes
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Blockwise, Full, SelfExtend, Sinks, Window
from lexp.position import ALiBi, Learned, NoPE, RoPE, Sinusoidal
from lexp.system.errors import NotDefined
from support.config import compose
from support.evaluation import tiny_model
from support.instruments import ids, view
from support.schemes import SCHEMES, dims, make

CPU = torch.device("cpu")


def by_hand(pairs: dict[tuple[int, int], float]) -> float:
    """R^2 as the formula says it."""
    mean = sum(pairs.values()) / len(pairs)
    diagonals: dict[int, list[float]] = {}
    for (i, j), s in pairs.items():
        diagonals.setdefault(i - j, []).append(s)
    g = {delta: sum(values) / len(values) for delta, values in diagonals.items()}
    left = sum((s - g[i - j]) ** 2 for (i, j), s in pairs.items())
    return 1 - left / sum((s - mean) ** 2 for s in pairs.values())


def lower(matrix: torch.Tensor) -> dict[tuple[int, int], float]:
    return {(i, j): float(matrix[i, j]) for i in range(len(matrix)) for j in range(i)}


def values(finding, measure: str) -> dict[tuple[int, int], float]:
    return {(r["layer"], r["head"]): r["value"] for r in finding.rows if r["measure"] == measure}


def scores_by_hand(model, pattern, text) -> list[list[dict[tuple[int, int], float]]]:
    """Scores of allowed pairs j < i, by layer and head: RoPE or ALiBi, one pair at a time."""
    found = []

    def attend(q, k, v, position, x, sampled=None):
        heads = []
        for h in range(q.shape[1]):
            pairs = {}
            for i in range(len(text)):
                for j in range(i):
                    if not bool(pattern.allowed(torch.tensor(i), torch.tensor(j))):
                        continue
                    if isinstance(position, ALiBi):
                        s = float(q[0, h, i] @ k[0, h, j]) / math.sqrt(8)
                        s -= float(position.slopes[h]) * (i - j)
                    else:
                        s = sum(
                            float((complex(*q[0, h, i, 2 * c : 2 * c + 2].tolist())
                                   * complex(*k[0, h, j, 2 * c : 2 * c + 2].tolist()).conjugate()
                                   * np.exp(1j * (i - j) * 10000 ** (-2 * c / 8))).real)
                            for c in range(4)
                        ) / math.sqrt(8)  # fmt: skip
                    pairs[i, j] = s
            heads.append(pairs)
        found.append(heads)
        return Reference(pattern, len(text), position, CPU)(q, k, v, position, x, sampled)

    with torch.no_grad():
        model.hidden(text[None], attend)
    return found


@pytest.mark.parametrize("pattern", [Full(), Blockwise(4), Window(5)], ids=repr)
@pytest.mark.parametrize("position", [RoPE(8), ALiBi(2)], ids=lambda p: type(p).__name__)
def test_toeplitz_r2_is_the_formula(position, pattern):
    sizes = ChunkSizes(max_rows=7)
    model, texts = tiny_model(position).double().eval(), ids(2, 20)
    found = values(Invariance().measure(view(model, pattern, texts, sizes)), "scores")
    per_text = [scores_by_hand(model, pattern, text) for text in texts]
    for layer in range(2):
        for head in range(2):
            expected = np.mean([by_hand(scores[layer][head]) for scores in per_text])
            assert found[layer, head] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("pattern", [Full(), Blockwise(6), Sinks(Window(5), 3), SelfExtend(6, 2)])
def test_toeplitz_r2_is_the_same_however_tiles_are_cut(pattern):
    model, texts = tiny_model(RoPE(8)).double().eval(), ids(2, 40)
    whole = values(Invariance().measure(view(model, pattern, texts)), "scores")
    for rows in (1, 7, 39):
        look = view(model, pattern, texts, ChunkSizes(max_rows=rows))
        cut = values(Invariance().measure(look), "scores")
        assert cut == pytest.approx(whole, rel=1e-10)
    assert all(0 <= value <= 1 for value in whole.values())


def test_a_layer_that_sees_one_distance_has_nothing_to_compare():
    """The mean of that distance is the mean of all: the formula would give 0."""
    inputs = view(tiny_model(RoPE(8)), Window(2), ids(1, 9))
    with pytest.raises(NotDefined, match="^layer 1 has 1 distance in sight beside 0"):
        Invariance().measure(inputs)
    with pytest.raises(NotDefined, match="^layer 1 has 0 distances"):
        Invariance().measure(view(tiny_model(RoPE(8)), Window(1), ids(1, 9)))
    assert Invariance().measure(view(tiny_model(RoPE(8)), Window(3), ids(1, 9))).rows


def test_scores_of_distance_alone_have_r2_of_one():
    model = tiny_model(ALiBi(2)).double().eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[:16].zero_()  # queries
    found = values(Invariance().measure(view(model, Full(), ids(1, 30))), "scores")
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-12)
    model.positions[0] = NoPE()
    found = values(Invariance().measure(view(model, Full(), ids(1, 30))), "scores")
    assert all(math.isnan(value) for value in found.values())  # all scores are 0


@pytest.mark.parametrize("shift", [0.0, 1e7])
def test_noise_has_next_to_none_and_large_scores_lose_no_digits(shift):
    generator = torch.Generator().manual_seed(0)
    n = 200
    noise = torch.randn(2, n, n, generator=generator, dtype=torch.float64) + shift
    index = torch.arange(n)
    distance = index[:, None] - index
    found = Diagonals.empty(2, n, CPU)
    for rows in index.split(17):
        chosen = distance[rows] > 0
        found.add(noise[:, rows][:, chosen], distance[rows][chosen])
    expected = (n - 2) / (n * (n - 1) / 2 - 1)
    for head in range(2):
        assert found.r2()[head].item() == pytest.approx(by_hand(lower(noise[head])), abs=1e-9)
        assert found.r2()[head].item() == pytest.approx(expected, rel=0.5)


def test_sinusoidal_products_are_exactly_toeplitz_and_learned_ones_the_formula():
    sizes = ChunkSizes(max_rows=7)
    model = tiny_model(Sinusoidal(16)).double().eval()
    found = Invariance().measure(view(model, Full(), ids(1, 30), sizes))
    assert values(found, "gram")[0, 0] == pytest.approx(1.0, abs=1e-12)
    model = tiny_model(Learned(30, 16)).double().eval()
    with torch.no_grad():
        model.blocks[0].norm_attention.weight.copy_(torch.linspace(0.5, 2, 16))
    found = Invariance().measure(view(model, Full(), ids(1, 30), sizes))
    p = model.position.table.detach()
    assert values(found, "gram")[0, 0] == pytest.approx(by_hand(lower(p @ p.T)), rel=1e-9)
    weight = model.blocks[0].attention.qkv.weight.detach()
    normed = (p - p.mean(1, keepdim=True)) * torch.linspace(0.5, 2, 16)
    for head in range(2):
        rows = slice(8 * head, 8 * head + 8)
        w_q, w_k = weight[:16][rows], weight[16:32][rows]
        term = lower(normed @ w_q.T @ w_k @ normed.T)
        assert values(found, "position")[0, head] == pytest.approx(by_hand(term), rel=1e-9)
    rope = Invariance().measure(view(tiny_model(RoPE(8)).eval(), Full(), ids(1, 30)))
    assert not values(rope, "gram") and not values(rope, "position")


def test_products_of_a_toeplitz_matrix_and_of_noise():
    t = torch.arange(300, dtype=torch.float64)
    circle = torch.stack([t.mul(0.3).cos(), t.mul(0.3).sin()], dim=1)
    assert of_products(circle, circle, ChunkSizes())[0] == pytest.approx(1.0, abs=1e-12)
    noise = torch.randn(300, 64, generator=torch.Generator().manual_seed(0)).double()
    assert of_products(noise, noise, ChunkSizes())[0] < 0.02


def circles(n: int, *turns: tuple[float, float]) -> np.ndarray:
    """Positions [n, 2 * planes] on circles: (amplitude, turns in all)."""
    t = np.arange(n)
    waves = [(a * f(2 * np.pi * turn * t / n)) for a, turn in turns for f in (np.cos, np.sin)]
    mix = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    return np.stack(waves, axis=1) @ mix[: 2 * len(turns)] + 3.0


def test_components_of_known_circles():
    p = circles(200, (3, 5), (2, 11), (1, 31))
    shares, projections = components(p)
    np.testing.assert_allclose(shares[:6], np.repeat([9, 4, 1], 2) / 28, rtol=1e-9)
    centred = p - p.mean(0)
    eigenvalues = np.linalg.eigvalsh(centred.T @ centred)[::-1]
    np.testing.assert_allclose(shares, eigenvalues / eigenvalues.sum(), atol=1e-12)
    np.testing.assert_allclose((projections**2).sum(0)[:6], eigenvalues[:6], rtol=1e-9)
    assert [dimensions(shares.cumsum(), percent) for percent in (60, 90, 95, 99)] == [2, 4, 5, 6]
    found = planes(shares, projections, 0.9)
    assert [plane.first for plane in found] == [0, 2, 4]
    assert [plane.circle for plane in found] == pytest.approx([1, 1, 1])
    assert [plane.period for plane in found] == pytest.approx([40, 200 / 11, 200 / 31])
    assert sum(plane.variance for plane in found) == pytest.approx(1)


def test_circles_of_one_size_are_told_apart():
    shares, projections = components(circles(200, (1, 5), (1, 11), (1, 31)))
    found = planes(shares, projections, 0.9)
    assert [plane.circle for plane in found] == pytest.approx([1, 1, 1], abs=1e-3)
    assert sorted(plane.period for plane in found) == pytest.approx([200 / 31, 200 / 11, 40])


def test_noise_and_waves_to_and_fro_do_not_turn():
    t = np.arange(256)[:, None] + 0.5
    drift = np.cos(np.pi * t * np.arange(1, 9) / 256) / np.arange(1, 9)
    two_waves = np.cos(np.pi * t * np.array([6, 40]) / 256)
    noise = np.random.default_rng(0).normal(size=(256, 64))
    for p, most in ((drift, 0.5), (two_waves, 0.5), (noise, 0.35)):
        assert all(plane.circle < most for plane in planes(*components(p), 0.9))
    assert len(planes(*components(two_waves), 0.9)) == 1
    line = np.cos(2 * np.pi * 7 * np.arange(256) / 256).astype(complex)
    assert circularity(line)[0] == pytest.approx(0.5)


def test_spectrum_of_a_model_and_why_there_is_none():
    model = tiny_model(Sinusoidal(16, base=20.0)).eval()
    found = Spectrum().measure(view(model, Blockwise(8), ids(1, 400)))
    rows = {r["measure"]: r["value"] for r in found.rows}
    assert rows["turning"] > 0.95 and rows["planes"] == 8
    assert sum(r["value"] for r in found.rows if r["measure"] == "component") == pytest.approx(1)
    with pytest.raises(NotDefined, match="RoPE adds nothing to the embeddings"):
        Spectrum().measure(view(tiny_model(RoPE(8)).eval(), Full(), ids(1, 40)))


@pytest.mark.parametrize("pattern", [Full(), Blockwise(4), SelfExtend(6, 2)], ids=repr)
@pytest.mark.parametrize("long", [2048, 4], ids=["plain", "computed again"])
@pytest.mark.parametrize("scheme", ["rope", "sinusoidal"])
def test_gradients_are_finite_differences(scheme, pattern, long, monkeypatch):
    monkeypatch.setattr("lexp.instruments.receptive.LONG", long)
    position = RoPE(8) if scheme == "rope" else Sinusoidal(16)
    if pattern.only_moves and scheme == "sinusoidal":
        pytest.skip("no positions to move")
    model, text = tiny_model(position).double().eval(), ids(1, 14)[0]

    def log_likelihood(embedded: torch.Tensor) -> float:
        def attend(q, k, v, position, x, sampled=None):
            return Reference(pattern, 13, position, CPU)(q, k, v, position, x, sampled)

        x = model.position.embed(embedded[None], torch.arange(13), text[None])
        for block in model.blocks:
            x = block(x, model.position, attend, None)
        return float(model.head(model.norm(x))[0, -1].log_softmax(-1)[text[-1]])

    with torch.no_grad():
        embedded = model.embedding(text[:-1])
        expected = torch.zeros_like(embedded)
        for at in np.ndindex(*embedded.shape):
            step = torch.zeros_like(embedded)
            step[at] = 1e-6
            difference = log_likelihood(embedded + step) - log_likelihood(embedded - step)
            expected[at] = difference / 2e-6
    found = gradients(model, pattern, text)
    # The fast path turns queries and keys by angles in float32.
    most = 1e-5 if scheme == "rope" and not pattern.only_moves else 1e-6
    torch.testing.assert_close(found, expected, rtol=0, atol=most)
    looked = Receptive().measure(view(model, pattern, text[None]))
    sizes = expected.norm(dim=1).flip(0)
    np.testing.assert_allclose(looked.arrays["shares"], sizes / sizes.sum(), atol=1e-5)


@pytest.mark.parametrize("n", [37, 40, 41])
@pytest.mark.parametrize("pattern", [Blockwise(4), Window(5)], ids=repr)
@pytest.mark.parametrize("position", [RoPE(8), ALiBi(2)], ids=lambda p: type(p).__name__)
def test_nothing_is_felt_beyond_the_reach_of_all_layers(position, pattern, n):
    model = tiny_model(position).eval()
    sizes = gradients(model, pattern, ids(1, n)[0]).norm(dim=-1).flip(0)
    newest = n - 2
    if isinstance(pattern, Window):
        reach = 2 * (5 - 1)
    else:
        reach = newest - (newest // 4 - 2) * 4
        assert reach <= 2 * (2 * 4 - 1)
    assert reachable(pattern, n - 1, model) == reach
    assert (sizes[: reach + 1] > 0).all()
    assert (sizes[reach + 1 :] == 0).all() and len(sizes) > reach + 1
    rows = {
        r["measure"]: r["value"] for r in Receptive().measure(view(model, pattern, ids(2, n))).rows
    }
    assert 0 <= rows["distance_50"] <= rows["distance_90"] <= rows["distance_99"] <= reach


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_looked_at_and_feels_what_is_reachable(scheme):
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    n, pattern = 40, Blockwise(3)
    found = Invariance().measure(view(model, pattern, ids(1, n)))
    assert all(r["value"] <= 1 for r in found.rows)
    sizes = gradients(model, pattern, ids(1, n)[0]).norm(dim=-1).flip(0)
    beyond = sizes[reachable(pattern, n - 1, model) + 1 :]
    assert len(beyond) > 0 and (beyond <= 1e-6 * sizes.sum()).all()


def test_the_distance_that_holds_a_share_and_texts_weigh_the_same():
    cumulative = np.array([0.4, 0.3, 0.2, 0.1]).cumsum()
    assert [reached(cumulative, percent) for percent in (40, 50, 90, 99)] == [0, 1, 2, 3]
    model, texts = tiny_model(RoPE(8)).double().eval(), ids(3, 12)
    both = Receptive().measure(view(model, Full(), texts)).arrays["shares"]
    each = [Receptive().measure(view(model, Full(), t[None])).arrays["shares"] for t in texts]
    np.testing.assert_allclose(both, np.mean(each, axis=0), rtol=1e-12)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("instrument", [Invariance(), Spectrum(), Receptive()])
def test_findings_are_shown(instrument):
    found = [
        LabelledMeasurement(
            "sinusoidal", method, CheckpointInfo("trained", 80, 2.0), seed, n, 16,
            instrument.measure(view(tiny_model(Sinusoidal(16)).eval(), pattern, ids(1, n))),
        )
        for method, pattern in (("full", Full()), ("blockwise", Blockwise(8)))
        for seed in (0, 1)
        for n in (16, 32)
    ]  # fmt: skip
    shown = instrument.show(found)
    table = shown[0]
    assert isinstance(table, Table)
    # Attention does not change embeddings: their spectrum is there once.
    assert len(table.rows) == (2 if isinstance(instrument, Spectrum) else 4)
    for item in shown[1:]:
        assert not isinstance(item, Table)
        assert not isinstance(item, Chart) or item.curves
        assert png_of(item)[:4] == b"\x89PNG"


def test_the_command_runs_all_three_and_says_what_has_no_spectrum(study, capsys):
    names = ("invariance", "spectrum", "receptive")
    settings = "lengths=[8,16]", "device=cpu", "texts=2", f"instruments=[{','.join(names)}]"
    analyze(compose("analyze", f"outputs={study.folder.parent}", *settings))
    for name in names:
        lines = (study.folder / "analysis" / f"{name}.csv").read_text().splitlines()
        assert any(line.startswith("learned") and ",ok," in line for line in lines)
        assert (study.folder / "analysis" / f"{name}-2.png").read_bytes()[:4] == b"\x89PNG"
    assert "spectrum not defined for rope: RoPE adds nothing" in capsys.readouterr().out
