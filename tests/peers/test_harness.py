"""lm-evaluation-harness (0.4): its tasks through lexp, against its own `hf` model.

Tasks are files with data beside them, as hubs are out of reach here.
"""

import csv
import json
import math
from pathlib import Path

import pytest

from lexp.commands import harness as command
from lexp.data.tokenizer import with_token
from lexp.evaluate.harness_result import EXP_OF_MEAN, HARNESS, MEAN, OWN_SHOTS
from lexp.result_store import read_newest
from lexp.system.errors import ConfigError, Incomplete
from support.config import compose
from support.hf import CONFIGS, made, saved
from support.peers.ours import peer

lm_eval = peer("lm_eval")
# Short enough that few-shot prompts, whole texts and contexts of greedy text are cut.
LENGTH = 48
QUESTION = {"doc_to_text": "{{question}}", "test_split": "test", "dataset_path": "json"}
CHOICE = {
    **QUESTION, "output_type": "multiple_choice", "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer", "fewshot_split": "test",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True}
                    for name in ("acc", "acc_norm")],
}  # fmt: skip
TASKS = {
    "choice": CHOICE,
    "shown": {**CHOICE, "num_fewshot": 2, "process_docs": "!function helper.longer"},
    "whole": {
        **QUESTION, "output_type": "loglikelihood_rolling", "doc_to_text": "",
        "doc_to_target": "{{question}} {{choices | join(' ')}} and so on",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "last": {
        **QUESTION, "output_type": "loglikelihood", "doc_to_text": "{{question}} ",
        "doc_to_target": "{{choices[0]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "write": {
        **QUESTION, "output_type": "generate_until", "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["he"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "length", "aggregation": "mean", "higher_is_better": True}],
        "process_results": "!function helper.length",
    },
}  # fmt: skip
HELPER = """
def longer(docs):
    return docs.map(lambda doc: {"question": "one by one: " + doc["question"]})

def length(doc, results):
    return {"length": len(results[0]) + sum(map(ord, results[0])) / 1000}
"""
# The harness keeps names that it has indexed, so what fails is no part of the folder above.
REFUSED = {
    "sampled": ({**TASKS["write"], "generation_kwargs": {"do_sample": True, "temperature": 1.0}},
                "asks for random samples"),
    "runs": ({**CHOICE, "unsafe_code": True}, "runs code that the model writes"),
    "escapes": ({**CHOICE, "doc_to_text": "{{ ''.__class__.__mro__ }}"}, "SecurityError"),
    "shows": ({**CHOICE, "num_fewshot": 9}, "shows has too few examples to show 9 (shots=)"),
    "gone": ({**CHOICE, "dataset_kwargs": {"data_files": {"test": "/nowhere/x.jsonl"}}},
             "FileNotFoundError"),
}  # fmt: skip


def write_tasks(folder: Path, tasks: dict[str, dict]) -> Path:
    folder.mkdir()
    words = ["length", "text", "number", "tokens", "one", "return", "by", "in", "the", "of", "def"]
    docs = [
        {
            "question": " ".join(words[n % 7 : n % 7 + 3 + n % 4]) + ":",
            "choices": [words[(n + k) % 11] for k in range(2 + n % 3)],
            "answer": n % 2,
        }
        for n in range(9)
    ]
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, docs)))
    (folder / "helper.py").write_text(HELPER)
    for name, values in tasks.items():
        data = {"data_files": {"test": str(folder / "docs.jsonl")}}
        text = json.dumps({"task": name, "dataset_kwargs": data, **values})
        # JSON is YAML, but for a tag, which is not in quotes.
        for function in ("longer", "length"):
            text = text.replace(f'"!function helper.{function}"', f"!function helper.{function}")
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny GPT-NeoX whose vocabulary has a token that ends texts, as all published ones have."""
    folder = saved(CONFIGS["gpt_neox"](), tmp_path / "model")
    path = folder / "tokenizer.json"
    path.write_text(with_token(path.read_text(), "<|endoftext|>"))
    return folder


def run(tmp_path: Path, folder: Path, *overrides: str) -> list[dict[str, str]]:
    try:
        command.harness(compose(
            "harness", f"outputs={tmp_path}/outputs", "model=hf", f"path={tmp_path}/model",
            f"task_folder={folder}", f"lengths=[{LENGTH}]", "attention=[full]", "device=cpu",
            "precision=float32", *overrides,
        ))  # fmt: skip
    finally:
        table = tmp_path / "outputs" / "default" / "harness.csv"
        rows = list(csv.DictReader(table.open(newline=""))) if table.exists() else []
    return rows


def theirs(folder: Path, checkpoint: Path, names: list[str]) -> dict[str, dict[str, float]]:
    """Values and standard errors by the harness's own model and its own command's function."""
    import transformers
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(checkpoint / "tokenizer.json"), eos_token="<|endoftext|>",
        bos_token="<|endoftext|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    model = HFLM(
        pretrained=made(CONFIGS["gpt_neox"]()), tokenizer=tokenizer, max_length=LENGTH,
        batch_size=4, device="cpu",
    )  # fmt: skip
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=1000)
    return found["results"]


def test_values_and_standard_errors_are_those_of_the_harness_own_model(
    tmp_path, checkpoint, monkeypatch
):
    monkeypatch.setenv("LEXP_ALLOW", "helper")
    folder = write_tasks(tmp_path / "tasks", TASKS)
    (folder / "both.yaml").write_text(
        "group: both\ntask: [choice, shown]\n"
        "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]\n"
    )
    monkeypatch.setattr("lexp.commands.harness_tasks.TaskManager", own_tasks(), raising=True)
    names = [*TASKS, "both"]
    rows = run(tmp_path, folder, f"tasks=[{','.join(names)}]")
    expected = theirs(folder, checkpoint, list(TASKS))
    group = theirs(folder, checkpoint, ["both"])["both"]
    assert {row["status"] for row in rows} == {"ok"}
    found = {(row["asked"], row["task"], row["metric"]): row for row in rows}
    for name, metrics in {**expected, "both": group}.items():
        for key, value in metrics.items():
            metric, comma, _ = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            row = found[name, name, metric]
            assert float(row["value"]) == pytest.approx(value, rel=1e-4), (name, metric)
            stderr = metrics[key.replace(metric, f"{metric}_stderr")]
            told = float(row["stderr"]) if row["stderr"] else "N/A"
            assert told == (stderr if stderr == "N/A" else pytest.approx(stderr, rel=1e-4))
    assert len(found) == sum(len([k for k in m if "," in k]) for m in expected.values()) // 2 + 5
    # Of nine questions three have 2, 3 and 4 answers.
    chance = (1 / 2 + 1 / 3 + 1 / 4) / 3
    assert float(found["choice", "choice", "acc"]["chance"]) == pytest.approx(chance)
    assert float(found["both", "both", "acc"]["chance"]) == pytest.approx(chance)
    assert found["shown", "shown", "acc"]["shots"] == "2"
    assert found["both", "both", "acc"]["shots"] == str(OWN_SHOTS)  # 0 and 2
    assert not found["last", "last", "acc"]["chance"]

    check_questions(tmp_path)

    # The same command computes nothing; another version of a task's own code does.
    monkeypatch.setattr(
        "lexp.evaluate.harness_run._answers", lambda *_: pytest.fail("computed again")
    )
    assert run(tmp_path, folder, "tasks=[write]") == rows
    (folder / "helper.py").write_text(HELPER.replace("/ 1000", "/ 999"))
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        run(tmp_path, folder, "tasks=[write]")


def check_questions(tmp_path: Path) -> None:
    """Check that values and standard errors follow from the stored values of single questions."""
    checked = set()
    for result in read_newest(tmp_path / "outputs" / "default", HARNESS):
        for n, questions in result.of_questions().items():
            value, total = result.values[n], questions.sizes.sum()
            mean = questions.sums.sum() / total
            shown = math.exp(mean) if value.follows == EXP_OF_MEAN else mean
            assert shown == pytest.approx(value.value, rel=1e-6)
            if value.follows == MEAN and not value.is_group and (questions.sizes == 1).all():
                error = questions.sums.std(ddof=1) / len(questions.sums) ** 0.5
                assert error == pytest.approx(value.stderr, rel=1e-6, nan_ok=True)
            checked.add((result.asked, value.metric))
    assert checked >= {
        ("choice", "acc"), ("both", "acc"), ("whole", "word_perplexity"),
        ("whole", "bits_per_byte"), ("last", "perplexity"), ("write", "length"),
    }  # fmt: skip


def own_tasks():
    """The index without the thousands of files of the package."""
    from lm_eval.tasks import TaskManager

    return lambda **given: TaskManager(**{**given, "include_defaults": False})


def test_what_is_not_run_says_why_and_the_rest_is(tmp_path, checkpoint, monkeypatch, capsys):
    monkeypatch.setenv("LEXP_ALLOW", "helper")
    monkeypatch.setattr("lexp.commands.harness_tasks.TaskManager", own_tasks())
    tasks = {name: values for name, (values, _) in REFUSED.items()}
    folder = write_tasks(tmp_path / "tasks", {**tasks, "choice": CHOICE})
    with pytest.raises(
        Incomplete, match="5 tasks of 6 failed: escapes, gone, runs, sampled, shows"
    ):
        run(tmp_path, folder, f"tasks=[{','.join(REFUSED)},choice]", "limit=2")
    out = capsys.readouterr().out
    for _, reason in REFUSED.values():
        assert reason in out
    rows = run(tmp_path, folder, "tasks=[choice]", "limit=2")
    assert {row["documents"] for row in rows if row["status"] == "ok"} == {"2"}
    with pytest.raises(ConfigError, match=r"tasks=choise: .* no such task; did you mean choice"):
        run(tmp_path, folder, "tasks=[choise]")
