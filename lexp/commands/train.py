"""The command `lexp train`."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from torch import Tensor

from lexp.attention import layer_pairs, refuse_beyond_flex, refuse_meaningless
from lexp.commands.load_runs import check_code
from lexp.commands.run_parts import (
    make_corpus,
    make_dims,
    make_objective,
    make_positions,
    make_task,
    own_code,
    refuse_for_task,
    refuse_shared_mixers,
    training_pattern,
    unused_entries,
)
from lexp.commands.texts import TrainingTexts
from lexp.commands.train_data import batch_size, open_training_data, refuse_unnamed
from lexp.commands.train_memory import choose_recomputed
from lexp.commands.train_progress import Machine, progress, show_profile
from lexp.commands.train_reading import make_reading, training_attention
from lexp.commands.train_sample import sample_lines
from lexp.commands.train_source import extended, find_source, make_first
from lexp.config.settings import TrainConfig
from lexp.config.validation import check_ranks, read_composed_train
from lexp.data.tokenizer import TokenizerSpec
from lexp.distributed import SingleProcess, joined, make_engine
from lexp.record import (
    EventFile,
    Metrics,
    NullLogger,
    RunLabel,
    WandbLogger,
    start_event_file,
    start_wandb,
)
from lexp.runs import checkpoint
from lexp.runs.heartbeat import Heartbeat, status_heartbeat
from lexp.runs.locks import locked
from lexp.runs.run import Run, open_run, run_folder, warn_of_other_versions
from lexp.system import runtime
from lexp.system.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    LexpError,
    NotDefined,
    OutOfMemory,
)
from lexp.system.files import clean, leftovers
from lexp.system.output import say
from lexp.system.ranks import place, report_on_rank_zero
from lexp.training import loop
from lexp.training.objective import refuse_other_attention
from lexp.training.optim import OptimSettings, make_optimizers
from lexp.training.profile import Profile, check_profile
from lexp.training.speed import model_flops


def check(config: DictConfig) -> TrainConfig:
    """Return the settings; ConfigError before any work if one of them is not allowed."""
    settings = read_composed_train(config)
    settings = extended(settings, find_source(settings))
    check_profile(settings.profile_steps, settings.n_steps)
    make_dims(settings)
    make_reading(settings)
    _check_layers(settings)
    vocabulary = settings.tokenizer.build(TokenizerSpec, "tokenizer")
    if make_task(settings.dataset):
        refuse_for_task(settings, vocabulary)
    else:
        refuse_unnamed(make_corpus(settings.dataset), settings.dataset.name)
    return settings


def _check_layers(settings: TrainConfig) -> None:
    """Raise ConfigError if a scheme ends too early, or pattern or kernel are not for a layer."""
    train_len, positions = settings.train_len, make_positions(settings)
    refuse_shared_mixers(settings)
    for position in positions:
        if position.max_len is not None and position.max_len < train_len:
            raise ConfigError(
                f"model.position ends at {position.max_len} tokens, train_len={train_len}"
            )
    pattern = training_pattern(settings)
    try:
        refuse_other_attention(make_objective(settings).pattern, pattern)
        refuse_meaningless(pattern, positions)
    except NotDefined as error:
        raise ConfigError(f"model={settings.model.name}: {error}") from None
    if settings.kernel == "flex":
        for own, position in layer_pairs(pattern, positions):
            if own.attends:
                refuse_beyond_flex(own, train_len, position)


def train(config: DictConfig, texts: TrainingTexts | None = None) -> None:
    """Train one model into its run folder, or resume it where it was stopped.

    texts: of other runs of this process, if there are any.
    """
    with report_on_rank_zero():
        settings = check(config)
    train_run(settings, texts or TrainingTexts())


def train_run(settings: TrainConfig, texts: TrainingTexts) -> None:
    """Train the run of checked settings, or resume it.

    texts: of all runs of this process. Where torchrun or a SLURM step has started several ranks,
    all of them train it; rank 0 writes.
    """
    with report_on_rank_zero():
        check_ranks(settings, place().size)
    folder = run_folder(settings.study_folder, settings.raw)
    stop = runtime.StopRequest()
    with joined(place(), settings.device) as group:
        if group.broadcast(int(Run(folder).is_marked)):
            if group.is_rank_zero:
                tidy(folder)
                if problem := Run(folder).problem:
                    raise CheckpointError(f"{folder}: {problem}")
                check_code(Run(folder), settings)
                say(f"{folder} is complete, nothing to do{_of_other_texts(folder, settings)}")
            return
        try:
            with run_lock(settings, folder, group) as heartbeat, group.fail_together():
                _train_in_memory(settings, texts, folder, group, heartbeat, stop)
        except SystemExit:
            runtime.hand_back(stop)
            raise


def _of_other_texts(folder: Path, settings: TrainConfig) -> str:
    """Return what is to be said of a complete run whose texts have changed since; else "".

    Texts are read again only if a file of theirs was written after the run.
    """
    if make_task(settings.dataset):
        return ""  # its problems are settings, and other settings are another run
    corpus, run = make_corpus(settings.dataset, settings.cache), Run(folder)
    ended = (folder / "done.json").stat().st_mtime
    try:
        if not corpus.changed_since(ended) or corpus.fingerprint() == run.fingerprint:
            return ""
    except DataError as error:
        return f"; its texts cannot be read now: {error}"
    return (
        f": with other texts than now, the files of dataset={settings.dataset.name} have changed "
        "since; choose another name= to train on these"
    )


def _train_in_memory(
    settings: TrainConfig,
    texts: TrainingTexts,
    folder: Path,
    group: SingleProcess,
    heartbeat: Heartbeat | NullLogger,
    stop: runtime.StopRequest,
) -> None:
    """Train; OutOfMemory says which setting needs less."""
    _, missing = runtime.catch_out_of_memory(
        lambda: _train(settings, texts, folder, group, heartbeat, stop)
    )
    if missing:
        now = settings.accumulation
        raise OutOfMemory(f"{missing}; a larger accumulation= needs less (now {now})")


def _train(
    settings: TrainConfig,
    texts: TrainingTexts,
    folder: Path,
    group: SingleProcess,
    heartbeat: Heartbeat | NullLogger,
    stop: runtime.StopRequest,
) -> None:
    runtime.prepare_process()
    device = runtime.choose_device(settings.device)
    precision = runtime.choose_precision(settings.precision, device)
    make_attend = training_attention(settings, device)
    # Until here and while texts are tokenised a signal ends the process: there is nothing to save.
    given = open_training_data(settings, texts, group)
    if group.is_rank_zero:
        say(*texts.unsaid(given.notes), *unused_entries(settings))
    steps, tokenizer = loop_settings(settings), given.tokenizer
    objective = make_objective(settings)
    model, start, notes = make_first(settings, tokenizer, device)
    data = {**given.digests, "code": own_code(settings), **start}
    autocast, total = runtime.autocast(precision, device), objective.loss(model)

    def widest() -> list[Tensor]:
        # Windows that grow are longest at the end.
        batch = given.batches.batch(steps.n_steps - 1 if settings.length_warmup else 0)
        return [group.shard(tensor.chunk(steps.accumulation)[0]) for tensor in batch.tensors]

    notes += choose_recomputed(settings, model, total, widest, autocast)
    run = Run(folder)
    if group.is_rank_zero:
        say(*notes)
        run = open_run(folder, settings.raw, data, precision)
        tokenizer.save(folder)
        checkpoint.clean(run.checkpoints)
    saved = newest(run, group)
    if saved:
        checkpoint.load_model(saved, model)
    flops = model_flops(model, steps.train_len, training_pattern(settings).two_sided)
    machine = Machine(device, precision, settings.parallel, group.size, flops)
    engine = make_engine(group, settings.parallel, model, total, settings.compile)
    metrics, mirrors = records(settings, folder, group, saved)
    with runtime.stop_signals(stop):
        job = loop.TrainingJob(
            group=group,
            engine=engine,
            model=model,
            pattern=training_pattern(settings),
            optimizers=make_optimizers(model, steps.optim),
            batches=given.batches,
            validation=given.validation,
            settings=steps,
            autocast=autocast,
            checkpoints=run.checkpoints,
            metrics=metrics,
            mirrors=mirrors,
            stop=stop,
            make_attend=make_attend,
        )
        if saved:
            loop.resume(job, saved)
        heartbeat.follow(lambda: job.step, steps.step_tokens)
        profile = Profile(settings.profile_steps, device) if settings.profile_steps else None
        _to_the_end(job, folder, machine, profile)
    if group.is_rank_zero:
        run.finish(
            {"step": job.step, "seconds": round(job.seconds, 1), "validation": job.last_validation,
             "parameters": sum(p.numel() for p in job.model.parameters())}
        )  # fmt: skip
    say(*sample_lines(job, tokenizer))


def _to_the_end(
    job: loop.TrainingJob, folder: Path, machine: Machine, profile: Profile | None
) -> None:
    """Train, and close the logs however it ends."""
    if profile:
        job.after_step = profile.step
    try:
        with progress(job, folder, machine) as console:
            loop.train(job, console)
        if profile and job.group.is_rank_zero:
            show_profile(profile, folder)
    finally:
        if profile:
            profile.close()
        job.metrics.close()
        for mirror in job.mirrors:
            mirror.finish()


def loop_settings(settings: TrainConfig) -> loop.TrainSettings:
    """Return what the training loop reads of the settings."""
    return loop.TrainSettings(
        train_len=settings.train_len,
        n_steps=settings.n_steps,
        batch_size=batch_size(settings),
        accumulation=settings.accumulation,
        optim=optim_settings(settings),
        save_every=settings.save_every,
        keep=settings.kept_steps,
        eval_every=settings.eval_every,
        one_batch=settings.one_batch,
    )


def optim_settings(settings: TrainConfig) -> OptimSettings:
    """Return what the optimiser reads of the settings."""
    return OptimSettings(lr=settings.lr, **asdict(settings.optim))


# What rank 0 does for all ranks: it holds the run folder, writes, and shows.


@contextlib.contextmanager
def run_lock(
    settings: TrainConfig, folder: Path, group: SingleProcess
) -> Iterator[Heartbeat | NullLogger]:
    """Hold the run folder on rank 0, clean it, and keep its status fresh."""
    if not group.is_rank_zero:
        yield NullLogger()
        return
    limit_s = math.inf if settings.stall_min is None else 60 * settings.stall_min
    with locked(folder):
        clean(folder)
        with status_heartbeat(folder, settings.n_steps, limit_s) as heartbeat:
            yield heartbeat


def tidy(folder: Path) -> None:
    """Remove temporary files left if the process was killed after marking completion."""
    if leftovers(folder):
        with contextlib.suppress(LexpError), locked(folder):
            clean(folder)


def newest(run: Run, group: SingleProcess) -> checkpoint.Checkpoint | None:
    """Return the newest whole checkpoint, chosen by rank 0 and verified by each rank."""
    saved = checkpoint.latest(run.checkpoints) if group.is_rank_zero else None
    if saved and group.is_rank_zero:
        warn_of_other_versions(run)
    step = group.broadcast(saved.step if saved else None)
    if saved is None and step is not None:
        (saved,) = checkpoint.at_steps(run.checkpoints, [step])
    return saved


def records(
    settings: TrainConfig,
    folder: Path,
    group: SingleProcess,
    saved: checkpoint.Checkpoint | None,
) -> tuple[Metrics | NullLogger, tuple[WandbLogger | EventFile | NullLogger, ...]]:
    """Return the loggers of metrics.jsonl and of what mirrors it; no-op on ranks other than 0."""
    if not group.is_rank_zero:
        return NullLogger(), ()
    metrics = Metrics(folder / "metrics.jsonl", saved.state["metrics_bytes"] if saved else 0)
    label = RunLabel(settings.name, folder.name, "train")
    events = start_event_file(settings.tensorboard, folder, saved.step if saved else 0)
    return metrics, (events, start_wandb(settings.wandb, folder, label, settings.raw))
