"""Command lines and config folders that would run code, leave the outputs, or tell a secret.

Every payload makes a file or folder called `canary` if anything in it is run or followed.
"""

import pickle
import sys

import hydra._internal.hydra as hydra_main
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from lexp.cli import hydra_guard as guard
from support.faults.payloads import KEYS, Gadget
from support.forked import lexp, words_for


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def desk(tmp_path, canary):
    """A folder to work in, with a module, a pickle and configs that make the canary."""
    folder = tmp_path / "desk"
    mine = folder / "mine"
    for group in ("model", "hydra/launcher", "hydra/callbacks", "hydra/job_logging"):
        (mine / group).mkdir(parents=True)
    folder.joinpath("evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Thing:\n    pass\n")
    folder.joinpath("evil.pickle").write_bytes(pickle.dumps(Gadget(canary)))
    rerun = folder / "rerun" / ".hydra"
    rerun.mkdir(parents=True)
    (rerun / "config.pickle").write_bytes(pickle.dumps(Gadget(canary)))
    (rerun / "hydra.pickle").write_bytes(pickle.dumps(Gadget(canary)))
    gadget = f"{{_target_: builtins.open, file: {canary}, mode: w}}"
    call = f'{{"()": builtins.open, file: {canary}, mode: w}}'
    logging = (
        "version: 1\nroot: {handlers: [x], level: INFO}\n"
        f"formatters: {{f: {call}}}\nhandlers: {{x: {call}}}\ndisable_existing_loggers: false\n"
    )
    files = {
        "model/callbacks.yaml": f"# @package hydra.callbacks\nx: {gadget}\n",
        "model/everything.yaml": f"# @package _global_\nhydra:\n  callbacks:\n    x: {gadget}\n",
        "model/launcher.yaml": f"# @package hydra.launcher\nx: {gadget}\n",
        "model/logging.yaml": "# @package hydra.job_logging\n" + logging,
        "model/tag.yaml": f"name: !!python/object/apply:builtins.open ['{canary}', 'w']\n",
        "model/inner.yaml": f"name: inner\nposition: {gadget}\n",
        "model/late.yaml": f"name: late\nposition:\n  _target_: lexp.position.RoPE\n"
        f"  head_dim: 8\n  base: {gadget}\n",
        "hydra/launcher/evil.yaml": gadget.replace("{", "").replace("}", "").replace(", ", "\n"),
        "hydra/launcher/inside.yaml": f"_target_: hydra_plugins.lexp_launchers.Here\nx: {gadget}\n",
        "hydra/job_logging/evil.yaml": logging,
        "hydra/callbacks/evil.yaml": f"x: {gadget}\n",
        "evil.yaml": f"defaults: [train, _self_]\nhydra: {{callbacks: {{x: {gadget}}}}}\n",
    }
    for name, text in files.items():
        (mine / name).write_text(text)
    return folder


GADGET = "{_target_:builtins.open,file:CANARY,mode:w}"
WORDS = {
    # Hydra's own config
    "callback": f"+hydra.callbacks.x={GADGET}",
    "callback that opens a shell": "+hydra.callbacks.x={_target_:os.system,command:'touch CANARY'}",
    "callback by positional": "+hydra.callbacks.x={_target_:os.mkdir,_args_:[CANARY]}",
    "callback, partial": f"+hydra.callbacks.x={{_partial_:true,_target_:os.mkdir,x:{GADGET}}}",
    "callback group": "--config-dir mine +hydra/callbacks=evil",
    "callback of a sweep": f"-m +hydra.callbacks.x={GADGET} seed=0,1",
    "callback shown": f"--cfg all +hydra.callbacks.x={GADGET}",
    "callback in info": f"--info config +hydra.callbacks.x={GADGET}",
    "launcher": f"-m seed=0,1 hydra.launcher={GADGET}",
    "launcher's target": "-m seed=0,1 hydra.launcher._target_=evil.Thing",
    "launcher's argument": f"-m seed=0,1 +hydra.launcher.x={GADGET}",
    "launcher of a folder": "-m seed=0,1 --config-dir mine hydra/launcher=evil",
    "launcher with an argument": "-m seed=0,1 --config-dir mine hydra/launcher=inside",
    "sweeper": "-m seed=0,1 hydra.sweeper._target_=evil.Thing",
    "sweeper's argument": f"-m seed=0,1 +hydra.sweeper.x={GADGET}",
    "job logging": "--config-dir mine hydra/job_logging=evil",
    "hydra's logging": "hydra/hydra_logging=default +hydra.hydra_logging.x.class=evil.Thing",
    "environment": "+hydra.job.env_set.LEXP_ALLOW=evil model.position._target_=evil.Thing",
    "preloaded library": "+hydra.job.env_set.LD_PRELOAD=CANARY",
    "run folder": "hydra.run.dir=CANARY",
    "run folder above": "hydra.run.dir=../canary",
    "hydra's folder": "hydra.output_subdir=../canary",
    "sweep folder": "-m seed=0,1 hydra.sweep.dir=../canary",
    "job's folder": "-m seed=0,1 hydra.sweep.subdir=../../../../canary",
    "package searched": "hydra.searchpath=[pkg://evil]",
    "package searched, appended": "+hydra.searchpath=[file://mine,pkg://evil]",
    "other main config": "--config-dir mine --config-name evil",
    "other main config, short": "-cd mine -cn evil",
    "other config path": "--config-path pkg://evil",
    "rerun of a pickle": "--experimental-rerun rerun/.hydra/config.pickle",
    "rerun, abbreviated": "--experimental-r=rerun/.hydra/config.pickle",
    # config folders of somebody else
    "model into callbacks": "--config-dir mine model=callbacks",
    "model into everything": "--config-dir mine model=everything",
    "model into the launcher": "-m seed=0,1 --config-dir mine model=launcher",
    "model into the logging": "--config-dir mine model=logging",
    "YAML tag": "--config-dir mine model=tag",
    "model of a folder": "--config-dir mine model=inner",
    "argument of a folder": "--config-dir mine model=late",
    # nodes
    "position": f"model.position={GADGET}",
    "position's target": "model.position._target_=evil.Thing",
    "shell": "model.position={_target_:os.system,command:'touch CANARY'}",
    "argument": f"model.position.base={GADGET}",
    "new key": f"+x={GADGET}",
    "positional": "+model.position._args_=[CANARY]",
    "partial": "+model.position._partial_=true",
    "recursive": "+model.position._recursive_=true",
    "the command itself": "model.position={_target_:lexp.cli.main.main}",
    "the module itself": "model.position={_target_:lexp.__main__.main}",
    "a writer of lexp": "model.position={_target_:lexp.system.files.write_text,path:CANARY,text:x}",
    "an import of lexp": "model.position={_target_:lexp.system.files.os.mkdir,path:CANARY}",
    "double dots": "model.position={_target_:lexp...evil.Thing}",
    "NUL": "model.position={_target_:'lexp.\0.Thing'}",
    "pattern": f"+model.pattern={GADGET}",
    "dataset": f"dataset={GADGET}",
    "dataset's writer": "dataset={name:x,_target_:lexp.system.files.make_folder,path:CANARY}",
    "tokenizer": f"tokenizer={GADGET}",
    "tokenizer is a pickle": "tokenizer=file tokenizer.path=evil.pickle",
    "texts are a pickle": "dataset.train=evil.pickle",
    # names and interpolations
    "study above": "name=../canary",
    "model above": "model.name=../../../canary",
    "dataset elsewhere": "dataset.name=/../canary",
    "tokenizer with a line": "tokenizer.name='a\nb'",
    "name of escapes": "name='\x1b[31mred'",
    "long name": "name=" + "x" * 300,
    "decoded": "lr='${oc.decode:\"__import__(`os`).mkdir(`CANARY`)\"}'",
    "evaluated": "lr=${eval:open('CANARY','w')}",
    "created": "model.position.base='${oc.create:{_target_:builtins.open,file:CANARY,mode:w}}'",
    "secret in a name": "name=${oc.env:WANDB_API_KEY}",
    "secret in a number": "lr=${oc.env:WANDB_API_KEY}",
    "secret in a list": "dataset.train=[${oc.env:HF_TOKEN}]",
    "secret shown": "--cfg job --resolve name=${oc.env:WANDB_API_KEY}",
    "secret of Hydra's shown": "--cfg hydra --resolve hydra.job.name=${oc.env:WANDB_API_KEY}",
    "secret typed and shown": f"--cfg job +model.note={KEYS['HF_TOKEN']}",
    "secret in info": f"--info config +model.note={KEYS['HF_TOKEN']}",
    "environment copied": "hydra.job.env_copy=[WANDB_API_KEY]",
    "no environment copied": "hydra={job:{env_copy:[NOT_THERE]}}",
    "secret in a launcher": "-m seed=0,1 +hydra.launcher.x=${oc.env:WANDB_API_KEY}",
}  # fmt: skip
ELSEWHERE = {
    "eval attention={full:GADGET}": 2,
    "eval +attention.x=GADGET": 2,
    "eval +protocol.x=GADGET": 2,
    "eval extension=[none] +extension.x={_target_:lexp.system.files.make_folder,path:CANARY}": 2,
    "probe +probes.x=GADGET": 2,
    "analyze +instruments.x=GADGET": 2,
    "report +hydra.callbacks.x=GADGET": 2,
    "report name=../canary": 2,
    "status name=../canary": 2,
    "eval +hydra.callbacks.x=GADGET": 2,
}


@pytest.mark.parametrize("name", WORDS)
def test_nothing_runs_and_it_is_said_in_one_line(desk, texts, canary, name):
    words = [word.replace("CANARY", str(canary)) for word in WORDS[name].split(" ")]
    if "{_target_:os.system" in WORDS[name]:  # a blank within a word
        words = [WORDS[name].replace("CANARY", str(canary))]
    own = words_for(texts)
    if any(word.startswith(("dataset=", "dataset.train=")) for word in words):
        own = [word for word in own if not word.startswith("dataset")]
        own += ["dataset=text"] if words[0].startswith("dataset.") else []
    ended = lexp("train", *own, *words, cwd=desk, **KEYS)
    assert not canary.exists(), "the payload ran"
    assert "evil" not in sys.modules
    assert ended.code in (2, 3), (ended.code, ended.said)
    n_lines = 4 if "--info" in words else 1  # --info has begun to answer
    assert ended.is_one_line() and len(ended.said.splitlines()) == n_lines, ended.said
    assert "\x1b" not in ended.said and ended.seconds < 20
    assert not [key for key in KEYS.values() if key in ended.said], ended.said
    assert not list(desk.glob("outputs/*/*/config.json"))


@pytest.mark.parametrize("line", ELSEWHERE)
def test_nothing_runs_in_other_commands_either(desk, canary, line):
    line = line.replace("GADGET", GADGET).replace("CANARY", str(canary))
    ended = lexp(*line.split(" "), cwd=desk)
    assert not canary.exists() and not (desk.parent / "canary").exists()
    assert ended.code == 2 and ended.is_one_line(), (ended.code, ended.said)


@pytest.mark.parametrize(
    "name", ["callback", "model into callbacks",
             "model into everything", "rerun of a pickle", "run folder", "job logging",
             "package searched", "environment"]
)  # fmt: skip
def test_control_without_the_guard_the_payloads_run(desk, texts, canary, name):
    """The negative control: these payloads are real, only the guard stands before them."""
    words = [word.replace("CANARY", str(canary)) for word in WORDS[name].split(" ")]

    def unguarded():
        guard.check_flags = lambda arguments: None
        guard.install = lambda: None
        # Other tests of this process put the guard there.
        hydra_main.ConfigLoaderImpl = ConfigLoaderImpl

    lexp("train", *words_for(texts), *words, cwd=desk, setup=unguarded)
    assert canary.exists(), "this payload shows nothing"


def test_there_are_enough_payloads():
    print(f"RESULT payloads on the command line: {len(WORDS) + len(ELSEWHERE)}, run: 0")
    assert len(WORDS) + len(ELSEWHERE) >= 40


def test_what_is_the_users_own_still_works(desk, texts):
    """The guard is no wall around what Hydra is for: config folders, launchers, sweeps."""
    (desk / "mine" / "model" / "slow.yaml").write_text(
        "name: slow\nposition:\n  _target_: lexp.position.RoPE\n  head_dim: 8\n  base: 500.0\n"
    )
    words = ("--config-dir", "mine", "-m", "model=slow,rope", "hydra/launcher=here")
    ended = lexp("train", *words, *words_for(texts), cwd=desk)
    assert ended.code == 0, ended.said
    assert len(list(desk.glob("outputs/default/*/done.json"))) == 2
    found = lexp("train", f"hydra.searchpath=[file://{desk}/mine]", "model=slow", "--cfg", "job",
                 cwd=desk)  # fmt: skip
    assert found.code == 0 and "base: 500.0" in found.said
