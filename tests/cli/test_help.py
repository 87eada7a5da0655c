"""`lexp COMMAND --help`: what the command takes, with the comments of conf/, at once."""

import re

import pytest

from lexp.cli.entry_points import TASKS
from lexp.cli.help import help_page
from lexp.system.errors import ConfigError
from support import ROOT
from support.cli import timed
from support.config import choices
from support.forked import completed

CONF = ROOT / "conf"


def page(command: str, *words: str, folders=(), width: int = 100) -> str:
    return help_page(CONF, command, list(words), list(folders), width)


def groups(text: str) -> list[str]:
    """The groups of a page, in their order."""
    part = text.partition("Groups")[2].partition("\nValues\n")[0]
    return re.findall(r"^  ([\w/]+)=", part, re.M)


TAKEN = {
    "train": [
        "size", "model", "trunk", "objective", "reading", "extension", "dataset", "tokenizer",
        "hydra/launcher",
    ],
    "eval": ["attention", "extension", "protocol", "dataset", "hydra/launcher"],
    "probe": ["probes", "attention", "extension", "dataset", "hydra/launcher"],
    "harness": ["attention", "extension", "hydra/launcher"],
    "finetune": ["task", "hydra/launcher"],
    "export": ["extension"],
    "generate": ["attention", "extension"],
    "data": ["dataset", "tokenizer", "reading"],
    "study": ["study", "dataset", "tokenizer", "hydra/launcher"],
    "report": [],
    "status": [],
}  # fmt: skip


@pytest.mark.parametrize("command", TAKEN)
def test_a_page_has_only_the_groups_that_the_command_takes(command):
    assert groups(page(command)) == TAKEN[command]


def test_only_pages_of_commands_that_take_a_sweep_offer_one():
    offering = {word for word in TASKS if "-m" in page(word)}
    assert offering == {"train", "eval", "probe", "harness", "analyze", "finetune"}


def test_a_page_lists_the_choices_and_explains_every_value():
    text = " ".join(page("train").split())
    assert f"the position scheme {', '.join(sorted(choices('model')))} trunk" in text
    for line in (CONF / "train.yaml").read_text().splitlines():
        key = re.match(r" *(\w+): .+? # (.+)", line)
        if key:
            assert f"{key[1]}=" in text and key[2] in text, line
    assert "task/glue" not in page("finetune") and "text, glue/cola" not in page("train")
    assert "glue/rte" in page("finetune")


@pytest.mark.parametrize("command", TASKS)
def test_a_page_fits_into_its_columns(command):
    for width in (100, 80):
        assert max(map(len, page(command, "model=xpos", width=width).splitlines())) <= width


def test_the_values_of_a_choice_are_explained_as_they_are_typed():
    assert "model.position.gamma=0.4  flattens the decay" in page("train", "model=xpos")
    assert "model.position.gamma" not in page("train")
    assert "  size.n_layers=4" in page("train")
    shown = page("eval", "attention=[window_sinks,full]")
    assert "attention.window_sinks." in shown and "attention.window.window" not in shown
    assert "hydra.launcher.partition=" in page("train", "hydra/launcher=slurm")


def test_own_folders_are_among_the_choices(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "root.yaml").write_text("name: root\npower: 2  # of the distance\n")
    text = page("train", "model=root", folders=[str(tmp_path)])
    assert " root, rope," in " ".join(text.split()) and "model.power=2" in text
    with pytest.raises(ConfigError, match="no such folder"):
        page("train", folders=[str(tmp_path / "nowhere")])


def test_help_is_there_at_once_and_without_torch(tmp_path):
    result, seconds, loaded = timed("train", "--help", cwd=tmp_path)
    assert result.stdout == page("train") + "\n" and not result.stderr
    assert seconds < 1 and "torch" not in loaded


@pytest.mark.parametrize("words", [("help", "eval"), ("eval", "-h"), ("eval", "--hel")])
def test_help_can_be_asked_for_in_several_ways(words, tmp_path):
    result = completed(*words, cwd=tmp_path)
    assert result.returncode == 0 and result.stdout == page("eval") + "\n"


def test_help_of_no_command_is_refused(tmp_path):
    result = completed("help", "frobnicate", cwd=tmp_path)
    assert result.returncode == 2 and "no command 'frobnicate'" in result.stderr
