"""Position probe: closed forms by counting, states of known information, no leak."""

import math

import numpy as np
import pytest
import torch

from lexp.display.document import Chart
from lexp.display.table import Table
from lexp.instruments import position_probe as module
from lexp.instruments.base import CheckpointInfo, LabelledMeasurement, Measurement
from lexp.instruments.linear_probe import LinearProbe, Training, fresh, train_classifier
from lexp.instruments.position_probe import PositionProbe, guesses, middle, random, split, states_of
from lexp.pattern import Blockwise, Full
from lexp.position import NoPE, RoPE, Sinusoidal
from lexp.system.errors import NotDefined
from support.evaluation import tiny_model
from support.instruments import ids, view

QUICK = PositionProbe(states=2048, hidden=64, steps=300, batch=128, lr=0.01)
LENGTH = 32


def rows_of(model, texts, probe=QUICK, pattern=None) -> list[dict]:
    return list(probe.measure(view(model, pattern or Full(), texts)).rows)


def replaced(monkeypatch, states) -> None:
    """Hidden states [B, T, d] of token ids [B, T], in place of a model's, as embeddings alone."""
    monkeypatch.setattr(module, "hidden_states", lambda model, tokens, *rest: [states(tokens)])


@pytest.mark.parametrize("length", [1, 2, 3, 8, 9, 100, 257])
def test_baselines_are_what_counting_gives(length):
    p = range(length)
    constants = [sum(abs(a - b) for a in p) / length for b in p]
    assert middle(length) == pytest.approx(constants[(length - 1) // 2], rel=1e-12)
    assert middle(length) == pytest.approx(min(constants), rel=1e-12)
    assert random(length) == pytest.approx(sum(constants) / length, rel=1e-12)


def test_baselines_are_a_quarter_and_a_third_of_an_even_length():
    assert middle(256) == 64.0
    assert random(1024) == pytest.approx(341.33, abs=0.01)  # the paper: about 340


def test_embeddings_of_positions_alone_are_read_off_exactly():
    model = tiny_model(Sinusoidal(16)).eval()
    with torch.no_grad():
        model.embedding.weight.zero_()
    first = rows_of(model, ids(4, LENGTH))[0]
    assert first["mean_distance"] < 0.05 and first["median_distance"] < 0.05
    assert first["accuracy"] > 0.95


def test_positions_added_to_tokens_are_found():
    model = tiny_model(Sinusoidal(16)).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(0.1)
    assert rows_of(model, ids(8, LENGTH))[0]["mean_distance"] < middle(LENGTH) / 4


@pytest.mark.parametrize("position", [NoPE(), RoPE(8)], ids=lambda p: type(p).__name__)
def test_embeddings_without_positions_say_nothing(position):
    first = rows_of(tiny_model(position).eval(), ids(8, LENGTH))[0]
    assert 0.85 * middle(LENGTH) < first["median_distance"] < 1.15 * random(LENGTH)
    assert 0.85 * middle(LENGTH) < first["mean_distance"] < 1.3 * random(LENGTH)
    assert first["accuracy"] < 0.1


def test_noise_says_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    replaced(monkeypatch, lambda tokens: torch.randn(*tokens.shape, 16, generator=generator))
    (row,) = rows_of(None, ids(12, LENGTH), PositionProbe(states=8192, hidden=16, steps=200))
    assert row["median_distance"] == pytest.approx(middle(LENGTH), rel=0.1)
    assert row["accuracy"] < 0.1


def test_documents_that_begin_alike_do_not_pass_for_position():
    """Every text begins with the same words: rolled around, they tell nothing."""
    texts = ids(1, LENGTH).repeat(8, 1)
    first = rows_of(tiny_model(NoPE()).eval(), texts)[0]
    assert first["median_distance"] > 0.85 * middle(LENGTH)


def test_means_of_ever_more_values_tell_how_many(monkeypatch):
    """What models without positions live on: variance 1/m at position m (Chi et al. 2023).

    The best there is comes from the likelihood, d/2 ln m - m |h|^2 / 2, its maximum found by trial.
    """
    generator, d = torch.Generator().manual_seed(2), 64
    root = torch.arange(1, LENGTH + 1).sqrt()[:, None]
    replaced(monkeypatch, lambda t: torch.randn(*t.shape, d, generator=generator) / root)
    (row,) = rows_of(None, ids(16, LENGTH), PositionProbe(states=16384, steps=600, lr=0.005))
    m = np.arange(1, LENGTH + 1)
    h = np.random.default_rng(0).normal(size=(500, LENGTH, d)) / np.sqrt(m)[:, None]
    likelihood = d / 2 * np.log(m) - (h**2).sum(-1, keepdims=True) * m / 2
    best = np.abs(likelihood.argmax(-1) + 1 - m).mean()
    assert best < 0.4 * middle(LENGTH)
    # Squares are learned from 12,288 states with ReLU: near the best, never past it.
    assert 0.9 * best < row["mean_distance"] < middle(LENGTH) / 2


def memorised(tokens: torch.Tensor) -> torch.Tensor:
    """A state [64 * T] that names document and position, in an order of positions of its own."""
    n = tokens.shape[1]
    document = tokens[:, :1]
    code = document * n + (torch.arange(n) * 5 + 7 * document) % n
    return torch.nn.functional.one_hot(code, 8 * n).float()


def test_what_is_learned_of_documents_is_not_tested_on_them(monkeypatch):
    """Known documents are learned by heart; that is of no use for new ones."""
    replaced(monkeypatch, memorised)
    texts = torch.arange(8)[:, None].expand(8, LENGTH).contiguous()
    (row,) = rows_of(None, texts)
    assert row["mean_distance"] > 0.8 * middle(LENGTH)
    # The same split by tokens would be right everywhere: the test above can fail.
    every = states_of(view(None, Full(), texts), range(8), 64, 0)
    training = Training(64, 300, 128, 0.01, 0)
    leaked = module.probed(every.states[0], every.positions, every, 0, LENGTH, training)
    assert leaked["mean_distance"] < 0.1


@pytest.mark.parametrize(
    ("n_texts", "share", "n_test"), [(2, 0.25, 1), (4, 0.25, 1), (16, 0.25, 4), (3, 0.99, 2)]
)
def test_documents_are_split_whole(n_texts, share, n_test):
    train, test = split(n_texts, share, seed=3)
    assert len(test) == n_test and sorted(train + test) == list(range(n_texts))
    assert (train, test) == split(n_texts, share, seed=3)


def test_one_document_is_refused():
    with pytest.raises(NotDefined, match=r"texts=2 or more, there is 1$"):
        rows_of(tiny_model(NoPE()).eval(), ids(1, LENGTH))
    with pytest.raises(NotDefined, match="2 tokens or more"):
        rows_of(tiny_model(NoPE()).eval(), ids(2, 1))


def test_states_that_are_not_finite_are_refused(monkeypatch):
    replaced(monkeypatch, lambda tokens: torch.full((*tokens.shape, 4), math.nan))
    with pytest.raises(NotDefined, match="layer 0 are not finite"):
        rows_of(None, ids(2, LENGTH))


REFUSED = [{"held_out": 1.0}, {"held_out": 0.0}, {"steps": 0}, {"states": 0}, {"hidden": 0},
           {"batch": 0}, {"lr": 0.0}, {"lr": math.inf}]  # fmt: skip


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_settings_that_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name} must be "):
        PositionProbe(**settings)


def test_states_are_the_models_at_the_positions_they_are_said_to_be():
    model, texts = tiny_model(RoPE(8)).double().eval(), ids(3, 12)
    looked = view(model, Blockwise(4), texts)
    found = states_of(looked, [2, 0], 36, 5)
    assert found.states.shape == (3, 2 * 3 * 12, 16)
    assert found.documents.tolist() == [2] * 36 + [0] * 36
    seen = []
    for first in range(0, 72, 12):
        own, text = found.states[:, first : first + 12], texts[int(found.documents[first])]
        rolls = [module.hidden_states(model, text.roll(-r)[None], Blockwise(4)) for r in range(12)]
        same = [
            all(torch.allclose(o, s[0].float(), atol=1e-5) for o, s in zip(own, roll, strict=True))
            for roll in rolls
        ]
        assert sum(same) == 1
        seen.append(same.index(True))
        assert found.positions[first : first + 12].tolist() == list(range(12))
    assert len(set(seen[:3])) == len(set(seen[3:])) == 3  # no roll twice


def test_of_long_texts_positions_are_drawn_and_no_more_kept():
    model, texts = tiny_model(NoPE()).eval(), ids(2, 40)
    found = states_of(view(model, Full(), texts), [0, 1], 10, 0)
    assert found.states.shape == (3, 20, 16)
    assert len(set(found.positions[:10].tolist())) == 10
    assert found.positions.max() < 40


@pytest.mark.parametrize(("length", "n_classes"), [(10, 10), (10, 4), (1500, 1024), (7, 3)])
def test_a_stretch_of_positions_stands_for_its_middle(length, n_classes):
    members = [[p for p in range(length) if p * n_classes // length == c] for c in range(n_classes)]
    # A classifier that is sure of the class whose number is its input.
    sure = LinearProbe(
        torch.zeros(n_classes), torch.ones(n_classes),
        (torch.eye(n_classes), torch.zeros(n_classes), 100 * torch.eye(n_classes),
         torch.zeros(n_classes)),
    )  # fmt: skip
    likeliest, median = guesses(sure, torch.eye(n_classes), length, n_classes)
    assert likeliest.tolist() == [own[(len(own) - 1) // 2] for own in members]
    assert median.tolist() == likeliest.tolist()


def test_the_median_is_the_first_position_with_half_of_the_weight():
    p = torch.tensor([[0.3, 0.1, 0.2, 0.4], [0.6, 0.2, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])
    made = LinearProbe(
        torch.zeros(3), torch.ones(3),
        (torch.eye(3), torch.zeros(3), p.log(), torch.zeros(4)),
    )  # fmt: skip
    likeliest, median = guesses(made, torch.eye(3), 4, 4)
    assert likeliest.tolist() == [3, 0, 3]
    assert median.tolist() == [2, 0, 3]


def test_the_classifier_comes_near_the_best_there_is_and_not_past_it():
    """Normal clouds around known means: the best rule is the nearest mean, written in numpy."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(8, 6))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        classes = rng.integers(0, 8, n)
        return (means[classes] + 0.8 * rng.normal(size=(n, 6))).astype(np.float32), classes

    (states, classes), (new, truth) = draw(8000), draw(8000)
    nearest = ((new[:, None] - means) ** 2).sum(-1).argmin(-1)
    best = float((nearest == truth).mean())
    made = train_classifier(
        torch.from_numpy(states), torch.from_numpy(classes), 8, Training(64, 600, 256, 0.005, 0)
    )
    found = torch.cat([p.argmax(-1) for p in made.probabilities(torch.from_numpy(new))]).numpy()
    assert 0.6 < best < 0.95  # neither lost nor trivial
    assert best - 0.02 < float((found == truth).mean()) < best + 0.01


def test_a_step_of_training_is_adams_of_the_formula():
    """One step on the whole batch: every weight moves by the rate against its gradient's sign."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(40, 5, generator=generator)
    classes = torch.randint(0, 3, (40,), generator=generator)
    one, two = (train_classifier(states, classes, 3, Training(7, n, 40, 1e-3, 4)) for n in (1, 2))
    before = begun(5, 7, 3, 4)
    first, first_bias, second, second_bias = (w.double().numpy() for w in before)
    x = states.double().numpy()
    x = (x - x.mean(0)) / x.std(0)
    hidden = np.maximum(x @ first + first_bias, 0)
    logits = hidden @ second + second_bias
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    error = (p - np.eye(3)[classes.numpy()]) / 40
    into = (error @ second.T) * (hidden > 0)
    gradients = x.T @ into, into.sum(0), hidden.T @ error, error.sum(0)
    for old, new, gradient in zip(before, one.weights, gradients, strict=True):
        # Adam's first step: rate * g / (|g| + eps).
        expected = -1e-3 * gradient / (np.abs(gradient) + 1e-8)
        np.testing.assert_allclose((new - old).double().numpy(), expected, rtol=2e-3, atol=2e-6)
    assert not torch.equal(one.weights[0], two.weights[0])


def begun(d_model: int, hidden: int, n_classes: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    made = fresh(d_model, hidden, n_classes, generator, torch.device("cpu"))
    return [w.detach() for w in made]


def test_the_rate_warms_up_and_falls_to_zero():
    training = Training(8, 100, 4, 0.5, 0)
    rates = [training.rate(step) for step in range(101)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.48])
    assert rates[50] == pytest.approx(0.25) and rates[100] == 0


def test_the_same_seed_finds_the_same_and_another_does_not():
    model, texts = tiny_model(RoPE(8)).eval(), ids(4, LENGTH)
    probe = PositionProbe(states=512, hidden=16, steps=50)
    torch.manual_seed(1)
    once = rows_of(model, texts, probe)
    torch.manual_seed(2)
    assert rows_of(model, texts, probe) == once
    other = PositionProbe(states=512, hidden=16, steps=50, seed=1)
    assert rows_of(model, texts, other) != once


def test_the_error_is_over_documents():
    rows = rows_of(tiny_model(NoPE()).eval(), ids(4, LENGTH))  # one is held out
    assert all(math.isnan(row["error"]) for row in rows)
    rows = rows_of(tiny_model(NoPE()).eval(), ids(8, LENGTH))
    assert all(0 < row["error"] < LENGTH for row in rows)


def test_what_is_shown():
    row = {"mean_distance": 10.0, "error": 1.0, "median_distance": 8.0, "accuracy": 0.1,
           "middle": 16.0, "random": 21.3125}  # fmt: skip
    finding = Measurement(tuple({"layer": n, **row} for n in range(3)))
    found = [
        LabelledMeasurement("nope", "full", CheckpointInfo(state, 80, 2.0), 0, length, 64, finding)
        for state in ("trained", "random")
        for length in (32, 64)
    ]
    table, chart = PositionProbe().show(found)
    assert isinstance(table, Table) and isinstance(chart, Chart)
    assert len(table.rows) == 8
    assert [f.text for f in table.rows[0]] == [
        "nope", "s0", "full", "32", "likeliest", "10.0", "10.0", "10.0", "16.0", "21.3",
    ]  # fmt: skip
    assert len(chart.curves) == 2 + 2
    assert [p.y for p in chart.curves[2].points] == [16.0] * 3  # L/4 of 64
    point = chart.curves[0].points[1]
    assert (point.x, point.y, point.low, point.high) == (1.0, 10.0, 9.0, 11.0)
