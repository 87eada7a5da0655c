"""Jobs of a sweep are composed as Hydra composes them, and most without it."""

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from lexp.cli import hydra_guard
from lexp.config.job_configs import JobConfigs
from lexp.config.sweep import check_jobs
from lexp.system.errors import ConfigError
from lexp.system.files import config_folder
from support.config import compose_by_hydra

JOBS = {
    "values": ("train", ["model=rope", "seed=3", "lr=1e-2", "dataset=text", "dataset.train=a.txt"]),
    "the last of two": ("train", ["lr=1e-2", "lr=2e-2", "model=alibi", "model=xpos"]),
    "of a size": ("train", ["size.n_heads=4", "size=mini", "size.train_len=64"]),
    "other keys": ("train", ["lr=${optim.eps}", "tokens=${size.tokens}"]),
    "lists and nodes": ("train", ["keep=[2,4]", "dataset=text", "dataset.test=[a,b]"]),
    "a node": ("train", ["model=nope", "+model.pattern={_target_:lexp.pattern.Window,window:4}"]),
    "added, taken out": ("train", ["lr=1", "~lr", "+lr=2"]),
    "a model that is a key": ("eval", ["model=rope", "lengths=[8]", "attention=[full,window]"]),
    "null": ("eval", ["max_tokens=null", "model=[rope,alibi]"]),
}


@pytest.fixture
def loaded(monkeypatch) -> list[list[str]]:
    """The overrides of every composition by Hydra."""
    found: list[list[str]] = []
    original = hydra_guard.CheckedLoader.load_configuration

    def load(self, config_name, overrides, *arguments, **values):
        found.append(list(overrides))
        return original(self, config_name, overrides, *arguments, **values)

    monkeypatch.setattr(hydra_guard.CheckedLoader, "load_configuration", load)
    return found


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_what_hydra_composes(job):
    from hydra import initialize_config_dir

    word, words = JOBS[job]
    expected = compose_by_hydra(word, *words)
    hydra_guard.install()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = JobConfigs(GlobalHydra.instance().config_loader(), word)
        for _ in range(2):  # from the file, and from what is kept
            config = composed.compose(words)
            assert OmegaConf.to_container(config) == OmegaConf.to_container(expected)
            assert OmegaConf.get_type(config) is OmegaConf.get_type(expected)


def test_a_job_that_differs_in_a_file_is_what_hydra_composes(loaded):
    """Hydra composes the first, the one with a choice more, and a preset, which is of many keys."""
    from hydra import initialize_config_dir

    jobs = [
        ["model=rope", "dataset=stdlib"], ["dataset=stdlib", "model=gemma3", "seed=1"],
        ["model=swan", "dataset=stdlib", "lr=1e-3"], ["model=swan", "dataset=copy"],
        ["trunk=qwen3", "dataset=stdlib", "model=swan"], ["model=swan", "+debug=tiny"],
    ]  # fmt: skip
    expected = [OmegaConf.to_container(compose_by_hydra("train", *words)) for words in jobs]
    hydra_guard.install()
    GlobalHydra.instance().clear()
    loaded.clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = JobConfigs(GlobalHydra.instance().config_loader(), "train")
        found = [OmegaConf.to_container(composed.compose(words)) for words in jobs]
        assert found == expected
        with pytest.raises(HydraException, match="bsae"):
            composed.compose(["model=xpos", "dataset=stdlib", "model.position.bsae=1"])
    assert len(loaded) == 3


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["sead=1"], HydraException),
        (["seed=x"], HydraException),
        (["model.position.bsae=1"], HydraException),
        (["lr=${oc.env:HOME}"], ConfigError),
        (["outputs='~no-such-user/x'"], ConfigError),
        ([f"lr=1{'0' * 400}"], ConfigError),
    ],
)
def test_a_job_with_a_mistake_is_refused_as_hydra_does(words, error):
    from hydra import initialize_config_dir

    with pytest.raises(error) as expected:
        compose_by_hydra("train", *words)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        jobs = JobConfigs(GlobalHydra.instance().config_loader(), "train")
        with pytest.raises(error) as found:
            jobs.compose(words)
    assert str(found.value) == str(expected.value)


def test_every_job_of_a_large_sweep_is_checked_and_hydra_composes_once(loaded, capsys):
    """The last of 300 jobs is checked too; neither seeds nor models cost Hydra more than once."""
    hydra_guard.install()
    seeds = f"seed={','.join(map(str, range(150)))}"
    checked = []
    words = ["-m", "model=rope,alibi", seeds]
    n_jobs = check_jobs(config_folder(), "train", words, lambda c: checked.append((c.seed, c.lr)))
    assert n_jobs == len(checked) == 300 and len({seed for seed, _ in checked}) == 150
    assert sum(any(word.startswith("model=") for word in words) for words in loaded) == 1
    assert "checking 300 jobs" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="job model=alibi seed=149"):
        check_jobs(config_folder(), "train", words, refuse_the_last)


def refuse_the_last(config) -> None:
    if (config.model.name, config.seed) == ("alibi", 149):
        raise ConfigError("the last one")
