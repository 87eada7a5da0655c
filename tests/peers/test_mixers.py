"""Gated attention, Gated DeltaNet, Mamba-2 and KDA against transformers (5.23).

Whole layers with the same weights.

Written-down disagreements:
- transformers' layers have one projection for what ours has in two or three; the rows are the same
  (Qwen3-Next groups q, k, v and z of a key head together, which is rearranged here).
- All three run in float32 alone (modeling_qwen3_next.py:412), so both sides do. KDA's decays are
  differences of sums there (modeling_kimi_linear.py:517): with these strong gates it is 12 times as
  far from float64 as ours, 6e-5.
"""

import pytest
import torch
from torch import Tensor, nn

from lexp.attention import make_attend
from lexp.model.mixer import Mixer
from lexp.model.mixer.attention import Attention
from lexp.model.mixer.gated_delta_net import GatedDeltaNet
from lexp.model.mixer.kda import KDA
from lexp.model.mixer.mamba2 import Mamba2
from lexp.model.mixer.recurrent import Recurrent
from lexp.model.trunk import ElementwiseGate, RMSNorm
from lexp.pattern import Full
from lexp.position import NoPE
from support.peers.ours import peer

transformers = peer("transformers")
D_MODEL, H, D, KERNEL = 24, 3, 8, 4
LENGTHS = [1, 5, 64, 150]


def drawn(mixer: Mixer) -> Mixer:
    """Weights large enough that every gate is open for some tokens and closed for others."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            parameter.normal_(std=0.5)
            if "norm" in name or "skip" in name:
                parameter += 1
    return mixer.eval()


def gated_delta_net() -> tuple[Recurrent, nn.Module]:
    modeling = peer("transformers.models.qwen3_next.modeling_qwen3_next")
    key = D // 2
    config = transformers.Qwen3NextConfig(
        hidden_size=D_MODEL, linear_num_key_heads=H, linear_num_value_heads=H,
        linear_key_head_dim=key, linear_value_head_dim=D, linear_conv_kernel_dim=KERNEL,
        rms_norm_eps=1e-6, num_hidden_layers=1, layer_types=["linear_attention"],
    )  # fmt: skip
    ours, theirs = drawn(GatedDeltaNet(D_MODEL, H, D)), modeling.Qwen3NextGatedDeltaNet(config, 0)
    q, k, v = ours.qkv.weight.split([H * key, H * key, H * D])
    by_head = [x.view(H, -1, D_MODEL) for x in (q, k, v, ours.gate.weight)]
    scalars = [x.view(H, 1, D_MODEL) for x in (ours.write.weight, ours.step.weight)]
    given = {
        "in_proj_qkvz.weight": torch.cat(by_head, dim=1).flatten(0, 1),
        "in_proj_ba.weight": torch.cat(scalars, dim=1).flatten(0, 1),
        "conv1d.weight": ours.convolution.weight[:, None], "dt_bias": ours.step_bias,
        "A_log": ours.log_rate, "norm.weight": ours.norm.weight, "out_proj.weight": ours.out.weight,
    }  # fmt: skip
    return ours, loaded(theirs, given)


def test_gated_attention_is_that_of_qwen3_next():
    """Grouped queries, QK-norm and the output gate; values and gradients, without rotation.

    Their norms multiply by 1 + weight, and each head's gate follows its query.
    """
    modeling = peer("transformers.models.qwen3_next.modeling_qwen3_next")
    n_heads, n_kv_heads, n = 4, 2, 20
    config = transformers.Qwen3NextConfig(
        hidden_size=D_MODEL, num_attention_heads=n_heads, num_key_value_heads=n_kv_heads,
        head_dim=D, rms_norm_eps=1e-6, num_hidden_layers=1, layer_types=["full_attention"],
    )  # fmt: skip
    config._attn_implementation = "eager"
    norm, gate = RMSNorm(1e-6), ElementwiseGate()
    ours = drawn(Attention(D_MODEL, n_heads, D, n_kv_heads, norm, gate))
    q, k, v = ours.qkv.weight.split(ours.sizes)
    by_head = [x.view(n_heads, D, D_MODEL) for x in (q, ours.output_gate.rates.weight)]
    theirs = loaded(modeling.Qwen3NextAttention(config, 0), {
        "q_proj.weight": torch.cat(by_head, dim=1).flatten(0, 1), "k_proj.weight": k,
        "v_proj.weight": v, "o_proj.weight": ours.out.weight,
        "q_norm.weight": ours.qk_norm.q.weight - 1, "k_norm.weight": ours.qk_norm.k.weight - 1,
    })  # fmt: skip
    x = torch.randn(2, n, D_MODEL, requires_grad=True)
    still = torch.ones(1, n, D), torch.zeros(1, n, D)  # cosines and sines of no rotation
    later = torch.ones(n, n, dtype=torch.bool).triu(1)
    mask = torch.zeros(n, n).masked_fill(later, -torch.inf)[None, None]
    expected, _ = theirs(x, still, mask)
    position = NoPE()
    found = ours(x, position, make_attend(Full(), n, [position], torch.device("cpu")), None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    pull = torch.randn(found.shape)
    a, b = (torch.autograd.grad((y * pull).sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def mamba2() -> tuple[Recurrent, nn.Module]:
    modeling = peer("transformers.models.mamba2.modeling_mamba2")
    config = transformers.Mamba2Config(
        num_heads=H, head_dim=D, hidden_size=D_MODEL, state_size=6, expand=1, n_groups=1,
        conv_kernel=KERNEL, chunk_size=16, layer_norm_epsilon=1e-6, num_hidden_layers=1,
    )  # fmt: skip
    ours, theirs = drawn(Mamba2(D_MODEL, H, D, state_dim=6)), modeling.Mamba2Mixer(config, 0)
    projections = [ours.gate.weight, ours.xbc.weight, ours.step.weight]
    given = {
        "in_proj.weight": torch.cat(projections),
        "conv1d.weight": ours.convolution.weight[:, None], "conv1d.bias": ours.convolution.bias,
        "dt_bias": ours.step_bias, "A_log": ours.log_rate, "D": ours.skip,
        "norm.weight": ours.norm.weight, "out_proj.weight": ours.out.weight,
    }  # fmt: skip
    return ours, loaded(theirs, given)


def kda() -> tuple[Recurrent, nn.Module]:
    modeling = peer("transformers.models.kimi_linear.modeling_kimi_linear")
    config = transformers.KimiLinearConfig(
        hidden_size=D_MODEL, linear_num_heads=H, linear_head_dim=D, linear_conv_kernel_dim=KERNEL,
        rms_norm_eps=1e-6, num_hidden_layers=1, layer_types=["linear_attention"],
        mlp_layer_types=["dense"],
    )  # fmt: skip
    ours = drawn(KDA(D_MODEL, H, D))
    theirs = modeling.KimiLinearDeltaAttention(config, 0)
    q, k, v = ours.qkv.weight.chunk(3)
    given = {
        "q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "b_proj.weight":
        ours.write.weight, "conv1d.weight": ours.convolution.weight[:, None],
        "forget_gate.f_a_proj.weight": ours.step_in.weight,
        "forget_gate.f_b_proj.weight": ours.step_out.weight,
        "forget_gate.dt_bias": ours.step_bias, "forget_gate.A_log": ours.log_rate.view(1, 1, H, 1),
        "g_a_proj.weight": ours.gate_in.weight, "g_b_proj.weight": ours.gate_out.weight,
        "o_norm.weight": ours.norm.weight, "o_proj.weight": ours.out.weight,
    }  # fmt: skip
    return ours, loaded(theirs, given)


def loaded(theirs: nn.Module, given: dict[str, Tensor]) -> nn.Module:
    """Fill every parameter of a peer's layer; strict, so that none keeps its own."""
    theirs.load_state_dict({name: x.detach() for name, x in given.items()})
    return theirs.eval()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("pair", [gated_delta_net, mamba2, kda], ids=lambda f: f.__name__)
def test_layers_with_the_same_weights(pair, length):
    """Outputs, and gradients of the input."""
    ours, theirs = pair()
    x = torch.randn(2, length, D_MODEL, requires_grad=True)
    found, right = ours.read(x)[0], theirs(x)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=2e-4)
    weight = torch.randn_like(found)
    slopes = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (found, right)]
    scale = slopes[1].abs().max().item()
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-4 * scale)
    assert found.std() > 0.1
