"""A study file: what a paper claims, and the lexp commands that put it to the test, by scale.

    name, claim, source           what is claimed, and where
    expected                      printed numbers, see lexp.report.expected
    deviations                    where this is not what the paper did
    scales.SCALE.time, flops      how long it takes; FLOPs a second that `time` of a plan assumes
    scales.SCALE.results          a CSV file whose runs are not trained again, see results_file.py
    scales.SCALE.train ...        stages: lists of values for `lexp train`, eval, ..., report

In a train stage a list is a sweep (every combination is a run), and `model: glob(*)` lists all
files of conf/model, `glob(*, exclude=[NAME, ...])` all but some; elsewhere a list is a list.
"""

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lexp.config.folders import choices_like
from lexp.config.settings import StudyConfig
from lexp.config.validation import read_study
from lexp.system.errors import ConfigError
from lexp.system.files import config_folder

COMMANDS = ("train", "eval", "probe", "analyze", "report")
# What decides where everything is written: set once for a study, never by a stage.
OF_THE_STUDY = ("name", "outputs", "hydra", "_global_")
KEYS = ("name", "claim", "source", "expected", "deviations", "scales")
SCALE_KEYS = ("time", "flops", "deviations", "expected", "results", *COMMANDS)

LISTS = ("deviations", "expected", *COMMANDS)

Values = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A lexp command and its values; number counts from 1 within the study."""

    number: int
    command: str
    values: Values

    def words(self) -> list[str]:
        """Return the overrides, as `lexp COMMAND` takes them."""
        return [self._word(key, value, True) for key, value in self.values.items()]

    def jobs(self) -> list[list[str]]:
        """Return the overrides of each job: of a train stage, every combination of its lists."""
        if self.command != "train":
            return [self.words()]
        axes = [value if isinstance(value, list) else [value] for value in self.values.values()]
        return [
            [self._word(key, value, False) for key, value in zip(self.values, chosen, strict=True)]
            for chosen in itertools.product(*axes)
        ]

    def _word(self, key: str, value: Any, sweep: bool) -> str:
        if self.command == "train" and sweep and isinstance(value, list):
            return f"{key}={','.join(map(spelled, value))}"
        return f"{key}={spelled(value)}"


@dataclass(frozen=True)
class Study:
    """A study at one scale.

    time: in words. flops: FLOPs a second of the device it is meant for. results: its results file,
    or None.
    """

    name: str
    scale: str
    claim: str
    source: str
    time: str
    flops: float | None
    results: str | None
    expected: tuple[Any, ...]
    deviations: tuple[str, ...]
    stages: tuple[Stage, ...]


def read_study_file(config: DictConfig) -> tuple[StudyConfig, Study]:
    """Return the settings of `lexp study` and the study of its file; ConfigError if one is bad."""
    if OmegaConf.is_missing(config, "study"):
        there = sorted(path.stem for path in (config_folder() / "study").glob("*.yaml"))
        raise ConfigError(f"study= is missing; there are {', '.join(there)}")
    settings = read_study(config)
    return settings, parse_study(settings)


def parse_study(settings: StudyConfig) -> Study:
    """Read a study file; ConfigError names what is missing, unknown or not allowed."""
    node = settings.study
    if not isinstance(node, dict) or set(KEYS) - {"expected", "deviations"} - set(node):
        raise ConfigError(f"study: a study file has {', '.join(KEYS)}")
    _refuse_unknown(node, KEYS, f"study {node['name']}")
    scales, scale = node["scales"], settings.scale
    where = f"study {node['name']}"
    _refuse_other_types(node, where)
    if not isinstance(scales, dict) or scale not in scales:
        there = ", ".join(map(str, scales)) if isinstance(scales, dict) and scales else "none"
        raise ConfigError(f"scale={scale}: {where} has {there}")
    at_scale = {} if scales[scale] is None else scales[scale]
    where = f"{where}, scale {scale}"
    if not isinstance(at_scale, dict):
        raise ConfigError(f"{where}: {at_scale!r}: expected lines of KEY: VALUE")
    _refuse_unknown(at_scale, SCALE_KEYS, where)
    _refuse_other_types(at_scale, where)
    stages: list[Stage] = []
    for command in COMMANDS:
        for values in at_scale.get(command) or ([{}] if command == "report" else []):
            if not isinstance(values, dict):
                raise ConfigError(
                    f"study {node['name']}, {scale}, {command}: {values!r} are no values"
                )
            stage_values = _with_settings(command, values, settings)
            if command == "train":
                stage_values = {k: expanded(k, value) for k, value in stage_values.items()}
            empty = [
                key for key, value in stage_values.items() if command == "train" and value == []
            ]
            if empty:
                raise ConfigError(f"train: {empty[0]}=[] (at least one value)")
            stages.append(Stage(len(stages) + 1, command, stage_values))
    return Study(
        node["name"], scale, str(node["claim"]).strip(), str(node["source"]).strip(),
        str(at_scale.get("time", "")), at_scale.get("flops"), at_scale.get("results"),
        tuple(at_scale.get("expected", node.get("expected")) or ()),
        (*(node.get("deviations") or ()), *(at_scale.get("deviations") or ())), tuple(stages),
    )  # fmt: skip


def expanded(key: str, value: Any) -> Any:
    """Return the choices that `glob(PATTERN)` stands for, and any other value as it is."""
    text = value if isinstance(value, str) else ""
    glob = re.fullmatch(r"glob\(([^,]+)(?:, *exclude=\[([^]]+)\])?\)", text)
    if glob is None:
        return value
    left_out = re.split(", *", glob[2] or "")
    return [name for name in choices_like(key, glob[1]) if name not in left_out]


def _with_settings(command: str, values: Values, settings: StudyConfig) -> Values:
    """Return the values of a stage with what the command line says for all stages."""
    for key in (*values, *settings.overrides[command]):
        _check_key(command, key)
    merged: Values = {"name": settings.name, "outputs": settings.outputs, **values}
    for group, node in (("dataset", settings.dataset), ("tokenizer", settings.tokenizer)):
        if node is not None:
            # Evaluation and the like take each run's own, which is then this one.
            merged = {k: v for k, v in merged.items() if k.split(".")[0] != group}
            merged |= _choice(group, node.values) if command == "train" else {}
    if command != "report":
        merged["device"] = settings.device
    if command not in ("report", "analyze"):
        merged["precision"] = settings.precision
    return merged | settings.overrides[command]


def _check_key(command: str, key: Any) -> None:
    """Raise ConfigError for a key that no stage can set, in any spelling of Hydra."""
    if not isinstance(key, str) or not re.fullmatch(r"(\+{1,2}|~)?[A-Za-z_][\w./@:-]*", key):
        raise ConfigError(f"{command}: {key!r} is no key; write one such as train_len")
    for path in re.split("[@:]", key.lstrip("+~")):
        if re.split("[./]", path)[0] in OF_THE_STUDY:
            raise ConfigError(
                f"{command}: {key}= cannot be set by a stage: a study writes to one folder; "
                "remove it, or type name= and outputs= for the whole study"
            )


def _choice(group: str, node: Values) -> Values:
    """Return a composed choice as the values that lead to it; a list stays a list, not a sweep."""
    rest = {
        f"{group}.{key}": [value] if isinstance(value, list) else value
        for key, value in node.items()
        if key not in ("name", "_target_")
    }
    return {group: node["name"], **rest}


def _refuse_unknown(node: Values, allowed: tuple[str, ...], where: str) -> None:
    for key in node:
        if key not in allowed:
            raise ConfigError(f"{where}: no key {key!r}; there are {', '.join(allowed)}")


def _refuse_other_types(node: Values, where: str) -> None:
    """Raise ConfigError for a value of a study file, or of a scale, that is of another type."""
    for key in LISTS:
        if not isinstance(node.get(key), list | None):
            raise ConfigError(f"{where}: {key}: {node[key]!r}: expected a list, each item after -")
    for words in node.get("deviations") or ():
        if not isinstance(words, str):
            raise ConfigError(f"{where}: deviations: {words!r}: expected text; put it in quotes")
    flops = node.get("flops")
    if flops is not None and not (type(flops) in (int, float) and 0 < flops < math.inf):
        raise ConfigError(f"{where}: flops: {flops!r}: expected a number above 0, such as 1.0e12")
    results = node.get("results")
    if results is not None and not (isinstance(results, str) and results.endswith(".csv")):
        raise ConfigError(
            f"{where}: results: {results!r}: expected a .csv file, or null: no results file"
        )


def spelled(value: Any) -> str:
    """Return a value in Hydra's grammar of overrides, quoted where it has to be."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(spelled, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{spelled(inner)}" for key, inner in value.items()) + "}"
    text = str(value)
    if text and all(c.isalnum() or c in "_-./" for c in text) and not _is_other(text):
        return text
    if "\\" in text:
        raise ConfigError(f"{text!r}: a backslash cannot be handed on to a study's stages")
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def _is_other(text: str) -> bool:
    """Return True if Hydra would not read the word as text."""
    if text.lower() in ("null", "true", "false", "nan", "inf"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
