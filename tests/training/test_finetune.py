"""Fine-tuning: measures against their definitions, a made task that is learned, and its control."""

import csv
import json
import random

import numpy as np
import pytest
import torch

from lexp.attention import make_attend
from lexp.commands.finetune import finetune_
from lexp.commands.train import train
from lexp.config.validation import read_finetune
from lexp.data.labelled import LabelledDataset, LabelledFiles, LabelledHub
from lexp.model.classifier import Classifier, joined
from lexp.model.layers import LayerEntry
from lexp.model.transformer import Dims, Transformer
from lexp.pattern import Bidirectional
from lexp.statistics.scores import MEASURES
from lexp.system.errors import ConfigError, DataError, OutOfMemory
from lexp.system.files import config_folder
from support.config import compose
from support.schemes import CPU, make
from support.training import folder_of

GLUE = sorted(p.stem for p in (config_folder() / "task" / "glue").glob("*.yaml"))
# Wang et al. 2019, Table 1: tasks with their measures, and whether a row has two texts.
TABLE = {
    "cola": (["matthews"], 1, 2), "sst2": (["accuracy"], 1, 2), "mrpc": (["accuracy", "f1"], 2, 2),
    "stsb": (["pearson", "spearman"], 2, 1), "qqp": (["accuracy", "f1"], 2, 2),
    "mnli": (["accuracy"], 2, 3), "qnli": (["accuracy"], 2, 2), "rte": (["accuracy"], 2, 2),
    "wnli": (["accuracy"], 2, 2),
}  # fmt: skip


def test_measures_are_their_definitions():
    """By hand, of 8 answers: 3 true positives, 1 false positive, 2 false negatives, 2 negatives."""
    truths = np.array([1, 1, 1, 1, 1, 0, 0, 0])
    answers = np.array([1, 1, 1, 0, 0, 1, 0, 0])
    assert MEASURES["accuracy"](answers, truths) == 5 / 8
    assert MEASURES["f1"](answers, truths) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    of_two = (3 * 2 - 1 * 2) / np.sqrt((3 + 1) * (3 + 2) * (2 + 1) * (2 + 2))
    assert MEASURES["matthews"](answers, truths) == pytest.approx(of_two)
    assert MEASURES["matthews"](np.zeros(8), truths) == MEASURES["f1"](np.zeros(8), 0 * truths) == 0
    x, y = np.array([1.0, 2.0, 3.0, 10.0]), np.array([2.0, 1.0, 3.0, 4.0])
    a, b = x - x.mean(), y - y.mean()
    assert MEASURES["pearson"](x, y) == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert MEASURES["spearman"](x, y) == pytest.approx(1 - 6 * 2 / (4 * 15))  # two ranks off by one
    assert MEASURES["pearson"](0 * x, y) == MEASURES["spearman"](x, 0 * y) == 0


def test_pairs_are_joined_and_the_longer_text_gives_way():
    assert joined([[1, 2, 3]], 9, 2) == [1, 2]
    assert joined([[1, 2], [3]], 9, 4) == [1, 2, 9, 3]
    assert joined([[1, 2, 3, 4], [5]], 9, 4) == [1, 2, 9, 5]
    assert joined([[1], [5, 6, 7, 8]], 9, 4) == [1, 9, 5, 6]
    assert joined([[1, 2, 3, 4], [5, 6, 7, 8]], 9, 6) == [1, 2, 3, 9, 5, 6]
    for a in range(1, 9):
        for b in range(9):
            assert len(joined([[1] * a, [2] * b], 9, 6)) == min(6, a + b + 1)


def test_a_text_is_classified_alike_alone_and_in_a_batch():
    torch.manual_seed(0)
    trunk = Transformer(Dims(2, 32, 4, 8, 64), 51, [LayerEntry(lambda: make("tisa"))])
    model = Classifier(trunk, 3).double()
    assert model.separator == 51 and model.trunk.embedding.num_embeddings == 52
    tokens = torch.randint(52, (2, 11))
    lengths = torch.tensor([11, 6])
    attend = make_attend(Bidirectional(), 11, trunk.schemes, CPU, lengths)
    together = model(tokens, lengths, attend)
    attend = make_attend(Bidirectional(), 6, trunk.schemes, CPU)
    alone = model(tokens[1:, :6], lengths[1:], attend)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", GLUE)
def test_glue_is_what_the_benchmark_says(name):
    settings = read_finetune(compose("finetune", f"task=glue/{name}", "run=x"))
    labelled = settings.task.build(LabelledDataset, "task")
    measures, n_texts, n_classes = TABLE[name]
    assert labelled.measures == measures and len(labelled.columns) == n_texts
    assert labelled.n_classes == n_classes and labelled.hub.config == name
    assert labelled.hub.path == "nyu-mll/glue"


def test_every_task_of_glue_is_there():
    assert sorted(TABLE) == GLUE


def rows(seed: int, n: int) -> list[dict]:
    """Letters; class 1 where a stands more often than o: all of them count."""
    rng, made = random.Random(seed), []
    while len(made) < n:
        text = "".join(rng.choice("aaooxyz ") for _ in range(rng.randint(10, 24)))
        a, o = text.count("a"), text.count("o")
        if abs(a - o) > 1:
            made.append({"text": text, "label": int(a > o)})
    return made


def write(path, made) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))


@pytest.fixture
def trained(tiny):
    config = tiny("objective=mlm", "model=tisa", "train_len=32")
    train(config)
    return folder_of(config)


def run_task(folder, tmp_path, *overrides: str) -> list[dict[str, str]]:
    finetune_(compose(
        "finetune", "task=text", f"task.train={tmp_path}/learn.jsonl",
        f"task.validation={tmp_path}/held_out.jsonl", f"run={folder}", "epochs=4", "lr=1e-2",
        "device=cpu", "precision=float32", *overrides,
    ))  # fmt: skip
    return list(csv.DictReader((folder.parent / "finetune.csv").open()))


def test_a_task_is_learned_and_its_shuffled_labels_are_not(trained, tmp_path, capsys):
    """Held-out accuracy far above chance; with the same texts and labels at random, chance."""
    learn, held_out = rows(0, 400), rows(1, 200)
    assert not {r["text"] for r in learn} & {r["text"] for r in held_out}
    write(tmp_path / "learn.jsonl", learn)
    write(tmp_path / "held_out.jsonl", held_out)
    found = run_task(trained, tmp_path)
    assert [row["epoch"] for row in found] == ["1", "2", "3", "4"]
    last = found[-1]
    assert float(last["accuracy"]) > 0.8 and 0.4 < float(last["chance"]) < 0.6
    assert (last["n_train"], last["n_held_out"], last["task"]) == ("400", "200", "text")
    assert (last["model"], last["objective"], last["seed"]) == ("tisa", "mlm", "0")
    labels = [row["label"] for row in learn]
    random.Random(2).shuffle(labels)
    write(tmp_path / "learn.jsonl", [{**r, "label": y} for r, y in zip(learn, labels, strict=True)])
    both = run_task(trained, tmp_path)
    assert len(both) == 8
    (control,) = [r for r in both if r["epoch"] == "4" and r not in found]
    assert abs(float(control["accuracy"]) - 0.5) < 0.15
    # The same command does nothing more; another seed is another row.
    capsys.readouterr()
    assert run_task(trained, tmp_path) == both
    assert "is there, nothing to do" in capsys.readouterr().err
    files = list((trained / "finetune").glob("*.json"))
    assert len(files) == 2 and all("sha256" in json.loads(f.read_text()) for f in files)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(trained, tmp_path):
    write(tmp_path / "learn.jsonl", rows(0, 64))
    write(tmp_path / "held_out.jsonl", rows(1, 32))
    first = run_task(trained, tmp_path, "epochs=1")
    (path,) = (trained / "finetune").glob("*.json")
    path.unlink()
    assert run_task(trained, tmp_path, "epochs=1") == first
    both = run_task(trained, tmp_path, "epochs=1", "seed=1")
    assert len({row["loss"] for row in both}) == 2


def test_pairs_with_numbers_through_datasets(trained, tmp_path):
    """Columns, label and measures as of stsb, loaded by `datasets` from a folder like a hub's."""
    rng, folder = random.Random(0), tmp_path / "pairs"
    folder.mkdir()
    for split, n in (("train", 200), ("validation", 60)):
        made = []
        for _ in range(n):
            first = "".join(rng.choice("ab") for _ in range(8))
            same = rng.randint(0, 1)
            made.append({"sentence1": first, "sentence2": ("a" if same else "b") * 8,
                         "label": 5.0 * same, "idx": 0})  # fmt: skip
        write(folder / f"{split}.jsonl", made)
    finetune_(compose(
        "finetune", "task=glue/stsb", f"task.path={folder}", "task.config=null", f"run={trained}",
        "epochs=3", "lr=1e-2", "device=cpu", "precision=float32",
    ))  # fmt: skip
    found = list(csv.DictReader((trained.parent / "finetune.csv").open()))
    assert float(found[-1]["pearson"]) > 0.8 and float(found[-1]["spearman"]) > 0.8
    assert found[-1]["accuracy"] == "" and found[-1]["task"] == "glue_stsb"


def test_labels_and_columns_that_are_not_there_are_named(tmp_path):
    path, rest = tmp_path / "x.jsonl", ("label", 2, ["accuracy"])
    for row, words in (
        ({"text": "a", "label": 2}, "x.jsonl: line 1: label=2: expected a class from 0 to 1"),
        ({"text": "a", "label": True}, "label=True: expected a class"),
        ({"text": "a"}, "label=None: expected a class"),
        ({"texts": "a", "label": 1}, "no column 'text'; it has texts, label"),
    ):
        write(path, [row])
        with pytest.raises(DataError, match=words):
            LabelledFiles(str(path), str(path), ["text"], *rest).examples("train")
    write(path, [{"text": "a", "label": float("nan")}])
    with pytest.raises(DataError, match="expected a number"):
        LabelledFiles(str(path), str(path), ["text"], "label", 1, ["pearson"]).examples("train")
    with pytest.raises(DataError, match="cannot be loaded"):
        LabelledHub(
            str(tmp_path / "nothing" / "here"), None, None, "train", "dev", ["text"], *rest
        ).examples("train")


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["lr=0"], "lr=0"), (["epochs=0"], "epochs=0"), (["max_len=2"], "max_len=2"),
        (["task.measures=[bleu]"], "task.measures=bleu .one of accuracy"),
        (["task.columns=[a,b,c]"], "one or two columns"),
        (["task.columns=[text,text]"], "'text', 'text'. and label=label: a field would be read"),
        (["task.columns=[text,label]"], "label=label: a field would be read twice; name each once"),
        (["run=/nowhere"], "run=/nowhere: not the folder of a finished run"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_said_first(trained, tmp_path, overrides, words):
    with pytest.raises(ConfigError, match=words):
        run_task(trained, tmp_path, *overrides)


def test_causal_runs_are_refused(tiny, tmp_path):
    config = tiny("model=rope")
    train(config)
    with pytest.raises(ConfigError, match="fine-tuning is for runs of objective=mlm"):
        run_task(folder_of(config), tmp_path)


def test_running_out_of_memory_is_said_in_a_line(trained, tmp_path, monkeypatch):
    write(tmp_path / "learn.jsonl", rows(0, 8))
    write(tmp_path / "held_out.jsonl", rows(1, 8))

    def full(*arguments):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(Classifier, "forward", full)
    with pytest.raises(OutOfMemory, match="a smaller batch_size= needs less .now 32"):
        run_task(trained, tmp_path)
    assert not (trained / "finetune").exists()
