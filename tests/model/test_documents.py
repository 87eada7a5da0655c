"""Attention within the documents of packed rows: a document's loss is its loss alone."""

import copy
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf

from lexp.attention import RowLayout, WithinDocuments, fold_documents, make_attend
from lexp.commands.run_parts import make_model, make_positions, training_pattern
from lexp.commands.train_reading import make_reading
from lexp.config.schema import plain
from lexp.config.settings import TrainConfig
from lexp.config.validation import read_train
from lexp.model.chunked_cross_entropy import IGNORED
from lexp.system.errors import ConfigError
from support.config import compose
from support.schemes import MODELS

N, VOCABULARY = 16, 40
# Rows whose documents begin here: of several sizes, one of a single token.
STARTS = ((0, 9, 10), (0, 6))
SIZE = (
    "size.d_model=16", "size.n_heads=2", "size.head_dim=8", "size.d_ff=16", f"train_len={N}",
    "batch_tokens=32", "reading=packed", "reading.mask=document",
)  # fmt: skip


@cache
def composed():
    return compose("train", *SIZE)


def settings_of(model: str) -> TrainConfig:
    """The settings of a model with a layer for each of its entries."""
    config = copy.deepcopy(composed())
    OmegaConf.set_struct(config, False)
    config.model = MODELS[model]
    config.size.n_layers = len(MODELS[model].get("layers") or [1])
    return read_train(plain(config))


def rows():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (len(STARTS), N), generator=generator)
    targets = torch.randint(VOCABULARY, (len(STARTS), N), generator=generator)
    starts = torch.zeros(len(STARTS), N, dtype=torch.bool)
    for row, firsts in zip(starts, STARTS, strict=True):
        row[list(firsts)] = True
    targets[:, :-1][starts[:, 1:]] = IGNORED
    return tokens, targets, starts


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_of_a_document_in_a_packed_row_is_its_loss_alone(name):
    try:
        settings = settings_of(name)
    except ConfigError as error:  # then there are no texts to pack
        assert "its positions follow from the problems of a task" in str(error)
        return
    if any(position.samples_positions for position in make_positions(settings)):
        with pytest.raises(ConfigError, match="samples positions for whole rows"):
            make_reading(settings)
        return
    make_reading(settings)
    torch.manual_seed(1)
    model = make_model(settings, VOCABULARY).double().eval()
    pattern, (tokens, targets, starts) = training_pattern(settings), rows()

    @cache
    def attend_at(length: int):
        return make_attend(pattern, length, model.schemes, torch.device("cpu"))

    documents = fold_documents(starts)
    layout = RowLayout(documents=documents)
    packed = model.loss(tokens, targets, WithinDocuments(attend_at, documents), layout)
    alone = packed.new_zeros(())
    for row, firsts in enumerate(STARTS):
        for first, end in zip(firsts, (*firsts[1:], N), strict=True):
            piece = slice(first, end)
            inputs = tokens[row : row + 1, piece], targets[row : row + 1, piece]
            alone = alone + model.loss(*inputs, attend_at(end - first))
    assert torch.allclose(packed, alone, rtol=1e-12)
    ours, theirs = gradients(model, packed), gradients(model, alone)
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        # Learned functions of distances (FIRE) are computed in float32.
        assert torch.allclose(ours[key], gradient, rtol=1e-5, atol=1e-8), key


def test_pieces_are_padded_by_less_than_half_and_come_back_in_their_places():
    starts = torch.zeros(2, 512, dtype=torch.bool)
    starts[0, [8, 17, 41, 90, 180, 181, 500]] = True
    fold = fold_documents(starts)
    # Pieces of 8, 9, 24, 49, 90, 1, 319 and 12 tokens, and a whole row.
    assert [tuple(group.shape) for group in fold.groups] == [
        (2, 8), (2, 12), (1, 24), (1, 64), (1, 96), (1, 384), (1, 512)
    ]  # fmt: skip
    x = torch.arange(2 * 512.0).view(2, 512, 1)
    pieces = fold.fold(x)
    assert pieces[2][0, :, 0].tolist() == list(range(17, 41))
    assert pieces[1][0, :, 0].tolist() == [*range(8, 17), 16, 16, 16]
    assert fold.unfold(pieces).equal(x)
    places = [0, 7, 8, 16, 17, 180, 181, 499, 500]
    assert fold.positions[0, places].tolist() == [0, 7, 0, 8, 0, 0, 0, 318, 0]
    assert fold.positions[1].equal(torch.arange(512))
