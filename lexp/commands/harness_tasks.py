"""Tasks of the installed lm-evaluation-harness: their requests, and the measures of the answers.

Only this module and harness_questions.py import the package. Its own functions make prompts,
metrics and standard errors. Neither its model classes nor its caches, which are pickles, are used.
"""

import contextlib
import difflib
import hashlib
import inspect
import io
import json
import logging
import math
import os
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval.api.metrics
import lm_eval.utils
import numpy as np
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.model import LM
from lm_eval.api.registry import metric_registry
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from lexp.commands.harness_files import check_task_files
from lexp.commands.harness_questions import of_group, question_values
from lexp.evaluate.harness_result import OWN_SHOTS, HarnessValue, QuestionValues
from lexp.evaluate.harness_run import HarnessTask, Measured
from lexp.scoring.requests import (
    Completion,
    Continuation,
    Likelihood,
    Request,
    Response,
    WholeText,
)
from lexp.system.errors import ConfigError, DataError, first_line

PACKAGE = Path(lm_eval.utils.__file__).resolve().parent
VERSION = version("lm_eval")
# The seeds of the harness's own command line.
SEED, OTHER_SEED = 0, 1234
# Names by which a task's file may say how many tokens are generated, the first given counts.
MOST_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
USUAL_TOKENS = 256


@dataclass(frozen=True)
class HarnessSettings:
    """The settings of a task's values. shots: OWN_SHOTS for those of its file. limit: 0 for all.

    resamples: of the bootstrap behind standard errors that have no formula.
    """

    shots: int
    limit: int
    resamples: int


def load_tasks(
    names: Sequence[str], folder: Path | None, settings: HarnessSettings, say: Callable[[str], None]
) -> tuple[HarnessTask, ...]:
    """Return tasks and groups by name, one that cannot be loaded with its problem.

    folder: of task files of one's own. say: told which task is loaded. ConfigError for a name that
    is not known, or a file with code that is not allowed.
    """
    for library in ("lm_eval", "huggingface_hub"):  # which says each of its retries
        logging.getLogger(library).setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"  # the bootstrap must not fork a process with threads
    if folder is not None:
        check_task_files(folder, PACKAGE, set(metric_registry))
        _enter_sandbox()
    manager = _manager(names, folder)
    tasks = []
    for name in names:
        say(name)
        try:
            with _quiet():
                tasks.append(_load(name, manager, settings))
        except Exception as error:
            problem = f"{type(error).__name__}: {first_line(error)}"[:300]
            tasks.append(HarnessTask(name, (), "", _no_values, problem))
    return tuple(tasks)


def _enter_sandbox() -> None:
    """Have templates of task files rendered in Jinja's sandbox: they could run code elsewhere."""
    theirs = lm_eval.utils.env
    sandbox = SandboxedEnvironment(
        loader=theirs.loader, undefined=theirs.undefined, keep_trailing_newline=True
    )
    sandbox.filters.update(theirs.filters)
    lm_eval.utils.env = sandbox


def _manager(names: Sequence[str], folder: Path | None) -> TaskManager:
    """Return the index of tasks; ConfigError for names that are in neither package nor folder.

    The package has thousands of files: they are read only if a name is not in the folder.
    """
    with _quiet():
        if folder is not None:
            own = TaskManager(include_path=str(folder), include_defaults=False)
            if set(names) <= set(own.all_subtasks):
                return own
        manager = TaskManager(include_path=None if folder is None else str(folder))
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "lm-eval ls tasks lists them"
            raise ConfigError(
                f"tasks={name}: lm-evaluation-harness {VERSION} has no such task; {hint}"
            )
    return manager


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the harness prints, progress bars included, from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _load(name: str, manager: TaskManager, settings: HarnessSettings) -> HarnessTask:
    """Load a task or group with its data, and make its requests."""
    random.seed(SEED)
    np.random.seed(OTHER_SEED)
    loaded = manager.load([name])
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False):
            raise DataError(f"{task.task_name} runs code that the model writes")
        if getattr(task, "MULTIMODAL", False):
            raise DataError(f"{task.task_name} shows pictures or sounds")
        own_shots = task.get_config("num_fewshot")
        # As the harness does: a task whose file says 0 keeps that.
        if settings.shots != OWN_SHOTS and own_shots != 0:
            task.set_config(key="num_fewshot", value=settings.shots)
        elif own_shots is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=OTHER_SEED)
        _build_requests(task, settings.limit)
    instances = [one for task in loaded["tasks"].values() for one in task.instances]
    requests = {_key(one.request_type, one.args): _request(one) for one in instances}
    chances = {name: _chance(task) for name, task in loaded["tasks"].items()}
    return HarnessTask(
        name,
        tuple(requests.values()),
        _digest(loaded, settings),
        partial(_measure, loaded, tuple(requests), chances, settings),
    )


def _build_requests(task: Any, limit: int) -> None:
    """Make the requests of a task; DataError if it has fewer examples than are shown."""
    try:
        task.build_all_requests(limit=limit or None, cache_requests=False)
    except ValueError as error:
        if "larger than population" not in str(error):
            raise
        shots = task.get_config("num_fewshot")
        raise DataError(f"{task.task_name} has too few examples to show {shots} (shots=)") from None


def _key(kind: str, arguments: tuple) -> str:
    return json.dumps([kind, *arguments], sort_keys=True, default=str)


def _request(instance: Any) -> Request:
    """Return what an instance of the harness asks; DataError for what is not asked here."""
    kind, arguments = instance.request_type, instance.args
    if kind == "loglikelihood":
        return Continuation(*arguments)
    if kind == "loglikelihood_rolling":
        return WholeText(arguments[0])
    if kind != "generate_until":
        raise DataError(f"requests of type {kind} are not supported")
    context, how = arguments
    if how.get("do_sample") and float(how.get("temperature", 1.0)) > 0:
        raise DataError("its file asks for random samples (do_sample); lexp answers greedily")
    if int(how.get("num_beams", 1)) > 1:
        raise DataError("its file asks for a beam search; lexp answers greedily")
    until = how.get("until") or []
    until = [until] if isinstance(until, str) else until
    most = next((how[name] for name in MOST_TOKENS if how.get(name) is not None), USUAL_TOKENS)
    return Completion(context, tuple(filter(None, until)), int(most))


class Answered(LM):
    """A model whose answers are known: the harness asks for them again and measures them."""

    def __init__(self, answers: dict[str, Response]):
        super().__init__()
        self.answers = answers

    def _known(self, kind: str, requests: list[Any]) -> list[Response]:
        try:
            return [self.answers[_key(kind, request.args)] for request in requests]
        except KeyError:
            raise DataError("the task asks something else each time") from None

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Return log-likelihood and greediness of each continuation."""
        known = self._known("loglikelihood", requests)
        return [(a.log_prob, a.greedy) for a in known if isinstance(a, Likelihood)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Return the log-likelihood of each text."""
        known = self._known("loglikelihood_rolling", requests)
        return [a.log_prob for a in known if isinstance(a, Likelihood)]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return the greedy continuation of each context."""
        return [a for a in self._known("generate_until", requests) if isinstance(a, str)]


def _measure(
    loaded: Any,
    keys: tuple[str, ...],
    chances: dict[str, float],
    settings: HarnessSettings,
    answers: Sequence[Response],
) -> Measured:
    """Return the harness's values and standard errors of a task's answers."""
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=OTHER_SEED)  # or other examples than before would be drawn
    model = Answered(dict(zip(keys, answers, strict=True)))
    try:
        with _quiet():
            found = evaluate(
                model, loaded, limit=settings.limit or None, cache_requests=False,
                bootstrap_iters=settings.resamples, log_samples=False,
            )  # fmt: skip
            of_tasks = {name: question_values(task) for name, task in loaded["tasks"].items()}
    except Exception as error:
        raise DataError(f"{type(error).__name__}: {first_line(error)}"[:300]) from None
    groups = loaded.get("groups", {})
    values: list[HarnessValue] = []
    questions: dict[int, QuestionValues] = {}
    # Groups first: what was asked for stands above what it is made of.
    for name in sorted(found["results"], key=lambda name: name not in groups):
        for value in _values(name, found, groups.get(name), chances):
            if one := _of_questions(value, groups.get(name), of_tasks):
                questions[len(values)] = one
            values.append(replace(value, follows=one.follows if one else ""))
    return Measured(tuple(values), questions)


def _of_questions(
    value: HarnessValue, group: Any, of_tasks: dict[str, dict[tuple[str, str], QuestionValues]]
) -> QuestionValues | None:
    """Return the values of the questions behind a value of a task or group."""
    key = value.metric, value.filter
    if group is None:
        return of_tasks[value.task].get(key)
    tasks = [of_tasks[task.task_name] for task in group.get_all_tasks()]
    return of_group(tasks, key, _is_by_size(group, value.metric))


def _values(
    name: str, found: dict[str, Any], group: Any, chances: dict[str, float]
) -> Iterator[HarnessValue]:
    """Yield the values of a task or group in the order of the harness."""
    results = found["results"][name]
    leaves = [name] if group is None else [task.task_name for task in group.get_all_tasks()]
    shots = {int(found["n-shot"].get(leaf) or 0) for leaf in leaves}  # it has none of a group
    for key, value in results.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        stderr = results.get(f"{metric}_stderr,{filter_name}")
        chance = math.nan
        if metric.startswith("acc"):
            sizes = {leaf: found["results"][leaf]["sample_len"] for leaf in leaves}
            chance = _weighted(chances, sizes, _is_by_size(group, metric))
        yield HarnessValue(
            task=name,
            filter=filter_name,
            metric=metric,
            value=float(value),
            stderr=float(stderr) if _is_number(stderr) else math.nan,
            chance=chance,
            higher_is_better=found["higher_is_better"].get(name, {}).get(metric),
            shots=min(shots) if len(shots) == 1 else OWN_SHOTS,
            documents=int(results.get("sample_len", 0)),
            version=str(found["versions"].get(name, "")),
            is_group=group is not None,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_by_size(group: Any, metric: str) -> bool:
    """Return whether a group weighs its tasks by their size for a metric."""
    listed = [] if group is None else group.aggregate_metric_list or []
    return all(one.weight_by_size for one in listed if one.metric == metric)


def _weighted(chances: dict[str, float], sizes: dict[str, int], by_size: bool) -> float:
    weights = [float(size) if by_size else 1.0 for size in sizes.values()]
    total = sum(weights)
    return sum(chances[n] * w for n, w in zip(sizes, weights, strict=True)) / total


def _chance(task: Any) -> float:
    """Return the accuracy of choosing at random; NaN for a task without choices."""
    if getattr(task, "OUTPUT_TYPE", "") != "multiple_choice" or not task.config.doc_to_choice:
        return math.nan
    docs = {one.doc_id: one.doc for one in task.instances}
    shares = []
    for doc in docs.values():
        right = task.doc_to_target(doc)
        n_right = len(set(right)) if isinstance(right, list) else 1
        shares.append(n_right / len(task.doc_to_choice(doc)))
    return statistics.fmean(shares)


def _no_values(answers: Sequence[Response]) -> Measured:
    raise DataError("the task was not loaded")


def _digest(loaded: Any, settings: HarnessSettings) -> str:
    """Return the digest of all that makes requests, and values of the answers to them."""
    whole = hashlib.sha256(json.dumps(_plain(settings)).encode())
    for task in loaded["tasks"].values():
        config = {**_plain(getattr(task, "config", {})), "metadata": None}
        parts: list[Any] = [task.task_name, str(task.VERSION), config, _code(type(task))]
        whole.update(json.dumps(parts, sort_keys=True).encode())
        docs = {one.doc_id: one.doc for one in task.instances}
        for part in (docs, [_key(one.request_type, one.args) for one in task.instances]):
            whole.update(json.dumps(_plain(part), sort_keys=True).encode())
    for group in loaded.get("groups", {}).values():
        whole.update(json.dumps(_plain(group.to_dict()), sort_keys=True).encode())
    return whole.hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as JSON, functions and classes as their names with a digest of their code."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(inner) for inner in value]
    if callable(value):
        return _code(value)
    return str(value)


def _code(function: Any) -> list[str]:
    """Return the name of a function or class, and the digest of its file if it is not installed."""
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    try:
        path = Path(inspect.getfile(inspect.unwrap(function))).resolve()
    except (TypeError, OSError):
        return [name]
    if path.is_relative_to(PACKAGE):
        return [str(path.relative_to(PACKAGE)), name.rpartition(".")[2]]
    return [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]
