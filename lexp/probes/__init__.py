"""Small-model probes of use, not only of survival: is what stands far back made use of?

A probe plants something in real text and asks for it at the end. It knows texts and a tokenizer,
nothing of models; `score` puts a model's answers beside the right ones, `cells` keeps the results.
"""

from lexp.probes.base import Form, Material, Probe, ProbeExample, make_examples
from lexp.probes.copy import Copy
from lexp.probes.mqar import MQAR
from lexp.probes.passkey import Passkey
from lexp.probes.recall import Recall

__all__ = [
    "MQAR",
    "Copy",
    "Form",
    "Material",
    "Passkey",
    "Probe",
    "ProbeExample",
    "Recall",
    "make_examples",
]  # fmt: skip
