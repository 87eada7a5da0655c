"""Readings for a longer target length: positions, text and targets, against the papers' rules."""

import math
from collections import Counter

import numpy as np
import pytest

from lexp.data import Tokens
from lexp.data.reading import CREAM, PoSE, RandPos, Segmented

T, FACTOR = 36, 3
TARGET = T * FACTOR


def counting(*lengths: int) -> Tokens:
    """Documents whose tokens are their own places."""
    ids = np.concatenate([np.arange(n) for n in lengths]).astype(np.uint16)
    names = tuple(map(str, range(len(lengths))))
    return Tokens(names, ids, np.cumsum([0, *lengths]), None)


def steps_of(reading, *lengths: int, n: int = 200, batch: int = 1):
    batches = reading.batches(counting(*lengths), None, T, batch, seed=4)
    return [batches.batch(step) for step in range(n)]


def cuts(positions: np.ndarray) -> list[int]:
    """Where the next position is not one more."""
    return (np.flatnonzero(np.diff(positions) != 1) + 1).tolist()


READINGS = (Segmented(TARGET), PoSE(TARGET), CREAM(TARGET), RandPos(TARGET))


@pytest.mark.parametrize("reading", READINGS, ids=lambda r: type(r).__name__)
def test_positions_ascend_below_the_target_and_targets_are_the_next_tokens(reading):
    long = TARGET + 1
    for windows in steps_of(reading, long, 3 * long, n=60, batch=2):
        assert windows.positions.shape == (T,) and windows.positions.dtype == np.int64
        assert (np.diff(windows.positions) > 0).all()
        assert windows.positions[0] >= 0 and windows.positions[-1] < TARGET
        rows = windows.tokens.astype(int)
        assert np.array_equal(windows.is_target, np.diff(rows) == 1), "true by construction"
    one, other = (reading.batches(counting(long, 3 * long), None, T, 2, seed=s) for s in (4, 5))
    fresh = reading.batches(counting(long, 3 * long), None, T, 2, seed=4)
    for step in (31, 4, 17):
        assert np.array_equal(one.batch(step).tokens, fresh.batch(step).tokens)
        assert np.array_equal(one.batch(step).positions, fresh.batch(step).positions)
    assert any(
        not np.array_equal(one.batch(s).positions, other.batch(s).positions) for s in range(3)
    )


def test_segments_keep_their_positions_in_the_text():
    """chunk-alpha: 1/alpha pieces of alpha T tokens without overlap; all placements as likely."""
    seen = Counter()
    for windows in steps_of(Segmented(TARGET, alpha=0.25), TARGET + 1):
        tokens, positions = windows.tokens[0], windows.positions
        assert np.array_equal(tokens[:-1], positions)
        assert all(cut % 9 == 0 for cut in cuts(positions))  # pieces that touch are one
        assert windows.is_target[0].sum() == T - len(cuts(positions))
        seen.update(positions.tolist())
    assert seen[0] < seen[TARGET // 2] and len(seen) > 0.9 * TARGET
    # What is shorter than the target is left out: the third of 331 tokens here.
    batches = Segmented(TARGET).batches(counting(109, 111, 111), None, T, 1, 0)
    assert batches.n_windows == 3
    short = Segmented(TARGET).batches(counting(109, 108), None, T, 1, 0)
    assert short.n_windows == 1 and short.remarks()[1].startswith("left out: 49.8 % of the tokens")


def test_pose_skips_in_the_text_and_in_positions_independently():
    firsts, skips, ends = [], [], []
    for windows in steps_of(PoSE(TARGET), TARGET + 1, n=800):
        positions, tokens = windows.positions, windows.tokens[0].astype(int)
        split = cuts(positions) or cuts(tokens[:-1]) or [None]
        (first,) = split
        if first is None:
            continue
        assert np.array_equal(positions[:first], np.arange(first))
        assert np.array_equal(tokens[:first], np.arange(first))
        skips.append(positions[first] - first)
        assert np.array_equal(positions[first:], np.arange(first, T) + skips[-1])
        ends.append(tokens[-1])
        assert np.array_equal(tokens[first:], np.arange(tokens[first], tokens[-1] + 1))
        assert windows.is_target[0, first - 1] == (tokens[first] == first)
        firsts.append(first)
    assert min(firsts) == 1 and max(firsts) == (T + 1) // 2
    assert min(skips) == 0 and max(skips) == TARGET - T
    assert min(ends) == T and max(ends) == TARGET
    assert abs(np.corrcoef(skips, ends)[0, 1]) < 0.1
    assert np.mean(skips) == pytest.approx((TARGET - T) / 2, rel=0.1)


def truncated(u: float, factor: int, sigma: float) -> float:
    """The paper's middle factor in half windows: the Gaussian's inverse, kept between 2 and 2s."""
    low, high = 2.0, 2.0 * factor
    for _ in range(60):
        middle = (low + high) / 2
        below = 0.5 * (1 + math.erf((middle - 1 - factor) / (sigma * math.sqrt(2))))
        low, high = (middle, high) if below < u else (low, middle)
    return low


def test_cream_has_a_head_a_tail_and_a_middle_between_them():
    firsts = set()
    for windows in steps_of(CREAM(TARGET), TARGET + 1, n=200):
        positions, tokens = windows.positions, windows.tokens[0]
        end = T // 3  # which is 4 s here
        assert np.array_equal(positions[:end], np.arange(end))
        assert np.array_equal(positions[T - end :], np.arange(TARGET - end, TARGET))
        middle = positions[end : T - end]
        assert (np.diff(middle) == 1).all()
        assert middle[0] >= end and middle[-1] < TARGET - end
        assert np.array_equal(tokens[:-1], positions)  # the text has target_len tokens
        firsts.add(int(middle[0]))
    assert min(firsts) == end and max(firsts) > TARGET / 2


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_creams_middle_is_drawn_from_the_clipped_gaussian(sigma):
    """The mean of the middle's end over many draws is that of the papers' rule."""
    length, factor = 64, 6
    reading, rng = CREAM(length * factor, sigma=sigma), np.random.default_rng(1)
    ends: dict[int, list[int]] = {}
    for _ in range(1500):
        pieces = reading.draw(length, rng)
        n_end, n_middle, _ = pieces.sizes
        ends.setdefault(n_end, []).append(pieces.positions[n_end + n_middle - 1])
    for n_end in (length // 3, 4 * factor):
        n_middle = length - 2 * n_end
        wanted = []
        for n in range(2000):
            g = int(truncated((n + 0.5) / 2000, factor, sigma))
            low, high = int(n_end + (n_middle - 1) * g / 2), int(g * length / 2) - n_end - 1
            wanted.append((low + high) / 2)
        assert len(ends[n_end]) == pytest.approx(750, rel=0.1)
        assert np.mean(ends[n_end]) == pytest.approx(np.mean(wanted), rel=0.04)


def test_cream_moves_the_middle_before_the_tail_of_a_text_that_is_too_short():
    for windows in steps_of(CREAM(TARGET), T + 20, n=40):
        tokens, end = windows.tokens[0].astype(int), T // 3
        assert tokens[:end].tolist() == list(range(end))
        assert tokens[-end - 1 :].tolist() == list(range(T + 19 - end, T + 20))
        assert tokens[T - end - 1] <= T + 18 - end


def test_randpos_reads_on_at_a_random_subset_of_positions():
    seen = Counter()
    for windows in steps_of(RandPos(TARGET), 3 * T + 1):
        assert windows.is_target.all()
        assert (np.diff(windows.tokens[0].astype(int)) == 1).all()
        seen.update(windows.positions.tolist())
    counts = np.array([seen[position] for position in range(TARGET)])
    assert counts.mean() == pytest.approx(200 / FACTOR) and counts.std() < 10


@pytest.mark.parametrize(
    ("make", "length", "line"),
    [
        (lambda: Segmented(30), 31, "target_len=30 is less than train_len=31"),
        (lambda: Segmented(alpha=0.3), 8, "alpha=0.3 .1, 1/2, 1/3"),
        (lambda: Segmented(alpha=0.05), 8, "more pieces than train_len=8 tokens"),
        (lambda: CREAM(100), 64, "target_len=100 is no multiple of train_len=64"),
        (lambda: CREAM(), 16, "train_len=16 is too short for two ends of 16 tokens"),
        (lambda: CREAM(sigma=0), 16, "sigma=0 .above 0"),
    ],
)
def test_what_does_not_fit_is_refused(make, length, line):
    with pytest.raises(ValueError, match=line):
        make().draw(length, np.random.default_rng(0))


def test_the_target_is_four_windows_unless_it_is_given():
    assert PoSE().target(128) == 512 and PoSE(300).target(128) == 300
