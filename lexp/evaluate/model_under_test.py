"""The model under test: a trained model with its text, and the methods by which it is run."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lexp.attention import MakeAttend, make_attend
from lexp.data import Tokens
from lexp.data.corpus import Split
from lexp.data.lost_text import MOST_LOST
from lexp.data.tokenizer import Tokenizer
from lexp.extension import Extension, Sample, method_label
from lexp.model.transformer import Transformer
from lexp.pattern import Full, Pattern, Trained, is_replaceable, replaced
from lexp.result_store import component_spec
from lexp.system.errors import NotDefined
from lexp.training.objective import CausalLM, Objective

# The step of a run's last checkpoint, whichever it was.
LAST = -1


@dataclass(frozen=True)
class RunInfo:
    """The facts that tables show of a run and of the text that it is scored on.

    name: of its folder. text: fingerprint of the text, 8 digits. variant: hash of the run's
    settings without the seed; results of one variant and several seeds may be averaged. vocabulary:
    digest of the tokenizer, 8 digits. lost: share of the text's bytes that its tokens cannot give
    back. source: globs or name of the text, as they were typed.
    """

    name: str
    model: str
    size: str
    dataset: str
    seed: int
    train_len: int
    tokenizer: str
    precision: str
    text: str
    variant: str
    vocabulary: str
    lost: float = 0.0
    source: str = ""

    @property
    def text_name(self) -> str:
        """Return the data set, what of it was read, and the fingerprint that tells texts apart."""
        if not self.source:
            return f"{self.dataset} {self.text}"
        return f"{self.dataset} {self.source} ({self.text})"

    def row(self) -> dict[str, Any]:
        """Return the columns that the CSV files of all kinds of results share."""
        return {
            "run": self.name, "model": self.model, "size": self.size, "dataset": self.dataset,
            "seed": self.seed, "train_len": self.train_len, "tokenizer": self.tokenizer,
            "precision": self.precision, "text": self.text, "variant": self.variant,
        }  # fmt: skip

    @property
    def is_lossy(self) -> bool:
        """Return True if bits per byte does not compare: bytes that nobody predicts count too."""
        return self.lost > MOST_LOST


def text_names(runs: Iterable[RunInfo]) -> dict[str, str]:
    """Return the name of each text by its fingerprint: one name, however its globs were spelt."""
    names: dict[str, str] = {}
    for run in runs:
        names.setdefault(run.text, run.text_name)
    return names


@dataclass(frozen=True)
class ModelIdentity:
    """The facts that all numbers of a model under test depend on.

    model, size: the run's settings, with those of the trunk in `model`. checkpoint, text,
    tokenizer: hex digests. code: of the user's own classes of model and objective, by target.
    """

    model: dict[str, Any]
    size: dict[str, Any]
    checkpoint: str
    text: str
    tokenizer: str
    precision: str
    code: dict[str, str]


@dataclass(frozen=True)
class FitText:
    """A split that extensions are fitted on. fingerprint: of the texts that it is a split of."""

    tokens: Tokens
    fingerprint: str


def no_fit_text(split: Split) -> FitText:
    """Raise NotDefined: there are no texts to fit on."""
    raise NotDefined("there are no texts to fit on")


@dataclass(frozen=True)
class ModelUnderTest:
    """A trained model together with the text it is scored on.

    folder: of its run, where results are kept. sample: draws training texts. trained: the pattern
    of training. step: of the checkpoint, LAST for the one that training ended with. objective: what
    the model was trained to predict. make_attend: the backend of attention. sampled: fingerprint of
    the training texts, "" where they are those that are scored or nobody knows them. extended: name
    of the extension that the model was trained with, "" without one. fit_text: opens a split that
    extensions are fitted on; NotDefined if there is none. tokenizer: of texts; None for a task.
    """

    folder: Path
    run: RunInfo
    identity: ModelIdentity
    model: Transformer
    tokens: Tokens
    autocast: AbstractContextManager
    sample: Sample
    trained: Pattern
    step: int = LAST
    objective: Objective = field(default_factory=CausalLM)
    make_attend: MakeAttend = make_attend
    sampled: str = ""
    extended: str = ""
    fit_text: Callable[[Split], FitText] = no_fit_text
    tokenizer: Tokenizer | None = None

    def fit(self, pattern: Pattern, length: int) -> Pattern:
        """Return the model's pattern under a method, with all sizes filled in."""
        return replaced(self.trained, pattern.fit(self.run.train_len, length))


@dataclass(frozen=True)
class Method:
    """A way to run a trained model: an attention pattern, and an extension of its positions.

    longest: length of the evaluation, in tokens.
    """

    pattern: Pattern
    extension: Extension
    longest: int

    @property
    def label(self) -> str:
        """Return the name in tables: both names, the extension's only where there is one."""
        return method_label(self.pattern.label, self.extension.label)


def methods_for(trained: Pattern, asked: Sequence[Method]) -> tuple[Method, ...]:
    """Return the methods by which a model is run, of those that a command asks for.

    A model without full attention, such as a recurrent one, runs as it was trained in place of
    attention=[full]: the usual methods then give a number of every model.
    """
    if is_replaceable(trained):
        return tuple(asked)
    own = [replace(m, pattern=Trained()) if type(m.pattern) is Full else m for m in asked]
    return tuple(dict.fromkeys(own))


def model_spec(tested: ModelUnderTest, method: Method, length: int) -> dict[str, Any]:
    """Return what the numbers of a model under a method at a length depend on, for a Spec.

    Patterns are filled in: an open size and the same size given by hand are one spec. Of the
    evaluation's longest length, and on training texts, extensions alone depend.
    """
    is_extended = type(method.extension) is not Extension
    drawn_from = {"sampled": tested.sampled} if is_extended and tested.sampled else {}
    return {
        **drawn_from,
        "model_under_test": tested.identity,
        "pattern": component_spec(tested.fit(method.pattern, length)),
        "extension": component_spec(method.extension),
        "longest": method.longest if is_extended else None,
        "length": length,
    }
