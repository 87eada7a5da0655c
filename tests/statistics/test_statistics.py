"""Claims from per-token losses against brute force, scipy, and simulations of known truth."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from lexp.statistics import (
    TokenLosses,
    across,
    against_window,
    aligned,
    by_context,
    decompose,
    difference,
    gain,
    geometric_edges,
    holm,
    independent,
    key_tokens,
    last,
    mean,
    paired,
    paired_by_seed,
    reach,
    same_tokens,
    scored,
    sign_flips,
    smallest_difference,
    t_interval,
)
from lexp.statistics.clustered import _bootstrap_t, half_width


def from_rows(losses: np.ndarray, documents: np.ndarray | None = None) -> TokenLosses:
    """Targets 1, 2, ... of each row's document."""
    n_rows, n_tokens = losses.shape
    rows = np.arange(n_rows) if documents is None else documents
    position = np.tile(np.arange(1, n_tokens + 1), n_rows)
    return TokenLosses(losses.reshape(-1), np.repeat(rows, n_tokens), position)


SIZES = (3, 40, 7, 25, 11, 18, 60)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make(sizes=SIZES, seed: int = 0, effect: float = 0.5) -> TokenLosses:
    """Skewed losses in documents of these sizes, which are numbered 10, 20, ..."""
    draw, sizes = random(seed), np.array(sizes, dtype=int)
    document = np.repeat(10 * np.arange(1, len(sizes) + 1), sizes)
    position = np.concatenate([np.arange(1, n + 1) for n in sizes])
    shift = np.repeat(draw.normal(0, effect, len(sizes)), sizes)
    return TokenLosses(draw.exponential(3.0, len(document)) + shift, document, position)


def plus(losses: TokenLosses, by) -> TokenLosses:
    return TokenLosses(losses.nats + by, losses.document, losses.position)


def shuffled(losses: TokenLosses, seed: int = 5) -> TokenLosses:
    return losses.where(random(seed).permutation(len(losses)))


def estimate(losses: TokenLosses, **options):
    return mean(losses.nats, losses.document, **options)


def ends(e) -> tuple[float, float, float]:
    return e.value, e.low, e.high


# losses


def test_tokens_are_matched_by_document_and_position():
    a = make()
    b = shuffled(plus(make(), -np.arange(len(a), dtype=float)))
    at_b = {(d, p): x for d, p, x in zip(b.document, b.position, b.nats, strict=True)}
    naive = [
        x - at_b[d, p] for d, p, x in zip(a.document, a.position, a.nats, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(difference(a, b).nats, naive)
    np.testing.assert_allclose(naive, np.arange(len(a)))
    assert same_tokens(a, b)


def test_tokens_in_the_same_order_are_matched_without_sorting_and_still_only_once(monkeypatch):
    a = make()
    b = plus(make(), -np.arange(len(a), dtype=float))
    by_sorting = difference(a, shuffled(b))
    monkeypatch.setattr(scored, "_codes", None)
    np.testing.assert_array_equal(difference(a, b).nats, by_sorting.nats)
    np.testing.assert_array_equal(difference(a, b).position, a.position)
    assert same_tokens(a, b)
    monkeypatch.undo()
    # The same array on both sides, a token twice in it: neighbours, or far from each other.
    for again in (np.sort(np.append(np.arange(len(a)), 4)), np.append(np.arange(len(a)), 4)):
        twice = a.where(again)
        with pytest.raises(ValueError, match="first losses hold a token twice"):
            aligned(twice, twice)


def test_other_tokens_are_refused_unless_the_common_ones_are_asked_for():
    a = make()
    some = a.where(np.flatnonzero(a.position % 3 > 0))
    for pair in ((a, some), (some, a)):
        assert not same_tokens(*pair)
        with pytest.raises(ValueError, match="not the same tokens"):
            paired(*pair)
        assert paired(*pair, common=True).n_tokens == len(some)
    moved = TokenLosses(a.nats, a.document, a.position + 1)
    with pytest.raises(ValueError, match="of which 157 are common"):
        paired(a, moved)
    of_other_documents = TokenLosses(a.nats, a.document + 1000, a.position)
    assert paired(a, of_other_documents, common=True).reason == "no tokens"
    twice = a.where(np.append(np.arange(len(a)), 4))
    with pytest.raises(ValueError, match="second losses hold a token twice"):
        aligned(a, twice)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        mean(np.zeros(3), np.zeros(2, int))
    with pytest.raises(ValueError, match="losses are floats and labels ints"):
        mean(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="level"):
        mean(np.zeros(3), np.zeros(3, int), level=95)


# clustered


def test_the_mean_is_total_nats_over_total_tokens():
    losses = make()
    exact = sum(Fraction(float(x)) for x in losses.nats) / len(losses)
    e = estimate(losses)
    assert e.value == pytest.approx(float(exact), rel=1e-14)
    per_document = [losses.nats[losses.document == d].mean() for d in np.unique(losses.document)]
    assert abs(e.value - np.mean(per_document)) > 0.01  # a mean of means would be another number
    assert (e.n_documents, e.n_tokens, e.level) == (7, 164, 0.95)


def test_the_interval_is_the_symmetric_bootstrap_t():
    """Against loops over drawn documents that recompute everything from the tokens."""
    losses = make()
    names = np.unique(losses.document)
    sums = [losses.nats[losses.document == d].sum() for d in names]
    sizes = [int((losses.document == d).sum()) for d in names]

    def ratio_and_error(chosen):
        s, m = [sums[i] for i in chosen], [sizes[i] for i in chosen]
        value = sum(s) / sum(m)
        squares = sum((x - value * n) ** 2 for x, n in zip(s, m, strict=True))
        return value, math.sqrt(squares * len(s) / (len(s) - 1)) / sum(m)

    value, error = ratio_and_error(range(7))
    counts = random(3).multinomial(7, [1 / 7] * 7, size=400)
    t = []
    for row in counts:
        drawn, drawn_error = ratio_and_error(np.repeat(np.arange(7), row))
        t.append(abs(drawn - value) / drawn_error if row.max() < 7 else math.inf)
    half = sorted(t)[math.ceil(0.9 * 400) - 1] * error
    e = estimate(losses, level=0.9, draws=400, seed=3)
    assert ends(e) == pytest.approx((value, value - half, value + half), rel=1e-9)
    assert e.method == "bootstrap-t"


def test_few_documents_have_the_jackknifes_t_interval():
    losses = make((9, 30, 14))
    names = np.unique(losses.document)
    without = [losses.nats[losses.document != d].mean() for d in names]
    error = math.sqrt(2 / 3 * sum((x - np.mean(without)) ** 2 for x in without))
    e = estimate(losses)
    assert e.high - e.value == pytest.approx(stats.t.ppf(0.975, 2) * error, rel=1e-9)
    assert e.method == "jackknife t"


@pytest.mark.parametrize("n", [2, 10, 20])
def test_equal_documents_give_about_students_interval(n):
    losses = make((20,) * n)
    means = losses.nats.reshape(n, 20).mean(axis=1)
    low, high = stats.t.interval(0.95, n - 1, means.mean(), stats.sem(means))
    e = estimate(losses)
    assert 0.9 < (e.high - e.low) / (high - low) < 1.3
    if n == 2:
        assert (e.low, e.high) == pytest.approx((low, high))


@pytest.mark.parametrize("n", [3, 8, 12])
def test_intervals_hold_the_truth_as_often_as_they_say(n):
    draw, held, repeats = random(n), 0, 600
    sizes = np.maximum(16, 200 * np.exp(draw.normal(0, 0.5, (repeats, n)))).astype(int)
    for m in sizes:
        sums = m * (3 + draw.normal(0, 0.3, n) + 3 * (draw.gamma(m / 3) / (m / 3) - 1))
        half, _ = half_width(sums, m.astype(float), 0.95, 400, 0)
        held += abs(sums.sum() / m.sum() - 3) <= half
    # Percentile intervals hold it in 75, 88 and 90 % of these.
    assert 0.92 <= held / repeats <= 0.985


def test_a_hundred_tokens_of_one_mean_are_one_draw():
    """Tokens of a document that say the same leave the interval as it was."""
    losses = make()
    many = losses.where(np.repeat(np.arange(len(losses)), 100))
    assert ends(estimate(many)) == pytest.approx(ends(estimate(losses)))
    naive = 1.96 * many.nats.std() / math.sqrt(len(many))
    e = estimate(many)
    assert e.high - e.value > 5 * naive


def test_a_level_that_the_documents_cannot_give():
    """Of five, one is drawn five times in 0.16 % of draws: no error, and no 99.99 % interval."""
    e = estimate(make((9, 30, 14, 8, 20)), level=0.9999, draws=20_000)
    assert (e.low, e.high) == (-math.inf, math.inf) and "too few documents" in e.reason
    alone = (random(0).multinomial(5, [0.2] * 5, size=20_000) == 5).any(axis=1).sum()
    for k in range(10):  # whatever rounding leaves of an error of zero
        residuals, sizes = random(k).normal(size=5), random(k).integers(9, 99, 5).astype(float)
        assert np.isinf(_bootstrap_t(residuals, sizes, 20_000, 0)).sum() == alone > 0


def test_order_units_and_names_change_nothing():
    losses = make()
    e = ends(estimate(losses))
    assert ends(estimate(shuffled(losses))) == pytest.approx(e, rel=1e-12)
    assert ends(mean(losses.nats, losses.document * 3 - 50)) == pytest.approx(e, rel=1e-12)
    assert ends(estimate(plus(losses, 7.0))) == pytest.approx([x + 7 for x in e], rel=1e-9)
    assert ends(mean(losses.nats * 4, losses.document)) == pytest.approx([4 * x for x in e])
    assert ends(estimate(losses, seed=1)) != e  # the draws are random, and seeded
    assert ends(estimate(losses)) == e


def test_large_losses_keep_their_small_differences():
    """Squares of 1e8 nats would swallow a spread of 1e-3."""
    a = make(effect=0.0)
    small = TokenLosses(1e-3 * a.nats, a.document, a.position)
    width = estimate(small).high - estimate(small).low
    far = estimate(plus(small, 1e4))
    assert far.high - far.low == pytest.approx(width, rel=1e-3)


def test_pairing_removes_what_both_share():
    a = make(effect=2.0)
    b = shuffled(plus(a, -0.1 + 0.01 * random(2).normal(size=len(a))))
    d = paired(a, b)
    assert d.low < 0.1 < d.high
    assert d.high - d.low < 0.02 < estimate(a).high - estimate(a).low
    back = paired(b, a)
    assert (back.value, back.low, back.high) == pytest.approx((-d.value, -d.high, -d.low))
    assert ends(paired(a, shuffled(a))) == (0, 0, 0)


def test_one_document_one_token_and_none():
    one = make((12,))
    e = estimate(one)
    assert e.value == pytest.approx(one.nats.mean()) and math.isnan(e.low) and math.isnan(e.high)
    assert e.reason == "one document alone has no interval"
    token = mean(np.array([2.5]), np.array([4]))
    assert (token.value, token.n_tokens, math.isnan(token.low)) == (2.5, 1, True)
    nothing = mean(np.array([]), np.array([], int))
    assert math.isnan(nothing.value) and nothing.reason == "no tokens"


@pytest.mark.parametrize("bad, value", [(math.inf, math.inf), (math.nan, math.nan)])
def test_a_loss_that_is_not_finite_is_never_dropped(bad, value):
    losses = make()
    losses.nats[[50, 60]] = bad, 1.0
    e = estimate(losses)
    assert str(e.value) == str(value) and math.isnan(e.low) and math.isnan(e.high)
    assert e.reason == "1 of 164 losses are not finite, the first in document 40"
    d = paired(losses, losses)  # inf - inf
    assert math.isnan(d.value) and "not finite" in d.reason


# seeds


def runs(n: int, seed: int = 0, spread: float = 0.3, shift: float = 0.0) -> dict[int, TokenLosses]:
    base, draw = make(), random(100 + seed)
    return {
        4 * k: shuffled(
            plus(base, shift + draw.normal(0, spread) + draw.normal(0, 1, len(base))), k
        )
        for k in range(n)
    }


def test_across_seeds_states_both_intervals():
    given = runs(4)
    a = across(given)
    values = [given[n].nats.mean() for n in (0, 4, 8, 12)]
    assert a.seeds == pytest.approx(values) and a.numbers == (0, 4, 8, 12)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (a.over_seeds.low, a.over_seeds.high) == pytest.approx((low, high))
    assert a.over_documents.value == pytest.approx(a.mean) == pytest.approx(np.mean(values))
    # Jointly drawn documents: as if all runs' tokens were more tokens of the same documents.
    nats = np.concatenate([r.nats for r in given.values()])
    document = np.concatenate([r.document for r in given.values()])
    assert ends(a.over_documents) == pytest.approx(ends(mean(nats, document)))


def test_one_seed_has_no_interval_over_seeds():
    a = across(runs(1))
    assert math.isnan(a.over_seeds.low) and a.over_seeds.reason.startswith("one seed")
    assert math.isfinite(a.over_documents.low)
    d = independent(runs(1), runs(3))
    assert math.isnan(d.p) and d.over_seeds.reason.startswith("one seed")
    with pytest.raises(ValueError, match="no runs"):
        across({})
    with pytest.raises(ValueError, match="no runs"):
        independent(runs(2), {})
    with pytest.raises(ValueError, match="not the same tokens"):
        across({0: make(), 1: make((5, 6, 7, 8, 9))})


def test_independent_seeds_are_welchs_test():
    a, b = runs(5), runs(3, seed=1, spread=0.05, shift=0.6)
    d = independent(a, b)
    reference = stats.ttest_ind(d.a, d.b, equal_var=False)
    ci = reference.confidence_interval(0.95)
    assert d.p == pytest.approx(reference.pvalue) and d.test == "Welch t"
    assert (d.over_seeds.low, d.over_seeds.high) == pytest.approx((ci.low, ci.high))
    assert d.over_documents.value == pytest.approx(d.mean)


def test_seeds_as_pairs_are_the_paired_test():
    a, b = runs(5), runs(5, seed=1, shift=0.2)
    d = paired_by_seed(a, b)
    reference = stats.ttest_rel(d.a, d.b)
    ci = reference.confidence_interval(0.95)
    assert d.p == pytest.approx(reference.pvalue) and d.test.startswith("paired t")
    assert (d.over_seeds.low, d.over_seeds.high) == pytest.approx((ci.low, ci.high))
    assert d.p != pytest.approx(independent(a, b).p)
    with pytest.raises(ValueError, match="are no pairs"):
        paired_by_seed(a, runs(4))


def test_a_broken_seed_breaks_the_mean():
    given = runs(3)
    given[4].nats[7] = math.inf
    a = across(given)
    assert a.mean == math.inf and math.isnan(a.over_seeds.low)
    assert a.over_seeds.reason == "a seed's loss is not finite"
    assert a.over_documents.value == math.inf
    assert math.isnan(independent(given, runs(3)).p)


def test_seeds_without_spread():
    assert t_interval([2.0, 2.0, 2.0]).low == t_interval([2.0, 2.0, 2.0]).high == 2
    same = {n: make() for n in range(3)}
    assert independent(same, same).p == 1 and paired_by_seed(same, same).p == 1
    assert independent(same, {n: plus(make(), 0.5) for n in range(2)}).p == 0


# comparisons


def test_sign_flips_are_enumerated():
    losses = plus(make(effect=1.0), -3.6)
    names = np.unique(losses.document)
    sums = [float(losses.nats[losses.document == d].sum()) for d in names]
    totals = [
        abs(math.fsum(s * x for s, x in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=7)
    ]
    p = sum(t >= totals[0] - 1e-9 for t in totals) / 128
    test = sign_flips(losses)
    assert test.p == p and 2 / 128 < p < 1
    assert (test.exact, test.n_flips, test.smallest_p) == (True, 128, 2 / 128)
    assert sign_flips(plus(make(effect=0.0), 5.0)).p == 2 / 128
    assert sign_flips(shuffled(losses)).p == p
    means = np.array([1.0, 2.0, -0.5, 3.0, 0.7])  # equal sizes: scipy has it too
    reference = stats.permutation_test(
        (means,), lambda x: abs(np.mean(x)), permutation_type="samples", alternative="greater"
    )
    flips = sign_flips(TokenLosses(means, np.arange(5), np.arange(5)))
    assert flips.p == pytest.approx(reference.pvalue)


def test_random_flips_come_near_the_exact_p():
    sums = random(4).normal(0.45, 1, 17)
    test = sign_flips(TokenLosses(sums, np.arange(17), np.arange(17)))
    assert (test.exact, test.n_flips, test.smallest_p) == (False, 20000, 1 / 20001)
    signs = np.array(list(itertools.product((1, -1), repeat=16)))
    exact = (np.abs(signs @ sums[1:] + sums[0]) >= abs(sums.sum()) - 1e-9).mean()
    assert 0.005 < exact < 0.3 and test.p == pytest.approx(exact, abs=0.01)
    far = TokenLosses(sums + 9, np.arange(17), np.arange(17))
    assert 0 < sign_flips(far, flips=99).p <= 0.02


def test_ties_count_whatever_rounding_does():
    """0.1 + 0.2 - 0.3 is not zero in floats; every pattern of equal values ties by pairs."""
    equal = TokenLosses(np.array([0.1, 0.2, -0.3, 0.1]), np.arange(4), np.arange(4))
    exact = [
        abs(a + 2 * b - 3 * c + d) for a, b, c, d in itertools.product((1, -1), repeat=4)
    ]  # fmt: skip
    assert sign_flips(equal).p == sum(x >= 1 for x in exact) / 16


def test_p_values_are_uniform_where_nothing_differs():
    draw = random(8)
    p = []
    for _ in range(800):
        sums = draw.normal(0, 1, 8) * draw.gamma(2, 1, 8)
        p.append(sign_flips(TokenLosses(sums, np.arange(8), np.arange(8))).p)
    for level in (0.05, 0.25, 0.5):
        assert np.mean(np.array(p) <= level) == pytest.approx(level, abs=0.05)
        assert np.mean(np.array(p) <= level) > 0.3 * level


def test_flips_without_an_answer():
    one = sign_flips(make((9,)))
    assert (one.p, one.smallest_p, one.n_flips) == (1, 1, 2)
    broken = make()
    broken.nats[0] = math.nan
    assert math.isnan(sign_flips(broken).p) and "not finite" in sign_flips(broken).reason
    assert sign_flips(make().where(np.array([], int))).reason == "no tokens"


def test_holm_is_the_closed_bonferroni_test():
    """Adjusted p: the worst Bonferroni p of all subfamilies that hold the comparison."""
    p = {"a": 0.012, "b": 0.4, "c": 0.011, "d": 0.03, "e": 0.0004}
    found = {h.name: h for h in holm(p, "all against rope")}
    assert list(found) == list(p)
    for name in p:
        families = [
            f for n in range(1, 6) for f in itertools.combinations(p, n) if name in f
        ]  # fmt: skip
        worst = max(min(1.0, len(f) * min(p[x] for x in f)) for f in families)
        assert found[name].adjusted == pytest.approx(worst)
        assert (found[name].p, found[name].family_size) == (p[name], 5)
        assert found[name].family == "all against rope"


def test_a_failed_comparison_still_counts_in_its_family():
    failed, fine = holm({"failed": math.nan, "fine": 0.02}, "two")
    assert math.isnan(failed.adjusted) and (fine.adjusted, fine.family_size) == (0.04, 2)
    assert holm({}, "none") == ()
    with pytest.raises(ValueError, match="not a p-value"):
        holm({"x": 1.2}, "one")


# reach


def lengths(**by_name: float) -> dict[int, TokenLosses]:
    """Scored at lengths like n512=0.1: the trained ones plus that, with a little noise."""
    base = make((50,) * 12)
    return {
        int(name[1:]): plus(base, by + (0.3 * random(i).normal(size=len(base)) if i else 0))
        for i, (name, by) in enumerate(by_name.items())
    }


def test_reach_ends_at_the_first_length_that_is_worse():
    given = lengths(n64=0.0, n128=-0.02, n256=0.0, n512=0.3, n1024=-0.1)
    r = reach(given, 64, 0.1)
    assert (r.length, r.sure, r.possible, r.censored, r.longest) == (256, 256, 256, False, 1024)
    # An unsure length divides sure and possible.
    given[256] = plus(given[256], 0.099 - paired(given[256], given[64]).value)
    r = reach(given, 64, 0.1)
    assert (r.length, r.sure, r.possible) == (256, 128, 256)
    given[256] = plus(given[256], 0.002)
    r = reach(given, 64, 0.1)
    assert (r.length, r.sure, r.possible) == (128, 128, 256)
    # That 512 is fine does not mend 256, and leaves it possible that 256 is fine too.
    given[512] = plus(given[512], -0.3)
    r = reach(given, 64, 0.1)
    assert (r.length, r.sure, r.possible, r.censored) == (128, 128, 1024, False)


def test_a_reach_to_the_longest_length_is_censored():
    given = lengths(n32=9.0, n64=0.0, n128=-0.02, n256=0.0)  # shorter ones do not matter
    r = reach(given, 64, 0.1)
    assert (r.length, r.sure, r.possible, r.censored, r.reason) == (256, 256, 256, True, "")
    assert reach(given, 256, 0.1).length == 256
    assert reach(given, 64, 1e9).length == 256


@pytest.mark.parametrize("failure", ["out of memory", math.nan, math.inf])
def test_a_failed_length_ends_the_reach(failure):
    given: dict = lengths(n64=0.0, n128=0.0, n256=0.0, n512=0.0)
    if isinstance(failure, str):
        given[256] = failure
    else:
        given[256].nats[3] = failure
    r = reach(given, 64, 0.1)
    assert (r.length, r.sure, r.possible, r.censored) == (128, 128, 128, False)
    assert r.reason.startswith("256: ")


def test_a_reach_that_cannot_be_told():
    given: dict = lengths(n64=0.0, n128=0.0, n256=0.0)
    r = reach(given, 96, 0.1)
    assert (r.length, r.sure, r.reason) == (None, None, "the trained length 96 was not evaluated")
    prefix = {**given, 256: given[256].where(np.arange(100))}
    r = reach(prefix, 64, 0.1)
    assert r.length is None and r.reason == "64 and 256 were not scored on the same tokens"
    r = reach({**given, 64: "not defined"}, 64, 0.1)
    assert r.length is None and r.reason == "the trained length 64: not defined"
    broken = {**given, 64: plus(given[64], math.nan)}
    assert reach(broken, 64, 0.1).length is None
    with pytest.raises(ValueError, match="delta"):
        reach(given, 64, -0.1)


def test_one_document_reaches_without_being_sure():
    base = make((80,))
    r = reach({64: base, 128: plus(base, 0.05), 256: plus(base, 0.2)}, 64, 0.1)
    assert (r.length, r.sure, r.possible) == (128, None, None)
    assert r.reason == "one document alone has no interval"


def test_sure_is_rarely_too_far():
    """Exactly at delta the claim is false: it may be made in 2.5 % of studies, at any length."""
    draw, too_far, repeats = random(11), 0, 400
    document, position = np.repeat(np.arange(10), 4), np.tile(np.arange(4), 10)
    zero = TokenLosses(np.zeros(40), document, position)
    for _ in range(repeats):
        nats = [0.1 + np.repeat(draw.normal(0, 0.1, 10), 4) for _ in range(3)]
        given = {64: zero} | {
            64 * 2**k: TokenLosses(x, document, position) for k, x in enumerate(nats, 1)
        }  # fmt: skip
        r = reach(given, 64, 0.1, draws=300)
        assert r.sure is not None and r.possible is not None and r.length is not None
        assert r.sure <= r.length <= r.possible
        too_far += r.sure > 64
    assert 0 < too_far / repeats < 0.05


def test_gain_is_what_context_saves():
    given: dict = lengths(n64=0.0, n128=-0.25)
    g = gain(given, 64, 128)
    assert g.value == pytest.approx(0.25, abs=0.05) and 0 < g.low < g.value < g.high
    assert ends(g) == ends(paired(given[64], given[128]))
    given[256] = "out of memory"
    assert gain(given, 64, 256).reason == "256: out of memory"
    with pytest.raises(KeyError):
        gain(given, 64, 512)
    with pytest.raises(ValueError, match="not the same tokens"):
        gain({64: given[64], 128: given[128].where(np.arange(9))}, 64, 128)


def test_the_verdict_against_the_window():
    given = lengths(n1=0.0, n2=-0.2, n3=0.2, n4=0.0)
    window = given.pop(1)
    verdicts = [against_window(given[n], window).verdict for n in (2, 3, 4)]
    assert verdicts == ["better than a window", "worse than a window", "no better than a window"]
    same = against_window(window, window)
    assert same.verdict == "no better than a window" and same.difference.high == 0
    assert against_window(plus(window, math.inf), window).verdict == "worse than a window"
    assert against_window(window, plus(window, math.inf)).verdict == "not known"
    one = make((30,))
    assert against_window(plus(one, -1), one).verdict == "not known"


# power


def pilot(n: int, tokens: int, tau: float, sigma: float, rho: float, seed: int) -> np.ndarray:
    """Differences [n, tokens] of AR(1) noise of long-run standard deviation sigma."""
    draw = random(seed)
    noise = draw.normal(0, sigma * (1 - rho), (n, tokens + 200))
    for t in range(1, tokens + 200):
        noise[:, t] += rho * noise[:, t - 1]
    return draw.normal(0, tau, (n, 1)) + noise[:, 200:]


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_a_pilot_tells_its_variances(rho):
    d = from_rows(pilot(200, 900, 0.05, 1.2, rho, 1))
    v = decompose(d)
    assert v.block == 30
    assert v.sigma2 == pytest.approx(1.44, rel=0.12)
    assert v.tau2 == pytest.approx(0.0025, rel=0.5)
    again = decompose(shuffled(d))  # order within documents comes from the positions
    assert (again.tau2, again.sigma2) == pytest.approx((v.tau2, v.sigma2))
    naive = decompose(d, block=1).sigma2
    assert naive == pytest.approx(1.44 * (1 - rho) / (1 + rho), rel=0.1)


def test_a_pilots_variances_by_hand():
    nats = np.array([1.0, 3.0, 2.0, 6.0, 9.0, 5.0, 0.0, 2.0, 7.0])
    d = TokenLosses(nats, np.repeat([1, 2], [5, 4]), np.append(np.arange(5), np.arange(4)))
    v = decompose(d, block=2)  # blocks 2, 4 (9 is left over) and 2.5, 4.5
    assert v.sigma2 == pytest.approx(2 * (2.0 + 2.0) / 2)
    means = np.var([21 / 5, 14 / 4], ddof=1)
    assert v.tau2 == max(0, means - 4 * (1 / 5 + 1 / 4) / 2)
    with pytest.raises(ValueError, match="one document alone"):
        decompose(make((50,)))
    with pytest.raises(ValueError, match="two blocks of 30"):
        decompose(make((30, 59)), block=30)
    with pytest.raises(ValueError, match="not finite"):
        decompose(plus(make(), math.nan))


@pytest.mark.parametrize("n_documents, tokens", [(6, 100), (20, 200)])
def test_the_smallest_difference_is_found_in_eighty_per_cent(n_documents, tokens):
    tau, sigma, repeats = 0.05, 1.2, 2000
    far = smallest_difference(tau**2, sigma**2, n_documents, tokens)
    draws = pilot(repeats * n_documents, tokens, tau, sigma, 0.5, n_documents)
    means = draws.mean(axis=1).reshape(repeats, n_documents)
    found = stats.ttest_1samp(means + far, 0, axis=1).pvalue < 0.05
    false = stats.ttest_1samp(means, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)
    assert false.mean() == pytest.approx(0.05, abs=0.015)


def test_the_smallest_difference_with_seeds():
    """Two variants of n seeds each, tested with both variances estimated."""
    n_documents, n_seeds, of_seeds, of_documents, repeats = 20, 4, 0.02, 0.06, 6000
    far = smallest_difference(0.0, of_documents**2 * 100, n_documents, 100, of_seeds**2, n_seeds)
    draw = random(3)
    documents = draw.normal(0, of_documents, (repeats, n_documents))
    seeds = draw.normal(0, of_seeds, (2, repeats, n_seeds))
    centre = documents.mean(1) + seeds[0].mean(1) - seeds[1].mean(1)
    d = documents.var(1, ddof=1) / n_documents
    s = seeds.var(2, ddof=1).sum(0) / n_seeds
    freedom = (d + s) ** 2 / (d**2 / (n_documents - 1) + s**2 / (2 * (n_seeds - 1)))
    critical = stats.t.ppf(0.975, freedom)
    assert np.mean(np.abs(centre + far) / np.sqrt(d + s) > critical) == pytest.approx(0.8, abs=0.03)
    assert np.mean(np.abs(centre) / np.sqrt(d + s) > critical) == pytest.approx(0.05, abs=0.015)


def test_the_interval_of_paired_finds_that_difference():
    """The interval that is reported has about the power that was planned for Student's t."""
    far = smallest_difference(0.05**2, 1.2**2, 12, 100)
    found = 0
    rows = pilot(12 * 300, 100, 0.05, 1.2, 0.0, 9).reshape(300, 12, 100) + far
    for row in rows:
        d = from_rows(row)
        found += mean(d.nats, d.document, draws=300).low > 0
    assert found / 300 == pytest.approx(0.78, abs=0.07)


def test_what_more_of_each_is_worth():
    base = smallest_difference(0.01, 1.0, 10, 100)
    assert smallest_difference(0.01, 1.0, 20, 100) < base / math.sqrt(2)
    assert smallest_difference(0.01, 1.0, 10, 10**9) == pytest.approx(base / math.sqrt(2), rel=1e-6)
    assert smallest_difference(0.04, 4.0, 10, 100) == pytest.approx(2 * base)
    assert smallest_difference(0.01, 1.0, 10, 100, power=0.9) > base
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * math.sqrt(0.02 / 10**6)
    assert smallest_difference(0.01, 1.0, 10**6, 100) == pytest.approx(normal, rel=1e-4)
    assert smallest_difference(0.01, 1.0, 10, 100, seed_variance=0.001) == math.inf
    assert smallest_difference(0, 0, 10, 100) == 0
    for bad in ((0, 0, 1, 10), (0, 0, 5, 0), (-1, 0, 5, 5)):
        with pytest.raises(ValueError):
            smallest_difference(*bad)
    with pytest.raises(ValueError, match="power"):
        smallest_difference(0.01, 1.0, 10, 100, power=1.0)


# curves


@pytest.mark.parametrize("longest", [1, 2, 3, 63, 64, 65, 1000])
@pytest.mark.parametrize("per_octave", [1, 2, 5])
def test_geometric_edges_cover_every_context_once(longest, per_octave):
    edges = geometric_edges(longest, per_octave)
    assert edges[0] == 1 and edges[-1] == longest + 1 and (np.diff(edges) > 0).all()
    ratios = np.log2(edges[1:] / edges[:-1])
    assert (ratios[edges[:-1] > 8 * per_octave] < 1.2 / per_octave).all()


def test_geometric_edges_by_hand():
    assert geometric_edges(16, 1).tolist() == [1, 2, 4, 8, 16, 17]
    assert geometric_edges(15, 1).tolist() == [1, 2, 4, 8, 16]
    assert geometric_edges(8, 2).tolist() == [1, 2, 3, 4, 6, 8, 9]
    with pytest.raises(ValueError):
        geometric_edges(0)


def test_loss_by_context():
    losses = make((64,) * 6)
    context = (losses.position - 1) % 16 + 1
    bins = by_context(losses.nats, losses.document, context, geometric_edges(16, 1))
    assert [(b.first, b.below) for b in bins] == [(1, 2), (2, 4), (4, 8), (8, 16), (16, 17)]
    assert [b.n_tokens for b in bins] == [24, 48, 96, 192, 24]
    for b in bins:
        inside = (b.first <= context) & (context < b.below)
        assert ends(b.loss) == ends(estimate(losses.where(inside)))
    whole = sum(b.loss.value * b.n_tokens for b in bins) / len(losses)
    assert whole == pytest.approx(estimate(losses).value)
    for edges in ([1, 9], [2, 17]):
        with pytest.raises(ValueError, match="are outside"):
            by_context(losses.nats, losses.document, context, np.array(edges))
    empty = by_context(losses.nats, losses.document, context, np.array([1, 17, 99]))[1]
    assert empty.n_tokens == 0 and empty.loss.reason == "no tokens"
    for edges in ([1], [1, 1, 20]):
        with pytest.raises(ValueError, match="ascend"):
            by_context(losses.nats, losses.document, context, np.array(edges))


def test_the_last_targets_of_windows():
    losses = make((40,) * 6)  # windows of 16, 16 and 8, of which the short one has no last targets
    context = (losses.position - 1) % 16 + 1
    chosen = [p in (14, 15, 16, 30, 31, 32) for p in losses.position]
    e = last(losses.nats, losses.document, context, 16, 3)
    assert ends(e) == ends(estimate(losses.where(np.array(chosen)))) and e.n_tokens == 36
    assert last(losses.nats, losses.document, context, 16, 16).n_tokens == len(losses)
    for k in (0, 17):
        with pytest.raises(ValueError, match="the last"):
            last(losses.nats, losses.document, context, 16, k)


def test_key_tokens_by_hand():
    document, position = np.zeros(5, int), np.arange(5)
    long = TokenLosses(np.array([0.5, 1.9, 2.0, 0.5, 1.0]), document, position)
    short = TokenLosses(np.array([3.0, 4.0, 9.0, 2.5, 1.0]), document, position)
    # gains 2.5, 2.1, 7 (but likelihood at beta, not above), 2 (at alpha, not above), 0
    assert key_tokens(short, long).tolist() == [True, True, False, False, False]
    assert key_tokens(shuffled(short), long).tolist() == [True, True, False, False, False]
    assert key_tokens(short, long, alpha=-1, beta=-0.7).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="finite"):
        key_tokens(plus(short, math.inf), long)
    with pytest.raises(ValueError, match="not the same tokens"):
        key_tokens(short.where(np.arange(4)), long)


def test_a_judge_gains_on_its_own_choice_from_noise_alone():
    """No context helps here at all: the judge's gain is luck, and another run has none."""
    tokens = make((400,) * 10, effect=0.0)
    noisy = [plus(tokens, random(k).normal(0, 1.0, len(tokens))) for k in range(4)]
    chosen = key_tokens(noisy[0], noisy[1], beta=-4.0)
    assert chosen.sum() > 50
    own = paired(noisy[0].where(chosen), noisy[1].where(chosen))
    other = paired(noisy[2].where(chosen), noisy[3].where(chosen))
    assert own.low > 2.0
    assert other.low < 0 < other.high and abs(other.value) < 0.3


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n_documents", [2, 3, 4, 6, 10, 100])
def test_the_smallest_difference_is_found_as_often_as_said(n_documents, power):
    """Of t statistics drawn around it, with the variance given, so many are significant."""
    found = smallest_difference(0.04, 0.0, n_documents, 1, power=power)
    random, freedom = np.random.default_rng(0), n_documents - 1
    far = found / math.sqrt(0.04 / n_documents)
    t = (random.standard_normal(200_000) + far) / np.sqrt(
        random.chisquare(freedom, 200_000) / freedom
    )
    critical = stats.t.ppf(0.975, freedom)
    assert (np.abs(t) > critical).mean() == pytest.approx(power, abs=0.006)
