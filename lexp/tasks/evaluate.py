"""`lexp eval`."""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console as Rich

from lexp import checkpoint, runtime, scoring
from lexp.build import build
from lexp.config import check_eval, check_types, plain
from lexp.data import Tokens, open_store
from lexp.data.tokenizer import load_tokenizer
from lexp.errors import CheckpointError, ConfigError, DataError, Incomplete
from lexp.evaluate import OUT_OF_MEMORY, Cell, Subject, evaluate
from lexp.files import write_text
from lexp.pattern import Pattern
from lexp.record import Console
from lexp.report import make_grid, plot_curves, to_markdown, to_rich, write_results
from lexp.report.table import METRICS
from lexp.study import Run, find_runs
from lexp.tasks.common import make_corpus, make_model


def check(config: DictConfig) -> dict[str, Any]:
    """The settings as plain values; ConfigError before any work if one of them is not allowed."""
    settings = plain(config)
    check_eval(settings)
    _patterns(settings)
    if settings["dataset"] is not None:
        make_corpus(settings["dataset"])
    return settings


def eval_(config: DictConfig) -> None:
    """Score every finished run of a study at every length and print the table."""
    settings = check(config)
    patterns = _patterns(settings)
    study = Path(settings["outputs"]) / settings["name"]
    runtime.prepare_process()
    subjects = [_subject(run, settings) for run in _choose_runs(study, settings["models"])]
    results = _evaluate_all(study, subjects, patterns, settings["lengths"])
    _publish(study, results)
    failed = [cell for cell, _ in results if cell.status == OUT_OF_MEMORY]
    if failed and not settings["allow_partial"]:
        raise Incomplete(
            f"{len(failed)} of {len(results)} cells ran out of memory "
            "(allow_partial=true accepts that)"
        )


def _patterns(settings: dict[str, Any]) -> list[Pattern]:
    nodes = settings["attention"].items()
    return [build(node, Pattern, f"attention.{key}") for key, node in nodes]


def _choose_runs(study: Path, models: str | list[str] | None) -> list[Run]:
    """The finished runs asked for; ConfigError if there are none, a line on those left out."""
    runs = find_runs(study)
    wanted = [models] if isinstance(models, str) else models
    if wanted is not None:
        there = sorted({run.settings["model"]["name"] for run in runs})
        unknown = sorted(set(wanted) - set(there))
        if unknown:
            raise ConfigError(f"model={','.join(unknown)}: {study} has runs of {', '.join(there)}")
        runs = [run for run in runs if run.settings["model"]["name"] in wanted]
    unfinished = [run.name for run in runs if not run.is_done]
    if unfinished:
        print(f"not finished, left out: {', '.join(unfinished)}", file=sys.stderr)
    finished = [run for run in runs if run.is_done]
    if not finished:
        raise ConfigError(f"no finished run in {study}")
    return finished


def _subject(run: Run, settings: dict[str, Any]) -> Subject:
    """Load a run's final checkpoint and the text to score it on."""
    device = runtime.choose_device(settings["device"])
    precision = runtime.choose_precision(settings["precision"], device)
    check_types(run.settings)
    found = checkpoint.latest(run.checkpoints)
    if found is None:
        raise CheckpointError(f"{run.folder} is marked as done and has no checkpoint")
    tokenizer = load_tokenizer(run.folder)
    if tokenizer.digest != run.config["data"]["tokenizer"]:
        raise CheckpointError(f"{run.folder}/tokenizer.json is not the one of training")
    model = make_model(run.settings, tokenizer.vocab_size).to(device).eval()
    checkpoint.load_model(found, model)

    dataset = settings["dataset"] or run.settings["dataset"]
    cache = Path(settings["outputs"]) / ".cache"
    store = open_store(make_corpus(dataset), tokenizer, cache)
    trained_on = run.config["data"]["fingerprint"]
    if settings["dataset"] is None and store.fingerprint != trained_on:
        raise DataError(
            f"{run.name}: dataset {dataset['name']} is not what it was trained on (fingerprint "
            f"{store.fingerprint[:8]}, then {trained_on[:8]}); name another one with dataset="
        )
    tokens: Tokens = store.splits["test"]
    max_tokens = None if settings["max_tokens"] is None else int(settings["max_tokens"])
    try:
        targets = scoring.choose_targets(tokens, max(settings["lengths"]), max_tokens)
    except DataError as error:
        raise DataError(f"lengths: test split of {dataset['name']}: {error}") from None
    return Subject(
        folder=run.folder,
        labels={
            "run": run.name,
            "model": run.settings["model"]["name"],
            "size": run.settings["size"]["name"],
            "dataset": dataset["name"],
            "seed": run.settings["seed"],
            "train_len": run.settings["train_len"],
        },
        identity={
            "checkpoint": found.model_sha256,
            "fingerprint": store.fingerprint,
            "tokenizer": tokenizer.digest,
            "precision": precision,
        },
        model=model,
        tokens=tokens,
        targets=targets,
        protocol=f"{settings['protocol']}-{targets.n_tokens}",
        autocast=runtime.autocast(precision, device),
    )


def _evaluate_all(
    study: Path, subjects: list[Subject], patterns: list[Pattern], lengths: list[int]
) -> list[tuple[Cell, str]]:
    """All cells in order; results.csv is brought up to date after each run."""
    results = []
    per_cell = [len(s.targets.documents) * s.targets.n_tokens for s in subjects]
    total = sum(per_cell) * len(patterns) * len(lengths)
    with Console("evaluating", total) as console:
        for subject, n_tokens in zip(subjects, per_cell, strict=True):
            name = subject.labels["run"]

            def starting(pattern: Pattern, length: int, known: Cell | None) -> None:
                console.advance(n_tokens if known else 0, f"{name} {pattern.label} {length}")  # noqa: B023

            for known in evaluate(subject, patterns, lengths, starting, console.advance):
                results.append(known)
            write_results(study)
    return results


def _publish(study: Path, results: list[tuple[Cell, str]]) -> None:
    """Print the tables; write them as Markdown, with the curves beside them."""
    grids = [make_grid(metric, results) for metric in METRICS]
    rich = Rich()
    for grid in grids:
        rich.print(to_rich(grid))
    write_text(study / "results.md", "\n".join(to_markdown(grid) for grid in grids))
    plot_curves([cell for cell, _ in results], study / "results.png")
    print(f"{study}/results.csv, results.md, results.png", file=sys.stderr)
