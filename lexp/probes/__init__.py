"""Probes for small models: does a model use distant context, or only survive it?

A probe plants something in real text and asks for it at the end. It knows texts and a tokenizer,
nothing of models; `score` puts a model's answers beside the right ones, `result` is what is stored.
"""

from lexp.probes.base import Form, Material, Probe, ProbeExample, make_examples
from lexp.probes.copy import Copy
from lexp.probes.mqar import MQAR
from lexp.probes.needles import MultiKey, MultiQuery, MultiValue
from lexp.probes.passkey import Passkey
from lexp.probes.recall import Recall
from lexp.probes.variables import VariableTracking
from lexp.probes.words import CommonWords, FrequentWords

__all__ = [
    "MQAR",
    "CommonWords",
    "Copy",
    "Form",
    "FrequentWords",
    "Material",
    "MultiKey",
    "MultiQuery",
    "MultiValue",
    "Passkey",
    "Probe",
    "ProbeExample",
    "Recall",
    "VariableTracking",
    "make_examples",
]  # fmt: skip
