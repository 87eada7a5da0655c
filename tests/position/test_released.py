"""Where released code and paper differ: values of the model and pattern files select the code's.

Each form has an oracle written from the authors' formula, and is compared on every path that takes
it. That the shipped files select the paper's form, or the released one where they say so, is what
test_position.py compares.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

import oracles
from lexp.attention import Flex, Reference, flex, make_attend
from lexp.config.instantiate import build
from lexp.config.schema import plain
from lexp.pattern import STRING, Bidirectional, DualChunk, Full, Pattern, Window
from lexp.position import (
    CABLE,
    DAPE,
    FIRE,
    ALiBi,
    CoPE,
    FoX,
    NoPE,
    PaTH,
    Position,
    PRoPE,
    RoPE,
    StickBreaking,
    Sum,
)
from support.config import compose
from support.paths import (
    D_MODEL,
    HEAD_DIM,
    N_HEADS,
    PATHS,
    as_users,
    check_path,
    small_tiles,
    takes,
)
from support.schemes import CPU, TRAIN_LEN


def path_fox() -> Position:
    reflections = PaTH(D_MODEL, HEAD_DIM, N_HEADS, 4, activation="silu")
    return Sum([reflections, FoX(D_MODEL, N_HEADS, head_dim=HEAD_DIM)])


FORMS: dict[str, Callable[[], Position]] = {
    "alibi_geometric": lambda: ALiBi(N_HEADS, series="geometric"),
    "stick_breaking_self": lambda: StickBreaking(remainder="self"),
    "cope_divided": lambda: CoPE(HEAD_DIM, 5, query="divided"),
    "path_silu": lambda: PaTH(D_MODEL, HEAD_DIM, N_HEADS, 4, activation="silu"),
    "path_fox_released": path_fox,
    "fire_leaky": lambda: FIRE(N_HEADS, TRAIN_LEN, activation="leaky_relu"),
    "dape_fire_leaky": lambda: DAPE(FIRE(N_HEADS, TRAIN_LEN, activation="leaky_relu"), N_HEADS),
    "cable": lambda: CABLE(D_MODEL, N_HEADS, gate_bias=True),
}  # fmt: skip
# The oracle of the stick gives weights over all earlier tokens.
CASES = [
    (form, path)
    for form, make in FORMS.items()
    for path in PATHS
    if takes(path, make()) and (form, path) != ("stick_breaking_self", "window")
]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("form", "path"), CASES)
def test_released_forms_are_the_authors_formulas(form, path, monkeypatch):
    torch.manual_seed(0)
    position = FORMS[form]().double()
    with torch.no_grad():
        for parameter in position.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    name = f"{form}_both" if "both sides" in path else form
    check_path(path, position, getattr(oracles, name), monkeypatch)


@pytest.mark.parametrize("n_heads", [1, 4, 6, 7, 12, 16])
def test_geometric_slopes(n_heads):
    """SWAT's released slopes: for 6 heads .397 .157 .0625 .0248 .0098 .0039."""
    expected = [oracles.geometric_slope(h, n_heads) for h in range(n_heads)]
    assert ALiBi(n_heads, "geometric").slopes.tolist() == pytest.approx(expected)
    if n_heads == 6:
        assert expected == pytest.approx([0.397, 0.157, 0.0625, 0.0248, 0.0098, 0.0039], abs=5e-4)


@pytest.mark.parametrize(
    ("form", "expected"), [("none", [0, 0.5, 5.25]), ("self", [1, 5.5, 30.25])]
)
def test_the_rest_of_the_stick(form, expected):
    """Of queries of zeros, which break a half off at each key."""
    q, v = torch.zeros(1, 1, 3, 4), torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1)
    position = StickBreaking(form)
    found = Reference(Full(), 3, position, CPU)(q, q, v, position, q[0])
    assert found.flatten().tolist() == expected


@pytest.mark.parametrize(("p", "head_dim", "n_rotated"), [(0.3, 32, 4), (0.75, 8, 3), (0.5, 6, 1),
                                                          (0.0, 8, 0), (1.0, 10, 5)])  # fmt: skip
def test_p_rope_rounds_down(p, head_dim, n_rotated):
    found = PRoPE(head_dim, p).frequencies
    assert found[:n_rotated] == RoPE(head_dim).frequencies[:n_rotated]
    assert not any(found[n_rotated:]) and len(found) == head_dim // 2


@pytest.mark.parametrize("train_len", [8, 63, 64, 100, 127, 513])
def test_dual_chunk_has_the_released_sizes(train_len):
    """HKUNLP/ChunkLlama: chunk_size = 3 L // 4, chunk_len = chunk_size - L // 8."""
    chunk_size = train_len * 3 // 4
    fitted = DualChunk().fit(train_len, 4 * train_len)
    assert (fitted.farthest, fitted.chunk) == (chunk_size, chunk_size - train_len // 8)


def dual_chunk_scores(q: Tensor, k: Tensor, train_len: int, log_scale: float, slope: float):
    """Scores [T, T] of one head: rotated by the pattern's distances, times m^2, less the slope."""
    n, d = q.shape
    size, most = train_len * 3 // 4 - train_len // 8, train_len * 3 // 4
    m = 1 + log_scale * math.log(n / train_len) if n > train_len else 1.0
    theta = 10000 ** (-torch.arange(0, d, 2).double() / d)

    def score(i: int, j: int) -> Tensor:
        apart = i // size - j // size
        at = (i % size, min(i % size + size, most), most)[min(apart, 2)]
        turned = torch.exp(1j * (at - j % size) * theta)
        q_pairs, k_pairs = (torch.view_as_complex(row.view(-1, 2)) for row in (q[i], k[j]))
        pairs = q_pairs * k_pairs.conj()
        return m * m * (pairs * turned).real.sum() / math.sqrt(d) - slope * (at - j % size)

    zero = torch.zeros((), dtype=q.dtype)
    rows = [[score(i, j) if j <= i else zero for j in range(n)] for i in range(n)]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("log_scale", [0.0, 0.05])
@pytest.mark.parametrize("length", [16, 26])
@pytest.mark.parametrize("scheme", ["rope", "rope_alibi"])
def test_dual_chunk_multiplies_scores_as_released(scheme, length, log_scale):
    """Past the trained length alone; biases are added afterwards, unscaled."""
    train_len = 16
    position = RoPE(4) if scheme == "rope" else Sum([RoPE(4), ALiBi(1)])
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(3, 1, 1, length, 4, generator=generator, dtype=torch.float64)
    q, k, v = (t.requires_grad_() for t in draws)
    slope = 0.0 if scheme == "rope" else oracles.geometric_slope(0, 1)
    scores = dual_chunk_scores(q[0, 0], k[0, 0], train_len, log_scale, slope)
    pattern = DualChunk(log_scale=log_scale).fit(train_len, length)
    allowed = [[j <= i for j in range(length)] for i in range(length)]
    expected = oracles.attention(scores, v[0, 0], allowed)
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * weight).sum(), [q, k, v])

    for kind in (Reference, as_users, small_tiles):
        out = kind(pattern, length, position, CPU)(q, k, v, position, q[0])[0, 0]
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
        found = torch.autograd.grad((out * weight).sum(), [q, k, v])
        torch.testing.assert_close(list(found), list(wanted), rtol=1e-5, atol=1e-6)


def scaled(pattern: type[Pattern]) -> type[Pattern]:
    """A pattern that multiplies scores by 3."""
    return type(f"Scaled{pattern.__name__}", (pattern,), {"score_scale": 3.0})


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("kind", "pattern", "size"), [
    (Reference, Full, []), ("users", Full, []), ("users", Window, [5]), (Flex, Full, []),
    (Flex, Window, [5]), ("users", Bidirectional, []), (Reference, Bidirectional, []),
])  # fmt: skip
def test_every_kernel_multiplies_scores_by_the_patterns_scale(kind, pattern, size, monkeypatch):
    """As if queries were that much larger."""
    monkeypatch.setattr(flex, "compiled", lambda: torch_flex.flex_attention)
    kind = (lambda p, n, s, d: make_attend(p, n, [s], d)) if kind == "users" else kind
    q, k, v = torch.randn(3, 1, 2, 12, 16, generator=torch.Generator().manual_seed(0))
    for position in (NoPE(), ALiBi(2)):
        found = kind(scaled(pattern)(*size), 12, position, CPU)(q, k, v, position, q[0])
        expected = kind(pattern(*size), 12, position, CPU)(3 * q, k, v, position, q[0])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: ALiBi(4, "paper"), "series powers or geometric, got 4 and paper"),
    (lambda: StickBreaking("v"), "remainder none or self, got v"),
    (lambda: CoPE(8, 4, "raw"), "query plain or divided, got 4 and raw"),
    (lambda: PaTH(8, 4, 2, activation="relu"), "activation none or silu, got 32 and relu"),
    (lambda: FIRE(4, 64, activation="silu"), "activation relu or leaky_relu, got silu"),
    (lambda: DualChunk(log_scale=-1), "log_scale must be a number from 0"),
    (lambda: DualChunk(log_scale=1e300), "log_scale must be a number from 0 to 1e6"),
    (lambda: STRING(temperature=1e300), "temperature must be from 1e-6 to 1e6"),
    (lambda: DualChunk(stretch=0.5), "stretch from 1"),
])  # fmt: skip
def test_values_that_are_no_form_are_refused_with_those_that_are(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_values_given_to_train_reach_the_schemes():
    """Also those inside a list of schemes, and a size that is another key's."""
    config = compose(
        "train", "model=path_fox", "model.position.schemes.0.activation=silu",
        "model.position.schemes.1.head_dim=${size.head_dim}",
    )  # fmt: skip
    position = build(plain(config)["model"]["position"], Position, "model.position")
    reflections, gates = position.parts
    assert reflections.activation == "silu"
    assert gates.root == math.sqrt(plain(config)["size"]["head_dim"])
