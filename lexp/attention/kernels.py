"""The kernels for one tile of causal attention; `choose_kernel` says which is used, and why.

A kernel takes queries q [B, H, R, D], the keys and values k, v [B, heads, K, D] up to the last
query, biases laid out as lexp.attention.layouts says, and the scale of the scores; it returns
[B, H, R, D]. Queries may share keys (lexp.attention.heads). `fused` is torch's
scaled_dot_product_attention, which never writes scores to memory.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lexp.attention.cpu.arithmetic import scores_dtype
from lexp.attention.cpu.backward import Forward, attend_in_blocks
from lexp.attention.cpu.matmul import attend_by_matmul
from lexp.attention.heads import fused
from lexp.attention.layouts import (
    BandMask,
    CumulativeGateBias,
    Layout,
    NoBias,
    PairwiseBias,
    ToeplitzBias,
    blocks,
)
from lexp.attention.toeplitz import reversed_matrix

# Above so many keys, and up to so many, the backward pass of lexp.attention.cpu is faster than
# torch's, which takes all pairs, masked or not, up to 512 keys.
BACKWARD_KEYS_BFLOAT16, BACKWARD_KEYS = (0, 512), (384, 512)
# Up to this many keys plain products are faster than the fused kernel, in bfloat16.
MATMUL_KEYS, MATMUL_KEYS_PER_CHANNEL = 4096, 32
# Rows of a block. Plain products: few where there are few keys, of which the mask then leaves out
# a larger share; more beyond, for fewer calls. The fused kernel keeps scores in the cache itself.
FEW_KEYS, MATMUL_ROWS_FEW_KEYS, MATMUL_ROWS, FUSED_ROWS = 512, 64, 128, 32


class Case(NamedTuple):
    """The facts, besides the layout, that the choice of a kernel depends on.

    records: gradients are recorded. input_grad, bias_grad: q, k or v, and the biases, need one.
    """

    on_cpu: bool
    dtype: torch.dtype
    n_keys: int
    head_dim: int
    records: bool
    input_grad: bool
    bias_grad: bool

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, values: Tensor) -> "Case":
        """Return the case of a kernel's arguments."""
        return cls(
            on_cpu=q.device.type == "cpu",
            dtype=q.dtype,
            n_keys=k.shape[-2],
            head_dim=q.shape[-1],
            records=torch.is_grad_enabled(),
            input_grad=any(t.requires_grad for t in (q, k, v)),
            bias_grad=values.requires_grad,
        )

    @property
    def matmul_is_faster(self) -> bool:
        """Return True if plain products beat the fused kernel's forward pass."""
        limit = min(MATMUL_KEYS, MATMUL_KEYS_PER_CHANNEL * self.head_dim)
        return self.on_cpu and self.dtype == torch.bfloat16 and self.n_keys <= limit

    @property
    def own_backward_pays(self) -> bool:
        """Return True if the backward pass in blocks is the only lean one, or the faster one."""
        if not (self.on_cpu and self.records):
            return False
        return self.bias_grad or (self.backward_is_faster and self.input_grad)

    @property
    def backward_is_faster(self) -> bool:
        """Return True if the backward pass in blocks beats the fused kernel's."""
        in_bfloat16 = self.dtype == torch.bfloat16
        above, most = BACKWARD_KEYS_BFLOAT16 if in_bfloat16 else BACKWARD_KEYS
        return above < self.n_keys <= most


class Kernel(NamedTuple):
    """A way to compute the output; own_backward: gradients are computed in blocks of rows."""

    forward: Forward
    own_backward: bool = False

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        """Return the output [B, H, R, D]."""
        if self.own_backward:
            return attend_in_blocks(q, k, v, values, layout, scale, self.forward)
        return self.forward(q, k, v, values, layout, scale)


ChooseKernel = Callable[[Layout, Case], Kernel]


def choose_kernel(layout: Layout, case: Case) -> Kernel:
    """Return the fastest exact kernel for a layout of biases.

        layout               backward in blocks,    plain products,      otherwise: fused,
                             on a CPU (1)           on a CPU (2)         on any device
        NoBias               forward: (2) or fused  in blocks of rows    with is_causal
        ToeplitzBias         forward: (2) or fused  in blocks of rows    over a view of the row
        CumulativeGateBias   forward: (2) or fused  in blocks of rows    in blocks of 32 rows
        PairwiseBias         forward: (2) or 32 r.  in blocks of rows    with the tile's mask
        BandMask             -                      the whole tile       with the tile's mask

    (1) The biases need a gradient: the fused kernel has none for them, and falls back to whole
    [B, H, T, T] matrices. Or q, k, v need one, in bfloat16 with at most 512 keys: of the fused
    kernel's time this takes 0.2 to 0.6 at 128 tokens, 0.5 to 0.7 at 512 and 0.85 to 1.05 at 1024
    (heads of 8 to 128 channels; at 1024 tokens of 32 to 128). In float32 with 385 to 512 keys: at
    512 tokens the backward pass takes 0.7 to 0.85 of it; with fewer keys, as long or longer.
    (2) No gradients are recorded, bfloat16, and at most 4096 keys and 32 keys a channel: of the
    fused kernel's time this takes 0.45 to 0.75 up to 512 keys, 0.4 to 1 up to 32 keys a channel
    (the most for one text on two threads), and about the same or more beyond.
    All measured on processors without AMX.
    """
    if case.own_backward_pays and not isinstance(layout, BandMask):
        return Kernel(forward_of_own_backward(layout, case), own_backward=True)
    if case.matmul_is_faster and not case.records:
        return Kernel(matmul_whole if isinstance(layout, BandMask) else matmul_in_blocks)
    return Kernel(FUSED[type(layout)])


def forward_of_own_backward(layout: Layout, case: Case) -> Forward:
    """Return the forward pass before a backward pass in blocks."""
    if case.matmul_is_faster:
        return matmul_in_blocks
    # The output is all that is kept, so a pairwise bias needs no mask of the whole tile.
    return fused_in_blocks if isinstance(layout, PairwiseBias) else FUSED[type(layout)]


def fused_causal(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
) -> Tensor:
    """Attend without biases: the fused kernel masks by itself."""
    return fused(q, k, v, scale, is_causal=True)


def fused_toeplitz(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
) -> Tensor:
    """Attend with the row of biases [H, R + K - 1], read through a view that no one writes out."""
    added = reversed_matrix(values, q.shape[2], k.shape[2])[None]
    if q.device.type != "cpu":  # only the CPU's kernel takes such a view
        added = added.contiguous().to(v.dtype)
    return fused(q.flip(2), k, v, scale, added).flip(2)


def fused_pairwise(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
) -> Tensor:
    """Attend with a bias for each pair, and the causal mask over it."""
    n_rows, n_keys = q.shape[2], k.shape[2]
    allowed = torch.ones(n_rows, n_keys, dtype=torch.bool, device=q.device).tril(n_keys - n_rows)
    return fused_whole(q, k, v, values.masked_fill(~allowed, -math.inf), layout, scale)


def fused_whole(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
) -> Tensor:
    """Attend with the mask of the whole tile, bool or in floating point."""
    if values.dtype != torch.bool:
        # The CPU's kernel takes a float32 mask beside bfloat16 queries, those of CUDA do not.
        in_float32 = q.device.type == "cpu" and v.dtype == torch.bfloat16
        values = values.to(torch.float32 if in_float32 else v.dtype)
    return fused(q, k, v, scale, values)


def fused_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
) -> Tensor:
    """Attend with the mask of 32 rows at a time."""

    def attend(q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float) -> Tensor:
        return fused(q, k, v, scale, added.expand(*q.shape[:2], -1, -1))

    return in_blocks(q, k, v, values, layout, scale, FUSED_ROWS, attend)


def matmul_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
) -> Tensor:
    """Attend by plain products, a block of rows at a time."""
    rows = MATMUL_ROWS_FEW_KEYS if k.shape[2] <= FEW_KEYS else MATMUL_ROWS
    return in_blocks(q, k, v, values, layout, scale, rows, attend_by_matmul)


def matmul_whole(
    q: Tensor, k: Tensor, v: Tensor, values: Tensor, layout: Layout, scale: float
) -> Tensor:
    """Attend by plain products with the mask of the whole tile, bool or in floating point."""
    if values.dtype == torch.bool:
        values = torch.zeros_like(values, dtype=torch.float32).masked_fill(~values, -math.inf)
    return attend_by_matmul(q, k, v, values.to(scores_dtype(q)), scale)


def in_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor,
    layout: Layout,
    scale: float,
    size: int,
    attend: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor],
) -> Tensor:
    """Attend in blocks of up to `size` rows, each with the keys up to its last query."""
    n_rows = q.shape[2]
    outputs = []
    for block in blocks(slice(None), n_rows, k.shape[2] - n_rows, size, scores_dtype(q)):
        keys, block_values = k[:, :, : block.n_keys], v[:, :, : block.n_keys]
        added = layout.added(values, block)
        out = attend(q[:, :, block.rows], keys, block_values, added, scale)
        outputs.append(out.transpose(1, 2))
    # A token's heads side by side, as the layer's last projection reads them.
    return torch.cat(outputs, dim=1).transpose(1, 2)


FUSED: dict[type[Layout], Forward] = {
    NoBias: fused_causal,
    ToeplitzBias: fused_toeplitz,
    CumulativeGateBias: fused_in_blocks,
    PairwiseBias: fused_pairwise,
    BandMask: fused_whole,
}
