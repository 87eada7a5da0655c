"""`model=hf path=...`: a model from elsewhere as a run of the study, with a folder like any other.

    outputs/<study>/<run>/config.json      kind hf, path, digest of config and weights, sizes
                          tokenizer.json   the model's own
                          done.json        there is nothing to train
                          eval/ ...        as for other runs

The weights stay where they are; they are loaded only if their digest is still that of config.json.
"""

import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lexp.config.validation import MAX_LENGTH
from lexp.data.tokenizer import Subwords, read_subwords
from lexp.hf import (
    Described,
    Source,
    describe,
    find_source,
    fresh_model,
    load_model,
    require_transformers,
)
from lexp.model.transformer import Dims, Transformer
from lexp.runs.run import Run, variant, versions
from lexp.system.errors import CheckpointError, ConfigError, DataError, LexpError
from lexp.system.files import make_folder, write_json

KIND = "hf"
# What conf/dataset/stdlib.yaml holds: the text such a model is scored on unless dataset= is given.
DATASET = {"name": "stdlib", "_target_": "lexp.data.stdlib.Stdlib"}


def register(study: Path, settings: dict[str, Any]) -> Run:
    """The run of the model at settings["path"], its folder made if this is its first use."""
    require_transformers()
    source = find_source(settings["path"])
    described = describe(source)
    tokenizer = read_tokenizer(source, described)
    train_len = settings["train_len"] or described.train_len
    if train_len is None:
        raise ConfigError(f"path={source.path}: its config has no trained length, give train_len=")
    model: dict[str, Any] = {"name": source.name, "type": described.config.model_type}
    model["sha256"] = source.sha256()
    if described.window is not None:
        model["pattern"] = {"_target_": "lexp.pattern.Window", "window": described.window}
        print(
            f"{source.name} sees its last {described.window} tokens by itself: that is "
            "attention=[trained], full is all of them",
            file=sys.stderr,
        )
    own = {
        "model": model,
        "size": {"name": KIND, **asdict(described.dims)},
        "dataset": DATASET,
        "tokenizer": {"name": "own"},
        "name": settings["name"],
        "outputs": settings["outputs"],
        "seed": 0,
        "train_len": train_len,
        "path": source.path,
    }
    name = f"{source.name}-{KIND}-L{train_len}-{variant(own)[:6]}"
    run = Run(make_folder(study / name))
    tokenizer.save(run.folder)
    _write_config(run, own, tokenizer.digest)
    if not run.is_done:
        run.finish({"kind": KIND})
    return run


def _write_config(run: Run, own: dict[str, Any], tokenizer: str) -> None:
    """config.json, unless it says the same already."""
    path = run.folder / "config.json"
    data = {"fingerprint": "", "tokenizer": tokenizer}  # trained on texts that nobody has here
    if path.exists() and (run.config["settings"], run.config["data"]) == (own, data):
        return
    made_with = {**versions(), "transformers": version("transformers")}
    write_json(
        path,
        {"kind": KIND, "settings": own, "data": data, "precision": "float32",
         "versions": made_with},
    )  # fmt: skip
    run.__dict__.pop("config", None)  # cached


def check_external(run: Run) -> None:
    """CheckpointError if the config of a folder, somebody else's or edited, is not allowed."""
    settings = run.settings
    try:
        model, size = settings["model"], settings["size"]
        Dims(**{key: value for key, value in size.items() if key != "name"})
        words = [settings["path"], *(settings[g]["name"] for g in ("size", "dataset", "tokenizer"))]
        words += [model[key] for key in ("name", "type", "sha256")]
        train_len, seed = settings["train_len"], settings["seed"]
        if not all(isinstance(word, str) for word in words) or type(seed) is not int:
            raise ValueError("path, names, type and sha256 are words, seed is a number")
        if type(train_len) is not int or not 1 <= train_len <= MAX_LENGTH:
            raise ValueError(f"train_len={train_len}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{run.folder}/config.json is not allowed: {error!r}") from None


def read_tokenizer(source: Source, described: Described) -> Subwords:
    """The model's own vocabulary; DataError if there is none or the model has no row for an id."""
    path = source.folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"path={source.path} has no tokenizer.json; transformers writes one: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        )
    tokenizer = read_subwords(path)
    if (most := largest_id(path.read_text(encoding="utf-8"))) >= described.vocab_size:
        raise DataError(f"{path} has ids up to {most}, the model has {described.vocab_size} rows")
    return tokenizer


def largest_id(json_text: str) -> int:
    """The largest id that a tokenizer.json can give."""
    value = json.loads(json_text)
    vocab = value["model"]["vocab"]
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    return max([*ids, *(token["id"] for token in value.get("added_tokens") or [])])


def trained_external(run: Run) -> Transformer:
    """The model of a run's folder; CheckpointError if the files are not those of then."""
    source, described = _described(run)
    if source.sha256() != run.settings["model"]["sha256"]:
        raise CheckpointError(
            f"{source.path} is not what {run.name} was scored with (digest differs); "
            "model=hf path= makes a run of it as it is now"
        )
    return load_model(source, described)


def fresh_external(run: Run) -> Transformer:
    """The model of a run's folder, freshly initialised from its seed."""
    _, described = _described(run)
    return fresh_model(described, run.settings["seed"])


def _described(run: Run) -> tuple[Source, Described]:
    require_transformers()
    try:
        source = find_source(run.settings["path"])
        return source, describe(source)
    except LexpError as error:
        raise CheckpointError(f"{run.name}: {error}") from None
