"""The scale of scores that fits best at N times the trained length (Wang et al. 2024).

"Length Generalization of Causal Transformers without Position Encoding", arXiv 2404.12224: the
scale s that a frozen NoPE model does best with at N tokens is fitted as

    s = 1 + c ln(N / L)

L: the trained length. The paper has c = 0.3973 (50k steps, R^2 0.977) and 0.3010 (10k, 0.995). The
best s of a grid is taken here, moved to the vertex of the parabola through it and its two
neighbours; at an end of the grid it stays there, and the row says so.
"""

import math
from collections.abc import Sequence

import numpy as np

from lexp.display.table import Table, TableCell
from lexp.extension import UniformScale
from lexp.pattern import Full
from lexp.report.study_results import ResultSeries

EXTENSION, PRINTED = UniformScale.name, 0.3973


def scale_tables(all_series: Sequence[ResultSeries]) -> list[Table]:
    """Make a table for each model and protocol that was scored at three scales or more."""
    groups: dict[tuple, dict[float, ResultSeries]] = {}
    for series in all_series:
        scale = _scale(series)
        if series.pattern.name == Full.name and scale is not None:
            key = series.protocol.label, series.name, series.variant, series.scored
            groups.setdefault(key, {})[scale] = series
    return [
        table
        for by_scale in groups.values()
        if len(by_scale) > 2 and (table := _table(by_scale)) is not None
    ]


def _scale(series: ResultSeries) -> float | None:
    if not series.is_extended:
        return 1.0
    # An open scale follows the length: no point of a grid.
    scale = series.extension.values.get("scale") if series.extension.name == EXTENSION else None
    return None if scale is None else float(scale)


def _table(by_scale: dict[float, ResultSeries]) -> Table | None:
    first = next(iter(by_scale.values()))
    best_by_length: dict[int, tuple[float, float, bool]] = {}
    for length in (n for n in first.lengths if n > first.train_len):
        scored = {
            scale: series for scale, series in sorted(by_scale.items()) if series.has_number(length)
        }
        # Means over other seeds are no points of one parabola.
        if len({frozenset(series.results[length]) for series in scored.values()}) > 1:
            continue
        nll = {
            scale: float(np.mean([result.nll for result in series.results[length].values()]))
            for scale, series in scored.items()
        }
        if len(nll) > 2:
            best_by_length[length] = best_scale(nll)
    if not best_by_length:
        return None
    at = {length / first.train_len: scale for length, (scale, _, _) in best_by_length.items()}
    c, r2 = fit(at)
    rows = []
    for length, (scale, loss, inside) in best_by_length.items():
        x = math.log(length / first.train_len)
        values = (
            str(length), f"{length / first.train_len:g}", f"{scale:.3f}", f"{loss:.4f}",
            f"{1 + c * x:.3f}", f"{1 + PRINTED * x:.3f}", "" if inside else "end of the grid",
        )  # fmt: skip
        rows.append(tuple(map(TableCell, values)))
    quality = f", R² {r2:.3f}" if math.isfinite(r2) else ""
    scales = ", ".join(f"{scale:g}" for scale in sorted(by_scale))
    return Table(
        f"Best uniform scale, {first.row_name}, {first.protocol.label}",
        ("length", "N / L", "best s", "nats per token", "fit", f"1 + {PRINTED} ln(N/L)", ""),
        tuple(rows), 1,
        (f"Fit: s = 1 + {c:.4f} ln(N / L){quality}; printed: c = 0.3973 after 50k steps, 0.3010 "
         f"after 10k (Wang et al. 2024). Scales tried: {scales}; mean over seeds.",),
    )  # fmt: skip


def best_scale(nll: dict[float, float]) -> tuple[float, float, bool]:
    """Return the scale of least loss, its loss on the grid, and whether it is inside the grid."""
    scales = sorted(nll)
    n = min(range(len(scales)), key=lambda i: nll[scales[i]])
    if n in (0, len(scales) - 1):
        return scales[n], nll[scales[n]], False
    near = scales[n - 1 : n + 2]
    a, b, _ = np.polyfit(near, [nll[scale] for scale in near], 2)
    return float(-b / (2 * a)) if a > 0 else scales[n], nll[scales[n]], True


def fit(at: dict[float, float]) -> tuple[float, float]:
    """Fit c of s = 1 + c ln x by least squares; also R^2 about the mean of s (NaN of one point)."""
    x = np.log(list(at))
    s = np.array(list(at.values()))
    c = float((x * (s - 1)).sum() / (x**2).sum())
    spread = float(((s - s.mean()) ** 2).sum())
    left = float(((s - 1 - c * x) ** 2).sum())
    return c, 1 - left / spread if len(s) > 1 and spread > 0 else math.nan
