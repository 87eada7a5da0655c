"""The model card of an exported run: what it was trained on, how to load it, its loss by length."""

from collections.abc import Sequence
from dataclasses import dataclass

from lexp import __version__
from lexp.display.table import in_markdown, to_markdown
from lexp.evaluate import LAST, EvalResult, TaskResult
from lexp.report.perplexity_table import caption, make_grid, metrics_in_order, to_table
from lexp.report.results import stored_evaluations, stored_tasks
from lexp.report.tasks import by_task, task_table
from lexp.runs.run import Run

HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- length-extrapolation
# Choose a licence and state it here before you publish the model.
# license:
---
"""
USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
```
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card says besides results.

    title: of the schemes. source: what was read as training texts, "" where the name says it.
    extension: label of the extension that is written into the config, "" for none.
    """

    run: Run
    title: str
    model_class: str
    parameters: int
    dataset: str
    source: str
    tokenizer: str
    n_tokens: int
    train_len: int
    length: int
    extension: str


def evaluations_of(run: Run) -> tuple[list[EvalResult], list[TaskResult]]:
    """Return what is stored of a run's final weights: evaluations on texts, and on tasks."""
    study = run.folder.parent
    texts = [r for r in stored_evaluations(study) if (r.run.name, r.step) == (run.name, LAST)]
    tasks = [r for r in stored_tasks(study) if (r.run.name, r.step) == (run.name, LAST)]
    return texts, tasks


def longest_evaluated(run: Run) -> int:
    """Return the longest context in tokens at which a run was scored; 0 if it was not."""
    texts, _ = evaluations_of(run)
    return max((result.length for result in texts if result.ok), default=0)


def model_card(facts: CardFacts) -> str:
    """Return README.md."""
    run, source = facts.run, f" ({facts.source})" if facts.source else ""
    said = [
        f"{facts.title} language model with {facts.parameters:,} parameters, trained by lexp "
        f"{__version__} and written as {facts.model_class} of transformers.",
        f"Trained on: {facts.dataset}{source}, {facts.n_tokens:,} tokens in windows of "
        f"{facts.train_len}; seed {run.settings['seed']}; fingerprint of the texts "
        f"{run.fingerprint[:16] or 'unknown'}.",
        f"Tokenizer: {facts.tokenizer}. No token was put in front of texts in training: encode "
        "with add_special_tokens=False.",
        f"The config is for contexts of up to {facts.length} tokens; trained were "
        f"{facts.train_len}. As transformers runs it, attention is full."
        + (f" Positions are changed by {facts.extension}." if facts.extension else ""),
    ]
    lines = [f"# {in_markdown(run.name)}", "", *(f"{in_markdown(line)}\n" for line in said)]
    texts, tasks = evaluations_of(run)
    use = USE + "\nIt needs `transformers` 5: version 4 reads rotary settings under other names.\n"
    return "\n".join([HEAD, *lines, use, *_text_tables(texts), *_task_tables(tasks, run)])


def _text_tables(results: Sequence[EvalResult]) -> list[str]:
    """Return a table for each protocol, in Markdown."""
    labels = list(dict.fromkeys(result.protocol.label for result in results))
    pieces = []
    for label in labels:
        same = [result for result in results if result.protocol.label == label]
        pieces.append(to_markdown(to_table(make_grid(metrics_in_order(same)[0], same, {}))))
    if results:
        pieces.append("  \n".join(map(in_markdown, caption(list(results)))) + "\n")
    return ["## Loss by context length\n", *pieces] if pieces else []


def _task_tables(results: Sequence[TaskResult], run: Run) -> list[str]:
    """Return a table for each task, in Markdown."""
    pieces = []
    for same, notes in by_task(results, [run]):
        pieces.append(to_markdown(task_table(same, notes)))
    return ["## Exact match by problem length\n", *pieces] if pieces else []
