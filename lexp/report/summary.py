"""What a report says before its sections: the answer, what is missing, what the numbers are of."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from lexp.config.settings import HfRunConfig, RunConfig, TrainConfig
from lexp.config.tasks import is_task
from lexp.display.document import Section
from lexp.report.protocol_section import HEADING, ProtocolReport
from lexp.result_store import NOT_DEFINED, Result
from lexp.system.text import counted

NOTHING_SCORED = "Reach and gain: not known, no losses were scored (lexp eval)."


def opening(reports: Sequence[ProtocolReport]) -> tuple[str, ...]:
    """Return the answer under the protocol with the most results, and where the others are."""
    if not reports:
        return (NOTHING_SCORED,)
    main = _main(reports)
    others = [report.protocol.label for report in reports if report is not main]
    if not others:
        return main.answer
    return (
        *main.answer,
        f"This is under {main.protocol.label}; the sections on {', '.join(others)} have their own "
        "answers. Numbers of different protocols do not compare.",
    )


def protocol_sections(reports: Sequence[ProtocolReport]) -> list[Section]:
    """Return the sections; several are told apart in words, and start with their own answers."""
    if len(reports) < 2:
        return [report.section for report in reports]
    main = _main(reports)
    words = Counter(report.words for report in reports)
    sections = []
    for report in reports:
        # Two of one protocol differ in its values.
        name = report.words if words[report.words] == 1 else report.protocol.label
        answer = [" ".join(report.answer)] * (report is not main)
        text = "\n\n".join([*answer, report.section.text])
        sections.append(replace(report.section, title=f"{HEADING}: {name}", text=text))
    return sections


def _main(reports: Sequence[ProtocolReport]) -> ProtocolReport:
    """Return the report with the most results among those whose lengths are paired, if any is."""
    paired = [report for report in reports if report.protocol.paired]
    return max(paired or reports, key=lambda report: report.n_results)


def missing(results: Sequence[Result], n_uneven: int, n_without: int, n_warnings: int) -> str:
    """Count what has no number, in one line; "" if nothing is missing.

    Combinations that are not defined are no part of it: no command could give them a number.
    n_uneven: means that lack a seed. n_without: runs without any result. n_warnings: while the
    results were read.
    """
    parts = []
    possible = [result for result in results if result.status != NOT_DEFINED]
    failed = Counter(result.status for result in possible if not result.ok)
    if failed:
        kinds = ", ".join(f"{n} {status}" for status, n in sorted(failed.items()))
        parts.append(
            f"{failed.total()} of {counted(len(possible), 'cell')} without a number ({kinds})"
        )
    parts += [f"{counted(n_uneven, 'mean')} without a seed"] * (n_uneven > 0)
    parts += [f"{counted(n_without, 'run')} without any result"] * (n_without > 0)
    parts += [f"{counted(n_warnings, 'warning')} while results were read"] * (n_warnings > 0)
    return f"Missing: {'; '.join(parts)}." if parts else ""


def facts(
    configs: Sequence[RunConfig],
    parameters: Iterable[int | None],
    scored: Iterable[str],
    n_cells: int,
    date: str,
) -> str:
    """Return one line: size, parameters, tokens, text, seeds, date.

    parameters: of each run, None where it is not known. scored: names of the data sets that were
    scored.
    """
    sizes: dict[str, set[int]] = {}
    for config, count in zip(configs, parameters, strict=True):
        sizes.setdefault(config.size.name, set()).update([count] if count else [])
    models = {config.model.name for config in configs}
    of_size = "; ".join(
        f"{name}, {_range(counts, _rounded)} parameters" if counts else name
        for name, counts in sizes.items()
    )
    trained = [config for config in configs if isinstance(config, TrainConfig)]
    lengths = _range({config.train_len for config in configs}, str)
    words = f"{counted(len(models), 'model')} ({of_size}) trained"
    texts = sorted({config.dataset.name for config in trained})
    if trained:
        tokens = _range({int(config.tokens) for config in trained}, _rounded)
        vocabularies = ", ".join(sorted({config.tokenizer.name for config in trained}))
        words += f" on {tokens} tokens of {', '.join(texts)} ({vocabularies})"
    is_of_tasks = all(is_task(config.dataset.values) for config in configs)
    words += f" in rows of {lengths} tokens" if is_of_tasks else f" at length {lengths}"
    words += ", some elsewhere" * (
        bool(trained) and any(isinstance(config, HfRunConfig) for config in configs)
    )
    others = sorted(set(scored) - set(texts))
    words += f", scored on {', '.join(others)}" * bool(others)
    seeds = sorted({config.seed for config in configs})
    spread = "one seed" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    return f"{words}; {spread}; {counted(n_cells, 'cell')}; {date}."


def _range(values: set[int], text: Callable[[int], str]) -> str:
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def _rounded(n: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:.3g}{letter}"
    return str(n)
