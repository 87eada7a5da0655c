"""p-RoPE (Barbero et al. 2024, "Round and Round We Go!", arXiv 2410.06205, section 6).

RoPE that rotates only the highest fraction p of the frequencies; the channels of the lowest 1 - p,
which carry semantics rather than position, are left alone. p = 1 is RoPE, p = 0 NoPE.
The paper does not say how p d/2 is rounded. The functions of DeepMind's gemma library (apply_rope,
`rope_proportion`) and of transformers (`proportional`) round down, and so does this one.
"""

from lexp.position.rope import RoPE


class PRoPE(RoPE):
    """RoPE on a share of the channel pairs, the fastest ones."""

    def __init__(self, head_dim: int, p: float = 0.75, base: float = 10000.0):
        super().__init__(head_dim, base)
        if not 0 <= p <= 1:
            raise ValueError(f"p_rope needs p from 0 to 1, got {p}")
        rotated = int(p * head_dim // 2)
        for c in range(rotated, len(self.frequencies)):
            self.frequencies[c] = 0.0
