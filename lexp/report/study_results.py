"""The results of a study, put in order for tables, curves and claims."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lexp.evaluate import EvalResult
from lexp.extension import Extension, method_label
from lexp.pattern import Trained
from lexp.report.row_names import RowNames, Scored, row_key, row_names, scored_of
from lexp.result_store import Component
from lexp.scoring.losses import Losses
from lexp.scoring.protocol import ProtocolInfo
from lexp.statistics import TokenLosses
from lexp.system.errors import DataError
from lexp.system.text import natural

# Attention to every key that a model may see, causal or not; and how rows follow each other.
PLAIN = ("full", "bidirectional")
# The pattern of training, whatever it was.
AS_TRAINED = Trained.name
# The most memory that losses take which a report keeps; others are read whenever they are needed.
KEPT_BYTES, TOKEN_BYTES = 1 << 30, 20
ORDER = (
    "full", "blockwise", "window",
    "bidirectional", "bidirectional_blockwise", "bidirectional_window",
)  # fmt: skip


@dataclass(frozen=True)
class ResultSeries:
    """A variant under one method and protocol, on the same tokens: results by length, then seed.

    note: what tells the variant from others of its model, such as `lr=0.01`, or "". scored: what
    all results read; only series that agree in it compare. where: what tells that from others of
    the study, or "". stands_for_full: there is no number of this variant's full attention, so that
    it as trained is the model as it is.
    """

    model: str
    note: str
    pattern: Component
    extension: Component
    protocol: ProtocolInfo
    train_len: int
    variant: str
    scored: Scored
    where: str = ""
    stands_for_full: bool = False
    results: dict[int, dict[int, EvalResult]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the model, with what tells its variant apart."""
        return " ".join(filter(None, (self.model, self.note)))

    @property
    def row_name(self) -> str:
        """Return the name, with where, if that is not the same everywhere."""
        return f"{self.name} {self.where}".rstrip()

    @property
    def plain_method(self) -> str:
        """Return the pattern, and the extension if there is one."""
        return method_label(self.pattern.label, self.extension.label)

    @property
    def method(self) -> str:
        """Return the method, and where, if that is not the same everywhere."""
        return f"{self.plain_method} {self.where}".rstrip()

    @property
    def is_extended(self) -> bool:
        """Return True if something in the model's positions was changed after training."""
        return self.extension.name != Extension.name or bool(self.extension.code)

    @property
    def is_plain(self) -> bool:
        """Return True if this is the model as it is: every key it may see, no extension."""
        is_own = bool(self.pattern.code)
        is_full = self.pattern.name in PLAIN or self.stands_for_full
        return is_full and not is_own and not self.is_extended

    @property
    def lengths(self) -> list[int]:
        """Return every length, ascending."""
        return sorted(self.results)

    @property
    def seeds(self) -> list[int]:
        """Return every seed that any length has, ascending."""
        return sorted({seed for by_seed in self.results.values() for seed in by_seed})

    @property
    def every_result(self) -> list[EvalResult]:
        """Return the results of all lengths and seeds."""
        return [result for by_seed in self.results.values() for result in by_seed.values()]

    def has_number(self, length: int) -> bool:
        """Return True if there is a number of every seed at a length."""
        return length in self.results and not self.failure(length)

    def failure(self, length: int) -> str:
        """Say why a length has no number for every seed, or ""."""
        status, reason = self._failure(length)
        return f"{status} ({reason})" if reason else status

    def short_failure(self, length: int) -> str:
        """Return the failure at a length without its reason, or ""."""
        return self._failure(length)[0]

    def _failure(self, length: int) -> tuple[str, str]:
        by_seed = self.results[length]
        for result in by_seed.values():
            if not result.ok:
                return result.status, result.reason
        missing = [str(seed) for seed in self.seeds if seed not in by_seed]
        return (f"seed {', '.join(missing)} was not scored" if missing else ""), ""


def do_compare(a: ResultSeries, b: ResultSeries, length: int) -> bool:
    """Return True if the numbers of two series at a length, which both have, compare.

    Both read the same; and two methods of one variant are means over the same seeds, because a
    seed's luck would pass for the method's.
    """
    same_seeds = set(a.results[length]) == set(b.results[length])
    return a.scored == b.scored and (a.variant != b.variant or same_seeds)


class DocumentIds:
    """One number for each document's name, so that tokens of different results can be matched."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def scored(self, losses: Losses) -> TokenLosses:
        """Return losses with documents numbered alike in all results of a study."""
        ids = [self._ids.setdefault(name, len(self._ids)) for name in losses.names]
        document = np.array(ids, dtype=np.int64)[losses.document]
        return TokenLosses(losses.nats, document, losses.position)


def make_series(
    results: Sequence[EvalResult], notes: Mapping[str, str], names: RowNames | None = None
) -> list[ResultSeries]:
    """Put results of one step together that differ in seed and length alone.

    notes: by variant. names: of more results than these, where rows of several calls are shown
    together.
    """
    by_key: dict[tuple, ResultSeries] = {}
    names = names or row_names(results)
    for result in results:
        run = result.run
        series = by_key.setdefault(
            row_key(result),
            ResultSeries(
                run.model, notes.get(run.variant, ""), result.pattern, result.extension,
                result.protocol, run.train_len, run.variant, scored_of(result),
                names.where(result),
            ),
        )  # fmt: skip
        series.results.setdefault(result.length, {})[run.seed] = result
    found = list(by_key.values())
    with_full = {
        _same_model(one) for one in found if one.is_plain and any(map(one.has_number, one.lengths))
    }
    found = [
        replace(one, stands_for_full=one.pattern.name == AS_TRAINED and key not in with_full)
        for one, key in zip(found, map(_same_model, found), strict=True)
    ]
    return sorted(found, key=_place)


def _same_model(series: ResultSeries) -> tuple[str, str, Scored]:
    """Return what the methods of one model under one protocol and on one text have in common."""
    return series.variant, series.protocol.label, series.scored


def keep_losses(results: Sequence[EvalResult]) -> None:
    """Keep the losses of results in memory, as far as that is small: tables read them often."""
    n_bytes = 0
    for result in results:
        n_bytes += result.tokens * TOKEN_BYTES
        if n_bytes > KEPT_BYTES:
            break
        if result.ok:
            with contextlib.suppress(DataError):  # said where the arrays are checked
                _ = result.kept_losses


def by_protocol(
    all_series: Sequence[ResultSeries],
) -> Iterator[tuple[ProtocolInfo, list[ResultSeries]]]:
    """Yield series by protocol: unlike numbers never share a table."""
    for label in sorted({series.protocol.label for series in all_series}):
        same = [series for series in all_series if series.protocol.label == label]
        yield same[0].protocol, same


def method_rank(method: str) -> tuple[int, str]:
    """Return a key to sort methods by: the usual ones first."""
    return (ORDER.index(method) if method in ORDER else len(ORDER)), method


def _place(series: ResultSeries) -> tuple:
    rank = method_rank(series.plain_method)
    return series.protocol.label, series.model, natural(series.note), rank, series.method
