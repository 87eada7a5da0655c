"""NoPE: no position encoding; the causal mask is the only source of order.

Haviv et al. 2022 (arXiv 2203.16634); why it works: Chi et al. 2023 (arXiv 2305.13571).
"""

from lexp.position.base import Position


class NoPE(Position):
    """Leaves embeddings, queries, keys and scores alone."""

    two_sided = True
