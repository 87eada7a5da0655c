"""What tests of runs of Hugging Face models share."""

import pytest

from support.config import compose, dataset


@pytest.fixture
def study(texts, tmp_path):
    """Composes a command on a model's folder: study(word, folder, override, ...)."""

    def make(word, folder, *overrides):
        base = [f"outputs={tmp_path}/outputs", "device=cpu", "precision=float32", *dataset(texts)]
        base += ["model=hf", f"path={folder}"] if folder else []
        return compose(word, *base, *overrides)

    return make
