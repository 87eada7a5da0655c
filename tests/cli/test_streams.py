"""Output streams of all kinds: a character or a line may be lost, never the run nor its code."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lexp.cli import main as cli
from lexp.cli.streams import _usable
from lexp.commands.train import train
from lexp.display.table import Table, TableCell
from lexp.display.terminal import table_console
from lexp.system import files
from support import ROOT
from support.children import run
from support.config import TINY, compose, dataset
from support.texts import make_text

COMMANDS = {
    "eval": ["eval", "lengths=[8,16]", "attention=[full]", "device=cpu", "precision=float32"],
    "report": ["report", "show=all"],
    "status": ["status"],
    "help": ["train", "--help"],
    "a mistake": ["train", "wandb='中'"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a study of one run, its test documents named in letters beyond ASCII."""
    root = tmp_path_factory.mktemp("streams")
    for number, split in enumerate(("train", "validation", "test")):
        (root / split).mkdir()
        for n in range(2):
            (root / split / f"ünï {n}.txt").write_text(make_text(2 * number + n, 200))
    train(compose("train", *TINY, *dataset(root), f"outputs={root}/outputs", "model=rope"))
    return root


def done(folder: Path, words: list[str], setup) -> tuple[int, str]:
    """Run `lexp WORDS` in a forked child; return its code and what it wrote to both streams."""

    def action() -> None:
        os.chdir(folder)
        sys.argv = ["lexp", *words]
        setup()
        cli.main()

    ended = run(action, folder / "said.log")
    return ended.code, ended.said


@pytest.mark.parametrize(
    ("command", "encoding"),
    [
        ("eval", "ascii"),
        ("report", "cp1252"),
        *(("a mistake", name) for name in ("ascii", "latin-1", "cp1252")),
    ],
)
def test_an_encoding_loses_a_character_and_not_the_run(trained, command, encoding):
    def setup():
        for number, name in ((1, "stdout"), (2, "stderr")):
            raw = os.fdopen(number, "wb", closefd=False)
            setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, errors="strict"))

    code, said = done(trained, COMMANDS[command], setup)
    assert code == (2 if command == "a mistake" else 0), said
    assert "Traceback" not in said and "UnicodeEncodeError" not in said
    assert {"eval": "| rope", "report": "| rope", "a mistake": "wandb="}[command] in said


def onto(handle: int) -> None:
    os.dup2(handle, 1)
    sys.stdout = os.fdopen(1, "w", closefd=False)


def closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    onto(writing)


def closed() -> None:
    os.close(1)
    sys.stdout = None


def both_closed() -> None:
    os.close(1)
    os.close(2)
    sys.stdout = sys.stderr = None


def full() -> None:
    onto(os.open("/dev/full", os.O_WRONLY))


@pytest.mark.parametrize(
    ("situation", "command"),
    [
        (closed_pipe, "report"),
        (closed_pipe, "help"),
        (closed_pipe, "status"),
        (closed, "status"),
        (closed, "a mistake"),
        (both_closed, "status"),
        (both_closed, "a mistake"),
        (full, "status"),
        (full, "a mistake"),
    ],
)
def test_output_that_nobody_gets_leaves_the_work_and_its_code(trained, situation, command):
    for path in trained.glob("outputs/default/re*/report.html"):
        path.unlink()
    code, said = done(trained, COMMANDS[command], situation)
    if command == "a mistake":
        assert code == 2, said
    elif situation is full:
        assert code == 5, said
        assert said.splitlines()[-1].startswith("lexp: cannot write to standard output: No space")
    else:
        assert code == 0, said
    assert "Traceback" not in said and "Exception" not in said and "Error executing" not in said
    if command == "report":
        assert (trained / "outputs/default/report/report.html").exists()


def test_after_a_closed_pipe_python_ends_without_a_word(trained):
    """Only a whole process shows what its end says: a flush that fails would make it 120."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "lexp", "status"], cwd=trained, stdout=writing, stderr=-1, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_file_that_is_opened_later_does_not_become_the_output(trained):
    """Where the shell has closed stdout, the number 1 would be that of the next file."""

    def setup():
        both_closed()

    def action():
        setup()
        sys.argv = ["lexp", "--version"]
        cli.main()
        with (trained / "later").open("w") as file:
            os.write(1, b"what a library prints")
            file.write("mine")

    assert run(action, trained / "said.log").code == 0
    assert (trained / "later").read_text() == "mine"


def test_a_text_with_half_a_character_is_written(tmp_path):
    """Names of files that are not UTF-8 are lone surrogates in Python."""
    files.write_text(tmp_path / "a.md", "caf\udce9 ünï\n")
    assert (tmp_path / "a.md").read_text() == "caf? ünï\n"


ANYWHERE = {
    errno.EMFILE: (5, "ulimit -n"),
    errno.ENOSPC: (5, "free space"),
    errno.EIO: (5, "check the disk"),
    errno.EAGAIN: (5, "ulimit -u"),
    errno.ENOMEM: (7, "out of memory"),
    errno.EBADMSG: (5, os.strerror(errno.EBADMSG)),
    None: (5, "no number"),
    "memory": (7, "out of memory"),
    "torch": (7, "out of memory"),
    "named": (5, "x/y"),
    "network": (5, "reset by peer"),
}


@pytest.mark.parametrize("kind", ANYWHERE)
@pytest.mark.parametrize("place", ["guarded", "task"])
def test_what_the_machine_lacks_is_one_line_wherever_it_is_missed(kind, place, capsys, monkeypatch):
    """place: where it passes: a command's own function, or what is around Hydra."""
    import torch

    from lexp.cli import entry_points

    def fail(config=None):
        if kind == "memory":
            raise MemoryError
        if kind == "torch":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if kind == "named":
            raise PermissionError(errno.EACCES, "Permission denied", "x/y")
        if kind == "network":
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        raise OSError("no number") if kind is None else OSError(kind, os.strerror(kind))

    def action():
        fail() if place == "guarded" else entry_points._stop_or_go_on(fail, None)

    monkeypatch.setattr(
        "hydra.core.hydra_config.HydraConfig.get", lambda: type("Config", (), {"mode": None})
    )
    if place == "guarded":
        code = cli.guarded("train", action)
    else:
        with pytest.raises(SystemExit) as stop:
            action()
        code = stop.value.code
    expected, words = ANYWHERE[kind]
    said = capsys.readouterr().err
    assert code == expected and words in said, said
    assert said.startswith("lexp: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("locale", "encoding"),
    [
        ({}, "utf-8"),
        ({"LANG": "C"}, "ascii"),
        ({"LC_ALL": "POSIX", "LANG": "de_DE.UTF-8"}, "ascii"),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "ascii"),  # as Python makes it of LANG=C
        ({"LC_CTYPE": "C.UTF-8"}, "utf-8"),  # as Python makes it where nothing is set
        ({"LANG": "C", "LC_CTYPE": "en_US.UTF-8"}, "utf-8"),
        ({"LANG": "C", "LC_ALL": "C.UTF-8"}, "utf-8"),
        ({"LANG": "C", "PYTHONUTF8": "1"}, "utf-8"),
    ],
)
def test_the_locale_c_gets_ascii_although_python_writes_utf_8_there(locale, encoding, monkeypatch):
    for name in ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONUTF8", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    for name, value in locale.items():
        monkeypatch.setenv(name, value)
    raw = io.BytesIO()
    stream = _usable(io.TextIOWrapper(raw, encoding="utf-8"), 1)
    stream.write("1 \u00b12 \u4e2d")
    stream.flush()
    assert raw.getvalue() == ("1 \u00b12 \u4e2d" if encoding == "utf-8" else "1 +-2 ?").encode()
    assert stream.encoding == encoding  # by which rich draws


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_signs_are_ascii_where_the_encoding_lacks_them(encoding, monkeypatch):
    """And tables stay aligned; a character without a plain sign is `?`."""
    raw = io.BytesIO()
    stream = _usable(io.TextIOWrapper(raw, encoding=encoding), 1)
    stream.write("1\u20262 \u2192 3\u00d7, \u00b14 \u4e2d\n")
    monkeypatch.setattr(sys, "stdout", stream)
    rows = tuple((TableCell(name), TableCell("1.2 \u00b10.5")) for name in ("a", "b\u2026"))
    table_console().table(Table("x \u2265 1", ("name", "n \u00d7 m"), rows))
    stream.flush()
    first, *drawn = raw.getvalue().decode(encoding).splitlines()
    if encoding == "utf-8":
        assert first == "1\u20262 \u2192 3\u00d7, \u00b14 \u4e2d" and "\u2503" in "".join(drawn)
        return
    assert first.endswith(" ?") and first.startswith("1...2 -> 3")
    if encoding == "ascii":
        assert first == "1...2 -> 3x, +-4 ?"
    frame = [line for line in drawn if line[:1] in "|+"]
    assert len(frame) >= 5 and len({len(line) for line in frame}) == 1, drawn
    assert "".join(drawn).isascii() and "?" not in "".join(drawn)
    assert any("b..." in line and "+-0.5" in line for line in drawn)


def test_lines_are_wrapped_as_they_are_written_in_ascii(monkeypatch):
    raw = io.BytesIO()
    stream = _usable(io.TextIOWrapper(raw, encoding="ascii"), 1)
    monkeypatch.setattr(sys, "stdout", stream)
    table_console(width=20).lines("four words of it \u00b112")
    stream.flush()
    assert raw.getvalue() == b"four words of it\n+-12\n"
