"""`lexp report`."""

import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lexp import __version__
from lexp.commands.load_runs import check_run, model_of
from lexp.commands.select_checkpoints import is_external, n_steps
from lexp.commands.study.section import chapter
from lexp.config.instantiate import build
from lexp.config.schema import plain
from lexp.config.validation import check_report
from lexp.display.document import Chart, Page, Section
from lexp.display.html import render
from lexp.display.latex import to_latex
from lexp.display.table import Table, to_csv, to_markdown, to_rich
from lexp.display.terminal import table_console
from lexp.evaluate import LAST, OK
from lexp.instruments.base import Instrument, LabelledMeasurement
from lexp.instruments.measure import AnalysisResult, noted, read_looks
from lexp.instruments.over_training import shown
from lexp.report.charts import length_chart, position_chart, published_chart
from lexp.report.claims import UNPAIRED, claims
from lexp.report.long_range_tokens import judging_runs, key_sheet
from lexp.report.over_training import TRAINING, over_training
from lexp.report.paired import paired_sheet
from lexp.report.perplexity_table import METRICS, caption, make_grid, to_sheet
from lexp.report.probes import probe_sheets, probes_caption, read_probes
from lexp.report.scales import scale_sheets
from lexp.report.study_results import (
    ResultSeries,
    StoredResult,
    lines,
    method_rank,
    protocols,
    read_study,
)
from lexp.report.tables import (
    cost_sheet,
    differences_sheet,
    failures_sheet,
    last_sheet,
    methods_sheet,
    reach_sheet,
    seeds_sheet,
)
from lexp.runs.run import Run, find_runs, run_notes, source_commit, variant_notes
from lexp.system.errors import ConfigError
from lexp.system.files import config_folder, make_folder, write_text

# Protocols whose windows are scored whole, so that targets have every amount of context.
WIDE = ("segments", "prefix")
# What masked models are asked has no last tokens, and no printed numbers beside it.
MASKED = "masked"


def check(config: DictConfig) -> dict[str, Any]:
    """The settings as plain values; ConfigError before any work if one of them is not allowed."""
    settings = plain(config)
    check_report(settings)
    return settings


def report(config: DictConfig) -> None:
    """Gather a study's cells into tables, curves and one self-contained page."""
    settings = check(config)
    study = Path(settings["outputs"]) / settings["name"]
    runs = _runs(study, settings["model"])
    names = {run.name for run in runs}
    stored = read_study(study)
    _say_orphans(study, stored)
    every = [one for one in stored if one.cell.run in names]
    known = [one for one in every if one.cell.step == LAST]
    if not known:
        raise ConfigError(f"no evaluated cell in {study.resolve()}; score some with `lexp eval`")
    scored = {one.cell.run for one in known}
    probed = read_probes(study, names)
    looks = [one for one in read_looks(study) if one.run in names and one.status == OK]
    looks.sort(key=lambda one: method_rank(one.labelled.method))
    # A variant has one name in all tables, so what tells it apart is of all runs in any of them.
    seen = {one.cell.run for one in every} | {one.cell.run for one in probed}
    seen |= {one.run for one in looks}
    runs = [run for run in runs if run.name in seen]
    for run in runs:
        check_run(run)
    notes, looks = variant_notes(runs), noted(looks, run_notes(runs))
    runs = [run for run in runs if run.name in scored]
    found = lines(known, notes)
    _check_names(found, settings)
    first = chapter(study, found, looks)
    sections = [first] if first else []
    sections += [
        _section(protocol, own, settings, {k.path: k.reason for k in known})
        for protocol, own in protocols(found)
    ]
    sections += _training(every, runs, notes, settings["delta"])
    if probed:
        sheets = probe_sheets(probed, notes)
        sections.append(Section("Probes", " ".join(probes_caption(probed)), tuple(sheets)))
    sections += _analysis(looks)
    if failures := failures_sheet(found):
        sections.append(Section("Failures", "Nothing is left out of the tables.", (failures,)))
    summary = (
        f"{len(runs)} runs, {len(known)} cells. Every number carries the protocol that made it; "
        "protocols are never mixed in a table."
    )
    page = Page(f"lexp: {settings['name']}", summary, tuple(sections), provenance(runs))
    _write(study, page)
    rich = table_console()
    for section in sections:
        for item in section.items:
            if isinstance(item, Table) and not item.title.startswith(("Cost", "Seeds")):
                rich.print(to_rich(item))
                rich.print("\n".join(item.notes), markup=False)
    print(f"{study}/report/report.html, report.md, report.tex, *.csv", file=sys.stderr)


def _training(
    every: list[StoredResult], runs: list[Run], notes: dict[str, str], delta: float
) -> list[Section]:
    """A section on checkpoints of several steps, where such were scored."""
    items = over_training(
        every, {run.name: LAST if is_external(run) else n_steps(run) for run in runs}, notes, delta
    )
    return [Section("Over training", TRAINING, tuple(items))] if items else []


def _analysis(looks: list[AnalysisResult]) -> list[Section]:
    """A section for each instrument whose findings are there."""
    found: dict[str, list[LabelledMeasurement]] = {}
    for one in looks:
        found.setdefault(one.instrument, []).append(one.labelled)
    sections = []
    instruments = all_instruments()
    for label, own in found.items():
        instrument = instruments.get(label.split("-")[0])
        if instrument is None:
            words = "Not known here, so not shown: its file is found with --config-dir DIR."
            print(f"lexp: instrument {label}: {words}", file=sys.stderr)
            sections.append(Section(f"Instrument: {label}", words))
            continue
        words = (sys.modules[type(instrument).__module__].__doc__ or "").strip()
        sections.append(Section(f"Instrument: {label}", words, tuple(shown(instrument, own))))
    return sections


def all_instruments() -> dict[str, Instrument]:
    """Every instrument there is, by name; what it shows does not depend on its settings."""
    instruments = {}
    for folder in config_folders():
        for path in sorted((folder / "instruments").glob("*.yaml")):
            for key, node in yaml.safe_load(path.read_text(encoding="utf-8")).items():
                instrument = build(node, Instrument, f"instruments.{key}")
                instruments[instrument.name] = instrument
    return instruments


def config_folders() -> list[Path]:
    """Where configs are: lexp's own, and the folders that --config-dir named."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    own = [Path(source.path) for source in sources if source.provider == "command-line"]
    return [config_folder(), *own]


def _section(
    protocol: str, own: list[ResultSeries], settings: dict[str, Any], reasons: dict[Path, str]
) -> Section:
    """All tables and curves of one protocol."""
    cells = [k for line in own for by_seed in line.cells.values() for k in by_seed.values()]
    notes = {line.variant: line.note for line in own}
    below = tuple(caption([(k.cell, reasons[k.path]) for k in cells]))
    sheets = [
        to_sheet(make_grid(metric, [k.cell for k in cells], notes), below) for metric in METRICS
    ]
    shortest = min(line.lengths[0] for line in own)
    if not protocol.startswith(MASKED):
        sheets.append(last_sheet(own, settings["last_k"] or max(1, shortest // 2)))
    made = claims(own, settings["delta"])
    if made:
        sheets.append(reach_sheet(made))
        keys = key_sheet(own, settings["key_alpha"], settings["judge"])
        sheets += [keys] if keys else []
    longest = max(length for line in own for length in line.lengths)
    baseline = settings["baseline"] or own[0].name
    more = [
        differences_sheet(own, longest, baseline),
        methods_sheet(own, longest),
        paired_sheet(own, baseline),
        seeds_sheet(own, longest),
        *scale_sheets(own),
        cost_sheet(own),
    ]
    charts: list[Chart | None] = [length_chart(own)]
    if protocol.startswith(WIDE):
        charts.append(position_chart(own))
    if made and not protocol.startswith(MASKED):
        charts.append(published_chart(own))
    items = [item for item in (charts[0], *sheets, *charts[1:], *more) if item is not None]
    return Section(protocol, below[0], tuple(items))


def provenance(runs: list[Run]) -> dict[str, Any]:
    """What made the numbers: code, and every run's settings, data digests and versions."""
    return {
        "report made by": {"lexp": __version__, "commit": source_commit() or "not a checkout"},
        **{run.name: run.config for run in runs},
    }


def _say_orphans(study: Path, stored: list[StoredResult]) -> None:
    """Name the runs whose cells are there and whose config is not."""
    there = {run.name for run in find_runs(study)}
    lost = sorted({one.cell.run for one in stored} - there)
    if lost:
        print(f"no such run any more, its cells left out: {', '.join(lost)}", file=sys.stderr)


def _check_names(found: list[ResultSeries], settings: dict[str, Any]) -> None:
    """ConfigError if the baseline or the judge is under no protocol; both may be under some."""
    baseline, judge = settings["baseline"], settings["judge"]
    names = sorted({line.name for line in found})
    if baseline is not None and baseline not in names:
        raise ConfigError(f"baseline={baseline}: there are {', '.join(names)}")
    runs = judging_runs([line for line in found if not line.protocol.startswith(UNPAIRED)])
    if judge is not None and judge not in runs:
        raise ConfigError(
            f"judge={judge}: scored with full attention at its trained length and a shorter one "
            f"are {', '.join(runs) or 'no runs'}"
        )


def _runs(study: Path, models: str | list[str] | None) -> list[Run]:
    runs = find_runs(study)
    wanted = [models] if isinstance(models, str) else models
    if wanted is None:
        return runs
    there = sorted({model_of(run) for run in runs})
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        raise ConfigError(f"model={','.join(unknown)}: {study} has runs of {', '.join(there)}")
    return [run for run in runs if model_of(run) in wanted]


def _write(study: Path, page: Page) -> None:
    """The page, and its tables as Markdown, LaTeX and one CSV each."""
    folder = make_folder(study / "report")
    for old in folder.glob("*.csv"):  # of tables that are there no longer
        old.unlink()
    sheets = [item for s in page.sections for item in s.items if isinstance(item, Table)]
    write_text(folder / "report.html", render(page))
    text = [f"# {page.title}", page.summary]
    for section in page.sections:
        text += [f"## {section.title}", section.text]
        text += [to_markdown(item) for item in section.items if isinstance(item, Table)]
    write_text(folder / "report.md", "\n\n".join(text) + "\n")
    write_text(folder / "report.tex", to_latex(tuple(sheets)))
    for sheet in sheets:
        stem = "".join(c if c.isalnum() else "-" for c in sheet.title.lower())
        write_text(folder / f"{stem}.csv", to_csv(sheet))
