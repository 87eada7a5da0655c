"""How often 95 % intervals of clustered means hold the truth: the table in clustered.py.

    python scripts/interval_coverage.py     # about three minutes on one core

Documents differ with a standard deviation of 0.3 nats, tokens with 3 nats, skewed (a gamma sum of
as many draws as a third of the tokens).
"""

import numpy as np
from scipy import stats

from lexp.statistics.clustered import half_width

REPEATS, DRAWS, TOKENS, SPREAD = 2000, 2000, 256, 0.8
KINDS = ("one size", "spread sizes", "longer is harder")


def documents(kind: str, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Nats and tokens of documents, [REPEATS, n]."""
    z = random.normal(size=(REPEATS, n))
    sizes = np.full((REPEATS, n), TOKENS) if kind == "one size" else sizes_of(z)
    effect = random.normal(0, 0.3, (REPEATS, n))
    if kind == "longer is harder":
        effect = 0.8 * effect + 0.18 * z  # the same variance
    independent = sizes / 3
    noise = 3 * (random.gamma(independent) / independent - 1)
    return sizes * (3 + effect + noise), sizes.astype(float)


def sizes_of(z: np.ndarray) -> np.ndarray:
    """Return the tokens of documents, at least 16, from standard normal draws."""
    return np.maximum(16, TOKENS * np.exp(SPREAD * z - SPREAD**2 / 2)).astype(int)


def truth(kind: str) -> float:
    """Return the loss per token that the documents of a kind are drawn around."""
    if kind != "longer is harder":
        return 3.0
    z = np.random.default_rng(0).normal(size=4_000_000)
    return float(3 + 0.18 * (sizes_of(z) * z).mean() / sizes_of(z).mean())


def intervals(sums: np.ndarray, sizes: np.ndarray, random: np.random.Generator) -> dict:
    """(low, high) [REPEATS] by method; the rivals share their draws of documents."""
    n = sums.shape[1]
    value = sums.sum(1) / sizes.sum(1)
    residuals = sums - value[:, None] * sizes
    error = np.sqrt((residuals**2).sum(1) * n / (n - 1)) / sizes.sum(1)
    without = (sums.sum(1, keepdims=True) - sums) / (sizes.sum(1, keepdims=True) - sizes)
    apart = without.mean(1, keepdims=True) - without
    jackknife = np.sqrt((apart**2).sum(1) * (n - 1) / n)
    counts = random.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(float)
    tokens = counts @ sizes.T
    drawn = np.sort(counts @ sums.T / tokens, axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    wider, t = np.sqrt(n / (n - 1)), stats.t.ppf(0.975, n - 1)

    bias = stats.norm.ppf(np.clip((drawn < value).mean(0), 1 / DRAWS, 1 - 1 / DRAWS))
    skew = (apart**3).sum(1) / (6 * (apart**2).sum(1) ** 1.5)
    bca = []
    for z in (-1.96, 1.96):
        share = stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
        row = np.clip((share * DRAWS).astype(int), 0, DRAWS - 1)
        bca.append(drawn[row, np.arange(REPEATS)])
    two_sided = equal_tails(residuals, sizes, counts) * error
    ours = used_here(sums, sizes)
    return {
        "percentile": (low, high),
        "inflated": (value - (value - low) * wider, value + (high - value) * wider),
        "BCa": tuple(bca),
        "cluster t": (value - t * error, value + t * error),
        "jackknife t": (value - t * jackknife, value + t * jackknife),
        "bootstrap-t": (value - two_sided[1], value - two_sided[0]),
        "ours": (value - ours, value + ours),
    }


def used_here(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Half widths of lexp's own intervals, [REPEATS]."""
    rows = zip(sums, sizes, strict=True)
    return np.array([half_width(s, m, 0.95, DRAWS, 0)[0] for s, m in rows])


def equal_tails(residuals: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The 2.5 % and 97.5 % quantiles of the signed bootstrap t, [2, REPEATS]."""
    n, tokens = sizes.shape[1], counts @ sizes.T
    moved = counts @ residuals.T / tokens
    squares = counts @ (residuals**2).T - 2 * moved * (counts @ (residuals * sizes).T)
    squares = np.maximum(squares + moved**2 * (counts @ (sizes**2).T), 1e-30)
    return np.quantile(moved / (np.sqrt(squares * n / (n - 1)) / tokens), [0.025, 0.975], axis=0)


def main() -> None:
    """Print the coverage of every interval for every kind and number of documents."""
    random, for_few = np.random.default_rng(1), np.random.default_rng(2)
    for kind in KINDS:
        true = truth(kind)
        for n in (2, 3, 4):
            sums, sizes = documents(kind, n, for_few)
            apart = np.abs(sums.sum(1) / sizes.sum(1) - true)
            held = 100 * (apart <= used_here(sums, sizes)).mean()
            print(f"{kind:17}G={n:<3} ours {held:.1f}", flush=True)
        for n in (5, 10, 20, 50):
            found = intervals(*documents(kind, n, random), random)
            cells = [
                f"{name} {100 * ((low <= true) & (true <= high)).mean():.1f} "
                f"({np.median(high - low):.2f})"
                for name, (low, high) in found.items()
            ]
            print(f"{kind:17}G={n:<3}", "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
