"""The command `lexp report`."""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lexp import __version__
from lexp.commands.select_runs import last_step, read_config, select_runs
from lexp.config.folders import config_folders
from lexp.config.instantiate import build
from lexp.config.settings import ReportConfig
from lexp.config.validation import read_report
from lexp.config.yaml_file import read_yaml
from lexp.display.document import Chart, Page, Section
from lexp.display.html import render
from lexp.display.latex import to_latex
from lexp.display.table import Table, in_markdown, prose_in_markdown, to_csv, to_markdown
from lexp.display.terminal import table_console
from lexp.evaluate import EVALUATIONS, LAST, EvalResult
from lexp.instruments.base import Instrument
from lexp.instruments.expected import measured_table
from lexp.instruments.measure import ANALYSES, AnalysisResult, by_variant, labelled
from lexp.instruments.over_training import shown
from lexp.probes.result import PROBES
from lexp.report.charts import length_items, position_chart, published_chart
from lexp.report.claims import claims
from lexp.report.expected import Findings, blocks_of, expected_table
from lexp.report.files import write_files
from lexp.report.learning_rates import learning_rates
from lexp.report.long_range_tokens import judging_runs, long_range_table
from lexp.report.over_training import TRAINING, over_training
from lexp.report.paired import paired_table
from lexp.report.perplexity_table import caption, unit_tables
from lexp.report.probes import probe_tables, probes_caption
from lexp.report.scales import scale_tables
from lexp.report.study_results import (
    ResultSeries,
    by_protocol,
    keep_losses,
    make_series,
    method_rank,
)
from lexp.report.tables import (
    cost_table,
    differences_table,
    failures_table,
    last_tokens_table,
    methods_table,
    reach_table,
    seeds_table,
)
from lexp.report.weights import of_present_weights
from lexp.results import count_results, read_newest, with_damage
from lexp.runs.locks import one_at_a_time, refuse_without_locks
from lexp.runs.run import Run, find_runs, run_notes, source_commit, variant_notes
from lexp.scoring.protocol import ProtocolInfo
from lexp.system.errors import CheckpointError, ConfigError
from lexp.system.output import say
from lexp.system.reading import own_file_exists, read_own
from lexp.system.text import counted, file_stem

# What `lexp study` leaves in the folder of a study: what is claimed, expected and typed.
STUDY_FILE = "study.json"


def check(config: DictConfig) -> ReportConfig:
    """Return the settings; ConfigError before any work if one of them is not allowed."""
    return read_report(config)


def report(config: DictConfig) -> None:
    """Gather the results of a study into tables, curves and one self-contained page."""
    write_report(check(config))


def write_report(settings: ReportConfig) -> None:
    """Gather the results of a study, print its tables and write its page."""
    study = settings.study_folder
    refuse_without_locks(study)
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
    every_step = [result for result in stored if result.run.name in names]
    results = [result for result in every_step if result.step == LAST]
    if not results:
        raise ConfigError(f"no evaluated cell in {study.resolve()}; score some with `lexp eval`")
    probed = read_newest(study, PROBES)
    probed = of_present_weights(study, probed, lambda r: (r.run.name, LAST))
    probed = [r for r in with_damage(probed) if r.run.name in names]
    analyses = read_newest(study, ANALYSES)
    analyses = of_present_weights(study, analyses, lambda r: (r.run.name, r.step))
    analyses = [r for r in with_damage(analyses) if r.run.name in names]
    unmeasured = [result for result in analyses if not result.ok]
    analyses = [result for result in analyses if result.ok]
    analyses.sort(key=lambda result: method_rank(result.method))
    # A variant has one name in all tables, so what tells it apart is of all runs in any of them.
    seen = {result.run.name for result in every_step} | {result.run.name for result in probed}
    seen |= {result.run.name for result in (*analyses, *unmeasured)}
    rates = learning_rates([run for run in runs if _is_readable(run)])
    runs = [run for run in runs if run.name in seen]
    last_steps = {run.name: last_step(read_config(run)) for run in runs}
    notes, of_runs = variant_notes(run.made_of for run in runs), run_notes(runs)
    analyses = by_variant(analyses, of_runs)
    scored = {result.run.name for result in results}
    runs = [run for run in runs if run.name in scored]
    all_series = make_series(results, notes)
    _check_names(all_series, settings)
    first = _study_section(study, all_series, analyses, of_runs)
    sections = [first] if first else []
    sections += [_section(protocol, same, settings) for protocol, same in by_protocol(all_series)]
    sections += rates
    sections += _training(every_step, last_steps, notes, settings.delta)
    if probed:
        tables = probe_tables(probed, notes)
        sections.append(Section("Probes", " ".join(probes_caption(probed)), tuple(tables)))
    sections += _analysis(analyses, of_runs)
    others = [
        (result, f"{result.run.model} {of_runs[result.run.name]}".rstrip(), result.instrument.label)
        for result in by_variant(unmeasured, of_runs)
    ]
    if failures := failures_table(all_series, others):
        sections.append(Section("Failures", "Nothing is left out of the tables.", (failures,)))
    summary = (
        f"{counted(len(runs), 'run')}, {counted(len(results), 'cell')}. Every number carries the "
        "protocol that made it; protocols are never mixed in a table."
    )
    page = Page(f"lexp: {settings.name}", summary, tuple(sections), provenance(runs))
    _write(study, page)
    rich = table_console()
    for section in sections:
        for table in section.tables:
            if not table.secondary:
                rich.table(table)
    page_uri = (study / "report" / "report.html").resolve().as_uri()
    say(f"{study}/report/report.html, report.md, report.tex, *.csv", f"next: open {page_uri}")


def _is_readable(run: Run) -> bool:
    """Return whether a run's settings are allowed; those of runs without results may not be."""
    try:
        read_config(run)
    except CheckpointError:
        return False
    return True


def _training(
    results: list[EvalResult],
    last_steps: dict[str, int | None],
    notes: dict[str, str],
    delta: float,
) -> list[Section]:
    """Return a section on checkpoints of several steps, where any were scored."""
    steps = {name: LAST if step is None else step for name, step in last_steps.items()}
    items = over_training(results, steps, notes, delta)
    return [Section("Over training", TRAINING, tuple(items))] if items else []


def _analysis(results: list[AnalysisResult], notes: dict[str, str]) -> list[Section]:
    """Return a section for each instrument that measured something. notes: by run."""
    by_label: dict[str, list[AnalysisResult]] = {}
    for result in results:
        by_label.setdefault(result.instrument.label, []).append(result)
    sections = []
    instruments = all_instruments()
    for label, same in by_label.items():
        instrument = instruments.get(same[0].instrument.name)
        if instrument is None:
            words = "Not known here, so not shown: its file is found with --config-dir DIR."
            say(f"lexp: instrument {label}: {words}")
            sections.append(Section(f"Instrument: {label}", words))
            continue
        words = (sys.modules[type(instrument).__module__].__doc__ or "").strip()
        items = shown(instrument, labelled(same, notes))
        sections.append(Section(f"Instrument: {label}", words, tuple(items)))
    return sections


def all_instruments() -> dict[str, Instrument]:
    """Return every instrument by name; what it shows does not depend on its settings."""
    instruments = {}
    for folder in config_folders():
        for path in sorted((folder / "instruments").glob("*.yaml")):
            for key, node in read_yaml(path).items():
                instrument = build(node, Instrument, f"instruments.{key}")
                instruments[instrument.name] = instrument
    return instruments


def _section(
    protocol: ProtocolInfo, all_series: list[ResultSeries], settings: ReportConfig
) -> Section:
    """Return all tables and curves of one protocol."""
    results = [result for series in all_series for result in series.every_result]
    notes = {series.variant: series.note for series in all_series}
    below = tuple(caption(results))
    tables: list[Table] = []
    shortest = min(series.lengths[0] for series in all_series)
    if not protocol.masked:  # masked targets are no last tokens
        tables.append(last_tokens_table(all_series, settings.last_k or max(1, shortest // 2)))
    of_series = claims(all_series, settings.delta)
    if of_series:
        tables.append(reach_table(of_series))
        keys = long_range_table(all_series, settings.key_alpha, settings.judge)
        tables += [keys] if keys else []
    longest = max(length for series in all_series for length in series.lengths)
    baseline = settings.baseline or all_series[0].name
    more = [
        differences_table(all_series, longest, baseline),
        methods_table(all_series, longest),
        paired_table(all_series, baseline),
        seeds_table(all_series, longest),
        *scale_tables(all_series),
        cost_table(all_series),
    ]
    charts: list[Chart | None] = []
    if protocol.all_contexts:
        charts.append(position_chart(all_series))
    if of_series and not protocol.masked:  # papers printed none of masked models
        charts.append(published_chart(all_series))
    by_length = unit_tables(results, notes, below)
    first = length_items(all_series, baseline)
    items = [n for n in (*first, by_length, *tables, *charts, *more) if n is not None]
    return Section(protocol.label, below[0], tuple(items))


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
    text = [f"# {in_markdown(page.title)}", in_markdown(page.summary)]
    for section in page.sections:
        text += [f"## {in_markdown(section.title)}", prose_in_markdown(section.text)]
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


def _study_section(
    study: Path,
    all_series: Sequence[ResultSeries],
    analyses: Sequence[AnalysisResult],
    notes: Mapping[str, str],
) -> Section | None:
    """Return what a study claims and expects beside what was found; None without `lexp study`.

    notes: by run, what tells its variant apart.
    """
    path = study / STUDY_FILE
    if not own_file_exists(path):
        return None
    try:
        stored = json.loads(read_own(path))
        return Section(
            f"Study {stored['name']}, {stored['scale']}",
            "\n\n".join(_study_paragraphs(stored)),
            tuple(_study_tables(stored, all_series, analyses, notes)),
        )
    except (OSError, ValueError, TypeError, LookupError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path} is not what `lexp study` writes ({error})") from None


def _study_paragraphs(stored: dict[str, Any]) -> Iterator[str]:
    yield f"Claim: {_line(stored['claim'])}"
    yield f"Source: {_line(stored['source'])}"
    yield f"Command: {_line(stored['command'])}"
    if stored["deviations"]:
        listed = " ".join(f"({n}) {_line(text)}" for n, text in enumerate(stored["deviations"], 1))
        yield f"Deviations: {listed}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _study_tables(
    stored: dict[str, Any],
    all_series: Sequence[ResultSeries],
    analyses: Sequence[AnalysisResult],
    notes: Mapping[str, str],
) -> Iterator[Table]:
    for block in blocks_of(stored):
        if isinstance(block, Findings):
            same = [result for result in analyses if result.instrument.name == block.instrument]
            yield measured_table(block, labelled(same, notes))
        else:
            yield expected_table(block, all_series)
