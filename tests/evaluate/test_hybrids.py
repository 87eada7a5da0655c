"""A model whose layers differ, trained and evaluated as users do."""

import pytest

from lexp.commands.probe import probe
from lexp.commands.report import report
from lexp.commands.train import train
from lexp.result_store import NOT_DEFINED
from support.config import compose
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
    status = sorted((row["attention"], row["status"]) for row in rows)
    assert status == [("blockwise", NOT_DEFINED), ("trained", "ok")]
    assert "(layer 1: window-4, layer 2: window-4)" in capsys.readouterr().out


def test_the_usual_commands_give_a_recurrent_model_a_number_and_a_sentence(study, tiny, capsys):
    """`full` is no pattern of it, and stands for the model as it was trained in every command."""
    train(tiny("model=mamba2"))
    rows = [row for row in study("lengths=[8,16,32]") if row["model"] == "mamba2"]
    status = {(row["attention"], row["status"]) for row in rows}
    assert status == {("trained", "ok"), ("blockwise", NOT_DEFINED), ("window", NOT_DEFINED)}
    assert "27 cells of 3 runs" in capsys.readouterr().err
    asked = ("model=mamba2", f"outputs={study.folder.parent}", "lengths=[16]", "device=cpu")
    probe(compose("probe", *asked, "probes=[copy]", "samples=2"))
    probed = (study.folder / "probes.csv").read_text()
    assert ",trained,none,copy,16," in probed and ",full," not in probed
    report(compose("report", f"outputs={study.folder.parent}"))
    answer = " ".join(capsys.readouterr().out.split())
    assert "learned, mamba2 and rope are no better at 16 tokens than at 8" in answer
