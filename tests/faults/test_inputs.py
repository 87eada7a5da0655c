"""Bad values and bad texts: a code and one line within seconds, never a traceback, never a hang."""

import random
import string

import pytest

from lexp.cli import main as cli
from support.forked import lexp, words_for

# Section by section what people type wrong; 2 is refused, 0 is meant so.
TRAIN = {
    "lr=1e-3x": 2, "lr='0.1 '": 2, "lr=nan": 2, "lr=inf": 2, "lr=-inf": 2, "lr=null": 2, "lr=": 2,
    "lr=[1]": 2, "lr={a:1}": 2, "lr=true": 2, "lr=1e400": 2, "lr=0": 2, "tokens=0": 2,
    "tokens=-1": 2, "tokens=null": 2, "tokens=1e400": 2, "tokens=nan": 2, "train_len=1e3": 2,
    "train_len=1.5": 2, "train_len=-8": 2, "train_len=99999999999999999999": 2, "seed=-1": 2,
    "seed=18446744073709551616": 2, "seed=1.5": 2, "seed=null": 2, "batch_tokens=0": 2,
    "save_every=0": 2, "eval_every=-1": 2, "keep=0": 2, "keep=[0]": 2, "keep=x": 2,
    "precision=fp7": 2, "device=tpu": 2, "device=cuda:9": 2, "compile=maybe": 2, "model=nope2": 2,
    "model=../../x": 2, "model=/etc/passwd": 2, "dataset=../../x": 2, "size=": 2, "model=null": 2,
    "+new=1": 2, "~model": 2, "~lr": 2, "~optim.beta1": 2,
    "model": 2, "=": 2, "=x": 2, "a=b=c": 2, "[": 2, "lr=[": 2,
    "lr={": 2, "lr=${": 2, "lr=${nothing}": 2, "lr=${lr}": 2, "optim=3": 2, "optim.beta1=2": 2,
    "size.n_heads=0": 2, "size.n_heads=3": 0, "wandb=yes": 2, "outputs=": 2, "--nonsense": 2,
    "-x": 2, "lr=1e-2 lr=2e-2": 0, "init_from=/": 2, "name=.": 2, "name=..": 2, "name=a/b": 2,
    "name='a\nb'": 2, "name=\x1b[31mred": 2, f"name={'x' * 300}": 2, "name=~": 2, "seed=1e3": 2,
    "stall_min=0": 2, "stall_min=nan": 2, "stall_min=soon": 2, "model=[rope,alibi]": 2,
    "+hydra=x": 2, "hydra.nothing=1": 2, "seed=1 seed=2": 0,
}  # fmt: skip


def one_line(ended) -> bool:
    return ended.is_one_line() and len(ended.said.strip().splitlines()) == 1


def coded(words: list[str]) -> int:
    """The exit code of `lexp train WORDS`, run here."""
    try:
        return cli.guarded("train", lambda: cli.run("train", words))
    except SystemExit as stop:
        return int(stop.code or 0)


def test_words_that_lexp_train_does_not_take(texts, tmp_path):
    """All in one child, with a line of its own before each."""

    def action():
        for word in TRAIN:
            print(f"\nWORD {word!r}", flush=True)
            print(f"\nCODE {coded([*words_for(texts), *word.split(' ')])}", flush=True)
        raise SystemExit(0)

    ended = lexp("--version", cwd=tmp_path, setup=action)
    assert ended.code == 0, ended.said[-2000:]
    parts = ended.said.split("\nWORD ")[1:]
    assert len(parts) == len(TRAIN)
    for part, (word, code) in zip(parts, TRAIN.items(), strict=True):
        lines = [line for line in part.splitlines() if line]
        assert lines[0] == repr(word) and lines[-1] == f"CODE {code}", part
        assert code == 0 or (len(lines) == 3 and lines[1].startswith("lexp: ")), part


def test_random_words_are_refused_in_one_line_or_taken(tmp_path):
    """A hundred words of Hydra's own letters; what is left of each is its code and its line."""
    rng = random.Random(0)
    letters = string.ascii_lowercase[:6] + "=+~.,:[]{}()$'\"\\@/-_ 01\t\u00e9\u4e2d"
    keys = ["lr", "model", "seed", "name", "optim", "size.d_ff", "hydra.job", "+x", "~size"]

    def action():
        for _ in range(100):
            tail = "".join(rng.choice(letters) for _ in range(rng.randint(1, 12)))
            word = rng.choice([tail, f"{rng.choice(keys)}={tail}", f"{rng.choice(keys)}{tail}"])
            print(f"WORD {word!r}", flush=True)
            words = ["--cfg", "job", word.lstrip("-") or "x"]
            print(f"CODE {coded(words)}", flush=True)
        raise SystemExit(0)

    ended = lexp("--version", cwd=tmp_path, setup=action)
    assert ended.code == 0, ended.said[-2000:]
    assert "Traceback" not in ended.said and ended.said.count("CODE ") == 100
    assert not [x for x in ended.said.split("\n") if x.startswith("CODE") and x[5:] not in "02"]


TEXTS = {
    "empty": (b"", 3),
    "a byte": (b"x", 3),
    "one byte short of a batch": (b"x" * 16, 3),
    "a window": (b"x" * 17, 3),
    "four windows": (b"x" * 65, 0),
    "blank lines": (b"\n" * 200, 0),
    "no newline at the end": (b"some words " * 20, 0),
    "CRLF": (b"some words\r\n" * 20, 0),
    "byte order mark": (b"\xef\xbb\xbf" + b"some words " * 20, 0),
    "NUL": (b"\0" * 200, 0),
    "not UTF-8 at first": (b"\xff" + b"some words " * 20, 3),
    "not UTF-8 in the middle": (b"some words " * 10 + b"\xc3(" + b"some words " * 10, 3),
    "not UTF-8 at last": (b"some words " * 20 + b"\xe4\xb8", 3),
    "a line of 2 MB": (b"word " * 400_000, 0),
    "pickle": (b"\x80\x04\x95" + b"x" * 100, 3),
}
LINES = {
    "no text": (b'{"title": 1}\n', 3),
    "cut": (b'{"text": "some words"}\n{"text": "some wo', 3),
    "not JSON": (b"text\n", 3),
    "a number": (b'{"text": 3}\n', 3),
    "deep": (b"[" * 50_000 + b"\n", 3),
    "lone surrogate": (b'{"text": "' + b"words " * 20 + b'\\ud800"}\n', 3),
    "fine": (b'{"text": "' + b"some words " * 20 + b'"}\n', 0),
}


@pytest.mark.parametrize(
    ("suffix", "name"), [("txt", n) for n in TEXTS] + [("jsonl", n) for n in LINES]
)
def test_texts_that_are_not_as_they_should_be(texts, tmp_path, suffix, name):
    data, code = (TEXTS if suffix == "txt" else LINES)[name]
    path = tmp_path / f"given.{suffix}"
    path.write_bytes(data)
    words = [word for word in words_for(texts) if not word.startswith("dataset.train")]
    ended = lexp("train", *words, f"dataset.train={path}", cwd=tmp_path)
    assert ended.code == code, (ended.code, ended.said)
    if code:
        assert one_line(ended), ended.said
        short = "of train_len=16" in ended.said
        assert short or "given." in ended.said, ended.said
    assert ended.seconds < 20
