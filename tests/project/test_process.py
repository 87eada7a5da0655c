"""A test leaves the process as it found it."""

import locale
import os
import sys

import pytest
import torch

from support.process import put_back


def state() -> dict:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "environment": dict(os.environ), "folder": os.getcwd(), "umask": umask,
        "path": list(sys.path), "locale": locale.setlocale(locale.LC_ALL),
        "dtype": torch.get_default_dtype(), "threads": torch.get_num_threads(),
        "products": torch.get_float32_matmul_precision(),
        "strict": torch.are_deterministic_algorithms_enabled(),
    }  # fmt: skip


def test_what_a_test_changes_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("LEXP_PROCESS", "before")
    monkeypatch.setenv("LEXP_GONE", "before")
    before = state()
    with pytest.raises(ZeroDivisionError), put_back():
        os.environ.update(LEXP_PROCESS="changed", LEXP_NEW="new")
        del os.environ["LEXP_GONE"]
        os.chdir(tmp_path)
        os.umask(before["umask"] ^ 0o007)
        sys.path.insert(0, str(tmp_path))
        locale.setlocale(locale.LC_ALL, "C.UTF-8" if before["locale"] == "C" else "C")
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(before["threads"] + 1)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        changed = state()
        assert [key for key in before if changed[key] == before[key]] == []
        _ = 1 / 0
    assert state() == before


def test_every_test_is_watched(request):
    assert "process_as_before" in request.fixturenames
