"""The store of results: paths follow from specs, damage is reported, the newest record counts."""

import ast
import json
import math
import random
import re
import shutil
import struct
import tracemalloc
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lexp
from lexp.result_store import (
    NOT_DEFINED,
    OK,
    OUT_OF_MEMORY,
    ArrayFile,
    Outcome,
    Result,
    ResultKind,
    Spec,
    attempt,
    component_of,
    component_spec,
    count_results,
    find,
    path_of,
    read,
    read_all,
    read_newest,
    recall,
    with_damage,
    write,
    write_csv,
)
from lexp.system.errors import CheckpointError, DataError, NotDefined
from lexp.system.files import digest, read_sealed, sha256, write_sealed


@dataclass(frozen=True)
class Number(Result):
    """The smallest of results."""

    name: str
    number: float


NUMBERS = ResultKind("number", "numbers", 1, Number, ("name",))
FIELDS = {
    "weights": "a" * 64, "text": "b" * 64, "tokenizer": "c", "precision": "float32", "length": 8,
    "pattern": {"class": "Window", "values": {"window": 4}}, "extension": None, "longest": 16,
}  # fmt: skip


def spec(kind: ResultKind = NUMBERS, label: str = "full 8", **fields) -> Spec:
    return Spec(kind, label, {**FIELDS, **fields})


# --- a path follows from a spec


def test_a_path_follows_from_the_spec_and_has_a_readable_name(tmp_path):
    path = path_of(tmp_path, spec())
    assert path == path_of(tmp_path, spec())
    assert path.parent == tmp_path / "numbers" and re.fullmatch(r"full-8-\w{8}\.json", path.name)
    reordered = Spec(NUMBERS, "full 8", dict(reversed(FIELDS.items())))
    assert path_of(tmp_path, reordered) == path


@pytest.mark.parametrize("name", FIELDS)
def test_any_field_of_the_spec_changes_the_path(tmp_path, name):
    path = path_of(tmp_path, spec())
    for other in ("another", 9, ["another"], {"class": "Window", "values": {"window": 5}}):
        assert path_of(tmp_path, spec(**{name: other})) != path
    fewer = Spec(NUMBERS, "full 8", {key: FIELDS[key] for key in FIELDS if key != name})
    assert path_of(tmp_path, fewer) != path


def test_a_label_is_no_part_of_the_digest():
    assert spec(label="trained 8").digest == spec().digest


def test_records_are_computed_again_once_numerics_are_raised(tmp_path):
    write(tmp_path, spec(), Number("a", 1.0))
    assert find(tmp_path, spec()).number == 1.0
    raised = replace(NUMBERS, numerics=2)
    assert find(tmp_path, spec(raised)) is None
    write(tmp_path, spec(raised), Number("a", 2.0))
    assert find(tmp_path, spec(raised)).number == 2.0 and find(tmp_path, spec()).number == 1.0


def test_a_record_under_the_path_of_another_spec_is_not_taken_for_it(tmp_path):
    write(tmp_path, spec(), Number("a", 1.0))
    path_of(tmp_path, spec()).rename(path_of(tmp_path, spec(length=9)))
    assert find(tmp_path, spec(length=9)) is None


# --- what is written is read back


def test_a_record_is_read_back_whole(tmp_path):
    arrays = {"nats": np.arange(3, dtype=np.float32), "names": np.array(["a", "b"])}
    written = write(tmp_path, spec(), Number("a", math.inf, reason="none"), arrays)
    found = find(tmp_path, spec())
    assert found == written and found.number == math.inf and found.ok
    stored = json.loads(path_of(tmp_path, spec()).read_text())
    assert stored["spec"] == {**FIELDS, "numerics": 1}
    assert stored["values"] == {"name": "a", "number": {"float": "inf"}}
    assert [stored[key] for key in ("kind", "status", "reason")] == ["number", "ok", "none"]
    loaded = found.arrays.load()
    assert loaded["nats"].dtype == np.float32 and loaded["names"].tolist() == ["a", "b"]
    assert math.isnan(write(tmp_path, spec(), Number("a", math.nan)).number)
    assert math.isnan(find(tmp_path, spec()).number) and find(tmp_path, spec()).ok


@pytest.mark.parametrize(
    "values",
    [{"name": "a"}, {"name": "a", "number": "x"}, {"name": 1, "number": 1.0},
     {"name": "a", "number": True}, {"name": "a", "number": 1.0, "more": 1}],
)  # fmt: skip
def test_values_of_other_types_are_reported_and_left_out(tmp_path, values):
    """Sealed anew, as one does who edits a file and wants it to be read."""
    write(tmp_path / "run", spec(), Number("a", 1.0))
    path = path_of(tmp_path / "run", spec())
    stored = {**json.loads(path.read_text()), "values": values}
    stored.pop("sha256")
    path.write_text(json.dumps({**stored, "sha256": digest(stored)}))
    with pytest.warns(UserWarning, match=f"{path.name} is left out"):
        assert read(path, NUMBERS) is None
    with pytest.warns(UserWarning):
        assert read_newest(tmp_path, NUMBERS) == []


# --- damage


def test_every_flipped_bit_of_a_row_is_reported(tmp_path):
    write(tmp_path, spec(), Number("a", 1.0))
    path, rng = path_of(tmp_path, spec()), random.Random(0)
    good = path.read_bytes()
    for _ in range(300):
        changed = bytearray(good)
        changed[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = find(tmp_path, spec())
        same = json.loads(good) == _json(path)
        assert same or (found is None and any(str(path) in str(w.message) for w in said))


def _json(path):
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_a_row_without_a_digest_is_reported(tmp_path):
    write(tmp_path, spec(), Number("a", 1.0))
    path = path_of(tmp_path, spec())
    stored = json.loads(path.read_text())
    del stored["sha256"]
    path.write_text(json.dumps(stored))
    with pytest.warns(UserWarning, match="is left out: .*digest"):
        assert find(tmp_path, spec()) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damaged_arrays_are_reported_and_computed_again(tmp_path, damage):
    written = write(tmp_path, spec(), Number("a", 1.0), {"x": np.arange(100)})
    file = written.arrays.path
    whole = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        whole[50] ^= 1
        file.write_bytes(whole[:60] if damage == "cut" else whole)
    with pytest.warns(UserWarning, match=f"is left out: .*{file.name}"):
        assert find(tmp_path, spec()) is None
    with pytest.raises(DataError, match=file.name):
        written.arrays.load()
    write(tmp_path, spec(), Number("a", 1.0), {"x": np.arange(100)})
    assert find(tmp_path, spec()).arrays.load()["x"].sum() == 4950


def test_results_with_damaged_arrays_stay_as_failures(tmp_path):
    results = [
        write(tmp_path / "run", spec(length=n), Number(name=str(n), number=1.0), {"x": np.ones(n)})
        for n in (8, 16)
    ]
    assert with_damage(results) == results
    results[0].arrays.path.write_bytes(b"cut")
    with pytest.warns(UserWarning, match=str(results[0].arrays.path)):
        damaged, whole = with_damage(results)
    assert whole == results[1] and not damaged.ok and damaged.arrays is None
    assert damaged.failure.startswith("damaged (") and str(results[0].arrays.path) in damaged.reason


def npy_header(shape: str, dtype: str = "<f4") -> bytes:
    """The beginning of an array's file that says what it has not."""
    words = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    words += " " * (63 - (10 + len(words)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words.encode()


BOMBS = {
    "a header of 40 GB": npy_header("(10000000000,)"),
    "40 GB by two dimensions": npy_header("(100000, 100000)"),
    "a number of 40 GB": npy_header("(1,)", "<U10000000000"),
    "negative": npy_header("(-1,)"),
    "nested": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    "no header": b"\x93NUMPY\x01\x00",
}


@pytest.mark.parametrize("bomb", [*BOMBS, "the archive's own sizes"])
def test_arrays_larger_than_their_file_take_no_memory(tmp_path, bomb):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("nats.npy", BOMBS.get(bomb, npy_header("(10000,)") + bytes(40000)))
    if bomb not in BOMBS:  # both sizes in the archive's directory say 4 GB
        data = path.read_bytes().replace(struct.pack("<I", 40128), struct.pack("<I", 0xFFFFFFF0))
        path.write_bytes(data)
    file = ArrayFile(path, sha256(path))
    tracemalloc.start()
    with pytest.raises(DataError, match="is not a file of arrays"):
        file.load()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2e7


def test_no_more_is_read_than_the_record_allows(tmp_path):
    file = write(tmp_path, spec(), Number("a", 1.0), {"x": np.zeros(100000)}).arrays
    assert len(file.load(900_000)["x"]) == 100000
    with pytest.raises(DataError, match="its record allows 700000"):
        file.load(700_000)


def test_objects_in_arrays_are_not_unpickled(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, nats=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="is not a file of arrays"):
        ArrayFile(path, sha256(path)).load()


# --- the newest counts


def test_the_newest_record_of_a_key_counts_whatever_its_name(tmp_path):
    run = tmp_path / "run"
    for length, number in ((9, 1.0), (5, 2.0), (7, 3.0)):
        write(run, spec(length=length), Number("a", number))
    write(run, spec(), Number("b", 4.0))
    write(tmp_path / "other", spec(), Number("c", 5.0))
    assert [n.number for n in read_newest(tmp_path, NUMBERS)] == [3.0, 4.0, 5.0]
    assert sorted(n.number for n in read_all(tmp_path, NUMBERS)) == [1.0, 2.0, 3.0, 4.0, 5.0]
    # Times of files do not count: copying a study changes them.
    path_of(run, spec(length=9)).touch()
    assert [n.number for n in read_newest(tmp_path, NUMBERS)] == [3.0, 4.0, 5.0]


def test_a_record_that_is_asked_for_again_is_the_newest_of_its_key(tmp_path):
    run = tmp_path / "run"
    for length, number in ((9, 1.0), (5, 2.0), (7, 3.0)):
        write(run, spec(length=length), Number("a", number))
    write(run, spec(length=11), Number("b", 4.0))
    files = {path.name: path.read_bytes() for path in run.rglob("*.json")}
    assert recall(run, spec(length=7)).number == 3.0 and recall(run, spec(length=11)).number == 4.0
    assert recall(run, spec(length=12)) is None
    assert {path.name: path.read_bytes() for path in run.rglob("*.json")} == files
    assert recall(run, spec(length=9)) == find(run, spec(length=9)) == Number("a", 1.0)
    assert [n.number for n in read_newest(tmp_path, NUMBERS)] == [1.0, 4.0]
    write(run, spec(length=13), Number("a", 5.0))
    assert [n.number for n in read_newest(tmp_path, NUMBERS)] == [5.0, 4.0]


@pytest.mark.parametrize("link", ["run", "run/numbers"])
@pytest.mark.parametrize("gather", [count_results, read_newest, read_all])
def test_a_linked_folder_of_records_is_refused_before_it_is_listed(tmp_path, gather, link):
    """Whatever is in it: without any record nothing would be read that names the link."""
    (tmp_path / "elsewhere" / "numbers").mkdir(parents=True)
    path = tmp_path / "study" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere" / link.partition("/")[2])
    with pytest.raises(CheckpointError, match=f"^{path} is a symbolic link"):
        gather(tmp_path / "study", NUMBERS)
    if link != "run":  # one that leads nowhere, too: its results would be missing without a word
        shutil.rmtree(tmp_path / "elsewhere")
        with pytest.raises(CheckpointError, match=f"^{path} is a symbolic link"):
            gather(tmp_path / "study", NUMBERS)


@pytest.mark.parametrize("many", [read_newest, read_all])
def test_tables_leave_out_and_count_what_other_numerics_made(tmp_path, many):
    raised = replace(NUMBERS, numerics=2)
    for length, number in ((9, 1.0), (7, 2.0)):
        write(tmp_path / "run", spec(length=length), Number("a", number))
    write(tmp_path / "run", spec(raised, length=9), Number("a", 3.0))
    with pytest.warns(UserWarning, match="2 results of kind .* other numbers"):
        assert [n.number for n in many(tmp_path, raised)] == [3.0]
    with pytest.warns(UserWarning, match="1 results of kind"):
        assert {n.number for n in many(tmp_path, NUMBERS)} <= {1.0, 2.0}


@pytest.mark.parametrize("year", ["1970", "2025", "2100"])
def test_a_clock_set_back_or_on_does_not_make_a_record_older(tmp_path, year):
    run = tmp_path / "run"
    for length, number in ((9, 1.0), (5, 2.0)):
        write(run, spec(length=length), Number("a", number))
    path = path_of(run, spec(length=5))  # as a clock of that year would have sealed it
    write_sealed(path, {**read_sealed(path), "sealed": f"{year}-01-01T00:00:00.000000+00:00"})
    for copy in (run, shutil.copytree(run, tmp_path / "elsewhere/run")):
        (newest,) = read_newest(copy.parent, NUMBERS)
        assert newest.number == 2.0
    write(run, spec(length=9), Number("a", 3.0))  # computed again, it is the newest
    assert [n.number for n in read_newest(tmp_path, NUMBERS)] == [3.0]


# --- statuses


def test_a_record_that_ran_out_of_memory_is_tried_again(tmp_path):
    for status in ("not defined", "not finite"):
        write(tmp_path / "run", spec(), Number("a", math.nan, status=status, reason="why"))
        assert find(tmp_path / "run", spec()).failure == f"{status} (why)"
    lost = Number("a", math.nan, status=OUT_OF_MEMORY, reason="no room")
    write(tmp_path / "run", spec(), lost)
    assert find(tmp_path / "run", spec()) is None
    (known,) = read_newest(tmp_path, NUMBERS)  # tables show it nevertheless
    assert known.status == OUT_OF_MEMORY and not known.ok


def raising(error):
    def compute():
        raise error

    return compute


def test_an_attempt_turns_refusals_and_exhausted_memory_into_statuses():
    assert attempt(lambda: 3) == Outcome(3, OK, "")
    assert attempt(raising(NotDefined("no"))) == Outcome(None, NOT_DEFINED, "no")
    for error in (
        torch.OutOfMemoryError("no room\nat all"), MemoryError("no room"),
    ):  # fmt: skip
        assert attempt(raising(error)) == Outcome(None, OUT_OF_MEMORY, "no room")
    assert attempt(raising(MemoryError())).status == OUT_OF_MEMORY
    for error in (RuntimeError("a defect"), KeyError("x"), DataError("y")):
        with pytest.raises(type(error)):
            attempt(raising(error))


# --- parts of a spec


@dataclass(frozen=True)
class Inner:
    size: int | None = None
    name = "inner"
    label = "inner-4"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    weights: tuple[float, ...]
    name = "outer"
    label = "outer!"


def test_components_keep_every_value():
    component = component_of(Outer(Inner(4), (1.0, 2.5)))
    assert (component.name, component.label) == ("outer", "outer!")
    assert component.values["weights"] == [1.0, 2.5]
    assert component.values["inner"]["values"] == {"size": 4}
    specs = [
        Outer(Inner(4), (1.0, 2.5)), Outer(Inner(5), (1.0, 2.5)), Outer(Inner(), (1.0, 2.5)),
        Outer(Inner(4), (1.0, 2.0)), Inner(4),
    ]  # fmt: skip
    assert len({json.dumps(component_spec(part), sort_keys=True) for part in specs}) == len(specs)


def test_csv_leaves_missing_values_empty(tmp_path):
    rows = [{"a": 1, "b": math.nan, "c": 3}, {"b": "x,y"}]
    write_csv(tmp_path / "x.csv", ("b", "a"), rows)
    assert (tmp_path / "x.csv").read_text() == 'b,a\n,1\n"x,y",\n'
    write_csv(tmp_path / "x.csv", ("b", "a"), rows[:1], nan="nan")
    assert (tmp_path / "x.csv").read_text() == "b,a\nnan,1\n"


# --- one store


ROOT = Path(lexp.__file__).parent
FILES = [p for p in sorted(ROOT.rglob("*.py")) if p.relative_to(ROOT).parts[0] != "result_store"]
# What it takes to keep results elsewhere: where they lie, how they are sealed, who is newest.
OWN_STORES = (
    re.compile(r"\*?/?(eval|probes|finetune)(/.*)?"), re.compile(r"\*/analysis.*"),
    re.compile(r".*\.npz"),
)  # fmt: skip


def keeps_results(code: str) -> set[str]:
    """What of a store of results stands in a module's code."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and node.attr in ("st_mtime", "st_mtime_ns"):
            found.add(node.attr)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            words = [n.value for n in (node.left, node.right) if isinstance(n, ast.Constant)]
            found |= {w for w in words if any(p.fullmatch(str(w)) for p in OWN_STORES)}
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            words = [str(n.value) for n in node.args if isinstance(n, ast.Constant)]
            if name in ("glob", "rglob", "with_suffix", "joinpath", "savez", "savez_compressed"):
                found |= {w for w in words if any(p.fullmatch(w) for p in OWN_STORES)}
            if name.startswith("savez") or name in ("write_sealed", "read_sealed"):
                found.add(name)
    return found


# Token stores, what is remembered of their digests and the vocabulary's cache are sealed too. Times
# of files decide which leftovers are old, whether a text is read again, and whether a complete
# run looks at its texts again for a remark; no number depends on any of them.
ELSEWHERE = {
    "commands/train.py": {"st_mtime"},
    "data/shard_files.py": {"read_sealed", "write_sealed"},
    "data/store.py": {"read_sealed", "write_sealed"},
    "data/text.py": {"st_mtime"},
    "data/tokenizer.py": {"write_sealed", "read_sealed"},
    "data/unchanged.py": {"read_sealed", "st_mtime_ns", "write_sealed"},
    "data/work_folder.py": {"st_mtime"},
}


def test_no_module_but_results_keeps_results():
    found = {str(path.relative_to(ROOT)): keeps_results(path.read_text()) for path in FILES}
    assert {name: words for name, words in found.items() if words} == ELSEWHERE


def test_a_store_of_ones_own_would_be_seen():
    """The negative control: what such modules had."""
    code = """
path = folder / "eval" / f"{stem}.json"
for other in study.glob("*/probes/*.json"):
    newest = other.stat().st_mtime
write_sealed(path, row)
np.savez_compressed(path.with_suffix(".npz"), nats=nats)
"""
    assert keeps_results(code) == {
        "eval", "*/probes/*.json", "st_mtime", "write_sealed", "savez_compressed", ".npz",
    }  # fmt: skip
