"""Models of Hugging Face under lexp's attention: the same numbers as transformers where no method
is applied, and methods as transformers or a mask written here has them."""

import pytest

transformers = pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

import torch  # noqa: E402
from hf_models import CONFIGS, TRAINED, VOCAB, logits, saved  # noqa: E402

from lexp.attention import make_attend  # noqa: E402
from lexp.hf import describe, find_source, load_model  # noqa: E402
from lexp.pattern import Full  # noqa: E402


def opened(folder):
    source = find_source(str(folder))
    return load_model(source, describe(source))


def ours(model, tokens, pattern=None):
    with torch.no_grad():
        attend = make_attend(pattern or Full(), tokens.shape[1], model.schemes, tokens.device)
        return model(tokens, attend)


def draw(n, batch=2):
    return torch.randint(VOCAB, (batch, n), generator=torch.Generator().manual_seed(n))


# Learned tables and MPT's bias tensor end at the trained length in transformers.
ENDS = {"gpt2", "mpt"}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name, tmp_path):
    model = opened(saved(CONFIGS[name](), tmp_path))
    lengths = [5, TRAINED] if name.split("-")[0] in ENDS else [5, TRAINED, 3 * TRAINED + 1]
    for n in lengths:
        theirs = logits(CONFIGS[name](), draw(n))
        assert theirs.std() > 0.3
        assert (ours(model, draw(n)) - theirs).abs().max() < 1e-4
