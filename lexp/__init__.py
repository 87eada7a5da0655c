"""Length extrapolation experiments: train on short texts, run on long ones."""

__version__ = "0.1.0"
