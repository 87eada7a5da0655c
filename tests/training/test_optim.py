"""The optimisers of a run and the schedule of the learning rate."""

import pytest
import torch

from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.position import Learned
from lexp.training.optim import (
    OptimSettings,
    learning_rate,
    make_optimizers,
    set_learning_rates,
)


def optim(**changes) -> OptimSettings:
    base = {
        "lr": 1.0, "beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.0, "clip": 1.0,
        "schedule": "cosine", "warmup": 0.1, "final": 0.1, "power": 2.0,
    }  # fmt: skip
    return OptimSettings(**{**base, **changes})


@pytest.mark.parametrize(
    ("schedule", "middle"),
    [
        ("cosine", 0.55),
        ("linear", 0.55),
        ("polynomial", 0.1 + 0.9 * 0.25),
        ("constant", 1.0),
        ("wsd", 1.0),
    ],
)
def test_learning_rate(schedule, middle):
    settings = optim(schedule=schedule)
    assert [learning_rate(s, 100, settings) for s in (0, 4, 9, 10)] == pytest.approx(
        [0.1, 0.5, 1.0, 1.0]
    )
    assert learning_rate(55, 100, settings) == pytest.approx(middle)
    assert learning_rate(0, 100, optim(warmup=0.0)) == 1.0


def test_wsd_stays_at_the_peak_and_falls_in_a_line_at_the_end():
    """Of 90 steps after the warm-up the last 18: half of the way down after 9 of them."""
    settings = optim(schedule="wsd", decay=0.2)
    rates = [learning_rate(step, 100, settings) for step in (10, 81, 82, 91, 99)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.1 + 0.9 * 0.5, 0.1 + 0.9 / 18])


def small_model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(Dims(1, 8, 1, 8, 8), 11, [LayerEntry(lambda: Learned(4, 8))])


def names_in(model, group) -> set[str]:
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)] for p in group["params"]}


def test_decay_is_for_matrices():
    model = small_model()
    (adamw,) = make_optimizers(model, optim(weight_decay=0.3))
    decayed, rest = (names_in(model, group) for group in adamw.param_groups)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.3, 0.0]
    assert decayed | rest == {n for n, _ in model.named_parameters()} and not decayed & rest
    assert rest == {n for n in decayed | rest if "norm" in n or "embedding" in n or "position" in n}


def test_muon_has_the_matrices_of_layers_and_a_rate_of_its_own():
    model = small_model()
    settings = optim(matrices="muon", lr=0.5, matrix_lr=0.25, momentum=0.9, weight_decay=0.3)
    muon, adamw = make_optimizers(model, settings)
    matrices = {n for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}
    assert names_in(model, muon.param_groups[0]) == matrices and len(matrices) == 4
    assert names_in(model, adamw.param_groups[0]) == {"head.weight"}
    set_learning_rates((muon, adamw), 4, 100, settings)  # half of the warm-up
    assert [group["lr"] for group in muon.param_groups] == [0.125]
    assert [group["lr"] for group in adamw.param_groups] == [0.25, 0.25]


def test_a_step_of_muon_is_that_of_its_authors():
    """Jordan et al. 2024: five steps of Newton and Schulz on the Nesterov momentum, decay first."""
    model = small_model()
    settings = optim(matrices="muon", momentum=0.9, weight_decay=0.3)
    muon, _ = make_optimizers(model, settings)
    weight = model.blocks[0].mlp_in.weight
    torch.nn.init.normal_(weight)  # so that the decay is seen
    before, momentum = weight.detach().double(), torch.zeros_like(weight).double()
    for step in range(2):
        torch.manual_seed(step)
        gradient = torch.randn_like(weight)
        weight.grad = gradient.clone()
        muon.param_groups[0]["lr"] = 0.1
        muon.step()
        momentum = 0.9 * momentum + 0.1 * gradient.double()  # a running mean
        x = 0.1 * gradient.double() + 0.9 * momentum
        x = x / x.norm()
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
        before = before * (1 - 0.1 * 0.3) - 0.1 * x
    assert weight.detach().double() == pytest.approx(before, abs=6e-3)  # bfloat16 in torch
