"""The loader of transformers models, from their files to models that lexp can run."""

import importlib.util
import math
from typing import Any

import torch

from lexp.hf.attention import NAME, interface
from lexp.hf.config import Described
from lexp.hf.general import DescribedGeneral
from lexp.hf.general_model import adopt_general
from lexp.hf.model import adopt
from lexp.hf.source import Source
from lexp.model.transformer import Transformer
from lexp.system.errors import CheckpointError, ConfigError

# The names of types in the headers of safetensors files, and torch's.
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def require_transformers() -> None:
    """Raise ConfigError if the package is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("model=hf needs the extra hf: pip install 'lexp[hf]'")


def load_model(source: Source, described: Described | DescribedGeneral) -> Transformer:
    """Load the trained model in float32, in evaluation mode; CheckpointError if files do not fit.

    Safetensors only, from the source's folder alone.
    """
    theirs_class = _quiet_class(described)
    try:
        theirs, told = theirs_class.from_pretrained(
            source.folder, config=described.config, use_safetensors=True, local_files_only=True,
            dtype=torch.float32, attn_implementation="eager", output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"path={source.path} cannot be loaded: {reason}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("safetensors", "safetensors_rust"):
            raise
        raise CheckpointError(f"path={source.path} is damaged: {error}") from None
    for kind in ("missing", "unexpected", "mismatched"):
        names = sorted(str(name) for name in told[f"{kind}_keys"] if not _is_table(str(name)))
        if names:
            raise CheckpointError(f"path={source.path}: {kind} parameters: {', '.join(names[:3])}")
    return _ready(theirs, described)


def stored_parameters(source: Source) -> tuple[int, list[str]]:
    """Return how many parameters a model's files hold, and their types, from the headers alone.

    CheckpointError if a header cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    n_parameters, kinds = 0, set[str]()
    for name in source.weights:
        try:
            with safe_open(source.folder / name, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118  not a dict
                    if not _is_table(key):
                        entry = tensors.get_slice(key)
                        n_parameters += math.prod(entry.get_shape())
                        kinds.add(entry.get_dtype())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"path={source.path} is damaged: {error}") from None
    return n_parameters, sorted(DTYPES.get(kind, kind) for kind in kinds)


def _is_table(name: str) -> bool:
    """Return whether an entry of older files is a mask or frequencies, not a parameter."""
    return name.endswith(
        (".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias", ".attn_bias")
    )


def fresh_model(described: Described | DescribedGeneral, seed: int) -> Transformer:
    """Return a model of the same architecture, initialised by transformers from a seed."""
    theirs_class = _quiet_class(described)
    torch.manual_seed(seed)
    return _ready(theirs_class(described.config), described)


def _quiet_class(described: Described | DescribedGeneral) -> Any:
    """Return the model's class."""
    quiet_transformers()
    import transformers

    return getattr(transformers, described.model_class)


def quiet_transformers() -> None:
    """Import transformers; of its own messages only errors are shown."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _ready(theirs: Any, described: Described | DescribedGeneral) -> Transformer:
    from transformers import AttentionInterface

    theirs = theirs.float().eval()
    if isinstance(described, DescribedGeneral):
        return adopt_general(theirs, described).eval()
    AttentionInterface.register(NAME, interface)
    theirs.config._attn_implementation = NAME
    return adopt(theirs, described).eval()
