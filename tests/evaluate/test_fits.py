"""Fitted extensions: the scores they give, what a fit changes, what it is made on and how often."""

import contextlib
import csv
import math
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from lexp.attention import make_attend
from lexp.commands import fit_cost
from lexp.commands.analyze import analyze
from lexp.commands.evaluate import check, eval_
from lexp.evaluate import fit as fits
from lexp.evaluate import partial_progress
from lexp.extension import FittedScale, HeadScale, Lengths, scales_of
from lexp.instruments.measure import ANALYSES
from lexp.model.transformer import Transformer
from lexp.pattern import Full
from lexp.position import NoPE
from lexp.result_store import read_newest
from support.by_hand import by_hand
from support.config import compose, refusal
from support.evaluation import tiny_model, tokens_of
from support.schemes import CPU
from support.training import Killed

N = 24
LENGTHS = Lengths(16, N, N)


def extended(extension) -> tuple[Transformer, nn.Parameter]:
    """A model of two layers and two heads in float64 under an extension, and its scales."""
    model = extension.extend(tiny_model(NoPE()).double(), Full(), LENGTHS, None)
    return model, scales_of(model)


def test_scaled_scores_and_the_gradients_of_scales_are_the_papers():
    model, scales = extended(HeadScale())
    given = torch.tensor([[1.0, 1.9], [1.3, 2.6]], dtype=torch.float64)[..., None]
    scales.data = given.clone()
    tokens = tokens_of(N + 1).ids.astype(int).tolist()
    attend = make_attend(Full(), N, model.schemes, CPU)
    loss = model.loss(torch.tensor([tokens[:-1]]), torch.tensor([tokens[1:]]), attend) / N
    (found,) = torch.autograd.grad(loss, scales)
    free = given.clone().requires_grad_()
    wanted = by_hand(model, tokens, free[..., 0])
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(wanted, free)
    assert gradient.abs().min() > 1e-5
    torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-12)


TOKENS = tokens_of(N + 1).ids.astype(int).tolist()


def hand_loss(model: Transformer, scales: torch.Tensor) -> torch.Tensor:
    return by_hand(model, TOKENS, scales.double().view(2, 2))


def batch_loss(model: Transformer):
    """The loss of one text, whichever batch is asked for."""
    attend = make_attend(Full(), N, model.schemes, CPU)
    inputs, targets = torch.tensor([TOKENS[:-1]]), torch.tensor([TOKENS[1:]])
    return lambda number: model.loss(inputs, targets, attend) / N


def test_head_scale_is_fitted_by_the_papers_optimiser():
    """AdamW of Loshchilov and Hutter without decay, by hand, on losses and gradients by hand."""
    extension = HeadScale(steps=12, lr=0.5)
    model, scales = extended(extension)
    states = list(extension.fit(scales, batch_loss(model), None))
    now = torch.full((4,), 1.6, dtype=torch.float64)
    mean, square, losses = torch.zeros(4), torch.zeros(4), []
    for step in range(12):
        free = now.clone().requires_grad_()
        loss = hand_loss(model, free)
        (grad,) = torch.autograd.grad(loss, free)
        losses.append(loss.item())
        grad = grad * min(1.0, 1 / (grad.norm().item() + 1e-6))
        rate = (
            0.5 * (step + 1) / 2 if step < 2 else 0.25 * (1 + math.cos(math.pi * (step - 2) / 10))
        )
        mean, square = 0.9 * mean + 0.1 * grad, 0.95 * square + 0.05 * grad**2
        hat, wide = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.95 ** (step + 1))
        now = (now - rate * hat / (wide.sqrt() + 1e-8)).clamp(min=1.0)
    assert scales.detach().flatten().tolist() == pytest.approx(now.tolist(), rel=1e-5)
    assert min(now.tolist()) == 1.0 < max(now.tolist()), "some scales meet the floor, others not"
    assert states[-1][0][-12:].tolist() == pytest.approx(losses, rel=1e-6)
    assert losses[-1] < losses[0] - 1e-3, "the loss falls"


def test_the_fitted_scale_is_the_best_of_the_grid():
    extension = FittedScale(least=0.5, most=3.0, by=0.5, n_texts=1)
    model, scales = extended(extension)
    ((losses, _),) = list(extension.fit(scales, batch_loss(model), None))[-1:]
    grid = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    with torch.no_grad():
        wanted = [hand_loss(model, torch.full((4,), scale)).item() for scale in grid]
    assert losses.tolist() == pytest.approx(wanted, rel=1e-6)
    best = grid[wanted.index(min(wanted))]
    assert scales.flatten().tolist() == pytest.approx([best] * 4)
    assert best not in (grid[0], wanted.index(max(wanted))), "another choice would show"


@pytest.fixture
def nope(trained_once, texts, tmp_path):
    """Evaluates a model without positions: rows by extension and length, and its run's folder."""
    shutil.copytree(trained_once(("nope",)), tmp_path / "outputs")
    study = tmp_path / "outputs" / "default"
    (run,) = study.glob("nope-*")

    def evaluate(*overrides: str) -> dict[tuple[str, int], dict[str, str]]:
        eval_(compose(
            "eval", f"outputs={tmp_path}/outputs", "lengths=[16,32]", "attention=[full]",
            "device=cpu", "precision=float32", *overrides,
        ))  # fmt: skip
        with (study / "results.csv").open(newline="") as file:
            return {(r["extension"], int(r["length"])): r for r in csv.DictReader(file)}

    evaluate.run = run
    return evaluate


HEAD = ("extension=[none,head_scale]", "extension.head_scale.steps=8", "extension.head_scale.lr=.3")
FITTED = "head_scale-steps=8-lr=0.3 (fitted at 32 on train)"


def scales_in(run) -> list[list[float]]:
    (path,) = (run / "fits").glob("*.npz")
    with np.load(path) as arrays:
        return arrays["scales"].tolist()


def test_a_fit_is_made_once_and_kept(nope, monkeypatch):
    first = nope(*HEAD)
    assert {name for name, _ in first} == {"none", FITTED}
    assert all(row["status"] == "ok" for row in first.values())
    assert first[FITTED, 32]["nll"] != first["none", 32]["nll"]
    ((a, b),) = scales_in(nope.run)
    assert a != b and min(a, b) >= 1
    shutil.rmtree(nope.run / "eval")
    monkeypatch.setattr(HeadScale, "fit", None)
    again = nope(*HEAD)
    assert {key: row["nll"] for key, row in again.items()} == {
        key: row["nll"] for key, row in first.items()
    }


def test_a_fit_that_is_killed_goes_on_bit_equal(nope, monkeypatch):
    nope(*HEAD)
    whole = scales_in(nope.run)
    shutil.rmtree(nope.run / "fits")
    shutil.rmtree(nope.run / "eval")
    monkeypatch.setattr(partial_progress, "SAVE_EVERY_S", 0.0)
    asked: list[int] = []
    make_loss = fits.make_loss

    def counted(fit, model):
        loss = make_loss(fit, model)

        def of_batch(number):
            asked.append(number)
            if asked == list(range(6)):
                raise Killed
            return loss(number)

        return of_batch

    monkeypatch.setattr(fits, "make_loss", counted)
    with pytest.raises(Killed):
        nope(*HEAD)
    assert not list((nope.run / "fits").glob("*.json"))
    left, steps_left = [], fit_cost.steps_left
    monkeypatch.setattr(fit_cost, "steps_left", lambda *a: left.append(steps_left(*a)) or left[-1])
    nope(*HEAD, "plan=true")
    assert set(left) == {3}
    nope(*HEAD)
    assert asked == [0, 1, 2, 3, 4, 5, 5, 6, 7]
    assert scales_in(nope.run) == whole
    assert [path.suffix for path in sorted((nope.run / "fits").glob("[!.]*"))] == [".json", ".npz"]


def test_two_processes_do_not_fit_twice(nope, monkeypatch):
    """While this one waits for the lock, another one fits."""
    lock, fitted = fits.one_at_a_time, []

    @contextlib.contextmanager
    def after_another(folder):
        if not fitted:
            fitted.append("elsewhere")
            nope(*HEAD)
            monkeypatch.setattr(HeadScale, "fit", None)
        with lock(folder):
            yield

    monkeypatch.setattr(fits, "one_at_a_time", after_another)
    assert all(row["status"] == "ok" for row in nope(*HEAD).values())


def test_a_fit_changes_nothing_but_the_scales(nope, monkeypatch):
    """No weight, and none has a gradient; afterwards all want one as before."""
    seen, fit = [], HeadScale.fit

    def watched(self, scales, loss, begun):
        first = loss(0)
        first.backward()
        model = scales_model[0]
        seen.append({n for n, p in model.named_parameters() if p.grad is not None})
        scales.grad = None
        yield from fit(self, scales, loss, begun)

    scales_model: list[Transformer] = []
    make_loss = fits.make_loss

    def kept(one, model):
        scales_model.append(model)
        return make_loss(one, model)

    monkeypatch.setattr(HeadScale, "fit", watched)
    monkeypatch.setattr(fits, "make_loss", kept)
    before = nope("extension=[none]")
    after = nope(*HEAD)
    assert seen == [{"positions.0.scales"}]
    names = {n: p.requires_grad for n, p in scales_model[0].named_parameters()}
    assert [n for n, wants in names.items() if not wants] == ["positions.0.scales"]
    assert after["none", 32]["nll"] == before["none", 32]["nll"]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_it_is_fitted_on_windows_of_the_split(split, nope, monkeypatch, texts):
    read: list[bytes] = []
    loss = Transformer.loss

    def watched(self, tokens, targets, attend):
        read.extend(bytes(row) for row in torch.cat([tokens, targets[:, -1:]], dim=1).tolist())
        return loss(self, tokens, targets, attend)

    monkeypatch.setattr(Transformer, "loss", watched)
    text = "extension.fitted_scale.text=" + split
    rows = nope("extension=[fitted_scale]", "extension.fitted_scale.fit_len=20", text,
                "extension.fitted_scale.most=0.9")  # fmt: skip
    assert {name for name, _ in rows} == {f"fitted_scale-most=0.9 (fitted at 20 on {split})"}
    own = [path.read_bytes() for path in (texts / split).glob("*.txt")]
    assert len(read) == 2 * 32 and {len(window) for window in read} == {21}
    assert all(any(window in text for text in own) for window in read)
    assert read[:32] == read[32:] and len(set(read)) == 32, "the same windows for each constant"


def test_each_length_has_its_own_fit_where_asked(nope):
    rows = nope(*HEAD, "extension.head_scale.fit_len=length")
    label = "head_scale-steps=8-lr=0.3 (fitted at each length on train)"
    assert all(rows[label, length]["status"] == "ok" for length in (16, 32))
    assert len(list((nope.run / "fits").glob("*.npz"))) == 2


def test_a_plan_fits_nothing(nope):
    with contextlib.suppress(FileNotFoundError):  # there is no results.csv to read
        nope(*HEAD, "plan=true")
    assert not (nope.run / "fits").exists()


def test_what_cannot_be_fitted_is_not_defined_with_the_reason(study, tmp_path, trained_once):
    """Texts that are too short; a scheme that scales its scores; losses that are no numbers."""
    words = "extension=[none,head_scale,fitted_scale]", "extension.fitted_scale.fit_len=90000"
    rows = study(*words, "lengths=[16]", "attention=[full]", "extension.head_scale.start=3e38",
                 "extension.head_scale.steps=3", "model=rope")  # fmt: skip
    assert [row["status"] for row in rows] == ["not defined", "not defined", "ok"]
    page = (study.folder / "results.md").read_text()
    assert (
        "fitted_scale is fitted on documents of 90001 tokens or more, the longest of the t" in page
    )
    assert "head_scale: its fit is not finite at step 1" in page


def test_an_untrained_model_does_not_take_the_fit_of_the_trained_one(nope, tmp_path):
    analyze(compose(
        "analyze", f"outputs={tmp_path}/outputs", "lengths=[16]", "attention=[full]", "texts=1",
        "instruments=[heads]", "states=[random,trained]", "device=cpu", "precision=float32",
        "extension=[head_scale]", "extension.head_scale.steps=2",
    ))  # fmt: skip
    results = read_newest(tmp_path / "outputs" / "default", ANALYSES)
    assert {r.state: r.reason for r in results} == {
        "trained": "",
        "random": "scales are fitted to trained models, this one is freshly initialised",
    }
    assert len(list((nope.run / "fits").glob("*.npz"))) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("head_scale.text=test", "text must be train or validation (what is scored is never"),
        ("head_scale.fit_len=1", "fit_len must be at least 2, got 1"),
        ("head_scale.fit_len=each", "fit_len must be null, length or a number, got 'each'"),
        (
            "head_scale.steps=0",
            "steps must be at least 1, lr above 0 and at most 1000, start above 0, ",
        ),
        ("head_scale.lr=1e38", "got 200, 1e+38 and 1.6"),
        ("head_scale.floor=2", "floor must be from 0 to start=1.6, got 2"),
        ("fitted_scale.most=0.5", "least must be above 0, most above least and by above 0"),
        ("fitted_scale.by=1e-6", "least, most and by give at most 1000 constants, got 32 and"),
    ],
)
def test_values_without_a_meaning_are_refused(words, said):
    name = words.partition(".")[0]
    line = refusal(check, "eval", f"extension=[{name}]", f"extension.{words}")
    assert f"extension.{name}" in line and said in line and "\n" not in line
