"""What is typed after a command: paths are literal, and of the rest it is said what is wrong."""

import os
import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lexp.cli.overrides import PATHS, quoted, readable, readable_word
from lexp.config.messages import explained
from lexp.config.schema import plain
from lexp.config.validation import read_analyze, read_eval, read_finetune, read_report, read_train
from lexp.data.text import TextFiles
from lexp.system.errors import ConfigError, DataError
from support.config import compose_by_hydra, dataset
from support.forked import lexp, words_for

LIBRARY = re.compile(
    r"\w*(Exception|ListConfig|DictConfig|OmegaConf|Lexer|NoViable|AnyNode|Schema|EOF|Traceback)\w*"
    r"|Could not|Missing mandatory|defaults list|hydra\.mode"
)
PATHS_TYPED = [
    "outputs", "path", "init_from", "run", "to", "prompt_file", "task_folder",
    "dataset.train", "dataset.validation", "dataset.test", "dataset.path", "tokenizer.path",
    "task.train", "task.validation", "task.path",
    "+train.init_from", "+train.dataset.train", "++dataset.train",
]  # fmt: skip
LITERAL = [
    "books/[a-c]*.txt", "[x].txt", "[[]x].txt", "{a,b}.txt", "~/x/*.txt", "a=b/*.txt", "x#y",
    "é/中", "it's.txt", "data (1).txt", "a&b", "a;b", "a!b", "a\u00a0b", "a^b", "a`b",
    "C:\\a=b\\", "it\u2019s",
    "<a>", "[!a]*.txt", "$HOME/[ab]", "%=", "a\\'b", "[a-c]*[x-z]",
]  # fmt: skip


def value_of(word: str):
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize("value", LITERAL)
def test_a_path_that_hydra_cannot_read_is_taken_literally(value):
    for sweep in (False, True):
        assert value_of(readable_word(f"dataset.train={value}", sweep)) == value


@pytest.mark.parametrize("name", PATHS_TYPED)
def test_every_key_of_paths_takes_them_literally(name):
    assert value_of(readable_word(f"{name}=books/[a-c]*.txt")) == "books/[a-c]*.txt"


LISTS = {
    "[a/*.txt,b/*.txt]": ["a/*.txt", "b/*.txt"],
    "[a/[a-c]*.txt, b/é.txt]": ["a/[a-c]*.txt", "b/é.txt"],
    "[{a,b}.txt,c]": ["{a,b}.txt", "c"],
    "[~/x]": ["~/x"],
}


@pytest.mark.parametrize("value", LISTS)
def test_a_list_of_paths_is_still_a_list(value):
    assert value_of(readable_word(f"dataset.train={value}")) == LISTS[value]


def test_commas_between_paths_separate_the_jobs_of_a_sweep():
    word = readable_word("dataset.train=books/[a-c]*.txt,{d,e}.txt,f", sweep=True)
    assert [str(getattr(x, "text", x)) for x in value_of(word).list] == [
        "books/[a-c]*.txt", "{d,e}.txt", "f",
    ]  # fmt: skip


def test_flags_and_what_can_be_read_stay_as_they_are():
    line = ["seed=0,1", "lengths=[1,2]", "~optim.power", "dataset.train=a/*.txt", "-m",
            "--config-dir", "mine[1]"]  # fmt: skip
    assert readable(line) == line


WRONG = {
    "model=rope\r": ["'model=rope\\r'", "carriage return at its end (Windows line ends)"],
    "dataset.train=a/*.txt\r": ["carriage return at its end"],
    "model=ro\u200bpe": ["zero width space (U+200B)"],
    "model=rope\u00a0": ["no-break space (U+00A0)"],
    "name=a\nb": ["(U+000A)"],
    "name=“a”": ["“ is a typographic quote", "name='...'"],
    "dataset.train=“a.txt”": ["“ is a typographic quote"],
    "dataset.train=‘a.txt’": ["‘ is a typographic quote"],  # noqa: RUF001
    "name=a=b": ["'=' has to be in quotes", "\"name='a=b'\""],
    "name=a#b": ["'#'", "\"name='a#b'\""], "name=~a": ["'~'", "\"name='~a'\""],
    "dataset.column=é": ["'é'", "\"dataset.column='é'\""],
    "name=it's": ['"\'"', "\"name='it\\\\'s'\""],
    "name=[a].b": ["'['", "\"name='[a].b'\""],
    "lengths=[64,128": ["[ is not closed", "without blanks: lengths=[A,B]"],
    "lengths=64]": ["] closes nothing"],
    "dataset.train=[a/*.txt,b/*.txt": ["[ is not closed"], "lengths=[64,128)": [") closes nothing"],
    "dataset.train='a/*.txt": ["quote ' is not closed", "\"dataset.train='a/*.txt'\""],
    'name="a': ['quote " is not closed', "\"name='a'\""],
    "lengths=64,": ["a comma at its end; write lengths=64"],
    "dataset.train=a/*.txt,": ["a comma at its end; write dataset.train=a/*.txt"],
    "seed=0,,1": ["nothing between two commas"],
    "seed": ["it has no '='", "without spaces around '='"], "=0": ["no key before '='"],
    "seed =0": ["'seed ' is no key"], "a[0]=1": ["'a[0]' is no key"], "é=1": ["'é' is no key"],
    "–m": ["a flag is -m"],  # noqa: RUF001
    "model.note=f(x)": ["'('", "\"model.note='f(x)'\""],
    "name=a$!": ["'!'", "'name="],
}  # fmt: skip


@pytest.mark.parametrize("word", WRONG)
def test_what_cannot_be_read_is_named_with_what_to_write(word):
    with pytest.raises(ConfigError) as caught:
        readable_word(word)
    for part in (f"cannot read {word!r}: ", *WRONG[word]):
        assert part in str(caught.value), str(caught.value)
    assert not LIBRARY.search(str(caught.value))


def test_what_is_to_be_written_is_read():
    for value in (*LITERAL, "it's", "a\\", "[é,b]"):
        typed = os.popen(f"printf %s {quoted('name', value)}").read()
        read = value_of(typed)
        assert read == value or (value == "[é,b]" and read == ["é", "b"])


REFUSED = {
    "eval lengths=64": "lengths=64: expected a list; write lengths=[64]",
    "eval max_tokens=[1]": "max_tokens=[1]: expected a number",
    "eval attention=64": "attention=64: expected names of choices; there are ",
    "eval outputs={a:1}": "outputs={a:1}: expected text",
    "eval states=x": "'states'",
    "eval eval=1": "'eval'",
    "train seed=x": "seed=x: expected a whole number",
    "train seed=1.5": "seed=1.5: expected a whole number",
    "train optim=3": "optim=3: expected values by name, such as optim.NAME=VALUE",
    "train compile=maybe": "compile='maybe' (true or false)",
    "train +size@y=nano": "choices have their places; write size=nano",
    "train +dataset@model=text": "choices have their places; write dataset=text",
    "train ~model@x": "choices have their places; write model",
    "train train_len=${size}": "train_len=",
    "train train_len=${name}": "train_len=default: expected a whole number",
    "train size=huge": "no size 'huge'; there are medium, ",
    "train model=": "no model ''; there are abacus, ",
    "train ~model": "model= is missing; there are abacus, ",
    "train +lr=1": "+lr=1: there is a value already; write lr=1",
    "train ~nokey": "~nokey: there is no such key; leave it out",
    "train ~seed=3": "~seed=3: the value is 0; write ~seed",
    "train +model=xpos": "+model=xpos: one is chosen already; write model=xpos",
    "train ++model=xpos": "++model=xpos: write model=xpos",
    "train model@x=xpos": "choices have their places; write model=xpos",
    "eval ~attention": "~attention: it cannot be left out; choose another by attention=NAME",
    "report model@x=rope": "choices have their places; write model=rope",
    "analyze states=[[1]]": "states=[[1]] (of trained, random)",
    "eval checkpoints=[4,4]": "checkpoints=[4, 4] (each once)",
    "finetune run=x": "task.train= is missing; write task.train=VALUE",
    "finetune task=glue/sst2": "run= is missing; write run=VALUE",
    "train hydra.job=x": "hydra.job=x: expected values by name",
    "train hydra.sweeper.params=3": "expected values by name",
}


READ = {
    "eval": read_eval, "train": lambda config: read_train(plain(config)), "report": read_report,
    "analyze": read_analyze,
    "finetune": read_finetune,
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_no_class_of_a_library_is_in_a_message(line):
    command, word = line.split(" ", 1)
    with pytest.raises(Exception) as caught:
        READ[command](compose_by_hydra(command, word))
    said = str(caught.value) if isinstance(caught.value, ConfigError) else explained(caught.value)
    assert REFUSED[line] in said, said
    assert not LIBRARY.search(said), said


@pytest.mark.parametrize(
    "word", ["model=null", "model=3", "model=[3]", "model=[[x]]", "model=[{a:1}]"]
)
def test_a_choice_that_is_no_name_is_named_alone(word):
    with pytest.raises(ConfigError) as caught:
        compose_by_hydra("train", "seed=1", word)
    assert str(caught.value).startswith(f"{word}: expected names of choices; there are abacus, ")


def test_every_key_that_takes_a_path_is_one():
    assert all(PATHS.fullmatch(name) for name in PATHS_TYPED)
    other = ("name", "model", "dataset.column", "seed", "dataset", "tokenizer", "lengths", "task")
    assert not [name for name in other if PATHS.fullmatch(name)]


def test_a_glob_with_brackets_trains_alone_and_in_a_sweep(texts, tmp_path):
    own = [w for w in words_for(texts) if not w.startswith("dataset.train")]
    glob = f"dataset.train={texts}/train/[0-2]*.txt"
    assert lexp("train", *own, glob, "tokens=64", cwd=tmp_path).code == 0
    ended = lexp("train", "-m", *own, glob, "tokens=64", "seed=0,1", cwd=tmp_path)
    assert ended.code == 0 and "is complete, nothing to do" in ended.said, ended.said
    ended = lexp("train", *own, "model=rope\r", cwd=tmp_path)
    assert ended.code == 2 and ended.is_one_line() and "carriage return" in ended.said
    assert dataset(texts)


UNMATCHED = {
    "{a,b}.txt": "braces are not expanded: write [a.txt,b.txt]",
    "x/{a,b}/*.txt": "braces are not expanded: write [x/a/*.txt,x/b/*.txt]",
    "[x].txt": "[x] stands for one of these characters: write [[]x].txt for a file of that name",
    "none/*.txt": "",
}


@pytest.mark.parametrize("pattern", UNMATCHED)
def test_a_glob_that_matches_nothing_says_where_and_why(pattern, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[x].txt").write_text("a")
    with pytest.raises(DataError) as caught:
        TextFiles(train=pattern).files("train")
    assert f"dataset.train={pattern} matches nothing" in str(caught.value)
    assert f"in {tmp_path}" in str(caught.value) and UNMATCHED[pattern] in str(caught.value)
    assert TextFiles(train="[[]x].txt").files("train")
