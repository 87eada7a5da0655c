"""The command `lexp harness`."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from lexp.commands.harness_runs import RunWithTokenizer, load_without_texts, open_without_texts
from lexp.commands.load_runs import raise_problems
from lexp.commands.publish import publish
from lexp.commands.run_plan import RunPlan, make_methods
from lexp.config.settings import HarnessConfig
from lexp.config.validation import read_harness
from lexp.evaluate.harness_result import HARNESS, OWN_SHOTS, HarnessResult
from lexp.evaluate.harness_run import HarnessCase, HarnessPlan, HarnessTask, run_harness
from lexp.record import Console
from lexp.report.harness import harness_caption, harness_tables
from lexp.report.results import append_harness, write_harness
from lexp.result_store import FAILED, clean_leftovers
from lexp.runs.locks import refuse_without_locks
from lexp.runs.run import variant_notes
from lexp.system import runtime
from lexp.system.errors import Incomplete, LexpError
from lexp.system.output import say
from lexp.system.text import counted


@dataclass(frozen=True, kw_only=True)
class HarnessRunPlan(RunPlan):
    """A plan of `lexp harness`; its tasks are loaded later, as they may be large."""

    config: HarnessConfig


def check(config: DictConfig) -> HarnessRunPlan:
    """Return the plan; ConfigError before any work if a value is not allowed."""
    settings = read_harness(config)
    lengths, methods = tuple(sorted(settings.lengths)), make_methods(settings)
    return HarnessRunPlan(config=settings, lengths=lengths, methods=methods, protocols=())


def harness(config: DictConfig) -> None:
    """Run tasks on every finished run of a study and print the tables."""
    plan = check(config)
    settings = plan.config
    runtime.prepare_process()
    refuse_without_locks(settings.study_folder)
    runs, problems = open_without_texts(plan)
    results: list[HarnessResult] = []
    if runs:
        of_tasks = load_plan(plan)
        results = run_tasks(runs, plan, of_tasks, problems)
    if results:
        variants = variant_notes(o.run.made_of for o in runs)
        tables, notes = harness_tables(results, variants), harness_caption(results)
        publish(settings.study_folder, "harness", tables, notes)
    raise_problems(problems, [result.status for result in results], settings.allow_partial)
    failed = sorted({result.asked for result in results if result.status == FAILED})
    if failed and not settings.allow_partial:
        raise Incomplete(
            f"{counted(len(failed), 'task')} of {len(settings.tasks)} failed: {', '.join(failed)} "
            "(reasons below the tables; allow_partial=true accepts that)"
        )


def load_plan(plan: HarnessRunPlan) -> HarnessPlan:
    """Load the tasks; the methods are filled in for each run."""
    # Here: the package takes seconds to load, and is not needed for anything else.
    from lexp.commands.harness_tasks import VERSION, HarnessSettings, load_tasks

    settings = plan.config
    shots = OWN_SHOTS if settings.shots is None else settings.shots
    folder = None if settings.task_folder is None else Path(settings.task_folder)
    say(f"lexp: loading lm-evaluation-harness {VERSION}")
    tasks = load_tasks(
        settings.tasks,
        folder,
        HarnessSettings(shots, settings.limit or 0, settings.resamples),
        lambda name: say(f"lexp: loading {name}"),
    )
    return HarnessPlan(tasks, (), plan.lengths, shots, settings.limit or 0, VERSION)


def run_tasks(
    runs: list[RunWithTokenizer],
    plan: HarnessRunPlan,
    of_tasks: HarnessPlan,
    problems: list[LexpError],
) -> list[HarnessResult]:
    """Run everything in order, one model in memory at a time; harness.csv follows each run.

    What keeps a run from being loaded is added to `problems`.
    """
    results: list[HarnessResult] = []
    study = plan.config.study_folder
    n_methods = sum(len(opened.methods) for opened in runs)
    total = n_methods * len(plan.lengths) * sum(map(_n_requests, of_tasks.tasks))
    with Console("asking", total, unit="requests") as console:
        n_cells = n_methods * len(plan.lengths) * len(of_tasks.tasks)
        cells = f"{counted(n_cells, 'cell')} of {counted(len(runs), 'run')}"
        console.say(f"{cells}, {counted(total, 'request')}")
        for opened in runs:
            are_new: list[bool] = []

            def starting(case: HarnessCase, is_stored: bool) -> None:
                words = opened.run.name, case.task.name, case.method.label  # noqa: B023
                are_new.append(not is_stored)  # noqa: B023
                done = _n_requests(case.task) if is_stored else 0
                console.advance(done, f"{' '.join(words)} {case.length}")

            try:
                clean_leftovers(opened.run.folder, HARNESS)
                tested = load_without_texts(opened, plan)
            except LexpError as error:
                problems.append(error)
                continue
            asked = replace(of_tasks, methods=opened.methods)
            of_run = list(run_harness(tested, opened.tokenizer, asked, starting, console.advance))
            append_harness(study, list(itertools.compress(of_run, are_new)))
            results += of_run
    write_harness(study)
    return results


def _n_requests(task: HarnessTask) -> int:
    return len(task.requests)
