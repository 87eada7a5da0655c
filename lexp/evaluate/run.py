"""Perplexity by inference length: cells of (run, protocol, method, length), kept as soon as known.

A cell is a JSON row and, beside it, the losses of all its tokens (.npz, lexp.scoring.losses): any
other average can be taken later. Failures are cells too; nothing is dropped.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lexp.evaluate.cell import (
    NOT_DEFINED,
    NOT_FINITE,
    OK,
    OUT_OF_MEMORY,
    Cell,
    Result,
    known_cell,
    write_cell,
)
from lexp.evaluate.partial import PartialFile
from lexp.evaluate.subject import EvalTargets, Method, ModelUnderTest, cell_path, prepare
from lexp.scoring.losses import Losses, collect, read_losses
from lexp.scoring.memory import available_bytes, needed_bytes, spelled
from lexp.scoring.protocol import TextWindow
from lexp.scoring.scorer import Partial, Scorer
from lexp.system.errors import NotDefined, first_line
from lexp.system.files import make_folder
from lexp.system.runtime import is_out_of_memory

Starting = Callable[[EvalTargets, Method, int, Cell | None], None]
Advance = Callable[[int], None]


def evaluate(
    subject: ModelUnderTest,
    exam: EvalTargets,
    methods: list[Method],
    starting: Starting,
    advance: Advance,
) -> Iterator[Result]:
    """Yield each cell with the reason of its failure (or ""), computing only what is missing.

    Lengths ascend, so that what runs out of memory comes last. starting: told which cell comes
    next, and the cell itself if it was known already. advance: told of tokens read.
    """
    for method in methods:
        if exam.protocol.nested and not depends_on_length(subject, exam, method):
            yield from _nested(subject, exam, method, starting, advance)
            continue
        for length in sorted(exam.lengths):
            path = cell_path(subject, exam, method, length)
            known = known_cell(path)
            starting(exam, method, length, known[0] if known else None)
            yield known or _compute(subject, exam, method, length, path, advance)


def depends_on_length(subject: ModelUnderTest, exam: EvalTargets, method: Method) -> bool:
    """Whether a text's beginning is read otherwise when more of it follows."""
    patterns = {repr(subject.fit(method.pattern, length)) for length in exam.lengths}
    draws = any(position.samples_positions for position in subject.model.schemes)
    return len(patterns) > 1 or draws or method.extension.follows_length


def _nested(
    subject: ModelUnderTest, exam: EvalTargets, method: Method, starting: Starting, advance: Advance
) -> Iterator[Result]:
    """One pass at the longest length that succeeds gives the cells of all shorter ones."""
    results: dict[int, Result] = {}
    whole: Losses | None = None
    for length in sorted(exam.lengths, reverse=True):
        path = cell_path(subject, exam, method, length)
        known = known_cell(path)
        starting(exam, method, length, known[0] if known else None)
        if known is None and whole is not None:
            advance(exam.n_read(length))
            beginning = whole.only(whole.context <= length, length)
            known = _keep(subject, exam, method, length, path, Outcome(beginning, OK, "", 0.0))
        results[length] = known or _compute(subject, exam, method, length, path, advance)
        if whole is None and results[length][0].ok:
            whole = read_losses(path.with_suffix(".npz"))
    for length in sorted(results):
        yield results[length]


def _too_little_memory(scorer: Scorer, windows: list[TextWindow], precision: str) -> str:
    """Why a pass cannot fit, or "": the operating system kills a process rather than tell it."""
    free = available_bytes(scorer.device)
    size = max(piece.size for piece in scorer.pieces(windows))
    n_tokens = max(size, min(scorer.batch_tokens, size * len(windows)))
    item = 2 if precision == "bfloat16" else 4
    needed = needed_bytes(scorer.model, scorer.pattern, n_tokens, size, item)
    if free is None or needed <= free:
        return ""
    return f"needs about {spelled(needed)}, {spelled(free)} are free"


class Outcome(NamedTuple):
    """What came of a cell: losses, or none and why; seconds it took."""

    losses: Losses | None
    status: str
    reason: str
    seconds: float


def _compute(
    subject: ModelUnderTest,
    exam: EvalTargets,
    method: Method,
    length: int,
    path: Path,
    advance: Advance,
) -> Result:
    make_folder(path.parent)
    started = time.perf_counter()
    partial = PartialFile(path.with_suffix(".part"))
    losses, status, reason = _score(subject, exam, method, length, advance, partial)
    seconds = round(time.perf_counter() - started, 3)
    result = _keep(subject, exam, method, length, path, Outcome(losses, status, reason, seconds))
    partial.remove()
    return result


def _keep(
    subject: ModelUnderTest,
    exam: EvalTargets,
    method: Method,
    length: int,
    path: Path,
    outcome: Outcome,
) -> Result:
    """Write a cell's files, losses first; a loss that is not finite is a failure with its place."""
    losses, status, reason, seconds = outcome
    nll = ppl = bpb = math.nan
    if losses is not None:
        nll, ppl, bpb = losses.nll, losses.ppl, losses.bits_per_byte
        if not math.isfinite(nll):
            status = NOT_FINITE
            reason = f"first at context {losses.context[~np.isfinite(losses.nats)].min()}"
    cell = Cell(
        **subject.labels,
        attention=method.pattern.label,
        extension=method.extension.label,
        protocol=exam.label,
        length=length,
        documents=len({span.document for span in exam.spans}),
        tokens=sum(window.n_scored for window in exam.windows(length)),
        nll=nll,
        ppl=ppl,
        bpb=bpb,
        seconds=seconds,
        status=status,
        step=subject.step,
    )
    make_folder(path.parent)
    if losses is not None:
        losses.write(path.with_suffix(".npz"))
    write_cell(path, cell, reason)
    return cell, reason


def _score(
    subject: ModelUnderTest,
    exam: EvalTargets,
    method: Method,
    length: int,
    advance: Advance,
    partial: Partial,
) -> tuple[Losses | None, str, str]:
    """Losses, status and reason of a cell."""
    device = next(subject.model.parameters()).device
    message = None
    windows = exam.windows(length)
    try:
        model, pattern = prepare(subject, method, length)
        scorer = subject.objective.scorer(
            model, pattern, subject.autocast, exam.protocol, subject.make_attend
        )
        if short := _too_little_memory(scorer, windows, subject.labels["precision"]):
            advance(exam.n_read(length))
            return None, OUT_OF_MEMORY, short
        nats = scorer.score(subject.tokens, windows, advance, partial)
        context = exam.protocol.contexts(windows)
        return collect(subject.tokens, windows, context, nats, length, exam.label), OK, ""
    except NotDefined as error:
        advance(exam.n_read(length))
        return None, NOT_DEFINED, str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = first_line(error)
    # Outside the except block: the exception's frames would keep the tensors alive.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None, OUT_OF_MEMORY, message
