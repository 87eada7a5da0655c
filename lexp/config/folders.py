"""The folders in which configs are looked for."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lexp.system.files import config_folder
from lexp.system.links import real_folder, refuse_links


def config_folders() -> list[Path]:
    """Return the folders of configs: lexp's own, and those of --config-dir."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    more = [Path(source.path) for source in sources if source.provider == "command-line"]
    return [config_folder(), *more]


def choices_like(group: str, pattern: str) -> list[str]:
    """Return the choices of a config group whose names match a pattern such as `*`, sorted."""
    paths = [path for folder in config_folders() for path in (folder / group).glob("*.yaml")]
    return sorted({path.stem for path in paths if path.match(f"{pattern}.yaml")})


def sweep_folder(config: DictConfig) -> Path:
    """Return the folder of a sweep's files and logs, `hydra.sweep.dir`, in a study."""
    return real_folder(str(config["outputs"])) / str(config["name"]) / "sweep"


def refuse_links_of_sweep(config: DictConfig) -> None:
    """Raise StorageError for a symbolic link where Hydra or submitit would write."""
    if OmegaConf.select(config, "outputs") and OmegaConf.select(config, "name"):
        folder = sweep_folder(config)
        refuse_links(folder / "multirun.yaml")
        of_submitit = folder / ".submitit"
        refuse_links(of_submitit)
        for path in of_submitit.glob("*"):
            # submitit itself leaves a link to each script that it has queued, within its folder.
            if not path.resolve().is_relative_to(of_submitit.resolve()):
                refuse_links(path)
