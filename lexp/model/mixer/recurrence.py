"""The recurrence behind GLA, RetNet, Mamba-2, Gated DeltaNet and KDA, computed in chunks.

    S_t = (I - e_t k_t k_t^T) diag(a_t) S_{t-1} + w_t k_t v_t^T,    o_t = S_t^T q_t

S is a matrix [Dk, Dv] per head. The decays a_t are one number per head (RetNet, Mamba-2, Gated
DeltaNet) or one per key channel (GLA, KDA); e_t = 0 in GLA, RetNet and Mamba-2. Decay comes before
erasure, as in KDA's equation 1; where a_t is one number, the order makes no difference.

With u_t = w_t v_t - e_t (diag(a_t) S_{t-1})^T k_t the update is diag(a_t) S_{t-1} + k_t u_t^T, so
that all u of a chunk follow from the state at its beginning by one triangular system (Yang et al.
2024, arXiv 2406.06484, section 3; Yang et al. 2024, arXiv 2412.06464, section 3.3).

Decays are products of gates between two tokens. They are computed as sums of the log gates between
those two tokens, never as a difference of sums from the chunk's beginning: no decay exceeds 1, and
nothing cancels after a gate near 0. Per channel, the sums meet at the middle of a chunk, then at
the middles of its halves, and so on (GLA's secondary chunks, arXiv 2312.06635, section 4.3, go two
levels deep).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64


def recur(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    write: Tensor | None = None,
    erase: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return outputs o [B, H, T, Dv] and the state after the last token [B, H, Dk, Dv].

    q, k [B, H or 1, T, Dk]: heads may share them. v [B, H, T, Dv].
    log_decay: log a_t, at most 0, -inf allowed; [B, H, T, 1] or [B, H, T, Dk].
    write, erase: w_t and e_t, [B, H, T]; None stands for 1 and 0.
    state: the state before the first token; None stands for zeros.
    chunk: tokens per chunk, a power of 2. float32, or float64 where v is float64.
    """
    if chunk < 1 or chunk & (chunk - 1):
        raise ValueError(f"chunk must be a power of 2, got {chunk}")
    with torch.autocast(v.device.type, enabled=False):
        dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
        q, k, v, log_decay = (x.to(dtype) for x in (q, k, v, log_decay))
        n_tokens = v.shape[2]
        size = min(chunk, 1 << (n_tokens - 1).bit_length())
        if write is not None:
            v = v * write.to(dtype).unsqueeze(-1)
        if state is None:
            state = v.new_zeros(*v.shape[:2], k.shape[-1], v.shape[-1])
        rates = None if erase is None else into_chunks(erase.to(dtype).unsqueeze(-1), size)
        q, k, v, log_decay = (into_chunks(x, size) for x in (q, k, v, log_decay))
        out, state = _over_chunks(q, k, v, log_decay, rates, state.to(dtype))
    return out.flatten(2, 3)[:, :, :n_tokens], state


def _over_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, erase: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the outputs of all chunks [B, H, N, C, Dv] and the last state; inputs as cut."""
    since_start = log_decay.cumsum(-2).exp()
    until_end = _sum_after(log_decay).exp()
    whole = since_start[..., -1, :, None].unbind(2)  # [B, H, 1 or Dk, 1] of each chunk
    written = (k * until_end).mT
    rows = [q] if erase is None else [q, k]
    seen, *same = decayed_products(rows, k, log_decay)
    states = []
    if erase is None:
        u = v
        for kept, added in zip(whole, (written @ u).unbind(2), strict=True):
            states.append(state)
            state = kept * state + added
    else:
        given = torch.cat([v, erase * k * since_start], dim=-1)
        solved = torch.linalg.solve_triangular(
            erase * same[0], given, upper=False, unitriangular=True
        )
        news, reads = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
        parts = (x.unbind(2) for x in (news, reads, written))
        updates = []
        for kept, new, read, to_state in zip(whole, *parts, strict=True):
            states.append(state)
            updates.append(new - read @ state)
            state = kept * state + to_state @ updates[-1]
        u = torch.stack(updates, dim=2)
    return (q * since_start) @ torch.stack(states, dim=2) + seen @ u, state


def into_chunks(x: Tensor, size: int) -> Tensor:
    """Cut x [B, H, T, D] into chunks, [B, H, N, size, D]; zeros fill the last one."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))


def decayed_products(rows: list[Tensor], k: Tensor, log_decay: Tensor) -> list[Tensor]:
    """Return sum_c row_ic k_jc a_{j+1,c} ... a_ic for j <= i, and 0 above; [..., C, C] per row.

    rows: tensors [..., C, Dk], as k; log_decay: [..., C, 1 or Dk].
    """
    if log_decay.shape[-1] == 1:
        decays = _between(log_decay.squeeze(-1)).exp()
        return [(row @ k.mT) * decays for row in rows]
    size = k.shape[-2]
    if size == 1:
        return [(row * k).sum(-1, keepdim=True) for row in rows]
    halves = [x.unflatten(-2, (2, size // 2)) for x in (*rows, k, log_decay)]
    *later, (k_first, _), (first, second) = (x.unbind(-3) for x in halves)
    to_middle, from_middle = _sum_after(first).exp(), second.cumsum(-2).exp()
    keys = (k_first * to_middle).mT
    corners = [(row[1] * from_middle) @ keys for row in later]
    diagonals = decayed_products(halves[:-2], halves[-2], halves[-1])
    return [
        _lower(both[..., 0, :, :], both[..., 1, :, :], corner)
        for both, corner in zip(diagonals, corners, strict=True)
    ]


def _lower(first: Tensor, second: Tensor, corner: Tensor) -> Tensor:
    """Return the block matrix of two diagonal blocks, a corner below and zeros above."""
    above = torch.cat([first, torch.zeros_like(first)], dim=-1)
    return torch.cat([above, torch.cat([corner, second], dim=-1)], dim=-2)


def _sum_after(x: Tensor) -> Tensor:
    """Return the sums of x [..., C, D] over the places after each."""
    return F.pad(x[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


def _between(x: Tensor) -> Tensor:
    """Return sums of x [..., C] over j < t <= i, [..., i, j]; -inf where j > i."""
    size = x.shape[-1]
    later = torch.ones(size, size, dtype=torch.bool, device=x.device).tril(-1)
    each = x.unsqueeze(-1).expand(*x.shape, size)
    return each.masked_fill(~later, 0.0).cumsum(-2).masked_fill(later.mT, -torch.inf)
