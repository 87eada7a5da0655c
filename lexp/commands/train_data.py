"""What a run is trained on: batches and validation, of texts or of a task."""

from dataclasses import dataclass
from typing import Any

from lexp.commands.run_parts import make_objective, make_task
from lexp.commands.texts import TrainingTexts, text_digests
from lexp.commands.train_reading import make_reading
from lexp.config.settings import TrainConfig
from lexp.data import Corpus, Store
from lexp.data.corpus import Split
from lexp.data.reading import Reading
from lexp.data.remarks import remarks
from lexp.data.tasks.dataset import TaskDataset
from lexp.data.text import TextFiles
from lexp.data.tokenizer import Bytes, Tokenizer
from lexp.distributed import SingleProcess
from lexp.system.errors import ConfigError, DataError
from lexp.training.batches import (
    BatchSource,
    GrowingBatches,
    PackedTaskBatches,
    TaskBatches,
    TextBatches,
)
from lexp.training.validation import TaskValidation, TextValidation, Validation, validation_spans

# The splits that training reads.
NEEDED: tuple[Split, ...] = ("train", "validation")


@dataclass(frozen=True)
class TrainingData:
    """The data of a run. digests: what its config.json keeps of it. notes: said at the start."""

    tokenizer: Tokenizer
    batches: BatchSource
    validation: Validation
    digests: dict[str, Any]
    notes: tuple[str, ...]


def open_training_data(
    settings: TrainConfig, texts: TrainingTexts, group: SingleProcess
) -> TrainingData:
    """Return what a run is trained on; texts are tokenised at their first use, on rank 0."""
    reading = make_reading(settings)
    if task := make_task(settings.dataset):
        return _of_task(settings, task, _task_batches(settings, task, reading, group))
    named = settings.dataset, settings.tokenizer, settings.cache, reading.needs_end
    corpus, store = group.after_rank_0(lambda: texts.load(*named))
    objective, tokenizer = make_objective(settings), store.tokenizer
    for split in NEEDED:
        if not store.splits[split].names:
            raise DataError(_missing(settings.dataset.name, split))
    sources = []
    for length in settings.lengths:
        sizes = length, settings.batch_tokens // length, settings.seed
        windows = reading.batches(store.splits["train"], tokenizer.end, *sizes)
        sources.append(TextBatches(windows, objective, settings.seed, tokenizer.vocab_size))
    return TrainingData(
        tokenizer=tokenizer,
        batches=GrowingBatches(tuple(sources), settings.n_steps) if sources[1:] else sources[0],
        validation=_of_text(settings, store),
        digests=text_digests(corpus, store),
        notes=(*corpus.notes(), *remarks(store, settings.tokenizer.name)),
    )


def refuse_unnamed(corpus: Corpus, name: str) -> None:
    """Raise ConfigError for files of the user's own of which a split was not named.

    It is known before any text is read. name: of the data set.
    """
    if isinstance(corpus, TextFiles) and not corpus.globs["path"]:
        for split in NEEDED:
            if not corpus.globs[split]:
                raise ConfigError(_missing(name, split))


def _missing(name: str, split: str) -> str:
    return (
        f"dataset={name} has no documents for {split}; set dataset.{split}=FOLDER, or only "
        "dataset.path=FOLDER, which is split"
    )


def _of_text(settings: TrainConfig, store: Store) -> TextValidation:
    objective, tokens = make_objective(settings), store.splits["validation"]
    train_len, max_tokens = settings.train_len, settings.eval_tokens
    try:
        spans = validation_spans(objective.protocol, tokens, train_len, max_tokens)
    except DataError as error:
        raise DataError(f"validation split: {error}") from None
    return TextValidation(objective, tokens, spans, train_len)


def _task_batches(
    settings: TrainConfig, task: TaskDataset, reading: Reading, group: SingleProcess
) -> TaskBatches:
    sizes = task, batch_size(settings), settings.seed, settings.n_steps
    if reading.within_documents:
        return PackedTaskBatches(*sizes, n_parts=settings.accumulation * group.size)
    return TaskBatches(*sizes)


def _of_task(settings: TrainConfig, task: TaskDataset, batches: TaskBatches) -> TrainingData:
    tokenizer = Bytes()
    return TrainingData(
        tokenizer=tokenizer,
        batches=batches,
        validation=TaskValidation.of(task, settings.eval_tokens, settings.seed),
        digests={
            "fingerprint": task.fingerprint(),
            "commit": None,
            "tokenizer": tokenizer.digest,
            "vocab_size": tokenizer.vocab_size,
        },
        notes=tuple(task.notes()),
    )


def batch_size(settings: TrainConfig) -> int:
    """Return the rows of an optimiser step."""
    return settings.batch_tokens // settings.train_len
