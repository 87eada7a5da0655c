"""The folders in which configs are looked for."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from lexp.system.files import config_folder


def config_folders() -> list[Path]:
    """Return the folders of configs: lexp's own, and those of --config-dir."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    more = [Path(source.path) for source in sources if source.provider == "command-line"]
    return [config_folder(), *more]


def choices_like(group: str, pattern: str) -> list[str]:
    """Return the choices of a config group whose names match a pattern such as `*`, sorted."""
    paths = [path for folder in config_folders() for path in (folder / group).glob("*.yaml")]
    return sorted({path.stem for path in paths if path.match(f"{pattern}.yaml")})
