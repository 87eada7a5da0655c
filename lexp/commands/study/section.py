"""The first chapter of a study's report: what is claimed, what was expected, what was found."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lexp.display.document import Section
from lexp.display.table import Table
from lexp.instruments.expected import findings_sheet
from lexp.instruments.measure import AnalysisResult, labelled
from lexp.report.expected import Findings, blocks_of, expected_sheet
from lexp.report.study_results import ResultSeries
from lexp.system.errors import CheckpointError, ConfigError

FILE = "study.json"


def chapter(
    study: Path,
    all_series: Sequence[ResultSeries],
    analyses: Sequence[AnalysisResult],
    notes: Mapping[str, str],
) -> Section | None:
    """Claim, deviations, and printed numbers beside ours; None where `lexp study` did not run.

    notes: by run, what tells its variant apart.
    """
    path = study / FILE
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
        return Section(
            f"Study {stored['name']}, {stored['scale']}",
            "\n\n".join(_paragraphs(stored)),
            tuple(_sheets(stored, all_series, analyses, notes)),
        )
    except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
        raise CheckpointError(f"{path} is not what `lexp study` writes ({error})") from None


def _paragraphs(stored: dict[str, Any]) -> Iterator[str]:
    yield f"Claim: {' '.join(stored['claim'].split())}"
    yield f"Source: {' '.join(stored['source'].split())}"
    yield f"Command: {stored['command']}"
    if stored["deviations"]:
        listed = " ".join(f"({n}) {text}" for n, text in enumerate(stored["deviations"], 1))
        yield f"Deviations: {listed}"


def _sheets(
    stored: dict[str, Any],
    all_series: Sequence[ResultSeries],
    analyses: Sequence[AnalysisResult],
    notes: Mapping[str, str],
) -> Iterator[Table]:
    for block in blocks_of(stored):
        if isinstance(block, Findings):
            same = [result for result in analyses if result.instrument.name == block.instrument]
            yield findings_sheet(block, labelled(same, notes))
        else:
            yield expected_sheet(block, all_series)
