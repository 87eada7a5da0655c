"""What must not run, and what must not be found anywhere."""

from pathlib import Path

KEYS = {"WANDB_API_KEY": "0123456789abcdefsecretwandb", "HF_TOKEN": "hf_secretsecretsecret"}


class Gadget:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")
