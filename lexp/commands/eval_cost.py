"""`lexp eval plan=true`: the cost of an evaluation and what it can show, before it is run."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lexp.commands.fit_cost import (
    PILOT_WINDOW,
    Growth,
    PlannedFit,
    WindowCost,
    by_size,
    find_fit,
    grown,
    measure_window,
)
from lexp.commands.load_runs import RunWithData, load_model_under_test
from lexp.commands.run_plan import EvalPlan
from lexp.commands.select_runs import select_checkpoints
from lexp.display.table import Table, TableCell
from lexp.display.terminal import TableConsole
from lexp.evaluate import (
    EvalTargets,
    Method,
    ModelUnderTest,
    depends_on_length,
    eval_spec,
    prepare_unfitted,
)
from lexp.record.console import duration
from lexp.result_store import find
from lexp.runs.checkpoint import Checkpoint
from lexp.scoring.losses import collect
from lexp.scoring.memory import available_bytes, needed_bytes, spelled
from lexp.scoring.scorer import Piece, Scorer
from lexp.statistics import TokenLosses, decompose, difference, smallest_difference
from lexp.system.errors import LexpError, NotDefined

# In place of a protocol, in the rows of fits.
FIT = "fit"
# The pilot reads so many tokens of a run to measure its speed and how its losses vary.
PILOT_TOKENS = 16384
# So many seeds of a variant say how its seeds vary; a study has hundreds of runs.
PILOT_SEEDS = 3

# By text and vocabulary, whose tokens alone compare; by variant; by seed. None beyond PILOT_SEEDS.
Pilots = dict[tuple[str, str], dict[str, dict[int, TokenLosses | None]]]


@dataclass
class EvalCost:
    """The cost of one protocol and method over all runs, or of a method's fits.

    n_cells: results, or fits. n_known: those stored already. not_defined: those without a meaning.
    n_tokens, seconds: sums over those still to compute. n_bytes: the most that one of them needs.
    """

    n_cells: int = 0
    n_known: int = 0
    n_tokens: int = 0
    seconds: float = 0.0
    n_bytes: int = 0
    not_defined: int = 0


@dataclass
class CountedCosts:
    """What is counted so far. needs: by protocol and method. fits: digests of those counted.

    speeds, fit_pilots: by variant and method.
    """

    needs: dict[tuple[str, str], EvalCost] = field(default_factory=dict)
    speeds: dict[tuple[str, str], Growth] = field(default_factory=dict)
    fit_pilots: dict[tuple[str, str], WindowCost] = field(default_factory=dict)
    fits: set[tuple[Path, str]] = field(default_factory=set)


def print_cost(runs: list[RunWithData], plan: EvalPlan, rich: TableConsole) -> None:
    """Print results, tokens, time and memory by protocol and method, and what could be shown."""
    counted = CountedCosts()
    needs = counted.needs
    pilots: Pilots = {}
    free = None
    for opened, selected in _checkpoints(runs, plan, rich):
        try:
            tested = load_model_under_test(opened, plan, selected)
        except LexpError as error:
            rich.print(f"{opened.run.name}: {error}")
            continue
        free = available_bytes(next(tested.model.parameters()).device)
        for targets, method in itertools.product(opened.targets, opened.methods):
            _add(counted, tested, targets, method)
        read = opened.store.fingerprint, opened.store.tokenizer.digest
        by_seed = pilots.setdefault(read, {}).setdefault(tested.run.variant, {})
        seed, piloted = tested.run.seed, [n for n, losses in by_seed.items() if losses is not None]
        if seed in piloted or len(piloted) < PILOT_SEEDS:
            by_seed[seed] = pilot(tested)  # of several steps, the last one's
        else:
            by_seed[seed] = None
    rich.table(_table(needs))
    rest = sum(need.seconds for need in needs.values())
    most = max((need.n_bytes for need in needs.values()), default=0)
    there = f" of {spelled(free)} free" if free else ""
    rich.print(
        f"About {duration(rest)} in one process, {spelled(most)} of memory at most{there}; "
        "times are what a pilot on this machine took, scaled."
    )  # fmt: skip
    for targets in runs[0].targets if runs else []:
        rich.print(f"{targets.label}: {showable(targets, pilots)}")


def _checkpoints(
    runs: list[RunWithData], plan: EvalPlan, rich: TableConsole
) -> Iterator[tuple[RunWithData, Checkpoint | None]]:
    """Yield every selected checkpoint; a run that has none of a step is named."""
    for opened in runs:
        try:
            for selected in select_checkpoints(opened.run, plan.checkpoints):
                yield opened, selected
        except LexpError as error:
            rich.print(f"{opened.run.name}: {error}")


def _add(
    counted: CountedCosts, tested: ModelUnderTest, targets: EvalTargets, method: Method
) -> None:
    """Count a run's results of one protocol and method; a variant's runs are equally fast."""
    need = counted.needs.setdefault((targets.label, method.label), EvalCost())
    key, speeds = (tested.run.variant, method.label), counted.speeds
    shared = targets.protocol.nested and not depends_on_length(tested, targets, method)
    is_covered = False
    for length in sorted(targets.lengths, reverse=True):
        need.n_cells += 1
        spec = eval_spec(tested, targets, method, length)
        if stored := find(tested.folder, spec, read_arrays=False):
            need.n_known += 1
            is_covered |= shared and stored.ok
            continue
        try:
            model, pattern = prepare_unfitted(tested, method, length)
            fit = find_fit(tested, method, length, model)
            scorer = tested.objective.scorer(
                model, pattern, tested.autocast, targets.protocol, tested.make_attend
            )
            pieces = scorer.pieces(targets.windows(length))
            n_bytes = _bytes(scorer, pieces, tested.run.precision)  # cuts tiles, if they fit
        except NotDefined:
            need.not_defined += 1
            continue
        if is_covered:
            continue  # a longer length's pass gives it
        is_covered = shared
        if key not in speeds:
            speeds[key] = _speed(scorer, tested, length)
        need.n_tokens += sum(piece.size for piece in pieces)
        need.seconds += sum(grown(speeds[key], piece.size) for piece in pieces)
        need.n_bytes = max(need.n_bytes, n_bytes)
        if fit is not None:
            _add_fit(counted, tested, method, fit)


def _add_fit(
    counted: CountedCosts, tested: ModelUnderTest, method: Method, fit: PlannedFit
) -> None:
    """Count a fit, once for all results that need it."""
    name = tested.folder, fit.fit.spec.digest
    if name in counted.fits:
        return
    counted.fits.add(name)
    need = counted.needs.setdefault((FIT, method.label), EvalCost())
    need.n_cells += 1
    if not fit.n_steps:
        need.n_known += 1
        return
    key = tested.run.variant, method.label
    if key not in counted.fit_pilots:
        counted.fit_pilots[key] = measure_window(fit)
    window = counted.fit_pilots[key]
    need.n_tokens += fit.n_tokens
    need.seconds += fit.seconds(window)
    need.n_bytes = max(need.n_bytes, fit.n_bytes(window))


def _bytes(scorer: Scorer, pieces: list[Piece], precision: str) -> int:
    """Return the memory that a pass needs; NotDefined if the scheme overflows within a tile."""
    size = max(piece.size for piece in pieces)
    in_flight = max(size, min(scorer.batch_tokens, size * len(pieces)))
    item = 2 if precision == "bfloat16" else 4
    return needed_bytes(scorer.model, scorer.pattern, in_flight, size, item)


def _speed(scorer: Scorer, tested: ModelUnderTest, longest: int) -> Growth:
    """Return seconds per token, and per squared token of a window where every key is seen."""
    large = min(longest, PILOT_WINDOW)
    small = max(1, large // 4)
    seconds = []
    for size in (large, small):
        protocol = tested.objective.protocol
        windows = protocol.spans(tested.tokens, [min(longest, 4 * large)], None)[:1]
        read = [w for span in windows for w in protocol.windows(span, size)]
        scorer.score(tested.tokens, read[:1])  # tables are made once, memory is warm
        started = time.perf_counter()
        scorer.score(tested.tokens, read)
        seconds.append((time.perf_counter() - started) / sum(w.size for w in read))
    if scorer.pattern.is_bounded:
        return max(seconds), 0.0
    return by_size(small, seconds[1], large, seconds[0])


def pilot(tested: ModelUnderTest) -> TokenLosses:
    """Return losses under plain attention at the trained length, of a stretch of most documents."""
    train_len = tested.run.train_len
    n_targets: np.ndarray = tested.tokens.lengths - 1
    whole = n_targets[n_targets >= train_len]  # documents that fill a window
    n_tokens = int(n_targets.max())
    if len(whole):
        n_tokens = min(max(train_len, PILOT_TOKENS // len(whole)), int(np.median(whole)))
    protocol = tested.objective.protocol
    spans = protocol.spans(tested.tokens, [n_tokens], max(PILOT_TOKENS, n_tokens))
    windows = [w for span in spans for w in protocol.windows(span, train_len)]
    scorer = tested.objective.scorer(tested.model, tested.trained, tested.autocast, protocol)
    nats = scorer.score(tested.tokens, windows)
    losses = collect(tested.tokens, windows, protocol.contexts(windows), nats, train_len, "pilot")
    return TokenLosses(losses.nats, losses.document.astype(np.int64), losses.position)


def showable(targets: EvalTargets, pilots: Pilots) -> str:
    """Return in words the smallest difference between variants that the tokens can show."""
    documents = len({span.document for span in targets.spans})
    tokens = sum(span.n_tokens for span in targets.spans) / documents
    pairs = [
        difference(_first(a), _first(b), common=True)
        for variants in pilots.values()
        for a, b in itertools.pairwise(variants.values())
    ]
    if not pairs:
        several = "variants of unlike texts or vocabularies are not compared"
        return several if len(pilots) > 1 else "one variant alone is compared with nothing"
    if documents < 2:
        return "one document alone says nothing about other documents"
    try:
        parts = [decompose(pair) for pair in pairs]
    except ValueError as error:
        return f"what could be shown is not known ({error})"
    means = [
        [float(run.nats.mean()) for run in by_seed.values() if run is not None]
        for variants in pilots.values()
        for by_seed in variants.values()
    ]
    varied = [float(np.var(seeds, ddof=1)) for seeds in means if len(seeds) > 1]

    def spelled_range(seed_variance: float = 0.0, n_seeds: int = 1) -> str:
        least = [
            smallest_difference(v.tau2, v.sigma2, documents, tokens, seed_variance, n_seeds)
            for v in parts
        ]
        low = f"{min(least):.4f}"
        return low if len(least) == 1 else f"{low} (the most alike pair) to {max(least):.4f}"

    text = (
        f"{documents} documents of {tokens:.0f} scored tokens show differences from "
        f"{spelled_range()} nats per token between these very runs (80 % power, two-sided 5 %)"
    )
    if not varied:
        return f"{text}; how seeds vary is not known with one of each"
    n_seeds = min(len(seeds) for variants in pilots.values() for seeds in variants.values())
    return (
        f"{text}; between variants of {n_seeds} seeds each, "
        f"{spelled_range(float(np.mean(varied)), n_seeds)}"
    )


def _first(by_seed: dict[int, TokenLosses | None]) -> TokenLosses:
    """Return the losses of the lowest seed that has some."""
    return next(losses for losses in map(by_seed.get, sorted(by_seed)) if losses is not None)


def _table(needs: dict[tuple[str, str], EvalCost]) -> Table:
    rows = []
    for (protocol, method), need in needs.items():
        values = (
            need.n_cells, need.n_known, need.not_defined, f"{need.n_tokens / 1e6:.2f}M",
            duration(need.seconds), spelled(need.n_bytes),
        )  # fmt: skip
        rows.append(
            (TableCell(protocol), TableCell(method), *(TableCell(str(value)) for value in values))
        )
    heads = ("protocol", "method", "cells", "known", "not defined", "to read", "time", "memory")
    return Table("What this evaluation takes", heads, tuple(rows), 2)
