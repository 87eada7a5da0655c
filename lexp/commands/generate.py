"""The command `lexp generate`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from lexp.attention import refuse_meaningless
from lexp.commands.hf_run import trained_external
from lexp.commands.load_runs import check_code, extended_with, load_run_tokenizer
from lexp.commands.run_parts import make_model, training_pattern
from lexp.commands.select_runs import final_checkpoint, read_config
from lexp.config.generation import GenerateConfig, read_generate
from lexp.config.settings import HfRunConfig, TrainConfig
from lexp.data.text_stream import TextStream
from lexp.data.tokenizer import Tokenizer
from lexp.evaluate.prepare import refuse_beyond, refuse_second
from lexp.extension import Extension, Fitted, Lengths
from lexp.model.decoder import Decoder
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern, refuse_nothing_replaced, replaced
from lexp.runs import checkpoint
from lexp.runs.find import finished_run
from lexp.runs.run import Run
from lexp.scoring.generation import Sampling, generate
from lexp.system import runtime
from lexp.system.errors import ConfigError, DataError, NotDefined, first_line
from lexp.system.output import say
from lexp.system.reading import read_text
from lexp.system.text import counted, escaped
from lexp.training.objective import refuse_other_attention


@dataclass(frozen=True)
class GeneratePlan:
    """The plan of a generation: a run and the method by which it reads."""

    config: GenerateConfig
    run: Run
    run_config: TrainConfig | HfRunConfig
    pattern: Pattern
    extension: Extension


def check(config: DictConfig) -> GeneratePlan:
    """Return the plan; ConfigError before any work if a value is not allowed."""
    settings = read_generate(config)
    run = finished_run("run", settings.run)
    ((pattern_key, pattern),) = settings.attention.items()
    ((extension_key, extension),) = settings.extension.items()
    return GeneratePlan(
        settings,
        run,
        read_config(run),
        pattern.build(Pattern, f"attention.{pattern_key}"),
        extension.build(Extension, f"extension.{extension_key}"),
    )


def generate_(config: DictConfig, prompt: str | None = None) -> None:
    """Print the continuation of a text as it is generated, and how fast it was.

    prompt: as it was typed, in place of the config's.
    """
    plan = check(config)
    settings = plan.config
    text = read_prompt(settings.prompt if prompt is None else prompt, settings.prompt_file)
    runtime.prepare_process()
    device = runtime.choose_device(settings.device)
    precision = runtime.choose_precision(settings.precision, device)
    tokenizer = load_run_tokenizer(plan.run)
    ids = encoded(text, tokenizer)
    length = len(ids) + settings.max_new_tokens
    model, pattern = extended(plan, load_model(plan, tokenizer).to(device), length)
    decoder = Decoder(model, pattern, length)
    tokens = generate(
        decoder, torch.tensor(ids, device=device),
        Sampling(settings.temperature, settings.top_p),
        torch.Generator().manual_seed(settings.seed),
        tokenizer.vocab_size, tokenizer.end, runtime.autocast(precision, device),
    )  # fmt: skip
    stream, times = TextStream(tokenizer, ids), []
    for token in tokens:
        times.append(time.perf_counter())
        print(escaped(stream.push(token)), end="", flush=True)
    print(escaped(stream.finish()), flush=True)
    # From the first new token on: before it the prompt is read.
    rate = f", {(len(times) - 1) / (times[-1] - times[0]):.0f} tokens/s" if len(times) > 1 else ""
    kept = max((cache.n_kept for cache in decoder.caches), default=0)
    say(
        f"{counted(len(times), 'token')} after {len(ids):,} of the prompt{rate}, "
        f"{counted(kept, 'key')} kept in a layer"
    )


def read_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """Return the text to continue; DataError if it cannot be read."""
    if prompt is not None and prompt_file is not None:
        raise ConfigError("prompt and prompt_file: both are given; leave one out")
    if prompt is None and prompt_file is None:
        raise ConfigError("no prompt; give prompt=TEXT, prompt_file=FILE, or prompt=- for a pipe")
    where = f"prompt_file={prompt_file}" if prompt is None else "prompt=- (standard input)"
    try:
        if prompt_file is not None:
            return read_text(Path(prompt_file))
        return sys.stdin.buffer.read().decode() if prompt == "-" else str(prompt)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{where}: {reason}") from None


def encoded(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a prompt; DataError if there is none or it has other characters."""
    try:
        (found,) = tokenizer.encode([text])
    except UnicodeEncodeError as error:
        raise DataError(f"the prompt is no text in UTF-8: {first_line(error)}") from None
    if not len(found.ids):
        raise DataError(
            "the prompt is empty, and a model reads a token before it predicts one; give a "
            "character or more"
        )
    if found.n_lost:
        say(f"{counted(found.n_lost, 'byte')} of the prompt are not in the run's vocabulary")
    return found.ids.tolist()


def load_model(plan: GeneratePlan, tokenizer: Tokenizer) -> Transformer:
    """Return the run's model with the weights that its training ended with."""
    run, config = plan.run, plan.run_config
    check_code(run, config)
    if isinstance(config, HfRunConfig):
        return trained_external(run, config)
    model = make_model(config, tokenizer.vocab_size).eval()
    checkpoint.load_model(final_checkpoint(run), model)
    return model


def extended(plan: GeneratePlan, model: Transformer, length: int) -> tuple[Transformer, Pattern]:
    """Return the model and the pattern as the plan's method has them for a text of `length` tokens.

    NotDefined with the reason if the method has no meaning there, or needs the text as a whole.
    """
    config, extension = plan.run_config, plan.extension
    trained = training_pattern(config)
    pattern = replaced(trained, plan.pattern.fit(config.train_len, length))
    refuse_nothing_replaced(trained, plan.pattern)
    refuse_other_attention(trained, pattern)
    refuse_second(extended_with(config), extension)
    if isinstance(extension, Fitted):
        raise NotDefined(
            f"{extension.name} is fitted to texts, which generation does not open: use another "
            "extension"
        )
    lengths = Lengths(config.train_len, length, length)
    model = extension.extend(model, pattern, lengths, no_sample)
    try:
        refuse_beyond(model, length)
    except NotDefined as error:
        raise ConfigError(
            f"max_new_tokens={plan.config.max_new_tokens}: the text would have {length} tokens, "
            f"but {error}"
        ) from None
    refuse_meaningless(pattern, model.schemes)
    return model, pattern


def no_sample(n: int, length: int) -> torch.Tensor:
    """Raise NotDefined: generation reads no training texts."""
    raise NotDefined("vector_replacement measures training texts, which generation does not open")
