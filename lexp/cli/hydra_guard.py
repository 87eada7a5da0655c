"""The allowlist of Hydra's own config, which can run code before lexp sees a single value.

Callbacks, loggers, launchers and sweepers are built by Hydra while it composes or before the task
is called, from whatever an override or a config folder says. So every config is checked as soon as
it is composed, whichever way it was asked for, and before Hydra acts on it.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra._internal.hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lexp.cli.flags import parse_flags
from lexp.config.folders import refuse_links_of_sweep
from lexp.config.home import expand_home, expand_path
from lexp.config.messages import options
from lexp.config.yaml_file import check_yaml, said_of
from lexp.system.errors import ConfigError
from lexp.system.files import config_folder
from lexp.system.secrets import secret_in, strings_in

# Flags that read other configs than lexp's; the last one unpickles.
FLAGS = ("config_path", "config_name", "experimental_rerun")
# Flags of which Hydra takes one at a time.
MODES = ("run", "multirun", "cfg", "info", "shell_completion")
COMPLETION = re.compile("((un)?install|query)=(bash|fish|zsh)")
# Classes that Hydra finds as its plugins: those of installed packages.
PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
BUILT = ("launcher", "sweeper")
FIXED: dict[str, Any] = {
    "callbacks": {},
    "job.env_set": {},
    "run.dir": ".",
    "output_subdir": None,
    "sweep.subdir": ".",
    "job_logging.root": None,
    "hydra_logging.root": None,
}
SWEEP_DIR = "${outputs}/${name}/sweep"
KEYS_THAT_CALL = ("_target_", "()")
# Commands whose `model` names runs of a study, or hf; that of `lexp train` is from conf/model.
SELECTING = ("eval", "probe", "harness", "analyze", "report", "generate")
# `${train_len}`, `${..n_heads}`: other keys. Everything else in ${...} calls a resolver, such as
# that of environment variables, or reaches Hydra's own config.
OTHER_KEY = re.compile(r"\$\{\.*(?!hydra\b)[A-Za-z_]\w*(\.\w+|\[\w+\])*\}")


def check_flags(arguments: list[str]) -> None:
    """Raise ConfigError for a flag of Hydra, also abbreviated, that reads a config of elsewhere."""
    parsed, rest = parse_flags(arguments)
    flags = vars(parsed)
    for flag in FLAGS:
        if flags[flag] is not None:
            name = flag.replace("_", "-")
            raise ConfigError(f"--{name} is not allowed; configs of your own: --config-dir DIR")
    if parsed.hydra_help:
        raise ConfigError("no flag --hydra-help; --help shows what there is")
    modes = [name for name in MODES if flags[name]]
    if len(modes) > 1:
        superfluous = "-m" if "multirun" in modes else f"--{modes[0]}"
        named = " and ".join(f"--{name}" for name in modes)
        raise ConfigError(f"{named} exclude each other: leave out {superfluous}")
    words = [*parsed.overrides, *rest]
    if parsed.shell_completion and not any(COMPLETION.fullmatch(word) for word in words):
        raise ConfigError("-sc: write lexp -sc install=SHELL; SHELL is bash, fish or zsh")


def asks_for_help(arguments: list[str]) -> bool:
    """Return True for --help, also abbreviated."""
    return bool(parse_flags(arguments)[0].help)


def ordered(arguments: list[str]) -> list[str]:
    """Return overrides before flags, as argparse reads them; ConfigError for unknown flags."""
    parsed, rest = parse_flags(arguments)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        raise ConfigError(f"no flag {unknown[0]!r}; --help shows what there is")
    overrides, flags = [*parsed.overrides, *rest], list(arguments)
    for word in overrides:
        flags.remove(word)
    if parsed.config_dir is not None:
        # In whichever way the flag was written: `--config-dir=~/mine` is expanded by no shell.
        folder = parsed.config_dir
        flags = [flag.replace(folder, expand_path(folder, "--config-dir")) for flag in flags]
    return [*overrides, *flags]


def install() -> None:
    """Have Hydra compose every config of this process with `CheckedLoader`."""
    hydra_main.ConfigLoaderImpl = CheckedLoader  # type: ignore[misc]
    hydra_main.Hydra.get_mode = _mode  # type: ignore[method-assign,assignment]
    Sweeper.validate_batch_is_legal = _validate_batch  # type: ignore[method-assign,assignment]
    JobReturn.return_value = property(_value_of, _set_value)  # type: ignore[method-assign,assignment]


_mode_for_hydra = hydra_main.Hydra.get_mode


def _mode(hydra: hydra_main.Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Return the `hydra.mode` of a command; None if it is not set.

    Hydra composes a whole config to look it up, half the time of a small command. The configs of
    lexp do not set it and those of users may not: only an override can.
    """
    if any("hydra" in word for word in overrides):
        return _mode_for_hydra(hydra, config_name, overrides)
    return None


_validate_for_hydra = Sweeper.validate_batch_is_legal


def _value_of(job: JobReturn) -> Any:
    """Return what a job of a sweep returned, or raise what it raised: it is shown already."""
    if job.status == JobStatus.FAILED:
        raise job._return_value
    return job._return_value


def _set_value(job: JobReturn, value: Any) -> None:
    job._return_value = value


def _validate_batch(sweeper: Sweeper, batch: Sequence[Sequence[str]]) -> None:
    """Compose the jobs of other sweepers; those of Hydra's own were checked before it started."""
    if type(sweeper).__name__ != BasicSweeper.__name__:  # the plugin is another copy of the class
        _validate_for_hydra(sweeper, batch)


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader; ConfigError for a config that would run what lexp does not allow."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose and check; then expand `~`, before Hydra makes a folder of a sweep."""
        for word in overrides:
            check_override(word)
        try:
            config = super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
        except OverflowError:
            _raise_too_large(overrides)
        except (ValueError, TypeError) as error:  # TypeError: a choice in a list is no name
            _raise_for_choices(overrides)
            if isinstance(error, TypeError):
                raise
            raise ConfigError(f"{' '.join(overrides)}: {error}") from None
        except KeyError as error:  # of hydra.job.env_copy
            raise ConfigError(f"{' '.join(overrides)}: no environment variable {error}") from None
        except RecursionError:
            raise ConfigError(
                f"{' '.join(overrides)}: the defaults of a config include the config itself"
            ) from None
        check_composed(config)
        expand_home(config)
        if run_mode == RunMode.MULTIRUN:
            refuse_links_of_sweep(config)
        return config

    def set_values(self, config: DictConfig, overrides: list[Override]) -> None:
        """Put the values of plain overrides into a composed config, checked as it is."""
        for override in overrides:
            check_override(str(override.input_line))
        try:
            self._apply_overrides_to_config(overrides, config)
        except OverflowError:
            _raise_too_large([str(override.input_line) for override in overrides])
        expand_home(config)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Compose and check a job of a sweep."""
        config = super().load_sweep_config(master_config, sweep_overrides)
        refuse_links_of_sweep(config)
        return config

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        """Parse the overrides; where a command selects runs, `model` is a key and no group."""
        parsed, repository = super()._parse_overrides_and_create_caching_repo(
            config_name, overrides
        )
        selects_runs = config_name in SELECTING
        return parsed, CheckedRepository(repository, without="model" if selects_runs else None)

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        """Load a config and put it into its package; of another folder, nowhere in Hydra's own."""
        loaded = super()._load_single_config(default, repo)
        path = default.config_path or ""
        if is_foreign(loaded.path) and not path.startswith("hydra/") and "hydra" in loaded.config:
            raise ConfigError(f"{loaded.path}/{path}.yaml: sets keys of hydra; remove them")
        return loaded


class CheckedRepository(CachingConfigRepository):
    """Hydra's view of the config folders, in which files of other folders are checked when read.

    without: a group that is taken for a plain key. Hydra takes every override that is called like
    a group for a choice from it.
    """

    def __init__(self, delegate: IConfigRepository, without: str | None = None):
        # Not as Hydra's class does, which copies all that it is given: this is a copy already.
        self.delegate, self.cache = delegate, {}
        self._without = without

    def group_exists(self, config_path: str) -> bool:
        """Return whether there is a group of this path."""
        return config_path != self._without and super().group_exists(config_path)

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Load a config; ConfigError for a file of another folder that is no harmless config."""
        place = next((p for p in self.get_sources() if p.is_config(config_path)), None)
        known = f"config_path={config_path}" in self.cache
        if known or place is None or not is_foreign(place.full_path()):
            return super().load_config(config_path)
        path = Path(place.path) / ConfigSource._normalize_file_name(config_path)
        check_yaml(path)
        with said_of(path):
            loaded = super().load_config(config_path)
        if loaded is None or not OmegaConf.is_dict(loaded.config):
            raise ConfigError(f"{path}: holds no keys; write lines of KEY: VALUE")
        texts = [text for default in loaded.defaults_list or () for text in vars(default).values()]
        for text in strings_in([OmegaConf.to_container(loaded.config), loaded.header, texts]):
            check_interpolation(text, str(path))
        return loaded


def _raise_for_choices(overrides: Sequence[str]) -> None:
    """Raise ConfigError for the override of a group whose value is no name, such as model=null."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group, value = override.key_or_group, override.value()
        names = value if isinstance(value, list) else [value]
        if (config_folder() / group).is_dir() and not all(isinstance(n, str) for n in names):
            raise ConfigError(
                f"{override.input_line}: expected names of choices; there are {options(group)}"
            )


def _raise_too_large(overrides: list[str]) -> NoReturn:
    words = [w for w in overrides if re.search(r"\d{300}", w)] or overrides
    raise ConfigError(f"{words[0][:40]}...: a number beyond 1e308; lower it") from None


def is_foreign(place: str) -> bool:
    """Return True for a place of configs (scheme://path) that is a folder other than lexp's own."""
    scheme, _, folder = place.partition("://")
    return scheme == "file" and Path(folder).resolve() != config_folder()


def check_override(word: str) -> None:
    """Raise ConfigError for an override that imports a package, or names a secret or a resolver.

    So it is for one that moves a choice: a data set's keys would become those of a model.
    """
    if moved := re.match(r"[+~]*(?!hydra\b)([\w/]+)@[^=]*(=.*)?$", word, re.DOTALL):
        raise ConfigError(f"{word}: choices have their places; write {moved[1]}{moved[2] or ''}")
    # Finding a package's folder imports the package.
    if re.match(r"[+~]*hydra\.searchpath\b", word) and "pkg:" in word:
        raise ConfigError(f"{word}: only folders (file://) are searched for configs")
    if name := secret_in(word):
        raise ConfigError(f"{word}: holds the value of ${name}; settings are written down")
    check_interpolation(word, word)


def check_interpolation(text: str, where: str) -> None:
    """Raise ConfigError for an interpolation that is more than the name of another key."""
    if "${" in OTHER_KEY.sub("", text):
        raise ConfigError(
            f"{where}: {text[text.index('${') :][:40]!r}: only keys of the config, such as "
            "${train_len}, are filled in, and no environment; write the value itself"
        )


def check_composed(config: DictConfig) -> None:
    """Raise ConfigError for the first value below `hydra` that is not allowed."""
    hydra = config.get("hydra")
    if hydra is None:
        return
    for key, only in FIXED.items():
        value = OmegaConf.select(hydra, key)
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        if (value or None) != (only or None):
            raise ConfigError(f"hydra.{key}: only {only} is allowed")
    node: Any = OmegaConf.to_container(hydra, resolve=False)
    if node["sweep"]["dir"] != SWEEP_DIR:
        raise ConfigError(f"hydra.sweep.dir={node['sweep']['dir']}: only {SWEEP_DIR} is allowed")
    for key, value in _calls(node, "hydra"):
        allowed = key in {f"hydra.{part}._target_" for part in BUILT}
        if not (allowed and str(value).startswith(PLUGINS)):
            raise ConfigError(f"{key}={value}: only launchers and sweepers of plugins are built")


def _calls(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every key that names something to call, at any depth."""
    pairs: Any = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in pairs:
        if key in KEYS_THAT_CALL:
            yield f"{where}.{key}", value
        if isinstance(value, dict | list):
            yield from _calls(value, f"{where}.{key}")
