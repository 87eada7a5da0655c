"""`lexp train`."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lexp.attention import refuse_beyond_flex, refuse_meaningless
from lexp.commands.make_objects import (
    choose_kernel,
    make_corpus,
    make_dims,
    make_model,
    make_objective,
    make_store,
    training_pattern,
)
from lexp.commands.rank_zero import newest, progress, records, run_lock, tidy
from lexp.config.instantiate import build
from lexp.config.schema import check_types, plain
from lexp.config.validation import check_ranks, check_train
from lexp.data import Batches, Corpus, Store
from lexp.data.tokenizer import TokenizerSpec
from lexp.distributed import SingleProcess, joined, make_engine
from lexp.model.transformer import Transformer
from lexp.position import Position
from lexp.record import NullLogger
from lexp.runs import checkpoint
from lexp.runs.heartbeat import Heartbeat
from lexp.runs.run import Run, open_run, run_folder
from lexp.scoring.protocol import Span
from lexp.system import runtime
from lexp.system.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NotDefined,
    OutOfMemory,
)
from lexp.system.ranks import place, report_on_rank_zero
from lexp.training import loop
from lexp.training.objective import Objective, refuse_other_attention
from lexp.training.optim import OptimSettings, make_optimizer


def check(config: DictConfig) -> dict[str, Any]:
    """The settings as plain values; ConfigError before any work if one of them is not allowed."""
    settings = plain(config)
    check_types(settings)
    check_train(settings)
    make_dims(settings)
    position = build(settings["model"]["position"], Position, "model.position")
    _check_position(position, settings)
    _source(settings)
    build(settings["tokenizer"], TokenizerSpec, "tokenizer")
    make_corpus(settings["dataset"])
    return settings


def _check_position(position: Position, settings: dict[str, Any]) -> None:
    """ConfigError if the scheme ends too early, or pattern or kernel are not for it."""
    train_len = settings["train_len"]
    if position.max_len is not None and position.max_len < train_len:
        raise ConfigError(
            f"model.position ends at {position.max_len} tokens, train_len={train_len}"
        )
    pattern = training_pattern(settings)
    try:
        refuse_other_attention(make_objective(settings).pattern, pattern)
        refuse_meaningless(pattern, position.layers())
    except NotDefined as error:
        raise ConfigError(f"model={settings['model']['name']}: {error}") from None
    if settings["kernel"] == "flex":
        for layer in position.layers():
            refuse_beyond_flex(pattern, train_len, layer)


def train(config: DictConfig) -> None:
    """Train one model into its run folder, or go on where it was stopped.

    Where torchrun or a SLURM step has started several ranks, all of them train it; rank 0 writes.
    """
    with report_on_rank_zero():
        settings = check(config)
        check_ranks(settings, place().size)
    folder = run_folder(settings)
    stop = runtime.StopRequest()
    with joined(place(), settings["device"]) as group:
        if group.broadcast(int(Run(folder).is_done)):
            if group.is_rank_zero:
                tidy(folder)
                print(f"{folder} is complete, nothing to do", file=sys.stderr)
            return
        try:
            n_steps = _steps(settings).n_steps
            with run_lock(settings, folder, n_steps, group) as heartbeat, group.fail_together():
                _train_in_memory(settings, folder, group, heartbeat, stop)
        except SystemExit:
            runtime.hand_back(stop)
            raise


def _train_in_memory(
    settings: dict[str, Any],
    folder: Path,
    group: SingleProcess,
    heartbeat: Heartbeat | NullLogger,
    stop: runtime.StopRequest,
) -> None:
    """Train; OutOfMemory, with what helps, in place of what torch says."""
    _, missing = runtime.catch_out_of_memory(
        lambda: _train(settings, folder, group, heartbeat, stop)
    )
    if missing:
        now = settings["accumulation"]
        raise OutOfMemory(f"{missing}; a larger accumulation= needs less (now {now})")


def _train(
    settings: dict[str, Any],
    folder: Path,
    group: SingleProcess,
    heartbeat: Heartbeat | NullLogger,
    stop: runtime.StopRequest,
) -> None:
    runtime.prepare_process()
    device = runtime.choose_device(settings["device"])
    precision = runtime.choose_precision(settings["precision"], device)
    make_attend = choose_kernel(settings["kernel"], device)
    # Until here and while texts are tokenised a signal ends the process: there is nothing to save.
    outputs = Path(settings["outputs"])
    corpus, store = group.after_rank_0(
        lambda: make_store(settings["dataset"], settings["tokenizer"], outputs)
    )
    steps = _steps(settings)
    objective = make_objective(settings)
    batches, spans = _portion(settings, store, steps, objective)
    data = _digests(corpus, store)
    torch.manual_seed(settings["seed"])
    model = make_model(settings, store.tokenizer.vocab_size).to(device)
    if settings["init_from"] is not None:
        data["init_from"] = _start_from(settings, model, data["tokenizer"])
    run = Run(folder)
    if group.is_rank_zero:
        run = open_run(folder, settings, data, precision)
        store.tokenizer.save(folder)
        checkpoint.clean(run.checkpoints)
    found = newest(run, group)
    if found:
        checkpoint.load_model(found, model)
    engine = make_engine(
        group, settings["parallel"], model, objective.loss(model), settings["compile"]
    )
    metrics, wandb = records(settings, folder, group, found)
    with runtime.stop_signals(stop):
        job = loop.TrainingJob(
            group=group,
            engine=engine,
            model=model,
            pattern=training_pattern(settings),
            objective=objective,
            optimizer=make_optimizer(model, steps.optim),
            batches=batches,
            validation=store.splits["validation"],
            spans=spans,
            settings=steps,
            autocast=runtime.autocast(precision, device),
            checkpoints=run.checkpoints,
            metrics=metrics,
            wandb=wandb,
            stop=stop,
            make_batch=partial(
                objective.make_batch, seed=settings["seed"], vocab_size=store.tokenizer.vocab_size
            ),
            make_attend=make_attend,
        )
        if found:
            loop.resume(job, found)
        heartbeat.follow(lambda: job.step, steps.step_tokens)
        ranks = f", {group.size} ranks by {settings['parallel']}" if group.size > 1 else ""
        _to_the_end(job, folder, f"{precision} on {device}{ranks}")
    if group.is_rank_zero:
        run.finish(
            {"step": job.step, "seconds": round(job.seconds, 1), "validation": job.last_validation}
        )


def _to_the_end(job: loop.TrainingJob, folder: Path, where: str) -> None:
    """Train and close what was written to, however it ends; where: words for the machine."""
    try:
        with progress(job, folder, where) as console:
            loop.train(job, console)
    finally:
        job.metrics.close()
        job.wandb.finish()


def _digests(corpus: Corpus, store: Store) -> dict[str, Any]:
    """What texts and vocabulary a run has, kept in its config."""
    return {
        "fingerprint": store.fingerprint,
        "commit": corpus.commit,
        "tokenizer": store.tokenizer.digest,
        "vocab_size": store.tokenizer.vocab_size,
    }


def _source(settings: dict[str, Any]) -> Run | None:
    """The run to start from; ConfigError if it is none that is finished."""
    if settings["init_from"] is None:
        return None
    source = Run(Path(settings["init_from"]))
    if not source.is_done:
        raise ConfigError(f"init_from={source.folder}: not the folder of a finished run")
    return source


def _start_from(settings: dict[str, Any], model: Transformer, tokenizer: str) -> str:
    """Give the model another run's weights, their scheme's too if it is the same; their digest."""
    source = _source(settings)
    assert source is not None, "asked only where init_from is given"
    folder = source.folder
    if source.config["data"]["tokenizer"] != tokenizer:
        raise ConfigError(f"init_from={folder}: trained with another vocabulary")
    found = checkpoint.latest(source.checkpoints)
    if found is None:
        raise CheckpointError(f"{folder} is marked as done and has no checkpoint")
    same = source.settings["model"]["position"] == settings["model"]["position"]
    (checkpoint.load_model if same else checkpoint.load_trunk)(found, model)
    return found.model_sha256


def _portion(
    settings: dict[str, Any], store: Store, steps: loop.TrainSettings, objective: Objective
) -> tuple[Batches, tuple[Span, ...]]:
    """Return training batches and the tokens validations score; DataError before any training."""
    for split in ("train", "validation"):
        if not store.splits[split].names:
            raise DataError(f"dataset.{split} of {settings['dataset']['name']} has no documents")
    batches = Batches(store.splits["train"], steps.train_len, steps.batch_size, settings["seed"])
    try:
        spans = loop.validation_spans(
            objective.protocol,
            store.splits["validation"],
            steps.train_len,
            settings["eval_tokens"],
        )
    except DataError as error:
        raise DataError(f"validation split: {error}") from None
    return batches, spans


def _steps(settings: dict[str, Any]) -> loop.TrainSettings:
    n_steps, keep = int(settings["tokens"]) // settings["batch_tokens"], settings["keep"]
    return loop.TrainSettings(
        train_len=settings["train_len"],
        n_steps=n_steps,
        batch_size=settings["batch_tokens"] // settings["train_len"],
        accumulation=settings["accumulation"],
        optim=OptimSettings(lr=settings["lr"], **settings["optim"]),
        save_every=settings["save_every"],
        keep=frozenset(range(keep, n_steps + 1, keep) if isinstance(keep, int) else keep or ()),
        eval_every=settings["eval_every"],
    )
