"""`lexp list`: the whole grid, and all about one choice."""

import io
import re
import subprocess

import pytest

from lexp.commands.catalogue import ALL_GROUPS, METHODS
from lexp.commands.list import list_
from lexp.system.files import config_folder
from support.cli import timed
from support.config import choices
from support.forked import completed


def listed(*words: str, cwd, most: float) -> subprocess.CompletedProcess:
    """`lexp list WORDS` in a process of its own, which takes at most that many CPU seconds."""
    result, seconds, _ = timed("list", *words, cwd=cwd)
    assert seconds < most
    return result


def test_list_names_every_scheme_and_method_and_what_combines(tmp_path):
    result = listed(cwd=tmp_path, most=2)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for group in ("model", "attention", "extension"):
        for name in choices(group):
            assert any(name in line.split()[:2] for line in lines), name
    start = next(n for n, line in enumerate(lines) if line.startswith("what combines"))
    legend = next(n for n, line in enumerate(lines) if line.startswith("x: defined"))
    grid = {line.split()[0]: line.split()[1:] for line in lines[start + 2 : legend]}
    assert set(grid) == set(choices("model"))
    methods = sorted(choices("attention")) + sorted(choices("extension"))
    assert {len(marks) for marks in grid.values()} == {len(methods)}

    def defined(scheme, method):
        return grid[scheme][methods.index(method)] == "x"

    assert defined("rope", "yarn") and not defined("alibi", "yarn")
    assert defined("alibi", "blockwise") and not defined("learned", "blockwise")
    assert defined("learned", "pi") and not defined("nope", "self_extend")
    assert defined("tisa", "bidirectional") and not defined("fox", "bidirectional")
    assert all(defined("rope", m) for m in choices("attention"))
    ending = {m for m, mark in zip(methods, grid["learned"], strict=True) if mark == "t"}
    assert {"full", "none", "blockwise", "log_n"} <= ending
    assert not ending & {"pi", "yarn", "self_extend"} and "t" not in grid["rope"]


def test_position_parameters_are_counted_where_all_layers_have_attention(capsys):
    list_(config_folder(), ["model"], [])
    rows = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:-2]
    }
    mixed = {"gated_delta_net", "gla", "kda", "mamba2", "retnet", "samba", "qwen3_next",
             "kimi_linear"}  # fmt: skip
    assert {name for name, row in rows.items() if not row[0].replace(",", "").isdigit()} == mixed
    assert rows["rope"][0] == "0" and rows["kerple_log"][0] == "8"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_shows_the_whole_grid(width, monkeypatch):
    """In several parts where it is narrow: with every name, every number and every sign."""
    shown = Terminal()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", shown)
    list_(config_folder(), [], [])
    text = re.sub(r"\x1b\[[\d;]*m", "", shown.getvalue())
    assert max(map(len, text.splitlines())) <= width
    words = [line.split() for line in text[text.index("what combines") :].splitlines()]
    n_methods = len(choices("attention")) + len(choices("extension"))
    assert sum(len(row) for row in words if row and row[0].isdigit()) == n_methods
    for name in choices("model"):
        rows = [row[1:] for row in words if row[:1] == [name]]
        assert len(rows) == {60: 4, 80: 2, 200: 1}[width]
        signs = "".join(sign for row in rows for sign in row)
        assert len(signs) == n_methods and set(signs) <= set("xt\u00b7")


def test_list_of_one_gives_source_values_and_reasons(tmp_path):
    result = listed("kerple_log", "yarn", cwd=tmp_path, most=1)
    assert result.stdout.startswith("model=kerple_log\n\n# KERPLE")  # its own file first
    assert " \n" not in result.stdout and "\n\n\n" not in result.stdout.strip()
    assert "arXiv 2205.09921" in result.stdout and "r1 log(1 + r2 |i - j|)" in result.stdout
    assert "_target_: lexp.extension.YaRN" in result.stdout
    assert "yarn changes rotary frequencies, ALiBi has none" in result.stdout
    assert result.stdout.endswith("\nnext: lexp eval 'extension=[yarn]'\n\n")
    of_learned = re.search(r"^  learned +(.*)", result.stdout, re.M)
    assert of_learned and of_learned[1].startswith("yarn changes rotary frequencies, Learned")


def test_list_of_a_data_set_gives_its_values_and_of_a_task_its_formats(capsys):
    list_(config_folder(), ["addition", "stdlib"], [])
    out = capsys.readouterr().out
    assert "dataset=addition\n\n# Add two numbers" in out and "max_length: 20" in out
    assert "arXiv 2402.09371" in out and "| reverse, hints | `a7b5+a8=` | `a5b6` |" in out
    assert "next: lexp train dataset=addition\n" in out and "yarn" not in out
    assert out.endswith("_target_: lexp.data.stdlib.Stdlib\n\nnext: lexp train dataset=stdlib\n\n")


def test_every_name_that_can_be_written_in_a_command_is_found(capsys):
    """With its file, and with a command that chooses it."""
    folder = config_folder()
    written = [
        p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*/**/*.yaml")
    ]
    keys = {
        (group, path.removeprefix(f"{group}/"))
        for path in written
        for group in ALL_GROUPS
        if path.startswith(f"{group}/")
    }
    assert len(keys) == len(set(written)) > 150
    further = {(group, name) for group, name in keys if group not in ("model", *METHODS)}
    list_(folder, sorted({name for _, name in further}), [])
    out = capsys.readouterr().out
    for group, name in further:
        assert f"{group}={name}\n\n" in out
        assert re.search(rf"^next: lexp .*[ '+]{group}=\[?{name}\b", out, re.M), name


@pytest.mark.parametrize(
    ("group", "column"), [("dataset", 0), ("attention", 1), ("protocol", 0), ("instruments", 0)]
)
def test_list_of_a_group_names_its_choices_alone(group, column, capsys):
    list_(config_folder(), [group], [])
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert group in title
    assert [line.split()[column] for line in lines if line] == sorted(choices(group))


def test_full_attention_of_a_recurrent_model_is_as_it_was_trained(capsys):
    """As `lexp eval 'attention=[full]'` runs it, see lexp.evaluate.methods_for."""
    list_(config_folder(), ["mamba2", "rope"], [])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    full = [words[1] for words in lines if words[0] == "full"]
    assert full == ["as attention=[trained]: no layer was trained with full attention", "defined"]
    blockwise = [words[1] for words in lines if words[0] == "blockwise"]
    assert blockwise[0].startswith("blockwise is a pattern of attention, which no layer")


def test_nothing_but_an_own_folder_loads_torch(own):
    """Neither an answer nor an error needs it; schemes of one's own do, and a line says so."""
    (own / "empty" / "dataset").mkdir(parents=True)
    for words in ([], ["rope"], ["addition"], ["rop"], ["rope", "--config-dir=empty"]):
        _, _, loaded = timed("list", *words, cwd=own)
        assert "torch" not in loaded, words
    result, _, loaded = timed("list", "root", "--config-dir=mine", cwd=own)
    assert "torch" in loaded and result.returncode == 0, result.stderr
    assert result.stderr == "lexp: loading torch to try what root combines with\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["alib"], "nothing is called 'alib'; did you mean alibi"),
        (["Self"], "did you mean self_extend or"),
        (["rope", "rpoe"], "nothing is called 'rpoe'; did you mean rope"),
        (["addtion"], "did you mean addition or"),
        (["qqq"], "nothing is called 'qqq'; `lexp list` shows what there is"),
        (["Sliding window"], "or window or bidirectional_window"),
        (["streamingllm"], " or window_sinks?"),
        (["haystack"], "nothing is called 'haystack'; did you mean passkey"),
        (["longppl"], "nothing is called 'longppl'; did you mean longrope or fixed?"),
        (["--nothing"], "no flag '--nothing'"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: there is no such folder"),
        (["--config-path", "nowhere"], "--config-path is not allowed"),
    ],
)
def test_what_is_not_there_is_a_line(words, said, tmp_path):
    result = completed("list", *words, cwd=tmp_path)
    assert result.returncode == 2 and said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_help_is_two_lines(tmp_path):
    result = completed("list", "--help", cwd=tmp_path)
    assert result.returncode == 0 and "lexp list [NAME ...]" in result.stdout


SCHEME = """
import torch
from lexp.position import Position

class Root(Position):
    def bias(self, x):
        return lambda pair: -(pair.q_pos - pair.k_pos).clamp(min=0).sqrt()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of configs with a scheme of one's own, and one called as lexp's."""
    (tmp_path / "mine" / "model").mkdir(parents=True)
    text = "# Root of the distance.\nname: root\nposition:\n  _target_: listed_scheme.Root\n"
    (tmp_path / "mine" / "model" / "root.yaml").write_text(text)
    (tmp_path / "mine" / "model" / "alibi.yaml").write_text("# Not this one.\nname: alibi\n")
    (tmp_path / "listed_scheme.py").write_text(SCHEME)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LEXP_ALLOW", "listed_scheme")
    return tmp_path


def test_schemes_of_ones_own_are_listed_with_what_they_combine_with(own):
    result = completed("list", "root", "alibi", "--config-dir=mine", cwd=own)
    assert result.returncode == 0, result.stderr
    assert "Root of the distance." in result.stdout and "Not this one." not in result.stdout
    lines = [line.strip().split(maxsplit=1) for line in result.stdout.splitlines()]
    assert ["blockwise", "defined"] in lines
    assert ["yarn", "yarn changes rotary frequencies, Root has none"] in lines


def test_what_is_not_allowed_is_not_built(own, monkeypatch):
    monkeypatch.delenv("LEXP_ALLOW")
    result = completed("list", "--config-dir", "mine", cwd=own)
    assert result.returncode == 2 and "listed_scheme" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
