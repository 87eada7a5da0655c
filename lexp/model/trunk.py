"""The parts of a layer that trunks choose: norms, the feed-forward function, the output gate."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

# A matched width that is no whole number is rounded to a multiple of this.
WIDTH_STEP = 8


@dataclass(frozen=True)
class Norm:
    """A kind of norm over the last dimension, with learned weights that start at 1 and no bias."""

    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.eps < 0:
            raise ValueError(f"eps={self.eps}: must be at least 0")

    def make(self, width: int) -> nn.Module:
        """Return a new norm of vectors [..., width]."""
        raise NotImplementedError


@dataclass(frozen=True)
class LayerNorm(Norm):
    """(x - mean) / sqrt(variance + eps) * weight (Ba, Kiros and Hinton 2016, arXiv 1607.06450)."""

    def make(self, width: int) -> nn.Module:
        """Return a new norm of vectors [..., width]."""
        return nn.LayerNorm(width, eps=self.eps, bias=False)


@dataclass(frozen=True)
class RMSNorm(Norm):
    """x / sqrt(mean of x^2 + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4)."""

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


class OutputGate:
    """A sigmoid gate on the outputs of attention, from the layer's normed input.

    Qiu et al. 2025 (arXiv 2505.06708, section 2.2): out * sigmoid(x W), before the last projection.
    """

    def n_rates(self, n_heads: int, head_dim: int) -> int:
        """Return how many gates a token has, a multiple of n_heads."""
        raise NotImplementedError


@dataclass(frozen=True)
class ElementwiseGate(OutputGate):
    """A gate for each channel of each head."""

    def n_rates(self, n_heads: int, head_dim: int) -> int:
        """Return n_heads * head_dim."""
        return n_heads * head_dim


@dataclass(frozen=True)
class HeadwiseGate(OutputGate):
    """A gate for each head."""

    def n_rates(self, n_heads: int, head_dim: int) -> int:
        """Return n_heads."""
        return n_heads


@dataclass(frozen=True)
class Trunk:
    """The parts that all layers have in addition to their mixers, as objects.

    qk_norm: of the queries and keys of each head, before they are rotated; None: there is none.
    output_gate: of attention; None: there is none. tied_embeddings: the head's weights are those of
    the token embeddings (Press and Wolf 2017, arXiv 1608.05859).
    """

    norm: Norm = field(default_factory=LayerNorm)
    mlp: Activation = field(default_factory=GELU)
    qk_norm: Norm | None = None
    output_gate: OutputGate | None = None
    tied_embeddings: bool = False

    def n_rates(self, n_heads: int, head_dim: int) -> int:
        """Return how many output gates a token has in a layer; 0 without them."""
        return self.output_gate.n_rates(n_heads, head_dim) if self.output_gate else 0


GPT = Trunk()


def matched_d_ff(d_ff: int, n_left_out: int, n_rates: int, n_inputs: int) -> int:
    """Return the feed-forward width with which a layer has the weights of GPT's.

    GPT's layer has 2 d_ff d_model weights in its feed-forward part. n_left_out: channels of the
    key-value heads that grouped-query attention leaves out, whose 2 n_left_out d_model weights are
    added. n_rates: output gates of a token, whose n_rates d_model weights are taken away.
    n_inputs: of the activation; a width w takes (n_inputs + 1) w d_model weights.
    """
    rows = 2 * (d_ff + n_left_out) - n_rates
    if rows % (n_inputs + 1) == 0:
        return rows // (n_inputs + 1)
    return max(1, round(rows / (n_inputs + 1) / WIDTH_STEP)) * WIDTH_STEP
