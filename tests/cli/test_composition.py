"""A command composes its config once, and sweeps where an override of Hydra's own says so."""

import sys

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from lexp.cli import hydra_guard
from lexp.cli.main import main
from lexp.config.schema import register_schemas
from support import ROOT
from support.documents import untouched


def test_a_command_composes_its_config_once(monkeypatch, tmp_path, capsys):
    composed = []
    original = hydra_guard.CheckedLoader.load_configuration

    def load(self, config_name, *others, **more):
        composed.append(config_name)
        return original(self, config_name, *others, **more)

    monkeypatch.setattr(hydra_guard.CheckedLoader, "load_configuration", load)
    monkeypatch.setattr(sys, "argv", ["lexp", "status", f"outputs={tmp_path}"])
    monkeypatch.chdir(tmp_path)
    for name in ("HYDRA_FULL_ERROR", "PYTHONSAFEPATH", "LEXP_SWEEP_JOBS"):
        monkeypatch.setenv(name, "")  # set by the command; put back afterwards
    with untouched(), pytest.raises(SystemExit):
        main()
    assert composed == ["status"]


def test_an_override_can_still_set_the_mode():
    register_schemas()
    hydra_guard.install()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra.get_mode("train", ["seed=0,1"]) is None
        assert hydra.get_mode("train", ["seed=0,1", "hydra.mode=MULTIRUN"]) == RunMode.MULTIRUN
