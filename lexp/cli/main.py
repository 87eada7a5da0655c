"""The `lexp` command: `lexp COMMAND key=value ...` hands the rest to a Hydra application.

Light on purpose: help and tab completion must not wait for torch.
"""

import contextlib
import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lexp import __version__
from lexp.cli.entry_points import SHARED, TASKS, refuse_early, show
from lexp.cli.names import names_begun
from lexp.cli.streams import ReaderLeft, tolerant
from lexp.system.children import protect_children
from lexp.system.errors import EXIT_INTERRUPTED, ConfigError, LexpError, actionable
from lexp.system.files import config_folder
from lexp.system.output import make_libraries_plain, say
from lexp.system.ranks import place, refuse_several, report_on_rank_zero
from lexp.system.user_code import in_user_code


@dataclass(frozen=True)
class Command:
    """One word after `lexp`."""

    summary: str
    example: str


COMMANDS = {
    "train": Command("pretrain a model, or a sweep of them", "lexp train model=xpos"),
    "eval": Command(
        "measure perplexity by inference length of a study's runs",
        "lexp eval 'lengths=[512,2048,4096]'",
    ),
    "probe": Command(
        "plant information in texts and ask for it: is distant context used?",
        "lexp probe 'probes=[passkey,copy]' 'lengths=[128,512]'",
    ),
    "harness": Command(
        "run tasks of lm-evaluation-harness by every method",
        "lexp harness 'tasks=[lambada_openai,hellaswag]' 'lengths=[512]'",
    ),
    "analyze": Command(
        "measure attention and hidden states, to explain extrapolation",
        "lexp analyze 'instruments=[heads]' 'lengths=[128,512,2048]'",
    ),
    "report": Command(
        "write tables, curves and claims of a study as one HTML page", "lexp report name=default"
    ),
    "status": Command(
        "show a study's runs: queued, running, done, failed and why",
        "lexp status name=default watch=true",
    ),
    "study": Command(
        "reproduce a paper from one file: train, evaluate, analyze, report",
        "lexp study study=lex scale=mini plan=true",
    ),
    "finetune": Command(
        "train a masked language model on a task with labels",
        "lexp finetune task=glue/sst2 run=outputs/default/RUN",
    ),
    "data": Command(
        "tokenise a data set once, and say what training would leave out",
        "lexp data dataset=text dataset.path=FOLDER tokenizer=bpe",
    ),
    "export": Command(
        "write a run as a folder that transformers loads, with a model card",
        "lexp export run=outputs/default/RUN to=my-model",
    ),
    "generate": Command(
        "continue a text with a run, under any attention pattern",
        "lexp generate run=outputs/default/RUN prompt='def main('",
    ),
    "list": Command(
        "list every scheme, method, text and task, and which combine", "lexp list yarn kerple_log"
    ),
}

# Commands that write files: they go on when nobody reads what they print.
WORKING = (
    "train", "eval", "probe", "harness", "analyze", "report", "study", "finetune", "export", "data",
)  # fmt: skip
# Commands of which each result is stored as soon as it is known.
RESUMED = ("eval", "probe", "analyze", "harness")
# Flags by which they print and do no work.
SHOWING = {"--help", "-h", "--cfg", "-c", "--info", "-i"}


def main() -> None:
    """Run the `lexp` command; exit with the codes of lexp.system.errors."""
    wait_asleep()
    protect_children()
    make_libraries_plain()
    arguments = flagged(sys.argv[1:])
    word = arguments[0] if arguments else ""
    code = 0
    shows = bool(SHOWING & set(arguments))
    with tolerant(stops=shows or word not in WORKING, plain=shows) as output:
        with contextlib.suppress(ReaderLeft):
            code = _run_word(word, arguments)
        output.end()
        if lost := output.lost():
            code = code or show(lost)
    if code:
        sys.exit(code)


def flagged(arguments: list[str]) -> list[str]:
    """Return a command line with flags for the words `help [COMMAND]` and `version`."""
    if arguments[:1] == ["help"]:
        return [*arguments[1:2], "--help", *arguments[2:]]
    asks = arguments == ["version"] or "--version" in arguments
    return ["--version"] if asks else arguments


def _meant(word: str) -> str:
    """Return what to type instead of a word that is no command."""
    if word.startswith("-"):
        return "the command comes first, as in lexp train -m model=rope,alibi"
    for group in ("model", "attention", "extension", "dataset"):
        name = word.lower()
        if name.isidentifier() and (config_folder() / group / f"{name}.yaml").is_file():
            return f"it is a choice of {group}=: lexp list {name}"
    near = difflib.get_close_matches(word.lower(), COMMANDS, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"


def _run_word(word: str, arguments: list[str]) -> int:
    """Do what the word of a command line asks for; return the exit code."""
    if word in ("", "-h", "--help"):
        print(usage())
    elif word in ("-V", "--version"):
        print(f"lexp {__version__}")
    elif word in ("-sc", "--shell-completion"):
        return guarded("train", lambda: complete(arguments))
    elif word == "list":
        return guarded(word, lambda: _list(arguments[1:]), arguments[1:])
    elif word == "generate":
        from lexp.cli.overrides import split_prompt

        prompt, rest = split_prompt(arguments[1:])
        return guarded(word, lambda: run(word, rest, prompt=prompt), rest)
    elif word in COMMANDS:
        return guarded(word, lambda: run(word, arguments[1:]), arguments[1:])
    elif word == "version":
        say(f"lexp: version takes no {arguments[1]!r}; type lexp version")
        return 2
    else:
        say(f"lexp: no command {word!r}; {_meant(word)}")
        return 2
    return 0


def wait_asleep() -> None:
    """Let threads of OpenMP sleep soon while they wait for each other, unless the user says how.

    Read when torch is loaded. By default they wait awake: where other processes want the cores too,
    a run takes 8 to 30 times as long as so; on a quiet machine this costs 4 % (two cores, nano).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def usage() -> str:
    """Return the list of commands, a line and an example each."""
    lines = ["lexp: train language models on short texts, run them on long ones", ""]
    for word, command in COMMANDS.items():
        lines += [f"  {word:<10}{command.summary}", f"            {command.example}"]
    return "\n".join(
        [
            *lines,
            "",
            "  lexp COMMAND --help       every group and value",
            "  lexp COMMAND --cfg job    the composed config",
            "  lexp COMMAND -m a=1,2     a sweep",
            '  eval "$(lexp -sc install=bash)"    tab completion, zsh: autoload bashcompinit',
        ]
    )


def run(word: str, arguments: list[str], **beside: Any) -> None:
    """Hand a command to Hydra. beside: named arguments of its function that Hydra does not read."""
    import hydra

    from lexp.cli import hydra_guard as guard
    from lexp.cli.flags import parse_flags
    from lexp.cli.overrides import readable
    from lexp.config.schema import register_schemas
    from lexp.config.sweep import OF_ONE_STUDY, check_jobs, check_launcher, split

    arguments = readable(guard.ordered(arguments))
    guard.check_flags(arguments)
    if guard.asks_for_help(arguments):
        from lexp.cli.help import help_page, page_width

        print(help_page(config_folder(), word, *split(arguments), page_width()))
        return
    is_sweep = parse_flags(arguments)[0].multirun or MULTIRUN in arguments
    if is_sweep and word in OF_ONE_STUDY:
        raise ConfigError(f"lexp {word} takes no -m; repeat the command for each")
    if word == "train":
        from lexp.cli.hf_words import with_init_from

        arguments = with_init_from(arguments)
    guard.install()
    register_schemas()
    groups = "model|trunk|size|dataset|tokenizer|reading|extension|objective"
    for argument in arguments if word == "train" else []:
        if re.match(rf"({groups})=\[", argument):
            name, _, value = argument.partition("=")
            raise ConfigError(f"{argument}: one choice a run; a sweep is -m {name}={value[1:-1]}")
    if place().size > 1:
        # Or torch prints stack traces of C++ for a rank that is lost, above the line that says so.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    task, check = TASKS[word]
    os.environ["LEXP_SWEEP_JOBS"] = "1"
    if is_sweep:
        refuse_several("a sweep (-m)")
        check_launcher(arguments)

        def check_job(config: Any) -> None:
            if word not in SHARED:  # whose own check does all of it
                refuse_early(word, config)
            check(config)

        n_jobs = check_jobs(config_folder(), word, arguments, check_job)
        os.environ["LEXP_SWEEP_JOBS"] = str(n_jobs)
    # Hydra would print what goes wrong its own way and exit with 1; raised, it reaches `guarded`.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"lexp {word}", *arguments]
    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=word)(
        partial(task, **beside)
    )()
    say(*next_command(word, arguments))


# What -m says in Hydra's words.
MULTIRUN = "hydra.mode=MULTIRUN"
# The command that follows a command; `lexp report` itself says which page to open.
NEXT = {"train": "eval", "eval": "report", "probe": "report", "analyze": "report",
        "harness": "report"}  # fmt: skip
SEEDS = "seed=0,1,2,3,4"


def next_command(word: str, arguments: list[str]) -> list[str]:
    """Return the line that says what to type after a command; none if nothing was made."""
    flags = {argument.split("=")[0] for argument in arguments if argument.startswith("-")}
    said = {argument.lower() for argument in arguments}
    shown = flags - {"-m", "--multirun", "--config-dir", "-cd"} or "plan=true" in said
    if shown or place().rank:
        return []
    if word == "finetune":
        return [] if flags & {"-m", "--multirun"} else [f"next: {_with_seeds(arguments)}"]
    if word not in NEXT:
        return []
    if any(re.match(r"(name|outputs)=.*,", a) for a in arguments):
        return []  # several studies
    same = [a for a in arguments if re.match(r"(name|outputs)=", a)]
    if any(a.startswith("+debug=") for a in arguments) and not any(a[:5] == "name=" for a in same):
        same.append("name=debug")  # as each of the presets says
    # Jobs that SLURM has taken are not done yet.
    sent = word == "train" and "hydra.launcher.wait=false" in said
    return [f"next: lexp {' '.join(['status' if sent else NEXT[word], *map(shlex.quote, same)])}"]


def _with_seeds(arguments: list[str]) -> str:
    """Return the sweep over seeds of a fine-tuning: one seed alone has no interval."""
    same = [shlex.quote(argument) for argument in arguments if not argument.startswith("seed=")]
    return " ".join(["lexp finetune -m", SEEDS, *same])


def guarded(word: str, action: Callable[[], None], arguments: Sequence[str] = ()) -> int:
    """Run an action and return its exit code; an error that a user can act on becomes one line.

    arguments: what stood after the command's word, to say which keys there are.
    """
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        with report_on_rank_zero():
            _composed(word, action, list(arguments))
    except LexpError as error:
        return error.exit_code if error.reported else show(error)
    except YAMLError as error:
        return show(ConfigError(str(error)))
    except KeyboardInterrupt:
        kept = "; results so far are kept, the same command continues" * (word in RESUMED)
        say(f"lexp: interrupted{kept}")
        return EXIT_INTERRUPTED
    except Exception as defect:
        problem = actionable(defect) or in_user_code(defect)
        if problem is None:
            raise
        return show(problem)
    return 0


def _composed(word: str, action: Callable[[], None], arguments: list[str]) -> None:
    """Run an action; ConfigError for what Hydra cannot compose."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        action()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(word, error, arguments)) from None


def _explain(word: str, error: Exception, arguments: list[str]) -> str:
    """Return an error of Hydra as one line, with the nearest key for an unknown one."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    from lexp.cli.hf_words import replaced
    from lexp.cli.overrides import why
    from lexp.config.comments import commands_with, keys
    from lexp.config.messages import explained, list_or_sweep, several_values
    from lexp.config.sweep import compose_choices, split
    from lexp.config.unknown_keys import suggest, unknown_key

    arguments = replaced(arguments) if word == "train" else arguments
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: {why(error.override)}"
    override = several_values(error)
    found = re.match(r"Could not override '([^']+)'", str(error))
    if not (override or found):
        return explained(error)
    try:
        composed = compose_choices(config_folder(), word, arguments)
    except (HydraException, OmegaConfBaseException) as other:  # a choice is unknown too
        return explained(other)
    # A sweep over a key that does not exist would not help.
    unknown = found[1] if found else unknown_key(split(arguments)[0], composed)
    if not unknown:
        return list_or_sweep(override, word, arguments)
    comments = {key.name: key.about for key in keys(config_folder() / f"{word}.yaml")}
    having = commands_with(unknown, config_folder())
    return suggest(unknown, composed, comments, [] if word in having else having)


def complete(arguments: list[str]) -> None:
    """Complete a command line: the command words first, then what Hydra knows of the command."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if not arguments[1:] or not arguments[1].startswith("query="):
        run("train", arguments)  # install= and uninstall= are the same for every command
        return
    if len(words) <= 2:
        typed = words[1] if len(words) == 2 else ""
        print("\n".join(word for word in COMMANDS if word.startswith(typed)))
    elif words[1] in TASKS and (names := names_begun(words)):
        print("\n".join(names))
    elif words[1] in TASKS:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        run(words[1], arguments)


def _list(words: list[str]) -> None:
    from lexp.cli import hydra_guard as guard
    from lexp.cli.flags import parse_flags
    from lexp.commands.list import list_
    from lexp.config.schema import register_schemas
    from lexp.config.sweep import split

    words = guard.ordered(words)
    if {"-h", "--help"} & set(words):
        print("lexp list [NAME ...]    all schemes, methods and data sets, or all about these")
        print("--config-dir DIR        and those of your own")
        return
    guard.check_flags(words)
    if parse_flags(words)[0].multirun:
        raise ConfigError("lexp list takes no -m; write several names: lexp list yarn ntk")
    guard.install()
    register_schemas()
    list_(config_folder(), *split(words))
