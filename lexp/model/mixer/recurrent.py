"""What the recurrent mixers share: the state, the short convolution, step sizes and heads."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lexp.attention import Attend
from lexp.model.mixer.base import Mixer
from lexp.position import Position

# Without gradients, texts go through a recurrent mixer at most so many tokens of a batch at a time.
ROWS = 1 << 12
EPS = 1e-6


class State(NamedTuple):
    """What a recurrent mixer keeps of the tokens it has read; its size does not depend on them.

    memory [B, H, Dk, Dv]: the recurrence's state; None stands for zeros. recent [B, kernel - 1,
    channels]: the last inputs of the short convolution; None stands for zeros, or for no
    convolution. n_read: how many tokens. START: of a text's beginning.
    """

    memory: Tensor | None = None
    recent: Tensor | None = None
    n_read: int = 0


START = State()


class Mixed(NamedTuple):
    """What a recurrent mixer makes of some tokens, and what its state then is.

    outputs [B, T, inner]: of all heads, before the last projection. memory, recent: see State.
    """

    outputs: Tensor
    memory: Tensor
    recent: Tensor | None = None


class Recurrent(Mixer):
    """A mixer that reads a text once, from left to right, and keeps a state of fixed size."""

    out: nn.Linear

    def forward(
        self, x: Tensor, position: Position, attend: Attend, sampled: Tensor | None
    ) -> Tensor:
        """Map x [B, T, d_model] to the same shape; a scheme or a pattern has no part in it."""
        n_rows = max(1, ROWS // len(x))
        if torch.is_grad_enabled() or x.shape[1] <= n_rows:
            return self.read(x)[0]
        outs, state = [], START
        for rows in x.split(n_rows, dim=1):
            out, state = self.read(rows, state)
            outs.append(out)
        return torch.cat(outs, dim=1)

    def read(self, x: Tensor, state: State = START) -> tuple[Tensor, State]:
        """Return the outputs of x [B, T, d_model], which follows what `state` has read.

        Also returns the state after x.
        """
        outputs, memory, recent = self.mix(x, state)
        return self.out(outputs), State(memory, recent, state.n_read + x.shape[1])

    def mix(self, x: Tensor, state: State) -> Mixed:
        """Return the outputs of x [B, T, d_model] before the last projection."""
        raise NotImplementedError


class ShortConvolution(nn.Module):
    """A causal convolution of each channel over the last tokens, then SiLU.

    Shared by Mamba-2, Gated DeltaNet and KDA. Only Mamba-2's has a bias.
    """

    def __init__(self, channels: int, kernel: int = 4, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, kernel))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def initialise(self) -> None:
        """Draw weights and bias as PyTorch's Conv1d does, and so the papers' code."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, recent: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return x [B, T, channels] convolved, and the inputs that the next tokens will need.

        recent [B, kernel - 1, channels]: the inputs before x; None stands for zeros.
        """
        channels, kernel = self.weight.shape
        if recent is None:
            recent = x.new_zeros(len(x), kernel - 1, channels)
        padded = torch.cat([recent.to(x.dtype), x], dim=1)
        out = F.conv1d(padded.mT, self.weight.unsqueeze(1), self.bias, groups=channels).mT
        return F.silu(out), padded[:, padded.shape[1] - kernel + 1 :]


def refuse_below_1(**sizes: int) -> None:
    """Raise ValueError for a size below 1, by its name."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")


def part_of(head_dim: int, share: float, name: str) -> int:
    """Return head_dim * share, at least 1; ValueError unless it is a whole number."""
    width = head_dim * share
    if width < 1 or width != int(width):
        raise ValueError(
            f"{name}={share}: must make head_dim={head_dim} a whole number, at least 1"
        )
    return int(width)


def into_heads(x: Tensor, n_heads: int) -> Tensor:
    """Return x [B, T, H * D] as [B, H, T, D]."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def split_heads(x: Tensor, sizes: list[int], n_heads: int) -> list[Tensor]:
    """Return the parts of x [B, T, sum of sizes], each [B, H, T, size / H]."""
    return [into_heads(part, n_heads) for part in x.split(sizes, -1)]


def out_of_heads(x: Tensor) -> Tensor:
    """Return x [B, H, T, D] as [B, T, H * D]."""
    return x.transpose(1, 2).flatten(2)


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or in float64 where it is; gates are computed in no less."""
    return x if x.dtype == torch.float64 else x.float()


def normalised(x: Tensor) -> Tensor:
    """Return x [..., D] with length 1, as the papers' kernels do: x / sqrt(x.x + 1e-6)."""
    x = wide(x)
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)


def draw_rates(log_rate: Tensor, least: float, most: float) -> None:
    """Fill log_rate with logarithms of rates drawn from uniform(least, most)."""
    with torch.no_grad():
        log_rate.copy_(torch.empty_like(log_rate).uniform_(least, most).log())


def draw_steps(bias: Tensor, least: float = 1e-3, most: float = 0.1) -> None:
    """Fill bias so that softplus(bias) is log-uniform in least .. most, as in Mamba."""
    with torch.no_grad():
        log_step = torch.empty_like(bias).uniform_(math.log(least), math.log(most))
        step = log_step.exp()
        bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
