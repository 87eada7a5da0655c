"""The loader of a study's runs as models under test: settings, texts, weights."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from lexp.commands.asked_tasks import asked_task, task_remarks, task_targets
from lexp.commands.hf_run import fresh_external, refuse_other_ids, register, trained_external
from lexp.commands.own_texts import OwnTexts
from lexp.commands.run_parts import (
    extended_to,
    make_corpus,
    make_dims,
    make_model,
    make_objective,
    make_positions,
    make_task,
    own_code,
    training_pattern,
)
from lexp.commands.run_plan import RunPlan
from lexp.commands.select_runs import final_checkpoint, last_step, read_config, select_finished
from lexp.commands.texts import Texts
from lexp.config.settings import HF, HfRunConfig, Node, TrainConfig
from lexp.data import Store
from lexp.data.tasks.store import task_store
from lexp.data.tokenizer import Tokenizer, load_tokenizer
from lexp.evaluate import (
    LAST,
    EvalTargets,
    Method,
    ModelIdentity,
    ModelUnderTest,
    RunInfo,
    TaskTargets,
    methods_for,
)
from lexp.model.transformer import Transformer
from lexp.result_store import OUT_OF_MEMORY
from lexp.runs import checkpoint
from lexp.runs.run import Run, variant
from lexp.runs.usual import without_usual
from lexp.system import runtime
from lexp.system.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Incomplete,
    LexpError,
    NotDefined,
    OutOfMemory,
)
from lexp.system.output import say
from lexp.system.text import counted


@dataclass(frozen=True)
class RunWithData:
    """A finished run, its settings, and what it is to be scored on.

    dataset: its name. methods: of the command, as they are for this run, their longest length in
    tokens. texts: of all runs of the command. task: what the run was trained on and is asked, with
    the problem lengths of the command; None for texts.
    """

    run: Run
    config: TrainConfig | HfRunConfig
    dataset: str
    store: Store
    targets: tuple[EvalTargets, ...]
    methods: tuple[Method, ...]
    texts: Texts
    task: TaskTargets | None = None


def open_run_with_data(run: Run, plan: RunPlan, texts: Texts) -> RunWithData:
    """Open the test split for a run, in its own tokens; texts of several runs are opened once.

    DataError if the longest length does not fit, or the texts are not those of training.
    """
    config = read_config(run)
    _check_parts(run, config)
    tokenizer = load_run_tokenizer(run)
    dataset = plan.config.dataset or config.dataset
    if task := asked_task(run, config, dataset):
        targets = task_targets(task, dataset, plan)
        methods = methods_for(training_pattern(config), plan.methods)
        methods = tuple(replace(method, longest=targets.longest) for method in methods)
        return RunWithData(run, config, dataset.name, task_store(task), (), methods, texts, targets)
    try:
        text = texts.test(dataset, tokenizer)
    except DataError as error:
        if plan.config.dataset is not None:
            raise
        raise DataError(f"texts of {run.name}: {error}") from None
    store = text.store
    trained_on = run.fingerprint
    # What a model from elsewhere was trained on is not known.
    is_own_text = plan.config.dataset is None and isinstance(config, TrainConfig)
    if is_own_text and store.fingerprint != trained_on:
        raise DataError(
            f"{run.name}: dataset {dataset.name} is not what it was trained on (fingerprint "
            f"{store.fingerprint[:8]}, then {trained_on[:8]}); name another one with dataset="
        )
    if isinstance(config, HfRunConfig):
        refuse_other_ids(run, store.splits["test"])
    methods = methods_for(training_pattern(config), plan.methods)
    return RunWithData(run, config, dataset.name, store, text.targets, methods, texts)


def _check_parts(run: Run, config: TrainConfig | HfRunConfig) -> None:
    """Raise CheckpointError for a part in a run's config.json that cannot be built.

    What is wrong in a run's file is no value of this command.
    """
    try:
        if not make_task(config.dataset):
            make_corpus(config.dataset)
        make_objective(config)
        training_pattern(config)
        if isinstance(config, TrainConfig):
            make_dims(config)
            make_positions(config)
    except NotDefined:
        raise
    except ConfigError as error:
        raise CheckpointError(f"{run.folder}/config.json: {error}") from None


def source_of(dataset: Node) -> str:
    """Return what a data set reads as its test split: a name on the hub, or globs."""
    values = dataset.values if isinstance(dataset.values, dict) else {}
    source = values.get("path") or values.get("test") or ""
    return ", ".join(map(str, source)) if isinstance(source, list) else str(source)


def load_run_tokenizer(run: Run) -> Tokenizer:
    """Return the tokenizer of a run; CheckpointError if the file is not that of training."""
    tokenizer = load_tokenizer(run.folder)
    if tokenizer.digest != run.tokenizer_digest:
        raise CheckpointError(f"{run.folder}/tokenizer.json is not the one of training")
    return tokenizer


def check_code(run: Run, config: TrainConfig | HfRunConfig) -> dict[str, str]:
    """Return the digests of the user's code in a run.

    CheckpointError if it was edited since training.
    """
    now = own_code(config)
    then = run.data.get("code", {})
    edited = sorted(name for name in now.keys() | then if now.get(name) != then.get(name))
    if edited:
        raise CheckpointError(
            f"{run.folder}: the code of {', '.join(edited)} is not that of training; restore it, "
            "or train again with another name="
        )
    return now


def open_runs(plan: RunPlan) -> tuple[list[RunWithData], list[LexpError]]:
    """Open the finished runs that are selected; what keeps others from being opened.

    All texts are opened first: what is wrong with one is known before any work is done.
    """
    config = plan.config
    if config.model == HF:
        runs = [register(config, f"{plan.precision} on {plan.device}")]
    else:
        runs = select_finished(config.study_folder, config.model)
    opened: list[RunWithData] = []
    problems: list[LexpError] = []
    texts = Texts(plan)
    for run in runs:
        try:
            opened.append(open_run_with_data(run, plan, texts))
        except LexpError as error:
            problems.append(error)
    if plan.grid:
        _say_without_pairs(opened, plan)
    # Runs of one text have the same lines.
    say(*dict.fromkeys(line for one in opened for line in _remarks(one, plan)))
    return opened, problems


def _say_without_pairs(opened: list[RunWithData], plan: RunPlan) -> None:
    """Print what has no two operands to be asked about; ConfigError if that is everything."""
    without = {
        one.dataset for one in opened if one.task is None or one.task.dataset.task.n_lengths != 2
    }
    names = ", ".join(sorted(without))
    if without and all(one.dataset in without for one in opened):
        raise ConfigError(
            f"grid={list(plan.grid)}: problems of {names} have no two operands (those of addition, "
            "modular_addition and multiplication have); leave grid out"
        )
    if without:
        say(f"grid: problems of {names} have no two operands, so their lengths alone are asked")


def _remarks(opened: RunWithData, plan: RunPlan) -> list[str]:
    if opened.task:
        return task_remarks(opened.task, opened.config.dataset, plan)
    dataset = plan.config.dataset or opened.config.dataset
    vocabulary = opened.config.tokenizer.name
    return opened.texts.remarks(opened.store, dataset, opened.run.fingerprint, vocabulary)


def raise_problems(problems: list[LexpError], statuses: list[str], allow_partial: bool) -> None:
    """Raise for what went wrong, after everything else is done and shown.

    What is wrong with one run does not keep the others from being scored, nor go unsaid. What is
    wrong with all of them is said once.
    statuses: of all results.
    """
    distinct = list({str(problem): problem for problem in problems}.values())
    for problem in distinct[:-1]:
        say(f"lexp: {problem}")
    if distinct:
        raise distinct[-1]
    failed = statuses.count(OUT_OF_MEMORY)
    if failed and not allow_partial:
        raise Incomplete(
            f"{failed} of {counted(len(statuses), 'cell')} ran out of memory "
            "(allow_partial=true accepts that)"
        )


def load_model_under_test(
    opened: RunWithData, plan: RunPlan, selected: checkpoint.Checkpoint | None = None
) -> ModelUnderTest:
    """Load a checkpoint of a run, the final one unless another is selected."""
    run, config, store = opened.run, opened.config, opened.store
    model, sha256 = _trained(opened, selected)
    own = OwnTexts(
        run, config.dataset, store, opened.texts, opened.task is not None,
        plan.config.dataset is not None,
    )  # fmt: skip
    return ModelUnderTest(
        folder=run.folder,
        run=RunInfo(
            name=run.name,
            model=config.model.name,
            size=config.size.name,
            dataset=opened.dataset,
            seed=config.seed,
            train_len=config.train_len,
            tokenizer=config.tokenizer.name,
            precision=plan.precision,
            text=store.fingerprint[:8],
            variant=variant(run.made_of),
            vocabulary=store.tokenizer.digest[:8],
            lost=store.facts["test"].lost_share,
            source=source_of(plan.config.dataset or config.dataset),
        ),
        identity=ModelIdentity(
            model=model_settings(config),
            size=config.raw["size"],
            checkpoint=sha256,
            text=store.fingerprint,
            tokenizer=store.tokenizer.digest,
            precision=plan.precision,
            code=check_code(run, config),
        ),
        model=model.to(plan.device),
        tokens=store.splits["test"],
        autocast=runtime.autocast(plan.precision, plan.device),
        sample=own.sample,
        fit_text=own.fit_text,
        trained=training_pattern(config),
        step=LAST if selected is None or selected.step == last_step(config) else selected.step,
        objective=make_objective(config),
        make_attend=plan.make_attend,
        extended=extended_with(config),
        sampled="" if store.fingerprint == run.fingerprint else run.fingerprint,
        tokenizer=None if opened.task else store.tokenizer,
    )


def extended_with(config: TrainConfig | HfRunConfig) -> str:
    """Return the name of the extension that a run was trained with; "" without one."""
    if isinstance(config, HfRunConfig) or config.extended_from is None:
        return ""
    return next(iter(config.extension))


def model_settings(config: TrainConfig | HfRunConfig) -> dict[str, Any]:
    """Return the settings of a run's model.

    Those of its trunk that are not gpt's are among them, and the extension it is trained with.
    """
    trunk = without_usual({"trunk": config.raw.get("trunk", {})})["trunk"]
    settings = {**config.raw["model"], **({"trunk": trunk} if trunk else {})}
    if isinstance(config, TrainConfig) and config.extended_from is not None:
        lengths = [config.extended_from, extended_to(config)]
        settings["trained_with"] = {"extension": config.raw["extension"], "lengths": lengths}
    return settings


def _trained(
    opened: RunWithData, selected: checkpoint.Checkpoint | None
) -> tuple[Transformer, str]:
    """Return a run's model with the weights of a checkpoint, and their digest."""
    run, config = opened.run, opened.config
    if isinstance(config, HfRunConfig):
        return trained_external(run, config), config.model.sha256
    return with_weights(run, config, opened.store.tokenizer, selected)


def with_weights(
    run: Run,
    config: TrainConfig,
    tokenizer: Tokenizer,
    selected: checkpoint.Checkpoint | None = None,
) -> tuple[Transformer, str]:
    """Return the model of a run of lexp with the weights of a checkpoint, and their digest.

    selected: None for the checkpoint that training ended with.
    """
    selected = selected or final_checkpoint(run)
    model, missing = runtime.catch_out_of_memory(
        lambda: make_model(config, tokenizer.vocab_size).eval()
    )
    if model is None:
        raise OutOfMemory(f"{run.name}: a model of the sizes in its config.json: {missing}")
    checkpoint.load_model(selected, model)
    return model, selected.model_sha256


def load_untrained(opened: RunWithData) -> Transformer:
    """Return a run's model freshly initialised from the run's seed, in evaluation mode."""
    config = opened.config
    if isinstance(config, HfRunConfig):
        return fresh_external(opened.run, config)
    torch.manual_seed(config.seed)
    return make_model(config, opened.store.tokenizer.vocab_size).eval()
