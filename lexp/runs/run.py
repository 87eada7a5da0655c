"""Run folders and the studies they form: names, configs, what tells variants apart.

    outputs/<study>/<run>/config.json     every value it was started with, data digests, versions
                          tokenizer.json  the vocabulary, unless it is bytes
                          metrics.jsonl   one line per step and per validation
                          checkpoints/    the newest two, the last one being the result
                          done.json       there when training is complete
                          status.json     how far it is, or what became of it
                          eval/           results of `lexp eval` with their per-token losses
                          probes/         results of `lexp probe` with the scores of examples
                          analysis/       measurements of `lexp analyze`
                          finetune/       results of `lexp finetune`

Settings are JSON, not YAML, because they are read back from folders that may be somebody else's.
"""

import json
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lexp import __version__
from lexp.runs.spelling import PATHS, one_spelling
from lexp.runs.usual import GPT, NO_EXTENSION, extension_name, reading_name, without_usual
from lexp.system.errors import CheckpointError
from lexp.system.files import digest, make_folder, write_json
from lexp.system.links import refuse_links
from lexp.system.output import warn
from lexp.system.reading import own_file_exists, read_own

GROUPS = ("model", "size", "dataset", "tokenizer")
LEXP = "lexp"
CAUSAL = "causal"
TRAINED_ON = "trained_on"
PARTS = ("model.position.", "model.layers.", "model.mixer.")  # they follow the size
# What a run's results do not depend on: not part of its name, free to differ when it is resumed.
NOT_IDENTITY = (
    "name", "outputs", "wandb", "tensorboard", "save_every", "keep", "eval_every",
    "eval_tokens", "device", "path", "parallel", "recompute_layers", "stall_min", "profile_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training run's folder."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return the config of the run's start; CheckpointError if it is not readable JSON."""
        return _read_config(self.folder / "config.json")

    @property
    def is_done(self) -> bool:
        """Return True if training is complete: marked so, and its checkpoint is there.

        CheckpointError for a link in place of the mark.
        """
        return self.is_marked and not self.problem

    @property
    def is_marked(self) -> bool:
        """Return True if training was complete once; CheckpointError for a link in its place."""
        return own_file_exists(self.folder / "done.json")

    @property
    def problem(self) -> str:
        """Say why a run that is marked as done is not, or ""; CheckpointError for a link."""
        refuse_links(self.checkpoints, CheckpointError)
        if any(self.checkpoints.glob("step-*")):
            return ""
        try:
            if self.kind != LEXP:  # its weights are elsewhere
                return ""
        except CheckpointError:
            pass  # said where the config is read
        return "done.json is there and no checkpoint; delete done.json to train it again"

    @property
    def kind(self) -> str:
        """Return the source of the model: lexp, or hf for Hugging Face."""
        return str(self.config.get("kind", LEXP))

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return self.folder.name

    @property
    def settings(self) -> dict[str, Any]:
        """Return the values of `lexp train` as composed; lexp.commands makes them a TrainConfig."""
        return self.config["settings"]

    @property
    def made_of(self) -> dict[str, Any]:
        """Return the settings, with digests of what stood behind their names while it was trained.

        Runs of one variant are equal in both but for the seed.
        """
        return {**self.settings, TRAINED_ON: digests_of(self.data)}

    @property
    def data(self) -> dict[str, Any]:
        """Return digests of its texts and its tokenizer, among others."""
        return self.config["data"]

    @property
    def fingerprint(self) -> str:
        """Return the digest of the texts it was trained on."""
        return self.data["fingerprint"]

    @property
    def tokenizer_digest(self) -> str:
        """Return the digest of its tokenizer."""
        return self.data["tokenizer"]

    @property
    def extended_from(self) -> int | None:
        """Return the train_len from which it was extended; None if it was not."""
        return self.data.get("extended_from")

    @property
    def parameters(self) -> int | None:
        """Return the number of parameters; None if its done.json does not say."""
        try:
            count = json.loads(read_own(self.folder / "done.json"))["parameters"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return count if isinstance(count, int) and count > 0 else None

    @property
    def checkpoints(self) -> Path:
        """Return the folder of checkpoints."""
        return self.folder / "checkpoints"

    def weights(self, step: int | None) -> str:
        """Return the digest of the weights at a step, None for the last; "" where it is not known.

        As the manifest of the checkpoint has it: the weights themselves are not read.
        """
        try:
            if step is None:
                step = int(json.loads(read_own(self.folder / "done.json"))["step"])
            manifest = json.loads(read_own(self.checkpoints / f"step-{step:08d}" / "manifest.json"))
            return str(manifest["files"]["model.safetensors"]["sha256"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return ""

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark training as complete."""
        write_json(self.folder / "done.json", summary)


def run_name(settings: dict[str, Any]) -> str:
    """Return a run's name: its choices, and a short hash of all that its results depend on."""
    choices = [settings[group]["name"] for group in GROUPS[:3]]
    if settings["objective"]["name"] != CAUSAL:
        choices.insert(1, settings["objective"]["name"])
    if settings["trunk"]["name"] != GPT["name"]:
        choices.insert(1, settings["trunk"]["name"])
    if (extension := extension_name(settings)) != NO_EXTENSION:
        choices.insert(1, extension)
    place = [f"L{settings['train_len']}", f"s{settings['seed']}", digest(_identity(settings))[:6]]
    return "-".join(choices + place)


def run_folder(study: Path, settings: dict[str, Any]) -> Path:
    """Return the folder of the run of these settings."""
    return study / run_name(settings)


def digests_of(data: dict[str, Any]) -> dict[str, Any]:
    """Return the starts of the digests in a run's `data`."""
    return {
        "text": data["fingerprint"][:8], "vocabulary": data["tokenizer"][:8],
        "weights": str(data.get("init_from", ""))[:8],
        "code": {name: code[:8] for name, code in data.get("code", {}).items()},
    }  # fmt: skip


def variant(settings: dict[str, Any]) -> str:
    """Return a short hash of all that a run's results depend on but its seed.

    settings: of a run to be trained, or `made_of` of one that was.
    """
    identity = _identity(settings)
    if TRAINED_ON in identity:  # what was read decides, wherever it lay and whatever its name was
        identity = _without(identity, PATHS)
    return digest({k: v for k, v in identity.items() if k != "seed"})[:8]


def variant_notes(all_settings: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return, by variant, what tells it from others of the same model, such as `gamma=0.1`.

    all_settings: of runs to be trained, or `made_of` those that were. No two variants of a model
    have the same note: where no value tells them apart, their hashes do.
    """
    settings = {variant(of_run): of_run for of_run in all_settings}
    flat = {name: _telling(values) for name, values in settings.items()}
    briefly = {}
    for name, values in flat.items():
        rivals = [other for other in flat.values() if other["model"] == values["model"]]
        keys = _differing(values, rivals)
        # A choice's name stands for all that it sets,
        choices = set(keys) & {*GROUPS, "objective", "trunk", "extension", "reading"}
        keys = [k for k in keys if k in choices or k.split(".")[0] not in choices]
        briefly[name] = _words(values, keys)
    alike: dict[tuple[str, str], list[str]] = {}
    for name, note in briefly.items():
        alike.setdefault((flat[name]["model"], note), []).append(name)
    whole = {name: dict(_flat(_identity(values))) for name, values in settings.items()}
    notes = {}
    for name, note in briefly.items():
        # unless some of that was changed: then every value stands there.
        others = [whole[other] for other in alike[flat[name]["model"], note]]
        keys = [key for key in _differing(whole[name], others) if key != "seed"]
        notes[name] = ", ".join(filter(None, (note, _words(whole[name], keys))))
    taken = Counter((flat[name]["model"], note) for name, note in notes.items())
    return {
        name: f"{note} {name}".lstrip() if taken[flat[name]["model"], note] > 1 else note
        for name, note in notes.items()
    }


def run_notes(runs: list[Run]) -> dict[str, str]:
    """Return, by run, the note of its variant among these runs."""
    notes = variant_notes(run.made_of for run in runs)
    return {run.name: notes[variant(run.made_of)] for run in runs}


def _differing(values: dict[str, Any], others: list[dict[str, Any]]) -> list[str]:
    """Return the keys under which any of the others has another value."""
    return [
        key
        for key, value in values.items()
        if any(key not in other or _text(other[key]) != _text(value) for other in others)
    ]


def _text(value: Any) -> str:
    # As digests see it: 1, true and "1" are three values.
    return json.dumps(value, sort_keys=True)


def _words(flat: dict[str, Any], keys: list[str]) -> str:
    """Return keys with their values, by their last word where it is unambiguous."""
    values: dict[str, set[str]] = {}
    for key in keys:
        values.setdefault(key.split(".")[-1], set()).add(str(flat[key]))
    short = {key: key.split(".")[-1] for key in keys}
    words = [f"{n if len(values[n]) == 1 else key}={flat[key]}" for key, n in short.items()]
    return ", ".join(dict.fromkeys(words))


def _telling(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name, choices first, without the seed and what a size sets."""
    groups = [*GROUPS, "objective", *(["trunk"] if "trunk" in settings else [])]
    choices = {group: settings[group]["name"] for group in groups}
    choices["extension"] = extension_name(settings)
    choices["reading"] = reading_name(settings)
    sizes = {"max_len", *settings["size"]}
    rest = {
        key: value
        for key, value in _flat(_identity(settings))
        if key != "seed"
        and not key.startswith(f"{TRAINED_ON}.")
        and not key.endswith(".name")
        and not (key.startswith(PARTS) and key.split(".")[-1] in sizes)
        and not (key in sizes and value == settings["size"][key])
    }
    return {**choices, **rest}


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves by dotted name; lists of parts, such as a model's layers, by number."""
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}".lstrip("."))
    else:
        yield key, value


def open_run(folder: Path, settings: dict[str, Any], data: dict[str, Any], precision: str) -> Run:
    """Make the folder, or find it again; CheckpointError names every value that differs now.

    data: digests of corpus and tokenizer. precision: the one in use, where settings say auto. What
    has saved nothing yet starts anew: an own scheme that failed in its first step was mended since.
    """
    run = Run(make_folder(folder))
    path = folder / "config.json"
    config = {"settings": settings, "data": data, "precision": precision, "versions": versions()}
    if not own_file_exists(path):
        write_json(path, config)
        return run
    then = {**_identity(run.settings), **run.config["data"], "precision": run.config["precision"]}
    now = {**_identity(settings), **data, "precision": precision}
    different = differences(then, now)
    if different and not run.checkpoints.exists() and not run.is_marked:
        write_json(path, config)
    elif different:
        raise CheckpointError(
            f"{folder} was started with other settings; choose another name= or delete it: "
            + "; ".join(f"{key}: {_brief(a)} then, {_brief(b)} now" for key, a, b in different)
        )
    return run


def _brief(value: Any) -> Any:
    return value[:8] if re.fullmatch("[0-9a-f]{64}", str(value)) else value  # a digest


def warn_of_other_versions(run: Run) -> None:
    """Warn if a run was started with other versions: bits may differ from then on."""
    then, now = run.config.get("versions", {}), versions()
    other = [
        f"{name} {then.get(name)} then, {now[name]} now"
        for name in now
        if then.get(name) != now[name]
    ]
    if other:
        warn(
            f"{run.name} goes on with other versions, exactness is not promised: "
            + "; ".join(other),
            stacklevel=2,
        )


def versions() -> dict[str, str]:
    """Return the versions that exactness depends on besides the settings."""
    import torch

    return {"lexp": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_own(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None
    wanted = {"settings": dict, "data": dict, "precision": str, "versions": dict}
    if not (
        isinstance(value, dict)
        and all(isinstance(value.get(key), kind) for key, kind in wanted.items())
        and all(isinstance(value["data"].get(key), str) for key in ("fingerprint", "tokenizer"))
        and _is_code(value["data"].get("code", {}))
        and value["data"].get("extended_from", 1) in range(1, 1 << 24)
    ):
        raise CheckpointError(f"{path} is not the config of a run")
    return value


def _is_code(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(code, str) for code in value.values())


def _identity(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the settings that a run's results depend on."""
    identity = without_usual(
        {key: value for key, value in settings.items() if key not in NOT_IDENTITY}
    )
    if settings["objective"]["name"] == CAUSAL:
        del identity["objective"]
    return one_spelling(identity)


def _without(value: dict[str, Any], keys: tuple[str, ...], key: str = "") -> dict[str, Any]:
    """Return nested settings without the values of some dotted keys."""
    kept = {name: inner for name, inner in value.items() if f"{key}{name}" not in keys}
    return {
        name: _without(inner, keys, f"{key}{name}.") if isinstance(inner, dict) else inner
        for name, inner in kept.items()
    }


def differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Return each key under which nested values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [
            row
            for name in names
            for row in differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if old == new else [(key, old, new)]
