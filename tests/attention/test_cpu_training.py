"""What training goes through on a CPU: against formulas in float64, values and every gradient."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lexp.attention import Tiles
from lexp.attention.cpu.arithmetic import FullPrecision
from lexp.attention.cpu.backward import attend_in_blocks
from lexp.attention.kernels import Case, choose_kernel
from lexp.attention.layouts import (
    CumulativeGateBias,
    NoBias,
    PairwiseBias,
    ToeplitzBias,
    antidiagonal_sums,
)
from lexp.attention.prepare import rotate, rotate_by_parts
from lexp.attention.tiles import of_pieces
from lexp.attention.toeplitz import distance_row, reversed_matrix
from lexp.model.chunked_cross_entropy import head_loss
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Full
from lexp.position import FIRE, T5, TISA, ALiBi, XPos
from lexp.position.base import Pair
from lexp.system.runtime import choose_precision
from support.schemes import SCHEMES, make

CPU = torch.device("cpu")
BY_DISTANCE = [s for s in SCHEMES if make(s).has_bias and make(s).by_distance]
NOT_SO = [s for s in SCHEMES if make(s).has_bias and not make(s).by_distance]
BY_TOKEN = [s for s in SCHEMES if make(s).has_bias and make(s).by_token]
HEADS, HEAD_DIM = 3, 8


def pair(i: int, j: int, n_keys: int, origin: int, b: int = 0) -> Pair:
    values = b, 1, i, j, i + origin, j + origin, n_keys
    one = [torch.tensor([[float(v)]]) for v in values]
    return Pair(one[0].long(), one[1].long(), one[2].long(), one[3].long(), *one[4:])


def moved(scheme: str) -> list[torch.Tensor]:
    """The same distance seen from other indices, other texts, and with other keys in sight."""
    torch.manual_seed(0)
    position, x = make(scheme), torch.randn(2, 40, 32)
    bias = position.bias(x)
    places = [(9, 4, 10, 0, 0), (39, 34, 40, 0, 1), (30, 25, 8, 1000, 0)]
    return [bias(pair(*place[:4], b=place[4])) for place in places]


@pytest.mark.parametrize("scheme", BY_DISTANCE)
def test_a_bias_by_distance_reads_nothing_else(scheme):
    first, *others = moved(scheme)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", NOT_SO)
def test_what_reads_more_does_not_promise_it(scheme):
    """The negative control of the test above."""
    first, *others = moved(scheme)
    assert any(not torch.equal(other, first) for other in others)


def differences(scheme: str) -> torch.Tensor:
    """What two queries, one the other's neighbour, have more or less than each other, by key."""
    torch.manual_seed(0)
    position, x, j = make(scheme), torch.randn(2, 40, 32), torch.arange(20)
    bias = position.bias(x)
    one, other = (
        bias(pair(i, 0, i + 1, 0, b=1)._replace(j=j, k_pos=j.float()[None])) for i in (25, 26)
    )
    return (one - other).flatten()


@pytest.mark.parametrize("scheme", [*BY_TOKEN, "t5", "kerple_log", "fire", "tisa"])
def test_what_is_by_token_differs_between_queries_by_a_constant(scheme):
    """The last ones do not promise it: the negative control."""
    spread = differences(scheme).max() - differences(scheme).min()
    assert spread < 1e-12 if scheme in BY_TOKEN else spread > 1e-4


def test_known_schemes_are_by_distance():
    assert {"alibi", "t5", "kerple_log", "kerple_power", "sandwich", "tisa"} <= set(BY_DISTANCE)
    assert {"fire", "fox", "cable"} <= set(NOT_SO)
    assert {"fox", "cable"} <= set(BY_TOKEN)


@pytest.mark.parametrize(("rows", "n_keys"), [(1, 1), (5, 5), (4, 9), (1, 7)])
def test_the_row_is_the_whole_matrix(rows, n_keys):
    def bias(p: Pair) -> torch.Tensor:
        return (p.h + 1) * (p.q_pos - p.k_pos) ** 2

    # A tile that is smaller than the one the row was made for takes its right end.
    row = distance_row(bias, HEADS, n_keys + 3, rows + 2, CPU)[:, 3:]
    found = reversed_matrix(row, rows, n_keys).flip(1)
    for h in range(HEADS):
        for r in range(rows):
            for c in range(n_keys):
                distance = n_keys - rows + r - c
                expected = (h + 1) * distance**2 if distance >= 0 else -math.inf
                assert found[h, r, c] == expected


def test_sums_along_antidiagonals():
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    expected = torch.zeros(2, 7, dtype=torch.float64)
    for r in range(3):
        for c in range(5):
            expected[:, r + c] += x[:, r, c]
    torch.testing.assert_close(antidiagonal_sums(x), expected)


def dense(q, k, v, row, scale):
    """Attention from its formula: whole matrices, softmax, autograd."""
    rows, n_keys = q.shape[2], k.shape[2]
    distance = torch.arange(rows)[:, None] + n_keys - rows - torch.arange(n_keys)
    scores = q @ k.mT * scale
    if row is not None:
        scores = scores + row[:, (n_keys - 1 - distance).clamp(0, n_keys - 1)]
    return scores.masked_fill(distance < 0, -math.inf).softmax(-1) @ v


def given(rows, n_keys, learned, batch=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rows)
    q, k, v = (
        torch.randn(batch, HEADS, n, HEAD_DIM, generator=generator).to(dtype).requires_grad_()
        for n in (rows, n_keys, n_keys)
    )
    values = torch.randn(HEADS, n_keys, generator=generator)
    values = values.double() if dtype == torch.float64 else values
    weight = torch.randn(batch, HEADS, rows, HEAD_DIM, generator=generator)
    return q, k, v, values.requires_grad_(learned), weight.double()


def with_gradients(out, weight, inputs):
    wanted = [t for t in inputs if t.requires_grad]
    return [out.double(), *torch.autograd.grad((out.double() * weight).sum(), wanted)]


def own_backward(q, k, v, values, layout, scale, arithmetic=None):
    """A backward pass in blocks after the forward pass that would be taken."""
    case = Case.of(q, k, v, values)._replace(bias_grad=True)
    kernel = choose_kernel(layout, case)
    assert kernel.own_backward
    return attend_in_blocks(q, k, v, values, layout, scale, kernel.forward, arithmetic)


def by_autograd(q, k, v, values, layout, scale):
    """The forward pass alone, with torch's backward pass."""
    case = Case.of(q, k, v, values)._replace(input_grad=False, bias_grad=False)
    kernel = choose_kernel(layout, case)
    assert not kernel.own_backward
    return kernel(q, k, v, values, layout, scale)


# Whether biases are learned, and by what: the kernel's own backward pass has no gradient of them.
WAYS = [(True, own_backward), (False, own_backward), (False, by_autograd)]
SIZES = [(1, 1), (5, 5), (64, 64), (65, 65), (150, 150), (70, 200), (1, 90)]


@pytest.mark.parametrize("together", [1, 1 << 18])
@pytest.mark.parametrize(("learned", "attend"), WAYS)
@pytest.mark.parametrize(("rows", "n_keys"), SIZES)
def test_biases_by_distance_are_the_formula(rows, n_keys, learned, attend, together):
    if attend is own_backward:
        attend = partial(own_backward, arithmetic=FullPrecision(max_scores=together))
    q, k, v, values, weight = given(rows, n_keys, learned)
    row = F.pad(values, (0, rows - 1), value=-math.inf)
    expected = with_gradients(dense(q, k, v, values, 0.3), weight, (q, k, v, values))
    found = with_gradients(attend(q, k, v, row, ToeplitzBias(), 0.3), weight, (q, k, v, values))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        plain = by_autograd(q, k, v, row, ToeplitzBias(), 0.3)
    torch.testing.assert_close(plain, expected[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("learned", "attend"), WAYS)
@pytest.mark.parametrize(("rows", "n_keys"), SIZES)
@pytest.mark.parametrize("layout", ["by key", "by pair", "by text and pair"])
def test_biases_by_key_and_by_pair_are_the_formula(layout, rows, n_keys, learned, attend):
    q, k, v, _, weight = given(rows, n_keys, learned)
    generator = torch.Generator().manual_seed(n_keys)
    shape, kind = {
        "by key": ((3, HEADS, n_keys), CumulativeGateBias()),
        "by pair": ((1, HEADS, rows, n_keys), PairwiseBias()),
        "by text and pair": ((3, HEADS, rows, n_keys), PairwiseBias()),
    }[layout]
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs = q, k, v, values.requires_grad_(learned)
    later = torch.arange(rows)[:, None] + n_keys - rows < torch.arange(n_keys)
    added = values[:, :, None] if layout == "by key" else values
    scores = (q @ k.mT * 0.3 + added).masked_fill(later, -math.inf)
    expected = with_gradients(scores.softmax(-1) @ v, weight, inputs)
    found = with_gradients(attend(q, k, v, values, kind, 0.3), weight, inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("attend", [own_backward, by_autograd])
@pytest.mark.parametrize("n", [1, 5, 64, 150])
def test_without_a_bias_it_is_the_formula(n, attend):
    q, k, v, _, weight = given(n, n, False)
    expected = with_gradients(dense(q, k, v, None, 0.3), weight, (q, k, v))
    found = with_gradients(attend(q, k, v, q.new_zeros(()), NoBias(), 0.3), weight, (q, k, v))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_biases_made_in_pieces_are_those_made_at_once():
    """Values and gradients; 0 for keys later than all queries of a piece."""
    in_pieces = partial(of_pieces, piece_rows=16)
    position, seen = FIRE(HEADS, 16).double(), []
    tiles = Tiles(Full(), 50, position, CPU)
    (group,) = tiles.tiling.groups
    grid = tiles._pairs(group, 2, HEADS, tiles.tiling.q_pos.double(), tiles.tiling.k_pos.double())
    weight = torch.randn(HEADS, 50, 50, dtype=torch.float64).tril()
    for made in (in_pieces, lambda bias, pair: bias(pair)):
        values = made(position.bias(torch.zeros(2, 50, 8)), grid)
        wanted = torch.autograd.grad((values * weight).sum(), list(position.parameters()))
        seen.append([values.tril(), *wanted])
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    rows = in_pieces(position.bias(torch.zeros(2, 50, 8)), grid)
    assert rows[:, :16, 16:].eq(0).all() and rows[:, 48:].ne(0).all()


def test_without_a_bias_blocked_in_bfloat16_is_as_exact_as_the_fused_kernel():
    q, k, v, _, weight = given(200, 200, False, dtype=torch.bfloat16)
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    expected = with_gradients(dense(*exact, None, 0.3), weight, exact)
    found, theirs = (
        with_gradients(out, weight, (q, k, v))
        for out in (
            own_backward(q, k, v, q.new_zeros(()), NoBias(), 0.3),
            F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        )
    )
    for ours, other, right in zip(found, theirs, expected, strict=True):
        assert error(ours, right) < 1.2 * error(other, right) < 0.02


def test_blocked_in_bfloat16_is_as_exact_as_the_fused_kernel():
    """Both against float64 of the same rounded inputs: root mean square errors of a kind."""
    n = 200
    q, k, v, values, weight = given(n, n, True, dtype=torch.bfloat16)
    row = F.pad(values, (0, n - 1), value=-math.inf)
    inputs = (q, k, v, values)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = with_gradients(dense(*exact, 0.3), weight, exact)
    found = with_gradients(own_backward(q, k, v, row, ToeplitzBias(), 0.3), weight, inputs)
    added = reversed_matrix(row.detach(), n, n).flip(1)[None]
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=0.3)
    theirs = with_gradients(fused, weight, (q, k, v))
    assert error(found[4], expected[4]) < 0.01  # the row's, in float32
    for ours, other, right in zip(found[:4], theirs, expected[:4], strict=True):
        assert error(ours, right) < 1.2 * error(other, right) < 0.02


def error(found, right):
    return ((found.double() - right).square().mean() / right.square().mean()).sqrt()


@pytest.mark.parametrize(
    ("n", "head_dim", "dtype", "taken"),
    [
        (8, 32, torch.bfloat16, True),
        (512, 32, torch.bfloat16, True),
        (513, 32, torch.bfloat16, False),
        (8, 64, torch.bfloat16, True),
        (384, 32, torch.float32, False),
        (385, 32, torch.float32, True),
        (512, 32, torch.float32, True),
        (513, 32, torch.float32, False),
    ],
)
def test_when_the_own_backward_pass_is_taken(n, head_dim, dtype, taken):
    q = torch.zeros(1, 2, n, head_dim, dtype=dtype, requires_grad=True)
    row = torch.zeros(2, 2 * n - 1)
    learned = row.clone().requires_grad_()

    def pays(q, values):
        return choose_kernel(ToeplitzBias(), Case.of(q, q, q, values)).own_backward

    assert pays(q, learned)
    assert pays(q, row) == taken
    assert not pays(q.detach(), row)
    with torch.no_grad():
        assert not pays(q, learned)


def test_second_derivatives_are_refused_not_wrong():
    q, k, v, values, _ = given(5, 5, True)
    out = own_backward(q, k, v, F.pad(values, (0, 4), value=-math.inf), ToeplitzBias(), 0.3)
    (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(first.sum(), q)


class Largest(TorchDispatchMode):
    """The most numbers that any one tensor holds in memory of its own."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numbers = max(self.numbers, size)
        return out


@pytest.mark.parametrize("position", [ALiBi(4), T5(4), TISA(4)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("n", [512, 2048])
def test_no_tensor_of_a_step_is_quadratic(position, n):
    q, k, v = torch.randn(3, 1, 4, n, 8, requires_grad=True)
    with Largest() as largest:
        Tiles(Full(), n, position, CPU)(q, k, v, position, q[:, 0]).sum().backward()
    assert largest.numbers <= 4 * n * 128  # four heads, some rows at a time
    with Largest() as control:
        dense(q, k, v, None, 0.3)
    assert control.numbers == 4 * n * n


@pytest.mark.parametrize("position", [ALiBi(4), T5(4)], ids=lambda p: type(p).__name__)
def test_autocast_neither_rounds_biases_nor_makes_matrices_of_them(position):
    """It would do both to a mask it is given: bit-equal to the same without it, and lean."""
    n = 2048
    q, k, v = torch.randn(3, 1, 4, n, 8).bfloat16()
    attend = Tiles(Full(), n, position, CPU)
    with torch.no_grad():
        plain = attend(q, k, v, position, q[:, 0].float())
        with torch.autocast("cpu", dtype=torch.bfloat16), Largest() as largest:
            rounded = attend(q, k, v, position, q[:, 0].float())
    assert torch.equal(plain, rounded)
    assert largest.numbers <= 4 * n * 128


@pytest.mark.parametrize("n_rows", [1, 7, 64, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_head_loss_is_cross_entropy(n_rows, dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n_rows, 12, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(50, 12, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, 50, (n_rows,), generator=generator)

    def gradients(loss):
        return [loss, *torch.autograd.grad(loss.sin(), (hidden, weight))]  # scaled by cos(loss)

    expected = gradients(F.cross_entropy(hidden @ weight.T, targets, reduction="sum"))
    found = gradients(head_loss(hidden, weight, targets, max_logits=50 * 16))  # 16 rows at a time
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        tolerance = 1e-12 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_the_head_loss_under_autocast_is_that_of_rounded_products():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 32, generator=generator).requires_grad_()
    weight = torch.randn(70, 32, generator=generator).requires_grad_()
    targets = torch.randint(0, 70, (300,), generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = head_loss(hidden, weight, targets)
        theirs = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    pairs = zip(
        torch.autograd.grad(ours, (hidden, weight)),
        torch.autograd.grad(theirs, (hidden, weight)),
        strict=True,
    )
    for found, right in pairs:
        assert found.dtype == torch.float32
        assert error(found, right.double()) < 5e-3


def test_huge_logits_do_not_overflow():
    hidden = torch.tensor([[1e4, 0.0], [-1e4, 0.0]], requires_grad=True)
    weight = torch.eye(2, requires_grad=True)
    loss = head_loss(hidden, weight, torch.tensor([1, 0]))
    assert loss.item() == 2e4
    (found,) = torch.autograd.grad(loss, hidden)
    assert found.tolist() == [[1.0, -1.0], [-1.0, 1.0]]


def test_a_rotation_in_real_numbers_is_that_in_complex_ones():
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    factors = torch.polar(torch.rand(7, 4).double(), torch.randn(7, 4).double())
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * factors)
    for given in (factors, torch.view_as_real(factors)):
        torch.testing.assert_close(rotate_by_parts(x, given), expected.flatten(-2))
        torch.testing.assert_close(rotate(x, given), expected.flatten(-2))


def kernel_of_a_gpu(layout, case):
    return choose_kernel(layout, case._replace(on_cpu=False))


@pytest.mark.parametrize("position", [XPos(16), T5(2)], ids=lambda p: type(p).__name__)
def test_a_step_compiles_in_one_piece(position):
    """With the kernels of a GPU, without complex numbers; the graph is then run as it is."""
    model = Transformer(Dims(2, 32, 2, 16, 64), 50, [LayerEntry(lambda: position)])
    attend = Tiles(Full(), 64, position, CPU, choose=kernel_of_a_gpu)
    ids = torch.randint(0, 50, (2, 65), generator=torch.Generator().manual_seed(0))
    graphs = []

    def kept(graph, inputs):
        graphs.append(graph)
        return graph

    def gradients(loss):
        total = loss(ids[:, :-1], ids[:, 1:], attend)
        return [total, *torch.autograd.grad(total, list(model.parameters()))]

    torch.compiler.reset()
    found = gradients(torch.compile(model.loss, backend=kept, fullgraph=True))
    (graph,) = graphs
    assert "complex" not in str(graph.graph)
    for ours, expected in zip(found, gradients(model.loss), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "chosen"),
    [(True, True, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")],
)
def test_bfloat16_is_chosen_where_the_processor_multiplies_in_it(
    amx, avx512_bf16, chosen, monkeypatch
):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
    assert choose_precision("auto", torch.device("cpu")) == chosen
    assert choose_precision("float32", torch.device("cpu")) == "float32"
