"""The parts of a layer that trunks choose: norms, and the function of the feed-forward layer."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

# A matched width that is no whole number is rounded to a multiple of this.
WIDTH_STEP = 8


class Norm:
    """A kind of norm over the last dimension, with learned weights that start at 1 and no bias."""

    def make(self, width: int) -> nn.Module:
        """Return a new norm of vectors [..., width]."""
        raise NotImplementedError


@dataclass(frozen=True)
class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps) * weight (Ba, Kiros and Hinton 2016, arXiv 1607.06450)."""

    eps: float = 1e-5

    def make(self, width: int) -> nn.Module:
        """Return a new norm of vectors [..., width]."""
        return nn.LayerNorm(width, eps=self.eps, bias=False)


@dataclass(frozen=True)
class RMSNorm(Norm):
    """x / sqrt(mean of x^2 + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4)."""

    eps: float = 1e-5

    def make(self, width: int) -> nn.Module:
        """Return a new norm of vectors [..., width]."""
        return nn.RMSNorm(width, eps=self.eps)


class Activation:
    """What stands between the two projections of the feed-forward layer.

    n_inputs: how many vectors of d_ff numbers it makes one of; the first projection gives them all.
    """

    n_inputs: ClassVar[int] = 1

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [..., n_inputs * d_ff] to [..., d_ff]."""
        raise NotImplementedError


@dataclass(frozen=True)
class GELU(Activation):
    """x Phi(x), exact (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [..., d_ff] to the same shape."""
        return F.gelu(x)


@dataclass(frozen=True)
class SwiGLU(Activation):
    """SiLU(gate) * value (Shazeer 2020, arXiv 2002.05202, equation 6); gates come first."""

    n_inputs: ClassVar[int] = 2

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [..., 2 d_ff] to [..., d_ff]."""
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value


@dataclass(frozen=True)
class Trunk:
    """The parts of every layer beside its mixer, as objects that build or compute them.

    qk_norm: of the queries and keys of each head, before they are rotated; None: there is none.
    """

    norm: Norm = field(default_factory=LayerNorm)
    mlp: Activation = field(default_factory=GELU)
    qk_norm: Norm | None = None


GPT = Trunk()


def matched_d_ff(d_ff: int, n_left_out: int, head_dim: int, n_inputs: int) -> int:
    """Return the feed-forward width with which a layer has the weights of GPT's.

    GPT's layer has 2 d_ff d_model weights in its feed-forward part. n_left_out: the key-value heads
    that grouped-query attention leaves out, whose 2 n_left_out head_dim d_model weights are added.
    n_inputs: of the activation; a width w takes (n_inputs + 1) w d_model weights.
    """
    rows = 2 * (d_ff + n_left_out * head_dim)
    if rows % (n_inputs + 1) == 0:
        return rows // (n_inputs + 1)
    return max(1, round(rows / (n_inputs + 1) / WIDTH_STEP)) * WIDTH_STEP
