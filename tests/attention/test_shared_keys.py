"""Grouped-query attention: keys that queries share are never repeated, and give the same numbers.

The oracle repeats keys and values itself and takes `Reference`, in float64.
"""

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex
from torch.utils._python_dispatch import TorchDispatchMode

from lexp.attention import Chunked, Flex, Reference, Tiles, TileSizes, flex, make_attend
from lexp.attention.heads import takes_shared
from lexp.attention.kernels import Kernel, choose_kernel, fused_in_blocks, matmul_in_blocks
from lexp.attention.layouts import BandMask
from lexp.model.mixer import Attention
from lexp.pattern import Bidirectional, Blockwise, Full, SelfExtend
from support.schemes import make

CPU = torch.device("cpu")
HEADS, SHARED, HEAD_DIM, N, D_MODEL = 4, 2, 8, 21, 32


def matmul_forward(layout, case) -> Kernel:
    """Plain products in blocks, which have no gradients of their own."""
    return choose_kernel(layout, case) if isinstance(layout, BandMask) else Kernel(matmul_in_blocks)


def own_backward(layout, case) -> Kernel:
    """The backward pass in blocks of rows."""
    return (
        choose_kernel(layout, case)
        if isinstance(layout, BandMask)
        else Kernel(fused_in_blocks, own_backward=True)
    )


def tiled(pattern, n, position, device, choose=choose_kernel):
    sizes = TileSizes(whole_tokens=8, chunk_rows=8, min_rows=4)
    return Tiles(pattern, n, position, device, sizes, choose)


def both_sides(pattern, n, position, device):
    return make_attend(Bidirectional(), n, [position], device)


PATHS = {
    "usual": (lambda *parts: make_attend(parts[0], parts[1], [parts[2]], parts[3]), Full()),
    "tiles": (tiled, Full()), "band": (tiled, Blockwise(4)), "chunks": (Chunked, Full()),
    "moved": (Chunked, SelfExtend(group=2, window=4)), "both": (both_sides, Bidirectional()),
    "products": (lambda *parts: tiled(*parts, matmul_forward), Full()),
    "own": (lambda *parts: tiled(*parts, own_backward), Full()),
}  # fmt: skip
# No positions, a rotation, one that differs by head, one of keys by head; biases by distance, by
# token and by pair; decays and angles by token; whole rows of scores.
SCHEMES = [
    "nope", "rope", "xpos", "fope", "pope", "alibi", "tisa", "fox", "fire", "wall",
    "selective_rope", "cope",
]  # fmt: skip
NOT_DEFINED = {
    "both": {"fox", "fire", "cope", "wall", "selective_rope"}, "moved": {"nope"},
    "tiles": {"cope"}, "band": {"cope"}, "products": {"cope"}, "own": {"cope"},
}  # fmt: skip
CASES = [(p, s) for p in PATHS for s in SCHEMES if s not in NOT_DEFINED.get(p, ())]


def inputs() -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = (HEADS, HEAD_DIM), (SHARED, HEAD_DIM), (SHARED, HEAD_DIM)
    heads = [torch.randn(2, N, *shape, dtype=torch.float64).transpose(1, 2) for shape in shapes]
    return [t.requires_grad_() for t in (*heads, torch.randn(2, N, D_MODEL, dtype=torch.float64))]


@pytest.mark.parametrize(("path", "scheme"), CASES)
def test_shared_keys_give_what_repeated_keys_give(path, scheme):
    kind, pattern = PATHS[path]
    position = make(scheme).double()
    q, k, v, x = inputs()
    known = [p for p in position.parameters() if p.requires_grad]
    found = kind(pattern, N, position, CPU)(q, k, v, position, x)
    twice = [t.repeat_interleave(2, dim=1) for t in (k, v)]
    expected = Reference(pattern, N, position, CPU)(q, *twice, position, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)  # rotations are float32
    if path == "products":
        return
    pull = torch.randn_like(expected)
    ours, theirs = (
        torch.autograd.grad((out * pull).sum(), [q, k, v, *known], allow_unused=True)
        for out in (found, expected)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", ["rope", "alibi", "pope"])
def test_the_compiled_kernel_shares_keys(scheme, monkeypatch):
    """Uncompiled here, and forward alone: torch has no gradients for it on a CPU."""
    monkeypatch.setattr(flex, "compiled", lambda: torch_flex.flex_attention)
    position, size = make(scheme, head_dim=16), 16
    q, k, v = torch.randn(3, 2, HEADS, N, size)
    k, v, x = k[:, :SHARED], v[:, :SHARED], torch.randn(2, N, D_MODEL)
    with torch.no_grad():
        found = Flex(Blockwise(4), N, position, CPU)(q, k, v, position, x)
        twice = [t.repeat_interleave(2, dim=1) for t in (k, v)]
        expected = Reference(Blockwise(4), N, position, CPU)(q, *twice, position, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


class HeadsOfKeys(TorchDispatchMode):
    """The numbers of texts x heads of the right factors of all products with keys or values."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if "scaled_dot_product" in name:
            key = args[2] if name.endswith("backward") else args[1]
            self.found.add(key.shape[0] * key.shape[1])
        elif name == "bmm":
            self.found.add(len(args[1]))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("path", ["usual", "chunks", "both", "products", "own"])
def test_no_path_repeats_keys(path):
    """A layer's queries, keys and values go in; two texts have two key-value heads each."""
    kind, pattern = PATHS[path]
    position, sizes = make("rope"), (D_MODEL, HEADS, HEAD_DIM)
    mixer = Attention(*sizes, n_kv_heads=SHARED)
    attend = kind(pattern, N, position, CPU)
    with HeadsOfKeys() as seen:
        out = mixer(torch.randn(2, N, D_MODEL), position, attend, None)
        if path != "products":
            out.sum().backward()
    assert seen.found == {2 * SHARED}


def test_a_scheme_that_differs_by_head_gets_a_key_for_each_query():
    """The negative control of the test above."""
    position = make("pope")
    mixer = Attention(D_MODEL, HEADS, HEAD_DIM, n_kv_heads=SHARED)
    attend = make_attend(Full(), N, [position], CPU)
    with HeadsOfKeys() as seen:
        mixer(torch.randn(2, N, D_MODEL), position, attend, None)
    assert seen.found == {2 * HEADS}


@pytest.mark.parametrize(
    ("dtype", "masked", "shares"),
    [(torch.bfloat16, False, True), (torch.bfloat16, True, False), (torch.float32, False, False)],
)
def test_elsewhere_keys_are_repeated_where_the_kernel_would_write_all_scores(dtype, masked, shares):
    """torch's one CUDA kernel that shares keys takes neither masks nor float32."""
    q = torch.empty(1, HEADS, N, HEAD_DIM, dtype=dtype, device="meta")
    added = torch.empty(N, N, device="meta") if masked else None
    assert takes_shared(q, added) is shares


def kept_bytes(n_kv_heads: int, n_tokens: int) -> int:
    """What a layer of float32 keeps for its backward pass, without weights."""
    mixer, position = Attention(D_MODEL, HEADS, HEAD_DIM, n_kv_heads=n_kv_heads), make("rope")
    attend = make_attend(Full(), n_tokens, [position], CPU)
    weights = {p.untyped_storage().data_ptr() for p in mixer.parameters()}
    kept = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        mixer(torch.randn(2, n_tokens, D_MODEL), position, attend, None)
    return sum(n for storage, n in kept.items() if storage not in weights)


def test_a_key_value_head_less_is_a_key_and_a_value_less_to_keep():
    """2 texts x 40 tokens x 8 channels x 4 bytes, each of the key and of the value."""
    assert kept_bytes(2, 40) - kept_bytes(1, 40) == 2 * (2 * 40 * 8 * 4)
