"""Positional channels: the search by loops over the paper's formula, a planted channel, scaling."""

import csv
import itertools
import math

import numpy as np
import pytest
import torch

from lexp.commands.analyze import analyze
from lexp.display.document import Chart
from lexp.display.table import Table
from lexp.instruments.base import CheckpointInfo, LabelledMeasurement
from lexp.instruments.channels import PositionalChannels, middle_layers, search
from lexp.instruments.vectors import rolled
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Full
from lexp.position import NoPE
from lexp.system.errors import NotDefined
from support.config import compose
from support.evaluation import tiny_model
from support.instruments import ids, view

RAMP, WAVE = 5, 7
LENGTH = 40


def cubic(values: list[float]) -> list[float]:
    """The least-squares cubic through values at 0, 1, .., by the normal equations."""
    times = np.arange(len(values)) / len(values)
    powers = np.stack([times**k for k in range(4)])
    return list(np.linalg.solve(powers @ powers.T, powers @ np.array(values)) @ powers)


def smoothed(values: list[float]) -> list[float]:
    """Each value from a cubic through the 11 around it; at the ends from the first and last 11."""
    n, out = len(values), []
    for t in range(n):
        start = min(max(t - 5, 0), n - 11)
        out.append(cubic(values[start : start + 11])[t - start])
    return out


def searched_by_hand(mean: np.ndarray, square: np.ndarray) -> dict[int, tuple]:
    """Channel -> layers, rising, roughness, shares; h_lp(t) and mean squares [layers, K, p]."""
    n_layers, n, n_channels = mean.shape
    found = {}
    for p in range(n_channels):
        layers: dict[bool, list[int]] = {True: [], False: []}
        for layer in range(n_layers):
            fit = cubic(mean[layer, :, p].tolist())
            steps = [b - a for a, b in itertools.pairwise(fit)]
            for rising in (True, False):
                if all(step >= 0 if rising else step <= 0 for step in steps):
                    layers[rising].append(layer)
        rising = len(layers[True]) > len(layers[False])
        if len(layers[rising]) > n_layers / 4:
            rough, shares = [], []
            for layer in layers[rising]:
                values = mean[layer, :, p].tolist()
                low, high = min(values), max(values)
                smooth = smoothed([(value - low) / (high - low) for value in values])
                bends = [smooth[t - 1] - 2 * smooth[t] + smooth[t + 1] for t in range(1, n - 1)]
                rough.append(sum(bend**2 for bend in bends))
                fit = cubic(values)
                average = sum(values) / n
                explained = sum((value - sum(fit) / n) ** 2 for value in fit) / n
                shares.append(explained / (sum(square[layer, :, p]) / n - average**2))
            found[p] = tuple(layers[rising]), rising, min(rough), tuple(shares)
    return found


def test_the_search_is_that_of_the_formula():
    rng = np.random.default_rng(3)
    mean = np.cumsum(rng.normal(size=(5, 30, 24)), axis=1)  # walks: some are monotonic
    square = mean**2 + rng.uniform(0, 2, size=mean.shape)
    found, wanted = search(mean, square), searched_by_hand(mean, square)
    assert 2 < len(wanted) < 20 and {one.rising for one in found} == {True, False}
    assert [one.index for one in found] == sorted(wanted, key=lambda p: wanted[p][2])
    for one in found:
        layers, rising, rough, shares = wanted[one.index]
        assert (one.layers, one.rising) == (layers, rising)
        assert one.roughness == pytest.approx(rough, rel=1e-6)
        assert one.shares == pytest.approx(shares, rel=1e-6)


def planted() -> Transformer:
    """A model whose states are token embeddings, but for a ramp and a wave after layers 1 and 2."""
    torch.manual_seed(1)
    dims = Dims(n_layers=4, d_model=16, n_heads=2, head_dim=8, d_ff=32)
    model = Transformer(dims, 50, [LayerEntry(NoPE)]).double().eval()
    place = torch.arange(LENGTH, dtype=torch.float64)
    added = torch.zeros(LENGTH, 16, dtype=torch.float64)
    added[:, RAMP], added[:, WAVE] = place / LENGTH, (place / 2).sin()

    def plant(sign: int):
        return lambda block, given, out: out + sign * added[: out.shape[1]]

    with torch.no_grad():
        for block in model.blocks:
            block.attention.out.weight.zero_()
            block.mlp_out.weight.zero_()
    model.blocks[1].register_forward_hook(plant(1))
    model.blocks[3].register_forward_hook(plant(-1))
    return model


def shown(measurement, length: int) -> list:
    result = LabelledMeasurement(
        "nope", "full", CheckpointInfo("trained", 1, 0.0), 0, length, 16, measurement
    )
    return PositionalChannels().show([result])


def test_a_planted_channel_is_found_in_its_layers_and_a_wave_is_not():
    inputs = view(planted(), Full(), ids(2, LENGTH))
    measured = PositionalChannels(top=1).measure(inputs)
    rows = measured.rows
    assert [r["layer"] for r in rows if r["measure"] == "share"] == [1, 2]
    ramp, noise = (28**2 - 1) / 12 / LENGTH**2, 0.02**2  # 28 of 40 positions; token embeddings
    expected = pytest.approx(ramp / (ramp + noise), abs=0.005)
    assert all(r["value"] == expected for r in rows if r["measure"] == "share")
    assert {r["channel"] for r in rows if "channel" in r} == {RAMP}
    everything = PositionalChannels(top=16).measure(inputs).rows
    assert WAVE not in {r.get("channel") for r in everything}
    table, nll, distance, chart = shown(measured, LENGTH)
    assert isinstance(table, Table) and isinstance(chart, Chart)
    model, method, _, channel, trend, share = (cell.text for cell in table.rows[0])
    assert (model, method, channel, trend, share) == ("nope", "full 40", "5", "up 2,3", "99.2%")
    assert list(nll.heads[3:]) == ["x 1", "x 0.5", "x 0", "x -0.5", "x -1"]
    assert len(distance.rows) == 1
    assert max(p.y for p in chart.curves[0].points) == pytest.approx(math.sqrt(3), rel=0.1)


def test_a_scaled_channel_changes_queries_and_keys_and_nothing_else():
    """Loss and distance by loops over queries, from the layer that the paper's share names."""
    model, text, n, channel, last = tiny_model(NoPE()).double().eval(), ids(1, 13), 12, 3, 4
    assert list(middle_layers(2)) == [1] and list(middle_layers(32)) == list(range(10, 26))
    (sample,) = rolled(text, 1)
    for factor in (1.0, -0.5):
        x, distances = model.embedding(sample[:n]).detach(), []
        for layer, block in enumerate(model.blocks):
            with torch.no_grad():
                normed = block.norm_attention(x)
                q_weight, k_weight, v_weight = block.attention.qkv.weight.split(16)
                heads = torch.zeros(n, 16, dtype=torch.float64)
                for i in range(n):
                    read = normed.clone()
                    if layer == 1 and i >= n - last:
                        read[:, channel] *= factor
                    for head in (slice(0, 8), slice(8, 16)):
                        query = q_weight[head] @ read[i]
                        scores = [
                            float(query @ (k_weight[head] @ read[j])) / math.sqrt(8)
                            for j in range(i + 1)
                        ]
                        whole = sum(math.exp(score) for score in scores)
                        for j, score in enumerate(scores):
                            weight = math.exp(score) / whole
                            heads[i, head] += weight * (v_weight[head] @ normed[j])
                            if layer == 1 and i >= n - last:
                                distances.append(weight * (i - j))
                x = x + heads @ block.attention.out.weight.T
                x = x + block.mlp(x)
        logits = (model.norm(x) @ model.head.weight.T).detach().log_softmax(-1)
        losses = [-float(logits[i, sample[i + 1]]) for i in range(n - last, n)]
        instrument = PositionalChannels(shifts=1, queries=last)
        nll, distance = instrument.scaled(view(model, Full(), text), channel, factor)
        assert nll == pytest.approx(sum(losses) / last, rel=1e-9)
        assert distance == pytest.approx(sum(distances) / (2 * last), rel=1e-9)


def test_without_the_only_channel_that_attention_reads_all_keys_are_alike():
    model, text = tiny_model(NoPE()).double().eval(), ids(1, 13)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight[:32, [p for p in range(16) if p != 3]] = 0
            block.attention.qkv.weight[:32, 3] *= 10
    inputs, instrument = view(model, Full(), text), PositionalChannels(shifts=1, queries=4)
    _, distance = instrument.scaled(inputs, 3, 0.0)
    assert distance == pytest.approx((8 + 9 + 10 + 11) / 4 / 2)
    trained = instrument.scaled(inputs, 3, 1.0)
    assert trained[1] != pytest.approx(distance, rel=1e-3)
    assert instrument.scaled(inputs, 3, -1.0) == pytest.approx(trained)  # scores are bilinear
    assert instrument.scaled(inputs, 4, 0.0) == pytest.approx(trained)  # no query reads it


def test_short_texts_and_settings_out_of_range_are_refused():
    with pytest.raises(NotDefined, match="more than 11 tokens behind the first 30% of a text"):
        PositionalChannels().measure(view(tiny_model(NoPE()), Full(), ids(1, 15)))
    with pytest.raises(ValueError, match="skip must be from 0 to below 1, got 1"):
        PositionalChannels(skip=1)
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        PositionalChannels(top=0)


def test_the_command_shows_both_instruments_of_trained_and_random_models(study, capsys):
    overrides = (
        f"outputs={study.folder.parent}", "instruments=[channels,permutation]", "lengths=[32]",
        "states=[trained,random]", "model=rope", "attention=[full]", "texts=2", "device=cpu",
    )  # fmt: skip
    analyze(compose("analyze", *overrides))
    said = " ".join(capsys.readouterr().out.split())  # titles are as wide as their tables
    for title in (
        "Channels monotonic in position",
        "One channel scaled: loss (nats)",
        "One channel scaled: mean distance (tokens)",
        "Sensitivity to the order of earlier tokens, by layer",
    ):
        assert title in said
    assert "rope (random)" in said
    for name in ("channels", "permutation"):
        with (study.folder / "analysis" / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["state"] for row in rows} == {"trained", "random"}
        assert all(math.isfinite(float(row["value"])) for row in rows)
