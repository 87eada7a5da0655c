"""Which kernel computes the recurrence: flash-linear-attention's on CUDA devices, or plain PyTorch.

The recurrence, its arguments and results are those of lexp.model.mixer.recurrence. The package is
an extra (`pip install 'lexp[fla]'`); its functions, by what a mixer's recurrence has:

    decay             per head                   per key channel
    without erasing   chunk_simple_gla           chunk_gla
    with erasing      chunk_gated_delta_rule     chunk_kda

They keep the state in float32 and compute products in the dtype of the values.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from lexp.model.mixer import recurrence
from lexp.system.errors import ConfigError

# Key channels for which the kernels are written.
CHANNELS = (16, 256)


@functools.cache
def fla_is_installed() -> bool:
    """Return whether the package flash-linear-attention is there."""
    return importlib.util.find_spec("fla") is not None


def kernel_note(device: torch.device) -> str:
    """Return a line that says what computes recurrent layers; "" where there is no other choice."""
    if not fla_is_installed():
        advice = "install the kernels for CUDA by pip install 'lexp[fla]'"
        return f"recurrent layers: plain PyTorch; {advice}" if device.type == "cuda" else ""
    if device.type != "cuda":
        return (
            "recurrent layers: plain PyTorch; flash-linear-attention is installed, but its "
            f"kernels need a CUDA device, this is {device.type}"
        )
    # fla-core from the package index, flash-linear-attention from its repository.
    package = importlib.metadata.packages_distributions()["fla"][0]
    version = importlib.metadata.version(package)
    return f"recurrent layers: kernels of flash-linear-attention ({package} {version})"


def recur(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    write: Tensor | None = None,
    erase: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return outputs [B, H, T, Dv] and the last state; see lexp.model.mixer.recurrence.recur."""
    by_fla = v.is_cuda and v.dtype != torch.float64 and fla_is_installed()
    run: Callable[..., tuple[Tensor, Tensor]] = recur_by_fla if by_fla else recurrence.recur
    return run(q, k, v, log_decay, write=write, erase=erase, state=state)


def recur_by_fla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    write: Tensor | None = None,
    erase: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `recur` returns, by flash-linear-attention.

    With erasing, it writes with the strength with which it erases. ConfigError for keys whose
    channels its kernels do not take.
    """
    least, most = CHANNELS
    if not least <= k.shape[-1] <= most:
        raise ConfigError(
            f"keys of {k.shape[-1]} channels: the kernels of flash-linear-attention take {least} "
            f"to {most}; change size.head_dim or model.mixer.expand_k, or uninstall fla-core"
        )
    erases, by_head = erase is not None, log_decay.shape[-1] == 1
    if erases and write is not erase:
        raise ValueError("flash-linear-attention erases with the strength with which it writes")
    if write is not None and not erases:
        v = v * write.unsqueeze(-1).to(v.dtype)
    batch, n_heads = v.shape[:2]
    dtype = v.dtype if v.dtype in (torch.bfloat16, torch.float16) else torch.float32
    q, k, v = (
        x.expand(batch, n_heads, -1, -1).transpose(1, 2).to(dtype).contiguous() for x in (q, k, v)
    )
    decays = log_decay.float().transpose(1, 2).contiguous()  # [B, T, H, 1 or Dk]
    given = [q, k, v, decays.squeeze(-1) if by_head else decays]
    if erase is not None:
        given.append(erase.transpose(1, 2).to(dtype).contiguous())
    with torch.autocast(v.device.type, enabled=False):
        out, last = fla_function(erases, by_head)(
            *given, scale=1.0, initial_state=None if state is None else state.float(),
            output_final_state=True,
        )  # fmt: skip
    return out.transpose(1, 2).float(), last


def fla_function(erases: bool, by_head: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the function of flash-linear-attention for a recurrence."""
    module, name = {
        (False, True): ("simple_gla", "chunk_simple_gla"),
        (False, False): ("gla", "chunk_gla"),
        (True, True): ("gated_delta_rule", "chunk_gated_delta_rule"),
        (True, False): ("kda", "chunk_kda"),
    }[erases, by_head]
    return getattr(importlib.import_module(f"fla.ops.{module}"), name)
