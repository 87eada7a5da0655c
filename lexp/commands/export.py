"""The command `lexp export`."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lexp.commands.load_runs import check_code, load_run_tokenizer, source_of, with_weights
from lexp.commands.run_parts import (
    extended_to,
    make_extension,
    make_unextended,
    training_pattern,
)
from lexp.commands.select_runs import read_config
from lexp.config.settings import ExportConfig, TrainConfig
from lexp.config.validation import read_export
from lexp.data.byte_vocabulary import byte_json
from lexp.data.tokenizer import Bytes, Tokenizer
from lexp.evaluate.prepare import refuse_second
from lexp.extension import ByFactor, Extension, Lengths, YaRN
from lexp.hf.export import ExportFacts, save
from lexp.hf.export_positions import rotation_of
from lexp.hf.export_rotary import Interpolation
from lexp.hf.load import require_transformers
from lexp.model.transformer import Transformer
from lexp.pattern import Full, NoAttention
from lexp.report.model_card import CardFacts, longest_evaluated, model_card
from lexp.runs.find import finished_run, folder_to_fill, refuse_among_runs
from lexp.runs.run import Run
from lexp.system.errors import ConfigError, NotDefined
from lexp.system.files import (
    make_folder,
    new_folder,
    publish,
    storage,
    sync_file,
    write_json,
    write_text,
)
from lexp.system.output import say
from lexp.system.reading import read_own


@dataclass(frozen=True)
class ExportPlan:
    """The plan of an export. extension: of rotary positions. length: tokens of context."""

    run: Run
    run_config: TrainConfig
    folder: Path
    extension: Extension
    length: int


def check(config: DictConfig) -> ExportPlan:
    """Return the plan; ConfigError before any work if a value is not allowed."""
    settings = read_export(config)
    run = finished_run("run", settings.run)
    folder = folder_to_fill("to", settings.to)
    refuse_among_runs("to", folder)
    run_config = read_config(run)
    if not isinstance(run_config, TrainConfig):
        raise ConfigError(
            f"run={run.folder}: its model is one of transformers already; use {run_config.path}"
        )
    _refuse_other_patterns(run, run_config)
    ((key, node),) = settings.extension.items()
    extension = node.build(Extension, f"extension.{key}")
    length = settings.length or max(run_config.train_len, longest_evaluated(run))
    _check_length(settings, run_config, extension, length)
    return ExportPlan(run, run_config, folder, extension, length)


def _refuse_other_patterns(run: Run, config: TrainConfig) -> None:
    """Raise ConfigError for layers that see other keys than all earlier ones."""
    # What layers without attention are is said where weights are written.
    seen = [p for p in training_pattern(config).turns if not isinstance(p, NoAttention)]
    others = [pattern for pattern in seen if type(pattern) is not Full]
    if others:
        raise ConfigError(
            f"run={run.folder}: trained with {others[0].label} attention; export takes models "
            "trained with full causal attention in every layer"
        )


def _check_length(
    settings: ExportConfig, config: TrainConfig, extension: Extension, length: int
) -> None:
    """Raise ConfigError for a length or an extension that a config cannot hold."""
    (key,) = settings.extension
    if length < config.train_len:
        raise ConfigError(f"length={length}: at least the run's train_len={config.train_len}")
    if type(extension) is Extension:
        return
    if not isinstance(extension, ByFactor) or extension.follows_length:
        raise ConfigError(
            f"extension={key}: a config holds one change for texts of all lengths: pi, ntk, yarn, "
            "ntk_by_parts or longrope with one factor"
        )
    if extension.factor is None and not settings.length:
        raise ConfigError(
            f"extension={key}: give length=, the longest context in tokens, from which its factor "
            "follows"
        )


def export(config: DictConfig) -> None:
    """Write a run as a folder of transformers and print the command that uploads it."""
    plan = check(config)
    require_transformers()
    run, run_config = plan.run, plan.run_config
    check_code(run, run_config)
    tokenizer = load_run_tokenizer(run)
    model, _ = with_weights(run, run_config, tokenizer)
    try:
        extended, made_by = _extended(model, plan)
        facts = ExportFacts(run_config.train_len, plan.length, tokenizer.end, made_by)
        make_folder(plan.folder.parent)
        with new_folder(plan.folder) as temporary:
            model_class = save(extended, facts, temporary)
            write_tokenizer(tokenizer, temporary)
            card = _card_facts(plan, extended, model_class)
            write_text(temporary / "README.md", model_card(card))
            _sync(temporary)
            with storage(plan.folder):
                publish(temporary, plan.folder)
    except (ConfigError, NotDefined) as error:
        raise ConfigError(f"run={run.folder}: {error}") from None
    say(f"{plan.folder}: {model_class}, its logits compared with the run's; see README.md in it")
    upload = ["hf", "upload", plan.folder.absolute().name, str(plan.folder)]
    say(shlex.join(upload))


def _extended(model: Transformer, plan: ExportPlan) -> tuple[Transformer, Interpolation]:
    """Return the model as it is exported, and what changed its rotary frequencies."""
    config = plan.run_config
    lengths, extension = Lengths(config.train_len, plan.length, plan.length), plan.extension
    if config.extended_from is not None:
        refuse_second(next(iter(config.extension)), extension)
        longest = extended_to(config)
        first = Lengths(config.extended_from, longest, longest)
        changed = made_by(make_unextended(config, 1), make_extension(config), first)
    else:
        changed = made_by(model, extension, lengths)

    def no_sample(n: int, length: int) -> Any:
        raise AssertionError("extensions of schemes read no texts")

    pattern = training_pattern(config)
    return extension.extend(model, pattern, lengths, no_sample), changed


def made_by(plain: Transformer, extension: Extension, lengths: Lengths) -> Interpolation:
    """Return what an extension makes frequencies of. plain: the model without it."""
    rotations = [rotation_of(scheme, plain.dims.head_dim) for scheme in plain.schemes]
    theta = next((r.theta for r in rotations if r is not None and r.rotating), ())
    if not isinstance(extension, YaRN) or extension.ramp != "channels":
        return Interpolation(theta)
    yarn = {
        "factor": extension.factor_for(lengths), "beta_fast": extension.beta,
        "beta_slow": extension.alpha, "original_max_position_embeddings": lengths.train_len,
    }  # fmt: skip
    return Interpolation(theta, yarn)


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json as it is, and the file by which transformers finds it."""
    if isinstance(tokenizer, Bytes):
        write_text(folder / "tokenizer.json", byte_json())
    else:
        tokenizer.save(folder)
    added = json.loads(read_own(folder / "tokenizer.json")).get("added_tokens") or []
    # An ordinary token must not become special: texts that have its characters would be cut there.
    ends = [token["content"] for token in added if token["id"] == tokenizer.end]
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
         "model_input_names": ["input_ids", "attention_mask"],
         **({"eos_token": ends[0]} if ends else {})},
    )  # fmt: skip


def _card_facts(plan: ExportPlan, model: Transformer, model_class: str) -> CardFacts:
    config = plan.run_config
    extension = plan.extension
    if config.extended_from is not None:
        extension = make_extension(config)
    return CardFacts(
        run=plan.run, title=model.title, model_class=model_class,
        parameters=sum(p.numel() for p in model.parameters()), dataset=config.dataset.name,
        source=source_of(config.dataset), tokenizer=config.tokenizer.name,
        n_tokens=config.n_steps * config.batch_tokens, train_len=config.train_len,
        length=plan.length, extension="" if type(extension) is Extension else extension.label,
    )  # fmt: skip


def _sync(folder: Path) -> None:
    """Make the files of a new folder durable, and as readable as others of the user."""
    with storage(folder):
        for path in folder.iterdir():
            sync_file(path, like=folder / "README.md")
