"""Runs as models under test without texts: the tasks of a harness bring their own."""

from dataclasses import dataclass

import numpy as np

from lexp.commands.hf_run import register, trained_external
from lexp.commands.load_runs import (
    check_code,
    extended_with,
    load_run_tokenizer,
    model_settings,
    with_weights,
)
from lexp.commands.own_texts import OwnTexts
from lexp.commands.run_parts import make_objective, make_task, training_pattern
from lexp.commands.run_plan import RunPlan
from lexp.commands.select_runs import read_config, select_finished
from lexp.commands.texts import Texts
from lexp.config.settings import HF, HfRunConfig, TrainConfig
from lexp.data import Tokens
from lexp.data.tokenizer import Tokenizer
from lexp.evaluate import Method, ModelIdentity, ModelUnderTest, RunInfo, methods_for
from lexp.runs.run import Run, variant
from lexp.system import runtime
from lexp.system.errors import ConfigError, LexpError, NotDefined

NO_TEXT = Tokens((), np.zeros(0, dtype=np.uint16), np.zeros(1, dtype=np.int64), None)


@dataclass(frozen=True)
class RunWithTokenizer:
    """A finished run, its settings, and the methods of the command as they are for it."""

    run: Run
    config: TrainConfig | HfRunConfig
    tokenizer: Tokenizer
    methods: tuple[Method, ...]


def open_without_texts(plan: RunPlan) -> tuple[list[RunWithTokenizer], list[LexpError]]:
    """Open the finished runs that are selected; what keeps others from being opened."""
    config = plan.config
    if config.model == HF:
        runs = [register(config, f"{plan.precision} on {plan.device}")]
    else:
        runs = select_finished(config.study_folder, config.model)
    opened: list[RunWithTokenizer] = []
    problems: list[LexpError] = []
    for run in runs:
        try:
            opened.append(_open(run, plan))
        except LexpError as error:
            problems.append(error)
    return opened, problems


def _open(run: Run, plan: RunPlan) -> RunWithTokenizer:
    config = read_config(run)
    if make_task(config.dataset):
        raise ConfigError(
            f"{run.name} was trained on a task, and reads no texts (its answers: lexp eval)"
        )
    methods = methods_for(training_pattern(config), plan.methods)
    return RunWithTokenizer(run, config, load_run_tokenizer(run), methods)


def load_without_texts(opened: RunWithTokenizer, plan: RunPlan) -> ModelUnderTest:
    """Load the final checkpoint of a run."""
    run, config, tokenizer = opened.run, opened.config, opened.tokenizer
    if isinstance(config, HfRunConfig):
        model, sha256 = trained_external(run, config), config.model.sha256
    else:
        model, sha256 = with_weights(run, config, tokenizer)

    def own_texts() -> OwnTexts:
        if make_task(config.dataset):
            raise NotDefined("it reads texts of training, and this run was trained on a task")
        texts = Texts(plan)
        store = texts.store(config.dataset, tokenizer)
        return OwnTexts(run, config.dataset, store, texts, of_task=False, are_others=False)

    return ModelUnderTest(
        folder=run.folder,
        run=RunInfo(
            name=run.name,
            model=config.model.name,
            size=config.size.name,
            dataset=config.dataset.name,
            seed=config.seed,
            train_len=config.train_len,
            tokenizer=config.tokenizer.name,
            precision=plan.precision,
            text="",
            variant=variant(run.made_of),
            vocabulary=tokenizer.digest[:8],
        ),
        identity=ModelIdentity(
            model=model_settings(config),
            size=config.raw["size"],
            checkpoint=sha256,
            text="",
            tokenizer=tokenizer.digest,
            precision=plan.precision,
            code=check_code(run, config),
        ),
        model=model.to(plan.device),
        tokens=NO_TEXT,
        autocast=runtime.autocast(plan.precision, plan.device),
        # Few extensions read texts: they are opened when one does.
        sample=lambda n, length: own_texts().sample(n, length),
        fit_text=lambda split: own_texts().fit_text(split),
        trained=training_pattern(config),
        objective=make_objective(config),
        make_attend=plan.make_attend,
        extended=extended_with(config),
        sampled=run.fingerprint,
    )
