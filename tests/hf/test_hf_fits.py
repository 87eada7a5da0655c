"""Scales of models of transformers are fitted to the data set that they are scored on."""

import json

import numpy as np
import pytest

transformers = pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

from lexp.commands.evaluate import eval_  # noqa: E402
from support.hf import CONFIGS, saved, study_rows  # noqa: E402
from support.hf_general import GENERAL  # noqa: E402

MODELS = {"llama": CONFIGS["llama"], "cohere": GENERAL["cohere"]}


@pytest.mark.parametrize(("name", "better"), [("llama", 0.5), ("cohere", 2.5)])
def test_scales_are_fitted_to_the_training_split_of_the_data_set(name, better, study, tmp_path):
    """On the path of families, and on the general one, of a model that scales its logits."""
    folder = saved(MODELS[name](), tmp_path / "tiny")
    eval_(study(
        "eval", folder, "lengths=[32]", "attention=[full]",
        "extension=[head_scale,fitted_scale,uniform_scale]",
        f"extension.uniform_scale.scale={better}",
        "extension.fitted_scale.least=0.5", "extension.fitted_scale.most=2.5",
        "extension.fitted_scale.by=2", "extension.head_scale.steps=6",
        "extension.head_scale.floor=0", "extension.head_scale.text=validation",
    ))  # fmt: skip
    rows = {row["extension"].partition("-")[0]: row for row in study_rows(tmp_path)}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["fitted_scale"]["nll"] == rows["uniform_scale"]["nll"]
    (path,) = tmp_path.glob("outputs/default/*/fits/*fitted_scale*.npz")
    with np.load(path) as arrays:
        assert set(arrays["scales"].flatten().tolist()) == {better}
        assert [0.5, 2.5][int(arrays["losses"].argmin())] == better
    assert "(fitted at 32 on validation)" in rows["head_scale"]["extension"]
    (path,) = tmp_path.glob("outputs/default/*/fits/*head_scale*.npz")
    with np.load(path) as arrays:
        losses, scales = arrays["losses"], arrays["scales"]
    assert losses[-1] < losses[0] and len(np.unique(scales)) == scales.size == 8
    stored = json.loads(path.with_suffix(".json").read_text())
    assert stored["values"]["text"] == "validation"
