"""What the results of a row have in common, and the words that tell rows of one method apart."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lexp.evaluate import EvalResult, text_names
from lexp.system.text import counted


class Scored(NamedTuple):
    """What a number depends on beside the model and the method: only equal ones compare.

    documents, targets: digests of what was scored of the text. The same targets are other bytes in
    another vocabulary.
    """

    text: str
    vocabulary: str
    precision: str
    documents: str
    targets: str


def scored_of(result: EvalResult) -> Scored:
    """Return what a result's numbers depend on beside the model and the method."""
    run, scored = result.run, result.scored
    return Scored(run.text, run.vocabulary, run.precision, scored.documents, scored.targets)


def row_key(result: EvalResult) -> tuple:
    """Return what results of one step and row have in common: everything but seed and length."""
    run, method = result.run, (result.pattern.label, result.extension.label)
    return run.model, run.variant, result.protocol.label, *method, scored_of(result)


@dataclass(frozen=True)
class RowNames:
    """The words that tell apart the rows of some results, where there is anything to tell apart.

    texts: name by fingerprint. precisions: there are. amounts: what was scored of a text, by
    protocol and Scored; empty if every protocol scored the same tokens of a text in all rows.
    """

    texts: Mapping[str, str]
    precisions: frozenset[str]
    amounts: Mapping[tuple[str, Scored], str]

    def amount(self, result: EvalResult) -> str:
        """Return what was scored of the text, such as `8192 tokens`, or ""."""
        return self.amounts.get((result.protocol.label, scored_of(result)), "")

    def where(self, result: EvalResult) -> str:
        """Return everything that tells a row from others of its model and method, or ""."""
        texts = [self.texts[result.run.text]] * (len(self.texts) > 1)
        scored = ", ".join(filter(None, (*texts, self.amount(result))))
        words = [f"on {scored}"] * bool(scored)
        words += [f"in {result.run.precision}"] * (len(self.precisions) > 1)
        return " ".join(words)


def row_names(results: Sequence[EvalResult]) -> RowNames:
    """Return what tells the rows of results apart."""
    return RowNames(
        text_names(result.run for result in results),
        frozenset(result.run.precision for result in results),
        _amounts(results),
    )


def _amounts(results: Iterable[EvalResult]) -> dict[tuple[str, Scored], str]:
    """Name what was scored, by protocol and Scored; nothing where that is one thing per text."""
    by_text: dict[tuple[str, str, str], dict[str, list[EvalResult]]] = {}
    for result in results:
        place = result.protocol.label, result.run.text, result.run.vocabulary
        by_text.setdefault(place, {}).setdefault(result.scored.targets, []).append(result)
    if all(len(by_targets) == 1 for by_targets in by_text.values()):
        return {}
    amounts: dict[tuple[str, Scored], str] = {}
    for (protocol, _, _), by_targets in by_text.items():
        for form in (_tokens, _tokens_and_documents, _digest):
            words = {targets: form(same) for targets, same in by_targets.items()}
            if len(set(words.values())) == len(words):
                break
        for targets, same in by_targets.items():
            amounts |= {(protocol, scored_of(result)): words[targets] for result in same}
    return amounts


def _tokens(results: Sequence[EvalResult]) -> str:
    # Where lengths score different tokens, their number says more of the lengths.
    if not results[0].protocol.paired:
        return counted(results[0].documents, "document")
    return counted(max(result.tokens for result in results), "token")


def _tokens_and_documents(results: Sequence[EvalResult]) -> str:
    return f"{_tokens(results)} of {counted(results[0].documents, 'document')}"


def _digest(results: Sequence[EvalResult]) -> str:
    return f"{_tokens(results)} ({results[0].scored.targets})"
