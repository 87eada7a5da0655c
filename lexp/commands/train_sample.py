"""The sample of text that training ends with: how the model continues a validation text."""

from lexp.data.tokenizer import Tokenizer
from lexp.model.decoder import Decoder
from lexp.scoring.generation import greedy_text
from lexp.system.errors import Diverged
from lexp.training.loop import TrainingJob
from lexp.training.validation import TextValidation

# Tokens of the validation text, and those generated, at most.
N_PROMPT, N_NEW = 24, 40


def sample_lines(job: TrainingJob, tokenizer: Tokenizer) -> list[str]:
    """Return the beginning of the first validation text and its greedy continuation, in one line.

    Both together are no longer than the texts of training. None of tasks and of masked models, nor
    of several ranks, which may each hold a part of the model. It is left in evaluation mode.
    """
    text, train_len = job.validation, job.settings.train_len
    if not isinstance(text, TextValidation) or job.pattern.two_sided or job.group.size > 1:
        return []
    n_prompt = min(N_PROMPT, max(1, train_len // 2))
    ids = text.tokens.window(0, 0, n_prompt).tolist()
    decoder = Decoder(job.model.eval(), job.pattern, min(n_prompt + N_NEW, max(2, train_len)))
    try:
        continued = greedy_text(decoder, ids, tokenizer, job.autocast)
    except Diverged:
        return []  # the losses, which are written, say it
    (begun,) = tokenizer.decode([ids])
    return [f"sample, greedy, after [{begun}]: {continued}"]
