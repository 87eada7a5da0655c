"""Runs of models whose layers differ, and of models whose positions are taken away."""

import pytest

pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

from lexp.commands.evaluate import eval_
from support.hf import CONFIGS, LAYERED, expected_nll, llama, saved, study_rows


def test_local_layers_keep_their_window_under_every_method(study, texts, tmp_path, capsys):
    """Gemma 2: `full` is what it was trained with; blocks take the place of its global layers."""
    folder = saved(LAYERED["gemma2"](), tmp_path / "tiny")
    choices = ["lengths=[64]", "attention=[trained,full,blockwise]", "extension=[none,pi]"]
    eval_(study("eval", folder, *choices, "max_tokens=null"))
    told = "tiny: 2 of its 4 layers use a sliding window of 7 tokens and keep it; attention="
    assert told in capsys.readouterr().err
    found = {(r["attention"], r["extension"]): r for r in study_rows(tmp_path)}
    assert {row["status"] for row in found.values()} == {"ok"} and len(found) == 6
    expected = expected_nll(LAYERED["gemma2"](), folder, sorted((texts / "test").glob("*.txt")), 64)
    assert float(found["full", "none"]["nll"]) == pytest.approx(expected, abs=1e-5)
    assert found["full", "none"]["nll"] == found["trained", "none"]["nll"]
    assert len({row["nll"] for row in found.values()}) == 4
    cells = sorted(tmp_path.glob("outputs/default/*/eval/*.json"))
    eval_(study("eval", None, *choices, "max_tokens=null"))  # as a run that is read back
    assert sorted(tmp_path.glob("outputs/default/*/eval/*.json")) == cells


def test_what_moves_positions_is_undefined_with_the_layer(study, tmp_path, capsys):
    """Cohere 2: rotating layers keep their windows, the layers that a method replaces have NoPE."""
    folder = saved(LAYERED["cohere2"](), tmp_path / "tiny")
    eval_(study("eval", folder, "lengths=[64]", "attention=[self_extend,blockwise]"))
    found = {r["attention"]: r for r in study_rows(tmp_path)}
    assert found["blockwise"]["status"] == "ok" and found["self_extend"]["status"] == "not defined"
    assert "NoPE (layer 4) has none" in capsys.readouterr().out


def test_a_checkpoint_trained_without_the_positions_of_its_config(study, texts, tmp_path):
    """position=nope is a run of its own, read back without its positions too."""
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    eval_(study("eval", folder, "lengths=[64]", "attention=[full]", "max_tokens=null"))
    eval_(study(
        "eval", folder, "position=nope", "lengths=[64]", "attention=[full]", "max_tokens=null"
    ))  # fmt: skip
    nlls = [float(row["nll"]) for row in study_rows(tmp_path)]
    files = sorted((texts / "test").glob("*.txt"))
    still = {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 1e12}}
    wanted = [
        expected_nll(config, folder, files, 64) for config in (CONFIGS["llama"](), llama(**still))
    ]
    assert sorted(nlls) == pytest.approx(sorted(wanted), abs=1e-5)
    assert abs(wanted[0] - wanted[1]) > 1e-3
    eval_(study("eval", None, "lengths=[16]", "attention=[full]"))
    assert len({row["nll"] for row in study_rows(tmp_path) if row["length"] == "16"}) == 2
