"""Sensitivity to the order of earlier tokens, layer by layer (after Zuo and Guerzhoy 2024).

"Breaking Symmetry When Training Transformers", arXiv 2402.05969: without a causal mask and without
positions, the prediction after token n does not change when tokens 1 .. n-1 change places. Of the
residual stream f_l(x)_n after layer l at the last of the n tokens x, and permutations pi of the
tokens before it, the last one staying where it is:

    change_l = mean over texts and pi of |f_l(pi x)_n - f_l(x)_n| / |f_l(x)_n|

It is 0 up to rounding in every layer of a model with neither mask nor positions, and in the first
layer of a causal one without positions: its last query sees the same keys. Cases:

    as trained      the model under its pattern
    no mask         the same weights, each query seeing all keys: what positions alone tell (where
                    the pattern is plain attention, and the scheme is defined for later keys)
    no residual r   layer r passes on mixer(norm(x)) in place of x + mixer(norm(x)), its attention's
                    residual connection removed; the paper trains models without some
    other tokens    the tokens before the last one are those of another text: what order and
                    content change together

Permutations are drawn from one seed: all models, layers and cases see the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lexp.attention import Attend, make_attend, refuse_meaningless
from lexp.display.document import Chart, Curve, Picture
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.over_seeds import by_kind, finite_mean, in_order, over_seeds
from lexp.model.transformer import Block, Transformer
from lexp.pattern import Bidirectional, Pattern
from lexp.system.errors import NotDefined

TRAINED, NO_MASK, NO_RESIDUAL, OTHER = "as trained", "no mask", "no residual", "other tokens"


@dataclass(frozen=True)
class Permutation(Instrument):
    """Change of the last token's state when earlier tokens change places, layer by layer.

    permutations: of each text.
    """

    permutations: int = 8

    name = "permutation"

    def __post_init__(self) -> None:
        if not 1 <= self.permutations <= 1_000_000:
            raise ValueError(f"permutations must be from 1 to 1000000, got {self.permutations}")

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return a row for each case and layer."""
        if inputs.seq_len < 3:
            raise NotDefined("permutation needs texts of 3 tokens or more: two tokens to exchange")
        model, pattern = inputs.model, inputs.pattern
        orders = drawn_orders(inputs.seq_len, self.permutations).to(inputs.texts.device)
        permuted = [text[orders] for text in inputs.texts]
        changes = {TRAINED: change(inputs, permuted, pattern)}
        if pattern.sees_all and is_defined(Bidirectional(), model):
            changes[NO_MASK] = change(inputs, permuted, Bidirectional())
        if all(isinstance(block, Block) for block in model.blocks):
            for layer in range(len(model.blocks)):
                changed = change(inputs, permuted, pattern, without_residual=layer)
                changes[f"{NO_RESIDUAL} {layer + 1}"] = changed
        if len(inputs.texts) > 1:
            others = inputs.texts.roll(1, dims=0).clone()
            others[:, -1] = inputs.texts[:, -1]
            changes[OTHER] = change(inputs, list(others[:, None]), pattern)
        rows: list[Row] = [
            {"measure": "change", "case": case, "layer": layer, "value": value}
            for case, values in changes.items()
            for layer, value in enumerate(values)
        ]
        return Measurement(tuple(rows))

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return a table of all cases and layers, and a chart of the trained models by layer."""
        return [table(results), chart(results)]

    def summary(self, result: LabelledMeasurement) -> dict[str, float]:
        """Return the change after the last layer."""
        return {"change by order": values_of(result, TRAINED)[-1]}


def drawn_orders(n: int, count: int) -> Tensor:
    """Return permutations of 0 .. n-1 that leave the last where it is, [count, n]."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(n - 1, generator=generator) for _ in range(count)]
    return torch.stack([torch.cat([order, torch.tensor([n - 1])]) for order in orders])


def is_defined(pattern: Pattern, model: Transformer) -> bool:
    """Return True if the pattern means something to all layers of the model."""
    try:
        refuse_meaningless(pattern, model.schemes)
    except NotDefined:
        return False
    return all(model.attending)


def change(
    inputs: AnalysisInput,
    variants: Sequence[Tensor],
    pattern: Pattern,
    without_residual: int | None = None,
) -> list[float]:
    """Return the mean relative change of the last state after each layer.

    variants: of each text, token ids [count, n]. without_residual: a layer, from 0.
    """
    model, n = inputs.model, inputs.seq_len
    attend = make_attend(pattern, n, model.schemes, inputs.texts.device)
    total = torch.zeros(len(model.blocks), dtype=torch.float64)
    for text, rows in zip(inputs.texts, variants, strict=True):
        plain = last_states(model, text, attend, without_residual)
        for row in rows:
            other = last_states(model, row, attend, without_residual)
            total += (other - plain).norm(dim=-1) / plain.norm(dim=-1) / len(rows)
    return (total / len(inputs.texts)).tolist()


def last_states(
    model: Transformer, tokens: Tensor, attend: Attend, without_residual: int | None
) -> Tensor:
    """Return the last token's state after each layer, float64 [layers, d_model], on the CPU."""
    states: list[Tensor] = []

    def after(block: nn.Module, arguments: tuple[Tensor, ...], out: Tensor) -> None:
        states.append(out[0, -1].double().cpu())

    with torch.no_grad(), residual_removed(model, without_residual):
        # Layers may share one block, which then runs once for each of them.
        handles = [block.register_forward_hook(after) for block in dict.fromkeys(model.blocks)]
        try:
            model.hidden(tokens[None], attend)
        finally:
            for handle in handles:
                handle.remove()
    return torch.stack(states)


@contextmanager
def residual_removed(model: Transformer, layer: int | None) -> Iterator[None]:
    """Within one forward pass: a layer passes on what its mixer gives, without its own input.

    layer: None for no layer.
    """
    if layer is None:
        yield
        return
    read: list[Tensor] = []

    def before(block: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        read.append(arguments[0])

    def after(mixer: nn.Module, arguments: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out - read[layer] if len(read) == layer + 1 else out

    handles = []
    for block in dict.fromkeys(model.blocks):  # layers may share one
        assert isinstance(block, Block), "measure asks for no others"
        handles.append(block.register_forward_pre_hook(before))
        handles.append(block.mixer.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def values_of(result: LabelledMeasurement, case: str) -> list[float]:
    """Return the change after each layer in a case."""
    return [float(row["value"]) for row in result.measurement.rows if row["case"] == case]


def table(results: Sequence[LabelledMeasurement]) -> Table:
    """Show the change after each layer: a row for each model and case, a mean over seeds."""
    n_layers = max(len(values_of(result, TRAINED)) for result in results)
    rows = []
    for kind, same in sorted(by_kind(results).items(), key=lambda item: in_order(item[0])):
        for case in dict.fromkeys(str(row["case"]) for r in same for row in r.measurement.rows):
            seeds = [values for r in same if (values := values_of(r, case))]
            means = [finite_mean(values) for values in zip(*seeds, strict=True)]
            numbers = [f"{value:.3f}" for value in means] + [""] * (n_layers - len(means))
            labels = kind.name, f"{kind.method} {kind.length}", case
            rows.append(tuple(map(TableCell, (*labels, *numbers))))
    heads = [str(n + 1) for n in range(n_layers)]
    kept = [r for r in results if not values_of(r, f"{NO_RESIDUAL} 1")]
    return Table(
        "Sensitivity to the order of earlier tokens, by layer",
        ("model", "method", "case", *heads),
        tuple(rows),
        3,
        (
            "|f(pi x) - f(x)| / |f(x)| of the residual stream at the last token, mean over texts, "
            "permutations and seeds; 0: the model does not know the order.",
            "no mask: same weights, each query seeing all keys. no residual r: layer r without the "
            "residual connection of its attention. other tokens: another text before the last one.",
            *(
                f"{name}: residual connections stay, only lexp's own layers can lose one."
                for name in sorted({kind.name for kind in by_kind(kept)})
            ),
        ),
    )


def chart(results: Sequence[LabelledMeasurement]) -> Chart:
    """Draw the change against the layer, by model and method, at each model's longest length."""
    longest = max(result.length for result in results)
    curves = []
    for kind, same in by_kind([r for r in results if r.length == longest]).items():
        layers = zip(*(values_of(result, TRAINED) for result in same), strict=True)
        points = tuple(over_seeds(n, values) for n, values in enumerate(layers, 1))
        curves.append(Curve(kind.name, kind.method, points, own_x=True))
    return Chart(
        f"Sensitivity to the order of earlier tokens at {longest} tokens", "layer",
        "relative change of the last token's state", False, False, tuple(curves), (),
        "Mean over texts and permutations.",
    )  # fmt: skip
