"""The interval of a share, such as that of right answers."""

import math
from statistics import NormalDist

LEVEL = 0.95


def wilson(n_right: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927, JASA 22, p. 209).

    It stays within 0 and 1, and has a width where all answers are right, or none is.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = n_right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
