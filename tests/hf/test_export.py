"""`lexp export`: stock transformers gives a run's logits and ids; lexp reads the folder back."""

import csv
import json
import shutil

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

import lexp  # noqa: E402
from lexp.attention import make_attend  # noqa: E402
from lexp.cli.main import guarded  # noqa: E402
from lexp.commands import export as command  # noqa: E402
from lexp.commands.evaluate import eval_  # noqa: E402
from lexp.commands.export import export, made_by  # noqa: E402
from lexp.commands.run_parts import make_model  # noqa: E402
from lexp.commands.train import train  # noqa: E402
from lexp.config.validation import read_composed_train  # noqa: E402
from lexp.data.tokenizer import END_TOKENS, Bytes, Subwords, train_bpe, with_token  # noqa: E402
from lexp.extension import NTK, PI, Extension, Lengths, LongRoPE, NTKByParts, YaRN  # noqa: E402
from lexp.hf import export as export_module  # noqa: E402
from lexp.hf.export import ExportFacts, save  # noqa: E402
from lexp.hf.export_positions import HOOKS, rotation_of, table_of  # noqa: E402
from lexp.pattern import Full  # noqa: E402
from lexp.system.errors import ConfigError, StorageError  # noqa: E402
from lexp.system.files import new_folder, publish, storage  # noqa: E402
from support.config import TINY, compose, compose_tiny, dataset, refusal  # noqa: E402
from support.schemes import D_MODEL, HEAD_DIM, SCHEMES, make  # noqa: E402

SIZE = (
    "size.n_layers=3", "size.d_model=32", "size.n_heads=4", "size.head_dim=8", "size.d_ff=128",
    "train_len=16",
)  # fmt: skip
DEFAULT = {"rope_type": "default"}
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0,
    "beta_slow": 1.0, "original_max_position_embeddings": 16,
}  # fmt: skip
# A model's settings, the extension of its positions, and what its config then says. Bases:
# base^p of p_rope is 10000^0.75; NTK-aware with s = 4 and head_dim 8 is base 4^(8/6).
CASES = {
    "rope": ("model=rope", None, {**DEFAULT, "rope_theta": 10000.0, "partial_rotary_factor": 1.0}),
    "p_rope": ("model=p_rope", None, {**DEFAULT, "rope_theta": 1000.0,
                                      "partial_rotary_factor": 0.75}),
    "nope": ("model=nope", None, {"partial_rotary_factor": 0.0}),
    "alibi": ("model=alibi", None, {"max_seq_len": 64}),
    "learned": ("model=learned", None, {"n_positions": 16}),
    "sinusoidal": ("model=sinusoidal", None, {"n_positions": 64}),
    "pi": ("model=rope", PI(), {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "ntk": ("model=rope", NTK(), {**DEFAULT, "rope_theta": pytest.approx(10000 * 4 ** (8 / 6))}),
    "yarn": ("model=rope", YaRN(), YARN),
    "partial yarn": ("model=p_rope", YaRN(), {**YARN, "rope_theta": 1000.0}),
    "by parts": ("model=rope", NTKByParts(), {"rope_type": "longrope", "attention_factor": 1.0}),
    "longrope": ("model=p_rope", LongRoPE(divisors=[1, 1.5, 2, 3]), {
        "rope_type": "longrope", "short_factor": pytest.approx([1, 1.5, 2]),
        "long_factor": pytest.approx([1, 1.5, 2])}),
    "learned pi": ("model=learned", PI(), {"n_positions": 64}),
    "sinusoidal pi": ("model=sinusoidal", PI(), {"n_positions": 64}),
    "tied": ("model=rope trunk.tied_embeddings=true", None, {"tie_word_embeddings": True}),
    "shared": ("model=rope size.share_layers=true", None, {"num_hidden_layers": 3}),
    "llama": ("model=p_rope trunk=llama size.head_dim=16", None, {
        "rope_type": "proportional", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
        "head_dim": 16, "num_key_value_heads": 2}),
    "llama nope": ("model=nope trunk=llama", None, {"partial_rotary_factor": 0.0}),
    "smollm3": ("model=rope_nope trunk=llama", None, {"no_rope_layers": [1, 0, 1]}),
    "qwen3": ("model=rope trunk=qwen3 trunk.tied_embeddings=true", YaRN(), {
        **YARN, "tie_word_embeddings": True}),
}  # fmt: skip
CLASSES = {
    "alibi": "MptForCausalLM", "learned": "GPT2LMHeadModel", "sinusoidal": "GPT2LMHeadModel",
    "learned pi": "GPT2LMHeadModel", "sinusoidal pi": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM", "llama nope": "LlamaForCausalLM", "smollm3": "SmolLM3ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}  # fmt: skip


def drawn(settings: str):
    """A model whose every weight is drawn: positions matter, and norms do something."""
    given = {word.split("=")[0] for word in (*SIZE, *settings.split())}
    tiny = [word for word in TINY if word.split("=")[0] not in given]
    size = [word for word in SIZE if word.split("=")[0] not in settings]
    config = read_composed_train(compose("train", *tiny, *size, *settings.split()))
    torch.manual_seed(0)
    model = make_model(config, 256).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith("positions."):
                mean, std = (1.0, 0.2) if weight.ndim == 1 else (0.0, weight.shape[-1] ** -0.5)
                weight.copy_(mean + std * torch.randn(weight.shape))
    return model


def extended(settings: str, extension: Extension | None, length: int = 64):
    """A drawn model under an extension, and what export has to know of it."""
    plain, lengths = drawn(settings), Lengths(16, length, length)
    extension = extension or Extension()
    model = extension.extend(plain, Full(), lengths, None)
    return model, ExportFacts(16, length, 0, made_by(plain, extension, lengths))


@pytest.mark.parametrize("case", CASES)
def test_stock_transformers_gives_the_logits_of_the_model(case, tmp_path):
    settings, extension, said = CASES[case]
    model, facts = extended(settings, extension, 16 if case == "learned" else 64)
    save(model, facts, tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(loaded).__name__ == CLASSES.get(case, "GPTNeoXForCausalLM")
    config = json.loads((tmp_path / "config.json").read_text())
    values = {**config, **config.get("rope_parameters", {})}
    assert {key: values.get(key) for key in said} == said
    assert "auto_map" not in config and (tmp_path / "model.safetensors").exists()
    n = config.get("n_positions", 64)
    tokens = torch.randint(256, (2, n), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model(tokens, make_attend(Full(), n, model.schemes, tokens.device))
        theirs = loaded(tokens).logits
    assert (ours - theirs).abs().max() < 1e-5 * max(1, ours.abs().max())


REFUSED = {
    "model=xpos": "XPos has no class in transformers; export takes rope, p_rope, nope (as trained",
    "model=rope_alibi": "RoPE + ALiBi has no class",
    "model=wall": "Wall has no class in transformers; export takes rope",
    "model=selective_rope": "SelectiveRoPE has no class in transformers; export takes rope",
    "model=rope_nope": "its layers have several schemes (RoPE / NoPE); export takes ",
    "model=rope_nope trunk=qwen3": "RoPE / NoPE on this trunk has no class; export takes",
    "model=alibi trunk=llama": "ALiBi on this trunk has no class; export takes",
    "model=alibi size.d_ff=96": "d_ff = 96: MPT, the class for ALiBi, has 4 d_model = 128",
    "model=rope size.head_dim=16": "n_heads x head_dim = 64 and d_model = 32: GPT-NeoX, MPT and",
    "model=rope trunk=qwen3_gated": "an output gate has no class in transformers; export takes",
    "model=rope trunk=llama_sinks": "RoPE + SinkLogits on this trunk has no class",
    "model=rope trunk.n_kv_heads=2": "its trunk is none of gpt, llama and qwen3; export takes",
    "model=rope trunk=qwen3 trunk.norm.eps=1e-3": "its norms differ in kind or eps; the classes",
    "model=sinusoidal trunk.tied_embeddings=true": "train with trunk.tied_embeddings=false",
    "model=learned": "length=64: Learned ends at 16 tokens",
    "model=gla": "layers of GLA have no class in transformers; export takes",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_what_no_class_holds_is_refused_and_says_what_one_does(settings, tmp_path):
    model, facts = extended(settings, None)
    with pytest.raises(ConfigError) as error:
        save(model, facts, tmp_path)
    assert REFUSED[settings] in str(error.value) and "\n" not in str(error.value)


# Schemes that are rotations by position, tables or nothing at all, by their papers' formulas. HoPE
# rotates as p-RoPE does; SHAPE shifts its table in training alone.
HELD = {"rope", "p_rope", "hope", "nope", "learned", "sinusoidal", "shape"}


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - HELD))
def test_no_other_scheme_is_taken_for_one_that_a_class_holds(name):
    scheme = make(name)
    assert rotation_of(scheme, HEAD_DIM) is None
    assert table_of(scheme, 16, D_MODEL) is None


def test_every_hook_counts():
    assert {
        "sample_positions", "embed", "transform_qk", "scale", "rotary_factors", "angles",
        "log_decays", "bias", "attention_weights",
    } == HOOKS  # fmt: skip


def test_a_partial_rotation_with_other_frequencies_needs_the_trunk_gpt(tmp_path):
    model, facts = extended("model=p_rope trunk=llama", YaRN())
    with pytest.raises(ConfigError, match="Llama cannot hold the frequencies of PRoPE, as it is"):
        save(model, facts, tmp_path)


def test_a_folder_with_other_logits_is_not_kept(tmp_path, monkeypatch):
    """What is written is read again and compared: a wrong weight cannot pass."""
    weights = export_module.neox_weights

    def wrong(model, channels):
        found = weights(model, channels)
        return found | {"lm_head.weight": found["lm_head.weight"] * 1.01}

    monkeypatch.setattr(export_module, "neox_weights", wrong)
    model, facts = extended("model=rope", None)
    with pytest.raises(ConfigError, match="GPTNeoXForCausalLM has other logits than the trained"):
        save(model, facts, tmp_path)


ODD = "\x00a\tb  c\r\n\x7f¡­Āġ é日本🙂\ufeff</s><|endoftext|>'s 'll 1234567 "


@pytest.mark.parametrize("kind", ["bytes", "bpe", "packed"])
def test_stock_transformers_cuts_text_into_the_ids_of_the_run(kind, tmp_path):
    if kind == "bytes":
        tokenizer = Bytes()
    else:
        text = train_bpe([ODD * 3, "the cat sat on the mat"], 280)
        tokenizer = Subwords(with_token(text, END_TOKENS[0]) if kind == "packed" else text, "made")
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox"}')
    command.write_tokenizer(tokenizer, tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (ODD, "", "\x00", "Ā", " \n", "a" * 50, *map(chr, range(1, 600, 7))):
        ids = tokenizer.encode([text])[0].ids.tolist()
        assert loaded(text, add_special_tokens=False).input_ids == ids, repr(text)
        assert loaded.decode(ids) == text
    assert set(loaded("a")) == {"input_ids", "attention_mask"}  # what generate() takes
    assert loaded.eos_token_id == (tokenizer.end if kind == "packed" else None)


def cells(study) -> dict[str, dict[tuple, dict]]:
    """The rows of results.csv by run, then by method and length."""
    by_run: dict[str, dict] = {}
    with (study / "results.csv").open() as file:
        for row in csv.DictReader(file):
            key = row["attention"], row["extension"], row["protocol"], int(row["length"])
            by_run.setdefault(row["run"], {})[key] = row
    return by_run


@pytest.mark.parametrize("model", ["rope", "learned"])
def test_the_folder_has_the_cells_of_the_run_and_a_card(
    model, trained_once, texts, tmp_path, capsys
):
    shutil.copytree(trained_once(("rope", "learned")), tmp_path / "outputs")
    study, longest = tmp_path / "outputs" / "default", 32 if model == "rope" else 16
    (run,) = study.glob(f"{model}-*")
    shutil.rmtree(next(path for path in study.glob("*-L16-*") if path != run))
    how = (
        f"outputs={tmp_path}/outputs", f"lengths=[8,{longest}]", "attention=[full,window]",
        "device=cpu", "precision=float32", "extension=[none,pi]", "extension.pi.factor=2",
    )  # fmt: skip
    eval_(compose("eval", *how))
    capsys.readouterr()
    to = tmp_path / "made" / "my model"
    export(compose("export", f"run={run}", f"to='{to}'"))
    assert capsys.readouterr().err.splitlines()[-1] == f"hf upload 'my model' '{to}'"
    assert not list(to.parent.glob(".*"))
    card = (to / "README.md").read_text()
    perplexity = next(iter(cells(study).values()))["full", "none", f"segments-{longest}", 8]["ppl"]
    positions = "n_positions" if model == "learned" else "max_position_embeddings"
    assert json.loads((to / "config.json").read_text())[positions] == longest
    assert f"| {model} | full |  |" in card and f"{float(perplexity):.2f}" in card
    assert "640 tokens in windows of 16; seed 0; fingerprint of the texts " in card
    assert card.startswith("---\nlibrary_name: transformers\n") and "\n# license:\n---\n" in card
    eval_(compose("eval", *how, "model=hf", f"path='{to}'", *dataset(texts)))
    own, theirs = (by_method for _, by_method in sorted(
        cells(study).items(), key=lambda item: item[0] != run.name))  # fmt: skip
    assert len(own) == len(theirs) == 8
    for key, row in own.items():
        same = ("tokens", "documents", "status", "train_len", "targets", "text")
        assert [row[name] for name in same] == [theirs[key][name] for name in same]
        for name in ("nll", "bpb"):
            assert float(theirs[key][name]) == pytest.approx(float(row[name]), abs=1e-5)
    loaded = [
        lexp.load(path, "cpu", "float32") for path in (run, next(study.glob("my-model-hf-*")))
    ]
    scores = [one.score("a text é", "window", extension="pi") for one in loaded]
    assert len(scores[0]) == 8 and abs(scores[0] - scores[1]).max() < 1e-5


def test_a_model_without_positions_is_read_as_one(tmp_path, texts, capsys):
    model, facts = extended("model=nope", None)
    save(model, facts, tmp_path / "to")
    command.write_tokenizer(Bytes(), tmp_path / "to")
    eval_(compose(
        "eval", "model=hf", f"path={tmp_path}/to", f"outputs={tmp_path}/outputs", "lengths=[32]",
        "attention=[full,self_extend]", "device=cpu", "precision=float32", *dataset(texts),
    ))  # fmt: skip
    (by_method,) = cells(tmp_path / "outputs" / "default").values()
    rows = {attention: row for (attention, *_), row in by_method.items()}
    (moved,) = (row for attention, row in rows.items() if attention != "full")
    assert rows["full"]["status"] == "ok" and int(rows["full"]["train_len"]) == 16
    assert moved["status"] == "not defined"
    assert "NoPE" in capsys.readouterr().out


def test_a_run_trained_with_an_extension_is_exported_with_it(texts, tmp_path, capsys):
    train(compose_tiny(texts, tmp_path / "outputs", "tokens=128"))
    (first,) = (tmp_path / "outputs" / "default").iterdir()
    train(compose_tiny(
        texts, tmp_path / "outputs", "tokens=128", "extension=yarn", "train_len=32",
        f"init_from={first}",
    ))  # fmt: skip
    (run,) = (tmp_path / "outputs" / "default").glob("*yarn*")
    export(compose("export", f"run={run}", f"to={tmp_path}/to"))
    # Weights too can be read by whom the other files are for.
    assert len({path.stat().st_mode for path in (tmp_path / "to").iterdir()}) == 1
    config = json.loads((tmp_path / "to" / "config.json").read_text())
    assert config["rope_parameters"]["factor"] == 2 and config["lexp_train_len"] == 32
    assert config["rope_parameters"]["original_max_position_embeddings"] == 16
    assert "Positions are changed by yarn." in (tmp_path / "to" / "README.md").read_text()
    code = guarded("export", lambda: export(compose(
        "export", f"run={run}", f"to={tmp_path}/other", "extension=ntk", "length=64")))  # fmt: skip
    assert code == 2 and "was trained with yarn" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_of_two_exports_to_one_folder_the_first_stays(tmp_path):
    to = tmp_path / "to"
    with new_folder(to) as second:
        (second / "config.json").touch()
        to.mkdir()
        (to / "config.json").write_text("the first")
        with pytest.raises(StorageError, match="another process has put files there"), storage(to):
            publish(second, to)
    assert (to / "config.json").read_text() == "the first" and [*tmp_path.iterdir()] == [to]


def test_bad_settings_end_in_a_line_before_any_work(trained_once, tmp_path):
    shutil.copytree(trained_once(("rope", "learned")), tmp_path / "outputs")
    (run,) = (tmp_path / "outputs" / "default").glob("rope-*")
    full, link = tmp_path / "full", tmp_path / "link"
    full.mkdir()
    (full / "file").touch()
    link.symlink_to(tmp_path / "nowhere")
    lines = {
        f"to={full}": "is there already; name a new or an empty folder, nothing is replaced",
        f"to={full}/file": "is there already",
        f"to={full}/file/new": "file is no folder; name a place elsewhere",
        f"to={link}": "is a symbolic link; name a folder that is not there",
        "to=''": "to='' (a folder)",
        f"to={run}/checkpoints/new": f"is inside the run {run}; name a folder elsewhere",
        f"to={run.parent}/new": f"is among the runs of {run.parent}; name a folder elsewhere",
        "to=x length=8": "length=8: at least the run's train_len=16",
        "to=x length=0": "length=0 (from 1 to ",
        "to=x extension=yarn": "extension=yarn: give length=, the longest context in tokens",
        "to=x extension=dynamic_ntk length=64": "a config holds one change for texts of all len",
        "to=x extension=drope length=64": "a config holds one change for texts of all lengths",
        "to=x extension=vector_replacement": "a config holds one change for texts of all lengths",
    }
    for line, said in lines.items():
        assert said in refusal(command.check, "export", f"run={run}", *line.split()), line
    said = refusal(command.check, "export", f"run={tmp_path}", "to=x")
    assert said.startswith(f"run={tmp_path}: not the folder of a finished run")
    config = json.loads((run / "config.json").read_text())
    config["settings"]["model"]["pattern"] = {"_target_": "lexp.pattern.Window", "window": 8}
    (run / "config.json").write_text(json.dumps(config))
    said = refusal(command.check, "export", f"run={run}", "to=x")
    assert "trained with window-8 attention; export takes models trained with full causal" in said
    assert not (tmp_path / "x").exists() and list(full.iterdir()) == [full / "file"]
