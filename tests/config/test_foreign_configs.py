"""Configs of other folders: they read no environment, end, and are refused in one line."""

import base64

import pytest
from hydra.errors import MissingConfigException

from lexp.cli.hydra_guard import check_interpolation
from lexp.config.schema import plain
from lexp.config.yaml_file import MAX_NODES, read_yaml
from lexp.system.errors import ConfigError
from lexp.system.secrets import masked, secret_in
from support.config import compose

ROPE = "name: mine\nposition:\n  _target_: lexp.position.RoPE\n  head_dim: ${size.head_dim}\n"
SECRETS = {
    "DATABASE_URL": "postgres://me:hunter2hunter2@host/db", "GITHUB_PAT": "ghp_0123456789",
    "GPG_PASSPHRASE": "correct horse battery", "SLACK_WEBHOOK": "https://hooks/T0/B0/xyz",
    "AWS_ACCESS_KEY_ID": "AKIA0123456789", "OPENAI_API_KEYS": "sk-1,sk-2,sk-3",
    "MYSQL_PWD": "it's\\a pass", "DBPASS": "0123456789", "MY_SECRETS": "abcdefgh",
    "OPENAI_KEY1": "sk-abcdefg1", "TOKEN2": "tok-abcdefg2", "AWS_CREDS": "abcdefg3", "SSHKEY":
    "abcdefg4", "AUTHORIZATION": "Bearer abcdefg5", "DB_PW": "abcdefg6", "dbPassword": "abcdefg7",
    "BLOB": "https://x.example/c?sv=1&sig=abcdefg8", "JWT2": "abcdefg9",
    "REMOTE": "https://ghp_0123456789abcdefghij@github.com/x",
    "STORAGE": "DefaultEndpointsProtocol=https;AccountKey=abcdef10==;EndpointSuffix=x",
}  # fmt: skip


@pytest.fixture
def mine(tmp_path):
    """Composes `lexp train` with model=mine, a file with this text: mine(text, override ...)."""

    def make(text: str | bytes, *words: str, name: str = "mine"):
        path = tmp_path / "mine" / "model" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        search = f"hydra.searchpath=[file://{tmp_path}/mine]"
        return compose("train", search, f"model={name}", *words)

    return make


READS_THE_ENVIRONMENT = [
    "${oc.env:HOME}", "x ${oc.env:HOME}", "${oc.env:NOT_THERE,default}", "${ oc.env:HOME }",
    "${oc.decode:${oc.env:HOME}}", "${oc.create:'{a: ${oc.env:HOME}}'}", "${oc.select:hydra}",
    "${${name}:HOME}", "${oc.${name}:HOME}", "${env:HOME}", "${hydra:runtime.cwd}", "${hydra}",
    "${hydra.runtime.cwd}", "${..hydra.job.env_set}", "${...hydra.runtime}", "${now:%Y}",
    "${oc.dict.values:hydra.job}", "${[hydra].runtime}", "\\${oc.env:HOME}", "${\toc.env:HOME}",
]  # fmt: skip


PLACES = {
    "value": ROPE + "note: 'TEXT'\n", "inner value": ROPE + "note: {a: [1, {b: 'TEXT'}]}\n",
    "key": ROPE + "'TEXT': 1\n", "choice": "defaults: [../size@x: 'TEXT']\n" + ROPE,
    "config": "defaults: ['TEXT']\n" + ROPE, "package": "# @package TEXT\n" + ROPE,
}  # fmt: skip


@pytest.mark.parametrize("text", READS_THE_ENVIRONMENT)
def test_no_text_reads_the_environment(text):
    with pytest.raises(ConfigError, match="x.yaml: .*only keys of the config"):
        check_interpolation(text, "x.yaml")


@pytest.mark.parametrize("place", PLACES)
def test_a_foreign_config_reads_no_environment(mine, place):
    with pytest.raises(ConfigError, match="mine/model/mine.yaml: .*only keys of the config"):
        mine(PLACES[place].replace("TEXT", "${oc.env:HOME}"))


@pytest.mark.parametrize("word", ["+model.note=${oc.env:HOME}", "name='${oc.env:HOME}'"])
def test_a_typed_override_reads_no_environment(word):
    with pytest.raises(ConfigError, match="only keys of the config"):
        compose("train", word)


def test_a_foreign_config_takes_values_of_other_keys(mine):
    settings = plain(mine(ROPE + "  base: ${lr}\nother: ${.name}-${size.name}\n"))
    assert settings["model"]["position"]["base"] == settings["lr"]
    assert settings["model"]["other"] == "mine-nano"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_no_setting_however_it_came_there(mine, monkeypatch, name):
    for other, value in SECRETS.items():
        monkeypatch.setenv(other, value)
    written = SECRETS[name].replace("'", "''")
    with pytest.raises(ConfigError, match=f"model holds the value of \\${name}"):
        plain(mine(f"{ROPE}note: {{deep: ['x {written}']}}\n"))
    typed = SECRETS[name].replace("'", "\\'")
    with pytest.raises(ConfigError, match=f"holds the value of \\${name}") as caught:
        plain(compose("train", f"+model.note='{typed}'"))
    assert SECRETS[name] not in masked(str(caught.value))


@pytest.mark.parametrize("name", ["DATABASE_URL", "BLOB", "REMOTE", "STORAGE"])
def test_a_secret_within_a_value_is_one_too(monkeypatch, name):
    monkeypatch.setenv(name, SECRETS[name])
    within = {"DATABASE_URL": "hunter2hunter2", "BLOB": "abcdefg8", "STORAGE": "abcdef10=="}
    secret = within.get(name, "ghp_0123456789abcdefghij")
    assert secret_in([f"x{secret}"]) == name
    assert masked(f"no host me:{secret}@host") == f"no host me:(${name})@host"


def test_what_is_no_secret_can_be_typed(monkeypatch):
    harmless = {"PWD": "/home/me/work", "TOKENIZER_PATH": "/data/tok.json", "TOKENS": "100000000",
                "SSH_AUTH_SOCK": "/tmp/ssh-1/agent", "KEYBOARD": "qwertyuiop",
                "HTTP_PROXY": "http://proxy:3128/", "MONKEY": "abcdefghij",
                "TOKENS2": "100000000", "PROXY": "http://somebody@proxy:3128/",
                "LS_COLORS": "*.key=01;31:*.tokens=00;3333333", "API_KEY": "7 chars",
                "SECRET_FILE": "/run/secrets/one", "AUTH_DIR": "/run/secrets",
                "TOKEN_HOME": "/home/me/.tokens"}  # fmt: skip
    for name, value in harmless.items():
        monkeypatch.setenv(name, value)
        assert secret_in([{"x": value}]) == "", name


def bomb() -> str:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines)


ENDLESS = {
    "anchor in a list": ("x: &x [*x]", "contains itself"),
    "anchor in a mapping": ("x: &x {y: *x}", "contains itself"),
    "anchor far within": ("x: &x {y: [1, {z: &z [*x, 2]}]}", "contains itself"),
    "merged into itself": ("x: &x\n  <<: *x\n  y: 1", "contains itself"),
    "deep list": ("x: " + "[" * 3000 + "]" * 3000, "nested deeper than 50"),
    "deep mapping": ("x: " + "{a: " * 3000 + "1" + "}" * 3000, "nested deeper than 50"),
    "deep lines": ("".join(" " * n + "a:\n" for n in range(500)), "nested deeper than 50"),
    "alias bomb": (bomb(), f"more than {MAX_NODES} values"),
    "long": ("x: " + "y" * (1 << 20), "at most 1 MB"),
    "many": ("x: [" + "1," * 60_000 + "]", f"more than {MAX_NODES} values"),
    "unknown alias": ("x: *y", "line 1: found undefined alias"),
    "date": ("x: !!timestamp 2020-01-01", "datetime|date"),
    "set": ("x: !!set {a, b}", "set"),
    "tag": ("x: !!python/name:os.system", "could not determine a constructor"),
    "own tag": ("x: !mine 1", "could not determine a constructor"),
    "twice": ("x: 1\nx: 2", "duplicate key"),
    "long number": ("x: " + "1" * 5000, "not a config"),
    "not YAML": ("x: [1", "line 1"),
    "two": ("x: 1\n---\ny: 2", "line 2"),
    "not UTF-8": (b"x: \xff", "utf-8"),
    "NUL": (b"x: a\0b", "mine.yaml"),
    "list": ("- 1\n- 2", "holds no keys"),
    "itself": ("defaults: [mine, _self_]", "include the config itself"),
    "itself, by a path": ("defaults: [/model@x: mine]", "include the config itself"),
    "defaults of a number": ("defaults: [1: x]", "mine.yaml"),
    "defaults that are none": ("defaults: x", "mine.yaml"),
    "two in one": ("defaults: [{a: b, c: d}]", "mine.yaml"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDLESS)
def test_a_config_that_is_none_ends_in_one_line(mine, case):
    text, words = ENDLESS[case]
    with pytest.raises(ConfigError, match=words) as caught:
        plain(mine(text))
    assert not {"Exception", "OmegaConf", "ListConfig"} & set(str(caught.value).split())


def test_defaults_that_include_each_other_end_in_one_line(mine):
    with pytest.raises(MissingConfigException):
        mine("defaults: [other]\n", name="mine")
    with pytest.raises(ConfigError, match="include the config itself"):
        mine("defaults: [mine]\n", name="other")


@pytest.mark.parametrize("value", ["!!binary aGk=", "{!!binary aGk=: 1}", "[[!!binary aGk=]]"])
def test_bytes_are_no_setting(mine, value):
    assert base64.b64decode("aGk=") == b"hi"
    with pytest.raises(ConfigError, match="model holds bytes"):
        plain(mine(f"{ROPE}note: {value}\n"))


HYDRAS = {
    "package": "# @package hydra.launcher\nsetup: [touch x]",
    "global": "# @package _global_\nhydra: {launcher: {setup: [touch x]}}",
    "inner": "# @package hydra\njob: {name: x}",
}


@pytest.mark.parametrize("case", HYDRAS)
def test_a_model_of_others_sets_nothing_of_hydra(mine, case):
    with pytest.raises(ConfigError, match="mine.yaml: sets keys of hydra"):
        mine(HYDRAS[case])


@pytest.mark.parametrize("text", ["", "- 1", "text", "1", "x: &x [*x]"])
def test_other_readers_of_yaml_are_as_strict(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match="x.yaml: "):
        read_yaml(tmp_path / "x.yaml")
