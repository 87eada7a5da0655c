"""Spectrum of absolute position embeddings: effective dimensions and rotating components.

Principal components of what a scheme adds to the embeddings, P [T, d_model], T the length: the
eigenvalues lambda_1 >= lambda_2 >= ... of the covariance of P over positions, and the projections
z_c(t) of P on its eigenvectors (PCA as in Wennberg and Henter 2024, "Learned Transformer Position
Embeddings Have a Low-Dimensional Structure", RepL4NLP). What turns is defined here so:

1. Components whose eigenvalue is at least `near` times the one before belong together, as only the
   space they span is determined. Within it planes are chosen that turn most from each token to the
   next: those of the antisymmetric part of sum_t y(t) y(t+1)^T, y the projections at variance 1.
2. In a plane w(t) = y_1(t) + i y_2(t), and how much of it is motion on a circle at one speed is

       C = max over f of |sum_t w(t) exp(-2 pi i f t)|^2 / (T sum_t |w(t)|^2)

   1 for a circle, 1/2 for a line to and fro, about ln(T)/T for noise. A plane turns if C is at
   least `circle`; its period is 1 / |f| tokens.

The share that turns is the variance in such planes over all variance. A wave longer than the text
is no circle in it, nor are two waves too near to be told apart: both count as not turning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lexp.display.document import Chart, Curve, Picture, Point
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.over_seeds import Kind, by_kind, finite_mean, in_order, longest_of_each
from lexp.instruments.position_embeddings import position_embeddings
from lexp.system.errors import NotDefined

PERCENT = (90, 95, 99)
N_SHOWN = 4  # components drawn against position
FINER = 8  # frequencies are looked for at 1 / (FINER T)


@dataclass(frozen=True)
class Plane:
    """Two directions among components, and how they rotate.

    variance: its share of all. circle: C. period: in tokens. first: its leading component, from 0.
    """

    first: int
    variance: float
    circle: float
    period: float


@dataclass(frozen=True)
class Spectrum(Instrument):
    """Dimensions that hold 90, 95 and 99 % of variance, and the share that turns with position."""

    near: float = 0.9
    circle: float = 0.8

    name = "spectrum"

    def __post_init__(self) -> None:
        if not (0 < self.near <= 1 and 0 < self.circle <= 1):
            raise ValueError(f"near={self.near}, circle={self.circle}: above 0 and at most 1")

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return rows of the measures, of every component and of every plane that turns."""
        if inputs.seq_len < 3:
            raise NotDefined("a spectrum needs texts of 3 tokens or more")
        p = position_embeddings(inputs).cpu().numpy()
        shares, projections = components(p)
        cumulative = shares.cumsum()
        turning = [
            plane for plane in planes(shares, projections, self.near) if plane.circle >= self.circle
        ]
        rows: list[Row] = [
            {"measure": f"dimensions_{percent}", "value": dimensions(cumulative, percent)}
            for percent in PERCENT
        ]
        rows.append({"measure": "turning", "value": sum(plane.variance for plane in turning)})
        rows.append({"measure": "planes", "value": len(turning)})
        for n, share in enumerate(shares.tolist()):
            rows.append({"measure": "component", "component": n + 1, "value": share})
        for plane in turning:
            rows.append({"measure": "plane", "component": plane.first + 1, "value": plane.variance,
                         "circle": plane.circle, "period": plane.period})  # fmt: skip
        shown: np.ndarray = projections[:, :N_SHOWN].astype(np.float32)
        return Measurement(tuple(rows), {"shares": shares, "projections": shown})

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return a table, cumulative variance, and leading components against position by model."""
        kinds = each_once(by_kind(results))
        longest = longest_of_each(kinds)
        charts = [projections_chart(kind, same[0]) for kind, same in longest.items()]
        return [table(kinds), cumulative_chart(kinds), *charts]


def components(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of variance [c], descending, and projections [T, c] of P; c = min(T, d)."""
    left, singular, _ = np.linalg.svd(p - p.mean(0), full_matrices=False)
    total = (singular**2).sum()
    if not total > 0:
        raise NotDefined("all positions have the same embedding")
    # Of each component the sign is free: the same one on every machine is where it ends positive.
    signs = np.where(left[-1] < 0, -1.0, 1.0)
    return singular**2 / total, left * signs * singular


def dimensions(cumulative: np.ndarray, percent: float) -> int:
    """Return how many leading components hold at least `percent` of variance."""
    return int((cumulative < percent / 100 * (1 - 1e-12)).sum()) + 1


def planes(shares: np.ndarray, projections: np.ndarray, near: float) -> list[Plane]:
    """Return planes of components whose eigenvalues are near each other, leading ones first.

    shares [c]; projections [T, c].
    """
    kept = int((shares > 1e-12).sum())  # the others are rounding
    planes: list[Plane] = []
    start = 0
    while start < kept:
        end = start + 1
        while end < kept and shares[end] >= near * shares[end - 1]:
            end += 1
        group = slice(start, end)
        y = projections[:, group] / np.linalg.norm(projections[:, group], axis=0)
        step = y[:-1].T @ y[1:]
        # i times an antisymmetric matrix is Hermitian: eigenvalues come as +-, a plane each.
        _, vectors = np.linalg.eigh(1j * (step - step.T))
        for n in range((end - start) // 2):
            vector = vectors[:, -1 - n]
            variance = 2 * float((np.abs(vector) ** 2 * shares[group]).sum())
            circle, frequency = circularity(y @ vector)
            period = 1 / abs(frequency) if frequency else float("inf")
            planes.append(Plane(start, variance, circle, period))
        start = end
    return planes


def circularity(w: np.ndarray) -> tuple[float, float]:
    """Return C of a complex w [T] and its frequency in turns a token, within (-1/2, 1/2]."""
    n = FINER * len(w)
    power = np.abs(np.fft.fft(w, n)) ** 2
    best = int(power.argmax())
    frequency = best / n if best <= n // 2 else best / n - 1
    return float(power[best] / (len(w) * (np.abs(w) ** 2).sum())), frequency


def each_once(
    kinds: dict[Kind, list[LabelledMeasurement]],
) -> dict[Kind, list[LabelledMeasurement]]:
    """Drop methods with the embeddings of another one: attention does not change them."""
    kept: dict[Kind, list[LabelledMeasurement]] = {}
    seen: set[tuple[str, int, bytes]] = set()
    for kind, results in kinds.items():
        key = kind.name, kind.length, results[0].measurement.arrays["shares"].tobytes()
        if key not in seen:
            seen.add(key)
            kept[kind] = results
    return kept


def name_of(kind: Kind, kinds: dict[Kind, list[LabelledMeasurement]]) -> str:
    """Return the model, with its method if its embeddings depend on it."""
    several = len({k.method for k in kinds if k.name == kind.name}) > 1
    return f"{kind.name} {kind.method}" if several else kind.name


def mean_of(results: Sequence[LabelledMeasurement], measure: str) -> float:
    """Return the mean of a measure over seeds."""
    rows = [
        row for result in results for row in result.measurement.rows if row["measure"] == measure
    ]
    return finite_mean([float(row["value"]) for row in rows])


def table(kinds: dict[Kind, list[LabelledMeasurement]]) -> Table:
    """Show effective dimensions and rotating components by model and length."""
    rows = []
    for kind, results in sorted(kinds.items(), key=lambda item: in_order(item[0])):
        n_dims = len(results[0].measurement.arrays["shares"])
        held = [f"{mean_of(results, f'dimensions_{percent}'):g}" for percent in PERCENT]
        turning = f"{100 * mean_of(results, 'turning'):.1f} %", f"{mean_of(results, 'planes'):g}"
        texts = [name_of(kind, kinds), str(kind.length), str(n_dims), *held, *turning]
        rows.append(tuple(map(TableCell, texts)))
    return Table(
        "Spectrum of position embeddings",
        ("model", "length", "dimensions", *(f"{p} %" for p in PERCENT), "turning", "planes"),
        tuple(rows),
        2,
        (
            "Principal components needed for 90, 95 and 99 % of the variance over positions. "
            "turning: share of variance in planes that turn at a constant speed; planes: how many.",
        ),
    )


def cumulative_chart(kinds: dict[Kind, list[LabelledMeasurement]]) -> Chart:
    """Draw cumulative variance against the number of components."""
    curves = []
    for kind, results in kinds.items():
        shares = np.mean([result.measurement.arrays["shares"] for result in results], axis=0)
        points = (Point(n + 1, 100 * float(v)) for n, v in enumerate(shares.cumsum()))
        curves.append(
            Curve(name_of(kind, kinds), f"{kind.length} tokens", tuple(points), own_x=True)
        )
    return Chart(
        "Variance of position embeddings",
        "leading components", "cumulative variance (%)", True, False, tuple(curves),
    )  # fmt: skip


def projections_chart(kind: Kind, result: LabelledMeasurement) -> Chart:
    """Draw the leading components of one model against position."""
    shares, values = result.measurement.arrays["shares"], result.measurement.arrays["projections"]
    curves = tuple(
        Curve(
            f"component {n + 1} ({100 * shares[n]:.1f} %)", "",
            tuple(Point(t, float(v)) for t, v in enumerate(values[:, n])), own_x=True,
        )
        for n in range(values.shape[1])
    )  # fmt: skip
    return Chart(
        f"Position embeddings of {kind.name}, {kind.length} tokens",
        "position (token)", "projection", False, False, curves,
        ((result.train_len, "trained"),) if kind.length > result.train_len else (),
    )  # fmt: skip
