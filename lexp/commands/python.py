"""The functions of `import lexp`: a run to score text with, a study's results, its picture."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from lexp.attention import make_attend
from lexp.commands.finetune import finetune_rows
from lexp.commands.hf_run import trained_external
from lexp.commands.load_runs import check_code, load_run_tokenizer, with_weights
from lexp.commands.run_parts import make_objective, training_pattern
from lexp.commands.select_runs import read_config, select_runs
from lexp.config.folders import choices_like
from lexp.config.settings import HfRunConfig, Node, TrainConfig
from lexp.config.yaml_file import read_yaml
from lexp.data import Tokens
from lexp.data.tokenizer import Tokenizer
from lexp.display.document import Chart
from lexp.display.heat_png import heat_map_figure
from lexp.display.png import chart_figure, own_style
from lexp.display.style import CurveStyles
from lexp.evaluate import LAST, Method, methods_for, under_method
from lexp.extension import Extension, Fitted, Lengths
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.report import results_picture
from lexp.report.results import (
    StoredRows,
    evaluation_rows,
    harness_rows,
    probe_rows,
    stored_evaluations,
    task_rows,
)
from lexp.runs.find import find_runs, finished_run
from lexp.runs.run import LEXP, Run, run_notes
from lexp.scoring.protocol import Segments, Span
from lexp.system import runtime
from lexp.system.errors import ConfigError, DataError, NotDefined, actionable, first_line
from lexp.system.files import config_folder
from lexp.system.links import real_folder
from lexp.training.finetune_result import COLUMNS as FINETUNE_COLUMNS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

T = TypeVar("T", Pattern, Extension)
# What is stored, by the kind that `results` is asked for.
KINDS: dict[str, Callable[[Path], StoredRows]] = {
    "eval": evaluation_rows,
    "tasks": task_rows,
    "probes": probe_rows,
    "harness": harness_rows,
    "finetune": lambda study: StoredRows(list(FINETUNE_COLUMNS), finetune_rows(study)),
}


@dataclass(frozen=True)
class LoadedRun:
    """A finished run with its weights.

    config: the settings it was trained with; `config.raw` has them as plain values. precision:
    float32 or bfloat16, of matrix products.
    """

    folder: Path
    config: TrainConfig | HfRunConfig
    model: Transformer
    tokenizer: Tokenizer
    precision: str

    def score(
        self,
        text: str,
        attention: str | Pattern = "full",
        length: int | None = None,
        extension: str | Extension = "none",
    ) -> np.ndarray:
        """Return the loss in nats of each token of a text from the second on, float32 [n - 1].

        The numbers are those of `lexp eval protocol=[segments]`: no token is put in front.
        attention, extension: choices of these names, or objects of lexp.pattern and lexp.extension.
        length: tokens of a window, the last of which may be shorter; None for one window. The
        factor of an extension follows from it. ConfigError for what is not defined for this run.
        """
        method_pattern = _part("attention", attention, Pattern)
        method_extension = _part("extension", extension, Extension)
        if isinstance(method_extension, Fitted):
            raise NotDefined(f"{method_extension.name} is fitted to texts; use lexp eval")
        tokens = self._tokens(text)
        n_targets = len(tokens.ids) - 1
        if n_targets < 1:
            return np.zeros(0, dtype=np.float32)
        length = n_targets if length is None else length
        if not isinstance(length, int | np.integer) or length < 1:
            raise ConfigError(f"length={length}: a whole number from 1 on, or None for one window")
        length = int(length)
        trained = training_pattern(self.config)
        (method,) = methods_for(trained, [Method(method_pattern, method_extension, length)])
        lengths = Lengths(self.config.train_len, length, length)
        model, pattern = under_method(
            self.model, trained, method, lengths, _no_sample, self._extended
        )
        protocol, objective = Segments(), make_objective(self.config)
        autocast = runtime.autocast(self.precision, self.device)
        scorer = objective.scorer(model, pattern, autocast, protocol, make_attend)
        return scorer.score(tokens, list(protocol.windows(Span(0, 1, n_targets), length)))

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return next(self.model.parameters()).device

    def _tokens(self, text: str) -> Tokens:
        if not isinstance(text, str):
            raise DataError(f"the text is of type {type(text).__name__}; give a str")
        try:
            (encoded,) = self.tokenizer.encode([text])
        except UnicodeEncodeError as error:
            raise DataError(f"the text is no text in UTF-8: {first_line(error)}") from None
        n_rows = self.model.embedding.num_embeddings
        if len(encoded.ids) and int(encoded.ids.max()) >= n_rows:
            raise DataError(
                f"the text has token id {int(encoded.ids.max())}, the model has {n_rows} rows"
            )
        return Tokens(("text",), encoded.ids, np.array([0, len(encoded.ids)]), encoded.n_bytes)

    @property
    def _extended(self) -> str:
        """Return the name of the extension that it was trained with; "" without one."""
        config = self.config
        if isinstance(config, HfRunConfig) or config.extended_from is None:
            return ""
        return next(iter(config.extension))


@contextmanager
def _as_in_commands() -> Iterator[None]:
    """Raise what the disk refuses as the LexpError that a command prints."""
    try:
        yield
    except OSError as error:
        raise actionable(error) or error from error


@_as_in_commands()
def load(run: str | Path, device: str = "auto", precision: str = "auto") -> LoadedRun:
    """Return a finished run by its folder: model, tokenizer, settings.

    device: auto, cpu, cuda or mps. precision: auto (as `lexp eval` has it), float32 or bfloat16.
    LexpError says what is wrong with the folder, such as CheckpointError for damaged weights.
    """
    found = finished_run("run", str(_folder("run", run)))
    config = read_config(found)
    check_code(found, config)
    if precision not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"precision={precision} (one of auto, float32, bfloat16)")
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"device={device} (one of auto, cpu, cuda, mps)")
    on = runtime.choose_device(device)
    tokenizer = load_run_tokenizer(found)
    if isinstance(config, HfRunConfig):
        model = trained_external(found, config)
    else:
        model, _ = with_weights(found, config, tokenizer)
    chosen = runtime.choose_precision(precision, on)
    return LoadedRun(found.folder, config, model.to(on).eval(), tokenizer, chosen)


@_as_in_commands()
def results(study: str | Path, kind: str = "eval") -> "DataFrame":
    """Return every stored result of a study's runs, one per row, failures included.

    kind: eval, tasks, probes, harness or finetune. The columns are those of the study's CSV file:
    results.csv, tasks.csv, probes.csv, harness.csv and finetune.csv.
    """
    from pandas import DataFrame

    folder = _study(study)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"kind={kind} (one of {', '.join(KINDS)})")
    columns, rows = KINDS[kind](folder)
    return DataFrame(rows, columns=columns)


@_as_in_commands()
def figure(
    study: str | Path, protocol: str | None = None, model: str | list[str] | None = None
) -> "Figure":
    """Return the picture of perplexity by length, results.png of `lexp eval`, as matplotlib's.

    protocol: its label, such as segments-2048; needed where a study has results of several. model:
    only runs of these models.
    """
    folder = _study(study)
    if not (model is None or isinstance(model, str | list | tuple)):
        raise ConfigError(f"model={model}: a name or a list of names")
    names = model if model is None or isinstance(model, str) else tuple(map(str, model))
    runs: list[Run] = select_runs(folder, names)
    chosen = {run.name for run in runs}
    evaluations = [r for r in stored_evaluations(folder) if r.run.name in chosen]
    labels = sorted({result.protocol.label for result in evaluations})
    if protocol is None and len(labels) == 1:
        (protocol,) = labels
    if not labels:
        raise ConfigError(f"{folder}: no results of these runs; run `lexp eval` first")
    if protocol not in labels:
        raise ConfigError(f"protocol={protocol}: {folder} has results of {', '.join(labels)}")
    same = [result for result in evaluations if result.protocol.label == protocol]
    last = [result for result in same if result.step == LAST] or same
    notes = run_notes(runs)
    by_variant = {result.run.variant: notes[result.run.name] for result in last}
    trained = [run for run in runs if run.kind == LEXP]
    budgets = [int(run.settings["tokens"]) for run in trained]
    picture = results_picture(last, by_variant, budgets)
    with own_style():
        if isinstance(picture, Chart):
            return chart_figure(picture, CurveStyles.of([picture]))
        return heat_map_figure(picture)


def _study(folder: str | Path) -> Path:
    """Return the folder of a study; ConfigError if no run is in it."""
    study = real_folder(_folder("study", folder))
    find_runs(study)
    return study


def _folder(key: str, folder: str | Path) -> Path:
    """Return the path that a caller gives; ConfigError for a value that is none."""
    if not isinstance(folder, str | os.PathLike) or "\0" in (path := os.fsdecode(folder)):
        raise ConfigError(f"{key}={folder!r}: expected the path of a folder")
    return Path(path)


def _part(group: str, choice: str | T, kind: type[T]) -> T:
    """Return a choice of a config group by its name, or an object as it is."""
    if isinstance(choice, kind):
        return choice
    names = choices_like(group, "*")
    if choice not in names:
        raise ConfigError(f"{group}={choice} (one of {', '.join(names)})")
    values: Any = read_yaml(config_folder() / group / f"{choice}.yaml")
    return Node(values[str(choice)]).build(kind, f"{group}.{choice}")


def _no_sample(n: int, length: int) -> torch.Tensor:
    raise NotDefined("this extension reads training texts; use lexp eval")
