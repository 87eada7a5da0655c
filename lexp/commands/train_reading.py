"""How a run reads its data: the reading from its settings, and what it cannot be combined with."""

from lexp.commands.run_parts import make_objective, make_positions
from lexp.config.settings import TrainConfig
from lexp.config.tasks import is_task
from lexp.data.reading import Documents, Reading
from lexp.system.errors import ConfigError


def make_reading(config: TrainConfig) -> Reading:
    """Return how a run's training windows are made; ConfigError if they cannot be its."""
    reading = config.reading.build(Reading, "reading")
    name = f"reading={config.reading.name}"
    if reading.causal_only and make_objective(config).pattern.two_sided:
        what = "reading.mask=document" if reading.within_documents else name
        raise ConfigError(
            f"{what}: is for models that see one side, this run has "
            f"objective={config.objective.name}; use reading=documents, or packed without a mask"
        )
    if is_task(config.dataset.values) and type(reading) is not Documents:
        raise ConfigError(
            f"{name}: is for texts, dataset={config.dataset.name} is a task; leave reading out"
        )
    if reading.within_documents:
        refuse_with_documents(config)
    return reading


def refuse_with_documents(config: TrainConfig) -> None:
    """Raise ConfigError for what cannot keep attention within documents."""
    where = "reading.mask=document"
    if config.kernel == "flex":
        raise ConfigError(
            f"{where}: kernel=flex is compiled for one shape of rows, and documents have many; use "
            "kernel=tiles"
        )
    if config.compile:
        raise ConfigError(
            f"{where}: compile=true compiles for one shape of rows, and documents have many; leave "
            "compile out"
        )
    for position in make_positions(config):
        if position.samples_positions:
            raise ConfigError(
                f"{where}: {position.title} samples positions for whole rows; use another model, "
                "or reading.mask=null"
            )
