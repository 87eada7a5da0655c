"""Fits of extensions: made once for a model, a text and a length, and kept in the run's folder.

    outputs/<study>/<run>/fits/<extension>-<digest>.json   what was fitted, on what
                                                   .npz    scales [L, H], losses of the steps

A fit is computed before the results that need it, by one process at a time; one that is
interrupted goes on where it was. Everything but the scales is frozen.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lexp.data.reading import DocumentBatches
from lexp.evaluate.model_under_test import FitText, Method, ModelUnderTest
from lexp.evaluate.partial_progress import PartialFile
from lexp.extension import Fitted, Lengths, scales_of
from lexp.extension.fitted import BATCH, FitLoss
from lexp.model.transformer import Transformer
from lexp.result_store import (
    NOT_FINITE,
    OK,
    Component,
    Result,
    ResultKind,
    Spec,
    component_of,
    component_spec,
    find,
    path_of,
    write,
)
from lexp.runs.locks import one_at_a_time
from lexp.system.errors import NotDefined
from lexp.training.objective import CausalLM

SEED = 0


@dataclass(frozen=True)
class FitResult(Result):
    """What was fitted. fit_len: in tokens; text: the split. arrays: scales [L, H], losses."""

    extension: Component
    fit_len: int
    text: str
    seconds: float


FITS = ResultKind(name="fit", folder="fits", numerics=1, result=FitResult)


@dataclass(frozen=True)
class Fit:
    """A fit of a model: by an extension, on windows of a text, under a pattern."""

    tested: ModelUnderTest
    method: Method
    extension: Fitted
    length: int
    text: FitText

    @property
    def spec(self) -> Spec[FitResult]:
        """Return what the scales depend on; that is not the text that is scored."""
        fields = {
            "model_under_test": replace(self.tested.identity, text=self.text.fingerprint),
            "pattern": component_spec(self.tested.fit(self.method.pattern, self.length)),
            "extension": component_spec(self.extension),
            "length": self.length,
        }
        return Spec(FITS, f"{self.method.pattern.label}-{self.extension.name}", fields)


def find_or_fit(tested: ModelUnderTest, method: Method, length: int, model: Transformer) -> None:
    """Give a model that a fitted extension has extended its scales; NotDefined if there are none.

    length: of the texts that it then reads.
    """
    for _ in fit_steps(tested, method, length, model):
        pass


def fit_steps(
    tested: ModelUnderTest, method: Method, length: int, model: Transformer
) -> Iterator[str]:
    """Do the same; yield before each step of a fit that is not stored what it is, in words."""
    fit = make_fit(tested, method, length)
    folder = tested.folder
    if (stored := find(folder, fit.spec)) is None:
        # Another process may have fitted meanwhile.
        with one_at_a_time(folder / FITS.folder):
            if (stored := find(folder, fit.spec)) is None:
                yield from _compute(fit, model)
                stored = find(folder, fit.spec)
    assert stored is not None and stored.arrays is not None, "written just now"
    if not stored.ok:
        raise NotDefined(f"{fit.extension.name}: {stored.reason}")
    scales = scales_of(model)
    scales.data.copy_(torch.from_numpy(stored.arrays.load()["scales"])[..., None])
    scales.requires_grad_(False)


def make_fit(tested: ModelUnderTest, method: Method, length: int) -> Fit:
    """Return a method's fit; NotDefined if the model or its text allow of none."""
    extension = method.extension
    assert isinstance(extension, Fitted), "others have nothing to fit"
    if type(tested.objective) is not CausalLM:
        raise NotDefined(f"{extension.name} is fitted to next-token losses; this run has others")
    fit_len = extension.length_of_fit(Lengths(tested.run.train_len, length, method.longest))
    text = tested.fit_text("train" if extension.text == "train" else "validation")
    longest = int(text.tokens.lengths.max(initial=0))
    if longest <= fit_len:
        raise NotDefined(
            f"{extension.name} is fitted on documents of {fit_len + 1} tokens or more, the longest "
            f"of the {extension.text} split has {longest}"
        )
    return Fit(tested, method, replace(extension, fit_len=fit_len), fit_len, text)


def steps_left(fit: Fit, model: Transformer) -> int:
    """Return how many steps of a fit are still to be made, 0 if it is stored.

    NotDefined if it is stored and failed.
    """
    stored = find(fit.tested.folder, fit.spec, read_arrays=False)
    if stored is None:
        begun = _partial_file(fit, model).load()
        return fit.extension.n_steps - (begun[1] if begun else 0)
    if not stored.ok:
        raise NotDefined(f"{fit.extension.name}: {stored.reason}")
    return 0


def _partial_file(fit: Fit, model: Transformer) -> PartialFile:
    path = path_of(fit.tested.folder, fit.spec).with_suffix(".part")
    return PartialFile(path, fit.spec.digest, fit.extension.n_numbers(scales_of(model)))


def _compute(fit: Fit, model: Transformer) -> Iterator[str]:
    """Fit the scales of a model and store them; yield before each step what it is, in words."""
    folder, extension = fit.tested.folder, fit.extension
    scales, n_steps = scales_of(model), extension.n_steps
    partial = _partial_file(fit, model)
    started, status, reason = time.perf_counter(), OK, ""
    begun = partial.load()
    numbers, n_done = begun or (np.zeros(n_steps, dtype=np.float32), 0)
    with frozen(model, scales):
        yield f"{extension.label}: step {n_done + 1} of {n_steps}"
        for numbers, n_done in extension.fit(scales, make_loss(fit, model), begun):
            if not np.isfinite(numbers).all():
                status, reason = NOT_FINITE, f"its fit is not finite at step {n_done}"
                break
            partial.save(numbers, n_done)
            if n_done < n_steps:
                yield f"{extension.label}: step {n_done + 1} of {n_steps}"
    result = FitResult(
        extension=component_of(extension),
        fit_len=fit.length,
        text=extension.text,
        seconds=round(time.perf_counter() - started, 3),
        status=status,
        reason=reason,
    )
    scaled = scales.detach().float().cpu().numpy()[..., 0]
    write(folder, fit.spec, result, {"scales": scaled, "losses": numbers[-n_steps:]})
    partial.remove()


def make_loss(fit: Fit, model: Transformer, n_rows: int = BATCH) -> FitLoss:
    """Return the mean loss in nats per token of a batch of n_rows windows, by its number."""
    tested, length = fit.tested, fit.length
    device = next(model.parameters()).device
    windows = DocumentBatches(fit.text.tokens, length, 1, SEED)
    pattern = tested.fit(fit.method.pattern, length)
    attend = tested.make_attend(pattern, length, model.schemes, device)

    def loss(number: int) -> Tensor:
        indices = range(number * n_rows, (number + 1) * n_rows)
        places = [divmod(index, windows.n_windows) for index in indices]
        tokens = torch.from_numpy(windows.windows(places, number).tokens).to(device)
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        with tested.autocast:
            nats = model.loss(inputs, targets, attend)
        return nats / targets.numel()

    return loss


@contextlib.contextmanager
def frozen(model: Transformer, scales: nn.Parameter) -> Iterator[None]:
    """Let no parameter but the scales have a gradient meanwhile."""
    wanted = [p for p in model.parameters() if p.requires_grad and p is not scales]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
