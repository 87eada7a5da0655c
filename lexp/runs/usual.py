"""Usual values, which are no part of a run's identity.

A run's name has a hash of its settings. A key with its usual value is left out of the hash, so that
a key can be added to lexp without new names for the runs that do not use it.
"""

from typing import Any

USUAL: dict[str, Any] = {
    "init_from": None, "kernel": "tiles", "one_batch": False, "length_warmup": [],
    "reading": {"name": "documents", "_target_": "lexp.data.reading.Documents"},
    "extension": {"none": {"_target_": "lexp.extension.Extension"}},
}  # fmt: skip
(NO_EXTENSION,) = USUAL["extension"]
# The values of conf/trunk/gpt.yaml.
GPT = {
    "name": "gpt", "norm": {"_target_": "lexp.model.trunk.LayerNorm"},
    "mlp": {"_target_": "lexp.model.trunk.GELU"}, "n_kv_heads": "all", "qk_norm": None,
    "output_gate": None, "sinks": None, "tied_embeddings": False,
}  # fmt: skip
OPTIM = {"decay": 0.2, "matrices": "adamw", "matrix_lr": 0.02, "momentum": 0.95}
IN_GROUPS: dict[str, dict[str, Any]] = {
    "size": {"share_layers": False}, "trunk": GPT, "optim": OPTIM,
}  # fmt: skip


def extension_name(settings: dict[str, Any]) -> str:
    """Return the name of the extension that a run of these settings is trained with."""
    return next(iter(settings.get("extension", USUAL["extension"])))


def reading_name(settings: dict[str, Any]) -> str:
    """Return the name of the reading that a run of these settings is trained with."""
    return str(settings.get("reading", USUAL["reading"])["name"])


def without_usual(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without the keys that have their usual value, in groups too."""
    kept = _without(settings, USUAL)
    groups = {key: _without(kept[key], usual) for key, usual in IN_GROUPS.items() if key in kept}
    return {**kept, **groups}


def _without(values: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in usual or value != usual[key]}
