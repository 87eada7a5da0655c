"""`model=hf path=...`: folders of models become runs that are scored, looked into, refused."""

import csv
import fnmatch
import json
import math
import shutil
from types import SimpleNamespace

import pytest

transformers = pytest.importorskip("transformers", reason="needs the extra hf (transformers)")

import torch  # noqa: E402
import yaml  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from lexp.cli.main import guarded  # noqa: E402
from lexp.commands.analyze import analyze  # noqa: E402
from lexp.commands.evaluate import eval_  # noqa: E402
from lexp.commands.generate import generate_  # noqa: E402
from lexp.commands.hf_run import DATASET  # noqa: E402
from lexp.commands.probe import probe  # noqa: E402
from lexp.commands.report import report  # noqa: E402
from lexp.data.tokenizer import train_bpe  # noqa: E402
from lexp.hf.source import find_source  # noqa: E402
from lexp.instruments.derivation import derivation  # noqa: E402
from lexp.system.errors import CheckpointError  # noqa: E402
from lexp.system.files import config_folder  # noqa: E402
from lexp.system.text import escaped  # noqa: E402
from support.cli import lexp  # noqa: E402
from support.config import compose, dataset  # noqa: E402
from support.forked import completed  # noqa: E402
from support.hf import CONFIGS, LLAMA, TRAINED, VOCAB, expected_nll, made, saved, study_rows  # noqa: E402


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "bloom"])
def test_perplexity_is_what_transformers_gives_the_same_tokens(name, study, texts, tmp_path):
    folder = saved(CONFIGS[name](), tmp_path / "tiny")
    eval_(study("eval", folder, "lengths=[16,64]", "attention=[full,blockwise]", "max_tokens=null"))
    found = {(r["attention"], int(r["length"])): r for r in study_rows(tmp_path)}
    files = sorted((texts / "test").glob("*.txt"))
    for length in (16, 64):
        row = found["full", length]
        expected = expected_nll(CONFIGS[name](), folder, files, length)
        assert float(row["nll"]) == pytest.approx(expected, abs=1e-5)
        assert row["status"] == "ok" and int(row["tokens"]) == 64 * len(files)
        assert row["model"] == "tiny" and int(row["train_len"]) == TRAINED
    assert found["blockwise", 16]["nll"] == found["full", 16]["nll"]
    assert found["blockwise", 64]["nll"] != found["full", 64]["nll"]


def test_cells_are_kept_and_the_run_is_one_of_the_study(study, tmp_path, capsys):
    folder = saved(CONFIGS["qwen3"](), tmp_path / "tiny")
    choices = "lengths=[16,64]", "attention=[full,window,self_extend]", "extension=[none,ntk]"
    eval_(study("eval", folder, *choices))
    cells = {p: p.stat().st_mtime_ns for p in tmp_path.glob("outputs/default/*/eval/*.json")}
    assert len(cells) == 12
    config = json.loads(next(tmp_path.glob("outputs/default/*/config.json")).read_text())
    assert config["kind"] == "hf" and config["settings"]["path"] == str(folder)
    assert config["settings"]["model"]["sha256"] == find_source(str(folder)).sha256()
    eval_(study("eval", folder, *choices))
    eval_(study("eval", None, *choices))  # every run of the study, this one among them
    eval_(study("eval", None, "model=tiny", *choices))
    assert {p: p.stat().st_mtime_ns for p in cells} == cells
    capsys.readouterr()
    report(compose("report", f"outputs={tmp_path}/outputs"))
    n = transformers.AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert f"1 model (hf, {n / 1000:.3g}k parameters)" in capsys.readouterr().out
    assert str(folder) in (tmp_path / "outputs/default/report/report.html").read_text()


def test_a_folder_that_moved_is_the_same_run_a_changed_one_is_not(study, tmp_path):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    eval_(study("eval", folder, "lengths=[16]"))
    moved = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(folder, moved)
    eval_(study("eval", moved, "lengths=[16]"))
    runs = list(tmp_path.glob("outputs/default/*/config.json"))
    assert len(runs) == 1
    assert json.loads(runs[0].read_text())["settings"]["path"] == str(moved)
    made(CONFIGS["llama"](), seed=4).save_pretrained(moved)
    assert guarded("eval", lambda: eval_(study("eval", None, "lengths=[16]"))) == 4
    eval_(study("eval", moved, "lengths=[16]"))
    assert len(list(tmp_path.glob("outputs/default/*/config.json"))) == 2


def test_train_len_can_be_given(study, tmp_path):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    for given in ("train_len=16", "train_len=null"):
        eval_(study("eval", folder, "lengths=[64]", "attention=[blockwise]", given))
    found = {int(r["train_len"]): r["nll"] for r in study_rows(tmp_path)}
    assert set(found) == {16, TRAINED} and len(set(found.values())) == 2


def test_trained_pattern_is_the_sliding_window(study, texts, tmp_path, capsys):
    def config():
        return transformers.MistralConfig(**LLAMA, sliding_window=7)

    folder = saved(config(), tmp_path / "tiny")
    eval_(study("eval", folder, "lengths=[64]", "attention=[trained,full]", "max_tokens=null"))
    said = capsys.readouterr().err
    assert "tiny uses a sliding window of 7 tokens: attention=[trained] keeps it, att" in said
    own = transformers.MistralForCausalLM(config()).parameters()
    n_parameters = f"{sum(p.numel() for p in own) / 1e6:.2f}M parameters"
    assert f"tiny: model family mistral, {n_parameters} in float32, 2 layers of width " in said
    trained = f" {VOCAB} tokens in its vocabulary, trained at {TRAINED} tokens"
    assert f"{trained}; computed in float32 on cpu\n" in said
    found = {r["attention"]: float(r["nll"]) for r in study_rows(tmp_path)}
    expected = expected_nll(config(), folder, sorted((texts / "test").glob("*.txt")), 64)
    assert found["trained"] == pytest.approx(expected, abs=1e-5)
    assert abs(found["full"] - expected) > 1e-4


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_instruments_look_at_trained_and_random(name, study, tmp_path, monkeypatch):
    # The derivation of the variance takes 9 s; tests/instruments/test_variance.py has it large.
    small = derivation(32, 2, 3, 0.02, 32, 0)
    monkeypatch.setattr("lexp.instruments.variance.derivation", lambda *setting: small)
    folder = saved(CONFIGS[name](), tmp_path / "tiny")
    analyze(study(
        "analyze", folder, "instruments=[heads,variance,receptive,invariance,resolution]",
        "lengths=[24]", "states=[trained,random]", "texts=1",
    ))  # fmt: skip
    for instrument in ("heads", "variance", "receptive", "invariance", "resolution"):
        path = tmp_path / "outputs" / "default" / "analysis" / f"{instrument}.csv"
        with path.open() as file:
            found = list(csv.DictReader(file))
        assert {r["state"] for r in found} == {"trained", "random"}
        assert {r["status"] for r in found} == {"ok"}
    with (tmp_path / "outputs/default/analysis/heads.csv").open() as file:
        heads = [
            r for r in csv.DictReader(file) if "full" in r.values() and "entropy" in r.values()
        ]
    assert len({r["value"] for r in heads}) == len(heads) > 0


def test_probes_ask_it(study, tmp_path):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    probe(study("probe", folder, "probes=[copy]", "lengths=[128]", "samples=3"))
    with (tmp_path / "outputs" / "default" / "probes.csv").open() as file:
        found = list(csv.DictReader(file))
    assert {r["status"] for r in found} == {"ok"}
    assert all(math.isfinite(float(r["nll"])) for r in found)


def of_another_family_without_weights(folder):
    edited(model_type="falcon")(folder)
    (folder / "model.safetensors").unlink()


def only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def edited(**changes):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def damaged(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def renumbered(token):
    """A vocabulary in which one token has an id beyond the model's rows."""

    def edit(folder):
        path = folder / "tokenizer.json"
        value = json.loads(path.read_text())
        value["model"]["vocab"][token] = 999
        path.write_text(json.dumps(value))

    return edit


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
# What is wrong with a folder, the exit code, and words of the line.
REFUSED = {
    "pickle": (only_pickle, 4, ["pytorch_model.bin", "pickle", "save_pretrained"]),
    "no-config": (lambda f: (f / "config.json").unlink(), 4, ["config.json"]),
    "no-json": (lambda f: (f / "config.json").write_text("{"), 4, ["config.json cannot be read"]),
    "no-weights": (lambda f: (f / "model.safetensors").unlink(), 4, ["no model.safetensors"]),
    "no-tokenizer": (lambda f: (f / "tokenizer.json").unlink(), 3, ["no tokenizer.json"]),
    "tokenizer": (renumbered("o"), 3, ["0.txt has token id 999", "the model has 300 rows"]),
    "family": (
        edited(model_type="falcon"),
        2,
        ["model family 'falcon' is not supported", "attention interface"],
    ),
    "family-without-weights": (
        of_another_family_without_weights,
        2,
        ["model family 'falcon' is not supported"],
    ),
    "dynamic": (edited(rope_parameters=DYNAMIC), 2, ["rope_type 'dynamic'", "dynamic_ntk"]),
    "quantized": (edited(quantization_config={"bits": 4}), 2, ["quantization_config"]),
    "types": (edited(hidden_size="wide"), 4, ["config.json is not allowed"]),
    "other-sizes": (edited(num_hidden_layers=3), 4, ["missing parameters", "layers.2"]),
    "other-shapes": (edited(intermediate_size=50), 4, ["tiny"]),
    "fewer-layers": (edited(num_hidden_layers=1), 4, ["unexpected parameters", "layers.1"]),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), 4, ["adapter"]),
    "damaged": (damaged, 4, ["tiny"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_said_in_a_line(case, study, tmp_path, capsys):
    spoil, code, words = REFUSED[case]
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    spoil(folder)
    capsys.readouterr()
    assert guarded("eval", lambda: eval_(study("eval", folder, "lengths=[16]"))) == code
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lexp:")]
    assert len(said) == 1
    for word in words:
        assert word in said[0]


def test_a_token_beyond_the_models_rows_that_no_text_has_does_no_harm(study, tmp_path):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    renumbered("ÿ")(folder)  # the byte 0xff, which UTF-8 does not have
    eval_(study("eval", folder, "lengths=[16]"))
    assert {row["status"] for row in study_rows(tmp_path)} == {"ok"}


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"logit_scale": 0.5}, "logit_scale=0.5"),
        ({"attn_config": {"alibi": False}}, "attn_config.alibi=False"),
        ({"attn_config": {"alibi_bias_max": 4}}, "attn_config.alibi_bias_max=4"),
        ({"attn_config": {"qk_ln": True}}, "attn_config.qk_ln=True"),
    ],
)
def test_what_transformers_ignores_in_mpt_is_refused(changes, word, study, tmp_path, capsys):
    folder = saved(CONFIGS["mpt"](), tmp_path / "tiny")
    edited(**changes)(folder)
    assert guarded("eval", lambda: eval_(study("eval", folder, "lengths=[16]"))) == 2
    assert word in capsys.readouterr().err


def test_without_the_extra_it_is_said_in_a_line(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lexp.hf.load.importlib.util.find_spec", lambda name: None)
    assert guarded("eval", lambda: eval_(study("eval", tmp_path, "lengths=[16]"))) == 2
    assert "model=hf needs the extra hf: pip install 'lexp[hf]'" in capsys.readouterr().err


def test_no_code_comes_with_a_model(study, tmp_path):
    """A config that names code of its own is read without it."""
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    edited(auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})(folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    eval_(study("eval", folder, "lengths=[16]"))
    assert not (tmp_path / "ran").exists() and study_rows(tmp_path)[0]["status"] == "ok"


def test_a_hub_snapshot_in_the_cache_is_found_without_a_network(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--some--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    saved(CONFIGS["llama"](), cached / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = find_source("some/tiny")
    assert source.path == f"some/tiny@{commit}" and source.name == "tiny"
    assert find_source(source.path).folder == source.folder


class Hub:
    """Stands for the hub's answers; nothing is downloaded but what is asked for by pattern."""

    def __init__(self, files, folder=None):
        self.files, self.folder, self.asked = files, folder, []

    def model_info(self, repository, revision, timeout):
        siblings = [SimpleNamespace(rfilename=name) for name in self.files]
        return SimpleNamespace(sha="abc", siblings=siblings)

    def download(self, repository, revision, allow_patterns):
        self.asked.append((repository, revision, allow_patterns))
        return str(self.folder)


def test_only_what_is_needed_is_downloaded(tmp_path, monkeypatch):
    hub = Hub(["config.json", "model.safetensors", "pytorch_model.bin", "run.py"], tmp_path)
    saved(CONFIGS["llama"](), tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.download)
    assert find_source("some/tiny@v1").folder == tmp_path
    [(repository, revision, patterns)] = hub.asked
    assert (repository, revision) == ("some/tiny", "abc")
    taken = [f for f in hub.files if any(fnmatch.fnmatch(f, pattern) for pattern in patterns)]
    assert taken == ["config.json", "model.safetensors"]
    hub.files, hub.asked = ["config.json", "pytorch_model.bin"], []
    with pytest.raises(CheckpointError, match=r"some/tiny@main has only pytorch_model.bin"):
        find_source("some/tiny")
    assert not hub.asked


@pytest.mark.parametrize(
    "change",
    [
        {"train_len": "long"},
        {"path": 3},
        {"model": {"name": "tiny"}},
        {"size": {"name": "hf", "n_layers": 0}},
        {"model": {"name": "tiny", "type": "llama", "sha256": "0" * 64}},
        {"path": "/no/such/folder"},
        {"model": {"name": "tiny", "type": "llama", "sha256": "0" * 64, "position": "rope"}},
    ],
)
def test_a_run_s_config_that_was_edited_is_refused(change, study, tmp_path, capsys):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    eval_(study("eval", folder, "lengths=[16]", "attention=[full]"))
    path = next(tmp_path.glob("outputs/default/*/config.json"))
    config = json.loads(path.read_text())
    config["settings"] |= change
    path.write_text(json.dumps(config))
    capsys.readouterr()
    code = guarded("eval", lambda: eval_(study("eval", None, "lengths=[16]", "attention=[full]")))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lexp:")]
    assert code == 4 and len(said) == 1


def test_another_tokenizer_makes_other_cells(study, tmp_path):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    eval_(study("eval", folder, "lengths=[16]", "attention=[full]"))
    (folder / "tokenizer.json").write_text(train_bpe(["quite another text"], 270))
    eval_(study("eval", folder, "lengths=[16]", "attention=[full]"))
    cells = list(tmp_path.glob("outputs/default/*/eval/*.json"))
    assert len(cells) == 2


def test_generation_is_what_transformers_predicts_at_each_token(study, tmp_path, capsys):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = "one two three"
    ids = vocabulary.encode(prompt, add_special_tokens=False).ids
    n_prompt = len(ids)
    with torch.inference_mode():
        for _ in range(6):
            ids.append(int(theirs(torch.tensor([ids])).logits[0, -1].argmax()))
    before, whole = vocabulary.decode(ids[:n_prompt]), vocabulary.decode(ids)
    words = [f"outputs={tmp_path}/outputs", "device=cpu", "precision=float32", "max_new_tokens=6"]
    capsys.readouterr()
    generate_(compose("generate", "model=hf", f"path={folder}", *words), prompt)
    assert capsys.readouterr().out.removesuffix("\n") == escaped(whole[len(before) :])
    (run,) = tmp_path.glob("outputs/default/tiny-*")
    generate_(compose("generate", f"run={run}", *words), prompt)
    assert capsys.readouterr().out.removesuffix("\n") == escaped(whole[len(before) :])


def test_the_default_text_is_that_of_the_config_group():
    text = (config_folder() / "dataset" / "stdlib.yaml").read_text()
    assert yaml.safe_load(text) == DATASET


def test_the_command_line(tmp_path, texts):
    folder = saved(CONFIGS["llama"](), tmp_path / "tiny")
    done = lexp(
        "eval", "model=hf", f"path={folder}", "lengths=[16,64]", "attention=[full]",
        *dataset(texts), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and "│ tiny " in done.stdout, done.stderr
    assert "Warning" not in done.stderr and "Loading weights" not in done.stderr
    refused = completed("eval", "model=hf", "path=/no/such/folder", cwd=tmp_path)
    assert refused.returncode == 3 and refused.stderr.count("\n") == 1
    assert "path=/no/such/folder is neither a folder nor" in refused.stderr


@pytest.mark.parametrize(
    "words, line",
    [
        (["model=hf"], "model=hf (needs path=FOLDER or path=ORG/NAME)"),
        (["path=x"], "path=x (is for Hugging Face models; add model=hf)"),
        (["train_len=5"], "train_len=5 (is for Hugging Face models; add model=hf)"),
        (["model=hf", "path=x", "train_len=0"], "train_len=0 (from 1 to"),
        (["position=nope"], "position=nope (is for Hugging Face models; add model=hf)"),
        (["model=hf", "path=x", "position=rope"], "position=rope (nope, or null"),
    ],
)
@pytest.mark.parametrize("word, task", [("eval", eval_), ("analyze", analyze), ("probe", probe)])
def test_what_goes_with_what_is_said_before_any_work(word, task, words, line, capsys):
    assert guarded(word, lambda: task(compose(word, *words))) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1
