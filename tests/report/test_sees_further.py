"""Which methods let queries see keys beyond the trained length, as claims are sorted by it."""

from types import SimpleNamespace

import pytest

from lexp.pattern import Blockwise, Full, OwnChunk, Pattern, Window
from lexp.report.claims import Claim
from lexp.result_store import component_of


@pytest.mark.parametrize(
    ("pattern", "further"),
    [
        (Full(), True), (Window(), False), (Window(16), False), (Window(17), True),
        (Window(share=0.5), False), (Blockwise(), False), (Blockwise(9), True),
        (OwnChunk(), False), (OwnChunk(16), False), (OwnChunk(17), True),
    ],
)  # fmt: skip
def test_a_method_sees_further_than_in_training_by_its_sizes(pattern: Pattern, further: bool):
    series = SimpleNamespace(pattern=component_of(pattern), train_len=16)
    assert Claim(series, *[None] * 6).sees_further == further  # type: ignore[arg-type]
