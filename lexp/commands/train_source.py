"""Where a run starts from: another run's weights, and the extension that it trains them with."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lexp.commands.run_parts import (
    extended_to,
    make_extension,
    make_unextended,
    mixer_notes,
    trunk_notes,
    with_extension,
)
from lexp.commands.select_runs import final_checkpoint, read_config
from lexp.config.hf_folder import (
    dynamic_factor,
    is_hf_folder,
    refuse_hub_name,
    rope_position,
    trained_length,
)
from lexp.config.settings import ModelConfig, Node, TrainConfig
from lexp.data.tokenizer import Tokenizer
from lexp.extension import ByFactor, Extension, Lengths
from lexp.hf.import_weights import lexp_weights
from lexp.hf.source import find_source as find_hf_source
from lexp.model.transformer import Transformer
from lexp.runs import checkpoint
from lexp.runs.find import finished_run
from lexp.runs.run import Run, differences
from lexp.system import runtime
from lexp.system.errors import ConfigError, OutOfMemory


@dataclass(frozen=True)
class HfFolder:
    """A checkpoint of transformers that a run goes on from.

    length: that it was trained at. dynamic: factor of its rope_type dynamic, which it is RoPE
    without; None for another.
    """

    folder: Path
    length: int
    dynamic: float | None


Source = tuple[Run | HfFolder, TrainConfig]


def find_source(settings: TrainConfig) -> Source | None:
    """Return the run to start from and its settings; ConfigError if it is no finished run."""
    if settings.init_from is None:
        return None
    if is_hf_folder(settings.init_from):
        return _hf_folder(settings, settings.init_from)
    refuse_hub_name("init_from", settings.init_from)
    run = finished_run("init_from", settings.init_from)
    config = read_config(run)
    if not isinstance(config, TrainConfig):
        raise ConfigError(
            f"init_from={run.folder}: a model of Hugging Face; name a run of `lexp train`"
        )
    if config.trunk not in (settings.trunk, replace(settings.trunk, qk_norm=None)):
        raise ConfigError(
            f"init_from={run.folder}: trained with trunk={config.trunk.name}, this run has "
            f"trunk={settings.trunk.name} or other values in it; choose the same (only "
            "trunk.qk_norm may be added)"
        )
    there, here = (asdict(replace(one.size, name="")) for one in (config, settings))
    if there != here:
        needed = " ".join(f"size.{key}={value}" for key, value, _ in differences(there, here))
        raise ConfigError(f"init_from={run.folder}: a model of another size; add {needed}")
    return run, config


def _hf_folder(settings: TrainConfig, path: str) -> Source:
    """Return a checkpoint of transformers, and settings of a run that would have it.

    Size and trunk of the present settings are the checkpoint's already (lexp.config.hf_folder).
    """
    length, trunk = trained_length(path), settings.trunk
    position = rope_position(path, settings.size.head_dim)
    model = {"name": "rope", "position": position}
    return HfFolder(Path(path), length, dynamic_factor(path)), replace(
        settings,
        model=ModelConfig(name="rope", position=Node(position)),
        trunk=trunk if trunk.name == "qwen3" else replace(trunk, qk_norm=None),
        train_len=length,
        extended_from=None,
        raw={**settings.raw, "model": model},
    )


def extended(settings: TrainConfig, source: Source | None) -> TrainConfig:
    """Return settings with the length that the extension starts from.

    Where the source was extended itself, that is the source's own: YaRN's model for s = 32 starts
    from the one for s = 16 (Peng et al. 2023). ConfigError for an extension that is not trained
    with, or not with this source or length.
    """
    (key,), extension = settings.extension, make_extension(settings)
    if type(extension) is Extension:
        refuse_left_out(settings, source)
        _refuse_dynamic(settings, source)
        return settings
    name = f"extension={key}"
    if source is None:
        raise ConfigError(
            f"{name}: extends a trained model; name its folder with init_from=, or leave "
            "extension out"
        )
    if not isinstance(extension, ByFactor) or extension.follows_length:
        raise ConfigError(
            f"{name}: is for evaluation; models are trained with one factor for all lengths, as "
            "pi, ntk, ntk_by_parts, yarn and longrope have it unless their factor is length"
        )
    run, config = source
    if config.model.entries != settings.model.entries:
        found = differences(config.raw["model"], settings.raw["model"], "model")
        named = [one for one in found if one[0] == "model.name"]
        shown = ", ".join(f"{where}={there}, here {here}" for where, there, here in named or found)
        raise ConfigError(
            f"{name}: extends the scheme of init_from={run.folder}, which has {shown}; give the "
            "same model"
        )
    first = config.extended_from or config.train_len
    if (longest := extended_to(settings)) <= first:
        raise ConfigError(
            f"{name}: train_len={longest} is not longer than the {first} tokens of "
            f"init_from={run.folder}; raise train_len, or leave extension out"
        )
    return replace(settings, extended_from=first)


def extension_note(settings: TrainConfig) -> list[str]:
    """Return a line that says how far the model is extended; none without an extension."""
    first, extension = settings.extended_from, make_extension(settings)
    if first is None or not isinstance(extension, ByFactor):
        return []
    longest = extended_to(settings)
    factor = extension.factor_for(Lengths(first, longest, longest))
    return [f"extension={extension.name}: from {first} to {longest} tokens with factor {factor:g}"]


def refuse_left_out(settings: TrainConfig, source: Source | None) -> None:
    """Raise ConfigError if the source's scheme would go on without its extension."""
    if source is None or source[1].extended_from is None:
        return
    run, config = source
    if config.model.entries == settings.model.entries:
        (key,) = config.extension
        raise ConfigError(
            f"init_from={run.folder}: was trained with extension={key}; give extension={key}, or "
            "another extension, to go on with it"
        )


def _refuse_dynamic(settings: TrainConfig, source: Source | None) -> None:
    """Raise ConfigError for windows whose frequencies would be others for each length."""
    if source is None or not isinstance(source[0], HfFolder):
        return
    folder = source[0]
    is_same = source[1].model.entries == settings.model.entries
    if is_same and folder.dynamic is not None and extended_to(settings) > folder.length:
        raise ConfigError(
            f"init_from={folder.folder}: rope_type=dynamic has other frequencies at each length "
            f"beyond {folder.length} tokens; give an extension, or train_len={folder.length}"
        )


def make_first(
    settings: TrainConfig, tokenizer: Tokenizer, device: torch.device
) -> tuple[Transformer, dict[str, Any], list[str]]:
    """Return the model of a run's first step, what is recorded of its start, and lines to print."""
    torch.manual_seed(settings.seed)
    model = _new_model(settings, tokenizer.vocab_size, device)
    notes, start = [*trunk_notes(settings, model), *mixer_notes(model, device)], dict[str, Any]()
    if source := find_source(settings):
        start["init_from"], fresh = start_from(source, settings, model, tokenizer.digest)
        notes += fresh
    if settings.extended_from is not None:
        start["extended_from"] = settings.extended_from
    return with_extension(model, settings), start, [*notes, *extension_note(settings)]


def _new_model(settings: TrainConfig, vocab_size: int, device: torch.device) -> Transformer:
    """Return the model of a run; OutOfMemory if its weights alone do not fit."""
    model, missing = runtime.catch_out_of_memory(
        lambda: make_unextended(settings, vocab_size).to(device)
    )
    if model is None:
        size = settings.size
        of = "" if settings.init_from is None else f" (of init_from={settings.init_from})"
        raise OutOfMemory(
            f"size={size.name}{of} has n_layers={size.n_layers}, d_model={size.d_model}, "
            f"d_ff={size.d_ff}: {missing}; choose a smaller model"
        )
    return model


def start_from(
    source: Source, settings: TrainConfig, model: Transformer, tokenizer: str
) -> tuple[str, list[str]]:
    """Give a model without extension another run's weights, its scheme's too if it is the same.

    Returns their digest, and lines that name the parameters that start afresh: those of another
    scheme, and of a QK-norm that the source lacks (DroPE).
    """
    run, config = source
    if isinstance(run, HfFolder):
        return _start_from_folder(run, config, settings, model)
    if run.tokenizer_digest != tokenizer:
        raise ConfigError(
            f"init_from={run.folder}: trained with another vocabulary; give its texts and "
            f"vocabulary: dataset={config.dataset.name} tokenizer={config.tokenizer.name}"
        )
    latest = final_checkpoint(run)
    kept, lines = qk_norm_that_starts(source, settings)
    if config.model.entries == settings.model.entries:
        # An extension names parameters its own way; it shares them with the model.
        checkpoint.load_model(latest, with_extension(model, config), kept)
        return latest.model_sha256, lines
    checkpoint.load_model(latest, model, kept | {"positions"})
    # Without the layer's number.
    fresh = dict.fromkeys(n.partition(".")[2] for n, _ in model.positions.named_parameters())
    line = (
        f"init_from={run.folder}: its scheme, or a value in it, is not that of "
        f"model={settings.model.name}; parameters of the scheme that start afresh: "
        f"{', '.join(fresh)}"
    )
    return latest.model_sha256, [*lines, *([line] if fresh else [])]


def qk_norm_that_starts(source: Source, settings: TrainConfig) -> tuple[set[str], list[str]]:
    """Return the name of the QK-norm that a source lacks, and a line that says so; or nothing."""
    run, config = source
    if config.trunk == settings.trunk:
        return set(), []
    return {"qk_norm"}, [
        f"init_from={run.folder}: has no QK-norm; here it starts with weights of 1"
    ]


def _start_from_folder(
    source: HfFolder, config: TrainConfig, settings: TrainConfig, model: Transformer
) -> tuple[str, list[str]]:
    """Give a model the weights of a checkpoint of transformers; see start_from."""
    found = find_hf_source(str(source.folder))
    weights = lexp_weights(
        found, model.dims, model.embedding.num_embeddings, config.trunk.qk_norm is not None
    )
    kept, lines = qk_norm_that_starts((source, config), settings)
    checkpoint.fill(model, weights, source.folder, kept | {"positions"})
    line = (
        f"init_from={source.folder}: size, trunk and vocabulary are those of this checkpoint, "
        f"trained at {source.length} tokens"
    )
    position = config.model.position
    scaling = position.values.get("scaling") if position else None
    if scaling and config.model.entries == settings.model.entries:
        line += f"; its frequencies stay scaled ({scaling['rope_type']})"
    if source.dynamic is not None and config.model.entries == settings.model.entries:
        line += (
            "; its rope_type=dynamic is RoPE up to there, and beyond "
            f"extension=[dynamic_ntk] extension.dynamic_ntk.factor={source.dynamic:g}"
        )
    return found.sha256(), [line, *lines]
