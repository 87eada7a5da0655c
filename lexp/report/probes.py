"""Probes as tables: two for each probe, a row per (variant, method), a column per length."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lexp.display.table import Table, TableCell
from lexp.evaluate import text_names
from lexp.probes.measures import interval
from lexp.probes.result import ProbeResult
from lexp.report.perplexity_table import SHORT

ANSWERS, GAIN = "answers right", "gain"
# What results of one row have in common, said only where rows differ in it.
WHERE = ("on {}", "in {}", "{} examples", "of seed {}")


def probe_tables(results: list[ProbeResult], notes: dict[str, str]) -> list[Table]:
    """Make two tables of each probe: shares that were right, and gain, averaged over seeds.

    A failure of any seed is shown, not averaged away. notes: by variant, what tells it apart.
    """
    return [
        _table(f"{probe}: {title}", [r for r in results if r.probe.label == probe], notes, fill)
        for probe in dict.fromkeys(result.probe.label for result in results)
        for title, fill in ((ANSWERS, _shares), (GAIN, _gain))
    ]


@dataclass(frozen=True)
class ProbeRow:
    """The results of one variant by one method: a row of tables, or a map of depths.

    name, method: its labels, with what tells it apart. by_length: the results of all seeds.
    """

    name: str
    method: str
    by_length: dict[int, list[ProbeResult]]

    @property
    def n_seeds(self) -> int:
        """Return the number of seeds that have a result at any length."""
        return len({result.run.seed for same in self.by_length.values() for result in same})


def probe_rows(results: list[ProbeResult], notes: dict[str, str]) -> list[ProbeRow]:
    """Return the rows of one probe's results, in their order. notes: as in `probe_tables`."""
    groups: dict[tuple, dict[int, list[ProbeResult]]] = {}
    texts = text_names(result.run for result in results)
    wheres = {_where(result, texts) for result in results}
    differing = [len({where[n] for where in wheres}) > 1 for n in range(len(WHERE))]
    for result in results:
        key = (result.run.model, result.run.variant, result.method, _where(result, texts))
        groups.setdefault(key, {}).setdefault(result.length, []).append(result)
    rows = []
    for by_length in groups.values():
        first = next(iter(by_length.values()))[0]
        name = " ".join(filter(None, (first.run.model, notes.get(first.run.variant, ""))))
        told = [form.format(value) for form, value, told in
                zip(WHERE, _where(first, texts), differing, strict=True) if told]  # fmt: skip
        rows.append(ProbeRow(name, " ".join([first.method, *told]), by_length))
    return rows


def length_heads(results: list[ProbeResult], lengths: list[int]) -> list[str]:
    """Return the heads of columns, the trained length marked where all runs have the same."""
    train_lens = {result.run.train_len for result in results}
    return [f"{n} (trained)" if train_lens == {n} else str(n) for n in lengths]


def failed_cell(results: list[ProbeResult]) -> TableCell | None:
    """Return the cell of results of which some failed; None if none did."""
    failed = [result for result in results if not result.ok]
    if not failed:
        return None
    some = len(failed) < len(results)
    text = SHORT[failed[0].status] + (f" {len(failed)}/{len(results)}" if some else "")
    return TableCell(text, "failed")


def _table(
    title: str,
    results: list[ProbeResult],
    notes: dict[str, str],
    fill: Callable[[list[ProbeResult]], TableCell],
) -> Table:
    """Make a row per (variant, method), a column per length."""
    lengths = sorted({result.length for result in results})
    rows = []
    for row in probe_rows(results, notes):
        fields = [
            _field(row.by_length[n], fill, row.n_seeds) if n in row.by_length else TableCell("")
            for n in lengths
        ]
        rows.append((TableCell(row.name), TableCell(row.method), *fields))
    heads = ("model", "method", *length_heads(results, lengths))
    return Table(title, heads, tuple(rows), 2)


def _where(result: ProbeResult, texts: dict[str, str]) -> tuple[str, str, int, int]:
    run = result.run
    return texts[run.text], run.precision, result.samples, result.probe_seed


def _field(
    results: list[ProbeResult], fill: Callable[[list[ProbeResult]], TableCell], n_seeds: int
) -> TableCell:
    """Return what a table's cell shows, or that a seed failed. n_seeds: of the row."""
    if failed := failed_cell(results):
        return failed
    cell = fill(results)
    missing = f" ({len(results)} of {n_seeds} seeds)" * (len(results) < n_seeds)
    return replace(cell, text=f"{cell.text}{missing}")


def _shares(results: list[ProbeResult]) -> TableCell:
    measures = [result.measures for result in results]
    shares = [
        _share([m.accuracy for m in measures]),
        _share([m.token_accuracy for m in measures]),
        _share([m.candidate_accuracy for m in measures]),
    ]
    return TableCell(" / ".join(shares))


def _gain(results: list[ProbeResult]) -> TableCell:
    # Seeds answered the same examples: their mean gain per example is what is resampled.
    gains = np.mean([result.scores().example_gain for result in results], axis=0)
    # To the digits shown: a millionth of a nat may be sure and is no use. Plus 0: no minus zero.
    mean, low, high = (round(x, 3) + 0.0 for x in (float(gains.mean()), *interval(gains)))
    return TableCell(f"{mean:+.3f} [{low:.3f}, {high:.3f}]", "best" if low > 0 else "")


def probes_caption(results: list[ProbeResult]) -> list[str]:
    """Write what stands below the tables: how to read them, what was asked, why cells failed."""
    seeds = sorted({result.run.seed for result in results})
    chances = {r.probe.label: r.chance for r in results if not math.isnan(r.chance)}
    chance = "".join(f", {name} by chance {100 * x:.3g}" for name, x in chances.items())
    trained = ", ".join(str(n) for n in sorted({result.run.train_len for result in results}))
    spread = f"; mean of seeds {', '.join(map(str, seeds))} ± half their range" * (len(seeds) > 1)
    counts = sorted({result.samples for result in results})
    examples = f"{counts[0]}" + f" to {counts[-1]}" * (len(counts) > 1)
    texts = text_names(result.run for result in results)
    same = ", the same for all rows" * (len({_where(r, texts) for r in results}) == 1)
    lines = [
        "Answers, in %: whole answers right / answer tokens right / the answer likelier than "
        f"all candidates{chance}.",
        "Gain: in nats per answer token, its loss after the control (another answer "
        "planted) less its loss after the right one, with its 95 % interval over examples. Bold: "
        "all of that above 0 (of cells that use nothing, one in 40 by chance).",
        f"{examples} examples a cell{same}; trained at {trained} tokens{spread}.",
    ]
    reasons: dict[tuple[str, str], set[str]] = {}
    for result in (r for r in results if not r.ok):
        key = SHORT[result.status], result.reason
        reasons.setdefault(key, set()).add(result.run.model)
    return lines + [
        f"{short} ({', '.join(sorted(models))}): {why}."
        for (short, why), models in sorted(reasons.items())
    ]


def _share(values: list[float]) -> str:
    """Format a mean in percent, with half the range of several values."""
    if any(math.isnan(value) for value in values):
        return "-"
    spread = f"±{50 * (max(values) - min(values)):.0f}" if len(values) > 1 else ""
    return f"{100 * sum(values) / len(values):.0f}{spread}"
