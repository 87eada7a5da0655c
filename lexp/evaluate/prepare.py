"""A model made ready to run by a method at a length, or the reason why there is no such model."""

from collections.abc import Iterator

from lexp.attention import refuse_meaningless
from lexp.evaluate.fit import find_or_fit, fit_steps
from lexp.evaluate.model_under_test import Method, ModelUnderTest
from lexp.extension import Extension, Fitted, Lengths, Sample
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern, refuse_nothing_replaced, replaced
from lexp.result_store import attempt
from lexp.system.errors import NotDefined
from lexp.training.objective import refuse_other_attention


def prepare(tested: ModelUnderTest, method: Method, length: int) -> tuple[Transformer, Pattern]:
    """Return the model as a method runs it at a length, and the pattern with its sizes.

    What an extension fits is found in the run's folder, or fitted now. NotDefined with the reason
    if the method has no meaning there.
    """
    model, pattern = prepare_unfitted(tested, method, length)
    if isinstance(method.extension, Fitted):
        find_or_fit(tested, method, length, model)
    return model, pattern


def prepare_unfitted(
    tested: ModelUnderTest, method: Method, length: int
) -> tuple[Transformer, Pattern]:
    """Return the same without any fit: an extension with fitted numbers has those of its start."""
    lengths = Lengths(tested.run.train_len, length, method.longest)
    return under_method(
        tested.model, tested.trained, method, lengths, tested.sample, tested.extended
    )


def under_method(
    model: Transformer,
    trained: Pattern,
    method: Method,
    lengths: Lengths,
    sample: Sample,
    extended: str,
) -> tuple[Transformer, Pattern]:
    """Return a trained model without any fit, and its pattern.

    trained: pattern of training; sample, extended: see ModelUnderTest.
    """
    pattern = replaced(trained, method.pattern.fit(lengths.train_len, lengths.length))
    refuse_nothing_replaced(trained, method.pattern)
    refuse_other_attention(trained, pattern)
    refuse_second(extended, method.extension)
    model = method.extension.extend(model, pattern, lengths, sample)
    refuse_beyond(model, lengths.length)
    refuse_meaningless(pattern, model.schemes)
    return model, pattern


def fit_ahead(tested: ModelUnderTest, method: Method, length: int) -> Iterator[str]:
    """Fit what a method needs at a length and is not stored; yield each step in words.

    Where that fails, so does the result that needs it, which then has the reason.
    """
    if not isinstance(method.extension, Fitted):
        return
    outcome = attempt(lambda: prepare_unfitted(tested, method, length))
    if outcome.value is None:
        return
    steps = fit_steps(tested, method, length, outcome.value[0])
    while (words := attempt(lambda: next(steps, None)).value) is not None:
        yield words


def refuse_second(extended: str, extension: Extension) -> None:
    """Raise NotDefined for another change of positions of a model trained with one."""
    if extended and type(extension) is not Extension and not extension.only_scales:
        raise NotDefined(
            f"{extension.name} is for a scheme as first trained, this model was trained with "
            f"{extended}: use extension=[none] (as trained), or one that only multiplies scores"
        )


def refuse_beyond(model: Transformer, length: int) -> None:
    """Raise NotDefined if a scheme of the model ends before this length."""
    for position in model.schemes:
        if position.max_len is not None and length > position.max_len:
            raise NotDefined(f"{position.title} ends at {position.max_len} tokens")
