"""`lexp probe`."""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lexp.commands.load_runs import (
    RunWithData,
    load_subject,
    make_methods,
    open_texts,
    say_what_failed,
)
from lexp.commands.make_objects import make_corpus
from lexp.config.instantiate import build
from lexp.config.schema import plain
from lexp.config.validation import check_probe
from lexp.display.table import to_markdown, to_rich
from lexp.display.terminal import table_console
from lexp.probes import Material, Probe
from lexp.probes.result import ProbeResult
from lexp.probes.run import ProbeCase, ProbePlan, run_probes
from lexp.record import Console
from lexp.report import write_probes
from lexp.report.probes import probe_sheets, probes_caption
from lexp.runs.run import variant_notes
from lexp.system import runtime
from lexp.system.errors import LexpError
from lexp.system.files import write_text


def check(config: DictConfig) -> dict[str, Any]:
    """The settings as plain values; ConfigError before any work if one of them is not allowed."""
    settings = plain(config)
    check_probe(settings)
    make_plan(settings)
    if settings["dataset"] is not None:
        make_corpus(settings["dataset"])
    # Runs are opened as for evaluation, which also finds documents that are long enough.
    whole = {"_target_": "lexp.scoring.protocol.Segments"}
    return {**settings, "protocol": {"probes": whole}, "max_tokens": None}


def make_plan(settings: dict[str, Any]) -> ProbePlan:
    """What is asked of every run."""
    return ProbePlan(
        probes=[build(node, Probe, f"probes.{key}") for key, node in settings["probes"].items()],
        methods=make_methods(settings),
        lengths=settings["lengths"],
        samples=settings["samples"],
        seed=settings["seed"],
    )


def probe(config: DictConfig) -> None:
    """Ask every finished run of a study every probe at every length and print the tables."""
    settings = check(config)
    plan = make_plan(settings)
    study = Path(settings["outputs"]) / settings["name"]
    runtime.prepare_process()
    texts, problems = open_texts(study, settings)
    results = _probe_all(study, texts, plan, settings, problems)
    if results:
        _publish(study, results, variant_notes([text.run for text in texts]))
    say_what_failed(problems, [result.status for result in results], settings)


def _probe_all(
    study: Path,
    texts: list[RunWithData],
    plan: ProbePlan,
    settings: dict[str, Any],
    problems: list[LexpError],
) -> list[ProbeResult]:
    """All cells in order, one model in memory at a time; probes.csv follows each run.

    What keeps a run from being loaded is added to `problems`.
    """
    results: list[ProbeResult] = []
    passes = sum(probe.n_passes for probe in plan.probes) * plan.samples
    total = len(texts) * len(plan.methods) * sum(plan.lengths) * passes
    with Console("probing", total) as console:
        n_cells = len(texts) * len(plan.methods) * len(plan.lengths) * len(plan.probes)
        console.say(f"{n_cells} cells of {len(texts)} runs, {total / 1e6:.2f}M tokens to read")
        for text in texts:

            def starting(case: ProbeCase, is_stored: bool) -> None:
                words = text.run.name, case.probe.label, case.method.label  # noqa: B023
                note = f"{' '.join(words)} {case.length}"
                console.advance(case.n_tokens(plan) if is_stored else 0, note)

            try:
                tested = load_subject(text, settings)
            except LexpError as error:
                problems.append(error)
                continue
            material = Material(tested.tokens, text.store.tokenizer)
            results += run_probes(tested, material, plan, starting, console.advance)
            write_probes(study)
    write_probes(study)
    return results


def _publish(study: Path, results: list[ProbeResult], variants: dict[str, str]) -> None:
    """Print the tables; write them as Markdown."""
    sheets = probe_sheets(results, variants)
    notes = probes_caption(results)
    # A pipe or log file has no width: wide enough for any table is better than a cut one.
    rich = table_console()
    for sheet in sheets:
        rich.print(to_rich(sheet))
    rich.print("\n".join(notes), markup=False)
    paragraphs = [*map(to_markdown, sheets), "  \n".join(notes)]
    write_text(study / "probes.md", "\n".join(paragraphs) + "\n")
    print(f"{study}/probes.csv, probes.md", file=sys.stderr)
