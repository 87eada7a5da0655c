"""ALiBi: attention with linear biases (Press et al. 2021, arXiv 2108.12409, section 3).

    score(i, j) = q_i . k_j / sqrt(d) - m_h |i - j|,  m_h a geometric series over heads

The bias is not divided by sqrt(d). Section 3 of the paper gives one series for any number of heads,
m_h = 2^(-8 h / n_heads), h = 1 .. n_heads. For counts that are no power of two its authors' code
(ofirpress/attention_with_linear_biases 4b92f28) takes slopes of two series, and so do the models
that go by this name: `powers`, the default. `geometric` is the one series of the text.
The paper is about causal models, i >= j; the absolute value is its authors' own suggestion for
bidirectional ones (issue 5 of their repository).
"""

import torch
from torch import Tensor

from lexp.position.base import Bias, Position


def geometric_slopes(n_heads: int) -> list[float]:
    """Return the series with first term and ratio 2^(-8/n_heads)."""
    return [2.0 ** (-8 * (h + 1) / n_heads) for h in range(n_heads)]


def alibi_slopes(n_heads: int) -> list[float]:
    """Return the slopes of the authors' code: for 2^k heads the geometric series.

    Other head counts take the series of the power of two below, then every second slope of the
    one above.
    """
    power = 1 << (n_heads.bit_length() - 1)
    return (geometric_slopes(power) + geometric_slopes(2 * power)[::2])[:n_heads]


SERIES = {"powers": alibi_slopes, "geometric": geometric_slopes}


class ALiBi(Position):
    """A penalty linear in the distance, one fixed slope per head.

    series: powers, the slopes of ALiBi's code; or geometric, 2^(-8 h / n_heads) for every count.
    """

    relative = True
    two_sided = True
    by_distance = True
    reads_inputs = False

    def __init__(self, n_heads: int, series: str = "powers"):
        super().__init__()
        if n_heads < 1 or series not in SERIES:
            raise ValueError(
                f"alibi needs n_heads >= 1 and series {' or '.join(SERIES)}, "
                f"got {n_heads} and {series}"
            )
        slopes = torch.tensor(SERIES[series](n_heads))
        self.slopes: Tensor
        self.register_buffer("slopes", slopes, persistent=False)

    def bias(self, x: Tensor) -> Bias:
        """Return -m_h |i - j|."""
        slopes = self.slopes
        return lambda pair: -slopes[pair.h] * (pair.q_pos - pair.k_pos).abs()
