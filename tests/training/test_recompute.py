"""Recomputed layers: the same values, less memory between the forward and the backward pass."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from lexp.attention import make_attend
from lexp.commands.run_parts import make_model, training_pattern
from lexp.commands.train import train
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.position.drawn import Drawn
from lexp.training.recompute import TrainingMemory, fewest_recomputed, kept_bytes, measure_memory
from support.config import compose
from support.training import folder_of, result_of

T, SIZES = 32, ("size.n_layers=4", "size.d_model=32", "size.n_heads=2", "size.head_dim=16")


def model_of(model: str):
    words = (*SIZES, "size.d_ff=64", f"model={model}", f"train_len={T}", f"batch_tokens={T}")
    settings = read_train(plain(compose("train", *words)))
    torch.manual_seed(0)
    built = make_model(settings, 256)
    attend = make_attend(training_pattern(settings), T, built.schemes, torch.device("cpu"))
    ids = torch.randint(256, (4, T + 1))
    return built, lambda n: built.loss(ids[:n, :-1], ids[:n, 1:], attend)


@pytest.mark.parametrize("model", ["xpos", "random_rope", "fire", "samba"])
def test_gradients_are_the_same_to_the_bit(model):
    built, loss = model_of(model)

    def gradients(n: int) -> list[torch.Tensor]:
        built.recompute_layers = n
        for drawn in built.modules():
            if isinstance(drawn, Drawn):
                drawn.seed.zero_()
        return list(torch.autograd.grad(loss(2), list(built.parameters()), allow_unused=True))

    for kept, recomputed in zip(gradients(0), gradients(3), strict=True):
        assert (kept is None and recomputed is None) or kept.equal(recomputed)


def test_a_recomputed_layer_keeps_its_input_alone():
    """So each of them saves the same, and with all of them four inputs are left of the layers."""
    built, loss = model_of("rope")
    kept = []
    for n in range(5):
        built.recompute_layers = n
        kept.append(kept_bytes(built, loss, 2))
    saved = [before - after for before, after in itertools.pairwise(kept)]
    assert min(saved) > 0.9 * max(saved) and min(saved) > 10 * 2 * T * 32 * 4
    built.recompute_layers = 0
    memory = measure_memory(built, loss, T)
    of_weights = 12 * sum(p.numel() for p in built.parameters())  # gradient, two moments
    foretold = memory.fixed - of_weights + memory.per_token * 4 * T
    assert kept_bytes(built, loss, 4) == pytest.approx(foretold, rel=0.01)


def test_as_few_layers_as_fit_are_recomputed():
    """By hand: a layer keeps 1,000 bytes a token, its input 128; 10,000 tokens; 80 % are usable."""
    built, _ = model_of("rope")
    memory = TrainingMemory(per_token=4000, fixed=8_000_000)

    def with_free(free: float) -> int:
        return fewest_recomputed(memory, built, 10_000, int(free / 0.8))

    assert with_free(48.1e6) == 0
    # 2 recomputed: 2 x 10 MB whole, 2 inputs of 1.28 MB, and one layer at a time whole: 32.56 MB.
    assert with_free(8e6 + 32.57e6) == 2
    assert with_free(8e6 + 32.55e6) == 3
    assert with_free(9e6) == 4


def test_a_run_with_recomputed_layers_is_the_same_run(tiny, tmp_path):
    runs = []
    for n in (0, 1):
        config = tiny(f"outputs={tmp_path}/{n}", f"recompute_layers={n}")
        train(config)
        runs.append((folder_of(config).name, result_of(folder_of(config))))
    assert runs[0] == runs[1]


def kept_per_token(n_layers: int) -> float:
    """Bytes that layers of size=medium and the head keep for a token, in bfloat16."""
    words = ("size=medium", f"size.n_layers={n_layers}", "model=rope", "train_len=32")
    settings = read_train(plain(compose("train", *words)))
    built = make_model(settings, 256)
    attend = make_attend(training_pattern(settings), 32, built.schemes, torch.device("cpu"))
    ids = torch.randint(256, (2, 33))

    def forward(n: int) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return built.loss(ids[:n, :-1], ids[:n, 1:], attend)

    return measure_memory(built, forward, 32).per_token


def test_medium_at_2048_fits_a_card_of_80_gb_in_two_parts():
    """As docs/benchmarks/gpu.md says; by 12 bytes for gradient and moments, 4 for a weight, 2 cast.

    A card of 80 GB shows 79 GiB. 24 layers of 12 d^2 weights and two tables of 50257 rows.
    """
    one, two = kept_per_token(1), kept_per_token(2)
    layer = two - one
    assert layer == pytest.approx(41_000, rel=0.02)
    n_weights = 24 * 12 * 1024**2 + 2 * 50257 * 1024
    memory = TrainingMemory(24 * layer + one - layer, 14 * n_weights)
    medium = SimpleNamespace(dims=SimpleNamespace(n_layers=24, d_model=1024))
    free = 79 * 2**30 - 4 * n_weights
    chosen = {n: fewest_recomputed(memory, medium, 524_288 // n, free) for n in (1, 2, 4)}
    assert chosen == {1: 24, 2: 22, 4: 16}
    # The inputs of all layers, and one layer and the head at a time.
    all_recomputed = 524_288 * (24 * 4096 + one) + 18 * n_weights
    assert 82e9 < all_recomputed < 85e9
