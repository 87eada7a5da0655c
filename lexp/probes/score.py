"""A model's answers to examples: likelihoods, ranks, and what the planted information was worth.

Answers are teacher-forced, not generated. Logits are computed at the places of answers only.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from lexp.attention import Attend
from lexp.model.transformer import Transformer
from lexp.probes.base import Probe, ProbeExample

# Tokens in one forward pass.
BATCH_TOKENS = 16384


@dataclass(frozen=True)
class Scores:
    """Answers to n examples; N answer tokens in all, in order, `example` [N] says whose.

    nll, control_nll, gain [N]: nats of the right token after the needle, after the control, and the
    second less the first. rank, control_rank [N]: among all tokens, 1 the likeliest, ties counted
    against it. distance [N]: tokens from the needle's token to the answer's. depth, correct [n].
    candidate_rank: of each answer ([n], or [N] where each token is one); empty without candidates.
    """

    depth: np.ndarray
    correct: np.ndarray
    candidate_rank: np.ndarray
    example: np.ndarray
    distance: np.ndarray
    nll: np.ndarray
    control_nll: np.ndarray
    gain: np.ndarray
    rank: np.ndarray
    control_rank: np.ndarray

    @property
    def finite(self) -> bool:
        """Return True if every likelihood is a finite number."""
        return bool(np.isfinite(self.nll).all() and np.isfinite(self.control_nll).all())

    @property
    def example_gain(self) -> np.ndarray:
        """Return the mean gain of each example's answer tokens, float64 [n]."""
        return np.bincount(self.example, self.gain) / np.bincount(self.example)


ARRAYS = tuple(field.name for field in fields(Scores))


@dataclass(frozen=True)
class Answer:
    """The result of one pass for one example: nll and rank [A] of its answer tokens.

    log_probs [A, V] only where candidates are read off them.
    """

    nll: Tensor
    rank: Tensor
    log_probs: Tensor | None


def score_examples(
    probe: Probe,
    model: Transformer,
    examples: list[ProbeExample],
    attend: Attend,
    autocast: AbstractContextManager,
    advance: Callable[[int], None] = lambda n_tokens: None,
) -> Scores:
    """Score examples of one length. advance: told of tokens read."""
    length = len(examples[0].tokens) - 1
    per_batch = max(1, BATCH_TOKENS // length)
    rows: list[dict[str, np.ndarray]] = []
    for begin in range(0, len(examples), per_batch):
        batch = examples[begin : begin + per_batch]

        # Every pass has the same shape: where inputs are equal, so are the numbers, to the bit.
        def ask(texts: list[np.ndarray], keep: bool = False) -> list[Answer]:
            places = [example.answer for example in batch]  # noqa: B023
            answers = _answers(model, texts, places, attend, autocast, keep)
            advance(len(texts) * length)
            return answers

        right = ask([e.tokens for e in batch], keep=probe.one_token)
        control = ask([e.control for e in batch])
        if probe.one_token:
            ranks = [_rank_of_tokens(a, e) for a, e in zip(right, batch, strict=True)]
        else:
            n_others = probe.n_candidates - 1
            others = [ask([_with_answer(e, k) for e in batch]) for k in range(n_others)]
            ranks = [_rank_of_answer(right[n], [o[n] for o in others]) for n in range(len(batch))]
        for example, a, c, rank in zip(batch, right, control, ranks, strict=True):
            rows.append(_row(len(rows), example, a, c, rank))
    return Scores(**{name: np.concatenate([row[name] for row in rows]) for name in ARRAYS})


def _answers(
    model: Transformer,
    texts: list[np.ndarray],
    places: list[np.ndarray],
    attend: Attend,
    autocast: AbstractContextManager,
    keep: bool,
) -> list[Answer]:
    device = next(model.parameters()).device
    tokens = torch.from_numpy(np.stack(texts)).to(device)
    with torch.inference_mode():
        with autocast:
            hidden = model.hidden(tokens[:, :-1], attend)
        # The head at full precision: in bfloat16 many logits would tie, and ranks be too high.
        hidden = hidden.to(model.head.weight.dtype)
        answers = []
        for row, place in enumerate(places):
            at = torch.from_numpy(place).to(device)
            log_probs = model.head(hidden[row, at - 1]).cpu().double().log_softmax(-1)
            right = log_probs.gather(1, tokens[row, at, None].cpu())
            rank = (log_probs >= right).sum(1)
            answers.append(Answer(-right[:, 0], rank, log_probs if keep else None))
    return answers


def _with_answer(example: ProbeExample, k: int) -> np.ndarray:
    tokens = example.tokens.copy()
    tokens[example.answer] = example.others[k]
    return tokens


def _rank_of_answer(right: Answer, others: list[Answer]) -> np.ndarray:
    """Rank the whole answer by total likelihood: int64 [1], or [0] without others."""
    if not others:
        return np.zeros(0, dtype=np.int64)
    total = right.nll.sum()
    # A comparison with NaN is false, so NaN counts against the answer too.
    return np.array([1 + sum(not other.nll.sum() > total for other in others)])


def _rank_of_tokens(right: Answer, example: ProbeExample) -> np.ndarray:
    """Rank each answer token among the others at its place, int64 [A]."""
    assert right.log_probs is not None, "kept for probes of one token"
    others = right.log_probs.gather(1, torch.from_numpy(example.others.T.copy()))  # [A, K]
    return 1 + (others >= -right.nll[:, None]).sum(1).numpy()


def _row(
    index: int, example: ProbeExample, right: Answer, control: Answer, candidate_rank: np.ndarray
) -> dict[str, np.ndarray]:
    nll, control_nll = right.nll.numpy(), control.nll.numpy()
    rank = right.rank.numpy()
    return {
        "depth": np.array([example.depth]),
        "correct": np.array([bool((rank == 1).all())]),
        "candidate_rank": candidate_rank,
        "example": np.full(len(nll), index),
        "distance": example.answer - example.source,
        "nll": nll,
        "control_nll": control_nll,
        "gain": control_nll - nll,
        "rank": rank,
        "control_rank": control.rank.numpy(),
    }
