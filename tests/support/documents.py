"""What the documentation tells its readers to type, and a place in which that is done for them."""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from hydra.core.singleton import Singleton

from support import ROOT
from support.texts import make_text

PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
SHELL = ("cat", "cp", "export", "head", "pytest", "sed")


class Step(NamedTuple):
    """Something to do: a command, a choice (of a table, as a command), a file or python.

    where: page and line. name: of a file.
    """

    kind: str
    text: str
    where: str
    name: str = ""


def steps(page: str) -> Iterator[Step]:
    """What a page tells to do, in its order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        where = f"{page}:{number + 1}"
        fence = re.fullmatch(r" *```(\w*)", lines[number])
        if fence:
            end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
            yield from in_block(fence[1], lines[number + 1 : end], page, number + 2)
            number = end
        else:
            table = re.match(r"\| `(lexp [^`]*)…([^`]*)` \|", lines[number])
            if table:
                names = list(choices_below(lines[number + 2 :]))
                # Of a list all are chosen at once: composing takes longer than checking.
                for choice in [",".join(names)] if table[1].endswith("[") else names:
                    yield Step("choice", f"{table[1]}{choice}{table[2]}", where)
            else:
                for span in re.findall(r"`(lexp \w+ [^`]+)`", lines[number]):
                    yield Step("command", span, where)
        number += 1


def choices_below(lines: list[str]) -> Iterator[str]:
    """The names in the first column of a table's rows."""
    for line in lines:
        if not line.startswith("|"):
            return
        yield from re.findall(r"`(\w+)`", line.split("|")[1])


def in_block(language: str, lines: list[str], page: str, first: int) -> Iterator[Step]:
    """The steps of a fenced block; one that begins with `# a/file.py` is that file."""
    name = re.fullmatch(r"# ([\w/.-]+\.(?:py|yaml))", lines[0])
    if name:
        yield Step("file", "\n".join([*lines[1:], ""]), f"{page}:{first}", name[1])
    elif language == "python":
        yield Step("python", "\n".join(lines), f"{page}:{first}")
    elif language == "bash":
        whole = re.sub(r" *\\\n *", " ", "\n".join(lines)).splitlines()
        for line in whole:
            if shlex.split(line, comments=True):
                yield Step("command", line.strip(), f"{page}:{first}")
    elif language not in ("", "text"):
        raise AssertionError(f"{page}:{first}: what is a block of {language!r}?")


def study_steps() -> Iterator[Step]:
    """The command that each study file names in its head."""
    for path in sorted((ROOT / "conf" / "study").glob("*.yaml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("#   command "):
                text = line.removeprefix("#   command ").strip()
                yield Step("command", text, f"conf/study/{path.name}")


@dataclass
class World:
    """A reader's folder, in which commands are done by this process."""

    folder: Path
    patch: pytest.MonkeyPatch

    def do(self, step: Step) -> str:
        """Do a step; what it printed. A failure is an assertion that says where the step is."""
        try:
            if step.kind == "file":
                path = self.folder / step.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.text, encoding="utf-8")
                return ""
            if step.kind == "python":
                return self.python(step.text)
            words = shlex.split(step.text, comments=True)
            if words[0] == "export":
                return self.export(words[1:])
            if words[0] != "lexp":
                return self.shell(step.text)
            code, said = self.lexp(words[1:])
            assert code == 0, said
            return said
        except AssertionError as error:
            raise AssertionError(f"{step.where}: {step.text}\n{error}") from error

    def export(self, words: list[str]) -> str:
        """Set variables for what follows."""
        for word in words:
            name, _, value = word.partition("=")
            self.patch.setenv(name, value)
            if name == "PYTHONPATH":
                self.patch.syspath_prepend(str(self.folder / value))
        return ""

    def python(self, text: str) -> str:
        """Run a script."""
        (self.folder / "script.py").write_text(text, encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            runpy.run_path(str(self.folder / "script.py"))
        return said.getvalue()

    def shell(self, text: str) -> str:
        """Let a shell do it."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-c", text], cwd=self.folder, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lexp(self, arguments: list[str]) -> tuple[int, str]:
        """`lexp` in this process, its exit code and what it said."""
        from lexp.cli.main import main

        said = io.StringIO()
        code = 0
        with (
            untouched(),
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            patch.setattr(sys, "argv", ["lexp", *arguments])
            for name in ("HYDRA_FULL_ERROR", "LEXP_SWEEP_JOBS"):
                patch.setenv(name, "")  # set by the command; put back afterwards
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        return code, said.getvalue()


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Within: what a command leaves behind in a process; afterwards it is as it was."""
    import hydra._internal.hydra as hydra_main

    singletons = Singleton.get_state()
    loader = hydra_main.ConfigLoaderImpl
    try:
        yield
    finally:
        hydra_main.ConfigLoaderImpl = loader
        Singleton.set_state(singletons)


def make_world(folder: Path, patch: pytest.MonkeyPatch) -> World:
    """Small texts and models where the pages have theirs."""
    for split, n_words in (("train", 800), ("validation", 800), ("test", 6000)):
        (folder / "books" / split).mkdir(parents=True)
        for number in range(4):
            text = make_text(10 * number + len(split), n_words)
            (folder / "books" / split / f"{number}.txt").write_text(text, encoding="utf-8")
    shutil.copytree(folder / "books" / "validation", folder / "books" / "val")
    (folder / "papers").mkdir()
    (folder / "papers" / "all.jsonl").write_text('{"text": "%s"}\n' % ("to be or not " * 500))
    corpus = folder / "corpus"
    corpus.mkdir()
    for split in ("train", "validation", "test"):
        (corpus / f"{split}.jsonl").write_text('{"text": "%s"}\n' % ("or take arms " * 500) * 3)
    patch.chdir(folder)
    library = small_library(folder / "library")
    patch.setattr("lexp.data.stdlib.sysconfig", SimpleNamespace(get_path=lambda name: str(library)))
    patch.setattr("lexp.data.stdlib._topics", lambda: iter(()))
    return World(folder, patch)


def add_sources(folder: Path) -> None:
    """A copy of the checkout, for a page that changes files of it."""
    for name in ("lexp", "hydra_plugins", "conf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def add_model(folder: Path) -> None:
    """A model of Hugging Face where README has one."""
    from support.hf import CONFIGS, saved

    saved(CONFIGS["llama"](), folder / "models" / "my-llama")


def small_library(folder: Path) -> Path:
    """A standard library of a few long files in each split."""
    from lexp.data.stdlib import split_of

    folder.mkdir()
    missing = {"train": 4, "validation": 2, "test": 2}
    for number in range(1000):
        split = split_of(f"m{number}.py")
        if missing[split]:
            missing[split] -= 1
            n_words = 6000 if split == "test" else 800
            (folder / f"m{number}.py").write_text(make_text(number, n_words), encoding="utf-8")
    return folder
