"""Perplexity by inference length: cells of (run, method, length), kept as soon as known.

A cell is a JSON row and, beside it, the losses of all its tokens (.npz), from which any other
average can be taken later. Failures are cells too; nothing is dropped.
"""

import io
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lexp import scoring
from lexp.attention import Attend, make_attend
from lexp.data import Tokens
from lexp.errors import NotDefined
from lexp.extension import Extension, Lengths, Sample
from lexp.files import digest, make_folder, write_bytes, write_json
from lexp.model import Transformer
from lexp.pattern import Full, Pattern, Trained
from lexp.position import Wrapper
from lexp.runtime import is_out_of_memory

OK, NOT_DEFINED, NOT_FINITE, OUT_OF_MEMORY = "ok", "not defined", "not finite", "out of memory"
# Raised whenever a change of the code changes numbers: cells of another version are not reused.
NUMERICS = 2
# Worth another try when the same command is given again: the machine may have changed.
RETRIED = (OUT_OF_MEMORY,)


@dataclass(frozen=True)
class Cell:
    """A row of results.csv. nll in nats per token, bpb in bits per byte, both over all targets.

    text: fingerprint of what was scored, 8 digits. variant: hash of the run's settings without
    the seed; cells of one variant and several seeds may be averaged.
    """

    run: str
    model: str
    size: str
    dataset: str
    seed: int
    train_len: int
    attention: str
    extension: str
    protocol: str
    length: int
    documents: int
    tokens: int
    nll: float
    ppl: float
    bpb: float
    seconds: float
    status: str
    tokenizer: str
    precision: str
    text: str
    variant: str

    @property
    def ok(self) -> bool:
        """Whether the numbers are numbers."""
        return self.status == OK


COLUMNS = tuple(field.name for field in fields(Cell))


@dataclass(frozen=True)
class Subject:
    """A trained model together with the text it is scored on.

    labels: the cell columns that are the run's and the text's. identity: digests of checkpoint,
    text and tokenizer, model settings, precision: a cell is computed again if any changes.
    sample: training texts. trained: the pattern of training.
    """

    folder: Path
    labels: dict[str, Any]
    identity: dict[str, Any]
    model: Transformer
    tokens: Tokens
    targets: scoring.Targets
    protocol: str
    autocast: AbstractContextManager
    sample: Sample
    trained: Pattern

    def fit(self, pattern: Pattern, length: int) -> Pattern:
        """A pattern with everything filled in for this model."""
        if isinstance(pattern, Trained):
            return self.trained
        return pattern.fit(self.labels["train_len"], length)


@dataclass(frozen=True)
class Method:
    """How a trained model is run: which keys are seen, and what is changed in its positions.

    longest: length of the evaluation, in tokens.
    """

    pattern: Pattern
    extension: Extension
    longest: int

    @property
    def label(self) -> str:
        """Both names, the extension's only where there is one."""
        plain = type(self.extension) is Extension
        return self.pattern.label + ("" if plain else f" {self.extension.label}")


def evaluate(
    subject: Subject,
    methods: list[Method],
    lengths: list[int],
    starting: Callable[[Method, int, Cell | None], None],
    advance: Callable[[int], None],
) -> Iterator[tuple[Cell, str]]:
    """Yield each cell with the reason of its failure (or ""), computing only what is missing.

    starting: told which cell comes next, and the cell itself if it was known already.
    advance: told of tokens scored.
    """
    for method in methods:
        for length in sorted(lengths):
            path = cell_path(subject, method, length)
            known = read_cell(path)
            if known and known[0].status in RETRIED:
                known = None
            starting(method, length, known[0] if known else None)
            if known is None:
                known = _compute(subject, method, length, path, advance)
            yield known


def cell_path(subject: Subject, method: Method, length: int) -> Path:
    """Where a cell is kept: a readable name, and a hash of all it depends on."""
    identity: dict[str, Any] = {
        **subject.identity,
        "numerics": NUMERICS,
        "pattern": repr(subject.fit(method.pattern, length)),
        "protocol": subject.protocol,
        "documents": list(subject.targets.documents),
        "length": length,
    }
    if type(method.extension) is not Extension:
        identity |= {"extension": repr(method.extension), "longest": method.longest}
    stem = f"{method.label}-{subject.protocol}-{length}-{digest(identity)[:8]}".replace(" ", "-")
    return subject.folder / "eval" / f"{stem}.json"


def read_cell(path: Path) -> tuple[Cell, str] | None:
    """A cell and its reason from where it is kept; None if there is none."""
    try:
        stored = json.loads(path.read_text())
        reason = stored.pop("reason")
        numbers = {key: float(stored[key]) for key in ("nll", "ppl", "bpb")}
        return Cell(**{**stored, **numbers}), reason
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _compute(
    subject: Subject, method: Method, length: int, path: Path, advance: Callable[[int], None]
) -> tuple[Cell, str]:
    started = time.perf_counter()
    losses, status, reason = _score(subject, method, length, advance)
    seconds = time.perf_counter() - started
    nll = ppl = bpb = math.nan
    if losses is not None:
        sums = scoring.total(losses, subject.targets)
        nll, ppl, bpb = sums.nll, sums.ppl, sums.bits_per_byte
        if not math.isfinite(nll):
            status = NOT_FINITE
            first = int(np.flatnonzero(~np.isfinite(losses).all(axis=0))[0])
            reason = f"first at position {first % length} of a window"
    cell = Cell(
        **subject.labels,
        attention=method.pattern.label,
        extension=method.extension.label,
        protocol=subject.protocol,
        length=length,
        documents=len(subject.targets.documents),
        tokens=len(subject.targets.documents) * subject.targets.n_tokens,
        nll=nll,
        ppl=ppl,
        bpb=bpb,
        seconds=round(seconds, 3),
        status=status,
    )
    make_folder(path.parent)
    if losses is not None:
        _write_losses(path.with_suffix(".npz"), losses, subject, length)
    row = asdict(cell)
    for key in ("nll", "ppl", "bpb"):
        if not math.isfinite(row[key]):
            row[key] = str(row[key])  # JSON has no inf and nan; float() reads the text back
    write_json(path, {**row, "reason": reason})
    return cell, reason


def _score(
    subject: Subject, method: Method, length: int, advance: Callable[[int], None]
) -> tuple[np.ndarray | None, str, str]:
    """Losses, status and reason of a cell."""
    n_tokens = len(subject.targets.documents) * subject.targets.n_tokens
    device = next(subject.model.parameters()).device
    message = None
    try:
        model, attend_at = prepare(subject, method, length)
        losses = scoring.score(
            model, subject.tokens, subject.targets, length, attend_at, subject.autocast, advance
        )
        return losses, OK, ""
    except NotDefined as error:
        advance(n_tokens)
        return None, NOT_DEFINED, str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
    # Outside the except block: the exception's frames would keep the tensors alive.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None, OUT_OF_MEMORY, message


def prepare(
    subject: Subject, method: Method, length: int
) -> tuple[Transformer, Callable[[int], Attend]]:
    """The model as a method runs it at a length, and attention for windows of any size up to it.

    NotDefined with the reason if the method has no meaning there.
    """
    lengths = Lengths(subject.labels["train_len"], length, method.longest)
    model = method.extension.extend(subject.model, lengths, subject.sample)
    pattern = subject.fit(method.pattern, length)
    if method.extension.full_only and not isinstance(pattern, Full):
        raise NotDefined(f"{method.extension.name} is measured under full attention")
    refuse_beyond(model, length)
    device = next(model.parameters()).device
    return model, lambda size: make_attend(pattern, size, model.schemes, device)


def refuse_beyond(model: Transformer, length: int) -> None:
    """NotDefined if a scheme of the model ends before this length."""
    for position in model.schemes:
        if position.max_len is not None and length > position.max_len:
            while isinstance(position, Wrapper):
                position = position.inner  # the one that ends
            raise NotDefined(f"{type(position).__name__} ends at {position.max_len} tokens")


def _write_losses(path: Path, losses: np.ndarray, subject: Subject, length: int) -> None:
    """losses [documents, tokens] in nats; token t of a row has (t mod length) + 1 of context."""
    buffer = io.BytesIO()
    names = [subject.tokens.names[d] for d in subject.targets.documents]
    np.savez_compressed(buffer, losses=losses, documents=np.array(names), length=length)
    write_bytes(path, buffer.getvalue())
