"""`init_from=` a checkpoint of transformers: what is trained, what is recorded, what is refused."""

import json
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

from lexp.commands.evaluate import eval_  # noqa: E402
from lexp.commands.export import export  # noqa: E402
from lexp.commands.train import check, train  # noqa: E402
from lexp.config.hf_folder import rope_position  # noqa: E402
from lexp.config.instantiate import build  # noqa: E402
from lexp.data.tokenizer import train_bpe  # noqa: E402
from lexp.position import Position, RoPE  # noqa: E402
from lexp.runs.run import Run  # noqa: E402
from lexp.system.errors import CheckpointError, ConfigError  # noqa: E402
from support.config import compose, compose_tiny  # noqa: E402
from support.hf import LLAMA, expected_nll, made, rope, saved, study_rows  # noqa: E402

TEXT = "def length(text): return the number of tokens in the text, one by one"
VOCAB = Tokenizer.from_str(train_bpe([TEXT] * 20, 280)).get_vocab_size()
SHAPE = {**LLAMA, "vocab_size": VOCAB}
CONFIGS = {
    "llama": lambda **more: transformers.LlamaConfig(**SHAPE, **more),
    "mistral": lambda **more: transformers.MistralConfig(**SHAPE, sliding_window=None, **more),
    "qwen3": lambda **more: transformers.Qwen3Config(
        **SHAPE, head_dim=16, tie_word_embeddings=True, **more
    ),
}
L, LONGER = LLAMA["max_position_embeddings"], 64


@pytest.fixture
def go_on(texts, tmp_path):
    """Composes a run of one step that changes nothing, from a checkpoint's folder."""

    def make(folder: Path, *overrides: str):
        usual = (f"train_len={LONGER}", f"init_from={folder}", "batch_tokens=64", "tokens=64",
                 "lr=1e-30")  # fmt: skip
        return compose_tiny(texts, tmp_path / "outputs", *usual, *overrides)

    return make


@pytest.mark.parametrize("name", CONFIGS)
def test_a_checkpoint_is_trained_with_an_extension_and_evaluated_as_trained(
    name, go_on, texts, tmp_path, capsys
):
    """Under PI with s = 2: transformers' own linear scaling of the same weights."""
    folder = saved(CONFIGS[name](**rope("default", rope_theta=5000.0)), tmp_path / "tiny")
    config = go_on(folder, "extension=pi")
    train(config)
    said = capsys.readouterr().err
    assert "size, trunk and vocabulary are those of this checkpoint, trained at 32 tokens" in said
    assert "extension=pi: from 32 to 64 tokens with factor 2" in said
    (run,) = map(Run, tmp_path.glob("outputs/default/rope-pi-*-tiny-text-L64-s0-*"))
    assert run.data["extended_from"] == L
    eval_(compose(
        "eval", f"outputs={tmp_path}/outputs", f"lengths=[{LONGER}]", "attention=[full]",
        "max_tokens=null", "device=cpu", "precision=float32",
    ))  # fmt: skip
    (row,) = study_rows(tmp_path)
    interpolated = CONFIGS[name](**rope("linear", factor=2.0, rope_theta=5000.0))
    wanted = expected_nll(interpolated, folder, sorted((texts / "test").glob("*.txt")), LONGER)
    assert float(row["nll"]) == pytest.approx(wanted, abs=1e-5)


DIVISORS = [1.5 + c for c in range(32)]
SCALED = [
    rope("linear", factor=2.0, rope_theta=5000.0),
    rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
         original_max_position_embeddings=4096),
    rope("yarn", factor=4.0, original_max_position_embeddings=8192),
    rope("yarn", factor=16.0, beta_fast=8.0, beta_slow=2.0, attention_factor=1.5),
    rope("yarn", factor=0.5, rope_theta=1e6, original_max_position_embeddings=2048),
    rope("longrope", short_factor=[1 + c / 40 for c in range(32)], long_factor=DIVISORS,
         original_max_position_embeddings=4096),
    rope("longrope", short_factor=DIVISORS, long_factor=DIVISORS, factor=4.0,
         original_max_position_embeddings=4096),
    rope("longrope", short_factor=DIVISORS, long_factor=DIVISORS, attention_factor=1.25,
         original_max_position_embeddings=32768),
]  # fmt: skip


@pytest.mark.parametrize("values", SCALED, ids=lambda v: v["rope_parameters"]["rope_type"])
def test_scaled_frequencies_are_those_of_transformers(values, tmp_path):
    """In heads of 64 channels, of which several are in every range."""
    config = transformers.LlamaConfig(
        **{**SHAPE, "max_position_embeddings": 32768}, head_dim=64, **values
    )
    config.save_pretrained(tmp_path)
    kind = values["rope_parameters"]["rope_type"]
    theta, temperature = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    scheme = build(rope_position(str(tmp_path), 64), Position, "position")
    assert scheme.frequencies == pytest.approx(theta.tolist(), rel=1e-5)
    assert scheme.temperature == pytest.approx(temperature, rel=1e-6)
    if kind == "longrope":
        assert scheme.by_length == (scheme.ratios != [1.0] * 32)
        at = torch.tensor([1.0, 777.0], dtype=torch.float64)
        beyond, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=4097)
        for length, wanted in ((4096, theta), (4097, beyond)):
            found = scheme.rotary_factors(at, at, length)[0][0].angle()
            assert found == pytest.approx(wanted.tolist(), rel=1e-5)
    assert len(set(theta / RoPE(64, values["rope_parameters"]["rope_theta"]).frequencies[0])) == 32


def test_a_checkpoint_keeps_its_scaled_frequencies(go_on, texts, tmp_path, capsys):
    """Trained on at its own length, in the older form of its config; and dropped by model=nope."""
    yarn = CONFIGS["llama"](**rope("yarn", factor=4.0, original_max_position_embeddings=8))
    folder = saved(yarn, tmp_path / "tiny")
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    changed(folder, rope_parameters=None, rope_scaling=scaling, rope_theta=10000.0)
    config = go_on(folder, f"train_len={L}")
    train(config)
    assert "trained at 32 tokens; its frequencies stay scaled (yarn)" in capsys.readouterr().err
    assert "scaled" not in str(check(go_on(folder, "model=nope")).model)
    eval_(compose(
        "eval", f"outputs={tmp_path}/outputs", f"lengths=[{L}]", "attention=[full]",
        "max_tokens=null", "device=cpu", "precision=float32",
    ))  # fmt: skip
    (row,) = study_rows(tmp_path)
    wanted = expected_nll(yarn, folder, sorted((texts / "test").glob("*.txt")), L, L)
    assert float(row["nll"]) == pytest.approx(wanted, abs=1e-5)


def test_a_checkpoint_comes_back_by_export(go_on, tmp_path):
    """Its parameters, under transformers' names, are those that it had."""
    folder = saved(CONFIGS["qwen3"](), tmp_path / "tiny")
    train(go_on(folder, f"train_len={L}"))
    (run,) = tmp_path.glob("outputs/default/rope-*")
    export(compose("export", f"run={run}", f"to={tmp_path}/back"))
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-7)


def test_a_checkpoint_learns_and_its_positions_can_be_dropped(go_on, tmp_path, capsys):
    """Its embedding has rows that no token has, as those padded to a round number do."""
    folder = saved(transformers.LlamaConfig(**LLAMA), tmp_path / "tiny")
    assert LLAMA["vocab_size"] > VOCAB
    norm = "trunk.qk_norm={_target_: lexp.model.trunk.RMSNorm, eps: 1e-6}"
    config = go_on(folder, "model=nope", norm, "lr=1e-2", "tokens=640")
    train(config)
    assert "tiny: has no QK-norm; here it starts with weights of 1" in capsys.readouterr().err
    (path,) = tmp_path.glob("outputs/default/nope-*/metrics.jsonl")
    lines = map(json.loads, path.read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 0.3


def changed(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "gpt2"}, r"model family 'gpt2' \(trained are llama, mistral, qwen3; oth"),
        ({"attention_bias": True}, r"attention_bias=True \(allowed: False\)"),
        ({"hidden_act": "gelu"}, r"hidden_act=gelu \(allowed: silu\)"),
        ({"sliding_window": 8}, r"sliding_window=8 \(allowed: null\)"),
        (rope("proportional"), r"rope_type=proportional \(allowed: default, linear, llama3, ya"),
        (
            rope("dynamic", factor=8.0),
            r"rope_type=dynamic has other frequencies at each length bey",
        ),
        (rope("longrope", short_factor=[1, 2]), r"rope_type=longrope without long_factor"),
        (
            rope("longrope", short_factor=[1, "a"], long_factor=[1, 0]),
            r"short_factor=\[1, 'a'\] \(allowed: numbers above 0\), long_factor=\[1, 0\]",
        ),
        (rope("llama3", factor=8.0), r"rope_type=llama3 without low_freq_factor, rope_type=llama3"),
        (
            rope("llama3", factor=8.0, low_freq_factor=4, high_freq_factor=4),
            r"low_freq_factor=4 with high_freq_factor=4 \(allowed: below it\)",
        ),
        (rope("yarn", factor=-1), r"factor=-1 \(allowed: a number above 0\)"),
        (
            {**rope("yarn", factor=4.0), "original_max_position_embeddings": -3},
            r"original_max_position_embeddings=-3 \(allowed: a number above 0\)",
        ),
        (rope("yarn", factor=8.0, mscale=0.7), r"mscale=0.7 with rope_type=yarn \(not supported\)"),
        (rope("default", partial_rotary_factor=0.5), r"partial_rotary_factor=0.5 with rope_type=d"),
        ({"vocab_size": None}, r"config.json has no vocab_size"),
        ({"num_hidden_layers": "2"}, r"num_hidden_layers=2 \(allowed: a whole number from 1\)"),
        ({"lexp_train_len": -4}, r"lexp_train_len=-4 \(allowed: a whole number from 1\)"),
        ({"rms_norm_eps": "a"}, r"rms_norm_eps=a \(allowed: a number above 0\)"),
        ({"rms_norm_eps": float("nan")}, r"rms_norm_eps=nan \(allowed: a number above 0\)"),
        ({"rope_parameters": "x"}, r"rope_type=x \(allowed: default, "),
        (rope("default", rope_theta="y"), r"rope_theta=y \(allowed: a number above 0\)"),
        ({"intermediate_size": 47}, r"intermediate_size=47 is no feed-forward width of trunk"),
    ],
)
def test_a_checkpoint_that_no_trunk_is_like_is_refused(values, said, go_on, tmp_path):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    changed(folder, **values)
    with pytest.raises(ConfigError, match=rf"^init_from=\S+/tiny: {said}"):
        check(go_on(folder))


def test_dynamic_scaling_is_rope_up_to_the_trained_length(go_on, tmp_path):
    """And with an extension, or without positions, beyond."""
    folder = saved(CONFIGS["llama"](**rope("dynamic", factor=8.0)), tmp_path / "tiny")
    plain = RoPE(8, 10000.0).frequencies
    for words in ([f"train_len={L}"], ["extension=pi"]):
        node = check(go_on(folder, *words)).model.position
        assert node.build(RoPE, "model.position").frequencies == plain
    check(go_on(folder, "model=nope"))


def test_frequencies_by_the_length_of_a_text_need_a_text_with_one(go_on, tmp_path):
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    folder = saved(CONFIGS["llama"](**rope("longrope", **factors)), tmp_path / "tiny")
    check(go_on(folder, "reading=packed"))
    for words, said in {
        "reading=packed reading.mask=document": "TwoScaledRoPE changes with the length of whole r",
        "reading=pose": "TwoScaledRoPE changes with the length of a text, which moved positions",
    }.items():
        with pytest.raises(ConfigError, match=said):
            check(go_on(folder, *words.split()))


def test_an_extension_must_be_of_its_scheme_and_longer(go_on, tmp_path):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    with pytest.raises(ConfigError, match="train_len=32 is not longer than the 32 tokens of init"):
        check(go_on(folder, "extension=pi", "train_len=32"))
    with pytest.raises(ConfigError, match="which has model.name=rope, here nope; give the same"):
        check(go_on(folder, "extension=pi", "model=nope"))


def test_parameters_that_are_missing_or_left_over_are_named(go_on, tmp_path):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    made(transformers.Qwen2Config(**SHAPE)).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="parameters that lexp lacks: model.layers.0.self"):
        train(go_on(folder))
