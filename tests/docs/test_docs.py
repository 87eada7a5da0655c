"""Every command of the documentation is run, in small, or listed here with the reason why not."""

import pkgutil
import re
import shlex

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from lexp.cli import hydra_guard
from lexp.cli.entry_points import TASKS
from lexp.config.schema import register_schemas
from lexp.config.sweep import check_jobs
from support.config import compose
from support.documents import (
    PAGES,
    ROOT,
    SHELL,
    Step,
    World,
    add_model,
    add_sources,
    make_world,
    steps,
    study_steps,
)
from support.study_files import EACH, NAMES

TINY = [
    "size.n_layers=1", "size.d_model=16", "size.n_heads=2", "size.head_dim=8", "size.d_ff=32",
    "train_len=16", "batch_tokens=64", "tokens=320", "eval_every=5", "eval_tokens=128",
]  # fmt: skip
HERE = ["device=cpu", "precision=float32"]
# What is added to a command so that it takes no time.
SMALL = {
    "train": [*TINY, *HERE],
    "eval": [*HERE, "max_tokens=512", "workers=1"],
    "probe": [*HERE, "samples=2"],
    "analyze": [*HERE, "texts=1"],
    "study": [*(f"+train.{one}" for one in TINY), "+eval.workers=1", *HERE],
}
MANY = "lexp train -m model=rope,alibi,xpos seed=0,1,2 name=many"
SMOLLM2 = (
    "lexp eval name=smollm2 model=hf path=HuggingFaceTB/SmolLM2-135M dataset=text "
    "'dataset.test=books/test/*.txt' 'protocol=[fixed]' protocol.fixed.block=512 max_tokens=4096"
)
STUDIES = [step.text for step in study_steps()]
# Not run, but composed and checked whole, as the jobs of a sweep are before the first one starts.
CHECKED = {
    "trains a vocabulary on 9 MB; tests/commands/test_data_command.py has small texts": [
        "lexp data tokenizer=bpe",
        "lexp data dataset=stdlib tokenizer=bpe reading=packed",
    ],
    "has lengths below its train_len, as tests/training/test_readings.py trains": [
        "lexp train train_len=128 'length_warmup=[32,64]'",
    ],
    "takes minutes; docs/guide.md has a small study": [*STUDIES, "lexp study study=nope_variance"],
    "takes long even in small; tests/instruments/test_variance.py and test_position_probe.py do": [
        "lexp analyze 'instruments=[variance]' 'lengths=[256,1024]' 'states=[trained,random]' "
        "'attention=[full]' texts=8",
        "lexp analyze 'instruments=[position_probe]' 'lengths=[256]' texts=93 "
        "'states=[trained,random]' dataset=text 'dataset.test=books/train/*.txt'",
    ],
    "needs the study of the guide; tests/instruments/test_sample.py has one": [
        "lexp analyze name=first 'instruments=[sample]' 'lengths=[128,1024]' "
        "'attention=[full,blockwise]'",
    ],
    "trains on tasks, as tests/evaluate/test_task_runs.py does": [
        "lexp train dataset=addition model=nope size=nano seed=0",
        "lexp train dataset=addition dataset.task.reverse=true model=abacus",
        "lexp train dataset=addition dataset.task.reverse=true model=coupled",
        "lexp train dataset=addition dataset.task.reverse=true dataset.task.hints=true "
        "model=random_fire",
        "lexp train dataset=addition dataset.task.reverse=true dataset.max_length=5 model=rope "
        "tokens=3e6 batch_tokens=1024 optim.matrices=muon",
        "lexp train dataset=addition dataset.task.reverse=true dataset.max_length=5 model=coupled "
        "tokens=2e6 batch_tokens=1024 optim.matrices=muon",
        "lexp train dataset=copy model=shape",
        "lexp train dataset=copy model=rope size=nano",
        "lexp train dataset=reversed_addition model=rope size=nano",
        "lexp train -m dataset=addition model=nope,rope,alibi,t5,fire,tisa,xpos 'seed=range(5)'",
        "lexp eval 'lengths=[5,10,20,30,40]'",
        "lexp eval 'lengths=[20,40]' 'attention=[full,blockwise]' 'extension=[none,log_n]'",
        "lexp eval 'lengths=[20]' 'grid=[5,10,20,30]'",
        "lexp eval 'lengths=[3,5,6,7,8,10]' 'attention=[full,blockwise,self_extend]' "
        "'extension=[none,log_n]'",
    ],
    "needs the hub; tests/hf/test_hf_runs.py has models of its own": [
        "lexp eval model=hf path=EleutherAI/pythia-160m 'lengths=[1024,2048,8192]' "
        "'attention=[full,blockwise,self_extend]' 'extension=[none,yarn]'",
        f"{SMOLLM2} 'lengths=[2048,8192,16384]' 'attention=[full,window]'",
        f"{SMOLLM2} 'lengths=[2048]' 'attention=[full,window,window_sinks]' "
        "attention.window.window=1024 attention.window_sinks.band.window=1020",
        f"{SMOLLM2} 'lengths=[8192,16384]' 'attention=[full]' 'extension=[none,yarn]'",
        f"{SMOLLM2} 'lengths=[8192,16384]' 'attention=[window_sinks,blockwise]'",
        "lexp report name=smollm2",
    ],
    "needs lm-evaluation-harness; tests/peers/test_harness.py runs it": [
        "lexp harness 'tasks=[lambada_openai,hellaswag]'",
        "lexp harness 'tasks=[lambada_openai,hellaswag]' model=xpos 'lengths=[512]' "
        "'attention=[full,blockwise]' 'extension=[none,yarn]'",
        "lexp harness 'tasks=[mmlu]' shots=5 model=hf path=EleutherAI/pythia-160m "
        "'lengths=[2048,8192]'",
        "lexp harness 'tasks=[my_task]' task_folder=mine limit=100",
    ],
    "starts processes, as tests/commands/test_launchers.py does": [
        "lexp train -m model=rope,xpos seed=0,1,2 hydra/launcher=local hydra.launcher.per_gpu=4",
        f"{MANY} hydra/launcher=local",
        "lexp train -m dataset=addition model=nope,rope 'seed=range(50)' hydra/launcher=local",
        f"{MANY} hydra/launcher=local hydra.launcher.per_gpu=4",
    ],
    "needs a cluster, as tests/slurm has": [
        "lexp train -m 'model=glob(*,exclude=[abacus,coupled])' 'seed=range(5)' "
        "hydra/launcher=slurm hydra.launcher.partition=gpu",
        "lexp train -m model=rope,xpos hydra/launcher=slurm hydra.launcher.tasks_per_node=4 "
        "hydra.launcher.gpus_per_node=4",
        f"{MANY} hydra/launcher=slurm hydra.launcher.partition=gpu",
        f"{MANY} hydra/launcher=slurm hydra.launcher.gpus_per_node=null hydra.launcher.wait=false",
    ],
}  # fmt: skip
# Not run: what they are for, and who runs them.
ELSEWHERE = {
    "git clone <this repository> && cd lexp": "a network",
    "source .venv/bin/activate": "a shell's; scripts/setup.sh makes .venv",
    "lexp finetune task=text 'task.train=mine/train*.jsonl' 'task.validation=mine/dev.jsonl' "
    "run=outputs/default/RUN": "test_finetune.py does",
    "lexp train model=rope init_from=outputs/default/RUN extension=yarn train_len=512 tokens=1e6 "
    "lr=1e-4": "the name of a run; tests/training/test_extended.py does",
    "lexp train model=nope init_from=outputs/default/RUN tokens=1e6 "
    "'trunk.qk_norm={_target_: lexp.model.trunk.RMSNorm, eps: 1e-6}'": "likewise",
    "lexp train model=hf path=models/my-llama extension=yarn train_len=8192 tokens=1e8 "
    "lr=2e-5": "a checkpoint; tests/hf/test_hf_training.py does",
    "lexp train model=rope wandb=offline": "test_wandb.py does",
    "lexp eval wandb=offline": "likewise",
    "lexp train model=rope tensorboard=true": "test_event_file.py does",
    "tensorboard --logdir outputs/default": "a server; test_event_file.py reads the file",
    "lexp train +debug=tiny model=xpos": "test_presets.py does",
    "lexp train +debug=overfit model=xpos": "likewise",
    "lexp train +debug=profile model=xpos": "likewise",
    "lexp train model=xpos profile_steps=5": "likewise",
    "bash scripts/quickstart.sh": "takes minutes; .ci/run makes the same .venv",
    "bash scripts/setup.sh": "scripts/test.sh begins with it",
    "bash scripts/test.sh": "this is one of its tests",
    "bash scripts/test.sh tests/position -k rope": "likewise",
    "torchrun --standalone --nproc-per-node=4 -m lexp train model=rope": "test_distributed.py does",
    "srun --ntasks=8 --gpus-per-task=1 lexp train model=rope parallel=fsdp": "tests/slurm does",
    "bash scripts/test_gpu.sh": "needs a GPU",
    "bash scripts/bench.sh": "takes an hour; tests/project/test_bench_files.py runs it",
    "lexp finetune task=glue/rte run=outputs/default/RUN": "the hub; test_finetune.py does more",
    "lexp export run=outputs/default/RUN to=my-model": "the name of a run; test_export.py does",
    "lexp export run=outputs/default/RUN to=my-model-4k extension=yarn length=4096": "likewise",
    "lexp report | head -1": "a shell's pipe; tests/cli/test_streams.py closes one",
    "lexp train model=t5 kernel=flex": "needs a GPU",
    "lexp eval kernel=flex": "needs a GPU",
    "python scripts/bench_gpu.py --page docs/benchmarks/gpu.md --json docs/benchmarks/gpu.json": (
        "needs a GPU"
    ),
    "python scripts/bench_gpu.py --device cpu --tiny": "tests/project/test_bench_gpu.py runs it",
    "pip install 'lexp[slurm]'": "a network",
    "LEXP_ALLOW=utils lexp harness 'tasks=[my_task]' task_folder=mine": "a folder of one's own",
    'eval "$(lexp -sc install=bash)"': "a shell's; tests/cli/test_cli.py asks what it evaluates",
}
# The name of a run; tests/commands/test_generate.py does.
ELSEWHERE |= dict.fromkeys(
    (
        "lexp generate run=RUN prompt=TEXT",
        "lexp generate run=outputs/default/RUN prompt='def '",
        "lexp generate run=outputs/default/RUN prompt='def main('",
        "lexp generate run=outputs/default/RUN prompt='Hello, world' temperature=0.8 top_p=0.95 "
        "seed=1",
        "lexp generate run=outputs/default/RUN prompt_file=chapter.txt attention=blockwise "
        "extension=yarn",
        "head -c 4000 chapter.txt | lexp generate run=outputs/default/RUN prompt=- "
        "max_new_tokens=64",
        "lexp generate run=outputs/default/COPY-RUN prompt='abc='",
    ),
    "the name of a run; test_generate.py does",
)
# Words in running text that stand for commands.
FORMS: list[str] = [
    "lexp train model=NAME",
    "lexp list NAME",
    "lexp COMMAND key=value",
    "lexp COMMAND --cfg job",
    "lexp COMMAND --help",
    "lexp help COMMAND",
    "lexp study study=alibi dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=context_extension dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=reference dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=kerple dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=hybrid dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=mixers dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=lex dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=tisa dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=tisa_mlm dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=training_dynamics dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=nope_variance dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=nope_length dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=zoo dataset=text 'dataset.train=books/train/*.txt' …",
    "lexp study study=content_decay dataset=text 'dataset.train=books/train/*.txt' …",
]
# Pages whose commands are composed and checked, not run: other pages run them, or take hours. Those
# of instruments are what tests/instruments/test_channels.py runs.
COMPOSED = (
    "docs/scope.md", "docs/instruments/positional_channels.md", "docs/instruments/token_order.md",
)  # fmt: skip
# What has to be there before a page's first command.
BEFORE = {
    "docs/benchmarks/results.md": ["lexp train model=rope"],
    "docs/cluster.md": ["lexp train model=rope"],
    "docs/evaluator.md": ["lexp train -m model=rope,alibi name=zoo"],
    "docs/instruments/zoo.md": ["lexp train model=rope name=zoo"],
}
# Values without a default, for tables that name the choice alone.
OF_A_TASK = ("dataset=addition", "dataset.task.reverse=true")
NEEDED = {
    "longrope": ("extension.longrope.divisors=[1.0]",),
    "abacus": OF_A_TASK,
    "coupled": OF_A_TASK,
}
LISTED = {text for texts in CHECKED.values() for text in texts} | set(ELSEWHERE) | set(FORMS)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch):
    found = [*(Step("command", text, page) for text in BEFORE.get(page, [])), *steps(page)]
    if not found:
        return
    register_schemas()
    hydra_guard.install()
    world = make_world(tmp_path / "lexp", monkeypatch)
    if any(step.text.startswith(("cp ", "sed ", "pytest ")) for step in found):
        add_sources(world.folder)
    if any("model=hf" in step.text for step in found):
        add_model(world.folder)
    for step in found:
        text = bare(step.text) if step.kind in ("command", "choice") else ""
        if text in ELSEWHERE or text in FORMS:
            continue
        named = re.fullmatch(r"lexp study study=(\w+)", text)
        composed = step.kind == "choice" or page in COMPOSED
        if composed and named:  # tests/commands/test_study_files.py composes each
            assert named[1] in NAMES, step
            continue
        if composed or text in LISTED or "-m" in text.split():
            check(step, world)  # a sweep, which runs in part, as a whole
        if not composed and text not in LISTED:
            world.do(step._replace(text=in_small(text) if text else step.text))


@pytest.mark.parametrize("step", list(study_steps()), ids=lambda step: step.where)
def test_the_command_of_a_study_file_is_one_that_is_composed_whole(step):
    """Composed and checked in tests/commands/test_study_files.py: every file and scale."""
    name, scale = re.fullmatch(r"lexp study study=(\w+) scale=(\w+)", step.text).groups()
    assert (name, scale) in EACH and step.where == f"conf/study/{name}.yaml"


def test_nothing_is_listed_that_is_not_in_the_documentation():
    there = {bare(s.text) for page in PAGES for s in steps(page) if s.kind == "command"}
    assert set() == LISTED - there - set(STUDIES)
    assert all(re.search("…|<|COMMAND|NAME", form) for form in FORMS)


def test_what_is_neither_run_nor_listed_fails_and_so_does_what_does_not_work(tmp_path):
    with pytest.raises(AssertionError, match="docker run lexp: neither run here nor listed"):
        in_small("docker run lexp")
    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path, patch)
        with pytest.raises(AssertionError, match="no key 'lengts'; did you mean lengths"):
            world.do(Step("command", "lexp eval 'lengts=[8]'", "a page:1"))
        with pytest.raises(AssertionError, match="a page:2"):
            world.do(Step("python", "assert 1 + 1 == 3", "a page:2"))


@pytest.mark.parametrize("page", PAGES)
def test_no_command_of_a_block_is_overlooked(page):
    """Counted another way than `steps` finds them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.M | re.S)
    typed = sum(len(re.findall(r"^ *lexp ", one, re.M)) for one in blocks)
    own = [s for s in steps(page) if s.kind == "command" and s.text.startswith("lexp ")]
    assert len([s for s in own if not in_running_text(s, text)]) == typed


@pytest.mark.parametrize("page", PAGES)
def test_files_and_names_of_code_exist(page):
    """Those of the guide's own scheme come into being on the way."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("lexp.position.SqrtALiBi", "")
    for path in re.findall(r"\b(?:lexp|conf|scripts|tests)/[\w/.-]+\.(?:py|yaml|sh)\b", text):
        assert (ROOT / path).exists() or "sqrt_alibi" in path or "NAME" in path, path
    for name in re.findall(r"`(lexp(?:\.\w+)+)`", text):
        assert pkgutil.resolve_name(name), name


def test_the_tests_that_the_page_of_faults_names_exist():
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?", (ROOT / "docs/faults.md").read_text("utf-8"))
    assert sum(bool(test) for _, test in named) > 100
    for file, test in named:
        paths = (ROOT / file, ROOT / "tests" / file, ROOT / "tests" / "faults" / file)
        text = next(path for path in paths if path.exists()).read_text(encoding="utf-8")
        assert f"def {test}(" in text or not test, f"{file}::{test}"


@pytest.mark.parametrize("page", PAGES)
def test_prose_stands_in_lines_that_a_diff_can_show(page):
    """At most 100 columns; tables and code are as wide as they are."""
    code = False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        fence = line.lstrip().startswith("```")
        code = code != fence
        if not (code or fence or line.lstrip().startswith("|")):
            assert len(line) <= 100, f"{page}:{number}"


def test_every_title_of_the_scope_has_a_command_or_the_reason_why_not():
    text = (ROOT / "docs/scope.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\| .*\*.*", text, re.M)]
    assert len(rows) == 3 + 10 + 15
    for title, answer, where in rows:
        verdict = re.match("Yes|In part|Outside", answer)
        assert verdict, title
        needs = {"Yes": "`lexp ", "In part": r"`lexp |\]\(", "Outside": r"Needed|`lexp "}
        assert re.search(needs[verdict[0]], where), title


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/studies/")])
def test_a_page_of_a_study_answers_first_and_says_last_how_to_reproduce_it(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    title, answer, *_ = text.split("\n\n")
    assert title.startswith("# ") and re.match(r"[A-Za-z`].*[.]$", answer, re.DOTALL)
    assert "lexp study" not in answer
    assert re.findall(r"^## (.*)", text, re.M)[-1] == "How to reproduce"


def test_the_readme_is_a_front_page_and_no_manual():
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 150


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        if anchor:
            heads = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, f"{path}#{anchor}"


def in_running_text(step: Step, text: str) -> bool:
    return f"`{step.text}`" in text


def bare(text: str) -> str:
    """A command line without comments and spare spaces."""
    text = re.sub(r" +#( .*|$)", "", text)
    return re.sub(" +", " ", text).strip()


def in_small(text: str) -> str:
    """A command line with what keeps it short."""
    words = shlex.split(text)
    if words[0] != "lexp":
        assert words[0] in SHELL, f"{text}: neither run here nor listed"
        return text
    if len(words) > 1 and words[1] in SMALL and not {"--help", "--cfg"} & set(words):
        words = [*cut(words), *SMALL[words[1]]]
    return shlex.join(words)


def cut(words: list[str]) -> list[str]:
    """A sweep with two values of what it goes through first and one of everything else."""
    if "-m" not in words:
        return words
    left, short = 2, []
    for word in words:
        key, equals, value = word.partition("=")
        values = value.split(",")
        if equals and "[" not in value and len(values) > 1:
            word, left = f"{key}={','.join(values[:left])}", 1
        short.append(word)
    return short


def check(step: Step, world: World) -> None:
    """Compose a command and check it whole, without doing any work."""
    _, word, *given = shlex.split(step.text, comments=True)
    assert word in TASKS, step
    named = [name for one in given for name in re.findall(r"\w+", one) if name in NEEDED]
    given += [one for name in named for one in NEEDED[name]]
    folder = str(ROOT / "conf")
    if "-m" in given:
        given = ["seed=0" if re.match("'?seed=", one) else one for one in given]  # all alike
        # tests/commands/test_launchers.py composes and checks what glob(*) stands for.
        given = ["model=rope,alibi" if one.startswith("model=glob(*") else one for one in given]
        assert check_jobs(ROOT / "conf", word, given, TASKS[word][1]) > 1
        launcher = [one for one in given if re.match("hydra[./]", one)]
        with initialize_config_dir(folder, version_base="1.3"):
            hydra_compose(word, overrides=launcher, return_hydra_config=True)
        return
    if "--config-dir" in given:
        at = given.index("--config-dir")
        given[at : at + 2] = [f"hydra.searchpath=[file://{world.folder / given[at + 1]}]"]
    TASKS[word][1](compose(word, *given))
