"""The section of a report on one protocol: its answer, its charts and its tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from lexp.config.settings import ReportConfig
from lexp.display.document import Chart, Section
from lexp.display.table import Table
from lexp.report.answer import answer
from lexp.report.charts import length_items, position_chart, published_chart
from lexp.report.claims import Claim, claims
from lexp.report.differences import against_baseline, against_plain, differences_table
from lexp.report.long_range_tokens import long_range_table
from lexp.report.paired import paired_table
from lexp.report.perplexity_table import caption, unit_tables
from lexp.report.scales import scale_tables
from lexp.report.study_results import ResultSeries
from lexp.report.tables import cost_table, last_tokens_table, reach_table, seeds_table
from lexp.scoring.protocol import ProtocolInfo

HEADING = "Perplexity by context length"
# The position scheme of most language models.
BASELINE = "rope"
# What tells the headings of several protocols apart, by the protocol's name.
WORDS = {
    "segments": "consecutive windows",
    "sliding": "sliding windows",
    "fixed": "fixed targets",
    "prefix": "beginnings of documents",
    "masked": "masked tokens",
}


@dataclass(frozen=True)
class ProtocolReport:
    """The section on a protocol and the sentences that answer it."""

    protocol: ProtocolInfo
    answer: tuple[str, ...]
    section: Section
    n_results: int

    @property
    def words(self) -> str:
        """Return the protocol in words, or its name if it is not lexp's."""
        return WORDS.get(self.protocol.name, self.protocol.name)


def usual_baseline(all_series: Sequence[ResultSeries], longest: int) -> str:
    """Return the model that others are compared with unless the user names one.

    rope, or else the first by name, of those with a number at the longest length if there is any.
    """
    scored = [one for one in all_series if one.has_number(longest)] or list(all_series)
    names = [one.name for one in scored if one.model == BASELINE]
    return names[0] if names else scored[0].name


def report_protocol(
    protocol: ProtocolInfo, all_series: list[ResultSeries], settings: ReportConfig
) -> ProtocolReport:
    """Return all sentences, tables and curves of one protocol."""
    results = [result for series in all_series for result in series.every_result]
    notes = {series.variant: series.note for series in all_series}
    of_series = claims(all_series, settings.delta)
    longest = max(length for series in all_series for length in series.lengths)
    baseline = settings.baseline or usual_baseline(all_series, longest)
    models = against_baseline(all_series, longest, baseline)
    below = tuple(caption(results))
    charts: list[Chart | None] = []
    if protocol.all_contexts:
        charts.append(position_chart(all_series))
    if of_series and not protocol.masked:  # papers printed none of masked models
        charts.append(published_chart(all_series))
    items = (
        *length_items(all_series, baseline),
        unit_tables(results, notes, below),
        *_claim_tables(protocol, all_series, of_series, settings),
        *charts,
        differences_table(models, "Differences", protocol.label),
        differences_table(
            against_plain(all_series, longest), "Differences of methods", protocol.label
        ),
        paired_table(all_series, baseline),
        seeds_table(all_series, longest),
        *scale_tables(all_series),
        cost_table(all_series),
    )
    shown = tuple(item for item in items if item is not None)
    scored = below[0].removeprefix(f"{protocol.label}: ")
    section = Section(HEADING, f"{scored[:1].upper()}{scored[1:]}", shown, protocol.label)
    if of_series:
        sentences = answer(of_series, models, len({series.name for series in all_series}))
    else:
        sentences = (
            f"Reach and gain: not known, protocol={protocol.name} scores other tokens at each "
            "length (protocol=[segments]).",
        )
    return ProtocolReport(protocol, sentences, section, len(results))


def _claim_tables(
    protocol: ProtocolInfo,
    all_series: list[ResultSeries],
    of_series: Sequence[Claim],
    settings: ReportConfig,
) -> list[Table]:
    tables = [reach_table(of_series)] if of_series else []
    if not protocol.masked:  # masked targets are no last tokens
        shortest = min(series.lengths[0] for series in all_series)
        tables.append(last_tokens_table(all_series, settings.last_k or max(1, shortest // 2)))
    keys = long_range_table(all_series, settings.key_alpha, settings.judge) if of_series else None
    return [*tables, keys] if keys else tables
