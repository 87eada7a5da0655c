"""What is known of schemes, methods and data sets without building them: catalogue.json, conf/.

`python scripts/catalogue_pages.py` writes the file; tests/docs/test_catalogue.py keeps it true.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from lexp.system.reading import read_text

DATASET = "dataset"
# What is listed, with its heading and the words that choose from it.
GROUPS = {
    "model": "schemes: lexp train model=NAME",
    "attention": "inference patterns: lexp eval 'attention=[NAME,...]'",
    "extension": "extensions: lexp eval 'extension=[NAME,...]'",
    DATASET: "texts and tasks: lexp train dataset=NAME",
}
METHODS = ("attention", "extension")
# Further groups, which are listed where one of them or a choice of theirs is named.
FURTHER = {
    "protocol": "protocols: lexp eval 'protocol=[NAME,...]'",
    "probes": "probes: lexp probe 'probes=[NAME,...]'",
    "instruments": "instruments: lexp analyze 'instruments=[NAME,...]'",
    "study": "studies: lexp study study=NAME",
    "size": "sizes: lexp train size=NAME",
    "trunk": "trunks: lexp train trunk=NAME",
    "objective": "objectives: lexp train objective=NAME",
    "tokenizer": "vocabularies: lexp train tokenizer=NAME",
    "reading": "readings: lexp train reading=NAME",
    "task": "tasks with labels: lexp finetune task=NAME run=outputs/default/RUN",
    "debug": "presets to look for mistakes: lexp train +debug=NAME",
    "hydra/launcher": "launchers of sweeps: lexp train -m hydra/launcher=NAME seed=0,1",
}
ALL_GROUPS = GROUPS | FURTHER
# The trained length of the models on which combinations are tried, at `size=nano`.
TRAIN_LEN = 64
FILE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class Choice:
    """One file of a config group. foreign: True if it is not in conf/ but in a user's folder."""

    group: str
    name: str
    text: str
    foreign: bool

    @property
    def key(self) -> str:
        """Return the name with its group."""
        return f"{self.group}/{self.name}"

    @property
    def about(self) -> str:
        """Return the first line of the comment at the head of the file."""
        lines = [line for line in self.text.splitlines() if not line.startswith("# @package")]
        return lines[0].removeprefix("# ") if lines else ""

    @property
    def head(self) -> str:
        """Return the comment at the head of the file, with all of its lines."""
        lines = takewhile(lambda line: line.startswith("#"), self.text.splitlines())
        return " ".join(line.removeprefix("#").strip() for line in lines)

    @property
    def command(self) -> str:
        """Return the command that chooses it."""
        usage = ALL_GROUPS[self.group].partition(": ")[2]
        return usage.replace("NAME,...", "NAME").replace("NAME", self.name)

    @property
    def is_task(self) -> bool:
        """Return True for a data set that is a task, not texts."""
        return self.group == DATASET and "\ntask:\n" in self.text

    @property
    def has_mixers(self) -> bool:
        """Return True for a model with layers that have a mixer in place of attention."""
        return re.search(r"^[ -]*mixer:", self.text, re.MULTILINE) is not None


@dataclass(frozen=True)
class Catalogue:
    """What the code says of choices.

    sources: by key, paper and formula, or of a task the formats; of texts nothing. learned: by
    scheme, the number of position parameters.
    reasons: by scheme and by key of a method, why it is not defined for the scheme; empty if it is.
    ending: by scheme, the keys of methods that are defined up to the trained length only.
    as_trained: the schemes of which no layer has full attention, so that it stands for `trained`.
    """

    sources: dict[str, str]
    learned: dict[str, int]
    reasons: dict[str, dict[str, str]]
    ending: dict[str, list[str]]
    as_trained: list[str]

    def to_json(self) -> str:
        """Return the text of catalogue.json; of the reasons only those that say something."""
        reasons = {
            scheme: {key: why for key, why in by_method.items() if why}
            for scheme, by_method in self.reasons.items()
        }
        value = {
            "learned": self.learned,
            "sources": self.sources,
            "reasons": reasons,
            "ending": self.ending,
            "as_trained": self.as_trained,
        }
        return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def joined(self, other: "Catalogue") -> "Catalogue":
        """Return both catalogues as one; other: what is newer."""
        reasons = {
            scheme: self.reasons.get(scheme, {}) | other.reasons.get(scheme, {})
            for scheme in self.reasons | other.reasons
        }
        ending = {
            scheme: [*self.ending.get(scheme, []), *other.ending.get(scheme, [])]
            for scheme in self.ending | other.ending
        }
        return Catalogue(
            self.sources | other.sources,
            self.learned | other.learned,
            reasons,
            ending,
            [*self.as_trained, *other.as_trained],
        )

    def reason(self, scheme: Choice, method: Choice) -> str:
        """Return why a method is not defined for a scheme; empty if it is."""
        return self.reasons[scheme.name].get(method.key, "")

    def ends(self, scheme: Choice, method: Choice) -> bool:
        """Return True if a method is defined for a scheme up to the trained length only."""
        return method.key in self.ending.get(scheme.name, [])


def written_catalogue() -> Catalogue:
    """Return what catalogue.json says of the choices in conf/."""
    value: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return Catalogue(**value)


def read_choices(
    config_folder: Path, folders: list[str], groups: Iterable[str] = GROUPS
) -> list[Choice]:
    """Return every choice of some groups in conf/ and the other folders."""
    choices = []
    places = [config_folder, *map(Path, folders)]
    for group in groups:
        # Of two files of a name Hydra takes that of the first place.
        files: dict[str, Path] = {}
        for folder in (place / group for place in reversed(places)):
            for path in folder.rglob("*.yaml"):
                files[path.relative_to(folder).with_suffix("").as_posix()] = path
        for name, path in sorted(files.items()):
            foreign = not path.is_relative_to(config_folder)
            choices.append(Choice(group, name, read_text(path), foreign))
    return choices
