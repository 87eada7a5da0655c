"""The command `lexp finetune`."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from lexp.commands.load_runs import check_code, load_run_tokenizer, model_settings
from lexp.commands.run_parts import make_model, make_positions, training_pattern
from lexp.commands.select_runs import final_checkpoint, read_config
from lexp.config.settings import FinetuneConfig, TrainConfig
from lexp.config.validation import read_finetune
from lexp.data.corpus import Split
from lexp.data.labelled import LabelledDataset, LabelledExample, common_texts, fingerprint
from lexp.data.tokenizer import Tokenizer
from lexp.evaluate import LAST
from lexp.model.classifier import Classifier, joined
from lexp.report.weights import of_present_weights
from lexp.result_store import Spec, find, path_of, read_all, write, write_csv
from lexp.runs import checkpoint
from lexp.runs.find import finished_run
from lexp.runs.locks import one_at_a_time, refuse_without_locks
from lexp.runs.run import Run, versions
from lexp.statistics.scores import MEASURES
from lexp.system import runtime
from lexp.system.errors import ConfigError, DataError, OutOfMemory
from lexp.system.files import clean
from lexp.system.output import say
from lexp.system.text import counted
from lexp.training.finetune import FinetuneSettings, LabelledSplits, finetune
from lexp.training.finetune_result import COLUMNS, FINETUNINGS, FinetuneResult
from lexp.training.optim import OptimSettings

SPLITS: tuple[Split, ...] = ("train", "validation")
# What the numbers do not depend on.
NOT_IDENTITY = ("run", "name", "outputs", "device")


@dataclass(frozen=True)
class FinetunePlan:
    """The plan of one fine-tuning: a run, a task, a seed. max_len: tokens read of a text."""

    config: FinetuneConfig
    run: Run
    run_config: TrainConfig
    labelled: LabelledDataset
    max_len: int


def check(config: DictConfig) -> FinetunePlan:
    """Return the plan; ConfigError before any work if a value is not allowed."""
    settings = read_finetune(config)
    labelled = settings.task.build(LabelledDataset, "task")
    unknown = sorted(set(labelled.measures) - set(MEASURES))
    if unknown:
        raise ConfigError(f"task.measures={unknown[0]} (one of {', '.join(MEASURES)})")
    run, run_config = _select_run(settings.run)
    max_len = settings.max_len or run_config.train_len
    for scheme in make_positions(run_config):
        if scheme.max_len is not None and max_len > scheme.max_len:
            raise ConfigError(f"max_len={max_len}: the run's positions end at {scheme.max_len}")
    return FinetunePlan(settings, run, run_config, labelled, max_len)


def _select_run(folder: str) -> tuple[Run, TrainConfig]:
    """Return the run to fine-tune and its settings; ConfigError if it is no finished masked one."""
    run = finished_run("run", folder)
    config = read_config(run)
    if not isinstance(config, TrainConfig) or not training_pattern(config).two_sided:
        raise ConfigError(f"run={run.folder}: fine-tuning is for runs of objective=mlm")
    return run, config


def finetune_(config: DictConfig) -> None:
    """Fine-tune one run on one task with one seed, unless that has been done."""
    plan = check(config)
    settings, run, run_config, max_len = plan.config, plan.run, plan.run_config, plan.max_len
    runtime.prepare_process()
    refuse_without_locks(run.folder.parent)
    device = runtime.choose_device(settings.device)
    precision = runtime.choose_precision(settings.precision, device)
    splits = {name: plan.labelled.examples(name) for name in SPLITS}
    say(*plan.labelled.notes(), *common_texts(splits["train"], splits["validation"]))
    latest = final_checkpoint(run)
    tokenizer = load_run_tokenizer(run)
    identity = {
        **{key: value for key, value in settings.raw.items() if key not in NOT_IDENTITY},
        "max_len": max_len, "precision": precision, "checkpoint": latest.model_sha256,
        "run_model": model_settings(run_config), "run_size": run_config.raw["size"],
        "tokenizer": tokenizer.digest,
        "code": check_code(run, run_config),
        "train": fingerprint(splits["train"]), "validation": fingerprint(splits["validation"]),
    }  # fmt: skip
    spec = Spec(FINETUNINGS, f"{settings.task.name}-s{settings.seed}", identity)
    path = path_of(run.folder, spec)
    if find(run.folder, spec) is not None:
        say(f"{path} is there, nothing to do")
    else:
        torch.manual_seed(settings.seed)
        trunk = make_model(run_config, tokenizer.vocab_size)
        checkpoint.load_model(latest, trunk)
        model = Classifier(trunk, plan.labelled.n_classes).to(device)
        task, n_cut = make_task(plan.labelled, splits, tokenizer, model, max_len)
        say(
            f"{run.name}: {settings.task.name}, {counted(len(task.train), 'text')} to learn from, "
            f"{len(task.held_out)} held out, {n_cut} cut to {max_len} tokens"
        )
        history = _finetune(model, task, plan, runtime.autocast(precision, device))
        write(run.folder, spec, _result(plan, task, n_cut, history))
    table = write_table(run.folder.parent)
    say(f"{path}, {table}")


def _result(
    plan: FinetunePlan, task: LabelledSplits, n_cut: int, history: list[dict[str, float]]
) -> FinetuneResult:
    """Return what is stored of a fine-tuning. n_cut: texts longer than max_len."""
    settings, run_config = plan.config, plan.run_config
    return FinetuneResult(
        run=plan.run.name,
        model=run_config.model.name,
        size=run_config.size.name,
        objective=run_config.objective.name,
        train_seed=run_config.seed,
        task=settings.task.name,
        seed=settings.seed,
        chance=chance(task),
        n_train=len(task.train),
        n_held_out=len(task.held_out),
        n_cut=n_cut,
        lr=settings.lr,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        max_len=plan.max_len,
        history=tuple(history),
        versions=versions(),
    )


def _finetune(
    model: Classifier, task: LabelledSplits, plan: FinetunePlan, autocast: AbstractContextManager
) -> list[dict[str, float]]:
    """Fine-tune; OutOfMemory says which setting needs less."""
    pattern, settings = training_pattern(plan.run_config), finetune_settings(plan.config)
    history, _ = runtime.catch_out_of_memory(
        lambda: finetune(model, pattern, task, settings, autocast, _say)
    )
    if history is None:
        raise OutOfMemory(
            "fine-tuning does not fit; a smaller batch_size= needs less (now "
            f"{settings.batch_size})"
        )
    return history


def make_task(
    labelled: LabelledDataset,
    splits: dict[Split, list[LabelledExample]],
    tokenizer: Tokenizer,
    model: Classifier,
    max_len: int,
) -> tuple[LabelledSplits, int]:
    """Return token ids and labels, and how many texts were cut; DataError for an empty text."""
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
    return LabelledSplits(
        ids["train"], labels["train"], ids["validation"], labels["validation"],
        labelled.n_classes, tuple(labelled.measures),
    ), n_cut  # fmt: skip


def finetune_settings(config: FinetuneConfig) -> FinetuneSettings:
    """Return BERT's recipe: AdamW, a linear schedule, a tenth of the steps to warm up."""
    optim = OptimSettings(
        lr=config.lr, beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=0.01, clip=1.0,
        schedule="linear", warmup=0.1, final=0.0, power=1.0,
    )  # fmt: skip
    return FinetuneSettings(config.epochs, config.batch_size, config.seed, optim)


def chance(task: LabelledSplits) -> float:
    """Return the accuracy of the majority-class baseline on held-out texts; 0 for regression."""
    if task.n_classes == 1:
        return 0.0
    return float(np.bincount(task.held_out_labels.astype(int)).max() / len(task.held_out_labels))


def _say(epoch: int, measures: dict[str, float]) -> None:
    words = ", ".join(f"{name} {value:.3f}" for name, value in measures.items())
    say(f"epoch {epoch}: {words}")


def finetune_rows(study: Path) -> list[dict[str, Any]]:
    """Return the rows of finetune.csv: one per epoch of every fine-tuning of a study's runs."""
    results = of_present_weights(study, read_all(study, FINETUNINGS), lambda r: (r.run, LAST))
    return [row for result in results for row in result.rows()]


def write_table(study: Path) -> Path:
    """Write finetune.csv: one row per epoch of every fine-tuning of every run of a study."""
    path = study / "finetune.csv"
    with one_at_a_time(study):
        clean(study, path.name)
        write_csv(path, COLUMNS, finetune_rows(study), nan="nan")
    return path
