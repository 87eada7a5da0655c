"""Every extension of every model changes what the model computes, or is n/d with the reason."""

import pytest
import torch
from omegaconf import OmegaConf

from lexp.attention import make_attend
from lexp.commands.run_parts import make_model, training_pattern
from lexp.config.instantiate import build
from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.evaluate import refuse_beyond
from lexp.extension import Extension, Lengths
from lexp.model.transformer import Transformer
from lexp.pattern import Blockwise, Full, Pattern, Window, replaced
from lexp.system.errors import NotDefined
from support.config import choices, compose
from support.schemes import CPU, MODELS

L, N = 16, 40
LENGTHS = Lengths(L, N, N)
# Models whose positions follow from a task, and one with rows of at most L tokens.
OF_TASKS = ("abacus", "coupled")
TASK = ("dataset=addition", "dataset.task.reverse=true", "dataset.max_length=4")


@pytest.fixture(scope="module")
def run():
    """The settings of a tiny run, in which only the model is missing."""
    sizes = {"n_layers": 6, "d_model": 16, "n_heads": 2, "head_dim": 8, "d_ff": 16}
    return compose("train", f"train_len={L}", *(f"size.{k}={v}" for k, v in sizes.items()))


@pytest.fixture(scope="module")
def extensions() -> dict[str, Extension]:
    words = "extension.longrope.divisors=[2,2,2,2]"
    nodes = plain(compose("eval", f"extension=[{','.join(choices('extension'))}]", words))
    return {name: build(node, Extension, name) for name, node in nodes["extension"].items()}


def made(run, name: str) -> tuple[Transformer, Pattern]:
    """A model with weights so large that attention is far from uniform, and its pattern."""
    parts = [{"model": None}, {"model": MODELS[name]}]
    if name in OF_TASKS:
        parts += [{"dataset": None}, {"dataset": compose("train", *TASK).dataset}]
    settings = read_train(plain(OmegaConf.merge(run, *parts)))
    torch.manual_seed(0)
    model = make_model(settings, 50).eval()
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.mul_(4)
    return model, training_pattern(settings)


def logits(model: Transformer, pattern: Pattern, tokens: torch.Tensor) -> torch.Tensor:
    refuse_beyond(model, tokens.shape[1])
    torch.manual_seed(1)  # of sampled positions
    with torch.no_grad():
        return model(tokens, make_attend(pattern, tokens.shape[1], model.schemes, CPU))


@pytest.mark.parametrize("name", MODELS)
def test_an_extension_changes_the_logits_beyond_training_or_is_not_defined(name, run, extensions):
    model, trained = made(run, name)
    tokens = torch.randint(50, (1, N), generator=torch.Generator().manual_seed(0))
    for pattern in (trained, replaced(trained, Blockwise().fit(L, N))):
        if pattern.two_sided:
            continue
        try:
            plain_logits = logits(model, pattern, tokens)
        except NotDefined:
            plain_logits = None  # an embedding that ends at the trained length
        for label, extension in extensions.items():
            if label == "none":
                continue
            try:
                extended = extension.extend(
                    model, pattern, LENGTHS, lambda n, length: tokens[:, :length].repeat(n, 1)
                )
                found = logits(extended, pattern, tokens)
            except NotDefined:
                continue
            changed = plain_logits is None or (found - plain_logits).abs().max() > 1e-5
            assert changed, f"{label} of {name} under {pattern.label}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("irope", r"RoPE sees 4 under chunked-4 \(layer 1\); log_n scales scores, LogTemperature "
                  r"does so already \(layer 4\)$"),
        ("samba", r"the 16 trained keys, RoPE sees 8 under window-8 \(layer 2\)$"),
    ],
)  # fmt: skip
def test_a_scale_by_the_number_of_keys_needs_a_layer_that_sees_more_of_them(
    name, reason, run, extensions
):
    model, trained = made(run, name)
    with pytest.raises(NotDefined, match=reason):
        extensions["log_n"].extend(model, trained, LENGTHS, None)


def test_log_n_follows_the_pattern_of_the_method(run, extensions):
    """A window of the trained length never shows more keys; a wider one and full attention do."""
    model, _ = made(run, "rope")
    for pattern in (Window(17), Full()):
        assert extensions["log_n"].extend(model, pattern, LENGTHS, None) is not model
    with pytest.raises(NotDefined, match="RoPE sees 16 under window-16$"):
        extensions["log_n"].extend(model, Window(16), LENGTHS, None)


def test_gemma3_is_scaled_in_its_layer_with_full_attention_alone(run, extensions):
    model, trained = made(run, "gemma3")
    changed = extensions["log_n"].extend(model, trained, LENGTHS, None)
    same = [new is old for new, old in zip(changed.schemes, model.schemes, strict=True)]
    assert same == [True] * 5 + [False]
