"""T5 relative position bias (Raffel et al. 2020, arXiv 1910.10683, section 2.1), causal form.

    score(i, j) = q_i . k_j / sqrt(d) + w[h, bucket(i - j)]

Half of the buckets hold one distance each, the others grow logarithmically up to max_distance and
the last one takes all that is farther. T5 itself leaves out 1/sqrt(d) and folds it into its
initialisation; here the trunk is the same for all schemes, so it stays.
"""

import math

import torch
from torch import Tensor, nn

from lexp.position.base import Bias, Position


class T5(Position):
    """A learned scalar per head and distance bucket, shared by all layers.

    n_buckets: even, half of them exact. max_distance: where the last bucket begins.
    """

    relative = True
    by_distance = True
    reads_inputs = False

    def __init__(self, n_heads: int, n_buckets: int = 32, max_distance: int = 128):
        super().__init__()
        if n_buckets < 2 or n_buckets % 2 or max_distance <= n_buckets // 2:
            raise ValueError(
                f"t5 needs an even n_buckets and max_distance above half of it, "
                f"got {n_buckets} and {max_distance}"
            )
        self.n_buckets, self.max_distance = n_buckets, max_distance
        self.weight = nn.Parameter(torch.randn(n_heads, n_buckets) * 0.02)

    def bucket(self, distance: Tensor) -> Tensor:
        """Return the bucket index of distances i - j; distances below 0 share bucket 0."""
        exact = self.n_buckets // 2
        # Rounding down at bucket borders must not depend on the precision that positions, which a
        # method may have made fractions, happen to be in.
        distance = distance.clamp(min=0).double() + 1e-5
        steps = (distance.clamp(min=1) / exact).log() / math.log(self.max_distance / exact)
        log_bucket = exact + (steps * exact).floor()
        bucket = torch.where(distance < exact, distance, log_bucket)
        return bucket.clamp(max=self.n_buckets - 1).long()

    def bias(self, x: Tensor) -> Bias:
        """Return w[h, bucket(i - j)]."""
        weight = self.weight
        return lambda pair: weight[pair.h, self.bucket(pair.q_pos - pair.k_pos)]
