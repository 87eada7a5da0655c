"""The command `lexp report`."""

import itertools
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lexp import __version__
from lexp.commands.report_sections import (
    instrument_sections,
    study_section,
    task_sections,
    tasks_opening,
    training_sections,
)
from lexp.commands.select_runs import last_step, read_config, select_runs
from lexp.config.settings import ReportConfig
from lexp.config.validation import read_report
from lexp.display.document import Item, Page, Section
from lexp.display.html import render
from lexp.display.latex import to_latex
from lexp.display.table import in_markdown, prose_in_markdown, to_csv, to_markdown
from lexp.display.terminal import table_console
from lexp.evaluate import EVALUATIONS, LAST, TASKS, EvalResult, TaskResult
from lexp.evaluate.harness_result import HARNESS, HarnessResult
from lexp.instruments.measure import ANALYSES, AnalysisResult, by_variant
from lexp.instruments.sample import TIMES
from lexp.probes.result import PROBES, ProbeResult
from lexp.report.depth_map import depth_maps
from lexp.report.files import write_files
from lexp.report.harness import harness_caption, harness_tables
from lexp.report.learning_rates import learning_rates
from lexp.report.long_range_tokens import judging_runs
from lexp.report.probes import probe_tables, probes_caption
from lexp.report.protocol_section import report_protocol
from lexp.report.results import write_harness, write_probes, write_results
from lexp.report.study_results import (
    ResultSeries,
    by_protocol,
    keep_losses,
    make_series,
    method_rank,
)
from lexp.report.summary import facts, missing, opening, protocol_sections
from lexp.report.tables import failures_table
from lexp.report.weights import of_present_weights
from lexp.result_store import count_results, read_newest, with_damage
from lexp.runs.find import find_runs
from lexp.runs.locks import one_at_a_time, refuse_without_locks
from lexp.runs.run import Run, run_notes, variant_notes
from lexp.runs.source import source_commit
from lexp.system.errors import CheckpointError, ConfigError
from lexp.system.output import say
from lexp.system.text import counted, file_stem


@dataclass(frozen=True)
class StudyContents:
    """The runs of a study that have results, and their newest results.

    scored: of every checkpoint. answered: of tasks, by last checkpoints. analyses: with numbers;
    unmeasured: without. n_without: runs without any result. rates: the section on learning rates,
    of all runs. harnessed: tasks of lm-evaluation-harness.
    """

    runs: list[Run]
    scored: list[EvalResult]
    answered: list[TaskResult]
    probed: list[ProbeResult]
    analyses: list[AnalysisResult]
    unmeasured: list[AnalysisResult]
    n_without: int
    rates: list[Section]
    harnessed: list[HarnessResult] = field(default_factory=list)

    @property
    def last(self) -> list[EvalResult]:
        """Return the evaluations of last checkpoints."""
        return [result for result in self.scored if result.step == LAST]


def check(config: DictConfig) -> ReportConfig:
    """Return the settings; ConfigError before any work if one of them is not allowed."""
    return read_report(config)


def report(config: DictConfig) -> None:
    """Gather the results of a study into tables, curves and one self-contained page."""
    write_report(check(config))


def write_report(settings: ReportConfig) -> None:
    """Gather the results of a study, print what they show and write its page."""
    study = settings.study_folder
    refuse_without_locks(study)
    with counted_warnings() as warned:
        contents = _read(study, settings)
    _complete_tables(study, contents)
    page = _page(study, contents, settings, len(warned))
    _write(study, page)
    _print(page, settings)
    link = (study / "report" / "report.html").resolve().as_uri()
    say(f"open: {link}", *next_commands(contents, settings))


def _complete_tables(study: Path, contents: StudyContents) -> None:
    """Write the CSV files anew: a killed command may not have added its last results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what was read once already
        if contents.scored:
            write_results(study)
        if contents.probed:
            write_probes(study)
        if contents.harnessed:
            write_harness(study)


@contextmanager
def counted_warnings() -> Iterator[list[str]]:
    """Show warnings as ever, and collect their texts."""
    texts: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning | str, *rest: Any, **options: Any) -> None:
            texts.append(str(message))
            show(message, *rest, **options)

        warnings.showwarning = collect
        yield texts


def _read(study: Path, settings: ReportConfig) -> StudyContents:
    """Read what a study has; ConfigError if that is nothing."""
    runs = select_runs(study, settings.model)
    names = {run.name for run in runs}
    n_files = count_results(study, EVALUATIONS)
    say(*[f"lexp: reading {counted(n_files, 'result')}"] * (n_files > 0))
    stored = of_present_weights(
        study, read_newest(study, EVALUATIONS), lambda r: (r.run.name, r.step)
    )
    keep_losses(stored)
    stored = with_damage(stored)
    _say_orphans(study, stored)
    scored = [result for result in stored if result.run.name in names]
    answered = read_newest(study, TASKS)
    answered = of_present_weights(study, answered, lambda r: (r.run.name, r.step))
    answered = [r for r in with_damage(answered) if r.run.name in names and r.step == LAST]
    probed = read_newest(study, PROBES)
    probed = of_present_weights(study, probed, lambda r: (r.run.name, LAST))
    probed = [r for r in with_damage(probed) if r.run.name in names]
    harnessed = read_newest(study, HARNESS)
    harnessed = of_present_weights(study, harnessed, lambda r: (r.run.name, LAST))
    harnessed = [r for r in with_damage(harnessed) if r.run.name in names]
    analyses = read_newest(study, ANALYSES)
    analyses = of_present_weights(study, analyses, lambda r: (r.run.name, r.step))
    analyses = [r for r in with_damage(analyses) if r.run.name in names]
    has_losses = any(result.step == LAST for result in scored)
    if not (has_losses or answered or probed or harnessed or analyses):
        raise ConfigError(f"no evaluated cell in {study.resolve()}; score some with `lexp eval`")
    rates = learning_rates([run for run in runs if _is_readable(run)])
    # A variant has one name in all tables, so what tells it apart is of all runs in any of them.
    seen = {result.run.name for result in scored} | {result.run.name for result in probed}
    seen |= {result.run.name for result in answered} | {result.run.name for result in analyses}
    seen |= {result.run.name for result in harnessed}
    return StudyContents(
        runs=[run for run in runs if run.name in seen],
        scored=scored,
        answered=answered,
        probed=probed,
        analyses=sorted(
            (r for r in analyses if r.ok), key=lambda result: method_rank(result.method)
        ),
        unmeasured=[result for result in analyses if not result.ok],
        n_without=len(names - seen),
        rates=rates,
        harnessed=harnessed,
    )


def _page(study: Path, contents: StudyContents, settings: ReportConfig, n_warnings: int) -> Page:
    """Return the page: the answer, what is missing, facts, and a section for each subject."""
    runs = contents.runs
    configs = [read_config(run) for run in runs]
    notes, of_runs = variant_notes(run.made_of for run in runs), run_notes(runs)
    analyses = by_variant(contents.analyses, of_runs)
    all_series = make_series(contents.last, notes)
    _check_names(all_series, settings)
    reports = [
        report_protocol(protocol, same, settings) for protocol, same in by_protocol(all_series)
    ]
    first = study_section(study, all_series, contents.answered, analyses, of_runs)
    sections = [*([first] if first else []), *task_sections(contents.answered, runs)]
    sections += [*protocol_sections(reports), *contents.rates]
    last_steps = {run.name: last_step(config) for run, config in zip(runs, configs, strict=True)}
    sections += training_sections(contents.scored, last_steps, notes, settings.delta)
    if contents.probed:
        shown: list[Item] = [*probe_tables(contents.probed, notes)]
        shown += depth_maps(contents.probed, notes)
        caption = " ".join(probes_caption(contents.probed))
        sections.append(Section("Probes", caption, tuple(shown)))
    if contents.harnessed:
        text = " ".join(harness_caption(contents.harnessed))
        items = tuple(harness_tables(contents.harnessed, notes))
        sections.append(Section("Tasks of lm-evaluation-harness", text, items))
    sections += instrument_sections(analyses, of_runs)
    others = [
        (result, f"{result.run.model} {of_runs[result.run.name]}".rstrip(), result.instrument.label)
        for result in by_variant(contents.unmeasured, of_runs)
    ]
    if failures := failures_table(all_series, others):
        sections.append(Section("Failures", "Nothing is left out of the tables.", (failures,)))
    results = [
        *contents.scored,
        *contents.answered,
        *contents.probed,
        *contents.harnessed,
        *contents.analyses,
        *contents.unmeasured,
    ]
    n_uneven = sum(
        bool(series.failure(length)) and all(r.ok for r in series.results[length].values())
        for series in all_series
        for length in series.lengths
    )
    line = missing(results, n_uneven, contents.n_without, n_warnings)
    of_tasks = tasks_opening(contents.answered, runs)
    of_texts = opening(reports) if reports or not of_tasks else ()
    summary = [*of_tasks, *of_texts, *[line] * bool(line)]
    of_numbers = facts(
        configs,
        [run.parameters for run in runs],
        {result.run.dataset for result in contents.scored}
        | {result.run.dataset for result in contents.answered},
        len(results),
        datetime.now(UTC).date().isoformat(),
    )
    title = f"Length extrapolation in study {settings.name}"
    return Page(title, "\n\n".join(summary), tuple(sections), provenance(runs), of_numbers)


def _print(page: Page, settings: ReportConfig) -> None:
    """Print the tables if they are asked for, and below them the answer."""
    console = table_console()
    if settings.show == "all":
        for section in page.sections:
            for table in section.tables:
                if not table.secondary:
                    console.table(table)
    console.paragraphs(*page.summary.split("\n\n"), page.facts)


def next_commands(contents: StudyContents, settings: ReportConfig) -> list[str]:
    """Return lines with the command that prints the tables, and with one that adds to them."""
    values = {"name": settings.name, "outputs": settings.outputs}
    usual = {"name": "default", "outputs": "outputs"}
    words = [shlex.quote(f"{key}={v}") for key, v in values.items() if v != usual[key]]
    lines = [f"tables: {' '.join(['lexp report', *words, 'show=all'])}"] * (settings.show != "all")
    if not contents.scored and contents.answered:  # probes are about texts
        lengths = sorted({r.length for r in contents.answered if not r.second_length})
        if lengths and not (contents.analyses or contents.unmeasured):
            asked = shlex.quote(f"lengths=[{','.join(map(str, lengths))}]")
            lines.append(f"next: {' '.join(['lexp analyze', *words, asked])}")
    elif not contents.probed:
        lines.append(f"next: {' '.join(['lexp probe', *words])}")
    elif not (contents.analyses or contents.unmeasured):
        instruments = shlex.quote("instruments=[heads,sample]")
        lines.append(
            f"next: {' '.join(['lexp analyze', *words, instruments, *_lengths(contents)])}"
        )
    return lines


def _lengths(contents: StudyContents) -> list[str]:
    """Return the word that asks for the lengths of samples, of those that texts were scored at."""
    longest = max((result.length for result in contents.scored), default=0)
    trained = {result.run.train_len for result in contents.scored}
    lengths = sorted({n * train_len for n in TIMES for train_len in trained})
    asked = [n for n in lengths if n <= longest]
    return [shlex.quote(f"lengths=[{','.join(map(str, asked))}]")] * bool(asked)


def _is_readable(run: Run) -> bool:
    """Return whether a run's settings are allowed; those of runs without results may not be."""
    try:
        read_config(run)
    except CheckpointError:
        return False
    return True


def provenance(runs: list[Run]) -> dict[str, Any]:
    """Return what made the numbers: code, and each run's settings, data digests and versions."""
    return {
        "report made by": {"lexp": __version__, "commit": source_commit() or "not a checkout"},
        **{run.name: run.config for run in runs},
    }


def _say_orphans(study: Path, stored: list[EvalResult]) -> None:
    """Print the runs whose results are there and whose config is not."""
    there = {run.name for run in find_runs(study)}
    lost = sorted({result.run.name for result in stored} - there)
    if lost:
        say(f"no such run any more, its cells left out: {', '.join(lost)}")


def _check_names(all_series: list[ResultSeries], settings: ReportConfig) -> None:
    """Raise ConfigError if the baseline or the judge is under none of the protocols."""
    baseline, judge = settings.baseline, settings.judge
    names = sorted({series.name for series in all_series})
    if baseline is not None and baseline not in names:
        raise ConfigError(f"baseline={baseline}: there are {', '.join(names)}")
    runs = judging_runs([series for series in all_series if series.protocol.paired])
    if judge is not None and judge not in runs:
        raise ConfigError(
            f"judge={judge}: scored with full attention at its trained length and a shorter one "
            f"are {', '.join(runs) or 'no runs'}"
        )


def _write(study: Path, page: Page) -> None:
    """Write the page, and its tables as Markdown, LaTeX and one CSV each."""
    tables = [table for section in page.sections for table in section.tables_of_every_unit]
    text = [
        f"# {in_markdown(page.title)}",
        prose_in_markdown(page.summary),
        in_markdown(page.facts),
    ]
    for section in page.sections:
        text += [
            f"## {in_markdown(section.title)}",
            *[in_markdown(section.label)] * bool(section.label),
        ]
        text.append(prose_in_markdown(section.text))
        text += map(to_markdown, section.tables)
    files = {
        "report.html": render(page),
        "report.md": "\n\n".join(text) + "\n",
        "report.tex": to_latex(tuple(tables)),
    }
    for table in tables:
        stem = file_stem("".join(c if c.isalnum() else "-" for c in table.title.lower()))
        names = (f"{stem}-{n}.csv" if n > 1 else f"{stem}.csv" for n in itertools.count(1))
        files[next(name for name in names if name not in files)] = to_csv(table)
    with one_at_a_time(study):
        write_files(study / "report", files)
