"""Write lexp/commands/catalogue.json, docs/schemes.md, docs/methods.md and what counts elsewhere.

The latter: the floors of docs/architecture.md, the tasks of docs/tasks.md and the number of schemes
in README.md.

Usage: python scripts/catalogue_pages.py. The text comes from conf/ and from the docstrings of the
classes that its files name; what combines is tried. A test fails where a file is stale.
"""

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from pathlib import Path
from typing import Any

import hydra
import yaml

from lexp.cli import hydra_guard
from lexp.commands.catalogue import FILE, Catalogue, Choice
from lexp.commands.combine import Combiner, tried
from lexp.config.schema import register_schemas
from lexp.pattern import keys_read
from lexp.position import Position

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
WRITTEN = "This page is written by `python scripts/catalogue_pages.py`; do not edit it."
SCHEMES_HEAD = """# Position schemes

`lexp` has {n} position schemes, recurrent mixers and layer plans. `lexp train model=NAME` trains
one, and `lexp list NAME` prints its source, its formula, its values, and why a method is not
defined for it.

{written}

A value of a scheme is set by its key, for example `lexp train model=xpos model.position.gamma=0.1`.
All keys are in [config.md](config.md#model). A mixture of schemes needs no code:
`lexp.position.Sum` adds schemes up, [a list of `layers`](layers.md) gives them to layers in turns,
and `DAPE`, `RandomPositions`, `RandomFloats`, `SHAPE` and `TokenPositions` wrap one scheme.
`conf/model/rope_alibi.yaml` is an example.
[The guide](guide.md#a-scheme-of-your-own) shows how to add a scheme.

Recent schemes: PoPE and PaTH follow the published formulas. HoPE, RFS and SWAT are partly
reconstructed; their docstrings say which parts.

In the formulas, i is the query, j the key, h the head and d its width. *Learned*: parameters of the
scheme at `size=nano` (4 layers, 4 heads of 32 channels).

`abacus` and `coupled` take positions from the tokens of [tasks](tasks.md#positions).

Recurrent mixers (`gated_delta_net`, `gla`, `kda`, `mamba2`, `retnet`) take the place of attention
and its positions. [Mixers](mixers.md) says how they are built and what works with them.
"""
COMBINES = (
    "Which [attention patterns and extensions](methods.md) are defined for each scheme, tried at "
    "twice the trained length. Learned positions end at the trained length. Where no layer was "
    "trained with full attention, `full` runs the model as it was trained. Bidirectional patterns "
    "are for models trained with `objective=mlm`, all others for causal models."
)
METHODS_HEAD = """# Methods, protocols, probes and instruments

Everything that `lexp` does to a trained model. {written}

All keys are in [config.md](config.md).
*Schemes* counts the [position schemes](schemes.md) (of {n}) for which a method is defined. Where it
is not, the cell of the results table says `n/d` and gives the reason; so does `lexp list NAME`.
"""
PATTERNS = """An attention pattern decides which keys a query sees, and at which positions. Up to
the trained length most leave results as they are. `self_extend`, `rerope`, `dual_chunk` and
`string` give far keys other distances there too, `reattention` and `moba` see fewer keys.

*Keys* says how many keys a query attends to, on average over a text of 1024, 4096 and 16384
tokens, in a model trained at 1024. `reattention` and `moba` choose keys by content, by their
products with the query: what they read to choose is added, all keys between the first and the last
ones, or the means of earlier blocks. `lexp` computes the products with all earlier keys in both
cases: they are no faster here than `full`. `lexp generate` and packed documents support both.
Bidirectional models, `kernel=flex` and instruments that compare the pairs of all texts refuse them
with the reason. MoBA's authors train with it:
`lexp train '+model.pattern={_target_: lexp.pattern.MoBA}'`."""
SECTIONS = {
    "attention": (
        "Attention patterns",
        "lexp eval 'attention=[…]'",
        PATTERNS,
    ),
    "extension": (
        "Extensions",
        "lexp eval 'extension=[…]'",
        "An extension changes the position scheme of a trained model. Its factor is the longest "
        "length of the evaluation divided by the trained length, the same at every length. "
        "`extension.pi.factor=4` sets the factor; `extension.pi.factor=length` uses each length's "
        "own factor. A model can also be [trained with one](extending.md).",
    ),
    "protocol": (
        "Protocols",
        "lexp eval 'protocol=[…]'",
        "A protocol decides which tokens are scored, and with how much context. Results of "
        "different protocols never share a table.",
    ),
    "probes": (
        "Probes",
        "lexp probe 'probes=[…]'",
        "A probe plants information in real text, asks for it at the end, and compares the loss "
        "of the right answer with a control text.",
    ),
    "instruments": (
        "Instruments",
        "lexp analyze 'instruments=[…]'",
        "An instrument looks into the attention and the hidden states of a checkpoint.",
    ),
}


def heading(path: Path) -> str:
    """Return the first comment line of a config file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if not line.startswith("# @package")).removeprefix("# ")


def cell(text: str) -> str:
    """Return text that is safe in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """Return a formula as inline code for a cell of a Markdown table."""
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`"


def wrapped(text: str) -> str:
    """Return prose in lines of at most 100 characters, paragraph by paragraph."""
    # Inline code stays in one piece: its spaces are hidden from the wrapping.
    hidden = re.sub(r"`[^`]+`", lambda span: span[0].replace(" ", "\0"), text)
    paragraphs = (
        textwrap.fill(part, 100, break_long_words=False, break_on_hyphens=False)
        for part in hidden.strip().split("\n\n")
    )
    return "\n\n".join(paragraphs).replace("\0", " ") + "\n"


def class_of(target: str) -> type:
    """Import the class that a `_target_` names."""
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def targets(node: Any) -> list[str]:
    """Return the `_target_` of a position's node and of the schemes inside it, outermost first."""
    if isinstance(node, list):
        return [name for item in node for name in targets(item)]
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if "_target_" in node else []
    return own + [name for value in node.values() for name in targets(value)]


def paragraph_about(cls: type) -> str:
    """Return the module docstring of a scheme, or its lines that begin with the class's name.

    A file of several schemes gives each a line `ClassName: ...`, with the source in parentheses.
    """
    text = inspect.getdoc(inspect.getmodule(cls)) or ""
    parts = re.split(r"\n(?=[A-Z]\w+: |\n)", text)[1:]
    about = [part.strip() for part in parts if part.strip().startswith(f"{cls.__name__}: ")]
    return " ".join(about) or text


def papers(text: str) -> list[str]:
    """Return links to the arXiv papers that a docstring cites."""
    numbers = dict.fromkeys(re.findall(r"\b(\d{4}\.\d{5})\b", text))
    return [f"[{number}](https://arxiv.org/abs/{number})" for number in numbers]


def formula(cls: type) -> list[str]:
    """Return the first indented block of a scheme's docstring, line by line.

    Lines labelled `log:` or `power:` belong to the class whose name ends with the label.
    """
    text = inspect.getdoc(inspect.getmodule(cls)) or ""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("    "):
            lines.append(re.sub(r" {2,}", "  ", line.strip()))
        elif lines:
            break
    labelled = [re.match(r"(\w+): +(.*)", line) for line in lines]
    if lines and all(labelled):
        return [m[2] for m in labelled if m and cls.__name__.lower().endswith(m[1])]
    return lines


def formula_cell(position: dict[str, Any], names: dict[str, str]) -> str:
    """Return the formula of a scheme; of a mixture, the names of the schemes it is made of."""
    outer, *inner = targets(position)
    if outer.rpartition(".")[2] == "Sum":
        return " and ".join(called(target, names) for target in dict.fromkeys(inner))
    lines = "<br>".join(code(line) for line in formula(class_of(outer)))
    schemes = [target for target in inner if issubclass(class_of(target), Position)]
    rules = [called(target, names) for target in inner if target not in schemes]
    around = ", ".join(called(target, names) for target in schemes)
    around += f" at the positions of {', '.join(rules)}" if rules else ""
    return lines + (f"{'<br>' if lines else ''}around {around}" if around else "")


def cited(model: dict[str, Any]) -> list[type]:
    """Return the classes of a model's schemes and mixers, whose papers are its own."""
    entries = model.get("layers", [model])
    nodes = [entry.get(key) for entry in entries for key in ("position", "mixer")]
    return [class_of(target) for target in dict.fromkeys(targets(nodes))]


def model_cell(model: dict[str, Any], names: dict[str, str]) -> str:
    """Return the formula of a model's scheme; of a list of layers, what its entries are."""
    if "layers" not in model:
        return formula_cell(model.get("position") or model["mixer"], names)
    runs = [(entry, len(list(same))) for entry, same in itertools.groupby(model["layers"])]
    return "in turns: " + ", ".join(f"{n} {entry_cell(entry, names)}" for entry, n in runs)


def entry_cell(entry: dict[str, Any], names: dict[str, str]) -> str:
    """Return what the layers of an entry are, by the names of their parts."""
    parts = targets(entry.get("mixer") or entry.get("position")) or ["lexp.position.NoPE"]
    schemes = [target for target in parts if target.rpartition(".")[2] != "Sum"]
    own = " + ".join(called(target, names) for target in schemes)
    pattern = targets(entry.get("pattern"))
    return f"{own} in {class_of(pattern[0]).name}" if pattern else own


def called(target: str, names: dict[str, str]) -> str:
    """Return the name by which a class is chosen; of a class without one, the class's own."""
    return f"`{names.get(target, target.rpartition('.')[2])}`"


def combines(names: list[str], defined: set[str]) -> str:
    """Return which of some methods are defined, as the shorter of two lists."""
    missing = [name for name in names if name not in defined]
    if not missing:
        return "all"
    if not defined:
        return "none"
    listed = ", ".join(name for name in names if name in defined)
    return listed if len(listed) < len(", ".join(missing)) else f"all but {', '.join(missing)}"


def combinations(choices: list[Choice], catalogue: Catalogue) -> dict[str, dict[str, set[str]]]:
    """Return the methods that are defined for each scheme: scheme -> group -> names."""
    schemes = [choice for choice in choices if choice.group == "model"]
    return {
        scheme.name: {
            group: {
                method.name
                for method in choices
                if method.group == group and not catalogue.reason(scheme, method)
            }
            for group in ("attention", "extension")
        }
        for scheme in schemes
    }


def schemes_page(
    choices: list[Choice], learned: dict[str, int], defined: dict[str, dict[str, set[str]]]
) -> str:
    """Return docs/schemes.md."""
    schemes = [choice for choice in choices if choice.group == "model"]
    models = {choice.name: yaml.safe_load(choice.text) for choice in schemes}
    names: dict[str, str] = {}
    for name, model in models.items():
        if "layers" not in model:
            names.setdefault(targets(model.get("position") or model["mixer"])[0], name)
    lines = [wrapped(SCHEMES_HEAD.format(n=len(schemes), written=WRITTEN))]
    lines += ["| `lexp train model=…` | what it is | formula | paper | learned |"]
    lines += ["| --- | --- | --- | --- | ---: |"]
    for choice in schemes:
        model = models[choice.name]
        texts = [choice.text, *(paragraph_about(cls) for cls in cited(model))]
        links = dict.fromkeys(link for text in texts for link in papers(text))
        number = f"{learned[choice.name]:,}"
        row = [f"`{choice.name}`", cell(choice.about), model_cell(model, names)]
        lines.append(f"| {' | '.join([*row, ', '.join(links), number])} |")
    lines += ["", "## What combines", ""]
    lines += [wrapped(COMBINES)]
    lines += ["| scheme | `attention=` | `extension=` |", "| --- | --- | --- |"]
    groups = {g: [c.name for c in choices if c.group == g] for g in ("attention", "extension")}
    for choice in schemes:
        row = [combines(groups[g], defined[choice.name][g]) for g in groups]
        lines.append(f"| {choice.name} | {' | '.join(row)} |")
    return "\n".join([*lines, ""])


def method_class(group: str, path: Path) -> type:
    """Return the class that a method's file names."""
    node = yaml.safe_load(path.read_text(encoding="utf-8"))
    return class_of(node[path.stem]["_target_"])


def source_cell(cls: type) -> str:
    """Return the file of a class, as a link, and the papers that its docstring cites."""
    path = Path(inspect.getfile(cls)).resolve().relative_to(ROOT).as_posix()
    own = inspect.getdoc(cls) or ""
    text = own if papers(own) else inspect.getdoc(inspect.getmodule(cls)) or ""
    return ", ".join([f"[{Path(path).name}](../{path})", *papers(text)])


def keys_cell(path: Path) -> str:
    """Return the keys that queries under a pattern read, at three lengths."""
    node = yaml.safe_load(path.read_text(encoding="utf-8"))
    pattern = hydra.utils.instantiate(node[path.stem])
    costs = [keys_read(pattern, 1024, seq_len) for seq_len in (1024, 4096, 16384)]
    return ", ".join(
        f"{cost.attended:.0f}" + f" + {cost.to_choose:.0f}" * (cost.to_choose > 0) for cost in costs
    )


def methods_page(choices: list[Choice], defined: dict[str, dict[str, set[str]]]) -> str:
    """Return docs/methods.md."""
    n_schemes = len(defined)
    head = METHODS_HEAD.format(n=n_schemes, written=WRITTEN)
    parts = [wrapped(head)]
    for group, (title, command, about) in SECTIONS.items():
        counted = group in ("attention", "extension")
        parts += [f"## {title}", "", wrapped(about)]
        more = [*["keys"] * (group == "attention"), *["schemes"] * counted]
        parts += [f"| {' | '.join([f'`{command}`', 'what it is', 'source', *more])} |"]
        parts += [f"| --- | --- | --- |{' ---: |' * len(more)}"]
        for path in sorted((CONF / group).glob("*.yaml")):
            row = [f"`{path.stem}`", cell(heading(path)), source_cell(method_class(group, path))]
            if group == "attention":
                row.append(keys_cell(path))
            if counted:
                row.append(str(sum(path.stem in by[group] for by in defined.values())))
            parts.append(f"| {' | '.join(row)} |")
        parts.append("")
    parts += ["## Studies", "", wrapped(STUDIES)]
    parts += ["| `lexp study study=…` | what it is | results |", "| --- | --- | --- |"]
    for path in sorted((CONF / "study").glob("*.yaml")):
        page = "results.md" if path.stem == "reference" else f"studies/{path.stem}.md"
        results = f"[{page}]({page})" if (ROOT / "docs" / page).exists() else ""
        parts.append(f"| `{path.stem}` | {cell(heading(path))} | {results} |")
    return "\n".join([*parts, ""])


STUDIES = (
    "A study trains, evaluates, analyses and reports a whole paper. `scale=mini` is for two CPU "
    "cores, `scale=small` for one GPU, and `scale=paper` is the published setting."
)


def readme(text: str, n_schemes: int) -> str:
    """Return the README with the number of schemes that there are."""
    return re.sub(r"\b\d+ position schemes", f"{n_schemes} position schemes", text)


def tasks_page() -> str:
    """Return docs/tasks.md with a row for each task."""
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    rows = []
    for path in sorted((CONF / "dataset").glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "task" not in node:
            continue
        module, _, name = node["task"]["_target_"].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        fields = ", ".join(f"`{key}`" for key in node["task"] if key != "_target_") or "-"
        title = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
        example = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").rstrip(".")
        rows.append(f"| `{path.stem}` | {cell(title)} | {cell(example)} | {fields} |")
    head = "| `dataset=` | rule | lengths and an example | fields |\n| --- | --- | --- | --- |"
    table = "\n".join(["<!-- tasks -->", "", head, *rows, "", "<!-- /tasks -->"])
    return re.sub(r"<!-- tasks -->.*<!-- /tasks -->", lambda _: table, text, flags=re.DOTALL)


def floors() -> list[list[str]]:
    """Return the floors of tests/**/test_layers.py, the highest first."""
    (path,) = (ROOT / "tests").rglob("test_layers.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            return [sorted(floor) for floor in reversed(ast.literal_eval(node.value))]
    raise SystemExit(f"{path}: no FLOORS")


def architecture(text: str) -> str:
    """Return docs/architecture.md with the floors that test_layers.py keeps."""
    lines = ["| floor | package | what is in it |", "| ---: | --- | --- |"]
    levels = floors()
    for number, floor in enumerate(levels):
        for name in floor:
            module = importlib.import_module("lexp" if name == "lexp" else f"lexp.{name}")
            about = " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())
            shown = name if name in ("lexp", "__main__") else f"{name}/"
            lines.append(f"| {len(levels) - number} | `{shown}` | {cell(about)} |")
    table = "\n".join(["<!-- floors -->", "", *lines, "", "<!-- /floors -->"])
    return re.sub(r"<!-- floors -->.*<!-- /floors -->", lambda _: table, text, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    """Return the files that this script writes, by path."""
    register_schemas()
    hydra_guard.install()
    combiner = Combiner(CONF, [])
    choices = combiner.choices
    catalogue = tried(combiner, choices)
    defined = combinations(choices, catalogue)
    front, plan = ROOT / "README.md", ROOT / "docs" / "architecture.md"
    return {
        FILE: catalogue.to_json(),
        ROOT / "docs" / "schemes.md": schemes_page(choices, catalogue.learned, defined),
        ROOT / "docs" / "methods.md": methods_page(choices, defined),
        plan: architecture(plan.read_text(encoding="utf-8")),
        ROOT / "docs" / "tasks.md": tasks_page(),
        front: readme(front.read_text(encoding="utf-8"), len(defined)),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
