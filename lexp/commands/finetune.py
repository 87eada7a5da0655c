"""`lexp finetune`."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from lexp.commands.load_runs import check_run
from lexp.commands.make_objects import make_model, training_pattern
from lexp.commands.select_checkpoints import final, is_external
from lexp.config.instantiate import build
from lexp.config.schema import plain
from lexp.config.validation import check_finetune
from lexp.data.corpus import Split
from lexp.data.labelled import LabelledDataset, LabelledExample, fingerprint
from lexp.data.tokenizer import Tokenizer, load_tokenizer
from lexp.model.classifier import Classifier, joined
from lexp.position import Position
from lexp.results import Spec, find, path_of, read_all, write, write_csv
from lexp.runs import checkpoint
from lexp.runs.locks import one_at_a_time
from lexp.runs.run import Run, versions
from lexp.statistics.scores import MEASURES
from lexp.system import runtime
from lexp.system.errors import CheckpointError, ConfigError, DataError, OutOfMemory
from lexp.training.finetune import FinetuneSettings, Task, finetune
from lexp.training.finetune_result import COLUMNS, FINETUNINGS, FinetuneResult
from lexp.training.optim import OptimSettings

SPLITS: tuple[Split, ...] = ("train", "validation")
# What the numbers do not depend on.
NOT_IDENTITY = ("run", "name", "outputs", "device")


def check(config: DictConfig) -> dict[str, Any]:
    """The settings as plain values; ConfigError before any work if one of them is not allowed."""
    settings = plain(config)
    check_finetune(settings)
    labelled = make_labelled(settings)
    unknown = sorted(set(labelled.measures) - set(MEASURES))
    if unknown:
        raise ConfigError(f"task.measures={unknown[0]} (one of {', '.join(MEASURES)})")
    _run(settings)
    return settings


def make_labelled(settings: dict[str, Any]) -> LabelledDataset:
    """The labelled texts that a task names."""
    return build(settings["task"], LabelledDataset, "task")


def finetune_(config: DictConfig) -> None:
    """Fine-tune one run on one task with one seed, unless that has been done."""
    settings = check(config)
    run, labelled = _run(settings), make_labelled(settings)
    runtime.prepare_process()
    device = runtime.choose_device(settings["device"])
    precision = runtime.choose_precision(settings["precision"], device)
    splits = {name: labelled.examples(name) for name in SPLITS}
    found = final(run)
    max_len = settings["max_len"] or run.settings["train_len"]
    tokenizer = load_tokenizer(run.folder)
    identity = {
        **{key: value for key, value in settings.items() if key not in NOT_IDENTITY},
        "max_len": max_len, "precision": precision, "checkpoint": found.model_sha256,
        "run_model": run.settings["model"], "run_size": run.settings["size"],
        "tokenizer": tokenizer.digest,
        "train": fingerprint(splits["train"]), "validation": fingerprint(splits["validation"]),
    }  # fmt: skip
    spec = Spec(FINETUNINGS, f"{settings['task']['name']}-s{settings['seed']}", identity)
    path = path_of(run.folder, spec)
    if find(run.folder, spec) is not None:
        print(f"{path} is there, nothing to do", file=sys.stderr)
    else:
        torch.manual_seed(settings["seed"])
        model = make_classifier(run, found, labelled.n_classes).to(device)
        task, n_cut = make_task(labelled, splits, tokenizer, model, max_len)
        print(
            f"{run.name}: {settings['task']['name']}, {len(task.train)} texts to learn from, "
            f"{len(task.held_out)} held out, {n_cut} cut to {max_len} tokens",
            file=sys.stderr,
        )
        history = _finetune(model, task, run, settings, runtime.autocast(precision, device))
        result = FinetuneResult(
            run=run.name,
            model=run.settings["model"]["name"],
            size=run.settings["size"]["name"],
            objective=run.settings["objective"]["name"],
            train_seed=run.settings["seed"],
            task=settings["task"]["name"],
            seed=settings["seed"],
            chance=chance(task),
            n_train=len(task.train),
            n_held_out=len(task.held_out),
            n_cut=n_cut,
            lr=settings["lr"],
            epochs=settings["epochs"],
            batch_size=settings["batch_size"],
            max_len=max_len,
            history=tuple(history),
            versions=versions(),
        )
        write(run.folder, spec, result)
    table = write_table(run.folder.parent)
    print(f"{path}, {table}", file=sys.stderr)


def _finetune(
    model: Classifier,
    task: Task,
    run: Run,
    settings: dict[str, Any],
    autocast: AbstractContextManager,
) -> list[dict[str, float]]:
    """Fine-tune; OutOfMemory, with what helps, in place of what torch says."""
    pattern, chosen = training_pattern(run.settings), finetune_settings(settings)
    history, _ = runtime.catch_out_of_memory(
        lambda: finetune(model, pattern, task, chosen, autocast, _say)
    )
    if history is None:
        raise OutOfMemory(
            f"fine-tuning does not fit; a smaller batch_size= needs less (now {chosen.batch_size})"
        )
    return history


def _run(settings: dict[str, Any]) -> Run:
    """The run to fine-tune; ConfigError if it is none that is finished, or not a masked model."""
    run = Run(Path(settings["run"]))
    if not run.is_done:
        raise ConfigError(f"run={run.folder}: not the folder of a finished run")
    check_run(run)
    if is_external(run) or not training_pattern(run.settings).two_sided:
        raise ConfigError(f"run={run.folder}: fine-tuning is for runs of objective=mlm")
    max_len = settings["max_len"] or run.settings["train_len"]
    position = build(run.settings["model"]["position"], Position, "model.position")
    for scheme in position.layers():
        if scheme.max_len is not None and max_len > scheme.max_len:
            raise ConfigError(f"max_len={max_len}: the run's positions end at {scheme.max_len}")
    return run


def make_classifier(run: Run, found: checkpoint.Checkpoint, n_classes: int) -> Classifier:
    """A run's model with its weights and a fresh head."""
    tokenizer = load_tokenizer(run.folder)
    if tokenizer.digest != run.config["data"]["tokenizer"]:
        raise CheckpointError(f"{run.folder}/tokenizer.json is not the one of training")
    trunk = make_model(run.settings, tokenizer.vocab_size)
    checkpoint.load_model(found, trunk)
    return Classifier(trunk, n_classes)


def make_task(
    labelled: LabelledDataset,
    splits: dict[Split, list[LabelledExample]],
    tokenizer: Tokenizer,
    model: Classifier,
    max_len: int,
) -> tuple[Task, int]:
    """Token ids and labels, and how many texts were cut; DataError for a text without tokens."""
    ids: dict[Split, list[list[int]]] = {}
    n_cut = 0
    for name, examples in splits.items():
        columns = [
            [encoded.ids.tolist() for encoded in tokenizer.encode([e.texts[c] for e in examples])]
            for c in range(len(labelled.columns))
        ]
        ids[name] = []
        for number, texts in enumerate(zip(*columns, strict=True)):
            if not any(texts):
                raise DataError(f"task.{name}: row {number} has no text")
            whole = sum(map(len, texts)) + len(texts) - 1
            ids[name].append(joined(list(texts), model.separator, max_len))
            n_cut += whole > max_len
    labels = {name: np.array([e.label for e in examples]) for name, examples in splits.items()}
    return Task(
        ids["train"], labels["train"], ids["validation"], labels["validation"],
        labelled.n_classes, tuple(labelled.measures),
    ), n_cut  # fmt: skip


def finetune_settings(settings: dict[str, Any]) -> FinetuneSettings:
    """AdamW, a linear schedule with a tenth of the steps to warm up, as BERT is fine-tuned."""
    optim = OptimSettings(
        lr=settings["lr"], beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=0.01, clip=1.0,
        schedule="linear", warmup=0.1, final=0.0, power=1.0,
    )  # fmt: skip
    return FinetuneSettings(settings["epochs"], settings["batch_size"], settings["seed"], optim)


def chance(task: Task) -> float:
    """Accuracy of always naming the commonest class of the held-out texts; 0 for numbers."""
    if task.n_classes == 1:
        return 0.0
    return float(np.bincount(task.held_out_labels.astype(int)).max() / len(task.held_out_labels))


def _say(epoch: int, measures: dict[str, float]) -> None:
    words = ", ".join(f"{name} {value:.3f}" for name, value in measures.items())
    print(f"epoch {epoch}: {words}", file=sys.stderr, flush=True)


def write_table(study: Path) -> Path:
    """Write finetune.csv: an epoch a row, of every fine-tuning of every run of a study."""
    path = study / "finetune.csv"
    with one_at_a_time(study):
        results = read_all(study, FINETUNINGS)
        rows = [row for result in results for row in result.rows()]
        write_csv(path, COLUMNS, rows, nan="nan")
    return path
