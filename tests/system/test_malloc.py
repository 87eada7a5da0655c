"""Memory that was freed: kept in training, given back elsewhere."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lexp.system.errors import is_out_of_memory
from lexp.system.malloc import give_back, keep

# Ten blocks of 64 MiB, written whole and freed in turn: pages that the system had to clear.
FAULTS = """
import resource, sys
from lexp.system import malloc
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if sys.argv[1] == "keep":
    malloc.keep()
for _ in range(20):  # memory aligned as torch wants it takes some blocks to settle
    torch.ones(1 << 24)
before = faults()
for _ in range(10):
    torch.ones(1 << 24)
print(faults() - before)
malloc.give_back()
before = faults()
torch.ones(1 << 24)
print(faults() - before)
"""


def test_memory_is_given_back_where_the_system_has_a_call_for_it(monkeypatch):
    calls = []
    for library in (SimpleNamespace(malloc_trim=calls.append), SimpleNamespace()):
        monkeypatch.setattr("lexp.system.malloc.ctypes.CDLL", lambda name, made=library: made)
        give_back()
    assert calls == [0]


def test_memory_is_kept_where_the_system_has_a_call_for_it(monkeypatch):
    calls = []
    for library in (
        SimpleNamespace(mallopt=lambda *given: calls.append(given)), SimpleNamespace()
    ):  # fmt: skip
        monkeypatch.setattr("lexp.system.malloc.ctypes.CDLL", lambda name, made=library: made)
        keep()
    assert sorted(calls) == [(-4, 0), (-2, 64 << 20), (-1, 2**31 - 1)]  # as malloc.h numbers them


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
def test_large_blocks_come_from_what_was_freed_until_it_is_given_back():
    def run(how):
        ran = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return [int(line) for line in ran.stdout.split()]

    kept, after = run("keep")
    fresh, _ = run("not")
    assert kept < fresh / 10
    assert after > fresh / 20  # a block's share of the ten, at least half of it


@pytest.mark.parametrize("shape", [(2**62,), (2**62, 3), (2**32, 2**32)])
def test_more_bytes_than_can_be_counted_are_out_of_memory(shape):
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        torch.empty(shape)
    assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
