"""Sensitivity to order: the paper's theorem, and the formula by hand on a small model."""

import pytest
import torch

from lexp.attention import Reference
from lexp.display.table import Table
from lexp.instruments.base import CheckpointInfo, LabelledMeasurement, Measurement
from lexp.instruments.permutation import Permutation, drawn_orders
from lexp.pattern import Bidirectional, Full, Window
from lexp.position import FIRE, NoPE, RoPE
from lexp.system.errors import NotDefined
from support.evaluation import tiny_model
from support.instruments import ids, view
from support.schemes import CPU

ORDERS = drawn_orders(9, 3)


def cases(measured: Measurement) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in measured.rows:
        found.setdefault(str(row["case"]), []).append(float(row["value"]))
    return found


def by_hand(model, pattern, texts, variants, removed: int | None = None) -> list[float]:
    """The mean relative change after each layer, by forward passes over single layers."""

    def last(tokens: torch.Tensor) -> list[torch.Tensor]:
        attend = Reference(pattern, len(tokens), model.position, CPU)
        positions = torch.arange(len(tokens))
        x = model.position.embed(model.embedding(tokens[None]), positions, tokens[None])
        states = []
        for layer, block in enumerate(model.blocks):
            mixed = block.mixer(block.norm_attention(x), model.position, attend, None)
            x = mixed if layer == removed else x + mixed
            x = x + block.mlp(x)
            states.append(x[0, -1])
        return states

    with torch.no_grad():
        changes = [
            [float((b - a).norm() / a.norm()) for a, b in zip(last(text), last(row), strict=True)]
            for text, rows in zip(texts, variants, strict=True)
            for row in rows
        ]
    return [sum(layer) / len(changes) for layer in zip(*changes, strict=True)]


@pytest.mark.parametrize("position", [RoPE(8), NoPE()], ids=lambda p: type(p).__name__)
def test_every_case_is_the_formula_by_hand(position):
    model, texts = tiny_model(position).double().eval(), ids(2, 9)
    found = cases(Permutation(permutations=3).measure(view(model, Full(), texts)))
    names = ["as trained", "no mask", "no residual 1", "no residual 2", "other tokens"]
    assert list(found) == names
    permuted = [[text[order] for order in ORDERS] for text in texts]
    others = [[torch.cat([texts[1 - n, :-1], texts[n, -1:]])] for n in range(2)]
    wanted = {
        "as trained": by_hand(model, Full(), texts, permuted),
        "no mask": by_hand(model, Bidirectional(), texts, permuted),
        "no residual 1": by_hand(model, Full(), texts, permuted, removed=0),
        "no residual 2": by_hand(model, Full(), texts, permuted, removed=1),
        "other tokens": by_hand(model, Full(), texts, others),
    }
    for name in names:
        assert found[name] == pytest.approx(wanted[name], rel=1e-7, abs=1e-12), name
    assert len({round(values[-1], 6) for values in found.values()}) == 5


def test_without_mask_and_positions_no_layer_knows_the_order_and_a_mask_tells_from_the_second_on():
    model, texts = tiny_model(NoPE()).double().eval(), ids(2, 9)
    both = cases(Permutation().measure(view(model, Bidirectional(), texts)))
    for name, values in both.items():
        assert (max(values) < 1e-12) == (name != "other tokens"), name
    causal = cases(Permutation().measure(view(model, Full(), texts)))
    assert causal["as trained"][0] < 1e-12 and causal["as trained"][1] > 1e-3
    assert max(causal["no mask"]) < 1e-12
    rope = tiny_model(RoPE(8)).double().eval()
    rotated = cases(Permutation().measure(view(rope, Full(), texts)))
    assert min(rotated["as trained"] + rotated["no mask"]) > 1e-3


def test_the_last_token_stays_and_the_others_all_move_somewhere():
    assert ORDERS[:, -1].tolist() == [8, 8, 8]
    assert ORDERS.sort(dim=1).values.tolist() == [list(range(9))] * 3
    assert len({tuple(order) for order in ORDERS.tolist()}) == 3


def test_layers_that_share_a_block_lose_one_residual_each():
    model, texts = tiny_model(NoPE()).double().eval(), ids(2, 9)
    model.blocks[1] = model.blocks[0]
    found = cases(Permutation(permutations=3).measure(view(model, Full(), texts)))
    permuted = [[text[order] for order in ORDERS] for text in texts]
    for layer in range(2):
        wanted = by_hand(model, Full(), texts, permuted, removed=layer)
        assert found[f"no residual {layer + 1}"] == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_cases_without_a_meaning_are_left_out_and_short_texts_refused():
    texts, one_sided = ids(1, 9), tiny_model(FIRE(2, 16)).eval()
    assert list(cases(Permutation().measure(view(one_sided, Full(), texts)))) == [
        "as trained", "no residual 1", "no residual 2",
    ]  # fmt: skip
    window = cases(Permutation().measure(view(tiny_model(NoPE()).eval(), Window(4), texts)))
    assert "no mask" not in window
    with pytest.raises(NotDefined, match="permutation needs texts of 3 tokens or more"):
        Permutation().measure(view(one_sided, Full(), ids(1, 2)))
    with pytest.raises(ValueError, match="permutations must be from 1 to 1000000, got 0"):
        Permutation(permutations=0)


def test_the_table_has_the_mean_of_the_seeds_and_the_summary_the_last_layer():
    def result(seed: int, second: float) -> LabelledMeasurement:
        rows = tuple(
            {"measure": "change", "case": "as trained", "layer": layer, "value": value}
            for layer, value in enumerate((0.0, second))
        )
        info = CheckpointInfo("trained", 1, 0.0)
        return LabelledMeasurement("nope", "full", info, seed, 8, 8, Measurement(rows))

    results = [result(0, 0.25), result(1, 0.75)]
    table, chart = Permutation().show(results)
    assert isinstance(table, Table)
    assert [cell.text for cell in table.rows[0]] == [
        "nope", "full 8", "as trained", "0.000", "0.500",
    ]  # fmt: skip
    assert [(p.x, p.y, p.low, p.high) for p in chart.curves[0].points] == [
        (1, 0.0, 0.0, 0.0), (2, 0.5, 0.25, 0.75),
    ]  # fmt: skip
    assert Permutation().summary(results[1]) == {"change by order": 0.75}
