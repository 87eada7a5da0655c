"""Model FLOPs a second, their share of the hardware's peak (MFU), and peak memory of training.

Model FLOPs are those of the formula, not those that kernels execute: 6 a parameter that multiplies
and token, and 6 layers x inner x (L + 1) a token for attention (PaLM, Chowdhery et al. 2022,
arXiv 2204.02311, appendix B, with the causal half of attention counted). So MFU can be compared
between kernels, and recomputation does not raise it. Recurrent layers count by their parameters.
"""

import resource
import sys

import torch

from lexp.model.layers import in_turns
from lexp.model.transformer import Transformer

# Dense bfloat16 FLOPs a second, from NVIDIA's data sheets; the first name that is part of the
# device's decides. Other devices and precisions have no known peak here, and no MFU is shown.
PEAKS_BFLOAT16 = {
    "B200": 2250e12, "GH200": 989e12, "H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12,
    "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12,
}  # fmt: skip


def training_flops(n_active: int, attention: int, train_len: int) -> float:
    """Return the FLOPs of a token in training.

    n_active: parameters that multiply something. attention: layers x inner, twice that where
    queries see both sides.
    """
    return 6 * n_active + 6 * attention * (train_len + 1)


def model_flops(model: Transformer, train_len: int, two_sided: bool) -> float:
    """Return the FLOPs of a token in training of a model whose weights are not sharded yet."""
    dims = model.dims
    # Layers that share their weights count as often as they multiply; embeddings are looked up.
    blocks = sum(p.numel() for block in model.blocks for p in block.parameters())
    others = [*model.positions.parameters(), *model.norm.parameters(), *model.head.parameters()]
    n_active = blocks + sum(p.numel() for p in others)
    n_attending = sum(in_turns(model.attending, dims.n_layers))
    attention = (2 if two_sided else 1) * n_attending * dims.n_heads * dims.head_dim
    return training_flops(n_active, attention, train_len)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the peak of a device in FLOPs a second; None where it is not known."""
    if device.type != "cuda" or precision != "bfloat16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS_BFLOAT16.items() if part in name), None)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that tensors took on a GPU, or that the process took elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def spelled_flops(per_s: float, peak: float | None) -> str:
    """Return FLOPs a second in words: `41% MFU` of a known peak, otherwise `19 GFLOP/s`."""
    if peak:
        return f"{per_s / peak:.0%} MFU"
    return f"{per_s / 1e12:.3g} TFLOP/s" if per_s >= 1e12 else f"{per_s / 1e9:.3g} GFLOP/s"
