"""`lexp list`: every scheme and method there is, what it is, and which combine."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.table import Table

from lexp.attention import make_attend
from lexp.commands.run_parts import make_model
from lexp.config.instantiate import build
from lexp.config.schema import plain
from lexp.config.sweep import searched
from lexp.config.validation import read_train
from lexp.display.terminal import TableConsole, table_console
from lexp.evaluate import refuse_beyond
from lexp.extension import Extension, Lengths
from lexp.model.transformer import Transformer
from lexp.pattern import Full, Pattern
from lexp.position import Position
from lexp.system.errors import ConfigError, NotDefined
from lexp.system.reading import read_text

GROUPS = {"model": "schemes", "attention": "inference patterns", "extension": "extensions"}
# Combinations are tried on an untrained model of `size=nano`, at twice its trained length.
TRAIN_LEN, LENGTH = 64, 128


@dataclass(frozen=True)
class Choice:
    """One file of conf/: where it is, and its values."""

    group: str
    name: str
    text: str
    node: dict[str, Any]

    @property
    def about(self) -> str:
        """Return the comment at the head of the file."""
        return self.text.partition("\n")[0].removeprefix("# ")


def list_(config_folder: Path, words: list[str], folders: list[str]) -> None:
    """Print everything, or what is known about the choices named.

    folders: others that have config groups as conf/ has.
    """
    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise ConfigError(f"--config-dir {missing[0]}: there is no such folder")
    choices = read_choices(config_folder, folders)
    names = {choice.name for choice in choices}
    unknown = [word for word in words if word not in names]
    if unknown:
        raise ConfigError(f"nothing is called {unknown[0]!r}; there are {', '.join(sorted(names))}")
    # A pipe or file has no width: wide enough for any line is better than a cut one.
    console = table_console()
    if words:
        for word in words:
            for choice in choices:
                if choice.name == word:
                    show_one(console, choice, choices)
        return
    show_all(console, choices)


def read_choices(config_folder: Path, folders: list[str]) -> list[Choice]:
    """Return every model, attention and extension of conf/ and the other folders."""
    choices = []
    places, search = [config_folder, *map(Path, folders)], searched(folders)
    with initialize_config_dir(str(config_folder), version_base="1.3"):
        for group in GROUPS:
            # Of two files of a name Hydra takes that of the first place.
            files = [p for place in reversed(places) for p in (place / group).glob("*.yaml")]
            paths = {path.stem: path for path in files}
            for name, path in sorted(paths.items()):
                if group == "model":
                    words = [f"model={name}", f"train_len={TRAIN_LEN}", *search]
                    node = plain(compose("train", overrides=words))
                else:
                    words = [f"{group}=[{name}]", *search]
                    node = plain(compose("eval", overrides=words))[group][name]
                choices.append(Choice(group, name, read_text(path), node))
    return choices


def show_all(console: TableConsole, choices: list[Choice]) -> None:
    """Print one table per group, and the grid of what combines."""
    schemes, patterns, extensions = ([c for c in choices if c.group == g] for g in GROUPS)
    methods = [*patterns, *extensions]
    models = {choice.name: model_of(choice) for choice in schemes}
    table = Table(title="schemes: lexp train model=NAME", title_justify="left", box=None)
    for heading in ("", "learned", ""):
        table.add_column(heading)
    for choice in schemes:
        table.add_row(choice.name, f"{n_learned(models[choice.name]):,}", choice.about)
    console.print(table)
    console.lines("learned: position parameters at size=nano (4 layers, 4 heads of 32)", "")
    after = len(patterns)
    for title, some, first in (("attention", patterns, 1), ("extension", extensions, after + 1)):
        table = Table(
            title=f"{GROUPS[title]}: lexp eval '{title}=[NAME,...]'", title_justify="left", box=None
        )
        for heading in ("", "", ""):
            table.add_column(heading)
        for n, choice in enumerate(some):
            table.add_row(str(n + first), choice.name, choice.about)
        console.print(table, "")
    table = Table(title="what combines (by the numbers above)", title_justify="left", box=None)
    table.add_column("")
    for number in range(1, len(methods) + 1):
        table.add_column(str(number), justify="right", min_width=2, header_style="dim")
    for choice in schemes:
        marks = ["·" if reason(models[choice.name], m) else "x" for m in methods]
        table.add_row(choice.name, *marks)
    console.print(table)
    console.print("x: defined, ·: not defined; the reason: lexp list NAME")
    console.print(
        "bidirectional patterns are for models of objective=mlm, all others for causal models"
    )


def show_one(console: TableConsole, choice: Choice, choices: list[Choice]) -> None:
    """Print a choice's source and formula, its values, and what it combines with."""
    source = "\n\n".join(sources(choice))
    console.print(f"{choice.group}={choice.name}", style="bold")
    console.lines("", *f"{source}\n\n{choice.text}".split("\n"))
    others = [c for c in choices if (c.group == "model") != (choice.group == "model")]
    for other in others:
        scheme, method = (choice, other) if choice.group == "model" else (other, choice)
        why = reason(model_of(scheme), method)
        console.print(f"  {other.name:<20} {why or 'defined'}")
    console.print("")


def sources(choice: Choice) -> list[str]:
    """Return paper and formula of a choice from its code; of a mixture, those of each part."""
    if choice.group != "model":
        return [inspect.getdoc(type(made_by(choice))) or ""]
    parts = [m for m in model_of(choice).positions.modules() if isinstance(m, Position)]
    modules = dict.fromkeys(inspect.getmodule(type(part)) for part in parts)
    return [inspect.getdoc(module) or "" for module in modules]


def made_by(choice: Choice) -> Any:
    """Build the pattern or extension that a choice describes."""
    if choice.group == "attention":
        return build(choice.node, Pattern, choice.name)
    return build(with_divisors(choice.node, []), Extension, choice.name)


def model_of(choice: Choice) -> Transformer:
    """Return an untrained model with a scheme."""
    torch.manual_seed(0)
    return make_model(read_train(choice.node), 256).eval()


def n_learned(model: Transformer) -> int:
    """Count the learned parameters of a model's position schemes."""
    return sum(parameter.numel() for parameter in model.positions.parameters())


def reason(model: Transformer, method: Choice) -> str:
    """Return why a method is not defined for a model; empty if it is."""
    extension: Extension = Extension()
    pattern: Pattern = Full()
    if method.group == "attention":
        pattern = build(method.node, Pattern, method.name).fit(TRAIN_LEN, LENGTH)
    else:
        extension = build(with_divisors(method.node, model.schemes), Extension, method.name)
    try:
        lengths = Lengths(TRAIN_LEN, LENGTH, LENGTH)
        model = extension.extend(model, lengths, lambda n, t: torch.zeros(n, t).long())
        refuse_beyond(model, LENGTH)
        make_attend(pattern, LENGTH, model.schemes, torch.device("cpu"))
    except NotDefined as error:
        return str(error)
    return ""


def with_divisors(node: dict[str, Any], schemes: list[Position]) -> dict[str, Any]:
    """Return a node with LongRoPE's divisors, which have no default, filled in for schemes."""
    if "divisors" not in node:
        return node
    pairs = [len(part.frequencies) for scheme in schemes for part in scheme.parts]
    return {**node, "divisors": [1.0] * max([1, *pairs])}
