"""`~` in every value that is a path, however deep it stands; never a folder of that name."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lexp.commands.study.file import parse_study
from lexp.config.home import expand_path
from lexp.config.schema import plain
from lexp.config.validation import read_study
from lexp.system.errors import ConfigError
from support.config import TINY, compose, dataset
from support.forked import completed

# Wherever lexp takes a path: the command, and the override, in which HOME stands for the folder.
PATHS = {
    "outputs": ("train", "outputs='~/x'"),
    "outputs of eval": ("eval", "outputs='~/x'"),
    "outputs of status": ("status", "outputs='~'"),
    "outputs of a study": ("study", "study=lex outputs='~/x'"),
    "init_from": ("train", "init_from='~/x'"),
    "dataset.train": ("train", "dataset=text dataset.train='~/x/*.txt'"),
    "dataset.test": ("train", "dataset=text dataset.test=[a,'~/x','~/y']"),
    "dataset.path": ("train", "dataset=hub dataset.path='~/x'"),
    "dataset of eval": ("eval", "dataset=text dataset.test='~/x'"),
    "tokenizer.path": ("train", "tokenizer=file tokenizer.path='~/x'"),
    "path": ("eval", "model=hf path='~/x'"),
    "run": ("finetune", "task=text run='~/x' task.train=a task.validation=b"),
    "to": ("export", "run=a to='~/x'"),
    "prompt_file": ("generate", "run=a prompt_file='~/x'"),
    "task.train": ("finetune", "task=text run=a task.train='~/x' task.validation='~/y'"),
    "a class of the user's": ("train", "+model.folder={deep:[{er:'~/x'}]}"),
}


def texts_in(value) -> list[str]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for one in inner for text in texts_in(one)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("key", PATHS)
def test_home_is_expanded_wherever_a_path_is_taken(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    word, line = PATHS[key]
    config = compose(word, *line.split())
    settings = OmegaConf.to_container(config, resolve=True)
    texts = texts_in({name: value for name, value in settings.items() if name != "study"})
    assert not [text for text in texts if text.startswith("~")]
    expected = [w.replace("~", "/home/me") for w in ("~/x", "~/y", "~/x/*.txt") if f"'{w}'" in line]
    assert set(expected or ["/home/me"]) <= set(texts)
    assert line.count("'~") == len([text for text in texts if text.startswith("/home/me")])


def test_a_stage_of_a_study_file_expands_it_too(monkeypatch):
    """The file keeps what it says; each stage is composed as a command is."""
    monkeypatch.setenv("HOME", "/home/me")
    config = compose("study", "study=lex", "scale=mini", "+train.init_from='~/x'", "outputs='~/y'")
    stage = next(s for s in parse_study(read_study(config)).stages if s.command == "train")
    settings = plain(compose("train", *stage.jobs()[0]))
    assert (settings["init_from"], settings["outputs"]) == ("/home/me/x", "/home/me/y")


@pytest.mark.parametrize(
    ("path", "home", "words"),
    [
        ("~no-such-user/x", "/home/me", "there is no folder of ~no-such-user"),
        ("~no_such_user", "/home/me", "write the whole path, or ./~no_such_user"),
        ("~/x", "", "there is no folder of ~ "),
        ("~/x", "not/absolute", "there is no folder of ~ "),
    ],
)
def test_a_home_that_is_not_known_is_one_line(path, home, words, monkeypatch):
    monkeypatch.setenv("HOME", home)
    with pytest.raises(ConfigError, match=f"outputs={path}: ") as error:
        compose("train", f"outputs='{path}'")
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["a~", "./~x", "a/~/b", "~5 %", "~ about", "", "x~y"])
def test_other_texts_are_left_as_they_are(text, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_path(text, "key") == text


def test_a_user_of_this_machine_is_found():
    assert expand_path("~root/x", "key") == os.path.expanduser("~root/x") != "~root/x"


def test_a_sweep_and_a_folder_of_configs_make_no_folder_of_that_name(texts, tmp_path):
    """Hydra makes the folder of a sweep itself, from a value that it has composed."""
    home, here = tmp_path / "home", tmp_path / "here"
    (home / "mine" / "model").mkdir(parents=True)
    here.mkdir()
    (home / "mine" / "model" / "slow.yaml").write_text(
        "name: slow\nposition: {_target_: lexp.position.RoPE, head_dim: 8, base: 500.0}\n"
    )
    words = ["-m", "--config-dir=~/mine", "model=slow", "outputs='~/out'"]
    ended = completed("train", *words, *TINY, *dataset(texts), cwd=here, HOME=str(home))
    assert ended.returncode == 0, ended.stderr
    assert list((home / "out" / "default").glob("slow-*/done.json"))
    assert [path.name for path in Path(here).iterdir()] == ["said.log"]
