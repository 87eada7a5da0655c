"""Signs of life and the next command: what long commands say first, and all say last."""

import pytest

from lexp.cli.main import next_command
from lexp.system import output
from lexp.system.output import Tally
from lexp.system.text import counted
from support.cli import timed
from support.config import TINY, dataset
from support.forked import completed

# Imported by other commands, or by those who ask for them: seconds that training does not need.
NOT_FOR_TRAINING = {"datasets", "wandb", "matplotlib", "scipy", "transformers", "pandas"}


def test_training_says_that_torch_is_loaded_and_imports_nothing_else_of_weight(texts, tmp_path):
    result, _, imported = timed("train", *TINY, *dataset(texts), "name=a", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[0] == "lexp: loading torch" and lines[-1] == "next: lexp eval name=a"
    assert not NOT_FOR_TRAINING & imported


@pytest.mark.parametrize(
    ("word", "typed", "said"),
    [
        ("train", "", "lexp eval"),
        ("train", "-m model=rope,alibi name=a", "lexp eval name=a"),
        ("train", "outputs='my_runs' name=a seed=3", "lexp eval outputs='my_runs' name=a"),
        ("train", "+debug=tiny outputs=o", "lexp eval outputs=o name=debug"),
        ("train", "+debug=tiny name=a", "lexp eval name=a"),
        ("train", "-m hydra/launcher=slurm hydra.launcher.wait=false", "lexp status"),
        ("train", "dataset=addition seed=3", "lexp eval"),
        ("train", "dataset=stdlib", "lexp eval"),
        ("train", "-m dataset=copy hydra.launcher.wait=false", "lexp status"),
        ("eval", "name=a lengths=[8]", "lexp report name=a"),
        ("probe", "", "lexp report"),
        ("harness", "", "lexp report"),
        ("analyze", "--config-dir=mine", "lexp report"),
        ("eval", "plan=true", None),
        ("train", "--cfg job", None),
        ("train", "-m name=a,b", None),
        ("finetune", "run=a/b seed=1", "lexp finetune -m seed=0,1,2,3,4 run=a/b"),
        ("finetune", "-m seed=0,1", None),
        ("report", "", None),
        ("status", "", None),
    ],
)
def test_each_command_ends_with_the_next_one(word, typed, said):
    shown = next_command(word, typed.replace("'", "").split())
    unquoted = [line.replace("'", "") for line in shown]
    assert unquoted == ([] if said is None else [f"next: {said}".replace("'", "")])


def test_a_command_that_fails_or_shows_names_no_next_one(tmp_path):
    for words in (["train", "--cfg", "job"], ["eval", "name=nothing"], ["train", "lr=-1"]):
        assert "next:" not in completed(*words, cwd=tmp_path).stderr


def test_a_tally_is_silent_where_work_is_quick_and_counts_where_it_is_not(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    for seconds in (0.01, 2.0):
        tally = Tally("intervals", 6)
        for _ in range(6):
            now[0] += seconds
            tally.advance()
    assert capsys.readouterr().err.splitlines() == [
        "lexp: intervals 1 of 6",
        "lexp: intervals 4 of 6",
    ]


def test_one_is_no_plural():
    shown = [counted(n, "run") for n in (0, 1, 2, 12000)]
    assert shown == ["0 runs", "1 run", "2 runs", "12,000 runs"]
