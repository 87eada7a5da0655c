"""How many jobs a `-m` command line stands for, so that progress can say which of how many."""

import math
import os


def announce(word: str, arguments: list[str]) -> None:
    """Leave the number of jobs in LEXP_SWEEP_JOBS for the tasks of this process."""
    os.environ["LEXP_SWEEP_JOBS"] = "1"
    if not {"-m", "--multirun"} & set(arguments):
        return
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = [word for word in arguments if not word.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
        sizes = [len(list(o.sweep_string_iterator())) for o in overrides if o.is_sweep_override()]
    except (HydraException, ValueError):
        return  # Hydra itself says what is wrong with them
    os.environ["LEXP_SWEEP_JOBS"] = str(math.prod(sizes))
