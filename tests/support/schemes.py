"""Position schemes as conf/model describes them, at the sizes of tests."""

import torch
from omegaconf import OmegaConf

from lexp.config.instantiate import build
from lexp.config.tasks import with_task
from lexp.model.transformer import Dims
from lexp.position import Position
from support import ROOT

CPU = torch.device("cpu")
MODELS = {p.stem: OmegaConf.load(p) for p in sorted((ROOT / "conf" / "model").glob("*.yaml"))}
# Models with one scheme in all layers; those with a list of layers are in tests/model/.
SCHEMES = [name for name, node in MODELS.items() if "position" in node]
D_MODEL, HEAD_DIM, TRAIN_LEN = 32, 8, 64


def make(scheme: str, n_heads: int = 4, head_dim: int = HEAD_DIM) -> Position:
    """The scheme as its config describes it, at the tests' sizes."""
    size = {"d_model": D_MODEL, "head_dim": head_dim, "n_heads": n_heads}
    whole = OmegaConf.create({"model": MODELS[scheme], "size": size, "train_len": TRAIN_LEN})
    plain = OmegaConf.to_container(whole, resolve=True)
    assert plain["model"]["name"] == scheme
    task = {"_target_": "lexp.data.tasks.addition.Addition", "reverse": True}
    return build(with_task(plain["model"]["position"], task), Position, "model.position")


def dims(n_heads: int = 4) -> Dims:
    return Dims(n_layers=2, d_model=D_MODEL, n_heads=n_heads, head_dim=HEAD_DIM, d_ff=64)


def qkv(n_heads: int, n: int, dtype=torch.float64, seed: int = 0):
    """Random queries, keys, values [1, H, n, D] that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, n_heads, n, HEAD_DIM)
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [draw.to(dtype).requires_grad_() for draw in draws]
