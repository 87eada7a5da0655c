"""Probes as tables: one a probe, a row per (variant, method), a column per length; their CSV."""

import csv
import io
import math
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import numpy as np

from lexp.display.table import Table, TableCell
from lexp.extension import method_label
from lexp.probes.cells import COLUMNS, Result, interval, read_result
from lexp.report.perplexity_table import SHORT
from lexp.runs.locks import one_at_a_time
from lexp.system.files import write_text

ANSWERS, GAIN = "answers right", "gain"


def read_probes(study: Path, runs: Container[str]) -> list[Result]:
    """The newest result of each (run, probe, method, length) of these runs."""
    newest: dict[tuple, tuple[float, Result]] = {}
    for path in sorted(study.glob("*/probes/*.json")):
        found = read_result(path)
        if found is None or found.cell.run not in runs:
            continue
        c = found.cell
        key = (c.probe, c.run, c.attention, c.extension, c.length, c.text, c.precision)
        written = path.stat().st_mtime
        if key not in newest or newest[key][0] < written:
            newest[key] = written, found
    return [newest[key][1] for key in sorted(newest, key=str)]


def write_probes(study: Path) -> None:
    """Write <study>/probes.csv with all cells found in the study's runs, failures included."""
    with one_at_a_time(study):  # as for results.csv
        _write(study)


def _write(study: Path) -> None:
    found = (read_result(path) for path in sorted(study.glob("*/probes/*.json")))
    cells = [result.cell for result in found if result]
    cells.sort(
        key=lambda c: (c.probe, c.run, c.attention, c.extension, c.samples, c.probe_seed, c.length)
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        writer.writerow([_text(getattr(cell, column)) for column in COLUMNS])
    write_text(study / "probes.csv", buffer.getvalue())


def probe_sheets(results: list[Result], notes: dict[str, str]) -> list[Table]:
    """Two tables a probe: shares that were right, and gain. Seeds of a variant are averaged.

    A failure of any seed is shown, not averaged away. notes: by variant, what tells it apart.
    """
    return [
        _sheet(f"{probe}: {title}", [r for r in results if r.cell.probe == probe], notes, fill)
        for probe in dict.fromkeys(result.cell.probe for result in results)
        for title, fill in ((ANSWERS, _shares), (GAIN, _gain))
    ]


def _sheet(
    title: str,
    results: list[Result],
    notes: dict[str, str],
    fill: Callable[[list[Result]], TableCell],
) -> Table:
    """A row per (variant, method), a column per length."""
    groups: dict[tuple, dict[int, list[Result]]] = {}
    for result in results:
        c = result.cell
        key = (c.model, c.variant, c.text, c.attention, c.extension, c.precision)
        groups.setdefault(key, {}).setdefault(c.length, []).append(result)
    lengths = sorted({r.cell.length for r in results})
    train_lens = {r.cell.train_len for r in results}
    rows = []
    for by_length in groups.values():
        c = next(iter(by_length.values()))[0].cell
        name = " ".join(filter(None, (c.model, notes.get(c.variant, ""))))
        method = method_label(c.attention, c.extension)
        fields = [_field(by_length[n], fill) if n in by_length else TableCell("") for n in lengths]
        rows.append((TableCell(name), TableCell(method), *fields))
    heads = [f"{n} (trained)" if train_lens == {n} else str(n) for n in lengths]
    return Table(title, ("model", "method", *heads), tuple(rows), 2)


def _field(results: list[Result], fill: Callable[[list[Result]], TableCell]) -> TableCell:
    """What a place shows, or that a seed failed."""
    failed = [result.cell for result in results if not result.cell.ok]
    if not failed:
        return fill(results)
    some = len(failed) < len(results)
    text = SHORT[failed[0].status] + (f" {len(failed)}/{len(results)}" if some else "")
    return TableCell(text, "failed")


def _shares(results: list[Result]) -> TableCell:
    cells = [result.cell for result in results]
    shares = [
        _share([cell.accuracy for cell in cells]),
        _share([cell.token_accuracy for cell in cells]),
        _share([cell.candidate_accuracy for cell in cells]),
    ]
    return TableCell(" / ".join(shares))


def _gain(results: list[Result]) -> TableCell:
    # Seeds answered the same examples: their mean gain per example is what is resampled.
    gains = np.mean([r.scores.example_gain for r in results if r.scores is not None], axis=0)
    # To the digits shown: a millionth of a nat may be sure and is no use. Plus 0: no minus zero.
    mean, low, high = (round(x, 3) + 0.0 for x in (float(gains.mean()), *interval(gains)))
    return TableCell(f"{mean:+.3f} [{low:.3f}, {high:.3f}]", "best" if low > 0 else "")


def probes_caption(results: list[Result]) -> list[str]:
    """What stands below the tables: how to read them, what was asked, the reasons of failures."""
    cells = [result.cell for result in results]
    seeds = sorted({c.seed for c in cells})
    chances = {c.probe: c.chance for c in cells if not math.isnan(c.chance)}
    chance = "".join(f", {name} by chance {100 * x:.3g}" for name, x in chances.items())
    trained = ", ".join(str(n) for n in sorted({c.train_len for c in cells}))
    spread = f"; mean of seeds {', '.join(map(str, seeds))} ± half their range" * (len(seeds) > 1)
    lines = [
        "Answers, in %: whole answers right / answer tokens right / the answer likelier than "
        f"all candidates{chance}.",
        "Gain: in nats per answer token, its loss after the control (another answer "
        "planted) less its loss after the right one, with its 95 % interval over examples. Bold: "
        "all of that above 0 (of cells that use nothing, one in 40 by chance).",
        f"{cells[0].samples} examples a cell, the same for all rows; trained at {trained} tokens"
        f"{spread}.",
    ]
    reasons: dict[tuple[str, str], set[str]] = {}
    for result in (r for r in results if not r.cell.ok):
        key = SHORT[result.cell.status], result.reason
        reasons.setdefault(key, set()).add(result.cell.model)
    return lines + [
        f"{short} ({', '.join(sorted(models))}): {why}."
        for (short, why), models in sorted(reasons.items())
    ]


def _share(values: list[float]) -> str:
    """A mean in percent, and half the range of several."""
    if any(math.isnan(value) for value in values):
        return "-"
    spread = f"±{50 * (max(values) - min(values)):.0f}" if len(values) > 1 else ""
    return f"{100 * sum(values) / len(values):.0f}{spread}"


def _text(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value
