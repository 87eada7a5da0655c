"""`lexp train model=hf path=FOLDER`: the words of init_from=FOLDER, or a line that says why not."""

import pytest

from lexp.cli.hf_words import with_init_from
from lexp.system.errors import ConfigError
from support.forked import completed


@pytest.fixture
def folder(tmp_path):
    """Something that is a checkpoint by its config.json, and no more is looked at here."""
    path = tmp_path / "it's a llama"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    return path


def test_the_run_is_that_of_init_from(folder):
    given = ["train", "model=hf", f"path={folder}", "extension=yarn", "train_len=1024"]
    meant = ["train", f"init_from={folder}", "extension=yarn", "train_len=1024"]
    ours, theirs = (completed(*words, "--cfg", "job", cwd=folder) for words in (given, meant))
    assert ours.stdout == theirs.stdout, ours.stderr
    # In lines of 80 characters.
    assert f"init_from: {folder}" in " ".join(ours.stdout.split())


def test_each_value_of_a_sweep_is_replaced(folder, monkeypatch):
    monkeypatch.chdir(folder)
    other = folder / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "qwen3"}')
    assert with_init_from(["model=alibi,hf", "path=.,other", "seed=0,1"]) == [
        "model=alibi,rope", "init_from=.,other", "seed=0,1",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="^path=nowhere: no model of transformers"):
        with_init_from(["model=hf", "path=.,nowhere"])


def test_what_names_no_checkpoint_is_refused(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = folder / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "done.json").write_text("{}")
    for words, said in {
        "path=.": "path=.: is for a model of Hugging Face, with model=hf",
        "model=hf path=. init_from=run": "path=. and init_from=run: a run starts from one model",
        "model=hf path=org/name@v2": "path=org/name@v2: no folder here; download the model: hf "
        "download org/name --revision v2 --local-dir models/name, then path=models/name",
        "model=hf path=null": "path=null: no model of transformers",
        "model=hf path=run": "path=run: a run of lexp; write init_from=run",
    }.items():
        with pytest.raises(ConfigError) as refused:
            with_init_from(words.split())
        assert str(refused.value).startswith(said), refused.value
