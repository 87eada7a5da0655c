"""Kernels on a device against the reference in float64: errors of outputs and all gradients."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from contestants import Shape, schemes
from torch import Tensor

from lexp.attention import MakeAttend, Reference
from lexp.pattern import Full
from lexp.position import Position
from lexp.system.errors import first_line

# Largest root mean square error, as a share of the root mean square of what is right.
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
SCHEMES = ("nope", "rope", "xpos", "alibi", "t5", "kerple_log", "tisa", "fire", "fox")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def parity(
    shape: Shape, kernels: dict[str, MakeAttend], is_over: Callable[[], bool]
) -> Iterator[str]:
    """Yield a table: each scheme by each kernel, in float32 and bfloat16."""
    yield ""
    yield f"## Parity: {shape.n_heads} heads of {shape.head_dim}, {shape.seq_len} tokens, 2 texts"
    yield ""
    yield "| scheme | kernel | precision | error of outputs | of gradients | within the limit |"
    yield "| --- | --- | --- | ---: | ---: | --- |"
    makers = schemes(shape)
    for scheme in SCHEMES:
        torch.manual_seed(0)
        position = makers[scheme]().to(shape.device)
        for kernel, make in kernels.items():
            for dtype, limit in LIMITS.items():
                row = f"| {scheme} | {kernel} | {str(dtype).removeprefix('torch.')} | "
                if is_over():
                    yield f"{row}left out: the time was over | | |"
                    continue
                try:
                    out, gradients = errors(make, position, shape, dtype)
                except Exception as error:  # not defined, out of memory: a row like any other
                    yield f"{row}{first_line(error)[:120].replace('|', '/')} | | |"
                    continue
                said = "yes" if max(out, gradients) <= limit else f"no, {limit:g}"
                yield f"{row}{out:.1e} | {gradients:.1e} | {said} |"


def errors(
    make: MakeAttend, position: Position, shape: Shape, dtype: torch.dtype
) -> tuple[float, float]:
    """Return the errors of the output, and of that gradient which is furthest off."""
    inputs = drawn(shape, dtype)
    attend = make(Full(), shape.seq_len, [position], shape.device)
    found = with_gradients(attend, position, inputs)
    exact = copy.deepcopy(position).double()
    reference = Reference(Full(), shape.seq_len, exact, shape.device)
    q, k, v, x = inputs
    right = with_gradients(reference, exact, (q.double(), k.double(), v.double(), x.double()))
    shares = [error(ours, theirs) for ours, theirs in zip(found, right, strict=True)]
    return shares[0], max(shares[1:])


def drawn(shape: Shape, dtype: torch.dtype) -> Inputs:
    """Return queries, keys and values in a precision, and the layer's input in float32."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    sizes = 2, shape.n_heads, shape.seq_len, shape.head_dim
    q, k, v = (draw(sizes).to(shape.device, dtype) for _ in range(3))
    return q, k, v, draw(2, shape.seq_len, shape.d_model).to(shape.device)


def with_gradients(attend: Any, position: Position, inputs: Inputs) -> list[Tensor]:
    """Return the output, and the gradients of q, k, v and of all parameters of the scheme at once.

    At once, because that of a parameter may be 0: softmax does not see what is added to all keys.
    """
    q, k, v = (t.detach().requires_grad_() for t in inputs[:3])
    out = attend(q, k, v, position, inputs[3])
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=out.device)
    learned = [p for p in position.parameters() if p.requires_grad]
    loss = (out.double() * weight.view(out.shape).cos()).sum()
    d_q, d_k, d_v, *of_learned = torch.autograd.grad(loss, [q, k, v, *learned])
    of_scheme = [torch.cat([one.flatten() for one in of_learned])] if learned else []
    return [out.detach(), d_q, d_k, d_v, *of_scheme]


def error(found: Tensor, right: Tensor) -> float:
    """Return the root mean square error over the root mean square of what is right."""
    right = right.double()
    size = right.square().mean().sqrt().clamp_min(1e-30)
    return ((found.double() - right).square().mean().sqrt() / size).item()
