"""The recurrences of linear mixers as their papers write them: token by token, in float64.

Each takes one sequence of one head: q, k [T, Dk], v [T, Dv], gates a [T, 1] or [T, Dk] between 0
and 1, and numbers e, w [T]; it returns outputs [T, Dv]. Nothing here calls lexp.
"""

import torch
from torch import Tensor


def gla(q: Tensor, k: Tensor, v: Tensor, a: Tensor, e: Tensor, w: Tensor) -> Tensor:
    """Yang et al. 2023, arXiv 2312.06635, equation 3: S_t = (a_t^T 1) * S_{t-1} + k_t^T v_t."""
    state, out = q.new_zeros(q.shape[1], v.shape[1]), []
    for t in range(len(q)):
        state = torch.outer(a[t], torch.ones_like(v[t])) * state + torch.outer(k[t], v[t])
        out.append(q[t] @ state)
    return torch.stack(out)


def retnet(q: Tensor, k: Tensor, v: Tensor, a: Tensor, e: Tensor, w: Tensor) -> Tensor:
    """Sun et al. 2023, arXiv 2307.08621, equation 5: o_n = sum_m gamma^(n-m) (q_n . k_m) v_m."""
    gamma, out = a[0, 0], []
    for n in range(len(q)):
        decays = gamma ** torch.arange(n, -1, -1, dtype=q.dtype)
        out.append((decays * (k[: n + 1] @ q[n])) @ v[: n + 1])
    return torch.stack(out)


def mamba2(q: Tensor, k: Tensor, v: Tensor, a: Tensor, e: Tensor, w: Tensor) -> Tensor:
    """Dao and Gu 2024, arXiv 2405.21060, equation 2: h_t = a_t h_{t-1} + w_t B_t x_t, y = C_t h_t.

    C, B and x are q, k and v; w is the step size.
    """
    columns = []
    for x in v.T:
        h, column = torch.zeros_like(k[0]), []
        for t in range(len(x)):
            h = a[t, 0] * h + w[t] * k[t] * x[t]
            column.append(q[t] @ h)
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1)


def gated_delta(q: Tensor, k: Tensor, v: Tensor, a: Tensor, e: Tensor, w: Tensor) -> Tensor:
    """Yang et al. 2024, arXiv 2412.06464, equation 10; their S is the transpose of ours.

    S_t = S_{t-1} a_t (I - e_t k_t k_t^T) + e_t v_t k_t^T,  o_t = S_t q_t.
    """
    state, out = q.new_zeros(v.shape[1], q.shape[1]), []
    one = torch.eye(q.shape[1], dtype=q.dtype)
    for t in range(len(q)):
        erased = one - e[t] * torch.outer(k[t], k[t])
        state = state @ (a[t, 0] * erased) + e[t] * torch.outer(v[t], k[t])
        out.append(state @ q[t])
    return torch.stack(out)


def kda(q: Tensor, k: Tensor, v: Tensor, a: Tensor, e: Tensor, w: Tensor) -> Tensor:
    """Kimi Team 2025, arXiv 2510.26692, equation 1.

    S_t = (I - e_t k_t k_t^T) Diag(a_t) S_{t-1} + e_t k_t v_t^T,  o_t = S_t^T q_t.
    """
    state, out = q.new_zeros(q.shape[1], v.shape[1]), []
    one = torch.eye(q.shape[1], dtype=q.dtype)
    for t in range(len(q)):
        erased = one - e[t] * torch.outer(k[t], k[t])
        state = erased @ torch.diag(a[t]) @ state + e[t] * torch.outer(k[t], v[t])
        out.append(state.T @ q[t])
    return torch.stack(out)
