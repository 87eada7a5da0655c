"""A stored evaluation: one loss with everything that made it, and the losses of all tokens."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lexp.evaluate.model_under_test import LAST, Method, ModelUnderTest, RunInfo, model_spec
from lexp.evaluate.targets import EvalTargets, ScoredText
from lexp.extension import method_label
from lexp.result_store import (
    Component,
    Result,
    ResultKind,
    Spec,
    code_in_label,
    component_spec,
)
from lexp.scoring.losses import Losses, losses_from
from lexp.scoring.protocol import BOS, ProtocolInfo
from lexp.system.errors import DataError
from lexp.system.files import digest

COLUMNS = (
    "run", "model", "size", "dataset", "seed", "train_len", "attention", "extension", "protocol",
    "length", "documents", "tokens", "nll", "ppl", "bpb", "seconds", "status", "tokenizer",
    "precision", "text", "variant", "lost", "targets",
)  # fmt: skip
# Written only where checkpoints of several steps were scored, which it tells apart.
STEP = "step"
# The most that losses take in memory: for a token, for a document's name (a path), for the rest.
TOKEN_BYTES, NAME_BYTES, HEADER_BYTES = 32, 4 * 4096, 1 << 16


@dataclass(frozen=True)
class EvalResult(Result):
    """A model's loss under one protocol and method at one length.

    pattern, extension: as they were asked for. length, documents, tokens, scored: what was. nll: in
    nats per token; bpb: in bits per byte, both over all targets; NaN where there is none. step: of
    the checkpoint, LAST for the one that training ended with. arrays: see lexp.scoring.losses.
    """

    run: RunInfo
    pattern: Component
    extension: Component
    protocol: ProtocolInfo
    length: int
    documents: int
    tokens: int
    scored: ScoredText
    nll: float
    ppl: float
    bpb: float
    seconds: float
    step: int = LAST

    @property
    def method(self) -> str:
        """Return the name of the method in tables."""
        return method_label(self.pattern.label, self.extension.label)

    def losses(self) -> Losses:
        """Read the losses of all tokens; DataError if they are missing, damaged or others."""
        return self.__dict__.get("kept_losses") or self._read_losses()

    @cached_property
    def kept_losses(self) -> Losses:
        """Read the losses once and keep them in memory: tables read them several times."""
        return self._read_losses()

    def _read_losses(self) -> Losses:
        if self.arrays is None:
            raise DataError(f"{self.run.name}: a result of {self.protocol.label} without losses")
        most_bytes = self.tokens * TOKEN_BYTES + self.documents * NAME_BYTES + HEADER_BYTES
        losses = losses_from(self.arrays.load(most_bytes), self.arrays.path)
        found = len(losses.nats), losses.length, losses.protocol
        protocol = self.protocol.label.removesuffix(code_in_label(self.protocol))
        wanted = self.tokens, self.length, protocol
        if found != wanted or not _is_same_loss(losses.nll, self.nll):
            raise DataError(f"{self.arrays.path} has losses of another evaluation than its record")
        return losses

    def check_arrays(self) -> None:
        """Raise DataError if the losses are not those of this result."""
        if self.arrays is not None:
            self.losses()

    def row(self) -> dict[str, Any]:
        """Return the row of results.csv, the step included."""
        return {
            **self.run.row(), "attention": self.pattern.label,
            "extension": self.extension.label, "protocol": self.protocol.label,
            "length": self.length, "documents": self.documents, "tokens": self.tokens,
            "nll": self.nll, "ppl": self.ppl, "bpb": self.bpb, "seconds": self.seconds,
            "status": self.status, "lost": self.run.lost, "targets": self.scored.targets,
            STEP: self.step,
        }  # fmt: skip


EVALUATIONS = ResultKind(
    name="evaluation",
    folder="eval",
    numerics=3,
    key=(
        "run.name", "pattern.label", "extension.label", "protocol.label", "length", "run.text",
        "run.precision", "step", "pattern.code", "extension.code", "protocol.code", "weights",
        "scored.targets",
    ),
    result=EvalResult,
)  # fmt: skip


def _is_same_loss(a: float, b: float) -> bool:
    # Sums of float64 differ in their last bits between machines.
    return math.isclose(a, b, rel_tol=1e-9) or (math.isnan(a) and math.isnan(b))


def eval_spec(
    tested: ModelUnderTest, targets: EvalTargets, method: Method, length: int
) -> Spec[EvalResult]:
    """Return what an evaluation's numbers depend on."""
    fields = {
        **model_spec(tested, method, length),
        "protocol": component_spec(targets.protocol),
        "lengths_up_to": max(targets.lengths),
        "spans": digest(targets.spans),
        "bos": BOS,
    }
    return Spec(EVALUATIONS, f"{method.label}-{targets.label}-{length}", fields)
