"""HoPE: high-frequency rotary position encoding (Chen et al. 2024, arXiv 2410.21216).

RoPE in which only frequencies with at least one full turn within the trained length are rotated,
theta > 2 pi / train_len; the others, which would enforce a long-term decay and are never seen
through a whole turn, become position-independent.
The paper's text and code could not be read; the rule is that of two independent accounts of it.
"""

import math

from lexp.position.rope import RoPE


class HoPE(RoPE):
    """RoPE on the channel pairs whose wavelength fits into train_len tokens."""

    def __init__(self, head_dim: int, train_len: int, base: float = 10000.0):
        super().__init__(head_dim, base)
        least = 2 * math.pi / train_len
        self.frequencies = [theta if theta > least else 0.0 for theta in self.frequencies]
