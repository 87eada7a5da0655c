"""A model whose layers differ, trained and evaluated as users do."""

import pytest

from lexp.commands.train import train
from lexp.results import NOT_DEFINED
from support.evaluation import by_cell


def test_a_hybrid_is_trained_and_evaluated_layer_by_layer(study, tiny, capsys):
    """SWAN: `full` widens no layer, so it is `trained`; BCA reaches the NoPE layer alone."""
    train(tiny("model=swan", "size.n_layers=4"))
    assert "RoPE / NoPE" in capsys.readouterr().err
    rows = study("model=swan", "attention=[trained,full,blockwise,self_extend]", "lengths=[16,32]")
    cells = by_cell(rows)
    for length in (16, 32):
        assert cells["swan", "full", length]["nll"] == cells["swan", "trained", length]["nll"]
        assert cells["swan", "self_extend", length]["status"] == NOT_DEFINED
    assert "NoPE (layer 4) has none" in capsys.readouterr().out
    apart = [float(cells["swan", name, 32]["nll"]) for name in ("blockwise", "full")]
    assert apart[0] != apart[1] == pytest.approx(apart[0], abs=0.5)


def test_a_model_with_windows_alone_runs_as_trained_only(study, tiny, capsys):
    """Gemma 3's first layers: its one layer with full attention is the sixth."""
    train(tiny("model=gemma3", "size.n_layers=2"))
    assert "size.n_layers=6 has all" in capsys.readouterr().err
    rows = study("model=gemma3", "attention=[trained,full,blockwise]", "lengths=[32]")
    status = {row["attention"]: row["status"] for row in rows}
    assert status == {"trained": "ok", "full": NOT_DEFINED, "blockwise": NOT_DEFINED}
    assert "(layer 1: window-4, layer 2: window-4)" in capsys.readouterr().out
