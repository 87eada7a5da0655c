"""The command as a user types it: help, completion, sweeps, exit codes, a line and no traceback."""

import os
import subprocess
import sys

import pytest

from lexp.cli.entry_points import refuse_early
from lexp.cli.main import complete, main, usage
from lexp.system.errors import ConfigError, DataError
from support import ROOT
from support.cli import lexp, timed
from support.config import TINY, compose, dataset
from support.forked import completed


def test_lexp_alone_lists_the_commands_with_an_example_each():
    for arguments in ([], ["--help"], ["help"]):
        result = lexp(*arguments)
        assert result.returncode == 0
        for word in ("train", "eval", "probe"):
            assert f"  {word} " in result.stdout and f"lexp {word} " in result.stdout
    for word in ("version", "status --version"):
        assert lexp(*word.split()).stdout.strip() == "lexp 0.1.0"


def test_the_list_of_commands_fits_into_80_columns():
    assert max(map(len, usage().splitlines())) <= 80


def test_cfg_job_shows_the_composed_config():
    result = lexp("train", "model=xpos", "--cfg", "job")
    assert result.returncode == 0 and "_target_: lexp.position.XPos" in result.stdout


REFUSED = {
    "frobnicate": ["no command 'frobnicate'", "train, eval, probe"],
    "train modle=xpos": ["no key 'modle'", "did you mean model"],
    "train model.position.bsae=2": ["model.position.base"],
    "train model=xxpos": ["no model 'xxpos'; did you mean xpos? --help shows all"],
    "train model=elephant": ["no model 'elephant'; there are ", " alibi,", " xpos"],
    "trian": ["no command 'trian'; did you mean train?"],
    "help GLA": ["no command 'GLA'; it is a choice of model=: lexp list gla"],
    "Train": ["no command 'Train'; did you mean train?"],
    "help -m": ["no command '-m'; the command comes first, as in lexp train -m"],
    "version -m": ["version takes no '-m'"],
    "report hydra.mode=MULTIRUN": ["lexp report takes no -m; repeat the command for each"],
    "train hydra.mode=MULTIRUN lr=0.1,-1": ["lexp: job lr=-1: not allowed: lr=-1"],
    "list -m": ["lexp list takes no -m; write several names"],
    "help gla": ["no command 'gla'; it is a choice of model=: lexp list gla"],
    "train size.n_layers=abc": ["size.n_layers=abc", "a whole number"],
    "train lr=abc": ["lr=abc", "a number"],
    "train lr": ["lr"],
    "train lr=-1": ["lr=-1.0"],
    "train model=[rope,xpos]": ["one choice a run", "-m model=rope,xpos"],
    "train --cfg job -m": ["leave out -m"],
    "study -m study=lex,alibi": ["lexp study takes no -m; repeat the command for each"],
    "train -m hydra/launcher=nope": [
        "no hydra/launcher 'nope'; there are basic, here, local, slurm"
    ],
    "eval -m name=a,b": ["job name=a: no run in"],
    "status --multi name=a,b": ["lexp status takes no -m"],
    "report -m name=a,b": ["lexp report takes no -m"],
    "generate -m run=a,b prompt=x": ["lexp generate takes no -m"],
    "generate run=nowhere prompt=a,b={": ["run=nowhere: not the folder of a finished run"],
    "generate run=made/default/run prompts=a prompt={": ["no key 'prompts'", "prompt ("],
    "eval -r -m": ["--run and --multirun exclude each other", "leave out -m"],
    "report --cfg=x": ["--cfg", "'x'", "job"],
    "status --config-dir": ["--config-dir", "expected one argument"],
    "list --cfg": ["--cfg", "expected one argument"],
    "status -h=1": ["--help", "'1'"],
    "probe --hydra-help": ["no flag --hydra-help"],
    "status --shell-completion": ["-sc install=SHELL"],
    "-sc": ["-sc install=SHELL"],
    "-sc install=tcsh": ["bash, fish or zsh"],
    f"study {'k' * 5000}=1": ["no key has 5000 characters"],
    f"train +{'k' * 5000}=1": ["no key has 5001 characters"],
    f"status name={'x' * 5000}": ["not allowed: name='xxx", "at most 100"],
    "train -m model=rope,xpos lr=1e-3,abc": ["lr=abc"],
    "train -m model=rope,xpos lr=1e-3,0": ["job model=rope lr=0", "lr=0.0"],
    "train -m model.position.base=1000,x": ["job model.position.base=x", "expected float"],
    "eval lengths=[0,-5,abc]": ["0, -5, abc"],
    "eval lengths=[": ["lengths"],
    "eval lengths=64": ["lengths"],
    "eval attention=[full,foo]": ["no attention 'foo'", "blockwise_sinks", "window"],
    "eval name=nothing-there": ["no run in"],
    "eval extension=[]": ["extension=[] (at least one of its choices)"],
    "eval outputs=made extension=[longrope]": ["divisors=[...]"],
    "eval outputs=made extension=[pi] extension.pi.factor=0.2": ["factor must be", "0.2"],
    "probe probes=[]": ["probes=[] (at least one of its choices)"],
    "probe probes=[passky]": ["no probes 'passky'", "common_words, copy, frequent_words, mqar"],
    "probe outputs=made probes=[passkey] probes.passkey.digits=0": [
        "probes.passkey",
        "1 to 20 digits, got 0",
    ],
    "probe samples=1 seed=-1": ["samples=1 (at least 2)", "seed=-1"],
    "probe lengths=[0] attention=[]": ["lengths: 0", "attention=[]"],
    "probe model=rope name=nothing-there": ["no run in"],
    "probe sampels=3": ["did you mean samples"],
    "train model=rope_alibi model.position.schemes=[1,2]": [
        "model.position.schemes[0]",
        "_target_",
    ],
    "train model=learned model.position.max_len=16": ["ends at 16 tokens, train_len=128"],
    "train model=nope +model.pattern={_target_:lexp.pattern.ReRoPE}": ["but NoPE has none"],
    "train extension=yarn": ["extends a trained model; name its folder with init_from="],
    "train extension=yran": ["no extension 'yran'", "yarn"],
    "train extension=[yarn,pi]": ["one choice a run; a sweep is -m extension=yarn,pi"],
    "train extension=yarn +extension.pi._target_=lexp.extension.PI": [
        "not allowed: extension=['yarn', 'pi'] (one choice)",
    ],
    "train init_from=nowhere": [
        "init_from=nowhere: not the folder of a finished run; give init_from=outputs/NAME/RUN",
    ],
    "train init_from=org/model": ["init_from=org/model: no folder here", "hf download org/model"],
    "train model=hf": ["model=hf: needs path=FOLDER"],
    "train -m dataset=text seed=0,1": [
        "job dataset=text seed=0: dataset=text has no documents for train; set dataset.train=",
    ],
}


# In a process of their own, as users start them: refused before torch is loaded.
STARTED = (
    "frobnicate", "train modle=xpos", "train lr=-1", "eval name=nothing-there",
    "eval lengths=[0,-5,abc]", "train init_from=nowhere",
)  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_bad_input_is_one_clear_line_with_exit_code_2(line, tmp_path):
    """Some in a process of their own, as the start of Python takes longer than all the rest."""
    run = tmp_path / "made" / "default" / "run"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    result = (lexp if line in STARTED else completed)(*line.split(), cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("lexp: "), result.stderr
    assert all(part in lines[0] for part in REFUSED[line]) and len(lines[0]) < 1200, lines[0]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("study", "study= is missing; there are alibi,"),
        ("study study=lex scale=huge", "scale=huge: study lex has mini, small, paper"),
        ("eval model=hf path=no/where/at/all", "path=no/where/at/all is neither a folder nor"),
        ("train init_from=nowhere", "init_from=nowhere: not the folder of a finished run"),
        (
            "finetune run=nowhere task.train=a task.validation=b",
            "run=nowhere: not the folder of a finished run",
        ),
        ("export run=nowhere to=x", "run=nowhere: not the folder of a finished run"),
    ],
)
def test_what_is_not_there_is_refused_before_torch_is_loaded(line, reason):
    word, *words = line.split()
    with pytest.raises((ConfigError, DataError), match=f"^{reason}"):
        refuse_early(word, compose(word, *words))


def test_status_needs_no_torch(tmp_path):
    result, _, loaded = timed("status", cwd=tmp_path)
    assert result.returncode == 2 and "no run in" in result.stderr and "torch" not in loaded


def test_bad_data_is_exit_code_3_and_names_the_file(own_texts, tmp_path):
    (own_texts / "train" / "9.txt").write_bytes(b"ok\ncaf\xe9")
    result = completed("train", *TINY, *dataset(own_texts), cwd=tmp_path)
    assert result.returncode == 3
    assert "9.txt: line 2, byte 6: not UTF-8" in result.stderr.splitlines()[-1]


def test_an_unwritable_output_folder_is_exit_code_5(texts, tmp_path):
    (tmp_path / "outputs").write_text("a file, not a folder")
    result = completed("train", *TINY, *dataset(texts), cwd=tmp_path)
    assert result.returncode == 5 and "outputs" in result.stderr.splitlines()[-1]


def test_a_sweep_then_eval_then_the_same_again(texts, tmp_path):
    sweep = ("train", "-m", "model=rope,learned", "seed=0,1", *TINY, *dataset(texts))
    result = completed(*sweep, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    runs = sorted(p.parent.name for p in (tmp_path / "outputs/default").glob("*/done.json"))
    assert [r.rsplit("-", 1)[0] for r in runs] == [
        f"{m}-nano-text-L16-s{s}" for m in ("learned", "rope") for s in (0, 1)
    ]
    assert "run 4 of 4" in result.stderr
    again = completed(*sweep, cwd=tmp_path)
    assert again.returncode == 0 and again.stderr.count("is complete, nothing to do") == 4

    result = lexp("eval", "lengths=[8,16,32]", "model=rope", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "16 (trained)" in result.stdout and "learned" not in result.stdout
    result = completed("eval", "lengths=[8,16,32]", cwd=tmp_path)
    assert "n/d" in result.stdout and result.returncode == 0
    assert (tmp_path / "outputs/default/results.png").exists()


def test_a_failing_job_is_reported_and_the_others_of_the_sweep_run(texts, tmp_path):
    """No made text has a window of 4096 tokens: a data error that only the first job meets."""
    changed = ("train_len", "batch_tokens", "tokens")
    sizes = [override for override in TINY if not override.startswith(changed)]
    sweep = ["train_len=4096,16", "batch_tokens=8192", "tokens=8192"]
    result = completed("train", "-m", *sweep, *sizes, *dataset(texts), cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr and "Error executing" not in result.stderr
    assert "lexp: the train split gives 0 windows of train_len=4096" in result.stderr
    assert len(list((tmp_path / "outputs/default").glob("*/done.json"))) == 1


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("lexp tr", ["train"]),
        ("lexp ", ["train", "eval", "probe"]),
        ("lexp train model=x", ["model=xpos"]),
        ("lexp train -m model=", ["model=alibi", "model=xpos"]),
        ("lexp train optim.be", ["optim.beta1=", "optim.beta2="]),
        ("lexp eval leng", ["lengths."]),
        ("lexp probe samp", ["samples="]),
        ("lexp eval attention=[f", []),
    ],
)
def test_tab_completion(typed, offered, tmp_path):
    line = {"COMP_LINE": typed, "COMP_POINT": str(len(typed)), "COMP_CWORD": "1"}
    result = completed("-sc", "query=bash", cwd=tmp_path, **line)
    words = result.stdout.split()
    assert all(word in words for word in offered), result.stdout + result.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("lexp eval name=", ["name=books", "name=zoo"]),
        ("lexp eval lengths=[8] name=z", ["name=zoo"]),
        ("lexp finetune run=", ["run=outputs/zoo/a"]),
        ("lexp export to=x run=", ["run=outputs/zoo/a"]),
        ("lexp train init_from=outputs/z", ["init_from=outputs/zoo/a"]),
        ("lexp report outputs=other name=", ["name=mine"]),
    ],
)
def test_studies_and_finished_runs_are_completed(typed, offered, tmp_path, monkeypatch, capsys):
    files = ("outputs/zoo/a/done.json", "outputs/zoo/a/config.json", "outputs/zoo/b/config.json",
             "outputs/books/c/config.json", "outputs/a; b/c/config.json", "outputs/no/study",
             "other/mine/d/config.json")  # fmt: skip
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMP_LINE", typed)
    complete(["-sc", "query=bash"])
    assert capsys.readouterr().out.split() == offered


def test_completion_can_be_installed():
    assert "complete" in lexp("-sc", "install=bash").stdout


def test_a_users_own_config_folder(tmp_path, texts):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "slow_rope.yaml").write_text(
        "name: slow_rope\nposition:\n  _target_: lexp.position.RoPE\n"
        "  head_dim: ${size.head_dim}\n  base: 500.0\n"
    )
    result = completed("train", "--config-dir", str(tmp_path / "mine"), "model=slow_rope", *TINY,
                  *dataset(texts), cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "outputs/default").glob("slow_rope-*/done.json"))


def test_a_sweep_with_a_config_folder_or_a_launcher_is_checked_too(tmp_path, texts):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "bad.yaml").write_text(
        "name: bad\nposition:\n  _target_: lexp.position.RoPE\n  head_dim: 7\n"
    )
    for extra, culprit in (
        (["--config-dir", str(tmp_path / "mine"), "model=rope,bad"], "job model=bad"),
        (["hydra/launcher=basic", "optim.warmup=0.5,2"], "job optim.warmup=2"),
    ):
        result = completed("train", "-m", *extra, *TINY, *dataset(texts), cwd=tmp_path)
        assert result.returncode == 2 and culprit in result.stderr, result.stderr
        assert not (tmp_path / "outputs").exists()


def test_a_reader_that_goes_away_does_not_end_a_run(texts, tmp_path):
    command = (
        f"{sys.executable} -m lexp train {' '.join([*TINY, *dataset(texts)])} 2>&1 | head -c 1"
    )
    subprocess.run(
        command, shell=True, cwd=tmp_path, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert list((tmp_path / "outputs/default").glob("*/done.json"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_wait_asleep_unless_the_user_says_how(given, expected, monkeypatch):
    environment = dict(given)
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setattr("sys.argv", ["lexp", "--version"])
    main()
    assert environment.get("GOMP_SPINCOUNT") == expected
