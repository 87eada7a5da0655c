"""Mean reciprocal ranks, by hand."""

import pytest

from lexp.statistics import mean_reciprocal_ranks


def test_the_highest_score_is_first():
    # nope: 1/1, 1/2, 1/3; t5: 1/2, 1/1, 1/1; rope: 1/3, 1/3, 1/2.
    ranks = mean_reciprocal_ranks(
        [
            {"nope": 0.9, "t5": 0.5, "rope": 0.1},
            {"nope": 0.4, "t5": 0.8, "rope": 0.0},
            {"nope": 0.1, "t5": 1.0, "rope": 0.3},
        ]
    )
    assert ranks == pytest.approx({"nope": 11 / 18, "t5": 5 / 6, "rope": 7 / 18})


def test_equal_scores_share_their_places():
    # Places 2 and 3 between them: (1/2 + 1/3) / 2.
    assert mean_reciprocal_ranks([{"a": 0.0, "b": 1.0, "c": 0.0}]) == pytest.approx(
        {"a": 5 / 12, "b": 1, "c": 5 / 12}
    )
    # All five places among five schemes that answer nothing: the mean of 1, 1/2, ..., 1/5.
    nothing = mean_reciprocal_ranks([dict.fromkeys("abcde", 0.0)])
    assert nothing == pytest.approx(dict.fromkeys("abcde", 137 / 300))


def test_every_comparison_is_among_all():
    assert mean_reciprocal_ranks([]) == {}
    with pytest.raises(ValueError, match="must have a, b"):
        mean_reciprocal_ranks([{"a": 1.0, "b": 0.0}, {"a": 1.0}])
