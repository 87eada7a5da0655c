"""The command `lexp generate`."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig

from lexp.commands.harness_runs import RunWithTokenizer, load_without_texts
from lexp.commands.hf_run import register
from lexp.commands.load_runs import load_run_tokenizer
from lexp.commands.run_parts import training_pattern
from lexp.commands.run_plan import RunPlan
from lexp.commands.select_runs import read_config
from lexp.config.generation import GenerateConfig, read_generate
from lexp.data.text_stream import TextStream
from lexp.data.tokenizer import Tokenizer
from lexp.evaluate import Method, ModelUnderTest, fit_ahead, methods_for, prepare
from lexp.extension import Extension
from lexp.model.decoder import Decoder
from lexp.pattern import Pattern
from lexp.runs.find import finished_run
from lexp.runs.run import Run
from lexp.scoring.generation import Sampling, generate
from lexp.system import runtime
from lexp.system.errors import ConfigError, DataError, NotDefined, first_line
from lexp.system.output import say
from lexp.system.reading import read_text
from lexp.system.text import counted, escaped

# A fit of an extension says where it is once in so many steps.
SAID_STEPS = 50
# How much of a prompt is read is said once in so many seconds.
SAID_EVERY_S = 10.0


@dataclass(frozen=True)
class GeneratePlan:
    """The plan of a generation: a run, None for the model at `path`, and how it reads."""

    config: GenerateConfig
    run: Run | None
    pattern: Pattern
    extension: Extension


def check(config: DictConfig) -> GeneratePlan:
    """Return the plan; ConfigError before any work if a value is not allowed."""
    settings = read_generate(config)
    run = None if settings.run is None else finished_run("run", settings.run)
    ((pattern_key, pattern),) = settings.attention.items()
    ((extension_key, extension),) = settings.extension.items()
    return GeneratePlan(
        settings,
        run,
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
    of_run = run_plan(plan)
    run = plan.run or register(settings, f"{of_run.precision} on {of_run.device}")
    tokenizer = load_run_tokenizer(run)
    ids = encoded(text, tokenizer)
    length = len(ids) + settings.max_new_tokens
    tested, method = load(plan, of_run, run, tokenizer, length)
    decoder = make_decoder(tested, method, length)
    tokens = generate(
        decoder, torch.tensor(ids, device=of_run.device),
        Sampling(settings.temperature, settings.top_p),
        torch.Generator().manual_seed(settings.seed),
        tokenizer.vocab_size, tokenizer.end, tested.autocast, prompt_progress(len(ids)),
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


def prompt_progress(n_prompt: int) -> Callable[[int], None]:
    """Return what says now and then how much of a long prompt is read."""
    said_at = time.monotonic()

    def tell(n_read: int) -> None:
        nonlocal said_at
        if n_read < n_prompt and time.monotonic() - said_at >= SAID_EVERY_S:
            said_at = time.monotonic()
            say(f"lexp: {n_read:,} of {counted(n_prompt, 'token')} of the prompt are read")

    return tell


def read_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """Return the text to continue; DataError if it cannot be read."""
    if prompt is not None and prompt_file is not None:
        raise ConfigError("prompt and prompt_file: both are given; leave one out")
    if prompt is None and prompt_file is None:
        raise ConfigError("no prompt; give prompt=TEXT, prompt_file=FILE, or prompt=- for a pipe")
    where = f"prompt_file={prompt_file}" if prompt is None else "prompt=- (standard input)"
    try:
        if prompt_file is not None:
            # A byte order mark is not read in texts of training either.
            return read_text(Path(prompt_file)).removeprefix("\ufeff")
        return _read_input() if prompt == "-" else str(prompt)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start}: not UTF-8 ({error.reason}); give text in UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{where}: {error.strerror or first_line(error)}") from None


def _read_input() -> str:
    """Return the text on standard input, which a program may have been started without."""
    if sys.stdin is None:
        raise OSError("it is closed")
    return sys.stdin.buffer.read().decode()


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


def run_plan(plan: GeneratePlan) -> RunPlan:
    """Return the plan by which a run is loaded; its texts are cached where its study has them."""
    settings = plan.config
    if plan.run is not None:
        study = plan.run.folder.parent
        settings = replace(settings, name=study.name, outputs=str(study.parent))
    return RunPlan(config=settings, lengths=(), methods=(), protocols=())


def load(
    plan: GeneratePlan, of_run: RunPlan, run: Run, tokenizer: Tokenizer, length: int
) -> tuple[ModelUnderTest, Method]:
    """Return the run's model, and the method as it is for the model and a text of this length."""
    config = read_config(run)
    asked = Method(plan.pattern, plan.extension.filled(length), length)
    (method,) = methods_for(training_pattern(config), [asked])
    return load_without_texts(RunWithTokenizer(run, config, tokenizer, (method,)), of_run), method


def make_decoder(tested: ModelUnderTest, method: Method, length: int) -> Decoder:
    """Return a decoder of a text of this length, by a model under a method.

    What an extension fits is fitted first. NotDefined with the reason if the method has no meaning
    there, or needs the text as a whole.
    """
    try:
        for n, step in enumerate(fit_ahead(tested, method, length)):
            if n % SAID_STEPS == 0:
                say(f"lexp: fitting {step}")
        model, pattern = prepare(tested, method, length)
        return Decoder(model, pattern, length)
    except NotDefined as error:
        raise NotDefined(
            f"a text of {length} tokens (the prompt and max_new_tokens): {error}"
        ) from None
