"""The command `lexp probe`."""

import itertools
from dataclasses import dataclass, replace

from omegaconf import DictConfig

from lexp.commands.load_runs import (
    RunWithData,
    load_model_under_test,
    open_runs,
    raise_problems,
)
from lexp.commands.publish import publish
from lexp.commands.run_plan import RunPlan, check_dataset, make_methods, whole_windows
from lexp.config.settings import ProbeConfig, build_all
from lexp.config.validation import read_probe
from lexp.probes import Material, Probe
from lexp.probes.result import PROBES, ProbeResult
from lexp.probes.run import ProbeCase, ProbePlan, run_probes
from lexp.record import Console
from lexp.report import append_probes, write_probes
from lexp.report.probes import probe_tables, probes_caption
from lexp.result_store import clean_leftovers
from lexp.runs.locks import refuse_without_locks
from lexp.runs.run import variant_notes
from lexp.system import runtime
from lexp.system.errors import ConfigError, LexpError
from lexp.system.text import counted


@dataclass(frozen=True, kw_only=True)
class ProbeRunPlan(RunPlan):
    """A plan of `lexp probe`. probes: what is asked of every run."""

    config: ProbeConfig
    probes: ProbePlan


def check(config: DictConfig) -> ProbeRunPlan:
    """Return the plan; ConfigError before any work if a value is not allowed."""
    settings = read_probe(config)
    check_dataset(settings)
    lengths, methods = tuple(sorted(settings.lengths)), make_methods(settings)
    probes = build_all(settings.probes, Probe, "probes", lambda p: p.label)
    return ProbeRunPlan(
        config=settings,
        lengths=lengths,
        methods=methods,
        protocols=whole_windows(settings),
        probes=ProbePlan(probes, methods, lengths, settings.samples, settings.seed),
    )


def probe(config: DictConfig) -> None:
    """Ask every finished run of a study every probe at every length and print the tables."""
    probe_runs(check(config))


def probe_runs(plan: ProbeRunPlan) -> None:
    """Ask the runs of a plan and print the tables."""
    settings = plan.config
    runtime.prepare_process()
    refuse_without_locks(settings.study_folder)
    runs, problems = open_runs(plan)
    of_tasks = [opened for opened in runs if opened.task]
    problems += [no_probe_of_task(opened) for opened in of_tasks]
    runs = [opened for opened in runs if not opened.task]
    results = _probe_all(runs, plan, problems) if runs else []
    if results:
        variants = variant_notes(o.run.made_of for o in runs)
        tables, notes = probe_tables(results, variants), probes_caption(results)
        publish(settings.study_folder, "probes", tables, notes)
    raise_problems(problems, [result.status for result in results], settings.allow_partial)


def _probe_all(
    runs: list[RunWithData], plan: ProbeRunPlan, problems: list[LexpError]
) -> list[ProbeResult]:
    """Ask everything in order, one model in memory at a time; probes.csv follows each run.

    What keeps a run from being loaded is added to `problems`.
    """
    results: list[ProbeResult] = []
    study, probes = plan.config.study_folder, plan.probes
    passes = sum(probe.n_passes for probe in probes.probes) * probes.samples
    n_methods = sum(len(opened.methods) for opened in runs)
    total = n_methods * sum(plan.lengths) * passes
    with Console("probing", total) as console:
        n_cells = n_methods * len(plan.lengths) * len(probes.probes)
        cells = f"{counted(n_cells, 'cell')} of {counted(len(runs), 'run')}"
        console.say(f"{cells}, {total / 1e6:.2f}M tokens to read")
        for opened in runs:
            are_new: list[bool] = []

            def starting(case: ProbeCase, is_stored: bool) -> None:
                words = opened.run.name, case.probe.label, case.method.label  # noqa: B023
                note = f"{' '.join(words)} {case.length}"
                are_new.append(not is_stored)  # noqa: B023
                console.advance(case.n_tokens(probes) if is_stored else 0, note)

            try:
                clean_leftovers(opened.run.folder, PROBES)
                tested = load_model_under_test(opened, plan)
            except LexpError as error:
                problems.append(error)
                continue
            material = Material(tested.tokens, opened.store.tokenizer)
            asked = replace(probes, methods=opened.methods)
            of_run = list(run_probes(tested, material, asked, starting, console.advance))
            append_probes(study, list(itertools.compress(of_run, are_new)))
            results += of_run
    write_probes(study)
    return results


def no_probe_of_task(opened: RunWithData) -> ConfigError:
    """Return what is said of a run that was trained on a task."""
    return ConfigError(
        f"{opened.run.name} was trained on a task; probes plant information in texts (its "
        "answers: lexp eval)"
    )
