"""The sentences of a report on tasks: how far each model and method generalises.

Models that have not learned their task are named, and no sentence says how far they generalise.
"""

from collections.abc import Mapping, Sequence

from lexp.evaluate import TaskResult
from lexp.report.tasks import (
    HOLDS,
    LEARNED,
    TaskSeries,
    learned_seeds,
    lengths_of,
    make_task_series,
    reach,
)


def task_answer(results: Sequence[TaskResult], notes: Mapping[str, str]) -> list[str]:
    """Return the sentences on one task; notes: by variant, what tells it apart."""
    series = make_task_series([result for result in results if not result.second_length], notes)
    if not series:
        return []
    learned = learned_seeds(series)
    plain = [one for one in series if one.is_plain]
    able = [one for one in plain if _most_learned(one, learned)]
    unable = [one.name for one in plain if _most_learned(one, learned) is False]
    task, trained = results[0].task.label, max(one.trained_length for one in series)
    sentences = []
    if able:
        parts = [f"{_names(names)} {length}" for length, names in _by_reach(able)]
        sentences.append(
            f"On {task}, trained to length {trained}, holds to: {'; '.join(parts)} (the median "
            f"seed answers at least {100 * HOLDS:.0f} %)."
        )
    elif not unable:
        sentences.append(
            f"On {task}: not known how far models generalise; score lengths up to {trained} with "
            "attention=[full] too, to see which have learned it."
        )
    if unable:
        sentences.append(
            f"Not learned{'' if able else f' on {task}'} (half of the seeds or more are below "
            f"{100 * LEARNED:.0f} % at trained lengths, so nothing is said of longer ones): "
            f"{_names(unable)}."
        )
    further = [
        (reach(one) or 0, f"{one.method} ({one.name})")
        for one in series
        for own in able
        if one.variant == own.variant and (reach(one) or 0) > (reach(own) or 0)
    ]
    if further:
        best = sorted(further, key=lambda pair: -pair[0])
        listed = "; ".join(f"{name} {length}" for length, name in best[:4])
        more = f"; and {len(best) - 4} more" * (len(best) > 4)
        sentences.append(f"Further with a method: {listed}{more}.")
    elif able and len(series) > len(plain):
        sentences.append("No method goes further.")
    return sentences


def _most_learned(
    series: TaskSeries, learned: Mapping[tuple[str, int], bool | None]
) -> bool | None:
    """Return whether more than half of the seeds have learned the task; None if not known."""
    states = [learned[series.variant, seed] for seed in series.seeds]
    if any(state is None for state in states):
        return None
    return 2 * sum(map(bool, states)) > len(states)


def _by_reach(series: Sequence[TaskSeries]) -> list[tuple[str, list[str]]]:
    """Return names by reach, the longest first; at the longest length asked it is a bound."""
    groups: dict[tuple[int, bool], list[str]] = {}
    for one in series:
        length = reach(one) or 0
        is_bound = length == max(lengths_of(one))
        groups.setdefault((length, is_bound), []).append(one.name)
    return [
        (f"at least {length}" if is_bound else str(length) if length else "none", names)
        for (length, is_bound), names in sorted(groups.items(), reverse=True)
    ]


def _names(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
