"""The command `lexp study`."""

import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lexp.commands.analyze import AnalysisPlan, analyze_runs
from lexp.commands.evaluate import evaluate_runs
from lexp.commands.probe import ProbeRunPlan, probe_runs
from lexp.commands.report import write_report
from lexp.commands.report_sections import STUDY_FILE
from lexp.commands.run_plan import EvalPlan
from lexp.commands.study.cost import print_cost
from lexp.commands.study.file import Stage, Study, read_study_file
from lexp.commands.study.jobs import (
    CommandPlan,
    StudyJob,
    compose_study,
    evaluations_of,
    run_label,
    training_runs,
)
from lexp.commands.study.results_file import (
    ResultsFile,
    add_rows,
    cell_of,
    cells_in_words,
    cells_of,
    evaluated_rows,
    read_results_file,
    refuse_without_rows,
    rows_to_add,
)
from lexp.commands.texts import TrainingTexts
from lexp.commands.train import train_run
from lexp.config.settings import ReportConfig, StudyConfig, TrainConfig
from lexp.display.terminal import table_console
from lexp.record.console import duration
from lexp.runs.locks import one_at_a_time
from lexp.runs.run import Run, run_folder, run_name
from lexp.system import runtime
from lexp.system.children import child_environment, lexp_command
from lexp.system.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, ConfigError, LexpError
from lexp.system.files import clean, make_folder, write_json
from lexp.system.output import say

# Launchers that do one job after the other in this process, as a study does by itself.
HERE = ("here", "basic")


def check(config: DictConfig) -> tuple[StudyConfig, Study, list[StudyJob]]:
    """Return settings, study and all its jobs; ConfigError before any work if one is bad."""
    settings, study = read_study_file(config)
    jobs = compose_study(study)
    if study.results:
        refuse_without_rows(study.results, training_runs(jobs), settings)
    return settings, study, jobs


def study(config: DictConfig) -> None:
    """Train, evaluate, analyse and report a study, or resume it where it was stopped."""
    settings, chosen, jobs = check(config)
    if settings.plan:
        print_cost(chosen, jobs, settings, table_console())
        return
    folder = make_folder(settings.study_folder)
    with one_at_a_time(folder):
        clean(folder, STUDY_FILE)
        write_json(folder / STUDY_FILE, record(chosen))
    launcher = _launcher_words()
    started = time.perf_counter()
    problems: list[LexpError] = []
    stages = chosen.stages
    if chosen.results:
        if launcher:
            raise ConfigError(
                f"{launcher[0]}: {chosen.results} grows run by run, without a launcher; remove it, "
                f"or add study.scales.{chosen.scale}.results=null"
            )
        problems += _add_missing(Path(chosen.results), chosen, jobs)
        later = [stage for stage in stages if stage.command not in ("train", "eval")]
        stages = tuple(later if any(folder.glob("*/done.json")) else ())
    for stage in stages:
        stage_jobs = [job for job in jobs if job.stage == stage]
        _say(chosen, stage)
        if stage.command == "train" and launcher:
            problems += _launch(stage, stage_jobs, launcher)
        else:
            problems += _run(stage_jobs)
    spent = duration(time.perf_counter() - started)
    _say_end(folder, spent, problems)


def _add_missing(path: Path, chosen: Study, jobs: list[StudyJob]) -> list[LexpError]:
    """Add to a results file the runs that it lacks, and the methods that it lacks of others.

    A run without rows is trained and evaluated, and its rows are added at once. Return what failed.
    """
    file, texts, problems = read_results_file(path), TrainingTexts(), []
    command = f"lexp study study={chosen.name} scale={chosen.scale}"
    runs = [
        (job, job.plan, file.rows_of(job.plan, texts))
        for job in jobs
        if isinstance(job.plan, TrainConfig)
    ]
    missing = [run for _, run, rows in runs if not rows]
    _say_missing(file, [run for _, run, _ in runs], missing)
    if missing:
        _say_precision(path, missing[0], {row["precision"] for _, _, rows in runs for row in rows})
    is_own = not file.is_of_other_texts(runs[0][1], texts)
    if not is_own:
        say(f"{path}: its rows are of other texts than these: none is used, none is added")
    for job, run, rows in runs:
        plans = evaluations_of(run, jobs)
        try:
            if not rows:
                say(f"run {missing.index(run) + 1} of {len(missing)}: {run_label(run)}")
                train_run(run, texts)
                for plan in plans:
                    evaluate_runs(plan)
                if is_own:
                    name = run_name(run.raw)
                    add_rows(path, evaluated_rows(run.study_folder, name, command), name)
            elif lacking := cells_of(run, plans) - set(map(cell_of, rows)):
                _add_methods(path, run, plans, rows, lacking, command)
        except LexpError as error:
            problems.append(_shown(error, job.stage))
    return problems


def _add_methods(
    path: Path,
    run: TrainConfig,
    plans: list[EvalPlan],
    rows: list[dict[str, str]],
    lacking: set[tuple[str, ...]],
    command: str,
) -> None:
    """Evaluate a run with the methods of which a file has no rows, if its checkpoint is there."""
    what = f"{path}: {run_label(run)} has no rows of {cells_in_words(lacking)}"
    folder = run_folder(run.study_folder, run.raw)
    if not Run(folder).is_done:
        say(f"{what}; {folder} has no checkpoint to make them: remove its rows to train it again")
        return
    say(f"{what}: evaluated now")
    for plan in plans:
        evaluate_runs(plan)
    found = evaluated_rows(run.study_folder, folder.name, command)
    add_rows(path, rows_to_add(rows, found), folder.name)


def _say_missing(file: ResultsFile, runs: list[TrainConfig], missing: list[TrainConfig]) -> None:
    """Print which runs have rows in a results file, and which have not."""
    there = [run_label(run) for run in runs if run not in missing]
    if not file.rows:
        say(f"{file.path.absolute()}: not there yet, every run is trained")
    else:
        say(f"{file.path}: has {len(there)} of {len(runs)} runs: {', '.join(there) or 'none'}")
    say(f"missing: {', '.join(map(run_label, missing)) or 'none'}")


def _say_precision(path: Path, run: TrainConfig, there: set[str]) -> None:
    """Print that runs to be made will differ in precision from those of a results file."""
    here = runtime.choose_precision(run.precision, runtime.choose_device(run.device))
    if others := ", ".join(sorted(there - {here})):
        say(f"{path}: has rows in {others}, and runs are made in {here} here; see precision=")


def record(chosen: Study) -> dict[str, Any]:
    """Return what the report says about a study, kept with its runs as study.json."""
    return {
        "name": chosen.name, "scale": chosen.scale, "claim": chosen.claim,
        "source": chosen.source, "time": chosen.time, "expected": list(chosen.expected),
        "deviations": list(chosen.deviations), "command": _command(chosen),
        "stages": [shlex.join(["lexp", s.command, *s.words()]) for s in chosen.stages],
    }  # fmt: skip


def _command(chosen: Study) -> str:
    """Return the command as it was typed, or without a command line one that selects the study."""
    words = [f"study={chosen.name}", f"scale={chosen.scale}"]
    if HydraConfig.initialized():
        words = list(HydraConfig.get().overrides.task)
    return shlex.join(["lexp", "study", *words])


def _say(chosen: Study, stage: Stage) -> None:
    """Print the command of a stage, as it can be typed."""
    several = ["-m"] if stage.command == "train" and len(stage.jobs()) > 1 else []
    line = shlex.join(["lexp", stage.command, *several, *stage.words()])
    of = f"study {chosen.name} {chosen.scale}, stage {stage.number} of {len(chosen.stages)}"
    say(f"{of}: {line}")


def _run(jobs: list[StudyJob]) -> list[LexpError]:
    """Do the jobs of a stage one after the other; return what failed."""
    problems, texts = [], TrainingTexts()
    for number, job in enumerate(jobs, 1):
        if len(jobs) > 1:
            say(f"run {number} of {len(jobs)}")
        try:
            _do(job.plan, texts)
        except LexpError as error:
            problems.append(_shown(error, job.stage))
    return problems


def _do(plan: CommandPlan, texts: TrainingTexts) -> None:
    """Run a command as it was planned. texts: of all trainings of its stage."""
    match plan:
        case TrainConfig():
            train_run(plan, texts)
        case EvalPlan():
            evaluate_runs(plan)
        case ProbeRunPlan():
            probe_runs(plan)
        case AnalysisPlan():
            analyze_runs(plan)
        case ReportConfig():
            write_report(plan)


def _launcher_words() -> list[str]:
    """Return the overrides that choose a launcher of other processes; none within a sweep."""
    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN or hydra.runtime.choices["hydra/launcher"] in HERE:
        return []
    words = [w for w in hydra.overrides.hydra if re.match(r"[+~]*hydra[./]launcher", w)]
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    return [*words, *(word for folder in folders for word in ("--config-dir", folder))]


def _launch(stage: Stage, jobs: list[StudyJob], launcher: list[str]) -> list[LexpError]:
    """Hand a training stage to `lexp train -m` with the launcher; return what failed."""
    runs = training_runs(jobs)
    if all(Run(run_folder(run.study_folder, run.raw)).is_done for run in runs):
        say("all runs are complete")
        return []
    code = _sweep([*stage.words(), *launcher])
    if code in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
        raise SystemExit(code)
    if not code:
        return []
    error = LexpError(f"lexp train -m ended with {code}")
    error.exit_code = code if code > 0 else 1
    return [_shown(error, stage)]


def _sweep(words: list[str]) -> int:
    """Run `lexp train -m WORDS` in a process of its own; return its exit code."""
    return subprocess.run(lexp_command("train", "-m", *words), env=child_environment()).returncode


def _shown(error: LexpError, stage: Stage) -> LexpError:
    """Print at once what failed: the other stages go on."""
    text = " ".join(str(error).split())
    say(f"lexp: stage {stage.number}, lexp {stage.command}: {text}")
    return error


def _say_end(folder: Path, spent: str, problems: list[LexpError]) -> None:
    """Print where everything is, or raise LexpError with the exit code of the first problem."""
    if not problems:
        say(f"{folder}: done in {spent}, {folder}/report/report.html")
        return
    first = problems[0]
    error = LexpError(f"{len(problems)} failed in {spent}, the first: {first}")
    error.exit_code = first.exit_code
    raise error
