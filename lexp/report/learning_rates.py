"""Validation perplexity against the learning rate, of runs that differ in it and the seed alone.

The numbers are those of the end of training, at the trained length. A run that diverged is a point
without a number.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lexp.display.document import Chart, Curve, Point, Section
from lexp.display.table import Table, TableCell
from lexp.runs.run import Run, variant, variant_notes
from lexp.runs.status import DIVERGED, judge
from lexp.scoring.losses import perplexity
from lexp.system.errors import CheckpointError
from lexp.system.reading import read_own

TITLE = "Learning rates"
TEXT = (
    "Validation perplexity at the end of training, at the trained length, of runs that differ in "
    "their learning rate and seed alone. The best mean over seeds is in bold. If it stands at an "
    "end of the sweep, try rates beyond it."
)


@dataclass
class RateSweep:
    """Runs that differ in lr and seed alone. perplexities: by lr and seed, NaN if it diverged.

    All were validated on as many tokens.
    """

    name: str
    train_len: int
    perplexities: dict[float, dict[int, float]] = field(default_factory=dict)

    def mean(self, rate: float) -> float:
        """Return the mean over seeds; NaN if one of them diverged."""
        values = self.perplexities[rate].values()
        return sum(values) / len(values)

    @property
    def n_seeds(self) -> int:
        """Return the number of seeds that any rate has."""
        return len({seed for by_seed in self.perplexities.values() for seed in by_seed})

    @property
    def best(self) -> float | None:
        """Return the rate with the lowest mean over all seeds; None if every one lacks a seed."""
        whole = [
            rate for rate, by_seed in self.perplexities.items()
            if math.isfinite(self.mean(rate)) and len(by_seed) == self.n_seeds
        ]  # fmt: skip
        return min(whole, key=self.mean, default=None)


def learning_rates(runs: Sequence[Run]) -> list[Section]:
    """Return a section with a table and a chart, where two rates of anything were trained."""
    sweeps = rate_sweeps(runs)
    if not sweeps:
        return []
    return [Section(TITLE, TEXT, (_chart(sweeps), _table(sweeps)))]


def rate_sweeps(runs: Sequence[Run]) -> list[RateSweep]:
    """Return the sweeps of at least two rates, in the order of runs."""
    alike = {run.name: {**run.made_of, "lr": 0.0} for run in runs if run.kind == "lexp"}
    notes = variant_notes(alike.values())
    validated: dict[str, set[int]] = {}  # numbers of tokens, by variant
    for run in (run for run in runs if run.name in alike):
        of_variant = validated.setdefault(variant(alike[run.name]), set())
        of_variant.add(int(run.settings["eval_tokens"]))
    sweeps: dict[tuple[str, int], RateSweep] = {}
    for run in (run for run in runs if run.name in alike):
        value = _final_perplexity(run)
        if value is None:
            continue
        settings = run.settings
        key = variant(alike[run.name]), int(settings["eval_tokens"])
        told = [f"eval_tokens={key[1]}"] * (len(validated[key[0]]) > 1)
        name = " ".join(filter(None, (settings["model"]["name"], notes[key[0]], *told)))
        sweep = sweeps.setdefault(key, RateSweep(name, int(settings["train_len"])))
        sweep.perplexities.setdefault(float(settings["lr"]), {})[settings["seed"]] = value
    return [sweep for sweep in sweeps.values() if len(sweep.perplexities) > 1]


def _final_perplexity(run: Run) -> float | None:
    """Return the last validation at the trained length, NaN if the run diverged, else None."""
    if not run.is_marked:
        return math.nan if judge(run.folder).state == DIVERGED else None
    path = run.folder / "done.json"
    try:
        found = json.loads(read_own(path))["validation"].get(f"nll@{run.settings['train_len']}")
        return None if found is None else _ppl(float(found))  # as text where it is not finite
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not what training writes ({error})") from None


def _ppl(nll: float) -> float:
    return perplexity(nll) if math.isfinite(nll) else math.nan


def _chart(sweeps: list[RateSweep]) -> Chart:
    curves = tuple(Curve(s.name, "", tuple(_points(s)), own_x=True) for s in sweeps)
    return Chart(
        "Validation perplexity by learning rate", "peak learning rate", "perplexity per token",
        True, True, curves, (), "Mean over seeds; bands reach from the best seed to the worst.",
        decimals=2,
    )  # fmt: skip


def _points(sweep: RateSweep) -> Iterator[Point]:
    for rate, by_seed in sorted(sweep.perplexities.items()):
        value = sweep.mean(rate)
        if not math.isfinite(value):
            yield Point(rate, math.nan, note="diverged")
        elif len(by_seed) > 1:
            yield Point(rate, value, min(by_seed.values()), max(by_seed.values()))
        else:
            yield Point(rate, value)


def _table(sweeps: list[RateSweep]) -> Table:
    rates = sorted({rate for sweep in sweeps for rate in sweep.perplexities})
    rows = tuple(
        (TableCell(sweep.name), *(_cell(sweep, rate) for rate in rates)) for sweep in sweeps
    )
    return Table(f"{TITLE}: validation perplexity", ("model", *(f"{r:g}" for r in rates)), rows)


def _cell(sweep: RateSweep, rate: float) -> TableCell:
    if rate not in sweep.perplexities:
        return TableCell("")
    value = sweep.mean(rate)
    if not math.isfinite(value):
        return TableCell("diverged", "failed")
    n, of = len(sweep.perplexities[rate]), sweep.n_seeds
    some = f" ({n} of {of} seeds)" * (n < of)
    return TableCell(f"{value:.2f}{some}", "best" if rate == sweep.best else "")
