"""Protocols: which targets, how much context, and one forward pass wherever one is enough."""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lexp.attention import BlockSizes, ChunkSizes, Reference, TileSizes, make_attend
from lexp.config.instantiate import build
from lexp.evaluate import (
    EvalTargets,
    Method,
    ModelIdentity,
    ModelUnderTest,
    RunInfo,
    depends_on_length,
    evaluate,
)
from lexp.evaluate.partial_progress import PartialFile
from lexp.evaluate.prepare import prepare_unfitted
from lexp.extension import Extension
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Transformer
from lexp.pattern import Blockwise, Full, Pattern, Window
from lexp.position import ALiBi, RoPE
from lexp.scoring.losses import collect
from lexp.scoring.protocol import Fixed, Masked, Prefix, Protocol, Segments, Sliding
from lexp.scoring.scorer import Piece, Scorer
from lexp.system.errors import ConfigError, DataError, NotDefined
from support import ROOT
from support.config import choices
from support.evaluation import brute_force, tiny_model, tokens_of
from support.schemes import SCHEMES, dims, make

LENGTHS = (6, 10, 24)
ALL = [Segments(), Sliding(), Sliding(5), Sliding(6), Fixed(), Fixed(4), Fixed(1), Prefix()]
TOKENS = tokens_of(25, 31, 70, 24, 3)


def exam(protocol: Protocol, lengths=LENGTHS, tokens=TOKENS, max_tokens=None) -> EvalTargets:
    fitted = protocol.fit(lengths)
    return EvalTargets(fitted, lengths, fitted.spans(tokens, lengths, max_tokens))


def targets(made: EvalTargets, length: int) -> list[tuple[int, int]]:
    """(document, index of the target) in the order they are scored."""
    return [
        (w.document, w.first + t)
        for w in made.windows(length)
        for t in range(w.size - w.n_scored + 1, w.size + 1)
    ]


@pytest.mark.parametrize("protocol", ALL, ids=repr)
def test_every_target_once_and_the_same_at_every_length(protocol):
    made = exam(protocol)
    expected = {(s.document, t) for s in made.spans for t in range(s.first, s.first + s.n_tokens)}
    for length in LENGTHS:
        found = targets(made, length)
        assert len(found) == len(set(found)) and found == sorted(found)
        if not protocol.nested:
            assert set(found) == expected
        for window in made.windows(length):
            last = window.first + window.size  # its last target
            assert window.first >= 0 and last < TOKENS.lengths[window.document]
            assert 1 <= window.n_scored <= window.size <= length


def contexts(made: EvalTargets, length: int) -> list[int]:
    windows = made.windows(length)
    n = sum(w.n_scored for w in windows)
    own = made.protocol.contexts(windows)
    return collect(TOKENS, windows, own, np.zeros(n), length, "x").context.tolist()


def test_contexts_are_what_each_protocol_says():
    assert contexts(exam(Segments()), 10)[:24] == [*range(1, 11), *range(1, 11), 1, 2, 3, 4]
    # First window whole; then five new tokens at the end of windows of ten: 6 to 10 before them.
    expected = [*range(1, 11), *range(6, 11), *range(6, 11), 7, 8, 9, 10]
    assert contexts(exam(Sliding(5)), 10)[:24] == expected
    for length in LENGTHS:
        found = contexts(exam(Fixed(4)), length)
        assert found == [*range(length - 3, length + 1)] * (len(found) // 4)
    assert contexts(exam(Prefix()), 10) == 3 * list(range(1, 11))


def test_stride_1_gives_each_target_a_full_window():
    assert set(contexts(exam(Sliding(1)), 10)[10:24]) == {10}


def test_fixed_targets_are_spread_over_documents_and_never_overlap():
    made = exam(Fixed(4), max_tokens=24)
    by_document = {d: [s.first for s in made.spans if s.document == d] for d in (0, 1, 2)}
    assert by_document == {0: [21], 1: [21, 25], 2: [21, 65]}  # 69 is the last index of document 2
    assert all(s.n_tokens == 4 for s in made.spans)
    everything = exam(Fixed(4))
    assert {s.first for s in everything.spans if s.document == 2} == set(range(21, 67, 4))
    assert len(exam(Fixed(4), max_tokens=4).spans) == 1


@pytest.mark.parametrize("pattern", [Full(), Blockwise(3), Window(5)], ids=repr)
@pytest.mark.parametrize("position", [RoPE(8), ALiBi(2)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("protocol", ALL, ids=repr)
def test_scores_equal_brute_force(protocol, position, pattern):
    """Each target by a float64 pass of its own over the tokens its window holds before it."""
    model = tiny_model(position)
    made, length = exam(protocol, max_tokens=60), 10
    windows = made.windows(length)
    found = Scorer(model, pattern, nullcontext()).score(TOKENS, windows)
    reference, place = model.double(), 0
    for window in windows:
        ids = TOKENS.window(window.document, window.first, window.size + 1).tolist()
        expected = brute_force(reference, pattern, ids, window.size, window.size)
        own = found[place : place + window.n_scored]
        np.testing.assert_allclose(own, expected[-window.n_scored :], rtol=0, atol=2e-5)
        place += window.n_scored
    assert place == len(found)


def test_bad_sizes_are_refused_with_what_fits():
    with pytest.raises(ConfigError, match=r"stride=7 is more than the shortest of lengths=.*6"):
        Sliding(7).fit(LENGTHS)
    with pytest.raises(ConfigError, match="block=7 is more than"):
        Fixed(7).fit(LENGTHS)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        Sliding(0)
    with pytest.raises(DataError, match=r"71 tokens that length 70 needs"):
        exam(Fixed(2), (6, 70))


def test_labels_name_every_choice_and_can_be_told_in_words():
    labels = [protocol.fit(LENGTHS).label(LENGTHS) for protocol in ALL]
    assert len(set(labels)) == len(ALL) and labels[3] == "sliding-by-6-24"
    infos = [protocol.fit(LENGTHS).info(LENGTHS) for protocol in ALL]
    assert [info.label for info in infos] == labels
    assert len({info.description for info in infos}) == len(ALL)
    assert infos[3].name == "sliding" and infos[3].values == {"stride": 6}
    assert "moving on by 6 tokens" in infos[3].description and infos[3].longest == 24


def test_a_stored_result_carries_what_its_protocol_is():
    """What tables and charts are made is not read off a label."""
    infos = {info.name: info for info in (p.fit(LENGTHS).info(LENGTHS) for p in [*ALL, Masked()])}
    assert {name for name, info in infos.items() if not info.paired} == {"prefix"}
    assert {name for name, info in infos.items() if info.masked} == {"masked"}
    assert {name for name, info in infos.items() if info.all_contexts} == {"segments", "prefix"}
    assert infos["masked"].values == {"percent": 15, "seed": 0}


@dataclass(frozen=True)
class Backwards(Segments):
    """A protocol of somebody else, with the name of another at its beginning."""

    name = "masked_backwards"


def test_a_protocol_of_ones_own_is_what_its_class_says():
    info = Backwards().info(LENGTHS)
    assert info.label == "masked_backwards-24" and not info.masked and info.paired


# --- one pass for all shorter lengths


def subject(model, tmp_path, tokens=TOKENS) -> ModelUnderTest:
    return ModelUnderTest(
        tmp_path, RunInfo("r", "m", "s", "d", 0, 8, "bytes", "float32", "t", "v", "t"),
        ModelIdentity({}, {}, "c", "f", "t", "float32", {}), model, tokens, nullcontext(),
        sample(tokens), Full(),
    )  # fmt: skip


def sample(tokens):
    return lambda n, length: torch.from_numpy(np.stack([tokens.window(2, 0, length)] * n))


def scored(made: EvalTargets, one: ModelUnderTest, method: Method) -> dict[int, tuple[float, str]]:
    results = evaluate(one, made, [method], lambda *_: None, lambda _: None)
    return {result.length: (result.nll, result.status) for result in results}


def count_passes(monkeypatch) -> list[list[Piece]]:
    passes: list[list[Piece]] = []
    original = Scorer._pass
    monkeypatch.setattr(
        Scorer, "_pass",
        lambda self, tokens, batch, attend: (
            passes.append(batch), original(self, tokens, batch, attend))[1],
    )  # fmt: skip
    return passes


METHODS = [Method(pattern, Extension(), 24) for pattern in (Full(), Blockwise(4), Window(5))]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_pass_gives_every_shorter_length_wherever_nothing_depends_on_length(
    scheme, tmp_path, monkeypatch
):
    """Against a pass of its own at every length."""
    torch.manual_seed(0)
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    made = exam(Prefix())
    for method in METHODS:
        one = subject(model, tmp_path / method.label)
        with monkeypatch.context() as patch:
            passes = count_passes(patch)
            together = scored(made, one, method)
        shared = not depends_on_length(one, made, method)
        if shared and together[24][1] == "ok":
            assert {piece.size for batch in passes for piece in batch} == {24}
        for length in LENGTHS:
            alone = replace(made, lengths=(length,))
            other = subject(model, tmp_path / f"{method.label}-{length}")
            (value, status) = scored(alone, other, method)[length]
            assert status == together[length][1]
            if status == "ok":
                assert value == pytest.approx(together[length][0], abs=1e-5)


@pytest.mark.parametrize("name", choices("extension"))
def test_extensions_say_truly_whether_they_follow_the_length(name, tmp_path):
    """Beginnings of a long text get the losses they get alone, unless the extension says not."""
    from support.config import compose

    node = compose("eval", f"extension=[{name}]").extension[name]
    if name == "longrope":
        node.divisors = [1.0, 1.5, 2.0, 4.0]
    extension = build(OmegaConf.to_container(node), Extension, "extension")
    differing = []
    for scheme in ("rope", "nope", "fire", "alibi"):
        torch.manual_seed(0)
        model = Transformer(dims(), 50, [LayerEntry(lambda s=scheme: make(s))]).eval()
        # The index is local in blocks alone.
        seen = Blockwise(5) if name == "local_index" else Full()
        method = Method(seen, extension, max(LENGTHS))
        values = []
        for length in (10, 24):
            one = subject(model, tmp_path)
            try:
                extended, pattern = prepare_unfitted(one, method, length)
            except NotDefined:
                break
            made = EvalTargets(Prefix(), (length,), exam(Prefix()).spans)
            nats = Scorer(extended, pattern, nullcontext()).score(TOKENS, made.windows(length))
            values.append(nats.reshape(3, length)[:, :10])
        if len(values) == 2:
            differing.append(np.abs(values[0] - values[1]).max() > 1e-5)
    assert differing, "defined for one of them at least"
    assert any(differing) == extension.follows_length


def test_prefix_goes_on_where_the_longest_fails(tmp_path, monkeypatch):
    model = tiny_model(RoPE(8)).eval()
    original = Scorer.score

    def failing(self, tokens, windows, *rest):
        if windows[0].size == 24:
            raise torch.OutOfMemoryError("no room")
        return original(self, tokens, windows, *rest)

    monkeypatch.setattr(Scorer, "score", failing)
    one, plain = subject(model, tmp_path), Method(Full(), Extension(), 24)
    found = scored(exam(Prefix()), one, plain)
    assert [found[n][1] for n in LENGTHS] == ["ok", "ok", "out of memory"]


# --- long windows in pieces


STREAMED: list[Pattern] = [Blockwise(3), Window(5), Window(1)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("pattern", STREAMED, ids=repr)
def test_pieces_of_a_long_window_give_what_one_pass_gives(scheme, pattern, monkeypatch):
    torch.manual_seed(0)
    tokens = tokens_of(230)
    model = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positions" not in name:
                parameter.mul_(3)
    if any(p.max_len is not None and p.max_len < 229 for p in model.schemes):
        pytest.skip(f"{scheme} ends before")
    (window,) = Prefix().windows(Prefix().spans(tokens, [229], None)[0], 229)
    whole = Scorer(model, pattern, nullcontext(), 1000)
    streamed = Scorer(model, pattern, nullcontext(), 16)
    assert len(whole.pieces([window])) == 1
    pieces = streamed.pieces([window])
    # Sampled or absolute positions, and FIRE's index, are not those of the window's end alone.
    if any(
        p.samples_positions or p.counts_from_zero or p.reads_indices or p.reads_tokens
        for p in model.schemes
    ):
        assert len(pieces) == 1
        return
    assert len(pieces) > 2 and max(p.size for p in pieces) < 110
    expected = whole.score(tokens, [window])
    np.testing.assert_allclose(streamed.score(tokens, [window]), expected, rtol=0, atol=1e-5)
    # The halo is needed: with less of it the numbers differ (unless a query sees itself alone).
    if pattern != Window(1):
        monkeypatch.setattr("lexp.scoring.scorer.begin_of_field", lambda _, start: start // 3 * 3)
        assert np.abs(streamed.score(tokens, [window]) - expected).max() > 1e-4


def test_a_long_window_is_the_brute_force_over_the_whole_text():
    tokens = tokens_of(150)
    model = tiny_model(RoPE(8))
    (window,) = Prefix().windows(Prefix().spans(tokens, [149], None)[0], 149)
    found = Scorer(model, Blockwise(4), nullcontext(), 16).score(tokens, [window])
    reference = model.double()
    ids = torch.from_numpy(tokens.window(0, 0, 150))[None]
    attend = Reference(Blockwise(4), 149, reference.position, torch.device("cpu"))
    with torch.no_grad():
        expected = reference.losses(ids[:, :-1], ids[:, 1:], attend)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


# --- resuming within a cell


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_cell_that_was_cut_off_goes_on_where_it_was(stop, tmp_path, monkeypatch):
    monkeypatch.setattr("lexp.evaluate.partial_progress.SAVE_EVERY_S", 0.0)
    model = tiny_model(RoPE(8)).eval()
    windows = exam(Sliding(2)).windows(10)
    scorer = Scorer(model, Full(), nullcontext(), 40)
    expected = scorer.score(TOKENS, windows)
    n_targets = sum(window.n_scored for window in windows)
    partial = PartialFile(tmp_path / "cell.part", "a" * 64, n_targets)
    passes = count_passes(monkeypatch)
    original = Scorer._pass

    class Cut(BaseException):
        pass

    def cut(self, *arguments):
        if len(passes) == stop:
            raise Cut
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "_pass", cut)
        with pytest.raises(Cut):
            scorer.score(TOKENS, windows, partial=partial)
    read: list[int] = []
    found = scorer.score(TOKENS, windows, read.append, partial)
    np.testing.assert_array_equal(found, expected)
    n_all = len({id(batch) for batch in passes})
    assert n_all == len(passes)  # no pass was made twice
    assert sum(read) == sum(w.size for w in windows)
    partial.remove()
    assert not (tmp_path / "cell.part").exists()


PARTS = {
    "nothing of the kind": lambda data: b"PK nothing of the kind",
    "empty": lambda data: b"",
    "an archive": lambda data: b"PK\x03\x04" + bytes(9000),
    "a line of gigabytes": lambda data: b"{" * 100_000,
    "cut": lambda data: data[:-8],
    "longer": lambda data: data + bytes(4),
    "a bit of a loss": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "more passes": lambda data: data.replace(b'"n_done": 2', b'"n_done": 3'),
    "of another evaluation": lambda data: data.replace(b"a" * 64, b"b" * 64),
}


@pytest.mark.parametrize("damage", PARTS)
def test_a_damaged_partial_file_is_said_and_a_fresh_start(damage, tmp_path, monkeypatch):
    monkeypatch.setattr("lexp.evaluate.partial_progress.SAVE_EVERY_S", 0.0)
    path = tmp_path / "cell.part"
    partial = PartialFile(path, "a" * 64, 10)
    assert partial.load() is None  # without a word: there is none
    nats = np.arange(10, dtype=np.float32)
    partial.save(nats, 2)
    found = partial.load()
    assert found is not None and found[1] == 2
    np.testing.assert_array_equal(found[0], nats)
    path.write_bytes(PARTS[damage](path.read_bytes()))
    with pytest.warns(UserWarning, match="cell.part is left out, scoring begins anew"):
        assert partial.load() is None


@pytest.mark.parametrize("scheme", SCHEMES)
def test_full_attention_over_chunks_is_the_brute_force(scheme):
    """Rows of masks and of the feed-forward layer as few as for a text of a million tokens."""
    sizes = BlockSizes(TileSizes(whole_tokens=10, max_mask=100), ChunkSizes(max_rows=7))
    torch.manual_seed(0)
    tokens, n = tokens_of(61), 60
    model = Transformer(
        dims(), 50, [LayerEntry(lambda: make(scheme))], max_logits=400, mlp_rows=9
    ).eval()
    (window,) = Prefix().windows(Prefix().spans(tokens, [n], None)[0], n)
    scorer = Scorer(model, Full(), nullcontext(), make_attend=partial(make_attend, sizes=sizes))
    found = scorer.score(tokens, [window])
    reference = Transformer(dims(), 50, [LayerEntry(lambda: make(scheme))]).eval()
    reference.load_state_dict(model.state_dict())
    reference = reference.double()
    ids = torch.from_numpy(tokens.window(0, 0, n + 1))[None]

    def dense(q, k, v, position, x, sampled=None):
        return Reference(Full(), n, position, torch.device("cpu"))(q, k, v, position, x, sampled)

    with torch.no_grad():
        expected = -reference(ids[:, :-1], dense)[0].log_softmax(-1)[range(n), ids[0, 1:]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


GROWTH = """
import resource, sys
sys.path.insert(0, {tests!r})
from contextlib import nullcontext
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Blockwise
from lexp.position import RoPE
from lexp.scoring.protocol import Prefix
from lexp.scoring.scorer import Scorer
from support.evaluation import tokens_of
import torch
torch.set_num_threads(1)
model = Transformer(Dims(2, 64, 2, 32, 128), 50, [LayerEntry(lambda: RoPE(32))]).eval()
peaks = []
for n in (1 << 15, 1 << 16, 1 << 18):
    tokens = tokens_of(n + 1)
    (window,) = Prefix().windows(Prefix().spans(tokens, [n], None)[0], n)
    Scorer(model, Blockwise(64), nullcontext()).score(tokens, [window])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[2] - peaks[1])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text_where_the_pattern_is_bounded():
    """From 65 thousand to 262 thousand tokens: a hidden state of all would be 48 MiB more."""
    code = GROWTH.format(tests=str(ROOT / "tests"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert float(done.stdout) < 24
