"""The results file of a study: its runs are not trained again; the others are, and are added."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from lexp.commands.study import command
from lexp.commands.study.command import check, study
from lexp.commands.study.jobs import training_runs
from lexp.commands.study.results_file import ALL_COLUMNS, read_results_file, rows_to_add
from lexp.commands.texts import TrainingTexts
from lexp.system.errors import ConfigError
from support.config import TINY, compose

SIZES = dict(word.split("=") for word in TINY if not word.startswith(("precision", "device")))
SCALE = {
    "train": [{"model": ["rope", "alibi"], "seed": 0, **SIZES}],
    "eval": [
        {"lengths": [8, 16, 32], "attention": ["full", "window"], "workers": 1},
        {
            "lengths": [8, 32],
            "attention": ["blockwise"],
            "protocol": ["fixed"],
            "model": "rope",
            "workers": 1,
        },
    ],
}
NOT_COMPARED = ("seconds", "commit", "run", "dataset")


@pytest.fixture
def made(tmp_path: Path, texts: Path):
    """Composes a study with a results file: made(folder of outputs, override ...)."""
    folder = tmp_path / "conf" / "study"
    folder.mkdir(parents=True)

    def make(outputs: str, *overrides: str, where: Path = texts, scale: dict = SCALE):
        at_scale = {**scale, "results": str(tmp_path / "new" / "results.csv")}
        node = {"name": "tiny", "claim": "c", "source": "s", "scales": {"mini": at_scale}}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(node, sort_keys=False))
        data = [f"dataset.{s}='{where}/{s}/*.txt'" for s in ("train", "validation", "test")]
        return compose(
            "study", f"hydra.searchpath=[file://{tmp_path}/conf]", "study=tiny", "dataset=text",
            *data, "device=cpu", "precision=float32",
            f"outputs={tmp_path}/{outputs}", *overrides,
        )  # fmt: skip

    return make


def runs_in(folder: Path) -> list[str]:
    return sorted(path.parent.name.split("-")[0] for path in folder.glob("*/*/done.json"))


def alike(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows in one order, without what differs from one run to the next."""
    kept = [{k: v for k, v in row.items() if k not in NOT_COMPARED} for row in rows]
    return sorted(kept, key=lambda row: json.dumps(row))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_only_runs_that_the_file_lacks_are_trained_and_their_rows_added(
    made, tmp_path, own_texts, capsys
):
    path = tmp_path / "new" / "results.csv"
    study(made("first"))
    first = rows_of(path)
    assert runs_in(tmp_path / "first") == ["alibi", "rope"]
    assert f"{path}: not there yet" in capsys.readouterr().err
    # rope: 3 lengths by 2 methods, and 2 under `fixed`; alibi: 3 by 2.
    assert [row["model"] for row in first] == ["rope"] * 8 + ["alibi"] * 6
    assert {row["command"] for row in first} == {"lexp study study=tiny scale=mini"}
    assert all(row["processor"] for row in first)
    for row in first:
        parts = [word.split("/") for word in row["by_document"].split()]
        assert len(parts) == int(row["documents"])
        assert sum(int(n) for _, n in parts) == int(row["tokens"])
        total = sum(float(nats) for nats, _ in parts)
        assert total / int(row["tokens"]) == pytest.approx(float(row["nll"]), abs=1e-5)

    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if ",window," not in line))
    study(made("elsewhere"))  # where no checkpoint is
    assert runs_in(tmp_path / "elsewhere") == [] and len(rows_of(path)) == 8
    said = capsys.readouterr().err
    assert f"{path}: rope seed 0 has no rows of window under segments-32; " in said
    assert "has no checkpoint to make them: remove its rows to train it again\n" in said
    study(made("first"))
    assert (
        "alibi seed 0 has no rows of window under segments-32: evaluated" in capsys.readouterr().err
    )
    assert alike(rows_of(path)) == alike(first)

    path.write_text("".join(line for line in lines if not line.startswith("alibi-")))
    study(made("second"))
    assert runs_in(tmp_path / "second") == ["alibi"]
    said = capsys.readouterr().err
    assert f"{path}: has 1 of 2 runs: rope seed 0" in said and "missing: alibi seed 0" in said
    assert (tmp_path / "second" / "tiny-mini" / "report" / "report.html").exists()
    assert alike(rows_of(path)) == alike(first)

    whole = path.read_text()
    study(made("third", where=own_texts))  # the same texts at another place
    assert runs_in(tmp_path / "third") == [] and path.read_text() == whole
    assert "missing: none" in capsys.readouterr().err

    other = next((own_texts / "train").glob("*.txt"))
    other.write_text(other.read_text() + "More of the same. ")
    study(made("fourth", where=own_texts))
    assert runs_in(tmp_path / "fourth") == ["alibi", "rope"] and path.read_text() == whole
    assert "its rows are of other texts than these: none is used" in capsys.readouterr().err


def row(**changed) -> dict:
    return {
        "run": "r", "variant": "v", "precision": "float32", "attention": "full",
        "extension": "none", "protocol": "segments-32", "length": 8, "nll": 2.0, **changed,
    }  # fmt: skip


def test_rows_of_other_weights_or_of_another_precision_are_not_mixed():
    there = [{key: str(value) for key, value in row().items()}, row(length="16", nll="nan")]
    new = row(attention="window")
    other = row(attention="window", precision="bfloat16")
    assert rows_to_add(there, [row(nll=2.00001), row(length=16, nll=1.0), new, other]) == [new]
    with pytest.raises(ConfigError, match="the checkpoint of r is not that of its rows"):
        rows_to_add(there, [row(nll=2.1), new])
    with pytest.raises(ConfigError, match="the checkpoint of r is not that of its rows"):
        rows_to_add(there, [row(attention="window", variant="w")])
    with pytest.raises(ConfigError, match=r"rows of r are in float32, .*; add precision=float32"):
        rows_to_add(there, [row(precision="bfloat16")])


def test_rows_of_a_scheme_of_ones_own_are_of_its_code(made, tmp_path, monkeypatch):
    own = {"model": "rope", "model.position._target_": "scheme_of_rows.Own", "seed": 0, **SIZES}
    scale = {"train": [own], "eval": [{"lengths": [8], "attention": ["full"], "workers": 1}]}
    code = tmp_path / "scheme_of_rows.py"
    code.write_text("from lexp.position import RoPE\n\n\nclass Own(RoPE):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LEXP_ALLOW", "scheme_of_rows")
    study(made("outputs", scale=scale))
    (run,) = training_runs(check(made("outputs", scale=scale))[2])
    file = read_results_file(tmp_path / "new" / "results.csv")
    assert len(file.rows_of(run, TrainingTexts())) == 1
    code.write_text(code.read_text() + "# changed\n")
    assert not file.rows_of(run, TrainingTexts())


def test_a_study_that_trains_nothing_has_no_results_file(made):
    with pytest.raises(ConfigError, match=r"results=.*results.csv: the study trains no runs; remo"):
        check(made("outputs", scale={"eval": [{"lengths": [8]}]}))


def test_without_a_results_file_everything_is_trained(made, tmp_path):
    path = tmp_path / "new" / "results.csv"
    study(made("outputs", "study.scales.mini.results=null"))
    assert runs_in(tmp_path / "outputs") == ["alibi", "rope"] and not path.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("+train.tokens=320", "train.tokens: .*results.csv is of the study as its file has it"),
        ("+eval.max_tokens=99", "eval.max_tokens: .*; remove it, or add study.scales.mini.results"),
        ("study.scales.mini.results=5", "results: 5: expected a .csv file, or null"),
        ("study.scales.mini.results=a.txt", "results: 'a.txt': expected a .csv file, or null"),
    ],
)
def test_a_study_that_its_results_file_cannot_be_of_is_refused(made, words, expected):
    with pytest.raises(ConfigError, match=expected):
        check(made("outputs", words))


def test_a_launcher_is_refused_where_a_file_grows_run_by_run(made, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "_launcher_words", lambda: ["hydra/launcher=local"])
    with pytest.raises(ConfigError, match=r"hydra/launcher=local: .*csv grows run by run"):
        study(made("outputs"))
    assert runs_in(tmp_path / "outputs") == []


HEADER = ",".join(ALL_COLUMNS)
DAMAGED = {
    "": "is no results file, whose first line is run,model,",
    "run,model\n": "is no results file",
    f"{HEADER}\na,b\n": f"line 2 has 2 values for {len(ALL_COLUMNS)} columns; remove the line",
    f'{HEADER}\n"a': "cannot be read",
}


@pytest.mark.parametrize("text", DAMAGED, ids=["empty", "columns", "short", "quote"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=DAMAGED[text]) as error:
        read_results_file(path)
    assert "\n" not in str(error.value)
