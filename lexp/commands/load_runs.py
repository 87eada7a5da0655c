"""From a study to models that can be scored: which runs, on what text, by which methods."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lexp.commands.hf_run import (
    KIND,
    check_external,
    fresh_external,
    register,
    trained_external,
)
from lexp.commands.make_objects import (
    choose_kernel,
    make_corpus,
    make_model,
    make_objective,
    training_pattern,
)
from lexp.commands.select_checkpoints import final, is_external, n_steps
from lexp.config.instantiate import build
from lexp.config.schema import check_types
from lexp.config.validation import check_train
from lexp.data import Store, open_store
from lexp.data.tokenizer import load_tokenizer
from lexp.evaluate import LAST, EvalTargets, Method, ModelIdentity, ModelUnderTest, RunInfo
from lexp.extension import Extension
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.results import OUT_OF_MEMORY
from lexp.runs import checkpoint
from lexp.runs.run import Run, find_runs, variant
from lexp.scoring.protocol import Protocol
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


def make_methods(settings: dict[str, Any]) -> list[Method]:
    """Every pattern with every extension."""
    longest = max(settings["lengths"])
    patterns = [build(n, Pattern, f"attention.{key}") for key, n in settings["attention"].items()]
    extensions = [
        build(n, Extension, f"extension.{key}") for key, n in settings["extension"].items()
    ]
    return [Method(p, e, longest) for p in patterns for e in extensions]


def make_protocols(settings: dict[str, Any]) -> list[Protocol]:
    """The protocols asked for, their sizes filled in; ConfigError if one does not fit lengths."""
    made = [build(node, Protocol, f"protocol.{key}") for key, node in settings["protocol"].items()]
    return [protocol.fit(settings["lengths"]) for protocol in made]


def choose_runs(study: Path, models: str | list[str] | None) -> list[Run]:
    """The finished runs asked for; ConfigError if there are none, a line on those left out."""
    runs = find_runs(study)
    wanted = [models] if isinstance(models, str) else models
    if wanted is not None:
        there = sorted({model_of(run) for run in runs})
        unknown = sorted(set(wanted) - set(there))
        if unknown:
            raise ConfigError(f"model={','.join(unknown)}: {study} has runs of {', '.join(there)}")
        runs = [run for run in runs if model_of(run) in wanted]
    unfinished = [run.name for run in runs if not run.is_done]
    if unfinished:
        print(f"not finished, left out: {', '.join(unfinished)}", file=sys.stderr)
    finished = [run for run in runs if run.is_done]
    if not finished:
        raise ConfigError(f"no finished run in {study}")
    return finished


def model_of(run: Run) -> str:
    """The name of a run's model, from a config that is still to be checked."""
    try:
        model = run.settings.get("model")
    except CheckpointError:
        return "?"
    return str(model.get("name")) if isinstance(model, dict) else "?"


@dataclass(frozen=True)
class RunWithData:
    """A finished run and what it is to be scored on."""

    run: Run
    dataset: str
    store: Store
    exams: tuple[EvalTargets, ...]


def check_run(run: Run) -> None:
    """CheckpointError if the config of a folder, somebody else's or edited, is not allowed."""
    if is_external(run):
        return check_external(run)
    try:
        check_types(run.settings)
        check_train(run.settings)
    except ConfigError as error:
        raise CheckpointError(f"{run.folder}/config.json: {error}") from None


def open_text(run: Run, settings: dict[str, Any]) -> RunWithData:
    """The test split for a run, in its own tokens; DataError if the longest length does not fit."""
    check_run(run)
    tokenizer = load_tokenizer(run.folder)
    if tokenizer.digest != run.config["data"]["tokenizer"]:
        raise CheckpointError(f"{run.folder}/tokenizer.json is not the one of training")
    dataset = settings["dataset"] or run.settings["dataset"]
    store = open_store(make_corpus(dataset), tokenizer, Path(settings["outputs"]) / ".cache")
    trained_on = run.config["data"]["fingerprint"]
    known = not is_external(run)  # what other models were trained on, nobody knows
    if known and settings["dataset"] is None and store.fingerprint != trained_on:
        raise DataError(
            f"{run.name}: dataset {dataset['name']} is not what it was trained on (fingerprint "
            f"{store.fingerprint[:8]}, then {trained_on[:8]}); name another one with dataset="
        )
    max_tokens = None if settings["max_tokens"] is None else int(settings["max_tokens"])
    lengths = tuple(sorted(settings["lengths"]))
    try:
        exams = tuple(
            EvalTargets(
                protocol, lengths, protocol.spans(store.splits["test"], lengths, max_tokens)
            )
            for protocol in make_protocols(settings)
        )
    except DataError as error:
        raise DataError(f"lengths: test split of {dataset['name']}: {error}") from None
    return RunWithData(run, dataset["name"], store, exams)


def open_texts(study: Path, settings: dict[str, Any]) -> tuple[list[RunWithData], list[LexpError]]:
    """The finished runs asked for with their texts, and what keeps others from being opened.

    All texts first: what is wrong with one of them is known before any work is done.
    """
    texts: list[RunWithData] = []
    problems: list[LexpError] = []
    external = settings["model"] == KIND
    for run in [register(study, settings)] if external else choose_runs(study, settings["model"]):
        try:
            texts.append(open_text(run, settings))
        except LexpError as error:
            problems.append(error)
    return texts, problems


def say_what_failed(
    problems: list[LexpError], statuses: list[str], settings: dict[str, Any]
) -> None:
    """Raise for what went wrong, after everything else is done and shown.

    What is wrong with one run does not keep the others from being scored, nor go unsaid.
    """
    for problem in problems[:-1]:
        print(f"lexp: {problem}", file=sys.stderr)
    if problems:
        raise problems[-1]
    failed = statuses.count(OUT_OF_MEMORY)
    if failed and not settings["allow_partial"]:
        raise Incomplete(
            f"{failed} of {len(statuses)} cells ran out of memory (allow_partial=true accepts that)"
        )


def load_subject(
    text: RunWithData, settings: dict[str, Any], found: checkpoint.Checkpoint | None = None
) -> ModelUnderTest:
    """Load a checkpoint of a text's run, the final one unless another is given."""
    run = text.run
    device = runtime.choose_device(settings["device"])
    precision = runtime.choose_precision(settings["precision"], device)
    model, sha256 = _trained(text, found)
    return ModelUnderTest(
        folder=run.folder,
        run=RunInfo(
            name=run.name,
            model=run.settings["model"]["name"],
            size=run.settings["size"]["name"],
            dataset=text.dataset,
            seed=run.settings["seed"],
            train_len=run.settings["train_len"],
            tokenizer=run.settings["tokenizer"]["name"],
            precision=precision,
            text=text.store.fingerprint[:8],
            variant=variant(run.settings),
        ),
        identity=ModelIdentity(
            model=run.settings["model"],
            size=run.settings["size"],
            checkpoint=sha256,
            text=text.store.fingerprint,
            tokenizer=text.store.tokenizer.digest,
            precision=precision,
        ),
        model=model.to(device),
        tokens=text.store.splits["test"],
        autocast=runtime.autocast(precision, device),
        sample=partial(_sample, text, settings),
        trained=training_pattern(run.settings),
        step=LAST if found is None or found.step == n_steps(run) else found.step,
        objective=make_objective(run.settings),
        make_attend=choose_kernel(settings.get("kernel", "tiles"), device),
    )


def _trained(text: RunWithData, found: checkpoint.Checkpoint | None) -> tuple[Transformer, str]:
    """A text's model with the weights of a checkpoint, in evaluation mode, and their digest."""
    run = text.run
    if is_external(run):
        return trained_external(run), run.settings["model"]["sha256"]
    found = found or final(run)
    model, missing = runtime.catch_out_of_memory(
        lambda: make_model(run.settings, text.store.tokenizer.vocab_size).eval()
    )
    if model is None:
        raise OutOfMemory(f"{run.name}: a model of the sizes in its config.json: {missing}")
    checkpoint.load_model(found, model)
    return model, found.model_sha256


def fresh(text: RunWithData) -> Transformer:
    """A text's model freshly initialised from the run's seed, in evaluation mode."""
    run = text.run
    if is_external(run):
        return fresh_external(run)
    torch.manual_seed(run.settings["seed"])
    return make_model(run.settings, text.store.tokenizer.vocab_size).eval()


def _sample(text: RunWithData, settings: dict[str, Any], n: int, length: int) -> Tensor:
    """Windows of the texts a run was trained on, its long enough documents in turns, [n, length].

    NotDefined if no document is that long.
    """
    store = text.store
    if settings["dataset"] is not None:
        own = make_corpus(text.run.settings["dataset"])
        store = open_store(own, store.tokenizer, Path(settings["outputs"]) / ".cache")
    train = store.splits["train"]
    long_enough = [d for d, size in enumerate(train.lengths) if size >= length]
    if not long_enough:
        raise NotDefined(f"no training document has {length} tokens")
    places = []
    for number in range(n):
        d, turn = long_enough[number % len(long_enough)], number // len(long_enough)
        first = min(turn * length, int(train.lengths[d]) - length)
        places.append(torch.from_numpy(train.window(d, first, length).astype("int64")))
    return torch.stack(places)
