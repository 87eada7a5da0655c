"""`lexp generate`: the continuation is the one that scoring the text as a whole would choose."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lexp.attention import make_attend
from lexp.cli.overrides import split_prompt
from lexp.commands import generate as command
from lexp.commands.generate import check, generate_, read_prompt
from lexp.commands.run_parts import make_model
from lexp.commands.select_runs import final_checkpoint, read_config
from lexp.commands.train import train
from lexp.extension import DynamicNTK, Extension, Lengths
from lexp.model import decoder
from lexp.pattern import Blockwise, Full
from lexp.runs import checkpoint
from lexp.runs.run import Run
from lexp.system.errors import ConfigError, DataError
from support.config import compose, refusal
from support.forked import completed

PROMPT = "one two three four five six seven eight"
NEW = 12


@pytest.fixture(scope="session")
def runs(trained_once) -> dict[str, str]:
    """The folders of two finished runs, by model."""
    folders = (trained_once(("rope", "learned")) / "default").glob("*/config.json")
    return {path.parent.name.split("-")[0]: str(path.parent) for path in folders}


def words(run: str, *others: str) -> list[str]:
    return [f"run={run}", f"max_new_tokens={NEW}", "device=cpu", "precision=float32", *others]


def continued(capsys, run: str, *others: str, prompt: str = PROMPT) -> str:
    capsys.readouterr()
    generate_(compose("generate", *words(run, *others)), prompt)
    return capsys.readouterr().out.removesuffix("\n")


@pytest.mark.parametrize(
    ("asked", "pattern", "extension"),
    [
        ((), Full(), Extension()),
        (("attention=blockwise", "extension=dynamic_ntk"), Blockwise(), DynamicNTK()),
    ],
    ids=["full", "blockwise"],
)
def test_greedy_tokens_are_the_likeliest_of_the_whole_text_each_time(
    asked, pattern, extension, runs, capsys
):
    """Read anew for each token; an extension by length is that of the text with all its tokens."""
    found = continued(capsys, runs["rope"], *asked)
    run = Run(Path(runs["rope"]))
    model = make_model(read_config(run), 256).eval()
    checkpoint.load_model(final_checkpoint(run), model)
    text = list(PROMPT.encode())
    length = len(text) + NEW
    pattern = pattern.fit(16, length)
    model = extension.extend(model, pattern, Lengths(16, length, length), None)
    with torch.inference_mode():
        for _ in range(NEW):
            attend = make_attend(pattern, len(text), model.schemes, torch.device("cpu"))
            text.append(int(model(torch.tensor([text]), attend)[0, -1].argmax()))
    assert found == bytes(text[-NEW:]).decode()
    assert len(set(found)) > 1


def test_a_scale_for_each_head_is_fitted_to_the_texts_of_training_first(study, capsys):
    """Scores are linear in queries: scales of heads are those of the rows that make queries."""
    (folder,) = study.folder.glob("rope-*")
    words = ["extension=head_scale", "extension.head_scale.steps=2", "extension.head_scale.lr=30"]
    found = continued(capsys, str(folder), *words)
    run = Run(folder)
    (fit,) = folder.glob("fits/*.npz")
    scales = torch.from_numpy(np.load(fit)["scales"])
    assert scales.shape == (1, 2) and (scales > 5).any()
    model = make_model(read_config(run), 256).eval()
    checkpoint.load_model(final_checkpoint(run), model)
    with torch.inference_mode():
        queries = model.blocks[0].attention.qkv.weight[:16]
        queries *= scales[0].repeat_interleave(8)[:, None]
        text = list(PROMPT.encode())
        for _ in range(NEW):
            attend = make_attend(Full(), len(text), model.schemes, torch.device("cpu"))
            text.append(int(model(torch.tensor([text]), attend)[0, -1].argmax()))
    assert found == bytes(text[-NEW:]).decode()
    capsys.readouterr()
    assert continued(capsys, str(folder), *words) == found  # the fit is stored
    assert len([*folder.glob("fits/*.npz")]) == 1


def test_draws_follow_the_seed_and_a_small_top_p_is_greedy(runs, capsys):
    rope = runs["rope"]
    drawn = [
        continued(capsys, rope, "temperature=1", f"seed={seed}", "max_new_tokens=40")
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    nearly_greedy = continued(capsys, rope, "temperature=1", "top_p=1e-9")
    assert nearly_greedy == continued(capsys, rope)


def test_a_prompt_is_text_as_typed_a_file_or_a_pipe(runs, tmp_path, capsys, monkeypatch):
    """As typed: what Hydra would read as a sweep, a key, an interpolation or a folder of HOME."""
    typed = "~/a, ${b}=[c] 'd\\"
    assert split_prompt(["run=x", f"prompt={typed}", "seed=1"]) == (typed, ["run=x", "seed=1"])
    by_text = continued(capsys, runs["rope"], prompt=typed)
    (tmp_path / "prompt.txt").write_text(typed)
    generate_(compose("generate", *words(runs["rope"], f"prompt_file={tmp_path}/prompt.txt")))
    assert capsys.readouterr().out.removesuffix("\n") == by_text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    assert continued(capsys, runs["rope"], prompt="-") == by_text
    # As in files of training, a byte order mark is no part of the text.
    (tmp_path / "marked.txt").write_text(typed, encoding="utf-8-sig")
    assert read_prompt(None, f"{tmp_path}/marked.txt") == typed
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 ")
    with pytest.raises(DataError, match=r"latin.txt: byte 3: not UTF-8 \(invalid continuation"):
        read_prompt(None, f"{tmp_path}/latin.txt")


def test_a_long_prompt_says_how_much_of_it_is_read(runs, capsys, monkeypatch):
    monkeypatch.setattr(decoder, "ROWS", 16)
    monkeypatch.setattr(command, "SAID_EVERY_S", 0)
    generate_(compose("generate", *words(runs["rope"])), PROMPT)
    said = [line for line in capsys.readouterr().err.splitlines() if "are read" in line]
    assert said == [f"lexp: {n} of 39 tokens of the prompt are read" for n in (16, 32)]


def test_the_command_prints_the_text_and_says_how_fast_it_was(runs, tmp_path, capsys):
    typed = "x=${y}, z"
    expected = continued(capsys, runs["rope"], prompt=typed)
    done = completed("generate", *words(runs["rope"]), f"prompt={typed}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{expected}\n")
    assert f"{NEW} tokens after {len(typed)} of the prompt, " in done.stderr
    assert " tokens/s, 20 keys kept in a layer" in done.stderr
    refused = completed("generate", f"run={tmp_path}", "prompt=a=b", cwd=tmp_path)
    assert refused.returncode == 2
    assert "not the folder of a finished run" in refused.stderr.splitlines()[-1]


def test_training_ends_with_a_sample_that_generation_repeats(tiny, texts, tmp_path, capsys):
    """Half of the 16 trained tokens are the beginning of a validation text."""
    train(tiny("model=xpos", "tokens=128"))
    said = capsys.readouterr().err
    prompt = (texts / "validation" / "0.txt").read_text()[:8]
    sample = said.partition(f"sample, greedy, after [{prompt}]: ")[2].partition("\n")[0]
    (run,) = (path.parent for path in tmp_path.glob("outputs/*/*/done.json"))
    text = continued(capsys, str(run), "max_new_tokens=8", prompt=prompt)
    assert len(sample) == 8 and sample == text.replace("\n", " ")


def test_bad_values_are_one_line(runs, monkeypatch):
    rope, learned = (f"run={runs[name]}" for name in ("rope", "learned"))
    said = refusal(check, "generate", rope, "temperature=-1", "top_p=0", "max_new_tokens=0")
    for part in ("temperature=-1.0 (", "top_p=0.0 (above 0", "max_new_tokens=0 (from 1 to"):
        assert part in said
    assert "add temperature=1" in refusal(check, "generate", rope, "top_p=0.5")
    assert "no model (give run=FOLDER of a finished run, or model=hf" in refusal(check, "generate")
    assert "and model=hf (one of them)" in refusal(check, "generate", rope, "model=hf", "path=x")
    assert "model=rope (hf with path=FOLDER" in refusal(check, "generate", "model=rope")
    assert "path=x (is for Hugging Face models" in refusal(check, "generate", rope, "path=x")
    several = refusal(check, "generate", rope, "attention=[full,window]")
    assert "attention=['full', 'window'] (one choice)" in several
    for line, prompt, reason in [
        (
            [learned],
            PROMPT,
            r"a text of 51 tokens \(the prompt and max_new_tokens\): Learned ends at",
        ),
        ([rope, "extension=vector_replacement"], "a", "vector_replacement is for models without"),
        ([learned, "extension=yarn"], "a", "yarn changes rotary frequencies, Learned has none"),
        ([rope, "attention=bidirectional"], "a", "causal"),
        ([rope], None, "no prompt; give prompt=TEXT"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            generate_(compose("generate", *line, f"max_new_tokens={NEW}"), prompt)
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it where it is closed
    for prompt, reason in [
        ("", "the prompt is empty"), ("\udc80", "no text in UTF-8"),
        ("-", r"prompt=- \(standard input\): it is closed"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=reason):
            generate_(compose("generate", rope), prompt)
    with pytest.raises(DataError, match="prompt_file=nowhere.txt: No such file"):
        generate_(compose("generate", rope, "prompt_file=nowhere.txt"))
