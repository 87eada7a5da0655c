"""What is evaluated: a trained model (Subject), on what (Exam), and how it is run (Method)."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lexp.attention import MakeAttend, make_attend, refuse_meaningless
from lexp.data import Tokens
from lexp.evaluate.cell import LAST
from lexp.extension import Extension, Lengths, Sample, method_label
from lexp.model.transformer import Transformer
from lexp.pattern import Full, Pattern, Trained
from lexp.position import Wrapper
from lexp.scoring.protocol import Protocol, Span, TextWindow
from lexp.system.errors import NotDefined
from lexp.system.files import digest
from lexp.training.objective import CausalLM, Objective, refuse_other_attention

# Raised whenever a change of the code changes numbers: cells of another version are not reused.
NUMERICS = 3


@dataclass(frozen=True)
class ModelUnderTest:
    """A trained model together with the text it is scored on.

    labels: the cell columns that are the run's and the text's. identity: digests of checkpoint,
    text and tokenizer, model settings, precision: a cell is computed again if any changes.
    sample: training texts. trained: the pattern of training. step: see Cell. objective: what the
    model was trained to say. make_attend: what computes attention.
    """

    folder: Path
    labels: dict[str, Any]
    identity: dict[str, Any]
    model: Transformer
    tokens: Tokens
    autocast: AbstractContextManager
    sample: Sample
    trained: Pattern
    step: int = LAST
    objective: Objective = field(default_factory=CausalLM)
    make_attend: MakeAttend = make_attend

    def fit(self, pattern: Pattern, length: int) -> Pattern:
        """A pattern with everything filled in for this model."""
        if isinstance(pattern, Trained):
            return self.trained
        return pattern.fit(self.labels["train_len"], length)


@dataclass(frozen=True)
class EvalTargets:
    """One protocol over one text: what is scored, at each of the lengths.

    protocol: with all its sizes filled in.
    """

    protocol: Protocol
    lengths: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def label(self) -> str:
        """The protocol's name and sizes: numbers of different labels are not compared."""
        return self.protocol.label(self.lengths)

    def windows(self, length: int) -> list[TextWindow]:
        """What the model reads at a length."""
        return [window for span in self.spans for window in self.protocol.windows(span, length)]

    def n_read(self, length: int) -> int:
        """Tokens that the model reads at a length; those scored are at most as many."""
        return sum(window.size for window in self.windows(length))


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
        return method_label(self.pattern.label, self.extension.label)


def cell_path(subject: ModelUnderTest, exam: EvalTargets, method: Method, length: int) -> Path:
    """Where a cell is kept: a readable name, and a hash of all it depends on."""
    identity: dict[str, Any] = {
        **subject.identity,
        "numerics": NUMERICS,
        "pattern": repr(subject.fit(method.pattern, length)),
        "protocol": exam.label,
        "spans": digest(exam.spans),
        "length": length,
    }
    if type(method.extension) is not Extension:
        identity |= {"extension": repr(method.extension), "longest": method.longest}
    stem = f"{method.label}-{exam.label}-{length}-{digest(identity)[:8]}".replace(" ", "-")
    return subject.folder / "eval" / f"{stem}.json"


def prepare(subject: ModelUnderTest, method: Method, length: int) -> tuple[Transformer, Pattern]:
    """The model as a method runs it at a length, and the pattern with its sizes.

    NotDefined with the reason if the method has no meaning there.
    """
    lengths = Lengths(subject.labels["train_len"], length, method.longest)
    model = method.extension.extend(subject.model, lengths, subject.sample)
    pattern = subject.fit(method.pattern, length)
    refuse_other_attention(subject.trained, pattern)
    if method.extension.full_only and not isinstance(pattern, Full):
        raise NotDefined(f"{method.extension.name} is measured under full attention")
    refuse_beyond(model, length)
    refuse_meaningless(pattern, model.schemes)
    return model, pattern


def refuse_beyond(model: Transformer, length: int) -> None:
    """NotDefined if a scheme of the model ends before this length."""
    for position in model.schemes:
        if position.max_len is not None and length > position.max_len:
            while isinstance(position, Wrapper):
                position = position.inner  # the one that ends
            raise NotDefined(f"{type(position).__name__} ends at {position.max_len} tokens")
