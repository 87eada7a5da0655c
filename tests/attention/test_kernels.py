"""The table of kernels: which one is chosen for every layout of biases, device and gradient."""

import pytest
import torch

from lexp.attention.kernels import Case, choose_kernel
from lexp.attention.layouts import (
    BandMask,
    CumulativeGateBias,
    NoBias,
    PairwiseBias,
    ToeplitzBias,
)
from lexp.attention.tiles import choose_layout
from lexp.pattern import Blockwise, Full
from lexp.position import FIRE, ALiBi, FoX, NoPE

LAYOUTS = NoBias, ToeplitzBias, CumulativeGateBias, PairwiseBias, BandMask
PLAIN = Case(
    on_cpu=True, dtype=torch.float32, n_keys=128, head_dim=32, records=False, input_grad=False,
    bias_grad=False,
)  # fmt: skip
TRAINED = PLAIN._replace(records=True, input_grad=True)
BFLOAT16 = {"dtype": torch.bfloat16}
FUSED = "fused_causal", "fused_toeplitz", "fused_in_blocks", "fused_pairwise", "fused_whole"
# Below the own backward pass, biases of pairs are masked a block at a time.
FUSED_IN_BACKWARD = *FUSED[:3], "fused_in_blocks", FUSED[4]
MATMUL = *["matmul_in_blocks"] * 4, "matmul_whole"

# A case, the kernels of the five layouts, and whether the backward pass is in blocks.
TABLE = {
    "evaluation in float32": (PLAIN, FUSED, False),
    "evaluation in bfloat16": (PLAIN._replace(**BFLOAT16), MATMUL, False),
    "evaluation in bfloat16, long": (PLAIN._replace(n_keys=1025, **BFLOAT16), FUSED, False),
    "evaluation on a GPU": (PLAIN._replace(on_cpu=False, **BFLOAT16), FUSED, False),
    "training in float32": (TRAINED._replace(n_keys=384), FUSED, False),
    "training in float32, more keys": (TRAINED._replace(n_keys=385), FUSED_IN_BACKWARD, True),
    "training in float32, long": (TRAINED._replace(n_keys=513), FUSED, False),
    "training in bfloat16": (TRAINED._replace(**BFLOAT16), MATMUL, True),
    "training in bfloat16, long": (TRAINED._replace(n_keys=513, **BFLOAT16), FUSED, False),
    "training on a GPU": (TRAINED._replace(on_cpu=False, **BFLOAT16), FUSED, False),
    "learned biases in float32": (TRAINED._replace(bias_grad=True), FUSED_IN_BACKWARD, True),
    "learned biases in bfloat16, long": (
        TRAINED._replace(bias_grad=True, n_keys=1025, **BFLOAT16), FUSED_IN_BACKWARD, True,
    ),
    "learned biases on a GPU": (TRAINED._replace(on_cpu=False, bias_grad=True), FUSED, False),
    "gradients recorded, none needed": (PLAIN._replace(records=True, **BFLOAT16), FUSED, False),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_kernels(name):
    case, names, own_backward = TABLE[name]
    for layout, expected in zip(LAYOUTS, names, strict=True):
        kernel = choose_kernel(layout(), case)
        if layout is BandMask and own_backward:  # bounded patterns have torch's backward pass
            assert kernel.forward.__name__ == "fused_whole" and not kernel.own_backward
            continue
        assert (kernel.forward.__name__, kernel.own_backward) == (expected, own_backward)


@pytest.mark.parametrize(
    ("position", "n_groups", "layout"),
    [
        (NoPE(), 1, NoBias), (NoPE(), 2, ToeplitzBias), (ALiBi(2), 1, ToeplitzBias),
        (FoX(8, 2), 3, CumulativeGateBias), (FIRE(2, 16), 1, PairwiseBias),
    ],
)  # fmt: skip
def test_the_leanest_layout_of_a_scheme_is_chosen(position, n_groups, layout):
    assert type(choose_layout(Full(), position, n_groups)) is layout
    assert type(choose_layout(Blockwise(8), position, n_groups)) is BandMask
