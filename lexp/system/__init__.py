"""Files, runtime, ranks, errors. Importing this package must not import torch."""
