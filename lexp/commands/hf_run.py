"""`model=hf path=...`: a model from elsewhere as a run of the study, with a folder like any other.

    outputs/<study>/<run>/config.json      kind hf, path, digest of config and weights, sizes
                          tokenizer.json   the model's own
                          done.json        there is nothing to train
                          eval/ ...        as for other runs

The weights stay where they are; they are loaded only if their digest is still that of config.json.
"""

from dataclasses import asdict
from importlib.metadata import version
from itertools import cycle, islice
from typing import Any

import numpy as np

from lexp.config.settings import HF, HfRunConfig, MethodsConfig
from lexp.data import Tokens
from lexp.data.byte_vocabulary import byte_json
from lexp.data.tokenizer import Bytes, Tokenizer, read_subwords, text_digest
from lexp.hf.config import Described, describe
from lexp.hf.general import DescribedGeneral
from lexp.hf.load import fresh_model, load_model, require_transformers, stored_parameters
from lexp.hf.source import Source, find_source
from lexp.model.transformer import Transformer
from lexp.runs.locks import refuse_without_locks
from lexp.runs.run import Run, variant, versions
from lexp.system.errors import CheckpointError, ConfigError, DataError, LexpError
from lexp.system.files import make_folder, write_json
from lexp.system.output import say
from lexp.system.reading import own_file_exists

# What conf/dataset/stdlib.yaml and conf/objective/causal.yaml hold: the text such a model is scored
# on unless dataset= is given, and what it was trained to predict.
DATASET = {"name": "stdlib", "_target_": "lexp.data.stdlib.Stdlib"}
OBJECTIVE = {"name": "causal", "_target_": "lexp.training.objective.CausalLM"}


def register(config: MethodsConfig, computes: str) -> Run:
    """Return the run of the model at config.path; its folder is made at its first use.

    computes: precision and device, to be said with what the model is.
    """
    assert config.path is not None, "checked with model=hf"
    require_transformers()
    source = find_source(config.path)
    described = describe(source)
    if config.position is not None:
        described = described.without_positions()
    tokenizer = read_tokenizer(source)
    train_len = config.train_len or described.train_len
    if train_len is None:
        raise ConfigError(f"path={source.path}: its config has no trained length, give train_len=")
    family, dims = described.config.model_type, described.dims
    n_parameters, kinds = stored_parameters(source)
    say(
        f"{source.name}: model family {family}, {n_parameters / 1e6:.2f}M parameters in "
        f"{' and '.join(kinds)}, {dims.n_layers} layers of width {dims.d_model}, "
        f"{described.vocab_size} tokens in its vocabulary, trained at {train_len} tokens; "
        f"computed in {computes}"
    )
    model: dict[str, Any] = {"name": source.name, "type": family}
    model["sha256"] = source.sha256()
    model |= _patterns(described, source.name)
    if config.position is not None:
        model["position"] = config.position
    settings = {
        "model": model,
        "objective": OBJECTIVE,
        "size": {"name": HF, **asdict(described.dims)},
        "dataset": DATASET,
        "tokenizer": {"name": "own"},
        "name": config.name,
        "outputs": config.outputs,
        "seed": 0,
        "train_len": train_len,
        "path": source.path,
    }
    name = f"{source.name}-{HF}-L{train_len}-{variant(settings)[:6]}"
    run = Run(make_folder(config.study_folder / name))
    refuse_without_locks(config.study_folder)
    tokenizer.save(run.folder)
    _write_config(run, settings, tokenizer.digest, described.vocab_size)
    if not run.is_done:
        run.finish({"kind": HF})
    return run


def _patterns(described: Described | DescribedGeneral, name: str) -> dict[str, Any]:
    """Return the keys of a run's model that say which keys its layers see, and tell the user."""
    windows = described.windows
    nodes = [
        {} if window is None else {"pattern": {"_target_": "lexp.pattern.Window", "window": window}}
        for window in windows
    ]
    if len(windows) == 1:
        if windows[0] is not None:
            say(
                f"{name} uses a sliding window of {windows[0]} tokens: attention=[trained] keeps "
                "it, attention=[full] removes it"
            )
        return nodes[0]
    n_layers = described.dims.n_layers
    local = [w for w in islice(cycle(windows), n_layers) if w is not None]
    say(
        f"{name}: {len(local)} of its {n_layers} layers use a sliding window of {local[0]} tokens "
        "and keep it; attention= changes the others"
    )
    return {"layers": nodes}


def _write_config(run: Run, settings: dict[str, Any], tokenizer: str, n_rows: int) -> None:
    """Write config.json, unless it says the same already.

    tokenizer: its digest. n_rows: of the model's embedding.
    """
    path = run.folder / "config.json"
    # It was trained on texts that nobody has here.
    data = {"fingerprint": "", "tokenizer": tokenizer, "vocab_size": n_rows}
    if own_file_exists(path) and (run.settings, run.data) == (settings, data):
        return
    made_with = {**versions(), "transformers": version("transformers")}
    write_json(
        path,
        {"kind": HF, "settings": settings, "data": data, "precision": "float32",
         "versions": made_with},
    )  # fmt: skip
    run.__dict__.pop("config", None)  # cached


def read_tokenizer(source: Source) -> Tokenizer:
    """Return the model's tokenizer; DataError if it is missing.

    The bytes that `lexp export` writes are bytes again: numbers then compare with the run's own.
    """
    path = source.folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"path={source.path} has no tokenizer.json; transformers writes one: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        )
    vocabulary = read_subwords(path)
    return Bytes() if vocabulary.digest == text_digest(byte_json()) else vocabulary


def refuse_other_ids(run: Run, tokens: Tokens) -> None:
    """Raise DataError if a text has a token that the model of a run has no row for.

    A vocabulary may have more tokens than the model, such as one for padding that no text has.
    """
    n_rows = run.data.get("vocab_size")
    if not isinstance(n_rows, int):
        raise CheckpointError(f"{run.folder}/config.json has no vocab_size")
    beyond = tokens.places(lambda ids: ids >= n_rows)
    if len(beyond):
        document = int(np.searchsorted(tokens.starts, beyond[0], side="right")) - 1
        found = tokens.ids[beyond[:1]][0]
        raise DataError(
            f"{run.name}: document {tokens.names[document]} has token id {found}, "
            f"the model has {n_rows} rows"
        )


def trained_external(run: Run, config: HfRunConfig) -> Transformer:
    """Return the model of a run; CheckpointError if its files are not those of its first use."""
    source, described = _described(run, config)
    if source.sha256() != config.model.sha256:
        raise CheckpointError(
            f"{source.path} is not what {run.name} was scored with (digest differs); "
            "model=hf path= makes a run of it as it is now"
        )
    model = load_model(source, described)
    if run.parameters is None:  # known as soon as its weights were read
        run.finish({"kind": HF, "parameters": sum(p.numel() for p in model.parameters())})
    return model


def fresh_external(run: Run, config: HfRunConfig) -> Transformer:
    """Return the model of a run, freshly initialised from its seed."""
    _, described = _described(run, config)
    return fresh_model(described, config.seed)


def _described(run: Run, config: HfRunConfig) -> tuple[Source, Described | DescribedGeneral]:
    require_transformers()
    try:
        source = find_source(config.path)
        described = describe(source)
        return source, described.without_positions() if config.model.position else described
    except LexpError as error:
        raise CheckpointError(f"{run.name}: {error}") from None
