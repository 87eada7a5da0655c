"""The recurrence by flash-linear-attention: the call, and on a CUDA device the same numbers.

Without a device, functions that follow the package's documentation (tensors [B, T, H, .], log
decays, a scale, a state [B, H, Dk, Dv]) as plain loops stand in its place.
"""

import sys
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from lexp.commands.run_parts import mixer_notes
from lexp.model.layers import LayerEntry
from lexp.model.mixer import GLA, kernels, recurrence
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import NoAttention
from lexp.system.errors import ConfigError

B, H, T, DK, DV = 2, 3, 70, 16, 32


def documented(q, k, v, g=None, beta=None, *, scale, initial_state, output_final_state):
    """One token after the other: decay, erase and write with strength beta, read."""
    assert output_final_state
    s = torch.zeros(B, H, DK, DV) if initial_state is None else initial_state.clone()
    outs = []
    for t in range(q.shape[1]):
        decay = g[:, t].exp()
        s = s * (decay[..., None, None] if decay.ndim == 2 else decay[..., None])
        new = v[:, t]
        if beta is not None:
            new = beta[:, t, :, None] * (new - torch.einsum("bhkv,bhk->bhv", s, k[:, t]))
        s = s + torch.einsum("bhk,bhv->bhkv", k[:, t], new)
        outs.append(torch.einsum("bhkv,bhk->bhv", s, q[:, t] * scale))
    return torch.stack(outs, dim=1), s


NAMES = {
    "simple_gla": "chunk_simple_gla", "gla": "chunk_gla", "kda": "chunk_kda",
    "gated_delta_rule": "chunk_gated_delta_rule",
}  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch) -> list[str]:
    """A package fla whose functions are those documented; the names of those called."""
    called: list[str] = []
    for module, name in NAMES.items():
        made = ModuleType(f"fla.ops.{module}")

        def function(*given, name=name, **options):
            called.append(name)
            return documented(*given, **options)

        setattr(made, name, function)
        monkeypatch.setitem(sys.modules, f"fla.ops.{module}", made)
    return called


def inputs(kind: str, device: str = "cpu") -> tuple[list[torch.Tensor], dict]:
    """Arguments of a mixer's recurrence; Mamba-2's heads share their queries and keys."""
    torch.manual_seed(0)
    heads = 1 if kind == "mamba2" else H
    q, k = torch.randn(2, B, heads, T, DK, device=device)
    v = torch.randn(B, H, T, DV, device=device)
    channels = DK if kind in ("gla", "kda") else 1
    decay = -torch.rand(B, H, T, channels, device=device)
    given = [x.requires_grad_() for x in (q, F.normalize(k, dim=-1), v, decay)]
    strength = torch.rand(B, H, T, device=device).requires_grad_()
    options = {"mamba2": {"write": strength}, "gla": {}, "retnet": {}}
    return given, options.get(kind, {"write": strength, "erase": strength})


EXPECTED = {
    "retnet": "chunk_simple_gla", "mamba2": "chunk_simple_gla", "gla": "chunk_gla",
    "gated_delta_net": "chunk_gated_delta_rule", "kda": "chunk_kda",
}  # fmt: skip


def compared(kind: str, device: str, tolerance: float) -> None:
    given, options = inputs(kind, device)
    state = torch.randn(B, H, DK, DV, device=device)
    results = [
        run(*given, **options, state=state) for run in (kernels.recur_by_fla, recurrence.recur)
    ]
    wanted = [*given, *{id(x): x for x in options.values()}.values()]
    pulls = [torch.randn_like(x) for x in results[0]]
    slopes = [
        torch.autograd.grad(sum((x * p).sum() for x, p in zip(r, pulls, strict=True)), wanted)
        for r in results
    ]
    for a, b in zip((*results[0], *slopes[0]), (*results[1], *slopes[1]), strict=True):
        assert a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_call_is_the_documented_one(kind, stand_in):
    """Outputs, last state and gradients are those of plain PyTorch."""
    compared(kind, "cpu", 1e-4)
    assert stand_in == [EXPECTED[kind]]


@pytest.mark.gpu
@pytest.mark.skipif(
    not (torch.cuda.is_available() and kernels.fla_is_installed()),
    reason="needs a CUDA device and the extra fla",
)
@pytest.mark.parametrize("kind", EXPECTED)
def test_on_a_device_the_numbers_are_those_of_plain_pytorch(kind):
    """Within the rounding of the kernels' products (TF32)."""
    compared(kind, "cuda", 1e-2)


def test_keys_that_the_kernels_do_not_take_are_refused_with_a_remedy(stand_in):
    (q, k, v, decay), _ = inputs("gla")
    with pytest.raises(ConfigError, match="keys of 8 channels: .* take 16 to 256; change size.h"):
        kernels.recur_by_fla(q[..., :8], k[..., :8], v, decay[..., :8])
    assert stand_in == []


def test_a_cpu_runs_plain_pytorch_even_where_the_package_is_there(stand_in, monkeypatch):
    monkeypatch.setattr(kernels, "fla_is_installed", lambda: True)
    given, _ = inputs("retnet")
    for found, right in zip(kernels.recur(*given), recurrence.recur(*given), strict=True):
        assert torch.equal(found, right)
    assert stand_in == []


@pytest.mark.parametrize(
    ("device", "installed", "said"),
    [
        ("cpu", False, ""),
        ("cpu", True, "recurrent layers: plain PyTorch; flash-linear-attention is installed, but"),
        ("cuda", False, "recurrent layers: plain PyTorch; install the kernels for CUDA by pip in"),
        ("cuda", True, "recurrent layers: kernels of flash-linear-attention (fla-core 0.6.0)"),
    ],
)
def test_training_begins_by_saying_which_kernel_runs(device, installed, said, monkeypatch):
    monkeypatch.setattr(kernels, "fla_is_installed", lambda: installed)
    monkeypatch.setattr(kernels.importlib.metadata, "version", lambda name: "0.6.0")
    packages = {"fla": ["fla-core"]}
    monkeypatch.setattr(kernels.importlib.metadata, "packages_distributions", lambda: packages)
    note = kernels.kernel_note(torch.device(device))
    assert note.startswith(said) and bool(note) is bool(said)


def test_only_models_with_recurrent_layers_say_so(monkeypatch):
    monkeypatch.setattr(kernels, "fla_is_installed", lambda: True)
    dims = Dims(n_layers=2, d_model=32, n_heads=2, head_dim=16, d_ff=32)
    recurrent = LayerEntry(pattern=NoAttention(), make_mixer=lambda: GLA(32, 2, 16))
    notes = [
        mixer_notes(Transformer(dims, 64, entries), torch.device("cpu"))
        for entries in ([LayerEntry()], [LayerEntry(), recurrent])
    ]
    assert notes == [[], [kernels.kernel_note(torch.device("cpu"))]]
