"""Model FLOPs and their share of a known peak; no peak is made up."""

import pytest
import torch

from lexp.commands.run_parts import make_model, training_pattern
from lexp.commands.study.cost import weigh
from lexp.commands.train import check
from lexp.training import speed
from support.config import compose


@pytest.mark.parametrize(
    "words",
    [
        "model=rope", "model=alibi size.n_layers=3", "model=learned",
        "model=rope size.share_layers=true", "model=kerple_log train_len=64",
        "model=tisa objective=mlm", "model=samba trunk=qwen3",
    ],
)  # fmt: skip
def test_flops_of_a_model_are_those_of_the_plan(words):
    settings = check(compose("train", *words.split()))
    two_sided = training_pattern(settings).two_sided
    vocabulary = 257 if "mlm" in words else 256
    model = make_model(settings, 256)
    assert model.embedding.num_embeddings == vocabulary
    found = speed.model_flops(model, settings.train_len, two_sided)
    assert found == weigh(settings, flops=1.0).training()


def test_flops_by_hand():
    """Two layers of 4 d^2 + 2 d f + 2 d, a head of 256 d, a norm of d; (L + 1) / 2 keys."""
    words = ["size.n_layers=2", "size.d_model=32", "size.n_heads=2", "size.head_dim=16",
             "size.d_ff=64", "train_len=10", "batch_tokens=10"]  # fmt: skip
    settings = check(compose("train", *words))
    n_active = 2 * (4 * 32**2 + 2 * 32 * 64 + 2 * 32) + 256 * 32 + 32
    # Twice forward for q k and for weights x values, three times that with backward.
    attention = 2 * 2 * 2 * 3 * 32 * (10 + 1) / 2
    assert speed.model_flops(make_model(settings, 256), 10, False) == 6 * n_active + attention


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA L40S", 362e12), ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12), ("NVIDIA GH200 480GB", 989e12), ("NVIDIA GeForce RTX 4090", None),
    ],
)  # fmt: skip
def test_mfu_needs_a_known_peak(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    cuda = torch.device("cuda")
    assert speed.peak_flops(cuda, "bfloat16") == peak
    assert speed.peak_flops(cuda, "float32") is None
    assert speed.peak_flops(torch.device("cpu"), "bfloat16") is None


def test_words_for_flops():
    assert speed.spelled_flops(400e12, 989e12) == "40% MFU"
    assert speed.spelled_flops(19.4e9, None) == "19.4 GFLOP/s"
    assert speed.spelled_flops(2.5e12, None) == "2.5 TFLOP/s"


def test_peak_memory_of_the_process_grows_with_what_it_holds():
    before = speed.peak_memory(torch.device("cpu"))
    held = torch.ones(before // 4 + (64 << 18))  # as much again, and 64 MiB
    grown = speed.peak_memory(torch.device("cpu")) - before
    assert grown >= 64 << 20 and held.numel()
