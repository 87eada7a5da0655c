"""Wrong input, and studies whose files are damaged or missing: all else is shown."""

import json
from pathlib import Path

import numpy as np
import pytest

from lexp.evaluate import EVALUATIONS
from lexp.result_store import ArrayFile, read_newest
from lexp.scoring.losses import read_losses
from lexp.system.errors import DataError
from lexp.system.files import read_sealed, sha256, write_sealed
from support.forked import completed
from support.studies import LONGEST, Study, bumpy, shifted

REACH = f"Reach and gain, segments-{LONGEST}"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "outputs")


@pytest.fixture
def scored(study) -> Study:
    for model in ("rope", "alibi"):
        study.line(study.run(model), shifted(bumpy()))
    return study


def told(study: Study, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of the command, without the one that says how much is read."""
    result = completed("report", f"outputs={study.outputs}", *arguments, cwd=study.outputs.parent)
    assert "Traceback" not in result.stderr, result.stderr
    lines_ = result.stderr.strip().splitlines()
    if lines_[0].startswith("lexp: reading "):
        lines_ = lines_[1:]
    if result.returncode == 0:
        page = study.folder / "report" / "report.html"
        assert f"open: {page.resolve().as_uri()}" in lines_
    return result.returncode, lines_


BAD = {
    "name=nothing": (2, "no run in", "studies there: default"),
    "baseline=xpos": (2, "baseline=xpos", "there are alibi, rope"),
    "judge=xpos": (2, "judge=xpos", "rope-nano-", "alibi-nano-"),
    "model=xpos": (2, "model=xpos", "has runs of alibi, rope"),
    "delta=-0.1": (2, "delta=-0.1", "from 0"),
    "last_k=0": (2, "last_k=0", "at least 1"),
    "key_alpha=0": (2, "key_alpha=0", "above 0"),
    "show=some": (2, "show=some", "answer or all"),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_its_exit_code(scored, words):
    code, *parts = BAD[words]
    got, said = told(scored, words)
    assert got == code and len(said) == 1 and said[0].startswith("lexp: "), said
    assert all(part in said[0] for part in parts), said
    assert not (scored.folder / "report").exists()


def test_a_study_without_cells_says_what_to_do(study):
    study.run()
    code, said = told(study)
    assert code == 2 and len(said) == 1 and "score some with `lexp eval`" in said[0]


DAMAGED = {
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 64])
    + data[len(data) // 2 + 1 :],
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "gone": None,
    "of another cell": "swapped",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_report_shows_all_but_the_damaged_cell(study, damage):
    run = study.run()
    study.line(run, shifted(bumpy(), **{"64": 0.5, "256": 0.0, "512": 0.25}))
    paths = {int(np.load(p)["length"]): p for p in run.folder.glob("eval/*.npz")}
    path, change = paths[512], DAMAGED[damage]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(
            paths[64].read_bytes() if change == "swapped" else change(path.read_bytes())
        )
    with pytest.warns(UserWarning, match=path.name):
        study.report()
    (row,) = study.table("Perplexity per token, segments-1024")
    assert row["512"] == "damaged" and row["64"] and row["256 (trained)"]
    (failure,) = study.table("Cells without a number")
    assert failure["lengths"] == "512" and str(path) in failure["reason"]
    (reach,) = study.table(REACH)
    assert reach["reach"] == "256"  # not beyond the damaged cell
    assert path.name in (study.folder / "report/report.md").read_text()


def resealed(path: Path, **arrays) -> None:
    """Other arrays in a cell's file, with the digests of one who wants them to be taken."""
    with np.load(path) as stored:
        np.savez(path, **{**dict(stored), **arrays})
    row = read_sealed(path.with_suffix(".json"))
    write_sealed(path.with_suffix(".json"), {**row, "arrays_sha256": sha256(path)})


FOREIGN = {
    "losses": lambda old: {"nats": old["nats"] + np.float32(0.5)},
    "length": lambda old: {"length": np.int64(32)},
    "protocol": lambda old: {"protocol": np.str_("prefix-1024")},
    "fewer": lambda old: {name: old[name][1:] for name in ARRAYS},
}  # fmt: skip
ARRAYS = ("nats", "document", "position", "context", "bytes")


@pytest.mark.parametrize("what", FOREIGN)
def test_losses_that_are_not_those_of_their_record_are_noticed(study, what):
    path = study.cell(study.run(), 64, bumpy()).with_suffix(".npz")
    with np.load(path) as stored:
        changed = FOREIGN[what](dict(stored))
    (result,) = read_newest(study.folder, EVALUATIONS)
    result.check_arrays()
    resealed(path, **changed)
    (result,) = read_newest(study.folder, EVALUATIONS)
    with pytest.raises(DataError, match="another evaluation"):
        result.check_arrays()


def test_any_damage_of_losses_is_found_and_said(study, tmp_path):
    """Cut anywhere, or with any bit of it turned: the same losses, or a line about the file."""
    path = study.cell(study.run(), 64, bumpy(2, 40)).with_suffix(".npz")
    file = ArrayFile(path, sha256(path))
    whole, truth = path.read_bytes(), read_losses(file)
    copy, n_found = tmp_path / "copy.npz", 0
    damaged = [whole[:n] for n in range(0, len(whole), 7)] + [b"", b"\x93NUMPY"]
    for n in range(0, len(whole), 2):
        other = bytearray(whole)
        other[n] ^= 1 << n // 2 % 8
        damaged.append(bytes(other))
    for data in damaged:
        copy.write_bytes(data)
        with pytest.raises(DataError, match="is damaged"):
            read_losses(ArrayFile(copy, file.sha256))
        try:  # with a digest made anew
            found = read_losses(ArrayFile(copy, sha256(copy)))
        except DataError as error:
            assert str(copy) in str(error)
            n_found += 1
        else:
            np.testing.assert_array_equal(found.nats, truth.nats)
    assert n_found > len(damaged) // 2


@pytest.mark.parametrize("column", ["document", "nats", "position"])
def test_arrays_that_are_no_losses_are_refused(study, column):
    path = study.cell(study.run(), 64, bumpy()).with_suffix(".npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    wrong = {"document": arrays["document"] + 1, "nats": arrays["document"],
             "position": arrays["nats"]}  # fmt: skip
    resealed(path, **{column: wrong[column]})
    with pytest.warns(UserWarning, match="is not a file of losses"):
        study.report()
    (row,) = study.table("Perplexity per token, segments-1024")
    assert row["64"] == "damaged"


def test_a_run_whose_folder_lost_its_config_is_named_and_left_out(scored):
    (config,) = scored.folder.glob("alibi*/config.json")
    config.unlink()
    code, said = told(scored)
    assert code == 0 and config.parent.name in said[0] and "left out" in said[0]
    assert {row["model"] for row in scored.table(REACH)} == {"rope"}
    next(scored.folder.glob("rope*/config.json")).unlink()
    code, said = told(scored)
    assert code == 2 and len(said) == 1 and "no run in" in said[0]


@pytest.mark.parametrize("damage", ["not JSON", "[]", "{}", "no settings", "an edited one"])
def test_a_damaged_config_is_exit_code_4(scored, damage):
    (config,) = scored.folder.glob("alibi*/config.json")
    stored = json.loads(config.read_text())
    if damage == "no settings":
        damage = json.dumps({**stored, "settings": {}})
    elif damage == "an edited one":
        stored["settings"]["seed"] = "x"
        damage = json.dumps(stored)
    config.write_text(damage)
    code, said = told(scored)
    assert code == 4 and len(said) == 1 and str(config) in said[0]
    if damage == "[]":
        code, said = told(scored, "model=rope")
        assert code == 0


def test_a_cell_that_is_no_cell_is_like_none(scored):
    before = {p.name: p.read_text() for p in scored.report().glob("*.csv")}
    folder = next(scored.folder.glob("rope*/eval"))
    for name, text in (("x", "{"), ("y", "[]"), ("z", '{"nll": 1}')):
        (folder / f"{name}.json").write_text(text)
    with pytest.warns(UserWarning, match=r"eval/[xyz]\.json is left out"):
        assert {p.name: p.read_text() for p in scored.report().glob("*.csv")} == before
